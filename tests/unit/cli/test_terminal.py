"""`devenv exec` joins input and output of this process to a socket; a test holds its other end. And merged logs."""

from __future__ import annotations

import io
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fake_engine import frame

from devenv.cli import terminal
from devenv.engine.streams import Frames
from devenv.errors import NoEngine

Command = Callable[[socket.socket], None]
MANY = os.urandom(5_000_000)


class FakeEngine:
    """An engine with one session: its container is a function in a thread of its own, which has the other end."""

    def __init__(self, command: Command) -> None:
        self._command = command
        self._inside: socket.socket | None = None

    def execute(self, container: str, command: list[str], tty: bool, environment: object = None) -> FakeEngine:
        self.stream, self._inside = socket.socketpair()
        self.stream.settimeout(5)  # as a real engine's, where it made a long input fail
        self._thread = threading.Thread(target=self._run, args=(self._inside,), daemon=True)
        self._thread.start()
        self.output = Frames().feed
        return self

    def _run(self, inside: socket.socket) -> None:
        with inside:
            self._command(inside)

    def exit_code(self) -> int:
        self._thread.join()
        return 3


def run(command: Command) -> int:
    engine: Any = FakeEngine(command)
    return terminal.run_in_container(engine, "etcd", ["cat"])


@pytest.fixture
def feed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str | Path], None]]:
    """Make a file the input of this process."""
    with ExitStack() as stack:
        yield lambda path: monkeypatch.setattr(sys, "stdin", stack.enter_context(Path(path).open()))


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Make a pipe the input of this process; return the end to write to."""
    reading, writing = os.pipe()
    with os.fdopen(reading) as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        yield writing


def cat(inside: socket.socket) -> None:
    while data := inside.recv(10_000):
        inside.sendall(frame(data))


def test_five_megabytes_of_a_file_go_in_and_come_out_whole(feed, tmp_path, capfdbinary):
    (tmp_path / "input").write_bytes(MANY)
    feed(tmp_path / "input")
    assert run(cat) == 3
    assert capfdbinary.readouterr().out == MANY


def test_five_megabytes_of_a_pipe_go_in_and_come_out_whole(pipe, capfdbinary):
    def write() -> None:
        with os.fdopen(pipe, "wb") as stream:
            stream.write(MANY)

    threading.Thread(target=write, daemon=True).start()
    assert run(cat) == 3
    assert capfdbinary.readouterr().out == MANY


def test_a_command_that_ends_without_reading_ends_the_run(feed, capfdbinary):
    feed("/dev/zero")
    assert run(lambda inside: inside.sendall(frame(b"out"))) == 3
    assert capfdbinary.readouterr().out == b"out"


def test_a_command_that_never_reads_can_say_as_much_as_it_likes(feed, capfdbinary):
    feed("/dev/zero")
    assert run(lambda inside: inside.sendall(frame(MANY))) == 3
    assert capfdbinary.readouterr().out == MANY


def test_an_engine_that_keeps_the_input_open_after_the_end_ends_the_run(feed, capfdbinary):
    done = threading.Event()

    def command(inside: socket.socket) -> None:
        inside.sendall(frame(b"out"))
        inside.shutdown(socket.SHUT_WR)
        done.wait(5)

    feed("/dev/zero")
    engine: Any = FakeEngine(command)
    engine.exit_code = lambda: 4
    assert terminal.run_in_container(engine, "etcd", ["true"]) == 4
    done.set()


def test_what_comes_after_the_command_closed_its_input_is_still_printed(feed, capfdbinary):
    def command(inside: socket.socket) -> None:
        inside.recv(10)
        inside.shutdown(socket.SHUT_RD)
        inside.sendall(frame(b"late") * 1000)

    feed("/dev/zero")
    assert run(command) == 3
    assert capfdbinary.readouterr().out == b"late" * 1000


@pytest.mark.parametrize("source", ["/dev/null", "/dev/zero"])
def test_a_device_is_an_input_like_any_other(feed, capfdbinary, source):
    def count(inside: socket.socket) -> None:
        inside.sendall(frame(str(len(inside.recv(3))).encode()))

    feed(source)
    assert run(count) == 3
    assert capfdbinary.readouterr().out == (b"0" if source == "/dev/null" else b"3")


@pytest.mark.parametrize("closed", [None, io.StringIO()])
def test_without_any_input_the_command_reads_its_end(monkeypatch, capfdbinary, closed):
    monkeypatch.setattr(sys, "stdin", closed)
    assert run(cat) == 3
    assert capfdbinary.readouterr().out == b""


def test_an_input_that_cannot_be_read_is_an_empty_one(monkeypatch, capfdbinary):
    folder = os.open("/", os.O_RDONLY)
    try:
        monkeypatch.setattr(terminal, "_input", lambda: folder)
        assert run(cat) == 3
    finally:
        os.close(folder)
    assert capfdbinary.readouterr().out == b""


def test_frames_in_pieces_reach_the_output_that_they_are_for(feed, capfdbinary):
    def command(inside: socket.socket) -> None:
        for byte in frame(b"one") + frame(b"two", output=2) + frame(b"") + frame(b"three"):
            inside.sendall(bytes([byte]))

    feed("/dev/null")
    assert run(command) == 3
    assert capfdbinary.readouterr() == (b"onethree", b"two")


def test_a_reader_of_ours_that_went_away_is_not_taken_for_the_container_s(feed, monkeypatch):
    class Gone(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, _: object) -> int:
            raise BrokenPipeError

    feed("/dev/null")
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(Gone(), write_through=True))
    with pytest.raises(BrokenPipeError):
        run(lambda inside: inside.sendall(frame(b"out")))


# ---- logs --------------------------------------------------------------------------------------------------------


class Logging:
    """An environment of two services; reading the log of one may fail before its end."""

    def __init__(self, end: Exception | None) -> None:
        self._end, self.engine = end, self

    def containers(self, services: Sequence[str]) -> dict[str, str]:
        return {name: f"id-{name}" for name in services}

    def follow(self, container: str, tail: object) -> Iterator[str]:
        yield f"first of {container}"
        if self._end and container == "id-etcd":
            raise self._end


def follow(end: Exception | None) -> None:
    environment: Any = Logging(end)
    terminal.print_logs(environment, ["etcd", "mysql"], follow=True, tail="all")


def test_logs_are_followed_until_all_have_ended(capsys: pytest.CaptureFixture[str]) -> None:
    follow(None)
    assert sorted(capsys.readouterr().out.splitlines()) == ["etcd  | first of id-etcd", "mysql | first of id-mysql"]


def test_a_log_that_cannot_be_followed_any_more_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NoEngine, match="hung up"):
        follow(NoEngine("cannot follow the logs: it hung up"))
    assert "first of id-etcd" in capsys.readouterr().out
