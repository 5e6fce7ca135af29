"""Look at the TCP ports of this host's loopback address: find free ones, and the program that has one."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from pathlib import Path

from devenv.errors import NotOurs
from devenv.names import user_name

HOST = "127.0.0.1"
# The addresses that receive connections to 127.0.0.1, as /proc/net/tcp and tcp6 write them: any and loopback, of both
# families.
_LOOPBACK = {"00000000", "0100007F", "0" * 32, "0000000000000000FFFF00000100007F"}
_LISTEN = "0A"


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


def free_port(avoid: Iterable[int]) -> int:
    """Return a port that the kernel gives out now and that is not among `avoid`. Raise NotOurs if none is left."""
    avoided = set(avoid)
    for _ in range(100):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind((HOST, 0))
            port = int(probe.getsockname()[1])
        if port not in avoided:
            return port
    raise NotOurs(f"cannot find a free port on {HOST}", hint="stop programs that hold ports; 'ss -ltnp' lists them")


def holder(port: int, root: Path = Path("/")) -> str:
    """Return the program that listens on the port, in words, or its user if /proc does not show more.

    `root` is the folder that contains proc/. Systems other than Linux do not name the program.
    """
    sockets = _listeners(port, root)
    for link in root.glob("proc/[0-9]*/fd/*") if sockets else ():
        try:
            inode = str(link.readlink()).removeprefix("socket:[").removesuffix("]")
            if inode in sockets:
                process = link.parent.parent
                return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
        except OSError:
            continue
    return f"a process of {user_name(min(sockets.values()))}" if sockets else "another program"


def _listeners(port: int, root: Path) -> dict[str, int]:
    """Return the sockets that accept connections to the port, inode -> user id."""
    found = {}
    for table in ("proc/net/tcp", "proc/net/tcp6"):
        try:
            lines = (root / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            address, _, number = fields[1].partition(":")
            if fields[3] == _LISTEN and address in _LOOPBACK and int(number, 16) == port:
                found[fields[9]] = int(fields[7])
    return found
