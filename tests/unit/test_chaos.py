"""The chaos harness itself: the proxy passes on all that an engine says, and each fault does what its name says."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fake_http_engine import HttpEngine, http_engine

from devenv.engine.http import HttpClient, NoAnswer, Refused
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
    """Return a client whose second request meets the fault; the first is a ping."""
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
    assert plan.hit == "GET /containers/json"
    assert bool(killed) == (fault == "kill")


def test_a_delayed_answer_comes(between: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("tests.chaos.proxy.time.sleep", slept.append)
    client, plan = faulty(between, "delay")
    assert client.ask("GET", "/containers/json") == ["one"]
    assert slept == [2.0]
    assert plan.hit == "GET /containers/json"


@contextmanager
def engine_that_says(path: Path, answer: bytes) -> Iterator[threading.Thread]:
    """Take one request, answer with these bytes, hang up, and end once the other side has hung up, too."""

    def serve() -> None:
        with listener.accept()[0] as asked:
            asked.recv(1 << 16)
            asked.sendall(answer)
            asked.shutdown(socket.SHUT_WR)
            while asked.recv(1 << 16):
                pass

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        yield thread
        thread.join()


@contextmanager
def connected(between: Proxy) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(between.url.removeprefix("unix://"))
        yield client


_EXEC = b"POST /exec/0123/start HTTP/1.1\r\nHost: docker\r\n\r\n"
_RAW = b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\nwhat a program says"


@pytest.mark.parametrize("fault", ["kill", "drop", "delay", "truncate"])
@pytest.mark.parametrize("answer", [b"", _RAW, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"])
def test_a_fault_that_cannot_be_applied_is_not_met(tmp_path: Path, fault: str, answer: bytes) -> None:
    with engine_that_says(tmp_path / "e", answer), proxy(tmp_path / "s", str(tmp_path / "e")) as between:
        between.follow(plan := Plan(fault, 1))
        with connected(between) as client:
            client.sendall(_EXEC)
            said = b"".join(iter(lambda: client.recv(1 << 16), b""))
    assert plan.requests == ["POST /exec/…/start"]
    assert plan.hit == ""
    assert said == (answer if answer == _RAW else b"")


def test_an_answer_that_nobody_waits_for_any_more_meets_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = b"HTTP/1.1 204 No Content\r\n\r\n"
    with engine_that_says(tmp_path / "e", answer) as engine, proxy(tmp_path / "s", str(tmp_path / "e")) as between:
        between.follow(plan := Plan("delay", 1))
        with connected(between) as client:
            monkeypatch.setattr("tests.chaos.proxy.time.sleep", lambda _: client.close())
            client.sendall(_EXEC)
            engine.join()
    assert plan.requests == ["POST /exec/…/start"]
    assert plan.hit == ""


def test_figures_name_what_was_not_survived(tmp_path: Path) -> None:
    outcomes = [
        Outcome(Case("up", "kill", 1), "GET /_ping", 1.0, ()),
        Outcome(Case("up", "kill", 2), "GET /networks", 1.0, ("volume x is left\nand more",)),
        Outcome(Case("up", "drop", 3), "", 1.0, ()),
    ]
    (tmp_path / "reliability.md").write_text("before\n<!-- sweep -->\nold\n<!-- end of sweep -->\nafter\n")
    about = {"date": "2026-11-25", "cores": 2, "engine": "20.10", "minutes": 3}
    pages.write({"up": pages.figures(3, outcomes, about)}, tmp_path)
    text = (tmp_path / "reliability.md").read_text()
    assert text.startswith("before\n<!-- sweep -->\n**2 cases run")
    assert text.endswith("<!-- end of sweep -->\nafter\n")
    assert "**2 cases run, 1 survived.** Not met: 1." in text
    assert "another run may send fewer requests or more; no case covers additional ones" in text
    assert "| up | 2026-11-25 | 3 | 2 | 1 | 1 of 2 |  |  |  |  |" in text
    assert "- Not survived: up, kill at request 2 (GET /networks): volume x is left\n" in text


def test_a_scenario_that_is_swept_keeps_the_figures_of_others(tmp_path: Path) -> None:
    (tmp_path / "reliability.md").write_text("<!-- sweep -->\n<!-- end of sweep -->\n")
    for name, date in (("reset", "first"), ("up", "second"), ("reset", "third")):
        about = {"date": date, "cores": 2, "engine": "20.10", "minutes": 3}
        outcomes = [Outcome(Case(name, "kill", 1), "GET /_ping", 1.0, ())]
        pages.write({name: pages.figures(1, outcomes, about)}, tmp_path)
    text = (tmp_path / "reliability.md").read_text()
    assert "**2 cases run, 2 survived.**" in text
    assert text.index("| up | second | 1 | 1 | 1 |") < text.index("| reset | third | 1 | 1 | 1 |")
    assert "first" not in text
