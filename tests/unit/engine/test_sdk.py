"""The docker library behind devenv's client: what it reads and does not hand on."""

from __future__ import annotations

import re
import ssl
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from socketserver import BaseServer, StreamRequestHandler, ThreadingTCPServer, ThreadingUnixStreamServer

import docker.utils.config
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from fake_engine import frame

from devenv.engine.sdk import Sdk
from devenv.engine.streams import DockerSession

UPGRADED = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
CREATED = b'HTTP/1.1 201 Created\r\nConnection: close\r\nContent-Length: 13\r\n\r\n{"Id": "run"}'


class Engine(StreamRequestHandler):
    """An engine whose command has said something before the engine answers, and says more afterwards."""

    first = b""

    def handle(self) -> None:
        request, length = self.rfile.readline(), 0
        while (line := self.rfile.readline()) != b"\r\n":
            if found := re.fullmatch(rb"(?i)content-length: (\d+)\r\n", line):
                length = int(found[1])
        self.rfile.read(length)
        if b"/start" not in request:
            self.wfile.write(CREATED)
            return
        self.wfile.write(UPGRADED + self.first)
        self.rfile.readline()
        self.wfile.write(frame(b"second"))


@contextmanager
def serving(server: BaseServer) -> Iterator[None]:
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


def certify(folder: Path) -> None:
    """Write a certificate that is its own authority, for the server and for the client, as docker names the files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "engine")]), datetime.now(UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    builder = builder.add_extension(address, False).add_extension(x509.BasicConstraints(True, None), True)
    written = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    for file in ("ca.pem", "cert.pem"):
        (folder / file).write_bytes(written)


@pytest.fixture(params=["unix", "tls"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="devenv-") as folder:
        path = Path(folder) / "e.sock"
        if request.param == "unix":
            with serving(ThreadingUnixStreamServer(str(path), Engine)):
                yield f"unix://{path}"
            return
        certify(tmp_path)
        monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
        monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
        server = ThreadingTCPServer(("127.0.0.1", 0), Engine)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        with serving(server):
            yield f"tcp://127.0.0.1:{server.server_address[1]}"


@pytest.mark.parametrize("first", [frame(b"first "), b""], ids=["early", "late"])
def test_output_that_comes_with_the_answer_is_not_lost(url: str, first: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", url)
    monkeypatch.setattr(Engine, "first", first)
    run, stream, early = Sdk(url, "DOCKER_HOST", "1.41").execute("etcd", ["echo"], False)
    session = DockerSession(None, run, stream, early, False)  # type: ignore[arg-type]
    with stream:
        parts = session.output(b"")
        assert parts == ([(1, b"first ")] if first else [])
        stream.sendall(b"go on\n")
        while data := stream.recv(4096):
            parts += session.output(data)
    assert b"".join(text for _, text in parts) == first[8:] + b"second"


class Endless(Engine):
    """An engine that sends a line of a log, and forgets to end the log."""

    def handle(self) -> None:
        request = self.rfile.readline()
        while self.rfile.readline() != b"\r\n":
            pass
        if b"/logs" not in request:
            about = b'{"Config": {"Tty": false}}'
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(about), about))
            return
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: application/octet-stream\r\n\r\n"
        line = frame(b"last words\n")
        self.wfile.write(head + b"%x\r\n%b\r\n" % (len(line), line))
        self.rfile.read()


def test_a_log_ends_with_its_container_even_if_the_engine_forgets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("devenv.engine.sdk._LOOK_SECONDS", 0.01)
    asked = iter([False, True])
    with tempfile.TemporaryDirectory(prefix="devenv-") as folder:
        path = f"{folder}/e.sock"
        with serving(ThreadingUnixStreamServer(path, Endless)):
            told = Sdk(f"unix://{path}", "default", "1.41").follow("etcd", "all", lambda: next(asked))
            assert [*told] == [b"last words\n"]
    assert next(asked, None) is None


@pytest.mark.parametrize(
    "content", ["{", "[]", "3", '{"auths": {"r": 3}}', '{"auths": {"r": {"auth": "dTp"}}}', '{"proxies": [1]}', "\xff"]
)
def test_a_config_json_that_the_library_cannot_read_does_not_matter(own_world: Path, content: str) -> None:
    (own_world / "docker").mkdir(parents=True)
    (own_world / "docker/config.json").write_text(content, encoding="latin-1")
    before = docker.utils.config.find_config_file
    Sdk("unix:///nonexistent", "default", "1.41")
    assert docker.utils.config.find_config_file is before
