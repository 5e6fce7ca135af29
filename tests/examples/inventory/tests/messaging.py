"""Hear in tests, with oslo.messaging, what our services notify others of."""

import queue
from collections.abc import Iterator
from contextlib import contextmanager

import oslo_messaging
from futurist import _thread
from oslo_config import cfg
from oslo_messaging._drivers import impl_rabbit

SECONDS = 30
# Consumers and the threads of a server notice a stop only when a wait of theirs ends: up to 5 s later, and 1 s. These
# tests stop many of them.
impl_rabbit.amqpdriver.ACK_REQUEUE_EVERY_SECONDS_MAX = 0.1
_thread.ThreadWorker.MAX_IDLE_FOR = 0.1


class Notifications:
    """An endpoint that keeps what it hears."""

    def __init__(self) -> None:
        self._heard: queue.Queue[tuple[str, dict]] = queue.Queue()

    def info(self, context: dict, publisher: str, event: str, payload: dict, metadata: dict) -> None:
        self._heard.put((event, payload))

    def next(self) -> tuple[str, dict]:
        """Return the next event and its payload. Raises queue.Empty if none comes in time."""
        return self._heard.get(timeout=SECONDS)


@contextmanager
def listening(conf: cfg.ConfigOpts) -> Iterator[Notifications]:
    notifications = Notifications()
    transport = oslo_messaging.get_notification_transport(conf)
    targets = [oslo_messaging.Target(topic=topic) for topic in conf.oslo_messaging_notifications.topics]
    listener = oslo_messaging.get_notification_listener(transport, targets, [notifications])
    listener.start()
    yield notifications
    listener.stop()
    listener.wait()
    transport.cleanup()
