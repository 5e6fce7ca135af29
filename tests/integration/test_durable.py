"""`durable: true` turns off what is unsafe but fast, in the servers themselves and not only in their files."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Mapping

import pytest
from project import Project, one_clear_line, plan_of

# The variables of MySQL and MariaDB, with and without `durable`.
_UNSAFE = {"innodb_flush_log_at_trx_commit": "2", "innodb_flush_method": "nosync", "innodb_doublewrite": "OFF"}
_SAFE = {"innodb_flush_log_at_trx_commit": "1", "innodb_flush_method": "O_DIRECT", "innodb_doublewrite": "ON"}


def variables(project: Project, database: str) -> Mapping[str, str]:
    """Return the variables of the running server."""
    shown = project.sql(database, f"SELECT {', '.join(f'@@{name}' for name in _SAFE)}")
    return dict(zip(_SAFE, shown.split(), strict=True))


def fsyncs(project: Project) -> int:
    """Put five keys; return how often etcd waited for the disk meanwhile."""

    def counted() -> int:
        with urllib.request.urlopen(f"{project.env()['DEVENV_ETCD_URL']}/metrics") as page:
            found = re.search(r"^etcd_disk_wal_fsync_duration_seconds_count (\d+)", page.read().decode(), re.MULTILINE)
        assert found
        return int(found[1])

    before = counted()
    for number in range(5):
        project.devenv("exec", "etcd", "--", "etcdctl", "put", f"key{number}", "value")
    return counted() - before


@pytest.mark.parametrize(
    ("database", "text", "expected"),
    [
        ("mysql", "durable: true\n", _SAFE),
        ("mariadb", "durable: true\n", _SAFE),
        pytest.param("mysql", "services: {mysql: {durable: true}}\n", _SAFE, marks=pytest.mark.long),
        pytest.param("mysql", "durable: true\nservices: {mysql: {durable: false}}\n", _UNSAFE, marks=pytest.mark.long),
        pytest.param("mariadb", "", _UNSAFE, marks=pytest.mark.long),
    ],
)
def test_a_database_waits_for_the_disk_if_it_is_to_be_durable(
    project: Project, database: str, text: str, expected: Mapping[str, str]
) -> None:
    project.configure(f"{text}profile: database\ndatabase: {database}\n")
    project.devenv("up")
    assert variables(project, database) == expected


def test_mysql_does_not_wait_for_the_disk_otherwise(running: Project) -> None:
    assert variables(running, "mysql") == _UNSAFE


def test_postgresql_waits_for_the_disk_if_it_is_to_be_durable(project: Project) -> None:
    def waits() -> list[str]:
        ask = [word for name in ("fsync", "synchronous_commit", "full_page_writes") for word in ("-c", f"SHOW {name}")]
        return project.devenv("exec", "postgresql", "psql", "-At", *ask).stdout.split()

    project.configure("profile: database\ndatabase: postgresql\n")
    project.devenv("up")
    # Without the other two a killed server loses what it has confirmed, or cannot read it again.
    assert waits() == ["off", "on", "on"]
    project.configure("profile: database\ndatabase: postgresql\ndurable: true\n")
    project.devenv("up")
    assert waits() == ["on", "on", "on"]


def test_etcd_waits_for_the_disk_if_it_is_to_be_durable_and_keeps_its_data_when_that_changes(project: Project) -> None:
    project.devenv("up", "etcd")
    assert fsyncs(project) == 0
    project.configure("durable: true\n")
    assert ("create", "etcd", "durable added, file etcd.yaml changed") in plan_of(project, "etcd")
    project.devenv("up", "etcd")
    assert fsyncs(project) >= 5
    kept = project.devenv("exec", "etcd", "--", "etcdctl", "get", "--print-value-only", "key4").stdout
    assert kept.strip() == "value"


def test_a_mistake_in_it_is_told_with_file_and_line(project: Project) -> None:
    project.configure("profile: base\ndurable: very\n")
    one_clear_line(project.devenv("plan", check=False), 3, "devenv.yaml:2: durable: expected true or false")
    project.configure("services: {rabbitmq: {durable: true}}\n")
    one_clear_line(project.devenv("plan", check=False), 3, "cannot switch 'durable' of rabbitmq", "it has: none")
