"""The docker library behind devenv's client: what it reads and does not hand on."""

from __future__ import annotations

import re
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingUnixStreamServer

import pytest

from devenv.engine.sdk import Sdk
from devenv.engine.streams import DockerSession

UPGRADED = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
CREATED = b'HTTP/1.1 201 Created\r\nContent-Length: 13\r\n\r\n{"Id": "run"}'


def frame(data: bytes) -> bytes:
    return bytes([1, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


class Engine(StreamRequestHandler):
    """An engine whose command has said something before the engine answers, and says more afterwards."""

    first = b""

    def handle(self) -> None:
        while request := self.rfile.readline():
            length = 0
            while (line := self.rfile.readline()) != b"\r\n":
                if found := re.fullmatch(rb"(?i)content-length: (\d+)\r\n", line):
                    length = int(found[1])
            self.rfile.read(length)
            if b"/start" not in request:
                self.wfile.write(CREATED)
                continue
            self.wfile.write(UPGRADED + self.first)
            self.rfile.readline()
            self.wfile.write(frame(b"second"))
            return


class Server(ThreadingUnixStreamServer):
    # The client keeps its first connection open.
    daemon_threads = True


@pytest.fixture
def url() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="devenv-") as folder:
        path = Path(folder) / "e.sock"
        with Server(str(path), Engine) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"unix://{path}"
            server.shutdown()


@pytest.mark.parametrize("first", [frame(b"first "), b""], ids=["early", "late"])
def test_output_that_comes_with_the_answer_is_not_lost(url: str, first: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "first", first)
    run, stream, early = Sdk(url, "test", "1.41").execute("etcd", ["echo"], False)
    session = DockerSession(None, run, stream, early, False)  # type: ignore[arg-type]
    with stream:
        parts = session.output(b"")
        assert parts == ([(1, b"first ")] if first else [])
        stream.sendall(b"go on\n")
        while data := stream.recv(4096):
            parts += session.output(data)
    assert b"".join(text for _, text in parts) == first[8:] + b"second"
