"""RabbitMQ: log in over AMQP and declare a queue; create a vhost and a user for each component."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any
from urllib.parse import quote

from devenv.errors import Hopeless, NotReady
from devenv.services import base
from devenv.services.base import Component, Taken, Target
from devenv.services.http import HttpProvisioner, basic, request

# How long a thread goes on while others wait for their turn, in seconds: longer than the definition of a class takes.
_UNDISTURBED = 0.1
# RabbitMQ drops devenv's own queues after so long, in milliseconds, if devenv is killed before it does.
_EXPIRES = 60_000
# Nothing but the management interface can create vhosts and users from elsewhere.
_MANAGEMENT = (
    "devenv creates vhosts there: 'rabbitmq-plugins enable rabbitmq_management' opens it, as in images '-management'; "
    "'management' in devenv.yaml or DEVENV_ATTACH_RABBITMQ_MANAGEMENT says where it is"
)
# What ends an alarm, by the broker's word for it.
_MENDS = {
    "memory": "purge queues, or 'devenv reset {service}'",
    "disk": "free space where the engine keeps its data",
}


def check(target: Target) -> None:
    """Log in over AMQP, publish, and declare a queue the way oslo.messaging does: durable, quorum, expiring.

    Brokers from 4.3 on accept logins and yet refuse the queues of older defaults. A broker with an alarm answers the
    first message with the alarm and reads nothing more, so publishing takes no further answer while all is well.
    """
    _import_vine()
    import amqp

    settings = target.settings
    connection = _connection_type()(
        host=f"{target.host}:{target.port}",
        userid=settings["user"],
        password=settings["password"],
        virtual_host=settings["vhost"],
        connect_timeout=base.PROBE_CONNECT_SECONDS,
        read_timeout=base.PROBE_ANSWER_SECONDS,
        write_timeout=base.PROBE_ANSWER_SECONDS,
    )
    try:
        connection.connect()
        channel = connection.channel()
        name = f"devenv.probe.{secrets.token_hex(16)}"
        channel.basic_publish(amqp.Message(""), routing_key=name)  # No queue has this name yet, so nothing is kept.
        if target.attached:  # Nothing is written to a vhost of others. A channel that answers proves that it works.
            channel.flow(True)
        else:
            arguments = {"x-queue-type": "quorum", "x-expires": _EXPIRES}
            channel.queue_declare(name, durable=True, auto_delete=False, arguments=arguments)
            channel.queue_delete(name)
        connection.close()
    except _Alarm as alarm:
        raise NotReady(_blocked(str(alarm), "" if target.attached else target.service)) from alarm
    except OSError as error:
        raise NotReady(base.no_login(error)) from error
    except amqp.AccessRefused as error:
        raise Hopeless(base.first_line(error)) from error
    except amqp.AMQPError as error:
        raise NotReady(base.first_line(error)) from error
    finally:
        connection.collect()
    if target.attached:
        base.check_version(connection.server_properties.get("version", ""), target)
        _check_management(target)


def _check_management(target: Target) -> None:
    """Raise NotReady or Hopeless if an attached broker's management interface does not let the administrator in."""
    settings = target.settings
    url = settings["management"]
    try:
        answer = request("GET", f"{url}/api/whoami", headers=basic(settings["user"], settings["password"]))
    except NotReady as error:
        raise NotReady(f"its management interface at {url}: {error}", _MANAGEMENT) from error
    if answer.status == 401:
        raise Hopeless(f"its management interface at {url} refuses the login", _MANAGEMENT)
    try:
        tags = answer.json()["tags"]
    except (LookupError, TypeError, ValueError) as error:
        raise NotReady(f"HTTP {answer.status} at {url}, which is no management interface", _MANAGEMENT) from error
    if "administrator" not in (tags.split(",") if isinstance(tags, str) else tags):
        raise Hopeless(
            f"user {settings['user']} has no tag administrator, so it cannot create vhosts",
            f"'rabbitmqctl set_user_tags {settings['user']} administrator' gives it that",
        )


class _Alarm(Exception):
    """The broker's words for an alarm: "low on memory & disk"."""


@cache
def _connection_type() -> type[Any]:
    """Return amqp's connection with an ear for alarms: amqp itself drops the broker's words."""
    import amqp
    from amqp import spec
    from amqp.serialization import loads

    class Connection(amqp.Connection):  # type: ignore[misc]
        def dispatch_method(self, method_sig: Any, payload: Any, content: Any) -> None:
            if method_sig == spec.Connection.Blocked:
                (words,), _ = loads("s", payload, 4)  # Behind the number of the method.
                raise _Alarm(words)
            super().dispatch_method(method_sig, payload, content)

    return Connection


def _blocked(alarm: str, service: str) -> str:
    mends = "".join(f"; {mend.format(service=service)}" for cause, mend in _MENDS.items() if cause in alarm and service)
    return f"an alarm blocks publishers: {alarm}{mends}"


def _import_vine() -> None:
    """Import the library below amqp, and let no other thread run meanwhile.

    Until its class Thenable is complete, `isinstance(…, Callable)` raises NameError in every other thread.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(_UNDISTURBED)
    try:
        import vine.abstract  # noqa: F401
    finally:
        sys.setswitchinterval(before)


class RabbitMQ(HttpProvisioner):
    """Create a `vhost`, and a `user` with a `password` that can do everything in it and nothing elsewhere.

    Three requests take 20 ms, nearly all of it the vhost; one file of definitions that does the same takes 30.
    """

    what = "the vhost"
    needs = "the tag administrator"

    def _make(self, component: Component) -> None:
        user, vhost = (_quoted(component.settings[key]) for key in ("user", "vhost"))
        if component.new:
            self._take(vhost)
        elif self._rabbit("PUT", f"/api/vhosts/{vhost}", {}).status != 201:  # It existed already.
            self._start(vhost)
        # Without a tag, the user cannot use the management interface. Connections stay open over a new password.
        answer = self._rabbit("PUT", f"/api/users/{user}", {"password": component.settings["password"], "tags": ""})
        if answer.status != 201:  # It existed already.
            for permission in self._rabbit("GET", f"/api/users/{user}/permissions").json():
                if permission["vhost"] != component.settings["vhost"]:
                    self._rabbit("DELETE", f"/api/permissions/{_quoted(permission['vhost'])}/{user}")
        self._rabbit("PUT", f"/api/permissions/{vhost}/{user}", {"configure": ".*", "write": ".*", "read": ".*"})

    def _take(self, vhost: str) -> None:
        """Create a vhost. Raise Taken if it exists, or if another client creates it at the same time.

        RabbitMQ then makes one, answers both that it is new, and keeps the description that came first.
        """
        mine = f"made by devenv ({secrets.token_hex(8)})"
        path, unless = f"/api/vhosts/{vhost}", {"If-None-Match": "*"}
        if not self._rabbit("PUT", path, {"description": mine}, accept="HTTP 412", headers=unless).ok:
            raise Taken("a vhost")
        if self._rabbit("GET", path).json().get("description") != mine:
            raise Taken("a vhost")

    def _start(self, vhost: str) -> None:
        """Start a stopped vhost. It never starts by itself if the client that created it was killed meanwhile."""
        for node, state in self._rabbit("GET", f"/api/vhosts/{vhost}").json().get("cluster_state", {}).items():
            if state != "running":
                self._rabbit("POST", f"/api/vhosts/{vhost}/start/{_quoted(node)}")

    def _remove(self, component: Component) -> None:
        self._rabbit("DELETE", f"/api/vhosts/{_quoted(component.settings['vhost'])}")
        self._rabbit("DELETE", f"/api/users/{_quoted(component.settings['user'])}")

    def _found(self, component: Component) -> str:
        settings = component.settings
        for what, path in (("an account", f"/api/users/{_quoted(settings['user'])}"), ("a vhost", "")):
            path = path or f"/api/vhosts/{_quoted(settings['vhost'])}"
            if self._rabbit("GET", path, accept="HTTP 404").ok:
                return what
        return ""

    def _empty(self, initial: bytes) -> None:
        # RabbitMQ removes a vhost's queues, policies and connections with it.
        for vhost in self._rabbit("GET", "/api/vhosts").json():
            self._rabbit("DELETE", f"/api/vhosts/{_quoted(vhost['name'])}")
        for user in self._rabbit("GET", "/api/users").json():
            if user["name"] != self.target.settings["user"]:
                self._rabbit("DELETE", f"/api/users/{_quoted(user['name'])}")
        for limits in self._rabbit("GET", "/api/user-limits").json():
            for limit in limits["value"]:
                self._rabbit("DELETE", f"/api/user-limits/{_quoted(limits['user'])}/{limit}")
        for parameter in self._rabbit("GET", "/api/global-parameters").json():
            if not parameter["name"].startswith(("cluster_", "internal_")):
                self._rabbit("DELETE", f"/api/global-parameters/{_quoted(parameter['name'])}")
        self._rabbit("POST", "/api/definitions", json.loads(initial))

    def _settle(self) -> None:
        # RabbitMQ keeps the names of new quorum queues in memory for half a second, and writes them all to their file
        # when it looks for a name that is not among them: that of one more queue.
        vhost, name = _quoted(self.target.settings["vhost"]), f"devenv.settle.{secrets.token_hex(16)}"
        queue = {"durable": True, "arguments": {"x-queue-type": "quorum", "x-expires": _EXPIRES}}
        self._rabbit("PUT", f"/api/queues/{vhost}/{name}", queue)
        self._rabbit("DELETE", f"/api/queues/{vhost}/{name}")
        # A change that changes nothing: RabbitMQ syncs its log, with all that is in it, before it answers.
        user, password = self.target.settings["user"], self.target.settings["password"]
        self._rabbit("PUT", f"/api/users/{_quoted(user)}", {"password": password, "tags": "administrator"})

    def _rabbit(
        self, method: str, path: str, body: object = None, accept: str = "", headers: Mapping[str, str] | None = None
    ) -> Any:
        login = basic(self.target.settings["user"], self.target.settings["password"])
        accept = "HTTP 404" if method == "DELETE" else accept
        return self._ask(method, path, body, accept, {**login, **(headers or {})})


def _quoted(name: str) -> str:
    return quote(name, safe="")
