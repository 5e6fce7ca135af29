"""The same tests in unittest's form, for stestr or any other runner."""

import testtools

from devenv.testing import DevenvFixture, DevenvTestCase
from inventory import options
from inventory.context import Context
from inventory.coordination import Coordination
from inventory.db import Database
from inventory.exceptions import ItemExists
from inventory.rpc import Client
from inventory.worker import WorkerService
from tests.messaging import listening

A_PROJECT = Context(project_id="a-project", overwrite=False)


class DatabaseTest(DevenvTestCase):
    devenv_services = ("mysql",)

    def setUp(self) -> None:
        super().setUp()
        options.register(self.conf)
        self.database = Database(self.conf)
        self.addCleanup(self.database.close)
        self.database.create_schema()

    def test_items_are_read_back(self) -> None:
        self.database.create(A_PROJECT, "nut", 3)
        self.assertEqual([{"name": "nut", "count": 3}], self.database.list(A_PROJECT))

    def test_a_name_is_given_once(self) -> None:
        self.database.create(A_PROJECT, "nut", 3)
        self.assertRaises(ItemExists, self.database.create, A_PROJECT, "nut", 4)


class LockTest(DevenvTestCase):
    devenv_services = ("etcd",)

    def setUp(self) -> None:
        super().setUp()
        options.register(self.conf)
        self.conf.set_override("prefix", self.devenv.name, "coordination")

    def coordination(self, host: str) -> Coordination:
        self.conf.set_override("host", host)
        coordination = Coordination(self.conf)
        coordination.start()
        self.addCleanup(coordination.stop)
        return coordination

    def test_two_fight_for_a_lock(self) -> None:
        first, second = (self.coordination(host).lock("nut") for host in ("one", "two"))
        with first:
            self.assertFalse(second.acquire(blocking=False))
        self.assertTrue(second.acquire(blocking=False))
        second.release()


class WorkerTest(testtools.TestCase):
    """Gets a component from a fixture, without a base class of devenv."""

    def setUp(self) -> None:
        super().setUp()
        self.devenv = self.useFixture(DevenvFixture(services=("mysql", "rabbitmq", "etcd")))
        self.conf = self.devenv.conf
        options.register(self.conf)
        self.conf.set_override("prefix", self.devenv.name, "coordination")
        self.database = Database(self.conf)
        self.addCleanup(self.database.close)
        self.database.create_schema()

    def test_a_call_changes_the_database_and_tells_others(self) -> None:
        self.database.create(A_PROJECT, "nut", 5)
        client, worker = Client(self.conf), WorkerService(self.conf)
        self.addCleanup(client.close)
        with listening(self.conf) as notifications:
            worker.start()
            self.addCleanup(worker.stop)
            self.assertEqual("inventory.worker.start", notifications.next()[0])
            self.assertEqual(3, client.take(A_PROJECT, "nut", 2)["count"])
            self.assertEqual("inventory.item.take", notifications.next()[0])
        self.assertEqual(3, self.database.get(A_PROJECT, "nut")["count"])
