"""Look at the TCP ports of this host's loopback address: find free ones, and the program that has one."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import SystemRandom

from devenv.errors import NotOurs
from devenv.names import user_name

HOST = "127.0.0.1"
# The addresses that receive connections to 127.0.0.1, as /proc/net/tcp and tcp6 write them: any and loopback, of both
# families.
_LOOPBACK = {"00000000", "0100007F", "0" * 32, "0000000000000000FFFF00000100007F"}
_LISTEN = "0A"
# The program has closed the connection, and the kernel keeps its port for a while.
_NO_INODE = "0"
_SETTINGS = Path("proc/sys/net/ipv4")
# If the system does not say: the ranges of Linux and of IANA, which macOS follows.
_USUAL_EPHEMERAL = range(32768, 65536)
# Above most servers' well-known ports, and below the node ports of Kubernetes.
_PREFERRED = range(10000, 30000)
_TRIES = 100


def is_free(port: int) -> bool:
    """Return whether a server could listen on the port right now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # The engine can listen while old connections are still closing.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError:
            return False
        return True


def free_port(avoid: Iterable[int], root: Path = Path("/")) -> int:
    """Return a port that is free now, can stay so while nobody listens on it, and is not among `avoid`.

    The kernel gives the ports of its ephemeral range to outgoing connections, so devenv takes one of these only if no
    other is left. `root` is the folder that contains proc/. Raise NotOurs if no port is left at all.
    """
    avoided = {*avoid, *_listed("ip_local_reserved_ports", root)}
    # From the system: forked processes would share Python's own sequence, and take each other's ports.
    for candidates in _outside(_ephemeral(root)):
        for port in SystemRandom().sample(candidates, min(_TRIES, len(candidates))):
            if port not in avoided and is_free(port):
                return port
    for _ in range(_TRIES):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind((HOST, 0))
            port = int(probe.getsockname()[1])
        if port not in avoided:
            return port
    raise NotOurs(f"cannot find a free port on {HOST}", hint="stop programs that hold ports; 'ss -ltnp' lists them")


def _outside(ephemeral: range) -> Iterator[list[int]]:
    """Yield the ports outside of the ephemeral range: the preferred ones, then all that need no privilege."""
    for candidates in (_PREFERRED, range(1024, 65536)):
        yield [port for port in candidates if port not in ephemeral]


def _ephemeral(root: Path) -> range:
    """Return the ports from which the kernel takes those of outgoing connections."""
    try:
        first, last = map(int, (root / _SETTINGS / "ip_local_port_range").read_text().split())
    except (OSError, ValueError):
        return _USUAL_EPHEMERAL
    return range(first, last + 1)


def _listed(setting: str, root: Path) -> set[int]:
    """Return the ports that a setting of the kernel lists, as in "8080,9000-9009"."""
    try:
        spans = [span.split("-") for span in (root / _SETTINGS / setting).read_text().strip().split(",") if span]
        return {port for span in spans for port in range(int(span[0]), int(span[-1]) + 1)}
    except (OSError, ValueError):
        return set()


def holder(port: int, root: Path = Path("/")) -> str:
    """Return in words who has the port: the program that listens on it or whose connection comes from it.

    It is the program's user if /proc does not show more. `root` is the folder that contains proc/. Systems other than
    Linux do not name the program.
    """
    listening, connected = _sockets(port, root)
    sockets, what = (listening, "") if listening else (connected, "a connection of ")
    for link in root.glob("proc/[0-9]*/fd/*") if sockets else ():
        try:
            inode = str(link.readlink()).removeprefix("socket:[").removesuffix("]")
            if inode in sockets:
                process = link.parent.parent
                return f"{what}{(process / 'comm').read_text().strip()} (pid {process.name})"
        except OSError:
            continue
    return f"{what}a process of {user_name(min(sockets.values()))}" if sockets else "another program"


def _sockets(port: int, root: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Return the sockets that accept connections to the port, and those of connections from it: inode -> user id."""
    listening: dict[str, int] = {}
    connected: dict[str, int] = {}
    for table in ("proc/net/tcp", "proc/net/tcp6"):
        try:
            lines = (root / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            address, _, number = fields[1].partition(":")
            if address in _LOOPBACK and int(number, 16) == port and fields[9] != _NO_INODE:
                (listening if fields[3] == _LISTEN else connected)[fields[9]] = int(fields[7])
    return listening, connected
