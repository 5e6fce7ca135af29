"""Servers that answer and refuse to work: devenv says why, and what ends it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import requests
from project import Project, one_clear_line

NOSPACE = "alarm NOSPACE: etcd refuses writes, because its data reached the quota; 'devenv reset etcd'"


def test_an_alarm_of_etcd_is_told_until_it_ends(running: Project) -> None:
    with requests.Session() as session:
        session.trust_env = False
        url = running.env()["DEVENV_ETCD_URL"]
        member = session.post(f"{url}/v3/cluster/member/list", json={}).json()["members"][0]["ID"]
        alarm = {"action": "ACTIVATE", "memberID": member, "alarm": "NOSPACE"}
        session.post(f"{url}/v3/maintenance/alarm", json=alarm).raise_for_status()
        try:
            assert session.post(f"{url}/v3/kv/put", json={"key": "YQ==", "value": "YQ=="}).status_code == 429
            assert running.reason("etcd").startswith(NOSPACE)
            waited = running.devenv("wait", "etcd", "--wait-timeout", "0.1", check=False)
            one_clear_line(waited, 6, "cannot use etcd: not ready after 0.1 s", NOSPACE)
        finally:
            running.devenv("exec", "etcd", "etcdctl", "alarm", "disarm")
    assert running.reason("etcd") == ""


@contextmanager
def rabbitmqctl(project: Project, setting: str, low: str, usual: str) -> Iterator[None]:
    """Change a setting of the running server for a while."""
    command = ("exec", "rabbitmq", "--", "rabbitmqctl", "--quiet", setting)
    project.devenv(*command, *low.split())
    try:
        yield
    finally:
        project.devenv(*command, *usual.split())


@pytest.mark.long
@pytest.mark.parametrize(
    ("setting", "low", "usual", "alarm"),
    [
        ("set_disk_free_limit", "900000GB", "50MB", "low on disk; free space where the engine keeps its data"),
        (
            "set_vm_memory_high_watermark",
            "absolute 1MB",
            "absolute 600MiB",
            "low on memory; purge queues, or 'devenv reset rabbitmq'",
        ),
    ],
)
def test_an_alarm_of_rabbitmq_is_told_until_it_ends(
    running: Project, setting: str, low: str, usual: str, alarm: str
) -> None:
    with rabbitmqctl(running, setting, low, usual):
        waited = running.devenv("wait", "rabbitmq", "--wait-timeout", "0.1", check=False)
        one_clear_line(waited, 6, "cannot use rabbitmq: not ready after 0.1 s", f"an alarm blocks publishers: {alarm}")
        assert running.reason("rabbitmq") == f"an alarm blocks publishers: {alarm}"
    running.devenv("wait", "rabbitmq")
