"""Both of etcd's Python clients work from the keyword arguments of nova.json, below the component's prefix."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from wired import Wired

WATCH_SECONDS = 20


@pytest.fixture(scope="module")
def prefix(wired: Wired) -> str:
    found: str = wired.clients()["etcd"]["prefix"]
    assert found == "/nova/"
    return found


@pytest.fixture
def gateway(wired: Wired, etcd3gw: ModuleType) -> Iterator[Any]:
    client = etcd3gw.client(**wired.clients()["etcd3gw"])
    yield client
    client.session.close()


@pytest.fixture
def grpc(wired: Wired, etcd3: ModuleType) -> Iterator[Any]:
    with etcd3.client(**wired.clients()["etcd3"]) as client:
        yield client


def test_etcd3gw_keeps_and_deletes_a_key(gateway: Any, prefix: str) -> None:
    gateway.put(f"{prefix}gateway/key", "grüße".encode())  # It encodes a str as Latin-1.
    assert gateway.get(f"{prefix}gateway/key") == ["grüße".encode()]
    assert gateway.delete(f"{prefix}gateway/key") is True
    assert gateway.get(f"{prefix}gateway/key") == []


def test_etcd3gw_watches_what_happens_below_the_prefix(gateway: Any, prefix: str) -> None:
    revision = int(gateway.status()["header"]["revision"]) + 1
    gateway.put(f"{prefix}gateway/watched", "new")
    seen = gateway.watch_prefix_once(prefix, timeout=WATCH_SECONDS, start_revision=revision)
    assert (seen["kv"]["key"], seen["kv"]["value"]) == (f"{prefix}gateway/watched".encode(), b"new")


def test_etcd3gw_loses_a_key_with_its_lease(gateway: Any, prefix: str) -> None:
    lease = gateway.lease(ttl=60)
    gateway.put(f"{prefix}gateway/leased", "short", lease=lease)
    assert lease.keys() == [f"{prefix}gateway/leased".encode()]
    lease.revoke()
    assert gateway.get(f"{prefix}gateway/leased") == []


def test_etcd3_keeps_and_deletes_a_key(grpc: Any, prefix: str) -> None:
    grpc.put(f"{prefix}grpc/key", "grüße")
    assert grpc.get(f"{prefix}grpc/key")[0] == "grüße".encode()
    assert grpc.delete(f"{prefix}grpc/key") is True
    assert grpc.get(f"{prefix}grpc/key")[0] is None


@pytest.mark.usefixtures("etcd3")
def test_etcd3_watches_a_key_come_and_go_with_its_lease(wired: Wired, prefix: str) -> None:
    # In a process of its own, because nothing ends the thread that watches.
    seen = wired.run("watch_a_lease.py", json.dumps(wired.clients()["etcd3"]), f"{prefix}grpc/leased")
    assert seen == ["PutEvent", "short", "DeleteEvent"]
