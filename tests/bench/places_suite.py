"""Forty tests, each with a component of its own, that use all four services: what the bench runs in every place."""

import base64
import json
from urllib.parse import urlsplit

import amqp
import pymysql
import pytest
import requests

ten_times = pytest.mark.parametrize("number", range(10))


@pytest.mark.devenv(services=["mysql"])
@ten_times
def test_a_row_is_read_back(devenv_component, number: int) -> None:
    url = urlsplit(devenv_component.env["DATABASE_URL"])
    login = {"user": url.username, "password": url.password, "database": url.path[1:]}
    with pymysql.connect(host=url.hostname, port=url.port, **login) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE numbers (number INT)")
        cursor.execute("INSERT INTO numbers VALUES (%s)", [number])
        cursor.execute("SELECT number FROM numbers")
        assert cursor.fetchall() == ((number,),)


@pytest.mark.devenv(services=["rabbitmq"])
@ten_times
def test_a_message_arrives(devenv_component, number: int) -> None:
    service = devenv_component.service("rabbitmq")
    login = {key: service.env[f"DEVENV_RABBITMQ_{name}"] for key, name in LOGIN.items()}
    address = f"{service.endpoint.host}:{service.endpoint.port}"
    with amqp.Connection(address, **login) as connection, connection.channel() as channel:
        channel.queue_declare("numbers", durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"})
        channel.basic_publish_confirm(amqp.Message(str(number)), routing_key="numbers")
        assert channel.basic_get("numbers", no_ack=True).body == str(number)


LOGIN = {"userid": "USER", "password": "PASSWORD", "virtual_host": "VHOST"}


@pytest.mark.devenv(services=["etcd"])
@ten_times
def test_a_key_is_read_back(devenv_component, number: int) -> None:
    url, prefix = devenv_component.env["ETCD_ENDPOINTS"], devenv_component.env["ETCD_PREFIX"]
    key, value = (base64.b64encode(text.encode()).decode() for text in (f"{prefix}n", str(number)))
    ask(f"{url}/v3/kv/put", {"key": key, "value": value})
    assert [pair["value"] for pair in ask(f"{url}/v3/kv/range", {"key": key})["kvs"]] == [value]


@pytest.mark.devenv(services=["keystone"])
@ten_times
def test_a_token_is_of_the_service_user(devenv_component, number: int) -> None:
    env = devenv_component.env
    domain = {"id": "default"}
    user = {"name": env["OS_USERNAME"], "password": env["OS_PASSWORD"], "domain": domain}
    scope = {"project": {"name": env["OS_PROJECT_NAME"], "domain": domain}}
    login = {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}
    assert ask(f"{env['OS_AUTH_URL']}/auth/tokens", {"auth": login})["token"]["user"]["name"] == env["OS_USERNAME"]


def ask(url: str, body: object) -> dict:
    """Post, past any proxy; return the answer."""
    with requests.Session() as session:
        session.trust_env = False
        answer = session.post(url, data=json.dumps(body), headers={"Content-Type": "application/json"}, timeout=30)
    answer.raise_for_status()
    return answer.json()
