"""Items in MySQL."""

import pytest
import sqlalchemy as sa

from inventory.context import Context
from inventory.db import Database
from inventory.exceptions import ItemExists, ItemNotFound, NotEnough

pytestmark = pytest.mark.devenv(services=["mysql"])


@pytest.mark.parametrize("time", ["first", "second"])
def test_a_database_is_empty_each_time(conf, time: str) -> None:
    database = Database(conf)
    assert sa.inspect(database.engine).get_table_names() == []
    database.create_schema()
    assert sa.inspect(database.engine).get_table_names() == ["items"]
    database.close()


def test_items_are_read_back_by_name(database: Database, context: Context) -> None:
    database.create(context, "Schraube M4 🔩", 7)
    database.create(context, "nut", 3)
    assert database.get(context, "Schraube M4 🔩") == {"name": "Schraube M4 🔩", "count": 7}
    assert [item["name"] for item in database.list(context)] == ["nut", "Schraube M4 🔩"]


def test_projects_share_no_items(database: Database, context: Context) -> None:
    database.create(context, "nut", 3)
    with pytest.raises(ItemExists):
        database.create(context, "nut", 4)
    other = Context(project_id="another-project")
    assert database.list(other) == []
    assert database.create(other, "nut", 4) == {"name": "nut", "count": 4}


def test_no_more_is_taken_than_there_is(database: Database, context: Context) -> None:
    database.create(context, "nut", 3)
    assert database.take(context, "nut", 2)["count"] == 1
    with pytest.raises(NotEnough, match="there are 1 of nut, not 2"):
        database.take(context, "nut", 2)
    with pytest.raises(ItemNotFound):
        database.take(context, "bolt", 1)
    assert database.get(context, "nut")["count"] == 1
