"""Read the logs of containers, and run commands inside them, joined to the program that started these."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from devenv.engine import observe
from devenv.engine.connection import Connection, asking
from devenv.engine.http import in_lines
from devenv.engine.protocol import Tail
from devenv.errors import DevenvError

# The engine sends frames: a byte that says which output, three unused, four for the length, and the text.
_HEAD = 8


class Frames:
    """Takes apart what the engine sends of a container without a terminal. A frame may come in several pieces."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return the frames that are complete by now: which output, and its text."""
        self._rest += data
        found, start = [], 0
        while len(self._rest) >= start + _HEAD:
            end = start + _HEAD + int.from_bytes(self._rest[start + 4 : start + _HEAD], "big")
            if len(self._rest) < end:
                break
            found.append((self._rest[start], self._rest[start + _HEAD : end]))
            start = end
        self._rest = self._rest[start:]
        return found


class DockerSession:
    """A command that runs in a container: the engine's exec, and the socket that the engine opened for it."""

    def __init__(self, connection: Connection, run: str, stream: Any, early: bytes, tty: bool) -> None:
        """`early` is what the stream gave already."""
        self.stream = stream
        self._connection, self._run, self._early = connection, run, early
        self._frames = None if tty else Frames()

    def output(self, data: bytes) -> list[tuple[int, bytes]]:
        """Take apart what was read from the stream; a terminal has one output and no frames."""
        data, self._early = self._early + data, b""
        return self._frames.feed(data) if self._frames else [(1, data)]

    def resize(self, rows: int, columns: int) -> None:
        """Give the command's terminal a size."""
        with asking("resize a terminal"):
            self._connection.client.ask("POST", f"/exec/{self._run}/resize", {"h": rows, "w": columns})

    def exit_code(self) -> int:
        """Return the command's exit code."""
        with asking("ask for an exit code"):
            code = self._connection.client.ask("GET", f"/exec/{self._run}/json")["ExitCode"]
        return int(code or 0)


def logs(connection: Connection, container: str, tail: Tail, since: float, timestamps: bool) -> list[str]:
    """Return the lines that a container logged, from `since` on (in seconds since 1970) if it is given."""
    query: dict[str, str | int] = {"stdout": True, "stderr": True, "tail": tail, "timestamps": timestamps}
    query |= {"since": f"{since:.6f}"} if since else {}
    with asking(f"read the logs of container {container}"):
        sent = b"".join(connection.client.stream("GET", f"/containers/{container}/logs", query))
    # Join the frames before decoding: a line, or a letter, may be in two of them.
    return b"".join(text for _, text in Frames().feed(sent)).decode(errors="replace").splitlines()


def follow(connection: Connection, container: str, tail: Tail) -> Iterator[str]:
    """Yield the lines of a container's log as they come, until the container ends."""
    # Podman sometimes does not notice the end of a container that ends just as somebody begins to follow it.
    ended = partial(_has_ended, connection, container) if connection.client.podman else None
    with asking(f"follow the logs of container {container}"):
        for line in in_lines(connection.sdk.follow(container, tail, ended)):
            yield line.decode(errors="replace")


def _has_ended(connection: Connection, container: str) -> bool:
    try:
        return observe.state(connection, container).status in ("exited", "dead")
    except DevenvError:  # It was removed, or the engine ended. Then the log ends by itself.
        return True


def execute(
    connection: Connection, container: str, command: Sequence[str], tty: bool, environment: Mapping[str, str] | None
) -> DockerSession:
    """Start a command in a container with its input attached."""
    with asking(f"run {command[0]} in container {container}"):
        run, stream, early = connection.sdk.execute(container, command, tty, environment)
    return DockerSession(connection, run, stream, early, tty)
