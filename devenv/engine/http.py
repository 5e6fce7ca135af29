"""Speak the engine's HTTP API directly, over a socket of this host or TCP without TLS.

Importing the docker library takes longer than all requests of a command. sdk.py uses the library for more than a
request and an answer, and for engines that devenv reaches in other ways.
"""

from __future__ import annotations

import json
import logging
import re
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from http.client import HTTPConnection, HTTPException, HTTPResponse, IncompleteRead, RemoteDisconnected
from typing import Any
from urllib.parse import quote, unquote_plus, urlencode

from devenv.keepalive import KeptConnections

_log = logging.getLogger(__name__)
# Seconds that one request may take. Only an engine that hangs takes longer; builds and pulls have a limit of their own.
TIMEOUT = 120.0
# Seconds without a word from an engine that builds or pulls: a step may be silent for long.
WORK_TIMEOUT = 1800.0
# Bytes per read: data of hundreds of MB go through here.
CHUNK = 1 << 20
# The oldest and newest version of the API that devenv knows. Engine 29 has the newest and refuses those below 1.44.
_OLDEST, _NEWEST = (1, 24), (1, 52)
_PLAIN_TCP = re.compile(r"tcp://([\w.-]+):(\d+)/?\Z")

Query = Mapping[str, object]
Body = Mapping[str, object] | bytes | Iterable[bytes] | None


class Refused(Exception):
    """The engine refused, in its own words. `status` is HTTP's, or 0 if it came in another way."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(" ".join(words.split()) or f"HTTP {status}")
        self.status = status


@contextmanager
def unless(*refusals: int) -> Iterator[None]:
    """Accept these refusals, by their status."""
    try:
        yield
    except Refused as error:
        if error.status not in refusals:
            raise


def unless_gone() -> AbstractContextManager[None]:
    """Accept that something is gone already: somebody else removed it in the meantime."""
    return unless(404)


class NoAnswer(OSError):
    """No engine answers there, or it stopped in the middle of an answer."""


class Unreachable(NoAnswer):
    """The way to the engine's host is closed, in words for a person. `hint` says what to do."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.hint = hint


class Client(ABC):
    """Sends requests to an engine. Thread-safe."""

    @cached_property
    def podman(self) -> bool:
        """Return whether the engine is Podman, which speaks the same API."""
        return False

    @abstractmethod
    def stream(
        self, method: str, path: str, query: Query | None = None, body: Body = None, timeout: float = TIMEOUT
    ) -> Generator[bytes, None, None]:
        """Send a request, a mapping as JSON and any other body as a tar file; yield the answer in chunks.

        If `body` raises, the engine learns that the rest is missing, and the error is raised here. Raises Refused, and
        OSError if no answer comes or the answer breaks off.
        """

    @abstractmethod
    def lines(
        self, path: str, query: Query, body: Body = None, headers: Mapping[str, str] | None = None
    ) -> Generator[bytes, None, None]:
        """Ask for work that takes long, with POST; yield the lines in which the engine tells of it, as they come.

        Raises what `stream` raises.
        """

    def ask(
        self, method: str, path: str, query: Query | None = None, body: Body = None, timeout: float = TIMEOUT
    ) -> Any:
        """Return the answer to a request, decoded from JSON; None if it is empty. Raises what `stream` raises."""
        data = b"".join(self.stream(method, path, query, body, timeout))
        return decoded(data) if data else None


class HttpClient(Client):
    """A client of an engine whose URL `speaks` accepts. It keeps connections, and uses them again."""

    def __init__(self, url: str) -> None:
        self._connections = KeptConnections(lambda: _new_connection(url))
        self.version = self._negotiated()

    def _negotiated(self) -> str:
        """Return the newest version of the API that both sides know. /_ping itself needs no version."""
        connection, answer = self._sent("GET", "/_ping", None, {}, TIMEOUT)
        try:
            _all_of(answer)
        finally:
            self._connections.give_back(connection, answer)
        self.podman = "Libpod-Api-Version" in answer.headers
        return agreed(answer.headers.get("Api-Version", ""))

    def stream(
        self, method: str, path: str, query: Query | None = None, body: Body = None, timeout: float = TIMEOUT
    ) -> Generator[bytes, None, None]:
        with self._answer(method, path, query, body, {}, timeout) as answer:
            yield from chunks_of(answer, answer.read)

    def lines(
        self, path: str, query: Query, body: Body = None, headers: Mapping[str, str] | None = None
    ) -> Generator[bytes, None, None]:
        with self._answer("POST", path, query, body, headers or {}, WORK_TIMEOUT, quiet=True) as answer:
            # Python before 3.11.8 and 3.12.2 does not count what read1 reads of an answer of known length.
            yield from in_lines(chunks_of(answer, answer.read1 if answer.chunked else answer.read))

    @contextmanager
    def _answer(
        self,
        method: str,
        path: str,
        query: Query | None,
        body: Body,
        headers: Mapping[str, str],
        timeout: float,
        quiet: bool = False,
    ) -> Iterator[HTTPResponse]:
        """Send a request and lend its answer. If `quiet`, log no query: that of a build may hold passwords."""
        data, kind = encoded(body)
        where, began = f"/v{self.version}{target(path, query)}", time.monotonic()
        connection, answer = self._sent(method, where, data, {**kind, **headers}, timeout)
        logged = where.partition("?")[0] if quiet else unquote_plus(where)
        log_answer(method, logged, answer.status, time.monotonic() - began)
        try:
            if answer.status >= 400:
                raise Refused(answer.status, words_of(_all_of(answer)))
            yield answer
        finally:
            self._connections.give_back(connection, answer)

    def _sent(
        self, method: str, where: str, data: bytes | Iterable[bytes] | None, headers: Mapping[str, str], timeout: float
    ) -> tuple[HTTPConnection, HTTPResponse]:
        connection = self._connections.take(timeout)
        try:
            try:
                connection.request(method, where, data, headers)
            except (BrokenPipeError, ConnectionResetError):
                # The engine refused before it had everything. It says why once it knows that nothing more comes.
                connection.sock.shutdown(socket.SHUT_WR)
            return connection, connection.getresponse()
        except RemoteDisconnected as error:
            connection.close()
            raise NoAnswer("it hung up without an answer") from error
        except HTTPException as error:
            connection.close()
            raise NoAnswer("what answers is no container engine") from error
        except BaseException:
            # A request without the end of its body is void.
            connection.close()
            raise


class SocketConnection(HTTPConnection):
    """HTTP over a socket file."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(self._path)
        except OSError:
            self.close()
            raise


def speaks(url: str) -> bool:
    """Return whether HttpClient can reach the engine at that URL."""
    return url.startswith(("unix:///", "ssh://")) or bool(_PLAIN_TCP.match(url))


def _new_connection(url: str) -> HTTPConnection:
    if url.startswith("ssh://"):
        from devenv.engine.ssh import SshConnection

        return SshConnection(url, TIMEOUT)
    if found := _PLAIN_TCP.match(url):
        return HTTPConnection(found[1], int(found[2]), timeout=TIMEOUT)
    return SocketConnection(url.removeprefix("unix://"), TIMEOUT)


def chunks_of(answer: HTTPResponse, read: Callable[[int], bytes]) -> Iterator[bytes]:
    """Yield an answer in chunks: large ones with `answer.read`, each as it comes with `answer.read1`."""
    # An engine always says where an answer ends, unless it stops before that.
    if answer.length is None and not answer.chunked:
        raise NoAnswer("it stopped in the middle of an answer")
    try:
        while chunk := read(CHUNK):
            yield chunk
        # Reading in chunks does not notice that some of the length is missing.
        if answer.length:
            raise IncompleteRead(b"", answer.length)
    except HTTPException as error:
        raise NoAnswer("it stopped in the middle of an answer") from error


def in_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines that chunks make up, each as soon as it is complete."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
    if rest:
        yield rest


def _all_of(answer: HTTPResponse) -> bytes:
    return b"".join(chunks_of(answer, answer.read))


# ---- what requests and answers look like ---------------------------------------------------------------------------


def agreed(theirs: str) -> str:
    """Return the version of the API to speak with an engine that has `theirs`.

    Raises Refused if that is too old, NoAnswer if it is no version.
    """
    found = re.fullmatch(r"(\d+)\.(\d+)", theirs)
    if not found:
        raise NoAnswer("what answers is no container engine")
    version = int(found[1]), int(found[2])
    if version < _OLDEST:
        raise Refused(0, f"its API {theirs} is older than {_OLDEST[0]}.{_OLDEST[1]}")
    return "{}.{}".format(*min(version, _NEWEST))


def target(path: str, query: Query | None) -> str:
    """Return a request's path and query. Mappings (filters) become JSON, lists repeat their key."""

    def worded(value: object) -> object:
        if isinstance(value, Mapping):
            return json.dumps({key: [one] for key, one in value.items()})
        return str(value).lower() if isinstance(value, bool) else value

    pairs = urlencode({key: worded(value) for key, value in (query or {}).items()}, doseq=True)
    return quote(path, safe="/:@") + (f"?{pairs}" if pairs else "")


def encoded(body: Body) -> tuple[bytes | Iterable[bytes] | None, dict[str, str]]:
    """Return a request's body as bytes, and the headers that say what it is."""
    if isinstance(body, Mapping):
        return json.dumps(body).encode(), {"Content-Type": "application/json"}
    return body, {} if body is None else {"Content-Type": "application/x-tar"}


def decoded(answer: bytes) -> Any:
    """Decode the engine's JSON. Raises NoAnswer if it is none."""
    try:
        return json.loads(answer)
    except ValueError as error:
        raise NoAnswer("what answers is no container engine") from error


def log_answer(method: str, where: str, status: int, seconds: float) -> None:
    """Log a request and the status of its answer; never a body, which may hold secrets."""
    _log.debug("%s %s: %d after %.0f ms", method, where, status, seconds * 1000)


def words_of(answer: bytes) -> str:
    """Return the engine's own words for a refusal."""
    text = answer.decode(errors="replace")
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text.strip()[:500]
