"""The programs as users start them, with devenv's overlay as their only config file."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from inventory.context import Context
from inventory.db import Database
from inventory.rpc import Client
from tests.messaging import Notifications

PROJECT = Path(__file__).parents[2]


def command(name: str, overlay: Path, *arguments: str) -> list[str]:
    code = f"import sys; from inventory.cmd import {name}; sys.exit({name}())"
    return [sys.executable, "-W", "ignore", "-c", code, "--config-file", str(overlay), *arguments]


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen]:
    """Run a program that gets SIGTERM when its standard input ends, so that it outlives no killed test."""
    wrapper = ["sh", "-c", '"$@" & read -r _; kill $!; wait $!', "sh", *arguments]
    # In a session of its own: Ctrl-C is for pytest, whose end the wrapper then sees.
    with subprocess.Popen(wrapper, cwd=PROJECT, stdin=subprocess.PIPE, start_new_session=True) as process:
        yield process


@pytest.mark.devenv(services=["mysql"])
def test_manage_makes_the_tables(devenv_component, conf) -> None:
    subprocess.run(command("manage", devenv_component.overlay, "db_sync"), cwd=PROJECT, check=True, timeout=60)
    database = Database(conf)
    assert sa.inspect(database.engine).get_table_names() == ["items"]
    database.close()


@pytest.mark.devenv(services=["mysql", "rabbitmq", "etcd"])
def test_a_worker_serves_until_it_is_told_to_end(
    devenv_component, database: Database, context: Context, client: Client, notifications: Notifications
) -> None:
    database.create(context, "nut", 5)
    with running(*command("worker", devenv_component.overlay)) as worker:
        assert notifications.next()[0] == "inventory.worker.start"
        assert client.take(context, "nut", 5)["count"] == 0
    assert worker.returncode == 0
