"""Use all four services as a component, with the libraries that OpenStack's services use."""

from __future__ import annotations

import time
import uuid
import warnings
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from multiprocessing.synchronize import Barrier
from typing import Any
from urllib.parse import urlsplit

import kombu
import requests
import sqlalchemy
from keystoneauth1 import session
from keystoneauth1.identity import v3

from tests.soak.figures import SERVICES, Work

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Its import alone warns of eventlet.
    import etcd3gw

# An answer that takes longer is an error.
_ANSWER_SECONDS = 60
# After so many uses of its components, a client gives one of them back and takes another one.
_USES = 10
# So many characters of an error are shown.
_SHOWN = 300
# All components are there by then, or something is wrong.
_START_SECONDS = 300

_ROWS = sqlalchemy.Table("load", sqlalchemy.MetaData(), sqlalchemy.Column("value", sqlalchemy.String(40)))


class Component:
    """Connections to all services, with a component's login.

    Each use writes a value, reads it and nothing else, and removes it. From Keystone it takes a token, and has it
    checked.
    """

    def __init__(self, variables: Mapping[str, str]) -> None:
        self.name = variables["DEVENV_COMPONENT"]
        url, timeouts = variables["SQLALCHEMY_DATABASE_URI"], {"read_timeout": _ANSWER_SECONDS}
        self._database = sqlalchemy.create_engine(url, connect_args=timeouts)
        self._broker = kombu.Connection(variables["AMQP_URL"])
        etcd = urlsplit(variables["ETCD_ENDPOINTS"])
        self._etcd = etcd3gw.client(etcd.hostname, etcd.port, api_path="/v3/", timeout=_ANSWER_SECONDS)
        self._key = variables["ETCD_PREFIX"] + "load"
        names = ("auth_url", "username", "password", "user_domain_id", "project_name", "project_domain_id")
        self._user = v3.Password(**{name: variables[f"OS_{name.upper()}"] for name in names})
        self._identity = session.Session(session=requests.Session(), timeout=_ANSWER_SECONDS)
        self._whoami = (variables["OS_AUTH_URL"] + "/auth/tokens", variables["OS_USERNAME"])

    def mysql(self, value: str) -> Any:
        _ROWS.create(self._database, checkfirst=True)
        with self._database.begin() as transaction:
            transaction.execute(_ROWS.insert().values(value=value))
            (found,) = transaction.execute(sqlalchemy.select(_ROWS.c.value)).scalars()
            transaction.execute(_ROWS.delete())
        return found

    def rabbitmq(self, value: str) -> Any:
        with self._broker.SimpleQueue("load", queue_opts={"durable": True}) as queue:
            queue.put(value)
            message = queue.get(timeout=_ANSWER_SECONDS)
            message.ack()
        return message.payload

    def etcd(self, value: str) -> Any:
        self._etcd.put(self._key, value)
        (found,) = self._etcd.get(self._key)
        self._etcd.delete(self._key)
        return found.decode()

    def keystone(self, value: str) -> Any:
        self._user.invalidate()
        token = self._user.get_token(self._identity)
        url, name = self._whoami
        answer = self._identity.get(url, headers={"X-Auth-Token": token, "X-Subject-Token": token})
        return value if answer.json()["token"]["user"]["name"] == name else "the token of another one"

    def close(self) -> None:
        self._database.dispose()
        self._broker.release()
        self._identity.session.close()


def work(keeper: Any, begin: Barrier, components: int, seconds: float) -> Work:
    """Hold so many components. Once every client has its own, use one after the other for so long."""
    done = Work()
    try:
        held = deque(_taken(keeper, done) for _ in range(components))
    except BaseException:
        begin.abort()
        raise
    begin.wait(_START_SECONDS)
    until = time.monotonic() + seconds
    for number in count(1):
        held.rotate(-1)
        for service in SERVICES:
            _use(held[0], service, done)
        if time.monotonic() > until:
            break
        if number % _USES == 0:
            with _noting("devenv", done):
                fresh = _taken(keeper, done)
                _return(keeper, held.popleft())
                held.appendleft(fresh)
    for component in held:
        _return(keeper, component)
    return done


def _use(component: Component, service: str, done: Work) -> None:
    value = uuid.uuid4().hex
    with _noting(service, done):
        found = getattr(component, service)(value)
        if found != value:
            raise ValueError(f"found {found} in the place of {value}")
        done.uses[service] += 1


@contextmanager
def _noting(what: str, done: Work) -> Iterator[None]:
    """Count every error that a library raises: the soak reports all in the end."""
    try:
        yield
    except Exception as error:
        done.errors[f"{what}: {type(error).__name__}: {error}"[:_SHOWN]] += 1


def _taken(keeper: Any, done: Work) -> Component:
    done.components += 1
    return Component(keeper.take())


def _return(keeper: Any, component: Component) -> None:
    component.close()
    keeper.give_back(component.name)
