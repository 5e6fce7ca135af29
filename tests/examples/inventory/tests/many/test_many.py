"""Many small tests, each with a component of its own, as in a large functional suite."""

import base64
from urllib.parse import urlsplit

import pymysql
import pytest
import requests


@pytest.mark.devenv(services=["mysql"])
@pytest.mark.parametrize("number", range(250))
def test_a_row_is_read_back(devenv_component, number: int) -> None:
    url = urlsplit(devenv_component.env["DATABASE_URL"])
    login = {"user": url.username, "password": url.password, "database": url.path[1:]}
    with pymysql.connect(host=url.hostname, port=url.port, **login) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE numbers (number INT)")
        cursor.execute("INSERT INTO numbers VALUES (%s)", [number])
        cursor.execute("SELECT number FROM numbers")
        assert cursor.fetchall() == ((number,),)


@pytest.mark.devenv(services=["etcd"])
@pytest.mark.parametrize("number", range(250))
def test_a_key_is_read_back(devenv_component, number: int) -> None:
    url, prefix = devenv_component.env["ETCD_ENDPOINTS"], devenv_component.env["ETCD_PREFIX"]
    key, end, value = (base64.b64encode(text.encode()).decode() for text in (f"{prefix}n", f"{prefix}o", str(number)))
    with requests.Session() as session:
        session.trust_env = False
        session.post(f"{url}/v3/kv/put", json={"key": key, "value": value}, timeout=10).raise_for_status()
        found = session.post(f"{url}/v3/kv/range", json={"key": key, "range_end": end}, timeout=10).json()
    assert [pair["value"] for pair in found["kvs"]] == [value]
