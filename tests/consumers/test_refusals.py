"""A component cannot reach what belongs to another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from types import ModuleType
from typing import Any

import amqp
import openstack
import pymysql
import pytest
import requests
from keystoneauth1 import exceptions, session
from keystoneauth1.identity import v3
from wired import SDK_WARNINGS, Wired

pytestmark = SDK_WARNINGS


def test_another_components_database_is_closed(wired: Wired) -> None:
    foreign = wired.clients("my-service")["pymysql"]["database"]
    assert foreign == "my_service"
    with pymysql.connect(**wired.clients()["pymysql"]) as connection, connection.cursor() as cursor:
        for statement in (f"USE {foreign}", f"CREATE TABLE {foreign}.t (i INT)", "CREATE DATABASE nova_more"):
            with pytest.raises(pymysql.err.OperationalError) as refused:
                cursor.execute(statement)
            assert refused.value.args[0] in (1044, 1142), statement  # Access, or a command, denied.


def test_another_components_vhost_is_closed(wired: Wired) -> None:
    foreign = {**wired.clients()["amqp"], "virtual_host": wired.clients("my-service")["amqp"]["virtual_host"]}
    connection = amqp.Connection(**foreign)
    with pytest.raises(amqp.exceptions.NotAllowed, match="access to vhost 'my-service'"):
        connection.connect()


def test_a_component_does_not_administer_rabbitmq(wired: Wired, variables: dict[str, str]) -> None:
    login = (variables["DEVENV_RABBITMQ_USER"], variables["DEVENV_RABBITMQ_PASSWORD"])
    answer = requests.get(f"{variables['DEVENV_RABBITMQ_MANAGEMENT_URL']}/api/users", auth=login, timeout=10)
    assert answer.status_code == 401


def test_a_password_logs_in_its_own_component_only(wired: Wired) -> None:
    http = session.Session()
    foreign = v3.Password(**{**wired.clients()["keystoneauth"], "username": "my-service"})
    with pytest.raises(exceptions.Unauthorized):
        foreign.get_token(http)
    http.session.close()


def test_a_component_does_not_administer_keystone(wired: Wired) -> None:
    arguments = wired.clients()["openstacksdk"]
    with closing(openstack.connect(**arguments, load_envvars=False, load_yaml_config=False)) as connection:
        with pytest.raises(openstack.exceptions.ForbiddenException) as refused:
            connection.identity.create_user(name="intruder", password="secret")
        assert refused.value.status_code == 403


# ---- etcd with a login ---------------------------------------------------------------------------------------


@pytest.fixture
def nova(guarded: Wired, etcd3: ModuleType) -> Iterator[Any]:
    with etcd3.client(**guarded.clients()["etcd3"]) as client:
        # The token travels as metadata, too. As credentials of a call, gRPC (at least from 1.60 on) refuses to send it
        # without TLS.
        client.call_credentials = None
        yield client


@pytest.fixture
def anonymous(guarded: Wired, etcd3: ModuleType) -> Iterator[Any]:
    address = {name: value for name, value in guarded.clients()["etcd3"].items() if name in ("host", "port")}
    with etcd3.client(**address) as client:
        yield client


def test_a_component_reads_and_writes_below_its_own_prefix(guarded: Wired, nova: Any) -> None:
    key = guarded.clients()["etcd"]["prefix"] + "key"
    nova.put(key, "value")
    assert nova.get(key)[0] == b"value"
    assert [value for value, _ in nova.get_prefix(guarded.clients()["etcd"]["prefix"])] == [b"value"]


def test_another_components_prefix_is_closed(guarded: Wired, nova: Any) -> None:
    key = guarded.clients("my-service")["etcd"]["prefix"] + "key"
    for attempt in (lambda: nova.put(key, "value"), lambda: nova.get(key), lambda: list(nova.get_prefix("/"))):
        with pytest.raises(Exception, match="permission denied") as refused:
            attempt()
        assert type(refused.value).__module__.startswith("grpc")


def test_nobody_gets_in_without_a_login(guarded: Wired, anonymous: Any) -> None:
    with pytest.raises(Exception, match="user name is empty"):
        anonymous.get(guarded.clients()["etcd"]["prefix"] + "key")
