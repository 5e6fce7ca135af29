"""Start an engine for a test, on a small disk and in a network namespace: it shares nothing with the real one."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import debian
import docker
import pytest
from project import Completed, Project, not_root, require

# Seconds to wait for a started engine to answer.
_START_SECONDS = 60
# All programs that Podman needs: apt leaves out dependencies that the host has, and only the host's libraries work.
_PODMAN = ("podman", "conmon", "golang-github-containers-common", "netavark", "aardvark-dns")
# In MB: room for the images of all services, their data and a snapshot of the data.
_PODMAN_DISK = 4000
NEEDED = ("dockerd", "ip", "nsenter", "mkfs.ext4", "mount")


def missing() -> str:
    """Return why this host cannot have a second engine; empty if it can."""
    programs = ", ".join(f"no {name}" for name in NEEDED if not shutil.which(name))
    return not_root("start a second engine") or programs


@dataclass
class PrivateEngine:
    """An engine: its folder, the command that reaches its published ports, and its further options."""

    run: Path
    inside: tuple[str, ...]
    options: tuple[str, ...] = ()
    daemon: subprocess.Popen[bytes] | None = None
    # The daemon's variables; if None, those of this process.
    environ: dict[str, str] | None = None

    @property
    def socket(self) -> Path:
        """Return the socket that it answers on."""
        return self.run / "engine.sock"

    @property
    def disk(self) -> Path:
        """Return the disk that has all its data."""
        return self.run / "disk"

    @cached_property
    def client(self) -> docker.DockerClient:
        return docker.DockerClient(base_url=f"unix://{self.socket}")

    def begin(self, project: Project, *arguments: str) -> subprocess.Popen[str]:
        """Start the command line where it can reach the ports of this engine."""
        return subprocess.Popen(
            [*self.inside, sys.executable, "-m", "devenv", *arguments],
            cwd=project.folder,
            env={**project.environ, "DOCKER_HOST": f"unix://{self.socket}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def devenv(self, project: Project, *arguments: str) -> Completed:
        """Run the command line to its end in the same way."""
        with self.begin(project, *arguments) as run:
            told, reported = run.communicate()
        return Completed(run.args, run.returncode, told, reported)

    def load(self, images: Sequence[str]) -> None:
        """Copy these images from the host's own engine."""
        load = ["docker", f"--host=unix://{self.socket}", "load", "--quiet"]
        with subprocess.Popen(["docker", "save", *images], stdout=subprocess.PIPE) as save:
            subprocess.run(load, stdin=save.stdout, check=True)

    def fill(self, leave: int) -> Path:
        """Write a file that leaves only `leave` bytes of the disk free."""
        status = os.statvfs(self.disk)
        ballast = self.disk / "ballast"
        with ballast.open("wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, status.f_bavail * status.f_frsize - leave)
        return ballast

    def command(self) -> list[str]:
        """Return the command that starts it, without any setting of the host's own engine."""
        own = [f"--data-root={self.disk}/docker", f"--exec-root={self.run}/exec", f"--pidfile={self.run}/pid"]
        (settings := self.run / "daemon.json").write_text("{}")
        return ["dockerd", f"--host=unix://{self.socket}", *own, f"--config-file={settings}", *self.options]

    def start(self) -> None:
        """Start it; return when it answers."""
        command = [*self.inside, *self.command()]
        with (self.run / "log").open("ab") as log:
            self.daemon = subprocess.Popen(command, stdout=log, stderr=log, env=self.environ, start_new_session=True)
        for _ in range(_START_SECONDS * 10):
            # It listens before it can answer; a request waits until it can.
            if self.socket.exists():
                break
            assert self.daemon.poll() is None, (self.run / "log").read_text()
            with suppress(subprocess.TimeoutExpired):
                self.daemon.wait(0.1)
        else:
            pytest.fail(f"no answer in {_START_SECONDS} s:\n{(self.run / 'log').read_text()}")

    def stop(self) -> None:
        """Stop it, with all that runs on it."""
        assert self.daemon
        self.daemon.terminate()
        self.daemon.wait(30)


class PrivatePodman(PrivateEngine):
    """Podman as Debian packages it, unpacked in a folder."""

    def command(self) -> list[str]:
        (unpacked,) = map(Path, self.options)
        # By default Podman asks for more than a host that is a container itself may have.
        allowed = [f"nofile={(most := resource.getrlimit(resource.RLIMIT_NOFILE)[1])}:{most}", "nproc=4096:4096"]
        (settings := self.run / "containers.conf").write_text(
            f"""
[containers]
default_ulimits = {json.dumps(allowed)}
seccomp_profile = "{unpacked}/usr/share/containers/seccomp.json"
[engine]
cgroup_manager = "cgroupfs"
conmon_path = ["{unpacked}/usr/bin/conmon"]
events_logger = "file"
helper_binaries_dir = ["{unpacked}/usr/lib/podman"]
runtime = "runc"
[network]
network_backend = "netavark"
network_config_dir = "{self.disk}/networks"
"""
        )
        (policy := self.run / ".config/containers/policy.json").parent.mkdir(parents=True, exist_ok=True)
        policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        libraries = ":".join(map(str, unpacked.glob("usr/lib/*-linux-gnu*")))
        own = {"HOME": str(self.run), "CONTAINERS_CONF": str(settings), "LD_LIBRARY_PATH": libraries}
        self.environ = {**os.environ, **own}
        return [*self._podman(), "system", "service", "--time=0", f"unix://{self.socket}"]

    def stop(self) -> None:
        """Stop it and its containers, which would outlive it; monitors of `exec` would, too, for five minutes."""
        ending = [*self.inside, *self._podman(), "rm", "--all", "--force", "--time=0"]
        subprocess.run(ending, check=False, capture_output=True, env=self.environ)
        super().stop()
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                program, *arguments = (process / "cmdline").read_bytes().split(b"\0")
                if program.endswith(b"/conmon") and any(a.startswith(bytes(self.disk)) for a in arguments):
                    os.kill(int(process.name), signal.SIGKILL)

    def _podman(self) -> list[str]:
        places = [f"--root={self.disk}/podman", f"--runroot={self.run}/podman"]
        return [f"{self.options[0]}/usr/bin/podman", *places, f"--tmpdir={self.run}/tmp", "--storage-driver=overlay"]


@contextmanager
def private_engine(
    folder: Path, megabytes: int, *options: str, kind: type[PrivateEngine] = PrivateEngine
) -> Iterator[PrivateEngine]:
    """Start an engine on a disk of that size; remove it and all that it has afterwards."""
    require(missing())
    # Not below `folder`, whose name may be long: a socket's path has at most 107 bytes.
    run = Path(f"/run/devenv-test-{os.getpid()}")
    namespace = run.name
    # Not `ip netns exec`, which hides the control groups that an engine needs.
    engine = kind(run, ("nsenter", f"--net=/run/netns/{namespace}"), options)
    engine.disk.mkdir(parents=True)
    image = folder / "disk.ext4"
    with image.open("wb") as stream:
        stream.truncate(megabytes << 20)
    quiet = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], **quiet)
    subprocess.run(["mount", "-o", "loop", image, engine.disk], check=True)
    try:
        subprocess.run(["ip", "netns", "add", namespace], check=True)
        subprocess.run([*engine.inside, "ip", "link", "set", "lo", "up"], check=True)
        try:
            engine.start()
            yield engine
            for container in engine.client.containers.list(all=True):
                container.remove(force=True)
            engine.client.close()
        finally:
            engine.stop()
    finally:
        subprocess.run(["ip", "netns", "delete", namespace], check=False)
        subprocess.run(["umount", "--recursive", engine.disk], check=True)
        image.unlink()
        shutil.rmtree(run, ignore_errors=True)


@contextmanager
def private_podman(folder: Path) -> Iterator[PrivateEngine]:
    """Start Debian's Podman, without installing it."""
    (parent := folder / "debian").mkdir()
    options = ("--yes", "--download-only", "--reinstall", "--no-install-recommends")
    unpacked = debian.unpacked(parent, "install", *options, *_PODMAN)
    require("" if unpacked else "no Podman from Debian")
    with private_engine(folder, _PODMAN_DISK, str(unpacked), kind=PrivatePodman) as engine:
        yield engine
