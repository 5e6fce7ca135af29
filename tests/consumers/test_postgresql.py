"""Clients of PostgreSQL take what devenv writes for a component as it is: the overlay, the URLs, the arguments."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import psycopg2
import pytest
import sqlalchemy
from dotenv import dotenv_values
from project import new_project, remove
from wired import Wired


@pytest.fixture(scope="module")
def on_postgresql(images: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wired]:
    """Start a PostgreSQL for nova and my-service."""
    scratch = new_project(tmp_path_factory.mktemp("postgresql"), "postgresql")
    scratch.configure("profile: database\ndatabase: postgresql\ncomponents: [nova, my-service]\n")
    scratch.devenv("up")
    yield Wired(scratch)
    remove(scratch)


def current_database(engine: sqlalchemy.Engine) -> str:
    try:
        with engine.connect() as connection:
            return str(connection.execute(sqlalchemy.text("SELECT current_database()")).scalar_one())
    finally:
        engine.dispose()


@pytest.mark.parametrize("component", ["nova", "my-service"])
def test_oslo_db_migrates_a_schema_and_keeps_text_of_any_script(on_postgresql: Wired, component: str) -> None:
    seen = on_postgresql.run("migrate_and_store.py", "--config-file", on_postgresql.overlay(component))
    assert seen == {"made": ["by_host", "of_host"], "texts": ["grüße ✓ 🚀"], "left": []}


def test_oslo_db_needs_the_variables_alone(on_postgresql: Wired) -> None:
    assert on_postgresql.run("migrate_and_store.py", extra=on_postgresql.variables())["texts"] == ["grüße ✓ 🚀"]


def test_psycopg2_and_sqlalchemy_take_the_arguments(on_postgresql: Wired) -> None:
    clients = on_postgresql.clients("my-service")
    with closing(psycopg2.connect(**clients["psycopg2"])) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT current_user, current_database()")
        assert cursor.fetchone() == ("my_service", "my_service")
    assert current_database(sqlalchemy.create_engine(**clients["sqlalchemy"])) == "my_service"


def test_libpq_and_sqlalchemy_take_the_urls(on_postgresql: Wired) -> None:
    values = dotenv_values(on_postgresql.folder / "nova.env")
    with closing(psycopg2.connect(values["DATABASE_URL"])) as connection:
        assert connection.info.dbname == "nova"
    assert current_database(sqlalchemy.create_engine(str(values["SQLALCHEMY_DATABASE_URI"]))) == "nova"
