"""Two processes of a component reach each other over the wired transport_url, through quorum queues."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import requests
from wired import Peer, Wired

Pair = tuple[Peer, Peer]


@pytest.fixture(scope="module")
def peers(wired: Wired) -> Iterator[Pair]:
    """Start one peer as any program of a component, and one with the options that a test gets from devenv."""
    with (
        wired.peer("messaging_peer.py", "one", "--config-file", wired.overlay()) as one,
        wired.peer("messaging_peer.py", "two", "lent", wired.overlay()) as two,
    ):
        for peer in (one, two):
            peer.tell("serve")
        one.answer(), two.answer()
        one.ask("listen")
        yield one, two


def test_both_quorum_options_come_from_the_overlay(peers: Pair) -> None:
    assert peers[0].ask("options") == [True, True]


def test_a_call_is_answered_by_the_other_process(peers: Pair) -> None:
    one, two = peers
    assert two.ask("call", "one") == "one, asked by two"
    assert one.ask("call", "two") == "two, asked by one"


def test_nova_jsons_url_leads_to_the_same_place(wired: Wired, peers: Pair) -> None:
    assert peers[1].ask("call", "one", wired.clients()["oslo_messaging"]) == "one, asked by two"


def test_a_fanout_cast_reaches_every_server(peers: Pair) -> None:
    one, two = peers
    two.ask("fanout", "to all")
    assert one.ask("received") == two.ask("received") == "to all"


def test_a_notification_reaches_a_listener(peers: Pair) -> None:
    one, two = peers
    two.ask("notify", "instance.create", {"id": 1})
    assert one.ask("received") == ["two", "instance.create", {"id": 1}]


def test_every_queue_is_a_quorum_queue(wired: Wired, peers: Pair) -> None:
    peers[1].ask("call", "one")  # So that there is a queue for answers, too.
    admin = wired.project.env()
    answer = requests.get(
        f"{admin['DEVENV_RABBITMQ_MANAGEMENT_URL']}/api/queues/{wired.clients()['amqp']['virtual_host']}",
        auth=(admin["DEVENV_RABBITMQ_USER"], admin["DEVENV_RABBITMQ_PASSWORD"]),
        timeout=10,
    )
    kinds = ("consumers", "consumers.one", "consumers_fanout", "reply_", "notifications.info")
    # Others use the vhost, too.
    queues = {queue["name"]: queue["type"] for queue in answer.json() if queue["name"].startswith(kinds)}
    for kind in kinds:
        assert any(queue.startswith(kind) for queue in queues), queues
    assert set(queues.values()) == {"quorum"}, queues
