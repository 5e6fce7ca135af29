"""The database services, and clients of them."""

from __future__ import annotations

from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import pymysql

# The database services, and how the administrator runs a statement in the container of each; rows come out alone.
DATABASES = {
    "mysql": ("mysql", "-Ne"),
    "mariadb": ("mariadb", "-Ne"),
    "postgresql": ("psql", "-Atc"),
}
# Those that speak MySQL's protocol; test_postgresql.py is about the other one.
LIKE_MYSQL = ["mysql", "mariadb"]


def connect(url: str, **instead: str) -> pymysql.connections.Connection[Any]:
    """Log in with a URL of MySQL, or with another user, password or database than in it."""
    parts = urlsplit(url)
    assert parts.hostname and parts.port and parts.username and parts.password
    login = {"user": parts.username, "password": parts.password, "database": parts.path[1:]} | instead
    return pymysql.connect(host=parts.hostname, port=parts.port, autocommit=True, **login)  # type: ignore[arg-type]


def ask(url: str, *statements: str) -> Any:
    """Run statements; return the last one's rows."""
    with closing(connect(url)) as connection, connection.cursor() as cursor:
        for text in statements:
            cursor.execute(text)
        return cursor.fetchall()
