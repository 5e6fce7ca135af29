"""Run a command in a pod, with its input and output at a socket of this process.

Over a WebSocket that takes some milliseconds. Servers before 1.30 have no way to end a command's input there, so
kubectl runs the command instead, which takes some tenths of a second. In a pod without kubectl, a shell ends the input.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import socket
import threading
from collections.abc import AsyncIterator, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from devenv.engine.http import NoAnswer, Refused
from devenv.engine.kubernetes.connection import ApiRefused, Cluster, asking
from devenv.engine.kubernetes.websocket import END, V4, V5, again, opened, unless_closed
from devenv.engine.pod import CONTAINER
from devenv.engine.streams import Frames
from devenv.errors import NoEngine

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

# Bytes that go in one message.
_CHUNK = 1 << 16
# Bytes of input that devenv keeps for a command that begins at another try: more than pipes and buffers hold.
_MOST_KEPT = 1 << 20
# With this, kubectl tells the exit code of a command. What it says otherwise is about a command that has none, with the
# API's reason for some statuses.
_ENDED = b"command terminated with"
_REASONS = {"TooManyRequests": 429, "InternalError": 500, "ServiceUnavailable": 503, "Timeout": 504}
_REASONS |= {"ServerTimeout": 500, "Unauthorized": 401, "Forbidden": 403, "NotFound": 404}
_INPUT, _OUTPUT, _ERRORS, _STATUS, _SIZE = range(5)
# The shell takes variables from the first line of its input: a request's address is in the cluster's audit log, and a
# command's arguments are in its list of processes. It says when it is ready: a terminal shows what comes before.
_READY = b"\x06"
_TAKE_VARIABLES = """\
stty -echo 2>/dev/null; printf '\\006'; IFS= read -r line; stty echo 2>/dev/null; eval "export $line"; exec "$@"
"""
WITH_VARIABLES = ("sh", "-c", _TAKE_VARIABLES, "sh")

# The shell gets the input in pieces, each after its length, and ends the command's input at a length of 0. What feeds
# the command runs beside it, and ends when the cluster closes its own input.
_WITH_END = """\
exec 3<&0
{ { while IFS= read -r size && [ "$size" -gt 0 ]; do head -c "$size"; done; } <&3 3<&- 2>/dev/null & } |
{ exec 3<&-; exec "$@"; }
"""


class PodSession:
    """A command that runs in a pod (see `Session`). A thread carries its bytes between the cluster and `stream`."""

    def __init__(self, cluster: Cluster, pod: str, command: Sequence[str], tty: bool, line: bytes = b"") -> None:
        """`line` is sent to the command first, once it has sent the sign that it is ready."""
        self.stream, self._theirs = socket.socketpair()
        self._cluster, self._pod, self._command, self._tty, self._line = cluster, pod, command, tty, line
        self._frames = Frames()
        self._begun: Future[None] = Future()
        self._code: int | None = None
        self._failure: BaseException | None = None
        self._sizes: tuple[asyncio.AbstractEventLoop, asyncio.Queue[bytes]] | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Start the command. Raise Refused or OSError if the cluster does not."""
        self._thread.start()
        try:
            self._begun.result()
        except BaseException:
            self.stream.close()
            raise

    def output(self, data: bytes) -> list[tuple[int, bytes]]:
        """Take apart what was read from the stream."""
        return self._frames.feed(data)

    def resize(self, rows: int, columns: int) -> None:
        """Give the command's terminal a size. Does nothing once the command is over."""
        if self._sizes:
            loop, sizes = self._sizes
            size = json.dumps({"Width": columns, "Height": rows}).encode()
            with suppress(RuntimeError):  # the loop has ended with the command
                loop.call_soon_threadsafe(sizes.put_nowait, size)

    def exit_code(self) -> int:
        """Return the command's exit code."""
        self._thread.join()
        if self._failure:
            with asking(self._cluster, f"run {self._command[0]} in pod {self._pod}"):
                raise self._failure
        if self._code is None:
            raise NoEngine(
                f"cannot say how the command ended in pod {self._pod}: {self._cluster.login.words} hung up",
                hint="the command may still run in the pod; run it again once 'kubectl get pods' works",
            )
        return self._code

    # ---- in the thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            asyncio.run(self._carry())
        except BaseException as error:  # whoever waits for the thread has to learn of it
            self._failure = error
            if not self._begun.done():
                self._begun.set_exception(error)
        finally:
            self._theirs.close()

    async def _carry(self) -> None:
        joint = _Joint(*await asyncio.open_connection(sock=self._theirs), self._line)
        try:
            await self._by_websocket(joint)
        except ApiRefused as error:
            # A server before 1.30 refuses the protocol with this status, and says nothing.
            if self._begun.done() or error.status not in (400, 403) or error.args[0] != f"HTTP {error.status}":
                raise
            await (self._by_kubectl(joint) if shutil.which("kubectl") else self._by_websocket(joint, in_pieces=True))
        finally:
            await joint.close()

    async def _by_websocket(self, joint: _Joint, in_pieces: bool = False) -> None:
        streams = {"stdin": True, "stdout": True, "stderr": not self._tty, "tty": self._tty}
        query = {"container": CONTAINER, "command": self._wrapped(in_pieces), **streams}
        # A terminal needs no end of its input.
        protocols = [V5, V4] if self._tty or in_pieces else [V5]
        path = self._cluster.path("pods", self._pod, "exec")
        async with opened(self._cluster, path, query, protocols) as channels:
            sizes: asyncio.Queue[bytes] = asyncio.Queue()
            self._sizes = asyncio.get_running_loop(), sizes
            self._begun.set_result(None)
            await _until_over(
                self._read(channels, joint), self._feed(channels, joint, in_pieces), _measure(channels, sizes)
            )

    def _wrapped(self, in_pieces: bool) -> list[str]:
        """Return the command, with the shell that gives it its input. The one that takes variables stays outside."""
        if not in_pieces:
            return [*self._command]
        first = len(WITH_VARIABLES) if self._line else 0
        return [*self._command[:first], "sh", "-c", _WITH_END, "sh", *self._command[first:]]

    async def _feed(self, channels: ClientConnection, joint: _Joint, in_pieces: bool) -> None:
        with unless_closed():
            if self._line:
                await channels.send(bytes([_INPUT]) + await joint.line())
            async for data in joint.input():
                size = f"{len(data)}\n".encode() if in_pieces else b""
                await channels.send(bytes([_INPUT]) + size + data)
            if in_pieces:
                await channels.send(bytes([_INPUT]) + b"0\n")
            elif channels.subprotocol == V5:
                await channels.send(bytes([END, _INPUT]))

    async def _read(self, channels: ClientConnection, joint: _Joint) -> None:
        with unless_closed():
            async for message in channels:
                channel, data = message[0], bytes(message[1:])  # type: ignore[arg-type]  # never text
                if channel == _STATUS:
                    self._code = _code_of(data)
                elif channel in (_OUTPUT, _ERRORS):
                    await joint.show(int(channel), data)

    async def _by_kubectl(self, joint: _Joint) -> None:
        await again(lambda: self._once_by_kubectl(joint))

    async def _once_by_kubectl(self, joint: _Joint) -> None:
        command = ["kubectl", *self._cluster.login.arguments, "exec", "-i", "-c", CONTAINER, self._pod, "--"]
        command += self._command
        pipe = asyncio.subprocess.PIPE
        program = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe)
        if not self._begun.done():
            self._begun.set_result(None)
        try:
            await _until_over(self._read_of(program, joint), _feed_to(program, joint, bool(self._line)))
        finally:
            if program.returncode is None:
                program.kill()
                await program.wait()

    async def _read_of(self, program: asyncio.subprocess.Process, joint: _Joint) -> None:
        assert program.stdout and program.stderr  # noqa: S101, they are pipes
        _, last = await asyncio.gather(_show_all(program.stdout, joint), _show_lines(program.stderr, joint))
        code = await program.wait()
        shown, ended, _ = last.rpartition(_ENDED)
        if code and not ended:
            if failure := _failure_of(last.decode(errors="replace").strip()):
                raise failure
            return
        await joint.show(_ERRORS, shown if ended else last)
        self._code = code


class _Joint:
    """The inner end of a session's stream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: bytes) -> None:
        self._reader, self._writer, self._line = reader, writer, line
        self._ready = asyncio.Event()
        # What went to a command that may not have begun.
        self._sent: list[bytes] = []

    async def line(self) -> bytes:
        """Return the line that comes first, once the command waits for it."""
        await self._ready.wait()
        return self._line

    async def input(self) -> AsyncIterator[bytes]:
        """Yield what goes to the command, until the program shuts the stream down for writing.

        For another try, yield it from its beginning. kubectl reads no input before the command begins, and what lies
        in between holds little.
        """
        for data in [*self._sent]:
            yield data
        kept = sum(map(len, self._sent))
        while data := await self._reader.read(_CHUNK):
            if (kept := kept + len(data)) < _MOST_KEPT:
                self._sent.append(data)
            yield data

    async def show(self, channel: int, data: bytes) -> None:
        """Hand output on, in frames as Docker has them, without the sign that the command is ready for the line."""
        if self._line and channel == _OUTPUT and not self._ready.is_set():
            before, sign, after = data.partition(_READY)
            data = before + after
            if sign:
                self._ready.set()
        if data:
            self._writer.write(bytes([channel, 0, 0, 0]) + len(data).to_bytes(4, "big") + data)
            await self._writer.drain()

    async def close(self) -> None:
        with suppress(OSError):
            self._writer.close()
            await self._writer.wait_closed()


async def _until_over(over: Coroutine[Any, Any, None], *beside: Coroutine[Any, Any, None]) -> None:
    """Run these beside each other until the first ends. If another one fails, that ends all."""
    first, *others = tasks = [asyncio.ensure_future(one) for one in (over, *beside)]
    waiting = set(others)
    try:
        while not first.done():
            done, left = await asyncio.wait({first, *waiting}, return_when=asyncio.FIRST_COMPLETED)
            waiting = left - {first}
            for task in done - {first}:
                task.result()
        first.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _measure(channels: ClientConnection, sizes: asyncio.Queue[bytes]) -> None:
    with unless_closed():
        while True:
            await channels.send(bytes([_SIZE]) + await sizes.get())


async def _feed_to(program: asyncio.subprocess.Process, joint: _Joint, line: bool) -> None:
    assert program.stdin  # noqa: S101, it is a pipe
    with suppress(ConnectionError):  # the command reads no more
        if line:
            program.stdin.write(await joint.line())
        async for data in joint.input():
            program.stdin.write(data)
            await program.stdin.drain()
    program.stdin.close()


async def _show_all(output: asyncio.StreamReader, joint: _Joint) -> None:
    while data := await output.read(_CHUNK):
        await joint.show(_OUTPUT, data)


async def _show_lines(errors: asyncio.StreamReader, joint: _Joint) -> bytes:
    """Hand errors on, except for the last line, which may be kubectl's own: return that."""
    last = b""
    while data := await errors.read(_CHUNK):
        begun = (last + data).rstrip(b"\n").rfind(b"\n") + 1
        await joint.show(_ERRORS, (last + data)[:begun])
        last = (last + data)[begun:]
    return last


def _failure_of(words: str) -> Refused | NoAnswer | None:
    """Return the error for what kubectl says when it has no exit code; None if the command may have run."""
    if re.match(r"Unable to connect|The connection to the server|error: error sending request", words):
        return NoAnswer(words)
    if found := re.match(r"Error from server(?: \((\w+)\))?: ?(.*)", words):
        right = re.search(r'cannot (\w+) resource "([\w/]+)"', words)
        verb, resource = right.groups() if right else ("create", "pods/exec")
        return ApiRefused(_REASONS.get(found[1] or "InternalError", 400), found[2], verb, resource, 0)
    # It asks for the API's list of resources first, and does not say why it has none.
    if found := re.match(r"error: (unable to upgrade connection: |(?=the server doesn't have a resource))(.*)", words):
        return ApiRefused(500, found[2], "create", "pods/exec", 0)
    if not words or re.search(r"\bEOF\b|lost connection|reset by peer|error stream", words):
        return None
    return Refused(0, words.removeprefix("error: "))


def _code_of(data: bytes) -> int:
    """Return the exit code that a Status holds. Raise Refused if the command could not begin."""
    status = json.loads(data)
    if status.get("status") == "Success":
        return 0
    for cause in (status.get("details") or {}).get("causes") or ():
        if cause.get("reason") == "ExitCode":
            return int(cause["message"])
    raise Refused(0, str(status.get("message") or "it failed"))
