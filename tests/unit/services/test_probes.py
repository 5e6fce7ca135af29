"""Probes: what they ask for, and the reasons that they give while a service is not ready."""

from __future__ import annotations

import json
import socket
import socketserver
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import distribution
from typing import Any

import pytest
from packaging.requirements import Requirement

from devenv.errors import ConfigError, Hopeless, NotReady, ServiceFailed
from devenv.services import base, etcd, keystone, lookup, mysql, postgresql, rabbitmq
from devenv.services.base import Component, Target
from devenv.services.lookup import load_probe, load_provisioner
from devenv.spec.catalogue import load_catalogue

LOGIN = {"user": "u", "password": "secret", "database": "d", "vhost": "v", "project": "p"}
Answer = tuple[int, Any]


@contextmanager
def server(reply: Callable[[str, Any], Answer]) -> Iterator[Target]:
    """Run a server; `reply` makes its answers from "METHOD /path" and the request's JSON."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, answer = reply(f"{self.command} {self.path}", json.loads(sent or "null"))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(answer.encode() if isinstance(answer, str) else json.dumps(answer).encode())

        do_GET = do_POST = answer

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield Target("127.0.0.1", http.server_port, f"http://127.0.0.1:{http.server_port}/v3", LOGIN)
        finally:
            http.shutdown()
            thread.join()


@contextmanager
def port_proxy(reset: bool = False, mute: bool = False) -> Iterator[Target]:
    """Act like the engine's port proxy while nobody listens behind it: take a connection and drop it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        held: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    connection = listener.accept()[0]
                except OSError:
                    return
                if mute:
                    held.append(connection)
                    continue
                if reset:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        port = listener.getsockname()[1]
        yield Target("127.0.0.1", port, f"http://127.0.0.1:{port}", LOGIN)
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(20)
        for connection in held:
            connection.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


ALL = {
    "mysql": mysql.check,
    "postgresql": postgresql.check,
    "amqp": rabbitmq.check,
    "etcd": etcd.check,
    "keystone": keystone.check,
}
NOT_YET = {
    "mysql": "not accepting logins yet",
    "postgresql": "not accepting logins yet",
    "amqp": "not accepting logins yet",
    "etcd": "not answering yet",
    "keystone": "not answering yet",
}


@pytest.mark.parametrize("kind", ALL)
def test_nobody_at_the_port_is_a_refused_connection(kind: str) -> None:
    port = free_port()
    with pytest.raises(NotReady) as caught:
        ALL[kind](Target("127.0.0.1", port, f"http://127.0.0.1:{port}", LOGIN))
    assert str(caught.value) == "connection refused"


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("reset", [True, False])
def test_a_port_proxy_with_nobody_behind_it_is_one_short_reason(kind: str, reset: bool) -> None:
    with port_proxy(reset) as target:
        for _ in range(10):
            with pytest.raises(NotReady) as caught:
                ALL[kind](target)
            assert str(caught.value) == NOT_YET[kind]


@pytest.mark.parametrize("kind", ALL)
def test_what_never_answers_is_given_up(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "PROBE_ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(base, "PROBE_CONNECT_SECONDS", 1)  # AMQP's library waits that long for the first answer.
    with port_proxy(mute=True) as target, pytest.raises(NotReady) as caught:
        ALL[kind](target)
    assert str(caught.value) == "no answer in time"


def test_a_mysql_that_takes_no_more_clients_is_told_in_words() -> None:
    said = b"\xff" + struct.pack("<H", 1040) + b"#08004Too many connections"  # an error packet, in place of a greeting
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            with listener.accept()[0] as connection:
                connection.sendall(len(said).to_bytes(3, "little") + b"\0" + said)

        thread = threading.Thread(target=refuse)
        thread.start()
        port = listener.getsockname()[1]
        with pytest.raises(NotReady) as caught:
            mysql.check(Target("127.0.0.1", port, "", LOGIN))
        thread.join()
    assert str(caught.value) == "takes no more clients: all connections are in use"


# ---- etcd and keystone -------------------------------------------------------------------------------------------


def test_etcd_is_asked_for_its_health_in_one_request() -> None:
    asked = []
    with server(lambda what, _: asked.append(what) or (200, "ok")) as target:  # type: ignore[func-returns-value]
        etcd.check(target)
    assert asked == ["GET /v3/health"]


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ("RAFT NO LEADER", 'HTTP 503: {"health": "false", "reason": "RAFT NO LEADER"}'),
        ("ALARM NOSPACE", "alarm NOSPACE: etcd refuses writes, because its data reached the quota; 'devenv reset my'"),
        ("ALARM CORRUPT", "alarm CORRUPT: etcd refuses everything, because its data is damaged; 'devenv reset my'"),
    ],
)
def test_etcd_says_what_is_missing_and_an_alarm_what_to_do(told: str, reason: str) -> None:
    with server(lambda *_: (503, {"health": "false", "reason": told})) as target, pytest.raises(NotReady) as caught:
        etcd.check(replace(target, service="my"))
    assert str(caught.value).startswith(reason)


def a_keystone(catalog: list[Any], identity: int = 200) -> Callable[[str, Any], Answer]:
    def reply(what: str, body: Any) -> Answer:
        if what != "POST /v3/auth/tokens":
            return identity, {}
        password = body["auth"]["identity"]["password"]["user"]["password"]
        return (201, {"token": {"catalog": catalog}}) if password == "secret" else (401, {"error": "no"})

    return reply


def catalog_of(url: str) -> list[Any]:
    return [{"type": "identity", "endpoints": [{"interface": "public", "url": url}]}]


def test_keystone_gives_a_token_and_a_catalog_whose_url_answers() -> None:
    catalog: list[Any] = []
    with server(a_keystone(catalog)) as target:
        catalog += catalog_of(target.url)
        keystone.check(target)


def test_keystones_catalog_has_to_lead_somewhere() -> None:
    with server(a_keystone([])) as target, pytest.raises(NotReady, match="no public identity endpoint"):
        keystone.check(target)
    catalog: list[Any] = []
    with server(a_keystone(catalog, identity=500)) as target:
        catalog += catalog_of(target.url)
        with pytest.raises(NotReady, match="answers HTTP 500"):
            keystone.check(target)


@pytest.mark.parametrize(
    ("status", "answer", "words"),
    [
        (401, "The request you have made\nrequires authentication.", "The request you have made"),
        (500, {"error": {"code": 500, "message": "No keys", "title": "Error"}}, "No keys"),
    ],
    ids=["text", "json"],
)
def test_keystone_without_a_token_is_told_in_its_own_words(status: int, answer: Any, words: str) -> None:
    expected = pytest.raises(NotReady, match=f"^no token: HTTP {status}: {words}$")
    with server(lambda *_: (status, answer)) as target, expected:
        keystone.check(target)


# ---- RabbitMQ ----------------------------------------------------------------------------------------------------


@contextmanager
def broker(alarm: str = "", refusal: str = "") -> Iterator[Target]:
    """Act like a RabbitMQ that has an alarm, or that refuses each queue with these words."""
    from amqp.serialization import dumps

    capabilities = {"capabilities": {"connection.blocked": True}}
    answers = {
        (10, 11): (0, (10, 30), dumps("BlB", (2047, 131072, 60))),  # start-ok: tune
        (10, 40): (0, (10, 41), dumps("s", ("",))),  # open: open-ok
        (20, 10): (1, (20, 11), dumps("S", ("",))),  # channel.open: open-ok
        (20, 20): (1, (20, 21), dumps("b", (True,))),  # channel.flow: flow-ok
        (10, 50): (0, (10, 51), b""),  # close: close-ok
        # basic.publish and queue.declare; a broker with an alarm reads nothing behind the message.
        (60, 40): (0, (10, 60), dumps("s", (alarm,))) if alarm else None,
        (50, 10): (1, (20, 40), dumps("BsBB", (540, refusal, 50, 10))) if refusal else (1, (50, 11), b"\1q" + bytes(8)),
        (50, 40): (1, (50, 41), bytes(4)),  # queue.delete: delete-ok
    }

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.rfile.read(8)
            self.tell(0, (10, 10), dumps("ooFSS", (0, 9, capabilities, b"PLAIN", b"en_US")))
            while header := self.rfile.read(7):
                kind, _, size = struct.unpack("!BHI", header)
                body = self.rfile.read(size + 1)
                if kind == 1 and (answer := answers.get(struct.unpack("!HH", body[:4]))):
                    self.tell(*answer)
                    if answer[1] == (10, 60):
                        self.rfile.read()
                        return

        def tell(self, channel: int, method: tuple[int, int], arguments: bytes) -> None:
            self.wfile.write(struct.pack("!BHIHH", 1, channel, 4 + len(arguments), *method) + arguments + b"\xce")

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as tcp:
        thread = threading.Thread(target=tcp.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield Target("127.0.0.1", tcp.server_address[1], "", LOGIN, "my-queue")
        finally:
            tcp.shutdown()
            thread.join()


def test_rabbitmq_works_if_it_takes_a_message_and_a_queue() -> None:
    with broker() as target:
        rabbitmq.check(target)


@pytest.mark.parametrize(
    ("alarm", "mends"),
    [
        ("low on memory", "; purge queues, or 'devenv reset my-queue'"),
        ("low on disk", "; free space where the engine keeps its data"),
        (
            "low on memory & disk",
            "; purge queues, or 'devenv reset my-queue'; free space where the engine keeps its data",
        ),
        ("low on luck", ""),
    ],
)
def test_rabbitmq_with_an_alarm_says_which_and_what_to_do(alarm: str, mends: str) -> None:
    with broker(alarm) as target, pytest.raises(NotReady) as caught:
        rabbitmq.check(target)
    assert str(caught.value) == f"an alarm blocks publishers: {alarm}{mends}"


def test_rabbitmq_says_why_it_refuses_a_queue() -> None:
    with broker(refusal="NOT_ALLOWED - none of these") as target, pytest.raises(NotReady, match="none of these"):
        rabbitmq.check(target)


MANAGEMENT = "DEVENV_ATTACH_RABBITMQ_MANAGEMENT"


@pytest.mark.parametrize(
    ("answer", "hopeless", "words", "hint"),
    [
        ((401, {"error": "not_authorized"}), True, "refuses the login", MANAGEMENT),
        ((404, "no such page"), False, "which is no management interface", MANAGEMENT),
        ((200, {"name": "u", "tags": ["monitoring"]}), True, "user u has no tag administrator", "set_user_tags u"),
        ((200, {"name": "u", "tags": "administrator"}), None, "", ""),
        ((200, {"name": "u", "tags": ["administrator"]}), None, "", ""),
        (None, False, "connection refused", MANAGEMENT),
    ],
)
def test_an_attached_rabbitmq_is_ready_when_its_management_interface_lets_the_administrator_in(
    answer: Answer | None, hopeless: bool | None, words: str, hint: str
) -> None:
    with broker() as target, server(lambda asked, _: answer or (500, "")) as management:
        url = f"http://127.0.0.1:{management.port if answer else free_port()}"
        target = replace(target, settings={**LOGIN, "management": url}, attached=True)
        if hopeless is None:
            return rabbitmq.check(target)
        with pytest.raises(NotReady, match=words) as caught:
            rabbitmq.check(target)
    assert isinstance(caught.value, Hopeless) == hopeless
    assert hint in caught.value.hint


# ---- PostgreSQL --------------------------------------------------------------------------------------------------


@contextmanager
def refusing(words: str, code: str = "57P03") -> Iterator[Target]:
    """Act like a PostgreSQL that refuses each login with this code and these words."""
    fields = f"SFATAL\0VFATAL\0C{code}\0M{words}\0\0".encode()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(4096)
            self.request.sendall(b"E" + struct.pack("!i", len(fields) + 4) + fields)

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as tcp:
        thread = threading.Thread(target=tcp.serve_forever, args=(0.01,))
        thread.start()
        yield Target("127.0.0.1", tcp.server_address[1], "", LOGIN)
        tcp.shutdown()
        thread.join()


def test_postgresql_says_in_its_own_words_what_it_waits_for() -> None:
    with refusing("the database system is starting up") as target, pytest.raises(NotReady) as caught:
        postgresql.check(target)
    assert str(caught.value) == "the database system is starting up"


@pytest.mark.parametrize("code", ["42501", "28P01"])
def test_postgresql_tells_a_login_with_too_few_rights_what_it_needs(code: str) -> None:
    part = Component("nova", {"user": "nova", "password": "p", "database": "nova"})
    with refusing("permission denied to create role", code) as target, pytest.raises(ServiceFailed) as caught:
        postgresql.PostgreSQL(replace(target, attached=True)).ensure(part)
    assert "needs a superuser's rights" in caught.value.hint


@pytest.mark.parametrize("load", [load_probe.__wrapped__, load_provisioner, lookup.check_packages])
def test_a_package_that_is_missing_is_told_with_what_brings_it(
    load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(lookup.NEEDS, "postgresql", "no_such_package")
    words = "cannot use postgresql: the Python package no_such_package is not installed"
    with pytest.raises(ConfigError, match=words) as caught:
        load("postgresql")
    assert caught.value.hint.endswith("pip install no_such_package")


def test_a_package_that_a_service_needs_comes_with_the_extra_that_it_names() -> None:
    requirements = map(Requirement, distribution("openstack-devenv").requires or ())
    bringing = {one.name: str(one.marker) for one in requirements if one.marker}
    for service in load_catalogue().values():
        package = lookup.NEEDS.get(service.probe["kind"], "")
        assert bool(package) == bool(service.extra)
        assert not package or f'"{service.extra}"' in bringing[package]


# ---- by name -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", lookup.OWN)
def test_devenv_finds_its_own_where_its_entry_points_say(group: str) -> None:
    entries = distribution("openstack-devenv").entry_points.select(group=group)
    assert {entry.name: entry.value for entry in entries} == lookup.OWN[group]
    load: Callable[[str], Any] = load_probe if group == lookup.PROBES else load_provisioner
    assert {entry.name: entry.load() for entry in entries} == {kind: load(kind) for kind in lookup.OWN[group]}


def test_a_probe_that_nobody_brings_is_a_clear_error() -> None:
    with pytest.raises(ConfigError, match="cannot find a probe of kind 'banana'"):
        load_probe("banana")


def test_devenv_finds_its_own_probes_without_a_look_at_packages() -> None:
    code = "import sys; from devenv.services.lookup import load_probe; load_probe('etcd'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"importlib.metadata", "requests", "pymysql", "pg8000", "amqp", "http.client"} & set(done.stdout.split())


UNDISTURBED = """
import sys
from devenv.errors import NotReady
from devenv.services import rabbitmq
from devenv.services.base import Component, Target

seen = {}

class Finder:
    def find_spec(self, name, *_):
        seen[name] = sys.getswitchinterval()

sys.meta_path.insert(0, Finder())
before = sys.getswitchinterval()
try:
    rabbitmq.check(Target("127.0.0.1", 1, "", {"user": "u", "password": "p", "vhost": "v"}))
except NotReady:
    print(round(seen["vine.abstract"], 3), seen["amqp"] == before == sys.getswitchinterval())
"""


def test_no_other_thread_runs_while_a_class_of_vine_is_half_there() -> None:
    done = subprocess.run([sys.executable, "-c", UNDISTURBED], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0.1", "True"]
