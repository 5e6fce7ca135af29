"""Commands in pods of a server that speaks the newer protocol, in which a client can end its input."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, unix_serve

from devenv.engine.kubernetes import streams
from devenv.engine.kubernetes.connection import Cluster
from devenv.engine.kubernetes.login import Login
from devenv.engine.kubernetes.websocket import END, V5
from devenv.errors import DevenvError, NoEngine, ServiceFailed

Handler = Callable[[ServerConnection], None]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Return what serves WebSockets at a socket in place of kubectl's, and gives a cluster that uses it.

    Before that, it gives these answers of a status and a body.
    """
    servers = []

    def serve(handler: Handler, *refusals: tuple[int, str]) -> Cluster:
        left = [*refusals]

        def answer(connection: ServerConnection, request: Request) -> Response | None:
            return connection.respond(*left.pop(0)) if left else None

        server = unix_serve(handler, str(tmp_path / "api"), subprotocols=[V5], process_request=answer)  # type: ignore[list-item]
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


# ---- an API that cannot take it now ------------------------------------------------------------------------------


BUSY = json.dumps({"kind": "Status", "message": "a bad day"})
# Fails as often as the file `left` has lines, with the first of them; then it runs the command here.
KUBECTL = """\
#!/bin/sh
read -r words < "$0.left" && sed -i 1d "$0.left" && { echo "$words" >&2; exit 1; }
while [ "$1" != -- ]; do shift; done; shift
"$@" || { code=$?; echo "command terminated with exit code $code" >&2; exit $code; }
"""


def test_a_command_that_the_api_could_not_take_is_sent_again(served: Callable[..., Cluster]) -> None:
    cluster = served(lambda connection: status(connection, 3), (429, BUSY), (503, BUSY))
    assert ran(cluster, b"") == (3, [])


@pytest.mark.parametrize("answer", [(403, BUSY), (500, 'container not found ("service")')])
def test_a_refusal_of_a_command_is_final(answer: tuple[int, str], served: Callable[..., Cluster]) -> None:
    cluster = served(lambda connection: status(connection, 3), answer)
    with pytest.raises(ServiceFailed, match=r"cannot run tr in pod etcd-1: (a bad day|container not found)"):
        ran(cluster, b"")


@pytest.fixture
def by_kubectl(served: Callable[..., Cluster], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return what gives a cluster whose server is old, and a kubectl that says these words at the first attempts."""

    def serve(*words: str) -> Cluster:
        kubectl = tmp_path / "bin" / "kubectl"
        kubectl.parent.mkdir()
        kubectl.write_text(KUBECTL)
        kubectl.chmod(0o700)
        (kubectl.parent / "kubectl.left").write_text("".join(f"{line}\n" for line in words))
        monkeypatch.setenv("PATH", f"{kubectl.parent}{os.pathsep}{os.environ['PATH']}")
        return served(lambda connection: None, (403, ""))

    return serve


def test_what_kubectl_could_not_send_is_sent_again_with_all_its_input(by_kubectl: Callable[..., Cluster]) -> None:
    refusals = ["Error from server: a bad day", "Error from server (TooManyRequests): slowly"]
    refusals += ['error: the server doesn\'t have a resource type "pods"']
    cluster = by_kubectl(*refusals, "error: unable to upgrade connection: a gateway")
    assert ran(cluster, b"hello") == (0, [(1, b"HELLO")])


@pytest.mark.parametrize(
    "words, kind, message",
    [
        ("Unable to connect to the server: EOF", NoEngine, "does not answer (it hung up without an answer)"),
        ("error: error sending request: Post x: EOF", NoEngine, "does not answer (it hung up without an answer)"),
        ("error: unexpected EOF", NoEngine, "cannot say how the command ended in pod etcd-1"),
        ('error: unable to upgrade connection: container not found ("x")', ServiceFailed, "container not found"),
        ('Error from server (NotFound): pods "etcd-1" not found', ServiceFailed, 'etcd-1: pods "etcd-1" not found'),
        (
            'Error from server (Forbidden): pods "x" is forbidden: User "y" cannot create resource "pods/exec"',
            ServiceFailed,
            "cannot create pods/exec in namespace team",
        ),
        ("error: Internal error occurred: no such program", ServiceFailed, "etcd-1: Internal error occurred: no such"),
    ],
)
def test_what_kubectl_says_is_one_line_of_devenv(
    words: str, kind: type[DevenvError], message: str, by_kubectl: Callable[..., Cluster]
) -> None:
    with pytest.raises(kind) as caught:
        ran(by_kubectl(words), b"")
    assert caught.value.message.startswith("cannot ") and message in caught.value.message and caught.value.hint


def test_the_last_words_of_a_command_are_its_own(by_kubectl: Callable[..., Cluster]) -> None:
    session = streams.execute(by_kubectl(), "etcd-1", ["sh", "-c", "printf no >&2; exit 4"], False)
    with session.stream as stream:
        assert session.output(stream.recv(65536)) == [(2, b"no")]
        assert not stream.recv(1)
    assert session.exit_code() == 4
