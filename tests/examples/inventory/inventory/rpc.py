"""Let the API ask workers, and workers tell everybody."""

import oslo_messaging as messaging
from oslo_config import cfg

from inventory import exceptions
from inventory.context import Context, Serializer

TOPIC = "inventory"
VERSION = "1.0"


class Client:
    """Asks the workers; any one that is free answers."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self._transport = messaging.get_rpc_transport(conf, allowed_remote_exmods=[exceptions.__name__])
        target = messaging.Target(topic=TOPIC, version=VERSION)
        self._client = messaging.get_rpc_client(
            self._transport, target, timeout=conf.call_timeout, serializer=Serializer()
        )

    def take(self, context: Context, name: str, count: int) -> dict:
        return self._client.call(context, "take", name=name, count=count)

    def close(self) -> None:
        self._transport.cleanup()


class Notifier:
    """Tells all listeners what has happened."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self._transport = messaging.get_notification_transport(conf)
        self._notifier = messaging.Notifier(self._transport, publisher_id=f"{TOPIC}.{conf.host}")

    def tell(self, context: Context, event: str, payload: dict) -> None:
        self._notifier.info(context.to_dict(), f"{TOPIC}.{event}", payload)

    def close(self) -> None:
        self._transport.cleanup()
