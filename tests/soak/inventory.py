"""Ask the services themselves, as their administrator, what they hold for components."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from contextlib import closing

import pymysql
import requests
from keystoneauth1 import session
from keystoneauth1.identity import v3

# As both ends of a range, this means every key to etcd.
_EVERYTHING = base64.b64encode(b"\0").decode()
_ANSWER_SECONDS = 60

Variables = Mapping[str, str]


def inventory(variables: Variables) -> set[str]:
    """Return everything that a component may have or make in them. `variables` are what `devenv env` prints."""
    return {*_mysql(variables), *_rabbitmq(variables), *_etcd(variables), *_keystone(variables)}


def _mysql(variables: Variables) -> list[str]:
    host, port, user, password = (variables[f"DEVENV_MYSQL_{key}"] for key in ("HOST", "PORT", "USER", "PASSWORD"))
    with (
        pymysql.connect(host=host, port=int(port), user=user, password=password) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("SHOW DATABASES")
        databases = [f"MySQL's database {name}" for (name,) in cursor.fetchall()]
        cursor.execute("SELECT user FROM mysql.user")
        return databases + [f"MySQL's user {name}" for (name,) in cursor.fetchall()]


def _rabbitmq(variables: Variables) -> list[str]:
    login = (variables["DEVENV_RABBITMQ_USER"], variables["DEVENV_RABBITMQ_PASSWORD"])
    url, found = variables["DEVENV_RABBITMQ_MANAGEMENT_URL"], []
    for kind in ("vhost", "user"):
        answer = requests.get(f"{url}/api/{kind}s", auth=login, timeout=_ANSWER_SECONDS)
        answer.raise_for_status()
        found += [f"RabbitMQ's {kind} {one['name']}" for one in answer.json()]
    return found


def _etcd(variables: Variables) -> list[str]:
    query = {"key": _EVERYTHING, "range_end": _EVERYTHING, "keys_only": True}
    answer = requests.post(f"{variables['DEVENV_ETCD_URL']}/v3/kv/range", json=query, timeout=_ANSWER_SECONDS)
    answer.raise_for_status()
    return [f"etcd's key {base64.b64decode(one['key']).decode()}" for one in answer.json().get("kvs", ())]


def _keystone(variables: Variables) -> list[str]:
    names = ("auth_url", "username", "password", "user_domain_id", "project_name", "project_domain_id")
    auth = v3.Password(**{name: variables[f"OS_{name.upper()}"] for name in names})
    found = []
    with closing(requests.Session()) as connection:
        http = session.Session(auth=auth, session=connection, timeout=_ANSWER_SECONDS)
        for kind in ("user", "project", "service"):
            listed = http.get(f"{variables['OS_AUTH_URL']}/{kind}s").json()[f"{kind}s"]
            found += [f"Keystone's {kind} {one['name']}" for one in listed]
    return found
