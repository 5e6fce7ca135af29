"""Workers that get requests over RabbitMQ."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import oslo_messaging
import pytest

from inventory.context import Context
from inventory.db import Database
from inventory.exceptions import NotEnough
from inventory.rpc import Client
from tests.messaging import Notifications

pytestmark = pytest.mark.devenv(services=["mysql", "rabbitmq", "etcd"])
StartWorker = Callable[[str], None]


def test_a_call_changes_the_database_and_tells_others(
    start_worker: StartWorker, client: Client, database: Database, context: Context, notifications: Notifications
) -> None:
    database.create(context, "nut", 5)
    start_worker("one")
    assert notifications.next() == ("inventory.worker.start", {"host": "one"})
    assert client.take(context, "nut", 2) == {"name": "nut", "count": 3}
    assert notifications.next() == ("inventory.item.take", {"name": "nut", "count": 3, "taken": 2})
    assert database.get(context, "nut")["count"] == 3


def test_a_workers_exception_reaches_who_called(
    start_worker: StartWorker, client: Client, database: Database, context: Context
) -> None:
    database.create(context, "nut", 1)
    start_worker("one")
    with pytest.raises(NotEnough, match="there are 1 of nut, not 2"):
        client.take(context, "nut", 2)


def test_two_workers_at_once_lose_nothing(
    start_worker: StartWorker, client: Client, database: Database, context: Context
) -> None:
    database.create(context, "nut", 10)
    start_worker("one")
    start_worker("two")
    with ThreadPoolExecutor() as callers:
        left = callers.map(lambda count: client.take(context, "nut", count)["count"], [1, 1])
    assert sorted(left) == [8, 9]
    assert database.get(context, "nut")["count"] == 8


def test_a_call_that_nobody_answers_ends(conf, context: Context) -> None:
    conf.set_override("call_timeout", 0.1)
    client = Client(conf)
    with pytest.raises(oslo_messaging.MessagingTimeout):
        client.take(context, "nut", 1)
    client.close()
