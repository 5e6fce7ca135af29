"""Plain Python clients take the keyword arguments of nova.json as they are, and the URLs of nova.env."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import amqp
import kombu
import openstack
import pymysql
import pytest
import sqlalchemy
from dotenv import dotenv_values
from keystoneauth1 import session
from keystoneauth1.identity import v3
from wired import SDK_WARNINGS, Wired

pytestmark = SDK_WARNINGS


@pytest.fixture(scope="module")
def clients(wired: Wired) -> dict[str, Any]:
    return wired.clients()


@pytest.fixture(scope="module")
def env(wired: Wired) -> dict[str, str]:
    return {name: value or "" for name, value in dotenv_values(wired.folder / "nova.env").items()}


def current_database(engine: sqlalchemy.Engine) -> Any:
    try:
        with engine.connect() as connection:
            return connection.execute(sqlalchemy.text("SELECT DATABASE()")).scalar_one()
    finally:
        engine.dispose()


def carries_a_message(connection: kombu.Connection) -> bool:
    with connection, connection.SimpleQueue("plain", queue_opts={"durable": True}) as queue:
        queue.put("hello")
        message = queue.get(timeout=10)
        message.ack()
        return bool(message.payload == "hello")


def test_pymysql_connects(clients: dict[str, Any]) -> None:
    with pymysql.connect(**clients["pymysql"]) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT DATABASE(), @@character_set_connection")
        assert cursor.fetchone() == ("nova", "utf8mb4")


def test_sqlalchemy_connects(clients: dict[str, Any]) -> None:
    assert current_database(sqlalchemy.create_engine(**clients["sqlalchemy"])) == "nova"


def test_kombu_carries_a_message(clients: dict[str, Any]) -> None:
    assert carries_a_message(kombu.Connection(**clients["kombu"]))


def test_amqp_connects(clients: dict[str, Any]) -> None:
    with amqp.Connection(**clients["amqp"]) as connection:
        assert connection.connected


def test_keystoneauth_gets_a_token(clients: dict[str, Any]) -> None:
    http = session.Session(auth=v3.Password(**clients["keystoneauth"]))
    access = http.auth.get_access(http)
    assert (access.username, access.project_name) == ("nova", "service")
    assert "service" in access.role_names
    http.session.close()


def test_openstacksdk_connects(clients: dict[str, Any]) -> None:
    connection = openstack.connect(**clients["openstacksdk"], load_envvars=False, load_yaml_config=False)
    with closing(connection):
        assert connection.session.get_endpoint(service_type="identity")
        assert connection.config.get_region_name() == "RegionOne"


def test_the_dotenv_says_how_to_reach_the_database(env: dict[str, str]) -> None:
    # The scheme is the one that frameworks know; SQLAlchemy takes it for a driver that few have installed.
    url = sqlalchemy.make_url(env["DATABASE_URL"]).set(drivername="mysql+pymysql")
    assert current_database(sqlalchemy.create_engine(url)) == "nova"
    assert current_database(sqlalchemy.create_engine(env["SQLALCHEMY_DATABASE_URI"])) == "nova"


def test_the_dotenv_says_how_to_reach_the_message_queue(env: dict[str, str], clients: dict[str, Any]) -> None:
    assert carries_a_message(kombu.Connection(env["AMQP_URL"]))
    assert env["TRANSPORT_URL"] == clients["oslo_messaging"]["url"]


def test_the_dotenv_is_enough_for_openstacksdk(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with closing(openstack.connect(cloud="envvars", load_yaml_config=False)) as connection:
        assert connection.authorize()
        assert connection.config.get_auth_args()["username"] == "nova"
