"""Talk with oslo.messaging, as the test says.

Arguments: its name, then those of any oslo.config program, or "lent" and a file: the options of devenv's fixtures.
"""

import queue
import sys
from pathlib import Path

import oslo_messaging
from dialogue import answer
from oslo_config import cfg

from devenv.testing import options as lent

TOPIC = "consumers"
SECONDS = 20

received = queue.Queue()
name, *arguments = sys.argv[1:]
if arguments[0] == "lent":
    conf = lent.load(Path(arguments[1]))
else:
    conf = cfg.CONF
    conf(arguments, project="consumer", default_config_files=[], default_config_dirs=[])
transport = oslo_messaging.get_rpc_transport(conf)
notifications = oslo_messaging.get_notification_transport(conf)


class Calls:
    def whoami(self, context, caller):
        return f"{name}, asked by {caller}"

    def tell(self, context, text):
        received.put(text)


class Notifications:
    def info(self, context, publisher_id, event_type, payload, metadata):
        received.put([publisher_id, event_type, payload])


def serve():
    target = oslo_messaging.Target(topic=TOPIC, server=name)
    oslo_messaging.get_rpc_server(transport, target, [Calls()], executor="threading").start()


def listen():
    """Listen to the topics that the overlay names."""
    targets = [oslo_messaging.Target(topic=topic) for topic in conf.oslo_messaging_notifications.topics]
    listener = oslo_messaging.get_notification_listener(notifications, targets, [Notifications()], executor="threading")
    listener.start()


def client(over=transport, **where):
    return oslo_messaging.get_rpc_client(over, oslo_messaging.Target(topic=TOPIC, **where), timeout=SECONDS)


def call(server, transport_arguments=None):
    """Call over the overlay's transport, or over one with these arguments."""
    over = oslo_messaging.get_rpc_transport(conf, **transport_arguments) if transport_arguments else transport
    return client(over, server=server).call({}, "whoami", caller=name)


def fanout(text):
    client(fanout=True).cast({}, "tell", text=text)


def notify(event, payload):
    oslo_messaging.Notifier(notifications, publisher_id=name).info({}, event, payload)


def options():
    rabbit = conf.oslo_messaging_rabbit
    return [rabbit.rabbit_quorum_queue, rabbit.rabbit_transient_quorum_queue]


answer(
    serve=serve,
    listen=listen,
    call=call,
    fanout=fanout,
    notify=notify,
    options=options,
    received=lambda: received.get(timeout=SECONDS),
)
