"""Is a service ready for use? One protocol check per kind, with the credentials that the wired files carry.

A probe is a function `check(target)` that returns when the service works and raises NotReady with the reason
when it does not (yet). Probes are found by name among the entry points of the group "devenv.probes", so that
another package can bring one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

from devenv.errors import NotReady
from devenv.services import lookup as plugins

GROUP = "devenv.probes"
# One attempt. A healthy service answers in milliseconds; a wedged one must not hide its reason for long.
_CONNECT_SECONDS = 2.0
_ANSWER_SECONDS = 5.0


@dataclass(frozen=True)
class Target:
    """What to probe: an endpoint's host view and the `probe` settings of the service, filled in."""

    host: str
    port: int
    url: str = field(repr=False)
    settings: Mapping[str, str] = field(repr=False)


Check = Callable[[Target], None]


@cache
def load_probe(kind: str) -> Check:
    """The probe of that name. Raises ConfigError if no installed package brings it."""
    if kind in _OWN:
        # Without a look at any package: that takes longer than a probe.
        return _OWN[kind]
    check: Check = plugins.find(GROUP, kind, "a probe of kind").load()
    return check


def check_mysql(target: Target) -> None:
    """Log in over TCP as the application user and run a statement in its database."""
    import pymysql

    settings = target.settings
    try:
        with (
            pymysql.connect(
                host=target.host,
                port=target.port,
                user=settings["user"],
                password=settings["password"],
                database=settings["database"],
                connect_timeout=int(_CONNECT_SECONDS),
                read_timeout=_ANSWER_SECONDS,
                write_timeout=_ANSWER_SECONDS,
                # On the loopback address. TLS takes eighteen times as long as all the rest of the look.
                ssl_disabled=True,
            ) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute("SELECT DATABASE()")
    except pymysql.MySQLError as error:
        number, words = error.args if len(error.args) == 2 else (0, error)
        # The server's own words, unless the number is one of those that clients give to lost connections.
        lost = number in range(2000, 3000)
        raise NotReady(_no_login(error.__context__) if lost else _first_line(words)) from error
    except OSError as error:
        raise NotReady(_no_login(error)) from error


def check_amqp(target: Target) -> None:
    """Log in over AMQP and declare a queue the way oslo.messaging does: durable, quorum, expiring.

    Brokers from 4.3 on accept logins and yet refuse the queues of older defaults.
    """
    import secrets

    import amqp

    settings = target.settings
    try:
        with (
            amqp.Connection(
                host=f"{target.host}:{target.port}",
                userid=settings["user"],
                password=settings["password"],
                virtual_host=settings["vhost"],
                connect_timeout=_CONNECT_SECONDS,
                read_timeout=_ANSWER_SECONDS,
                write_timeout=_ANSWER_SECONDS,
            ) as connection,
            connection.channel() as channel,
        ):
            name = f"devenv.probe.{secrets.token_hex(16)}"
            arguments = {"x-queue-type": "quorum", "x-expires": 60_000}
            channel.queue_declare(name, durable=True, auto_delete=False, arguments=arguments)
            channel.queue_delete(name)
    except OSError as error:
        raise NotReady(_no_login(error)) from error
    except amqp.AMQPError as error:
        raise NotReady(_first_line(error)) from error


def check_etcd(target: Target) -> None:
    """Ask for readiness; versions before 3.5.11 have no such page and answer a linearizable read instead."""
    answer = _http("GET", f"{target.url}/readyz")
    if answer.status == 404:
        answer = _http("POST", f"{target.url}/v3/kv/range", {"key": "AA=="})
    if answer.status != 200:
        raise NotReady(f"HTTP {answer.status}: {_first_line(answer.text)}")


def check_keystone(target: Target) -> None:
    """Get a token, and see that the identity URL of its catalog answers from here."""
    settings = target.settings
    domain = {"id": "default"}
    user = {"name": settings["user"], "password": settings["password"], "domain": domain}
    request = {
        "auth": {
            "identity": {"methods": ["password"], "password": {"user": user}},
            "scope": {"project": {"name": settings["project"], "domain": domain}},
        }
    }
    answer = _http("POST", f"{target.url}/auth/tokens", request)
    if answer.status != 201:
        raise NotReady(f"no token: HTTP {answer.status}: {_first_line(answer.text)}")
    catalog = json.loads(answer.text)["token"].get("catalog", [])
    urls = [
        endpoint["url"]
        for service in catalog
        if service["type"] == "identity"
        for endpoint in service["endpoints"]
        if endpoint["interface"] == "public"
    ]
    if not urls:
        raise NotReady("the catalog has no public identity endpoint")
    found = _http("GET", urls[0])
    if found.status != 200:
        raise NotReady(f"the catalog's identity URL {urls[0]} answers HTTP {found.status}")


# The same as among the entry points.
_OWN: Mapping[str, Check] = {
    "mysql": check_mysql,
    "amqp": check_amqp,
    "etcd": check_etcd,
    "keystone": check_keystone,
}


class _Answer(NamedTuple):
    status: int
    text: str


def _http(method: str, url: str, body: Mapping[str, Any] | None = None) -> _Answer:
    """Ask for something over HTTP: straight, whatever proxy the environment names."""
    from http.client import HTTPConnection, HTTPException
    from urllib.parse import urlsplit

    where = urlsplit(url)
    connection = HTTPConnection(where.hostname or "", where.port, timeout=_CONNECT_SECONDS)
    try:
        connection.connect()
        connection.sock.settimeout(_ANSWER_SECONDS)
        data = json.dumps(body) if body else None
        connection.request(method, where.path or "/", data, {"Content-Type": "application/json"} if body else {})
        answer = connection.getresponse()
        return _Answer(answer.status, answer.read().decode(errors="replace"))
    except (OSError, HTTPException) as error:
        raise NotReady(_broken(error, "not answering yet")) from error
    finally:
        connection.close()


def _no_login(error: BaseException | None) -> str:
    return _broken(error, "not accepting logins yet")


def _broken(error: BaseException | None, usual: str) -> str:
    """Why a connection came to nothing.

    What the engine's port proxy does while nobody listens behind it looks different each time, and is `usual`.
    """
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return "no answer in time" if isinstance(error, TimeoutError) else usual


def _first_line(words: object) -> str:
    return (str(words).strip().splitlines() or [type(words).__name__])[0][:200]
