"""A worker: takes items out of stock, one request for an item at a time, wherever the other workers run."""

import oslo_messaging as messaging
from oslo_config import cfg
from oslo_service import service

from inventory import exceptions, rpc
from inventory.context import Context, Serializer
from inventory.coordination import Coordination
from inventory.db import Database


class Endpoint:
    """Does what the API asks for by RPC."""

    target = messaging.Target(version=rpc.VERSION)

    def __init__(self, database: Database, coordination: Coordination, notifier: rpc.Notifier) -> None:
        self._database = database
        self._coordination = coordination
        self._notifier = notifier

    @messaging.expected_exceptions(exceptions.ItemNotFound, exceptions.NotEnough)
    def take(self, context: Context, name: str, count: int) -> dict:
        with self._coordination.lock(f"{context.project_id}/{name}"):
            item = self._database.take(context, name, count)
        self._notifier.tell(context, "item.take", {"taken": count, **item})
        return item


class WorkerService(service.Service):
    def __init__(self, conf: cfg.ConfigOpts) -> None:
        super().__init__()
        self._conf = conf

    def start(self) -> None:
        # Connect only here: a launcher forks before.
        super().start()
        self._database = Database(self._conf)
        self._coordination = Coordination(self._conf)
        self._notifier = rpc.Notifier(self._conf)
        self._transport = messaging.get_rpc_transport(self._conf)
        self._server = messaging.get_rpc_server(
            self._transport,
            messaging.Target(topic=rpc.TOPIC, server=self._conf.host),
            [Endpoint(self._database, self._coordination, self._notifier)],
            serializer=Serializer(),
        )
        self._coordination.start()
        self._server.start()
        self._coordination.join()
        self._notifier.tell(Context(), "worker.start", {"host": self._conf.host})

    def stop(self, graceful: bool = True) -> None:
        self._server.stop()
        self._server.wait()
        self._coordination.stop()
        self._notifier.close()
        self._transport.cleanup()
        self._database.close()
        super().stop(graceful)
