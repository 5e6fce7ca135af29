"""The engine's HTTP API over a real socket: requests, answers, and what happens when no answer comes."""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import pytest
from fake_http_engine import HttpEngine, http_engine

from devenv.engine.http import CHUNK, Client, HttpClient, NoAnswer, Refused, agreed, speaks, target, words_of
from devenv.engine.sdk import Sdk
from devenv.keepalive import _hung_up


@pytest.fixture
def engine() -> Iterator[HttpEngine]:
    with http_engine() as fake:
        fake.other = lambda asked: (200, {"asked": asked.what})
        yield fake


@pytest.fixture
def client(engine: HttpEngine) -> HttpClient:
    return HttpClient(engine.url)


# ---- what is sent ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "spoken"), [("1.41", "1.41"), ("1.24", "1.24"), ("1.44", "1.44"), ("1.52", "1.52"), ("1.60", "1.52")]
)
def test_the_version_is_the_newest_that_both_know(engine: HttpEngine, theirs: str, spoken: str) -> None:
    engine.api = theirs
    HttpClient(engine.url).ask("GET", "/info")
    assert engine.versions == {spoken}


def test_an_engine_that_is_too_old_is_refused() -> None:
    with pytest.raises(Refused, match=r"its API 1\.23 is older than 1\.24"):
        agreed("1.23")


@pytest.mark.parametrize("theirs", ["", "banana", "1", "1.41\nx"])
def test_what_names_no_version_is_no_engine(theirs: str) -> None:
    with pytest.raises(NoAnswer, match="no container engine"):
        agreed(theirs)


@pytest.mark.parametrize(
    ("path", "query", "sent"),
    [
        ("/info", None, "/info"),
        ("/images/a/b:1", {}, "/images/a/b:1"),
        ("/images/a@sha256:1", {}, "/images/a@sha256:1"),
        ("/volumes/ä b?c", None, "/volumes/%C3%A4%20b%3Fc"),
        ("/x", {"all": True, "t": 5, "tail": "all"}, "/x?all=true&t=5&tail=all"),
        ("/x", {"changes": ["A b", "C"]}, "/x?changes=A+b&changes=C"),
        ("/x", {"filters": {"label": "a=b"}}, "/x?filters=%7B%22label%22%3A+%5B%22a%3Db%22%5D%7D"),
    ],
)
def test_a_target_says_what_is_meant(path: str, query: dict[str, object] | None, sent: str) -> None:
    assert target(path, query) == sent


def test_a_mapping_is_sent_as_json_and_bytes_as_a_tar_file(client: HttpClient, engine: HttpEngine) -> None:
    client.ask("POST", "/a", body={"Name": "ü"})
    client.ask("PUT", "/b", {"path": "/x y"}, b"tar")
    client.ask("POST", "/c")
    a, b, c = engine.asked
    assert (a.json, a.kind) == ({"Name": "ü"}, "application/json")
    assert (b.body, b.kind, b.query) == (b"tar", "application/x-tar", {"path": ["/x y"]})
    assert (c.body, c.kind) == (b"", "")


@pytest.mark.parametrize("kind", ["HttpClient", "Sdk"])
def test_what_is_asked_is_logged_without_any_body(
    kind: str, client: HttpClient, engine: HttpEngine, caplog: pytest.LogCaptureFixture
) -> None:
    asks = client if kind == "HttpClient" else Sdk(engine.url, "default", "1.41")
    engine.other = lambda _: (200, {"password": "s3cret"})
    with caplog.at_level("DEBUG", "devenv"):
        asks.ask("POST", "/a/b", {"label": "x y"}, {"password": "s3cret"})
    (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("devenv.")]
    query = r"\?label=x y" if kind == "HttpClient" else ""
    assert re.fullmatch(rf"POST /v1\.\d+/a/b{query}: 200 after \d+ ms", line)


def test_a_stream_is_sent_whole(client: HttpClient, engine: HttpEngine) -> None:
    chunks = [b"1" * CHUNK, b"", b"2" * 10, b"3" * (CHUNK + 1)]
    client.ask("POST", "/images/create", body=iter(chunks))
    (asked,) = engine.asked
    assert asked.whole and asked.body == b"".join(chunks)


def test_a_stream_that_breaks_off_is_not_sent_whole(client: HttpClient, engine: HttpEngine) -> None:
    seen = threading.Event()

    def answer(_: object) -> tuple[int, Any]:
        seen.set()
        return 500, {"message": "unexpected EOF"}

    def broken() -> Iterator[bytes]:
        yield b"1" * CHUNK
        raise ZeroDivisionError

    engine.other = answer
    with pytest.raises(ZeroDivisionError):
        client.ask("POST", "/images/create", body=broken())
    assert seen.wait(20)
    assert [asked.whole for asked in engine.asked] == [False]


# ---- what comes back ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [204, 304])
def test_an_empty_answer_is_nothing(client: HttpClient, engine: HttpEngine, status: int) -> None:
    engine.other = lambda _: (status, b"")
    assert client.ask("POST", "/containers/c/start") is None
    assert client.ask("POST", "/containers/c/start") is None
    assert engine.connections == 1


def test_a_long_answer_comes_in_large_chunks(client: HttpClient, engine: HttpEngine) -> None:
    data = bytes(range(256)) * 12_000
    engine.other = lambda _: (200, data)
    chunks = list(client.stream("GET", "/x"))
    assert b"".join(chunks) == data and [len(c) for c in chunks] == [CHUNK, CHUNK, len(data) - 2 * CHUNK]


# ---- work that takes long ----------------------------------------------------------------------------------------


@pytest.fixture(params=["HttpClient", "Sdk"])
def either(request: pytest.FixtureRequest, engine: HttpEngine) -> Iterator[Client]:
    if request.param == "HttpClient":
        yield HttpClient(engine.url)
    else:
        sdk = Sdk(engine.url, "default", "1.41")
        yield sdk
        sdk._client.close()


def test_what_an_engine_tells_of_its_work_comes_line_by_line_while_it_works(either: Client, engine: HttpEngine) -> None:
    heard = threading.Event()

    def told() -> Iterator[bytes]:
        yield b'{"a": 1}\r\n{"b"'
        # Nothing more comes before somebody has the first line.
        assert heard.wait(20)
        yield b": 2}\r\n"

    engine.answers["POST /build"] = lambda _: (200, told())
    lines = either.lines("/build", {"t": "i"}, b"tar", {"X-Registry-Auth": "login"})
    first = next(lines)
    heard.set()
    assert [line.strip() for line in (first, *lines)] == [b'{"a": 1}', b'{"b": 2}']
    asked = engine.last("POST /build")
    assert (asked.query, asked.body, asked.login, asked.kind) == ({"t": ["i"]}, b"tar", "login", "application/x-tar")


def test_lines_of_an_answer_of_known_length_are_whole(
    client: HttpClient, engine: HttpEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def uncounted(answer: HTTPResponse, size: int) -> bytes:
        """Read as Python 3.11.2 does: without counting."""
        before, data = answer.length, read1(answer, size)
        answer.length = before
        return data

    # Without the count, devenv would wait for more on the connection that the engine keeps open.
    monkeypatch.setattr("devenv.engine.http.WORK_TIMEOUT", 5)
    read1 = HTTPResponse.read1
    monkeypatch.setattr(HTTPResponse, "read1", uncounted)
    engine.answers["POST /build"] = lambda _: (200, b"{}\r\n")
    assert [line.strip() for line in client.lines("/build", {})] == [b"{}"]


def test_work_that_an_engine_refuses_or_does_not_finish_is_told(either: Client, engine: HttpEngine) -> None:
    with pytest.raises(Refused, match="no answer to POST /build"):
        engine.other = lambda asked: (500, {"message": f"no answer to {asked.what}"})
        next(either.lines("/build", {}))

    def broken() -> Iterator[bytes]:
        yield b"{}\r\n"
        raise BrokenPipeError

    engine.answers["POST /build"] = lambda _: (200, broken())
    lines = either.lines("/build", {})
    assert next(lines).strip() == b"{}"
    with pytest.raises(NoAnswer):
        next(lines)


def test_the_query_of_a_build_is_in_no_log(either: Client, caplog: pytest.LogCaptureFixture) -> None:
    query = {"buildargs": '{"http_proxy": "http://u:s3cret@proxy"}'}
    with caplog.at_level("DEBUG", "devenv"):
        list(either.lines("/build", query))
    assert caplog.records and "s3cret" not in caplog.text


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b'{"message": "No such container: x\\n"}', "No such container: x"),
        (b'{"cause": "no such container", "message": "no container: x", "response": 404}', "no container: x"),
        (b"page not found\n", "page not found"),
        (b"<html>\n no\n</html>", "<html> no </html>"),
        (b"[1]", "[1]"),
        (b"", "HTTP 404"),
    ],
)
def test_a_refusal_carries_the_engines_words_in_one_line(
    client: HttpClient, engine: HttpEngine, said: bytes, words: str
) -> None:
    engine.other = lambda _: (404, said)
    with pytest.raises(Refused) as caught:
        client.ask("GET", "/x")
    assert (str(caught.value), caught.value.status) == (words, 404)


def test_long_words_are_cut() -> None:
    assert len(words_of(b"x" * 10_000)) == 500


def test_a_refusal_of_something_long_can_be_read(tmp_path: Path) -> None:
    """An engine that answers before it has read everything, and hangs up."""

    def serve(listener: socket.socket) -> None:
        pong = b"HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        for answer in (pong, b"HTTP/1.1 400 No\r\nContent-Length: 13\r\n\r\nnot that name"):
            with listener.accept()[0] as connection:
                connection.recv(1000)
                connection.sendall(answer)

    with socket.socket(socket.AF_UNIX) as listener, ThreadPoolExecutor(1) as pool:
        listener.bind(str(path := tmp_path / "s"))
        listener.listen()
        served = pool.submit(serve, listener)
        with pytest.raises((Refused, NoAnswer, ConnectionResetError)):
            HttpClient(f"unix://{path}").ask("POST", "/x", body=(b"1" * CHUNK for _ in range(50)))
        served.result(20)


# ---- connections -------------------------------------------------------------------------------------------------


def test_one_connection_does_for_one_question_after_another(client: HttpClient, engine: HttpEngine) -> None:
    for _ in range(5):
        client.ask("GET", "/x")
    engine.other = lambda _: (404, {"message": "no"})
    for _ in range(3):
        with pytest.raises(Refused):
            client.ask("GET", "/x")
    assert engine.connections == 1


def test_threads_do_not_share_a_connection_at_a_time(client: HttpClient, engine: HttpEngine) -> None:
    together = threading.Barrier(4)

    def answer(_: object) -> tuple[int, Any]:
        together.wait(20)
        return 200, {}

    engine.other = answer
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            list(pool.map(lambda n: client.ask("GET", f"/{n}"), range(4)))
    assert engine.connections == 4


def test_a_connection_that_the_engine_closed_meanwhile_is_not_used_again(engine: HttpEngine) -> None:
    engine.hasty = True
    client = HttpClient(engine.url)
    for n in range(4):
        (idle,) = client._connections._idle
        while not _hung_up(idle.sock):
            time.sleep(0.001)  # The engine's thread closes it after the answer.
        assert client.ask("GET", f"/{n}") == {"asked": f"GET /{n}"}
    assert engine.connections == 5


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_does_not_use_the_connections_of_its_parent(client: HttpClient, engine: HttpEngine) -> None:
    (before,) = client._connections._idle
    if not (child := os.fork()):
        os._exit(client.ask("GET", "/child") != {"asked": "GET /child"})
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert engine.connections == 2
    assert client.ask("GET", "/parent") == {"asked": "GET /parent"}
    assert engine.connections == 2 and client._connections._idle == [before]


def test_an_answer_that_nobody_wants_to_the_end_takes_its_connection_with_it(
    client: HttpClient, engine: HttpEngine
) -> None:
    engine.other = lambda _: (200, b"1" * 4 * CHUNK)
    stream = client.stream("GET", "/x")
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    engine.other = lambda _: (200, {"fine": 1})
    assert client.ask("GET", "/y") == {"fine": 1}
    assert engine.connections == 2


HALF = b"HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Length: 9\r\n\r\nO"
HALF_A_HEAD = b"HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Le"


@pytest.mark.parametrize("answer", [b"", b"banana\r\n\r\n", HALF, HALF_A_HEAD])
def test_what_hangs_up_is_no_engine(tmp_path: Path, answer: bytes) -> None:
    def serve(listener: socket.socket) -> None:
        with listener.accept()[0] as connection:
            connection.recv(1000)
            connection.sendall(answer)

    with socket.socket(socket.AF_UNIX) as listener, ThreadPoolExecutor(1) as pool:
        listener.bind(str(path := tmp_path / "s"))
        listener.listen()
        served = pool.submit(serve, listener)
        with pytest.raises(OSError):
            HttpClient(f"unix://{path}")
        served.result(20)


@pytest.mark.parametrize("said", [b"<html>", b'{"half": '])
def test_an_answer_that_is_no_json_is_not_an_engines(client: HttpClient, engine: HttpEngine, said: bytes) -> None:
    engine.other = lambda _: (200, said)
    with pytest.raises(NoAnswer, match="no container engine"):
        client.ask("GET", "/x")


def test_an_engine_that_says_nothing_is_given_up(client: HttpClient, engine: HttpEngine) -> None:
    go_on = threading.Event()

    def answer(_: object) -> tuple[int, Any]:
        go_on.wait(20)
        return 200, {}

    engine.other = answer
    with pytest.raises(TimeoutError):
        client.ask("GET", "/x", timeout=0.05)
    go_on.set()


@pytest.mark.parametrize(
    ("url", "spoken"),
    [
        ("unix:///run/x.sock", True),
        ("tcp://127.0.0.1:2375", True),
        ("tcp://build-host.lan:2375/", True),
        ("unix://x.sock", False),
        ("unix://", False),
        ("tcp://", False),
        ("tcp://host", False),
        ("tcp://[::1]:2375", False),
        ("tcp://user@host:1", False),
        ("http://127.0.0.1:2375", False),
        ("https://127.0.0.1:2376", False),
        ("ssh://me@host:22", True),
        ("banana", False),
    ],
)
def test_only_plain_endpoints_are_spoken_to(url: str, spoken: bool) -> None:
    assert speaks(url) is spoken
