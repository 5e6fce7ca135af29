"""Start a host for a test that is reached with ssh alone: a network namespace with an engine and Debian's sshd."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import debian
from private_engine import PrivateEngine, private_engine
from project import require

# In MB: room for the image of etcd and its base, and the data of some.
_DISK = 1500


@dataclass
class SshHost:
    """A host at `address`, with an engine; `bin` has the ssh of a user who may log in, `config` is that user's."""

    engine: PrivateEngine
    folder: Path
    address: str
    link: str
    daemon: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"ssh://{self.address}"

    @property
    def bin(self) -> Path:
        return self.folder / "bin"

    @property
    def config(self) -> Path:
        return self.folder / "config"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    @property
    def environ(self) -> dict[str, str]:
        """Return the variables with which devenv uses it."""
        return {"DOCKER_HOST": self.url, "PATH": f"{self.bin}:{os.environ['PATH']}"}

    def logins(self) -> int:
        """Return how many logins there were."""
        return (self.folder / "sshd.log").read_text().count("Accepted publickey")

    def network(self, state: str) -> None:
        """Take the network between this host and that one "up" or "down"."""
        subprocess.run(["ip", "link", "set", self.link, state], check=True)

    def begin(self, *options: str) -> None:
        """Start sshd, which takes a key alone; `options` are lines of its configuration."""
        library = next(self.folder.glob("debian/unpacked/**/libwrap.so.0")).parent
        sshd = self.folder / "debian/unpacked/usr/sbin/sshd"
        lines = [
            *options,
            f"HostKey {self.folder}/host_key",
            f"AuthorizedKeysFile {self.folder}/key.pub",
            f"SetEnv DOCKER_HOST=unix://{self.engine.socket}",
            "PidFile none",
            "UsePAM no",
            "StrictModes no",
            "PasswordAuthentication no",
            "PermitRootLogin yes",
        ]
        (self.folder / "sshd_config").write_text("\n".join(lines) + "\n")
        # Its user without rights need not be one of this host's.
        users = Path("/etc/passwd").read_text() + "sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n"
        (self.folder / "passwd").write_text(users)
        Path("/run/sshd").mkdir(exist_ok=True)
        mount = f"mount --bind {self.folder}/passwd /etc/passwd"
        run = f"exec {sshd} -D -f {self.folder}/sshd_config -E {self.folder}/sshd.log"
        (self.folder / "sshd.log").write_text("")
        command = [*self.engine.inside, "unshare", "--mount", "sh", "-c", f"{mount}; {run}"]
        self.daemon = subprocess.Popen(command, env={**os.environ, "LD_LIBRARY_PATH": str(library)})
        eventually(lambda: "listening" in (self.folder / "sshd.log").read_text())

    def end(self) -> None:
        """Stop sshd; connections that are open stay."""
        assert self.daemon
        self.daemon.terminate()
        self.daemon.wait()

    @contextmanager
    def refusing(self, *options: str) -> Iterator[None]:
        """Run sshd with these lines before its others."""
        self.end()
        self.begin(*options)
        try:
            yield
        finally:
            self.end()
            self.begin()


def eventually(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def ssh_host(folder: Path, megabytes: int = _DISK) -> Iterator[SshHost]:
    """Start a host with a disk of that size; remove it and all that it has afterwards."""
    require("" if shutil.which("ssh") and shutil.which("unshare") else "no ssh or unshare")
    (parent := folder / "debian").mkdir()
    unpacked = debian.unpacked(parent, "download", "openssh-server", "libwrap0")
    require("" if unpacked else "no sshd from Debian")
    with private_engine(folder, megabytes) as engine:
        link, net = f"dv{os.getpid()}", f"10.231.{os.getpid() % 250}"
        pair = ["ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", engine.run.name]
        subprocess.run(pair, check=True)
        for command in (
            ["ip", "address", "add", f"{net}.1/24", "dev", link],
            ["ip", "link", "set", link, "up"],
            [*engine.inside, "ip", "address", "add", f"{net}.2/24", "dev", "eth0"],
            [*engine.inside, "ip", "link", "set", "eth0", "up"],
        ):
            subprocess.run(command, check=True)
        host = SshHost(engine, folder, f"{net}.2", link)
        for key in ("host_key", "key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
        key = re.split(r"\s", (folder / "host_key.pub").read_text())
        host.known_hosts.write_text(f"{host.address} {key[0]} {key[1]}\n")
        host.config.write_text(
            f"Host *\n  User root\n  IdentityFile {folder}/key\n  UserKnownHostsFile {host.known_hosts}\n"
        )
        host.bin.mkdir()
        # ssh reads its user's config from the home that the system knows, whatever HOME says.
        (host.bin / "ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {host.config} "$@"\n')
        (host.bin / "ssh").chmod(0o755)
        host.begin()
        try:
            yield host
        finally:
            host.end()
