"""Stand between devenv and the engine: a proxy on a socket file counts requests, and lets one of them go wrong."""

from __future__ import annotations

import json
import re
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

# What can go wrong with a request, and what that means.
FAULTS = {
    "kill": "the engine has done it, and devenv is killed before it hears of it",
    "drop": "the engine has done it, and the connection ends without an answer",
    "error": "the engine answers 500 and has done nothing",
    "delay": "the answer comes two seconds late",
    "truncate": "the connection ends after half of the answer",
}
_DELAY_SECONDS = 2.0
_CHUNK = 1 << 18
# A kind of object, its name or id, which differs between environments, and what is done to it.
_NAMED = re.compile(r"^(/\w+)/(?!(?:json|create|get|load)$).+?(/(?:json|archive|start|stop|pause|unpause|logs))?$")
_WORDS = "chaos: this request was chosen to fail"


class _Gone(Exception):
    """The other side has ended the connection."""


@dataclass
class _Message:
    """The head of a request or an answer, as it came."""

    first: str
    raw: bytes
    headers: dict[str, str]

    @property
    def chunked(self) -> bool:
        return "chunked" in self.headers.get("transfer-encoding", "").lower()

    @property
    def length(self) -> int | None:
        return int(self.headers["content-length"]) if "content-length" in self.headers else None

    @property
    def is_no_longer_http(self) -> bool:
        """Return whether the input and output of a program follow this answer, as after `exec` and `attach`."""
        raw = "docker.raw-stream" in self.headers.get("content-type", "")
        return " 101 " in self.first or (raw and not self.chunked and self.length is None)


@dataclass
class Plan:
    """Request number `at`, counted from 1, meets the fault; `kill` kills devenv.

    `requests` are those that came, each as its method and path without ids; `hit` is the one that met the fault. `hit`
    stays empty if fewer came, or if the fault could not be applied: to the answer of an engine that hangs up, to the
    input and output of a program, to an answer that nobody waits for any more.
    """

    fault: str = ""
    at: int = 0
    kill: Callable[[], None] = lambda: None
    requests: list[str] = field(default_factory=list)
    hit: str = ""

    @contextmanager
    def meets(self, request: _Message) -> Iterator[None]:
        """Note that this request meets the fault, which the body applies."""
        # Not afterwards: by then, devenv may have ended, and its case may be judged.
        self.hit = _described(request)
        try:
            yield
        except OSError:  # Nobody was there to meet it.
            self.hit = ""
            raise


class Proxy:
    """A proxy at the socket file `path`, for the engine at the socket file `engine`."""

    def __init__(self, path: Path, engine: str) -> None:
        self.url = f"unix://{path}"
        self._engine = engine
        self._plan, self._lock = Plan(), threading.Lock()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(64)
        threading.Thread(target=self._accept, name="chaos-accept", daemon=True).start()

    def follow(self, plan: Plan) -> None:
        """Count for this plan from now on."""
        with self._lock:
            self._plan = plan

    def close(self) -> None:
        # close() does not wake a thread that waits in accept().
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), name="chaos", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        """Pass requests of one connection on until either side ends it."""
        with client, socket.socket(socket.AF_UNIX) as engine:
            engine.connect(self._engine)
            with client.makefile("rb") as asked, engine.makefile("rb") as answered, suppress(_Gone, OSError):
                while request := _read_head(asked):
                    fault, plan = self._count(request)
                    if fault == "error":
                        for _ in _body(asked, request):
                            pass
                        with plan.meets(request):
                            client.sendall(_refusal())
                    elif not _Exchange(client, asked, engine, answered, request).run(fault, plan):
                        return

    def _count(self, request: _Message) -> tuple[str, Plan]:
        with self._lock:
            plan = self._plan
            plan.requests.append(_described(request))
            return plan.fault if len(plan.requests) == plan.at else "", plan


@dataclass
class _Exchange:
    """One request and its answer."""

    client: socket.socket
    asked: IO[bytes]
    engine: socket.socket
    answered: IO[bytes]
    request: _Message

    def run(self, fault: str, plan: Plan) -> bool:
        """Pass the request and its answer on; return whether both connections can be used again."""
        whole = self._forward()
        self._wait()
        answer = _read_head(self.answered)
        if answer is None:
            return False
        if answer.is_no_longer_http:
            self.client.sendall(answer.raw)
            _relay(self.client, self.asked, self.engine, self.answered)
            return False
        if fault:
            return self._spoil(fault, plan, answer)
        self.client.sendall(answer.raw)
        for chunk in self._answer_body(answer):
            self.client.sendall(chunk)
        return whole and answer.headers.get("connection") != "close"

    def _forward(self) -> bool:
        """Send the request on; return whether all of it went: the engine may answer before it has everything."""
        try:
            self.engine.sendall(self.request.raw)
            for chunk in _body(self.asked, self.request):
                self.engine.sendall(chunk)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def _wait(self) -> None:
        """Wait for the answer, but no longer than the client does: the engine gets to know that the client left."""
        poll = select.poll()
        poll.register(self.engine, select.POLLIN)
        poll.register(self.client, select.POLLIN)
        while True:
            ready = [number for number, _ in poll.poll()]
            if self.engine.fileno() in ready:
                return
            if not self.client.recv(1, socket.MSG_PEEK):
                raise _Gone
            poll.unregister(self.client)  # The client sends the next request already.

    def _answer_body(self, answer: _Message) -> Iterator[bytes]:
        status = int(answer.first.split()[1])
        if self.request.first.startswith("HEAD ") or status in (204, 304):
            return iter(())
        return _body(self.answered, answer, to_the_end=True)

    def _spoil(self, fault: str, plan: Plan, answer: _Message) -> bool:
        data = answer.raw + b"".join(self._answer_body(answer))
        if fault == "delay":
            time.sleep(_DELAY_SECONDS)  # The fault itself.
        with plan.meets(self.request):
            if fault == "kill":
                plan.kill()
            elif fault == "truncate":
                self.client.sendall(data[: len(data) // 2])
            elif fault == "delay":
                self.client.sendall(data)
        return fault == "delay"


# ---- HTTP ----------------------------------------------------------------------------------------------------------


def _read_head(stream: IO[bytes]) -> _Message | None:
    """Return the next head, or None if the connection has ended."""
    lines = []
    while (line := stream.readline()).strip():
        lines.append(line)
    if not lines or not line:
        return None
    headers = {}
    for text in (line.decode("latin-1") for line in lines[1:]):
        name, _, value = text.partition(":")
        headers[name.lower()] = value.strip()
    return _Message(lines[0].decode("latin-1"), b"".join([*lines, line]), headers)


def _body(stream: IO[bytes], message: _Message, to_the_end: bool = False) -> Iterator[bytes]:
    """Yield the body as it comes, chunks with their frames; without a length, only `to_the_end` of the connection."""
    if message.chunked:
        while True:
            size = stream.readline()
            if not size:
                raise _Gone
            yield size + _exactly(stream, int(size.split(b";")[0], 16) + len(b"\r\n"))
            if int(size.split(b";")[0], 16) == 0:
                return
    elif message.length is not None:
        left = message.length
        while left:
            chunk = _exactly(stream, min(left, _CHUNK))
            left -= len(chunk)
            yield chunk
    elif to_the_end:
        while chunk := stream.read1(_CHUNK):  # type: ignore[attr-defined]
            yield chunk


def _exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise _Gone
    return data


def _refusal() -> bytes:
    body = json.dumps({"message": _WORDS}).encode()
    head = f"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return f"{head}\r\n\r\n".encode() + body


def _described(request: _Message) -> str:
    """Return the method and the path, without the version and without what differs between environments."""
    method, target, *_ = request.first.split()
    path = re.sub(r"^/v[\d.]+", "", target.partition("?")[0])
    return " ".join((method, _NAMED.sub(r"\1/…\2", path)))


def _relay(client: socket.socket, asked: IO[bytes], engine: socket.socket, answered: IO[bytes]) -> None:
    """Pass on whatever either side says, until the engine has no more to say."""

    def back() -> None:
        with suppress(OSError):
            while chunk := asked.read1(_CHUNK):  # type: ignore[attr-defined]
                engine.sendall(chunk)
            engine.shutdown(socket.SHUT_WR)

    threading.Thread(target=back, name="chaos-relay", daemon=True).start()
    while chunk := answered.read1(_CHUNK):  # type: ignore[attr-defined]
        client.sendall(chunk)
    # This tells both: the client, and the thread that still waits for the client's next words.
    client.shutdown(socket.SHUT_RDWR)


@contextmanager
def proxy(path: Path, engine: str) -> Iterator[Proxy]:
    """Run a proxy for as long as the body runs."""
    made = Proxy(path, engine)
    try:
        yield made
    finally:
        made.close()
        path.unlink(missing_ok=True)
