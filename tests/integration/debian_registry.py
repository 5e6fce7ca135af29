"""Run Debian's registry, which takes pushes, on the loopback: engines ask for no TLS there."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import debian
import requests
from project import require

_CONFIG = """\
version: 0.1
storage: {{filesystem: {{rootdirectory: {folder}/storage}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""
_AUTH = "auth: {{htpasswd: {{realm: test, path: {folder}/users}}}}\n"
# The one login of a registry that asks for one, and how the registry knows the password.
LOGIN = ("user", "secret")
_USERS = "user:$2y$04$devenvdevenvdevenvdeveJ4pug3Kk0gXjaSXhPdYHr/M.h0HEw7y\n"


@dataclass
class Registry:
    """A registry on a loopback port."""

    port: int

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def tags(self, name: str) -> list[str]:
        answer = requests.get(f"http://{self.address}/v2/{name}/tags/list", timeout=10)
        return list(answer.json().get("tags") or ())


def program(folder: Path) -> Path:
    """Fetch Debian's registry into a folder."""
    unpacked = debian.unpacked(folder, "download", "docker-registry")
    require("" if unpacked else "no docker-registry: apt cannot download it")
    assert unpacked
    return unpacked / "usr/bin/docker-registry"


@contextmanager
def served(
    program: Path, folder: Path, port: int = 0, around: Sequence[str] = (), locked: bool = False
) -> Iterator[Registry]:
    """Run a registry of all that `folder` has, at a free port unless one is given; `around` runs it elsewhere.

    If it is `locked`, it answers nobody without LOGIN.
    """
    if not port:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
    folder.mkdir(exist_ok=True)
    (folder / "users").write_text(_USERS)
    (folder / "config.yml").write_text((_CONFIG + _AUTH * locked).format(folder=folder, port=port))
    command = [*around, program, "serve", folder / "config.yml"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        try:
            said = next(line for line in process.stderr if "listening on" in line or "fatal" in line)
            assert "listening on" in said, said
            yield Registry(port)
        finally:
            process.kill()
