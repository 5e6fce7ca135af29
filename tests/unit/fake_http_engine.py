"""An engine behind a real socket: it keeps every request, and gives the answers that a test set."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Answer = tuple[int, Any]


@dataclass(frozen=True)
class Asked:
    """A request; `whole` says whether all of its body came, `connection` is the number of its connection."""

    what: str
    query: dict[str, list[str]]
    body: bytes
    whole: bool
    kind: str
    connection: int
    login: str = ""

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class HttpEngine:
    """`answers` holds a status and JSON (or bytes) by "METHOD /path", or a function that makes them from a request.

    The function may return an iterator of bytes: each goes out as it comes.
    """

    url: str = ""
    api: str = "1.41"
    answers: dict[str, Answer | Callable[[Asked], Answer]] = field(default_factory=dict)
    # The answer to any other request.
    other: Callable[[Asked], Answer] = lambda asked: (404, {"message": f"no answer to {asked.what}"})
    asked: list[Asked] = field(default_factory=list)
    versions: set[str] = field(default_factory=set)
    connections: int = 0
    # Hang up after each answer.
    hasty: bool = False

    @property
    def whats(self) -> list[str]:
        return [asked.what for asked in self.asked]

    def last(self, what: str) -> Asked:
        return [asked for asked in self.asked if asked.what == what][-1]

    def answer(self, asked: Asked) -> Answer:
        found = self.answers.get(asked.what, self.other)
        return found(asked) if callable(found) else found


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that has hung up wants no answer; some tests hang up.
        if not isinstance(sys.exception(), BrokenPipeError):
            super().handle_error(request, client_address)


@contextmanager
def http_engine() -> Iterator[HttpEngine]:
    """Run an engine behind a socket."""
    # Use a short path: a socket's path takes at most 107 letters.
    folder = Path(tempfile.mkdtemp(prefix="devenv-"))
    engine = HttpEngine(f"unix://{folder}/e.sock")
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            # A client of a socket file has no address, but the base class prints one.
            self.client_address = ("local", 0)
            with lock:
                engine.connections += 1
                self.connection_number = engine.connections

        def handle_any(self) -> None:
            url = urlsplit(self.path)
            version, _, path = url.path.removeprefix("/v").partition("/")
            if url.path == "/_ping":
                return self.say(200, b"OK", {"Api-Version": engine.api})
            body, whole = self.body()
            what = f"{self.command} /{path}"
            kind = self.headers.get("Content-Type") or ""
            login = self.headers.get("X-Registry-Auth") or ""
            asked = Asked(what, parse_qs(url.query), body, whole, kind, self.connection_number, login)
            with lock:
                engine.asked.append(asked)
                engine.versions.add(version)
            status, data = engine.answer(asked)
            if isinstance(data, Iterator):
                return self.tell(data)
            self.say(status, data if isinstance(data, bytes) else json.dumps(data).encode())

        def body(self) -> tuple[bytes, bool]:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0)), True
            body = b""
            while line := self.rfile.readline():
                size = int(line, 16)
                body += self.rfile.read(size)
                self.rfile.readline()
                if not size:
                    return body, True
            return body, False

        def tell(self, pieces: Iterator[bytes]) -> None:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for piece in pieces:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")

        def say(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            if status not in (204, 304):
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if status not in (204, 304):
                self.wfile.write(data)
            self.close_connection = engine.hasty

        do_GET = do_POST = do_PUT = do_DELETE = handle_any

        def log_message(self, *_: object) -> None: ...

    with _Server(str(folder / "e.sock"), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield engine
        finally:
            server.shutdown()
            thread.join()
    shutil.rmtree(folder)
