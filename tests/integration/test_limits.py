"""RabbitMQ, etcd and Keystone keep what their configuration promises, within the limits of their containers.

The databases do in test_like_mysql.py and test_postgresql.py: all connections, at the same time.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import amqp
import docker
import pytest
import requests
from project import Project, file_limit

pytestmark = pytest.mark.long

# rabbitmq.conf
MOST_CONNECTIONS, MOST_CHANNELS = 4096, 8192
# serve.py of Keystone, less the probe's own and some that the server has not closed yet.
MOST_CLIENTS = 990
# Each watcher is a connection, of 16384 files that etcd may open.
WATCHERS = 2000
# etcd.yaml, in bytes, and etcd's own limit of one request.
QUOTA, LARGEST_REQUEST = 512 * 1024**2, 1_500_000


def address_inside(client: docker.DockerClient, project: Project, service: str) -> str:
    """Return the container's address: the engine's port proxy has a limit of its own."""
    networks = client.containers.get(f"devenv-{project.id}-{service}").attrs["NetworkSettings"]["Networks"]
    return str(next(iter(networks.values()))["IPAddress"])


def test_rabbitmq_has_all_connections_and_channels_at_the_same_time_and_refuses_more(
    project: Project, client: docker.DockerClient
) -> None:
    project.configure("profile: messaging\n")
    project.devenv("up")
    env = project.env()
    login = {"userid": env["DEVENV_RABBITMQ_USER"], "password": env["DEVENV_RABBITMQ_PASSWORD"]}
    address = address_inside(client, project, "rabbitmq")

    def connected() -> amqp.Connection:
        connection = amqp.Connection(address, virtual_host=env["DEVENV_RABBITMQ_VHOST"], **login)
        connection.connect()
        return connection

    with file_limit(MOST_CONNECTIONS + 512), ExitStack() as stack:
        held: list[amqp.Connection] = []
        with pytest.raises(amqp.NotAllowed, match=r"node connection limit \(4096\) is reached"):
            for _ in range(MOST_CONNECTIONS + 1):
                held.append(connected())
                stack.callback(held[-1].collect)
                for _ in range(MOST_CHANNELS // MOST_CONNECTIONS):
                    held[-1].channel()
        assert len(held) == MOST_CONNECTIONS
        # It still works, and says why nobody else can connect.
        channel = held[0].channels[1]
        channel.queue_declare("held", durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"})
        assert "node connection limit (4096) is reached" in project.reason("rabbitmq")
        with pytest.raises(amqp.AMQPError):
            held[1].channel()
    project.devenv("wait", "rabbitmq")


class Keys:
    """A session with etcd."""

    def __init__(self, url: str) -> None:
        self._url, self._session = url, requests.Session()
        self._session.trust_env = False

    def put(self, values: Mapping[str, bytes]) -> int:
        """Put keys in one transaction; return the status of the answer."""
        coded = [{"key": _coded(key.encode()), "value": _coded(value)} for key, value in values.items()]
        return self.ask("kv/txn", {"success": [{"requestPut": put} for put in coded]}).status_code

    def ask(self, path: str, body: Mapping[str, Any]) -> requests.Response:
        return self._session.post(f"{self._url}/v3/{path}", json=body, timeout=60)


def _coded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture
def etcd(project: Project) -> Keys:
    project.configure("profile: coordination\n")
    project.devenv("up")
    return Keys(project.env()["DEVENV_ETCD_URL"])


def test_etcd_takes_the_largest_write_again_and_again(project: Project, etcd: Keys) -> None:
    # Each version counts for the quota until etcd compacts them, and its pages are not quite full.
    for _ in range(QUOTA * 3 // 4 // LARGEST_REQUEST):
        assert etcd.put({"a": bytes(LARGEST_REQUEST)}) == 200
    assert project.reason("etcd") == ""


def test_a_full_etcd_says_so_and_works_again_once_its_data_is_less(project: Project, etcd: Keys) -> None:
    written = 0
    while etcd.put({f"{written:09}.{number}": bytes(4096) for number in range(128)}) == 200:
        written += 128 * 4096
    assert QUOTA / 2 < written < QUOTA
    assert project.reason("etcd").startswith("alarm NOSPACE")
    # What docs/troubleshooting.md says, without the ten minutes until etcd compacts by itself.
    revision = etcd.ask("kv/deleterange", {"key": "AA==", "range_end": "AA=="}).json()["header"]["revision"]
    etcd.ask("kv/compaction", {"revision": revision, "physical": True}).raise_for_status()
    project.devenv("exec", "etcd", "etcdctl", "defrag")
    project.devenv("exec", "etcd", "etcdctl", "alarm", "disarm")
    assert project.reason("etcd") == ""
    assert etcd.put({"a": b"b"}) == 200


def test_etcd_drops_old_versions_of_keys_by_itself(checkout: Path, project: Project) -> None:
    settings = checkout / "compose/etcd/etcd.yaml"
    usual = settings.read_text()
    settings.write_text(usual.replace("auto-compaction-retention: 5m", "auto-compaction-retention: 1s"))
    assert settings.read_text() != usual
    project.configure("profile: coordination\n")
    project.process("up")
    etcd = Keys(project.env()["DEVENV_ETCD_URL"])
    assert etcd.put({"a": b"old"}) == etcd.put({"a": b"new"}) == 200
    latest = {"key": _coded(b"a")}
    revision = int(etcd.ask("kv/range", latest).json()["header"]["revision"])
    # etcd answers with the old version until it drops that, two seconds later.
    while (answer := etcd.ask("kv/range", {**latest, "revision": revision - 1})).ok:
        assert answer.json()["kvs"][0]["value"] == _coded(b"old")
    assert "required revision has been compacted" in answer.text
    assert etcd.ask("kv/range", latest).json()["kvs"][0]["value"] == _coded(b"new")


def test_each_of_many_watchers_of_etcd_is_told(project: Project, etcd: Keys) -> None:
    url = urlsplit(project.env()["DEVENV_ETCD_URL"])
    wanted = json.dumps({"create_request": {"key": _coded(b"a")}})
    with file_limit(WATCHERS + 512), ExitStack() as stack:
        answers = []
        for _ in range(WATCHERS):
            connection = HTTPConnection(url.hostname or "", url.port, timeout=60)
            stack.callback(connection.close)
            connection.request("POST", "/v3/watch", wanted)
            answers.append(connection.getresponse())
        assert all("created" in json.loads(answer.readline())["result"] for answer in answers)
        assert etcd.put({"a": b"b"}) == 200
        events = [json.loads(answer.readline())["result"]["events"] for answer in answers]
        assert {event["kv"]["value"] for (event,) in events} == {_coded(b"b")}
        assert project.reason("etcd") == ""


def test_keystone_serves_every_client_that_keeps_its_connection(project: Project) -> None:
    project.configure("profile: identity\n")
    project.devenv("up")
    url = urlsplit(project.env()["OS_AUTH_URL"])
    with file_limit(MOST_CLIENTS + 512), ExitStack() as stack:
        held = []
        for _ in range(MOST_CLIENTS):
            held.append(HTTPConnection(url.hostname or "", url.port, timeout=60))
            stack.callback(held[-1].close)
            held[-1].connect()
        # Each asks while all others are open, and twice, on the same connection.
        for connection in [*held, *held]:
            connection.request("GET", url.path)
            answer = connection.getresponse()
            assert (answer.status, answer.headers["Connection"]) == (200, None) and answer.read()
        assert project.reason("keystone") == ""
