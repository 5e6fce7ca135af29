"""Run a supervisor: listen on ports of 127.0.0.1, and dial a destination for each connection.

`Dialler` says what a kind of way has to do; DIALLERS finds it. A connection that comes while the way is down waits,
for HOLD_SECONDS at most. The supervisor opens the way again by itself, with a pause that grows.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from devenv.engine.forward import CONTROL, LIFE, PROCESS
from devenv.ports import HOST
from devenv.store.files import as_json, create_or_open, write_files

_log = logging.getLogger("devenv.forward")

# The diallers, by the kind of way: module and class.
DIALLERS = {"ssh": "devenv.engine.tunnel:Dialler", "kubernetes": "devenv.engine.kubernetes.forward:Dialler"}
# Seconds that a new connection waits for a way that is down.
HOLD_SECONDS = 30.0
# Seconds between two looks at the way, the folder and the clock; between two attempts to open the way, which grow.
_LOOK_SECONDS = 1.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 5.0
# If a look comes later than this, the machine slept, or somebody stopped this process.
_SLEPT_SECONDS = 5.0
_CHUNK = 1 << 16
_BACKLOG = 128


class Stream(Protocol):
    """One connection to a destination."""

    async def read(self) -> bytes:
        """Return what came, as it comes; b"" at the end. Raises OSError if the connection broke."""

    async def write(self, data: bytes) -> None:
        """Send data. Raises OSError if the connection broke."""

    async def end(self) -> None:
        """Tell the other side that no more data comes. It may still send."""

    async def close(self) -> None:
        """Close the connection. Raises nothing."""


class Dialler(Protocol):
    """A kind of way. Its class is called with the way's settings, and the path of a folder for sockets as "sockets".

    It may also have `async open(suspect: bool)`, which opens the way if it is not open, so that `dial` is quick. It
    raises OSError with the cause (Closed, if a person has to mend it). With `suspect`, the machine slept: make sure
    that an open way still works.
    """

    async def dial(self, destination: str) -> Stream:
        """Connect to a destination.

        Raises ConnectionRefusedError if nothing listens there, which the client is told, and any other OSError if the
        way is down: then the connection waits for it.
        """

    async def close(self) -> None:
        """End everything that the dialler has started. Raises nothing."""


class Closed(OSError):
    """No way leads there, for a cause that a person has to mend. `hint` says how."""

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.hint = hint


def made(kind: str, settings: Mapping[str, str], sockets: Path) -> Dialler:
    """Return a new dialler of that kind; a kind that devenv does not know is a module and a class itself."""
    module, _, name = DIALLERS.get(kind, kind).partition(":")
    dialler: Dialler = getattr(import_module(module), name)({**settings, "sockets": str(sockets)})
    return dialler


class Supervisor:
    """The ports that this process forwards, and the way that they take."""

    def __init__(self, folder: Path, sockets: Path, request: Mapping[str, Any]) -> None:
        self._folder = folder
        self._watched = [Path(request["watch"])] if request.get("watch") else []
        self._way = request["way"]
        self._dialler = made(self._way["kind"], self._way["settings"], sockets)
        self._listeners: dict[int, asyncio.Server] = {}
        self._destinations: dict[int, str] = {}
        self._fault: dict[str, str] | None = None
        self._turn = asyncio.Lock()
        self._opening = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self.over = asyncio.Event()

    # ---- requests ------------------------------------------------------------------------------------------------

    async def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Do what a devenv asks for, and return the answer."""
        if self.over.is_set():
            return {"error": "it ends"}
        match request.get("do"):
            case "forward":
                async with self._turn:
                    return await self._forward(request["way"], {int(p): to for p, to in request["ports"].items()})
            case "end":
                self.over.set()
        return {"ports": sorted(self._listeners), "fault": self._fault}

    async def _forward(self, way: Mapping[str, Any], ports: Mapping[int, str]) -> dict[str, Any]:
        if way != self._way:
            return {"error": "it has another way"}
        fresh: dict[int, socket.socket] = {}
        for port in ports.keys() - self._listeners.keys():
            try:
                fresh[port] = listening(port)
            except OSError:
                for one in fresh.values():
                    one.close()
                return {"taken": port}
        await self.look(wanted=True)
        if self._fault:
            for one in fresh.values():
                one.close()
            return {"fault": self._fault}
        for port in self._listeners.keys() - ports.keys():
            self._listeners.pop(port).close()
        self._destinations = dict(ports)
        for port, one in fresh.items():
            self._listeners[port] = await asyncio.start_server(self._serving(port), sock=one, backlog=_BACKLOG)
        _log.info("forwarding %s", self._destinations)
        return {"ports": sorted(self._listeners), "fault": None}

    # ---- the way -------------------------------------------------------------------------------------------------

    async def look(self, wanted: bool = False, suspect: bool = False) -> None:
        """Open the way if it is down, and note why it cannot be opened. Unless `wanted`, skip that if one is at it."""
        if self._opening.locked() and not wanted:
            return
        async with self._opening:
            try:
                if opened := getattr(self._dialler, "open", None):
                    await opened(suspect)
            except OSError as error:
                reason = str(error) or type(error).__name__
                if not self._fault or self._fault["reason"] != reason:
                    _log.warning("the way is down: %s", reason)
                self._fault = {"reason": reason, "hint": getattr(error, "hint", "")}
            else:
                if self._fault:
                    _log.info("the way is open again")
                self._fault = None

    async def keep(self, process: bytes) -> None:
        """Keep the way open until the end, which also comes when the folder or the watched file is gone.

        `process` is what the folder says of this process, until another one has its place.
        """
        pause = _FIRST_PAUSE
        while not self.over.is_set():
            began, seconds = time.time(), pause if self._fault else _LOOK_SECONDS
            with suppress(TimeoutError):
                await asyncio.wait_for(self.over.wait(), seconds)
            if read(self._folder / PROCESS) != process or not all(path.exists() for path in self._watched):
                _log.info("the environment is gone")
                return self.over.set()
            await self.look(suspect=time.time() - began - seconds > _SLEPT_SECONDS)
            pause = min(pause * 2, _LONGEST_PAUSE) if self._fault else _FIRST_PAUSE

    # ---- connections ---------------------------------------------------------------------------------------------

    def _serving(self, port: int) -> Any:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if (task := asyncio.current_task()) is not None:
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            client = SocketStream(reader, writer)
            try:
                there = await self._dialled(port)
            except OSError as error:
                _log.info("port %d: %s", port, error)
                return client.refuse()
            try:
                await joined(client, there)
            finally:
                await there.close()
                await client.close()

        return serve

    async def _dialled(self, port: int) -> Stream:
        """Dial for a connection, again and again while the way is down. Raise the last OSError when it takes long."""
        deadline, pause = time.monotonic() + HOLD_SECONDS, _FIRST_PAUSE
        while True:
            try:
                return await self._dialler.dial(self._destinations[port])
            except ConnectionRefusedError:
                raise
            except OSError:
                if time.monotonic() + pause > deadline:
                    raise
            await asyncio.sleep(pause)
            pause = min(pause * 2, 1.0)

    async def close(self) -> None:
        """Listen no more, and end all connections and the way."""
        for server in self._listeners.values():
            server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._dialler.close()


class SocketStream:
    """A stream over a socket of this host."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def read(self) -> bytes:
        return await self._reader.read(_CHUNK)

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def end(self) -> None:
        with suppress(OSError):
            self._writer.write_eof()

    async def close(self) -> None:
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()

    def refuse(self) -> None:
        """Reset the connection: its client shall not take it for a server that has nothing to say."""
        ours = self._writer.get_extra_info("socket")
        with suppress(OSError):
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.close()


async def joined(one: Stream, other: Stream) -> None:
    """Carry data in both directions until both have ended, or one side broke."""
    ways = [asyncio.ensure_future(_carry(*pair)) for pair in ((one, other), (other, one))]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in ways:
            task.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


async def _carry(source: Stream, target: Stream) -> None:
    while data := await source.read():
        await target.write(data)
    await target.end()


def listening(port: int) -> socket.socket:
    """Return a socket that listens on a port of 127.0.0.1. Raise OSError if another program has it."""
    one = socket.socket(socket.AF_INET)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        one.bind((HOST, port))
        # Here, not later: two programs may have bound it, and only one can listen.
        one.listen(_BACKLOG)
        one.setblocking(False)
    except OSError:
        one.close()
        raise
    return one


def read(path: Path) -> bytes:
    """Return what a file holds, nothing if it is gone."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


# ---- the process -------------------------------------------------------------------------------------------------


def main(folder: Path) -> None:
    """Read the first request, answer it, and forward until the end. Return, with nothing left, if it cannot be met."""
    request = json.loads(sys.stdin.buffer.readline())
    if os.fork():
        os._exit(0)
    os.umask(0o077)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s")
    life = create_or_open(folder / LIFE, os.O_RDWR)
    fcntl.flock(life, fcntl.LOCK_EX)
    # A path of a socket has at most 104 bytes, and the folder's own may be long.
    sockets = Path(tempfile.mkdtemp(prefix="devenv-", dir=runtime_folder()))
    own = as_json({"pid": os.getpid(), "sockets": str(sockets), "way": request["way"]})
    write_files({folder / PROCESS: own})
    try:
        asyncio.run(_run(folder, sockets, request, own))
    finally:
        shutil.rmtree(sockets, ignore_errors=True)
        if read(folder / PROCESS) == own:
            (folder / PROCESS).unlink(missing_ok=True)


def runtime_folder() -> str | None:
    """Return the user's own folder for sockets, None for the usual one of temporary files."""
    own = os.environ.get("XDG_RUNTIME_DIR", "")
    return own if own and len(own) < 40 and os.access(own, os.W_OK) else None


async def _run(folder: Path, sockets: Path, request: Mapping[str, Any], own: bytes) -> None:
    supervisor = Supervisor(folder, sockets, request)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, supervisor.over.set)
    control = await asyncio.start_unix_server(_controlled(supervisor), sockets / CONTROL)
    try:
        answer = await _unless_over(supervisor, request)
        _say(answer)
        if answer.get("ports") is not None:
            await supervisor.keep(own)
    finally:
        control.close()
        await supervisor.close()


async def _unless_over(supervisor: Supervisor, request: Mapping[str, Any]) -> dict[str, Any]:
    """Answer the first request, unless somebody ends this process before."""
    work = asyncio.ensure_future(supervisor.answer(request))
    over = asyncio.ensure_future(supervisor.over.wait())
    await asyncio.wait((work, over), return_when=asyncio.FIRST_COMPLETED)
    over.cancel()
    if work.done():
        return work.result()
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    return {"error": "it was ended"}


def _say(answer: Mapping[str, Any]) -> None:
    """Answer the devenv that started this process, and hold its pipes no longer."""
    with suppress(OSError):
        os.write(1, json.dumps(answer).encode() + b"\n")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    os.close(nothing)


def _controlled(supervisor: Supervisor) -> Any:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, ValueError, KeyError):
            answer = await supervisor.answer(json.loads(await reader.readline()))
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        writer.close()

    return serve
