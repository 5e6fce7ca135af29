"""Commands in pods of a server that speaks the newer protocol, in which a client can end its input."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from websockets.sync.server import ServerConnection, unix_serve

from devenv.engine.kubernetes import streams
from devenv.engine.kubernetes.connection import Cluster
from devenv.engine.kubernetes.login import Login
from devenv.engine.kubernetes.websocket import END, V5
from devenv.errors import NoEngine, ServiceFailed

Handler = Callable[[ServerConnection], None]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Callable[[Handler], Cluster]]:
    """Return what serves WebSockets at a socket in place of kubectl's, and gives a cluster that uses it."""
    servers = []

    def serve(handler: Handler) -> Cluster:
        server = unix_serve(handler, str(tmp_path / "api"), subprotocols=[V5])  # type: ignore[list-item]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        cluster = Cluster(Login("here", "team"))
        cluster.way = SimpleNamespace(headers={}, socket=lambda: tmp_path / "api", close=lambda: None)  # type: ignore[assignment]
        return cluster

    yield serve
    for server in servers:
        server.shutdown()


def status(connection: ServerConnection, code: int) -> None:
    causes = {"details": {"causes": [{"reason": "ExitCode", "message": str(code)}]}}
    words = {"status": "Failure", **causes} if code else {"status": "Success"}
    connection.send(b"\3" + json.dumps(words).encode())


def ran(cluster: Cluster, data: bytes) -> tuple[int, list[tuple[int, bytes]]]:
    session = streams.execute(cluster, "etcd-1", ["tr", "a-z", "A-Z"], False)
    found: list[tuple[int, bytes]] = []
    with session.stream as stream:
        # The command may be over by now.
        with suppress(BrokenPipeError):
            stream.sendall(data)
            stream.shutdown(socket.SHUT_WR)
        while got := stream.recv(65536):
            found += session.output(got)
    return session.exit_code(), found


def test_the_end_of_the_input_ends_its_channel(served: Callable[[Handler], Cluster]) -> None:
    asked: list[str] = []

    def handler(connection: ServerConnection) -> None:
        asked.append(connection.request.path if connection.request else "")
        data = b""
        while (message := connection.recv()) != bytes([END, 0]):
            assert isinstance(message, bytes) and message[0] == 0
            data += message[1:]
        connection.send([b"\1" + data.upper()[:3], data.upper()[3:]])  # in two frames, as newer servers send
        connection.send(b"\2warning\n")
        status(connection, 3)

    assert ran(served(handler), b"hello") == (3, [(1, b"HELLO"), (2, b"warning\n")])
    path = "/api/v1/namespaces/team/pods/etcd-1/exec"
    command = "command=tr&command=a-z&command=A-Z"
    assert asked == [f"{path}?container=service&{command}&stdin=true&stdout=true&stderr=true&tty=false"]


def test_a_command_that_ends_before_it_has_read_its_input_is_no_error(served: Callable[[Handler], Cluster]) -> None:
    assert ran(served(lambda connection: status(connection, 0)), b"nobody reads this") == (0, [])


def test_a_connection_that_breaks_before_the_end_is_told(served: Callable[[Handler], Cluster]) -> None:
    def handler(connection: ServerConnection) -> None:
        connection.send(b"\1half")
        connection.socket.shutdown(socket.SHUT_RDWR)

    with pytest.raises(NoEngine, match="cannot say how the command ended in pod etcd-1: the cluster"):
        ran(served(handler), b"")


def test_a_command_that_cannot_begin_says_why(served: Callable[[Handler], Cluster]) -> None:
    def handler(connection: ServerConnection) -> None:
        connection.send(b"\3" + json.dumps({"status": "Failure", "message": "no such program"}).encode())

    with pytest.raises(ServiceFailed, match="cannot run tr in pod etcd-1: no such program"):
        ran(served(handler), b"")
