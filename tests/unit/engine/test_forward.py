"""The supervisor that forwards ports: a real process, with a dialler that connects to sockets of this host."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devenv.engine import forward, supervisor
from devenv.engine.forward import Way, end, ensure, fault, forwarded
from devenv.errors import NoEngine, PortTaken
from devenv.ports import free_port
from devenv.store.locks import is_held

DIALLER = '''
import asyncio
import os
from pathlib import Path

from devenv.engine.supervisor import Closed, SocketStream


class Dialler:
    """Connects to "HOST:PORT"; down while its file "down" exists, refused while "forbidden" does."""

    def __init__(self, settings):
        self.folder = Path(settings["folder"])
        assert Path(settings["sockets"]).stat().st_mode & 0o777 == 0o700

    async def open(self, suspect):
        if (self.folder / "forbidden").exists():
            raise Closed("nobody may", "ask for it")

    async def dial(self, destination):
        if (self.folder / "down").exists():
            raise OSError("the way is down")
        host, _, port = destination.partition(":")
        return SocketStream(*await asyncio.open_connection(host, int(port)))

    async def close(self):
        pass
'''


@pytest.fixture
def way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Way:
    """Return a way through a dialler that only the supervisor can import, by a name of this test."""
    (tmp_path / "example_dialler.py").write_text(DIALLER)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    return Way("example_dialler:Dialler", {"folder": str(tmp_path)})


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "forward"
    end(tmp_path / "forward")


@pytest.fixture
def server() -> Iterator[int]:
    """Run a server that answers all that it got, once its client has ended; return its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    client, _ = listening.accept()
                except OSError:
                    return
                with client, client.makefile("rb") as stream:
                    client.sendall(stream.read().upper())

        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


def ask(port: int, text: bytes = b"hello") -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(text)
        client.shutdown(socket.SHUT_WR)
        with client.makefile("rb") as stream:
            return stream.read()


def pid_of(folder: Path) -> int:
    return int(json.loads((folder / forward.PROCESS).read_text())["pid"])


def sockets_of(folder: Path) -> Path:
    return Path(json.loads((folder / forward.PROCESS).read_text())["sockets"])


def until(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_port_leads_to_its_destination_and_each_side_can_end_first(folder: Path, way: Way, server: int) -> None:
    port = free_port(())
    ensure(folder, way, {port: f"127.0.0.1:{server}"})
    assert forwarded(folder) == {port} and fault(folder) == ""
    long = b"x" * 3_000_000
    assert ask(port) == b"HELLO" and ask(port, long) == long.upper()
    sockets = sockets_of(folder)
    end(folder)
    assert forwarded(folder) == frozenset() and not folder.exists() and not sockets.exists()
    with pytest.raises(ConnectionRefusedError):
        ask(port)
    end(folder)


def test_one_process_takes_other_ports_and_gives_up_those_that_nobody_wants(
    folder: Path, way: Way, server: int
) -> None:
    one, two = free_port(()), free_port(())
    ensure(folder, way, {one: f"127.0.0.1:{server}"})
    pid = pid_of(folder)
    ensure(folder, way, {two: f"127.0.0.1:{server}"})
    assert pid_of(folder) == pid and forwarded(folder) == {two} and ask(two) == b"HELLO"
    with pytest.raises(ConnectionRefusedError):
        ask(one)


def test_a_port_of_another_program_is_named_and_nothing_is_left(folder: Path, way: Way, server: int) -> None:
    with pytest.raises(PortTaken, match=rf"cannot forward 127.0.0.1:{server} .*pid {os.getpid()}.* has the port here"):
        ensure(folder, way, {server: "127.0.0.1:1"})
    assert forwarded(folder) == frozenset() and not is_held(folder / forward.LIFE)
    port = free_port(())
    ensure(folder, way, {port: f"127.0.0.1:{server}"})
    with pytest.raises(PortTaken):
        ensure(folder, way, {port: f"127.0.0.1:{server}", server: "127.0.0.1:1"})
    assert forwarded(folder) == {port} and ask(port) == b"HELLO"


def test_nobody_listening_over_there_ends_a_connection(folder: Path, way: Way) -> None:
    port = free_port(())
    ensure(folder, way, {port: f"127.0.0.1:{free_port(())}"})
    with pytest.raises(ConnectionResetError):
        ask(port)


def test_a_connection_waits_while_the_way_is_down(folder: Path, way: Way, server: int, tmp_path: Path) -> None:
    port = free_port(())
    ensure(folder, way, {port: f"127.0.0.1:{server}"})
    (tmp_path / "down").touch()
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(b"early")
        client.shutdown(socket.SHUT_WR)
        (tmp_path / "down").unlink()
        assert client.recv(100) == b"EARLY"


def test_a_way_that_is_closed_is_told_with_its_cause_and_nothing_is_left(
    folder: Path, way: Way, server: int, tmp_path: Path
) -> None:
    (tmp_path / "forbidden").touch()
    port = free_port(())
    with pytest.raises(NoEngine, match="cannot forward ports: nobody may") as caught:
        ensure(folder, way, {port: f"127.0.0.1:{server}"})
    assert caught.value.hint == "ask for it" and forwarded(folder) == frozenset()
    until(lambda: not is_held(folder / forward.LIFE))
    with pytest.raises(ConnectionRefusedError):
        ask(port)
    (tmp_path / "forbidden").unlink()
    ensure(folder, way, {port: f"127.0.0.1:{server}"})
    # Later it keeps its ports, says so, and opens the way again by itself.
    (tmp_path / "forbidden").touch()
    until(lambda: fault(folder) == "nobody may")
    assert forwarded(folder) == frozenset()
    (tmp_path / "forbidden").unlink()
    until(lambda: forwarded(folder) == {port})


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
def test_one_that_was_killed_or_hangs_is_replaced(
    folder: Path, way: Way, server: int, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "_ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(forward, "_OPEN_SECONDS", 2.0 if number == signal.SIGSTOP else 60.0)
    port = free_port(())
    ensure(folder, way, {port: f"127.0.0.1:{server}"})
    first, sockets = pid_of(folder), sockets_of(folder)
    os.kill(first, number)
    if number == signal.SIGTERM:
        until(lambda: not is_held(folder / forward.LIFE))
    ensure(folder, way, {port: f"127.0.0.1:{server}"})
    assert pid_of(folder) != first and ask(port) == b"HELLO" and not sockets.exists()


@pytest.mark.parametrize("gone", ["folder", "watched"])
def test_it_ends_by_itself_when_its_environment_is_gone(
    folder: Path, way: Way, server: int, tmp_path: Path, gone: str
) -> None:
    (watched := tmp_path / "record.json").touch()
    port = free_port(())
    ensure(folder, way, {port: f"127.0.0.1:{server}"}, watch=watched)
    pid, sockets = pid_of(folder), sockets_of(folder)
    if gone == "watched":
        watched.unlink()
    else:
        folder.rename(tmp_path / "other")
    until(lambda: not Path(f"/proc/{pid}").exists() and not sockets.exists())


def test_a_number_on_record_that_another_process_has_by_now_is_left_alone(folder: Path, way: Way, server: int) -> None:
    folder.mkdir(mode=0o700)
    (folder / forward.LIFE).touch(mode=0o600)
    (folder / forward.PROCESS).write_text(json.dumps({"pid": os.getpid(), "sockets": "/nowhere/devenv-x"}))
    ensure(folder, way, {free_port(()): f"127.0.0.1:{server}"})


def test_it_does_not_import_what_lies_in_the_working_directory(
    folder: Path, way: Way, server: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "project/devenv").mkdir(parents=True)
    (tmp_path / "project/devenv/__init__.py").write_text("raise SystemExit('another devenv')")
    monkeypatch.chdir(tmp_path / "project")
    ensure(folder, way, {free_port(()): f"127.0.0.1:{server}"})


def test_the_known_diallers_are_named_by_kind() -> None:
    assert supervisor.DIALLERS["ssh"] == "devenv.engine.tunnel:Dialler"
