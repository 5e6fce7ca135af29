"""Two processes of a component coordinate through tooz, with [coordination] backend_url."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from types import ModuleType

import pytest
from wired import Peer, Wired

Pair = tuple[Peer, Peer]
LEASE_SECONDS = 2


def coordinator(wired: Wired, name: str, suffix: str = "") -> AbstractContextManager[Peer]:
    return wired.peer("tooz_peer.py", name, suffix, "--config-file", wired.overlay())


@pytest.fixture(scope="module")
def peers(wired: Wired) -> Iterator[Pair]:
    with coordinator(wired, "one") as one, coordinator(wired, "two") as two:
        yield one, two


def test_a_lock_is_refused_to_another_process_until_it_is_released(peers: Pair) -> None:
    one, two = peers
    assert one.ask("acquire", "a-lock") is True
    assert two.ask("acquire", "a-lock") is False
    assert one.ask("release", "a-lock") is True
    assert two.ask("acquire", "a-lock") is True
    assert two.ask("release", "a-lock") is True


def test_members_of_a_group_see_each_other_come_and_go(peers: Pair) -> None:
    one, two = peers
    one.ask("join", "a-group")
    two.ask("join", "a-group")
    assert one.ask("heartbeat") > 0
    assert one.ask("members", "a-group") == two.ask("members", "a-group") == ["one", "two"]
    two.ask("leave", "a-group")
    assert one.ask("members", "a-group") == ["one"]


def test_a_member_that_was_killed_is_gone_once_its_lease_ends(wired: Wired, peers: Pair, etcd3gw: ModuleType) -> None:
    one, _ = peers
    one.ask("join", "mourners")
    client = etcd3gw.client(**wired.clients()["etcd3gw"])
    with coordinator(wired, "short-lived", f"&membership_timeout={LEASE_SECONDS}") as other:
        other.ask("join", "mourners")
        assert one.ask("members", "mourners") == ["one", "short-lived"]
        revision = int(client.status()["header"]["revision"]) + 1
        other.kill()
    # The key is tooz's own layout; tooz itself has nothing to wait on.
    gone = client.watch_once("tooz/groups/mourners/short-lived", timeout=20, start_revision=revision)
    assert gone["type"] == "DELETE"
    assert one.ask("members", "mourners") == ["one"]
