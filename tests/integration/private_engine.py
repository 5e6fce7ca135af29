"""An engine of a test's own, on a small disk and in a network namespace: it shares nothing with the real one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import docker
from project import Completed, Project

# Seconds in which an engine answers after it was started, or is given up.
_START_SECONDS = 60
NEEDED = ("dockerd", "ip", "nsenter", "mkfs.ext4", "mount")


def missing() -> str:
    """What keeps this host from having a second engine; empty if nothing does."""
    if os.geteuid() != 0:
        return "only root may start a second engine"
    return ", ".join(f"no {name}" for name in NEEDED if not shutil.which(name))


@dataclass
class PrivateEngine:
    """Where it answers, the command that reaches its published ports, and the disk that it has all its data on."""

    socket: Path
    inside: tuple[str, ...]
    disk: Path

    @cached_property
    def client(self) -> docker.DockerClient:
        return docker.DockerClient(base_url=f"unix://{self.socket}")

    def devenv(self, project: Project, *arguments: str) -> Completed:
        """The command line, from where the ports of this engine can be reached."""
        return subprocess.run(
            [*self.inside, sys.executable, "-m", "devenv.cli", *arguments],
            cwd=project.folder,
            env={**project.environ, "DOCKER_HOST": f"unix://{self.socket}"},
            capture_output=True,
            text=True,
            check=False,
        )

    def fill(self, leave: int) -> Path:
        """Write a file that leaves only so many bytes of the disk."""
        status = os.statvfs(self.disk)
        ballast = self.disk / "ballast"
        with ballast.open("wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, status.f_bavail * status.f_frsize - leave)
        return ballast


@contextmanager
def private_engine(folder: Path, megabytes: int) -> Iterator[PrivateEngine]:
    """Start an engine on a disk of that size; it and all that it has are gone afterwards."""
    # Not the name of the folder, which may be long: a socket's path has at most 107 bytes.
    run = Path(f"/run/devenv-test-{os.getpid()}")
    disk, namespace = run / "disk", run.name
    disk.mkdir(parents=True)
    image = folder / "disk.ext4"
    with image.open("wb") as stream:
        stream.truncate(megabytes << 20)
    # Not `ip netns exec`, which hides the control groups that an engine needs.
    inside = ("nsenter", f"--net=/run/netns/{namespace}")
    quiet = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], **quiet)
    subprocess.run(["mount", "-o", "loop", image, disk], check=True)
    try:
        subprocess.run(["ip", "netns", "add", namespace], check=True)
        subprocess.run([*inside, "ip", "link", "set", "lo", "up"], check=True)
        engine = PrivateEngine(run / "docker.sock", inside, disk)
        with _daemon(engine, run):
            yield engine
    finally:
        subprocess.run(["ip", "netns", "delete", namespace], check=False)
        subprocess.run(["umount", disk], check=True)
        image.unlink()
        shutil.rmtree(run, ignore_errors=True)


@contextmanager
def _daemon(engine: PrivateEngine, run: Path) -> Iterator[None]:
    options = [f"--data-root={engine.disk}/docker", f"--exec-root={run}/exec", f"--pidfile={run}/pid"]
    # Nothing of what the host's own engine is told.
    (settings := run / "daemon.json").write_text("{}")
    command = [*engine.inside, "dockerd", f"--host=unix://{engine.socket}", *options, f"--config-file={settings}"]
    with (
        (run / "log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True) as daemon,
    ):
        try:
            for _ in range(_START_SECONDS * 10):
                # It listens before it can answer, and answers when it can.
                if engine.socket.exists():
                    break
                assert daemon.poll() is None, (run / "log").read_text()
                with suppress(subprocess.TimeoutExpired):
                    daemon.wait(0.1)
            yield
            for container in engine.client.containers.list(all=True):
                container.remove(force=True)
            engine.client.close()
        finally:
            daemon.terminate()
            daemon.wait(30)
