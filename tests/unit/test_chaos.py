"""The chaos harness itself: the proxy passes on all that an engine says, its faults are what they are said to be."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_http_engine import HttpEngine, http_engine

from devenv.enginehttp import HttpClient, NoAnswer, Refused
from tests.chaos import pages
from tests.chaos.case import Case, Outcome
from tests.chaos.proxy import Plan, Proxy, proxy


@pytest.fixture
def engine() -> Iterator[HttpEngine]:
    with http_engine() as fake:
        fake.answers["GET /containers/json"] = (200, ["one"])
        yield fake


@pytest.fixture
def between(engine: HttpEngine, tmp_path: Path) -> Iterator[Proxy]:
    with proxy(tmp_path / "s", engine.url.removeprefix("unix://")) as made:
        yield made


def faulty(between: Proxy, fault: str) -> tuple[HttpClient, Plan]:
    """A client whose next request but one, as the first is a ping, meets the fault."""
    between.follow(plan := Plan(fault, 2))
    return HttpClient(between.url), plan


def test_requests_are_counted_and_described_without_what_differs(engine: HttpEngine, between: Proxy) -> None:
    engine.other = lambda _: (204, b"")
    between.follow(plan := Plan())
    client = HttpClient(between.url)
    client.ask("POST", "/containers/0123abc/start")
    client.ask("DELETE", "/images/devenv/golden:mysql-data")
    client.ask("POST", "/containers/create", {"name": "x"}, {"Image": "y"})
    assert plan.requests == [
        "GET /_ping",
        "POST /containers/…/start",
        "DELETE /images/…",
        "POST /containers/create",
    ]
    assert engine.connections == 1


def test_bodies_go_through_in_both_directions(engine: HttpEngine, between: Proxy) -> None:
    data = b"0123456789" * 200_000
    engine.other = lambda asked: (200, asked.body)
    client = HttpClient(between.url)
    assert b"".join(client.stream("PUT", "/x", body=data)) == data
    assert b"".join(client.stream("POST", "/x", body=iter([data[:7], data[7:]]))) == data
    assert engine.asked[-1].whole


def test_a_body_that_breaks_off_breaks_off_at_the_engine(engine: HttpEngine, between: Proxy) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise ValueError("no more")

    client = HttpClient(between.url)
    with pytest.raises(ValueError, match="no more"):
        list(client.stream("POST", "/x", body=broken()))
    client.ask("GET", "/containers/json")
    assert not any(asked.whole for asked in engine.asked if asked.what == "POST /x")


def test_an_error_is_the_engines_that_has_done_nothing(engine: HttpEngine, between: Proxy) -> None:
    client, plan = faulty(between, "error")
    with pytest.raises(Refused, match="chosen to fail"):
        client.ask("GET", "/containers/json")
    assert engine.asked == []
    assert plan.hit == "GET /containers/json"
    assert client.ask("GET", "/containers/json") == ["one"]


@pytest.mark.parametrize("fault", ["drop", "truncate", "kill"])
def test_what_is_not_answered_is_done(engine: HttpEngine, between: Proxy, fault: str) -> None:
    client, plan = faulty(between, fault)
    killed: list[float] = []
    plan.kill = lambda: killed.append(time.monotonic())
    with pytest.raises(NoAnswer):
        client.ask("GET", "/containers/json")
    assert engine.whats == ["GET /containers/json"]
    assert bool(killed) == (fault == "kill")


def test_a_delayed_answer_comes(between: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("tests.chaos.proxy.time.sleep", slept.append)
    client, _ = faulty(between, "delay")
    assert client.ask("GET", "/containers/json") == ["one"]
    assert slept == [2.0]


def test_figures_name_what_was_not_survived(tmp_path: Path) -> None:
    outcomes = [
        Outcome(Case("up", "kill", 1), "GET /_ping", 1.0, ()),
        Outcome(Case("up", "kill", 2), "GET /networks", 1.0, ("volume x is left\nand more",)),
        Outcome(Case("up", "drop", 3), "", 1.0, ()),
    ]
    (tmp_path / "reliability.md").write_text("before\n<!-- sweep -->\nold\n<!-- end of sweep -->\nafter\n")
    about = {"date": "2026-11-25", "cores": 2, "engine": "20.10", "minutes": 3}
    pages.write(pages.figures({"up": 3}, outcomes, about), tmp_path)
    text = (tmp_path / "reliability.md").read_text()
    assert text.startswith("before\n<!-- sweep -->\n2026-11-25, 2 cores")
    assert text.endswith("<!-- end of sweep -->\nafter\n")
    assert "**2 cases run, 1 survived.**" in text
    assert "| up | 3 | 2 | 1 | 1 of 2 |  |  |  |  |" in text
    assert "- up, kill at request 2 (GET /networks): volume x is left\n" in text
