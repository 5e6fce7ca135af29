"""Look at this host, and install and start a container engine on it.

`devenv doctor --fix` calls `bring_up_engine`. It works on Debian and Ubuntu, as root or with passwordless sudo, for the
host's default engine only. Everywhere else it raises NoEngine with the exact command. It ends no process, and starts no
second engine: that would break the first.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from devenv.errors import NoEngine
from devenv.store.files import make_private
from devenv.store.places import state_folder

Say = Callable[[str], None]
# "refused": a dead program left its socket file.
Listening = Literal["yes", "absent", "refused", "denied", "silent"]
_SILENCE: dict[type[OSError], Listening] = {
    FileNotFoundError: "absent",
    ConnectionRefusedError: "refused",
    PermissionError: "denied",
}
Poll = Callable[[], int | None]  # a daemon's exit status, None while it runs

# With sbin, where dockerd is; an ordinary user's PATH leaves it out.
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"
SOCKET = "/var/run/docker.sock"
DEFAULT_URLS = (f"unix://{SOCKET}", "unix:///run/docker.sock")
_PING = b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n"  # a starting engine only listens
START_SECONDS = 60.0
TAIL_LINES = 10

# Program that makes a base image -> an ordinary user needs one of these programs for it; root needs none.
_BASE_TOOLS = {"mmdebstrap": ("newuidmap", "fakechroot"), "debootstrap": ()}
# Ubuntu's apt trusts Debian's archive only by that keyring, which mmdebstrap reads with gpg.
_BASE_PACKAGES = ("mmdebstrap", "debian-archive-keyring", "gpg")
# docker.io only recommends ca-certificates and xz-utils; pulling and importing need them.
ENGINE_PACKAGES = ("docker.io", "iptables", "ca-certificates", "xz-utils")

# File -> the program whose pid it holds. dockerd does not start while *any* program has the pid in docker.pid. It takes
# the program with the pid in containerd.pid for its containerd, and kills it in the end (moby
# libcontainerd/supervisor/remote_daemon.go).
PID_FILES = (
    ("/var/run/docker.pid", "dockerd"),
    ("/var/run/docker/containerd/containerd.pid", "containerd"),
)
# If this file exists, dockerd starts no containerd of its own, even if nothing listens there.
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"

# Wait for another apt, and ask nothing about config files.
_APT = ("apt-get", "-o", "DPkg::Lock::Timeout=120", "-o", "Dpkg::Options::=--force-confold")
_APT_INSTALL = ("install", "-y", "--no-install-recommends", "--no-remove", "--no-upgrade")
_JOURNAL = "run: journalctl -u docker -n 30"
_SYSTEMD_START = "sudo systemctl start docker"
_COMMANDS = {  # /etc/os-release ID or ID_LIKE -> the command that brings up an engine there
    "debian": "sudo apt-get update && sudo apt-get install -y --no-install-recommends "
    f"{' '.join((*ENGINE_PACKAGES, *_BASE_PACKAGES, 'uidmap'))} && sudo service docker start",
    "fedora": f"sudo dnf install -y moby-engine && {_SYSTEMD_START}",
    "arch": f"sudo pacman -S --needed docker && {_SYSTEMD_START}",
    "suse": f"sudo zypper install -y docker && {_SYSTEMD_START}",
    "alpine": "sudo apk add docker && sudo rc-service docker start",
}
_ANY_OTHER = "install and start Docker Engine: https://docs.docker.com/engine/install/"


@dataclass(frozen=True)
class Outcome:
    status: int
    output: str


@dataclass(frozen=True)
class Daemon:
    """A starting engine: how to see that it ended, its log, and where in the log this start begins."""

    poll: Poll
    log: Path | None = None
    start: int = 0


_UNSEEN = Daemon(lambda: None)  # another program started it: devenv only sees that it does not answer


class Host:
    """The machine, as far as this module uses it. A test puts a folder and a script in its place."""

    root = Path("/")

    def path(self, name: str) -> Path:
        return self.root / name.lstrip("/")

    def uid(self) -> int:
        return os.geteuid()

    def which(self, program: str) -> str | None:
        return shutil.which(program, path=PATH)

    def run(self, argv: Sequence[str], timeout: float | None = None) -> Outcome:
        try:
            # S603: every argv comes from this file, none from a user or another file.
            done = subprocess.run(  # noqa: S603
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=timeout,
                env=os.environ | {"DEBIAN_FRONTEND": "noninteractive", "PATH": PATH},
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return Outcome(127, str(error))
        return Outcome(done.returncode, done.stdout)

    def spawn(self, argv: Sequence[str], log: Path) -> Poll:
        """Start a daemon that outlives devenv; return the function that tells its exit status."""
        make_private(log.parent)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "ab") as output:
            daemon = subprocess.Popen(  # noqa: S603 - as in run()
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=os.environ | {"PATH": PATH},
                start_new_session=True,
            )
        return daemon.poll

    def listening(self, name: str, request: bytes = b"") -> Listening:
        """Return whether a program listens on a unix socket and, if there is a request, answers it with 200."""
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(5)
                client.connect(str(self.path(name)))
                client.sendall(request)
                return "yes" if not request or b" 200 " in client.recv(64) else "silent"
        except OSError as error:
            return _SILENCE.get(type(error), "silent")

    def now(self) -> float:
        return time.monotonic()

    def pause(self) -> None:
        time.sleep(0.2)


# ---- what is here --------------------------------------------------------------------------------


def program_of(host: Host, pid: int) -> str:
    """Return the program's name, "" for a process that is gone or only waits to be reaped."""
    try:
        stat = host.path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return ""
    name, _, rest = stat.partition("(")[2].rpartition(") ")
    return "" if rest[:1] in {"Z", "X", ""} else name


def running_engine(host: Host) -> int | None:
    """Return the pid of the dockerd in this network namespace; a rootless or nested one has its own."""
    named = _pid_in(host.path(PID_FILES[0][0]))
    if named and program_of(host, named) == "dockerd":
        return named
    own = _network_of(host, "self")
    try:
        names = [entry.name for entry in host.path("/proc").iterdir()]
    except OSError:  # no /proc: not Linux
        return None
    pids = sorted(int(name) for name in names if name.isdigit())
    engines = (pid for pid in pids if program_of(host, pid) == "dockerd")
    # "" is another user's process: better no engine than a second one.
    return next((pid for pid in engines if _network_of(host, str(pid)) in {own, ""}), None)


def _network_of(host: Host, process: str) -> str:
    try:
        return str(host.path(f"/proc/{process}/ns/net").readlink())
    except OSError:
        return ""


def _pid_in(file: Path) -> int | None:
    """Return the pid in a pid file, 0 if it holds none (after a crash), None without a file."""
    try:
        text = file.read_text(errors="replace").strip()
    except OSError:
        return None
    return int(text) if text.isascii() and text.isdigit() else 0


def families(host: Host) -> list[str]:
    """Return the distribution and those it derives from, nearest first; empty if this is not Linux."""
    try:
        lines = host.path("/etc/os-release").read_text(errors="replace").splitlines()
    except OSError:
        return []
    parts = (line.partition("=") for line in lines)
    fields = {key: value.strip("\"' ") for key, _, value in parts}
    return f"{fields.get('ID', '')} {fields.get('ID_LIKE', '')}".split()


def command_here(host: Host) -> str:
    """Return the command that installs and starts an engine on this distribution."""
    names = ["suse" if "suse" in name else name for name in families(host)]
    return next((_COMMANDS[name] for name in names if name in _COMMANDS), _ANY_OTHER)


def obstacle(host: Host) -> str:
    """Return why devenv cannot install or start anything here itself, "" if it can."""
    names = families(host)
    if not {"debian", "ubuntu"} & set(names):
        return f"this is not Debian or Ubuntu ({names[0] if names else 'no /etc/os-release'})"
    if host.uid() != 0 and host.run(["sudo", "-n", "true"], timeout=10).status != 0:
        return "devenv is neither root nor has passwordless sudo"
    return ""


def base_tool(host: Host | None = None) -> str:
    """Return the path of the program that can make a base image from packages here, "" without one."""
    host = host or Host()
    for tool, helpers in _BASE_TOOLS.items():
        path = host.which(tool)
        if path and (host.uid() == 0 or any(host.which(helper) for helper in helpers)):
            return path
    return ""


def base_packages(host: Host) -> tuple[str, ...]:
    """Return the packages that bring such a program, for this user."""
    return _BASE_PACKAGES if host.uid() == 0 else (*_BASE_PACKAGES, "uidmap")


def advice(url: str, origin: str, host: Host) -> tuple[str, bool]:
    """Return what to do when no engine answers at `url`, and whether bring_up_engine may do it."""
    if hint := _foreign_hint(url, origin, host):
        return hint, False
    if host.listening(SOCKET) == "denied" and running_engine(host):
        return group_hint(host), False
    if obstacle(host):
        return f"run: {command_here(host)}", False
    return "run: devenv doctor --fix", True


# ---- what is done --------------------------------------------------------------------------------


def bring_up_engine(url: str, origin: str, say: Say, host: Host) -> None:
    """Make this host's default engine answer. Raises NoEngine with the command if it cannot."""
    if hint := _foreign_hint(url, origin, host):
        what = f"{origin} names it, and it is not this host's default engine"
        raise NoEngine(f"cannot start the engine at {url}: {what}", hint=hint)
    if host.listening(SOCKET, _PING) == "yes":
        return
    daemon = _UNSEEN
    if pid := running_engine(host):
        say(f"dockerd runs already (pid {pid}), waiting for it to answer")
    else:
        if why := obstacle(host):
            hint = f"run: {command_here(host)}"
            raise NoEngine(f"cannot start a container engine: {why}", hint=hint)
        if not host.which("dockerd"):
            install(ENGINE_PACKAGES, say, host)
        if not running_engine(host):  # the package may have started it
            clear_stale_state(say, host)
            daemon = _start(say, host)
    _wait_until_answers(host, daemon)
    say("the engine answers")


def install(packages: Sequence[str], say: Say, host: Host) -> None:
    """Install Debian packages and remove none. Raises NoEngine with the end of apt's output."""
    say("apt-get update")
    update = host.run(_as_root(host, *_APT, "update"))
    if update.status:  # another apt holds the lists, or one source is down: the old lists may do
        reason = (update.output.strip().splitlines() or ["no output"])[-1]
        say(f"apt-get update failed, going on with the old package lists: {reason}")
    names = " ".join(packages)
    say(f"apt-get install {names}")
    # No time limit: if apt is killed half-way, dpkg needs repair.
    _must(host, _as_root(host, *_APT, *_APT_INSTALL, *packages), f"cannot install {names}")


def clear_stale_state(say: Say, host: Host) -> None:
    """Remove dead pid files and sockets that a crashed daemon left: they keep the next one from starting."""
    for name, program in PID_FILES:
        pid = _pid_in(host.path(name))
        if pid is None or (other := program_of(host, pid)) == program:
            continue
        owner = f"pid {pid} is {other or 'gone'}" if pid else "it names no process"
        _remove(name, owner, say, host)
    if host.listening(CONTAINERD_SOCKET) == "refused":
        _remove(CONTAINERD_SOCKET, "no containerd listens on it", say, host)


def _foreign_hint(url: str, origin: str, host: Host) -> str:
    """Return what to do about an engine that is not the host's default one; "" for that one."""
    if url in DEFAULT_URLS:
        return ""
    if origin == "rootless":
        return "run: systemctl --user start docker"
    if origin == "podman":
        # Root's socket is for root alone: another user starts one of his own.
        rootful = url.startswith("unix:///run/podman/") and host.uid() == 0
        return f"run: systemctl {'' if rootful else '--user '}start podman.socket"
    back = "docker context use default" if origin.startswith("context") else f"unset {origin}"
    return f"start that engine, or go back to the default one: {back}"


def _start(say: Say, host: Host) -> Daemon:
    if host.path("/run/systemd/system").exists():
        say("systemctl start docker")
        command = _as_root(host, "systemctl", "start", "docker")
        _must(host, command, "cannot start the engine", _JOURNAL, timeout=120)
        return _UNSEEN
    log = _log_file(host)
    start = log.stat().st_size if log.exists() else 0
    say(f"starting dockerd, log in {log}")
    try:
        poll = host.spawn(_as_root(host, host.which("dockerd") or "dockerd"), log)
    except OSError as error:
        raise NoEngine(f"cannot start dockerd: {error}", f"run: {command_here(host)}") from error
    return Daemon(poll, log, start)


def _wait_until_answers(host: Host, daemon: Daemon) -> None:
    deadline = host.now() + START_SECONDS
    hint = f"read the whole log: {daemon.log}" if daemon.log else f"{_JOURNAL}, or see its log"
    while (state := host.listening(SOCKET, _PING)) != "yes":
        if (status := daemon.poll()) is not None:
            what = f"dockerd ended with status {status}"
            raise NoEngine(f"cannot start the engine: {what}", hint=hint, detail=_tail(daemon))
        if state == "denied":
            what = f"permission denied on {SOCKET}"
            raise NoEngine(f"cannot use the engine: {what}", hint=group_hint(host))
        if host.now() >= deadline:
            what = f"no answer on {SOCKET} after {START_SECONDS:.0f} s"
            raise NoEngine(f"cannot start the engine: {what}", hint=hint, detail=_tail(daemon))
        host.pause()


def group_hint(host: Host) -> str:
    """Return how this user may use the engine of root."""
    import grp
    import pwd

    try:
        user = pwd.getpwuid(host.uid()).pw_name
        if user in grp.getgrnam("docker").gr_mem:
            return "you joined group docker after you logged in: log in again"
    except KeyError:
        user = '"$USER"'
    return f"run: sudo usermod -aG docker {user}, then log in again (gives root's rights here)"


def _as_root(host: Host, *argv: str) -> list[str]:
    # sudo clears the environment, and with it the DEBIAN_FRONTEND that run() sets.
    sudo = () if host.uid() == 0 else ("sudo", "-n", "env", "DEBIAN_FRONTEND=noninteractive")
    return [*sudo, *argv]


def _must(host: Host, argv: Sequence[str], failure: str, hint: str = "", timeout: float | None = None) -> None:
    done = host.run(argv, timeout)
    if done.status:
        lines = done.output.strip().splitlines()[-TAIL_LINES:]
        what = f"{failure}: {argv[0]} ended with status {done.status}"
        raise NoEngine(what, hint=hint or f"run it by hand: {' '.join(argv)}", detail=lines)


def _remove(name: str, why: str, say: Say, host: Host) -> None:
    say(f"removing {name}: {why}")
    command = _as_root(host, "rm", "-f", str(host.path(name)))
    _must(host, command, f"cannot remove {name}", timeout=10)


def _log_file(host: Host) -> Path:
    if host.uid() == 0:
        return host.path("/var/log/devenv-dockerd.log")
    return state_folder() / "dockerd.log"


def _tail(daemon: Daemon) -> list[str]:
    """Return the last lines that this start wrote. The log also holds earlier starts."""
    if daemon.log is None or not daemon.log.exists():
        return []
    with daemon.log.open("rb") as file:
        file.seek(max(daemon.start, daemon.log.stat().st_size - 16384))
        return file.read().decode(errors="replace").splitlines()[-TAIL_LINES:]
