"""A small real HTTP server that answers as a test tells it to: what a cluster's API does on a bad day."""

from __future__ import annotations

import itertools
import json
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler
from typing import Any

from devenv.engine.kubernetes.connection import Cluster
from devenv.engine.kubernetes.login import Login


@dataclass(frozen=True)
class Answer:
    """One answer. `cut` says how it is lost: "all" of it, "half" of it, or "silent" for as long as the test runs."""

    status: int = 200
    body: Any = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    cut: str = ""


def refusal(status: int, message: str = "no", **headers: str) -> Answer:
    """Return a refusal in the API's own form."""
    words = {"kind": "Status", "status": "Failure", "message": message, "code": status}
    return Answer(status, words, {key.replace("_", "-"): value for key, value in headers.items()})


class Objects:
    """Keeps objects as the API does: every change gives a version, and a patch at another version is refused.

    `on` has what else happens at a request, such as "PATCH leases", once and before it is carried out.
    """

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, Any]] = {}
        self.on: dict[str, Callable[[], object]] = {}
        self._versions = itertools.count(1)
        self._lock = threading.RLock()

    def answer(self, method: str, path: str, body: bytes) -> Answer:
        with self._lock:
            for what in [one for one in self.on if one.split()[0] == method and one.split()[1] in path]:
                self.on.pop(what)()
            if method == "POST":
                path = f"{path}/{json.loads(body)['metadata']['name']}"
                return refusal(409) if path in self.kept else Answer(201, self.put(path, json.loads(body)))
            if path not in self.kept:
                return refusal(404)
            if method == "PATCH":
                change = json.loads(body)
                asked = change["metadata"].pop("resourceVersion", "")
                if asked and asked != self.kept[path]["metadata"]["resourceVersion"]:
                    return refusal(409)
                return Answer(200, self.put(path, _merged(self.kept[path], change)))
            if method == "DELETE":
                asked = json.loads(body or b"{}").get("preconditions", {}).get("resourceVersion", "")
                if asked and asked != self.kept[path]["metadata"]["resourceVersion"]:
                    return refusal(409)
                return Answer(200, self._removed(path))
            return Answer(200, self.kept[path])

    def _removed(self, path: str) -> dict[str, Any]:
        """Remove an object and what it owns."""
        gone = self.kept.pop(path)
        for owned in [other for other, one in self.kept.items() if _owner(one) == gone["metadata"]["uid"]]:
            self._removed(owned)
        return gone

    def put(self, path: str, found: dict[str, Any]) -> dict[str, Any]:
        """Keep an object as it is now."""
        version = str(next(self._versions))
        about = {"uid": f"uid-{version}", **found["metadata"], "resourceVersion": version}
        self.kept[path] = {**found, "metadata": about}
        return self.kept[path]

    def named(self, resource: str) -> dict[str, Any]:
        """Return the only object of a kind."""
        (found,) = [one for path, one in self.kept.items() if f"/{resource}/" in path]
        return found


def _owner(found: dict[str, Any]) -> str:
    return str(next(iter(found["metadata"].get("ownerReferences") or ()), {}).get("uid", ""))


def _merged(found: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """Return an object after a JSON merge patch."""
    merged = {key: value for key, value in {**found, **change}.items() if value is not None}
    return {
        key: _merged(found.get(key) or {}, value) if isinstance(value, dict) and key in change else value
        for key, value in merged.items()
    }


class Api(socketserver.ThreadingTCPServer):
    """Gives its `answers` one by one, the last one again and again; those of `places` to requests for these paths.

    `asked` are the requests: method and path. With `objects`, these answer.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, *answers: Answer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = [*answers]
        self.asked: list[tuple[str, str]] = []
        self.bodies: list[bytes] = []
        self.logins: list[str] = []
        self.released = threading.Event()
        self.places: dict[str, Answer] = {}
        self.objects: Objects | None = None

    def next(self, path: str) -> Answer:
        if found := self.places.get(path.partition("?")[0]):
            return found
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Api

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append((self.command, self.path))
        self.server.bodies.append(body)
        self.server.logins.append(self.headers.get("Authorization", ""))
        objects = self.server.objects
        answer = objects.answer(self.command, self.path, body) if objects else self.server.next(self.path)
        if answer.cut == "all":
            self.close_connection = True
            return
        if answer.cut == "silent":
            self.server.released.wait(30)
        data = answer.body.encode() if isinstance(answer.body, str) else json.dumps(answer.body).encode()
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if answer.cut == "half":
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        self.wfile.write(data)

    do_POST = do_DELETE = do_PATCH = do_PUT = do_GET

    def log_message(self, *_: Any) -> None:
        pass


class _Way:
    """The way to the server of a test, in place of kubectl."""

    headers: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, port: int) -> None:
        self._port = port

    def connection(self, timeout: float) -> HTTPConnection:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=timeout)
        connection.connect()
        return connection

    def close(self) -> None:
        pass


def cluster_at(port: int) -> Cluster:
    """Return a cluster whose API is at a port of this host."""
    cluster = Cluster(Login("here", "team"))
    cluster.way = _Way(port)  # type: ignore[assignment]
    return cluster


@contextmanager
def answering(*answers: Answer) -> Iterator[tuple[Cluster, Api]]:
    """Run a server with these answers; yield a cluster that asks it."""
    with Api(*answers) as api:
        threading.Thread(target=api.serve_forever, args=(0.01,), daemon=True).start()
        cluster = cluster_at(api.server_address[1])
        try:
            yield cluster, api
        finally:
            cluster.close()
            api.released.set()
            api.shutdown()
