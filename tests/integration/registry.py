"""Serve one image as a registry without TLS, which engines accept on the loopback. It answers pulls and no more."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


@dataclass
class Registry:
    """A registry: `blobs` by digest, `manifests` by digest and by tag, and in `asked` the manifests asked for.

    With a `login` ("user:password"), it answers nobody else.
    """

    address: str
    digest: str
    blobs: dict[str, bytes]
    manifests: dict[str, bytes]
    asked: list[str] = field(default_factory=list)
    login: str = ""

    def name(self, tag: str = "", digest: str = "") -> str:
        return f"{self.address}/debian" + (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")


def image(content: str, architecture: str) -> tuple[str, dict[str, bytes], bytes]:
    """Make an image with one file; return the digest of its manifest, its blobs and the manifest."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("content")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content.encode()))
    layer = gzip.compress(buffer.getvalue(), mtime=0)
    rootfs = {"type": "layers", "diff_ids": [_digest(buffer.getvalue())]}
    # Podman 4 builds on no image whose history lacks a layer.
    rest = {"rootfs": rootfs, "history": [{"created_by": "a test"}]}
    config = json.dumps({"architecture": architecture, "os": "linux", "config": {}, **rest}).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": {"mediaType": _CONFIG, "size": len(config), "digest": _digest(config)},
            "layers": [{"mediaType": _LAYER, "size": len(layer), "digest": _digest(layer)}],
        }
    ).encode()
    return _digest(manifest), {_digest(config): config, _digest(layer): layer}, manifest


@contextmanager
def serving(content: str, architecture: str, tag: str, host: str = "127.0.0.1") -> Iterator[Registry]:
    """Run a registry with that image, at an address of this host."""
    digest, blobs, manifest = image(content, architecture)

    class Handler(BaseHTTPRequestHandler):
        # Engines try TLS first. Like any registry without TLS, this one then answers in HTTP, not with a bare page.
        default_request_version = "HTTP/1.0"

        def do_GET(self) -> None:
            if registry.login and self.headers.get("Authorization") != f"Basic {_encoded(registry.login)}":
                return self._refuse()
            *_, kind, what = self.path.split("/")
            if self.path == "/v2/":
                return self._answer("application/json", b"{}")
            if kind == "manifests":
                registry.asked.append(what)
                return self._answer(_MANIFEST, registry.manifests.get(what))
            self._answer("application/octet-stream", registry.blobs.get(what))

        do_HEAD = do_GET

        def _refuse(self) -> None:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="test"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _answer(self, kind: str, body: bytes | None) -> None:
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body or b"")))
            if body and kind == _MANIFEST:
                self.send_header("Docker-Content-Digest", _digest(body))
            self.end_headers()
            if body and self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer((host, 0), Handler) as server:
        address = f"{host}:{server.server_address[1]}"
        registry = Registry(address, digest, blobs, {digest: manifest, tag: manifest})
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield registry
        finally:
            server.shutdown()


def _encoded(login: str) -> str:
    return base64.b64encode(login.encode()).decode()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
