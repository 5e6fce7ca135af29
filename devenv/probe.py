"""Is a service ready for use? One protocol check per kind, with the credentials that the wired files carry.

A probe is a function `check(target)` that returns when the service works and raises NotReady with the reason
when it does not (yet). Probes are found by name among the entry points of the group "devenv.probes", so that
another package can bring one.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from devenv import plugins
from devenv.errors import NotReady

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
    except (pymysql.MySQLError, OSError) as error:
        raise NotReady(_first_line(error.args[-1] if error.args else error)) from error


def check_amqp(target: Target) -> None:
    """Log in over AMQP and declare a queue the way oslo.messaging does: durable, quorum, expiring.

    Brokers from 4.3 on accept logins and yet refuse the queues of older defaults.
    """
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
            name = f"devenv.probe.{uuid.uuid4().hex}"
            arguments = {"x-queue-type": "quorum", "x-expires": 60_000}
            channel.queue_declare(name, durable=True, auto_delete=False, arguments=arguments)
            channel.queue_delete(name)
    except (amqp.AMQPError, OSError) as error:
        raise NotReady(_first_line(error)) from error


def check_etcd(target: Target) -> None:
    """Ask for readiness; versions before 3.5.11 have no such page and answer a linearizable read instead."""
    answer = _http("GET", f"{target.url}/readyz")
    if answer.status_code == 404:
        answer = _http("POST", f"{target.url}/v3/kv/range", json={"key": "AA=="})
    if answer.status_code != 200:
        raise NotReady(f"HTTP {answer.status_code}: {_first_line(answer.text)}")


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
    answer = _http("POST", f"{target.url}/auth/tokens", json=request)
    if answer.status_code != 201:
        raise NotReady(f"no token: HTTP {answer.status_code}: {_first_line(answer.text)}")
    catalog = answer.json()["token"].get("catalog", [])
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
    if found.status_code != 200:
        raise NotReady(f"the catalog's identity URL {urls[0]} answers HTTP {found.status_code}")


def _http(method: str, url: str, **arguments: Any) -> Any:
    import requests

    with requests.Session() as session:
        # Neither a proxy nor a netrc of the user's may come between the probe and 127.0.0.1.
        session.trust_env = False
        try:
            return session.request(method, url, timeout=(_CONNECT_SECONDS, _ANSWER_SECONDS), **arguments)
        except requests.ConnectionError as error:
            reason = "connection refused" if "refused" in str(error) else "connection closed without an answer"
            raise NotReady(reason) from error
        except requests.RequestException as error:
            raise NotReady(type(error).__name__) from error


def _first_line(error: object) -> str:
    if isinstance(error, OSError):
        # What the engine's port proxy does while nobody listens behind it looks different each time.
        refused = isinstance(error, ConnectionRefusedError)
        return "connection refused" if refused else f"no answer ({error.strerror or error})"
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
