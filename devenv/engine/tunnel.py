"""Dial destinations on another host through `ssh`, in a supervisor.

One `ssh -N` has a control socket; each destination gets a socket file here that ssh
forwards to it, in a folder that only this user may enter.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from devenv.engine.ssh import MASTER, NO_SSH, cause_of, options, short, target_of
from devenv.engine.supervisor import Closed, SocketStream

# Seconds that ssh may take to log in, and to open one more destination.
_LOGIN_SECONDS, _FORWARD_SECONDS = 45.0, 10.0
# Seconds that an open way may take to say that nothing listens on a port.
_TRIAL_SECONDS = 5.0
_POLL_SECONDS = 0.02
# No server listens on that port: it tells whether the way is open, and whether the server forwards at all.
_NOBODY = "127.0.0.1:1"
_PROHIBITED = "administratively prohibited"


class Dialler:
    """A way through ssh. Settings: the engine's `url`, a folder for `sockets`. Destinations: "HOST:PORT" over there."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        self._url, self._sockets = settings["url"], Path(settings["sockets"])
        self._host = target_of(self._url)
        self._named = self._host[-1]
        self._master: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._said: deque[str] = deque(maxlen=20)
        self._forwarded: set[str] = set()
        self._turn = asyncio.Lock()

    # ---- the verbs of a dialler ----------------------------------------------------------------------------------

    async def open(self, suspect: bool = False) -> None:
        async with self._turn:
            if self._runs and suspect:
                await self._check_answers()
            if not self._runs:
                await self._end()
                try:
                    await self._log_in()
                    await self._check_allowed()
                except BaseException:
                    await self._end()
                    raise

    async def dial(self, destination: str) -> SocketStream:
        async with self._turn:
            if not self._runs:
                raise OSError(f"ssh to {self._named} is down")
            place = await self._forward(destination)
        try:
            return SocketStream(*await asyncio.open_unix_connection(place))
        except OSError as error:
            # Not refused over there: ssh has just ended, and its sockets are still here.
            raise OSError(f"ssh to {self._named} is down") from error

    async def close(self) -> None:
        async with self._turn:
            await self._end()

    # ---- ssh -----------------------------------------------------------------------------------------------------

    @property
    def _control(self) -> Path:
        return self._sockets / MASTER

    @property
    def _runs(self) -> bool:
        return self._master is not None and self._master.returncode is None

    async def _log_in(self) -> None:
        """Start ssh and wait until it is logged in. Raise Closed with the cause."""
        self._control.unlink(missing_ok=True)
        self._forwarded.clear()
        self._said.clear()
        own = {
            "ControlMaster": "yes",
            "ControlPersist": "no",
            "ControlPath": str(self._control),
            # Forwards of the user's own config would be in the way of the user's own ssh.
            "ClearAllForwardings": "yes",
            "ForwardAgent": "no",
            "ForwardX11": "no",
            "PermitLocalCommand": "no",
            "RemoteCommand": "none",
        }
        try:
            self._master = await asyncio.create_subprocess_exec(
                "ssh",
                "-NTn",
                *options(**own),
                *self._host,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                preexec_fn=_end_with_parent(),
            )
        except FileNotFoundError as error:
            raise Closed(*NO_SSH) from error
        self._reading = asyncio.ensure_future(self._listen(self._master))
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOGIN_SECONDS):
                while self._runs and not self._control.exists():
                    await asyncio.sleep(_POLL_SECONDS)
        if not self._runs:
            await self._reading
            raise Closed(*cause_of(self._url, self._said))
        if not self._control.exists():
            raise Closed(f"{self._named} let ssh wait for {_LOGIN_SECONDS:g} s", f"try 'ssh {self._named}'")

    async def _listen(self, master: asyncio.subprocess.Process) -> None:
        """Keep what ssh says, for causes and in the log."""
        while master.stderr and (line := await master.stderr.readline()):
            text = line.decode(errors="replace").strip()
            self._said.append(text)
            # Where nothing listens over there is no news.
            if text and "connect failed" not in text:
                print(f"ssh: {text}", file=sys.stderr, flush=True)

    async def _forward(self, destination: str) -> Path:
        """Return the socket that leads to a destination. Raise OSError if ssh does not make it."""
        place = self._sockets / re.sub(r"[^\w.]", "-", destination)
        if destination not in self._forwarded:
            await self._ask("forward", "-L", f"{place}:{destination}")
            self._forwarded.add(destination)
        return place

    async def _ask(self, *command: str) -> None:
        """Ask the ssh that runs for something, over its control socket."""
        asking = await asyncio.create_subprocess_exec(
            "ssh",
            *("-F", os.devnull, "-o", f"ControlPath={self._control}", "-O", *command, "--", self._named),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(_FORWARD_SECONDS):
                _, said = await asking.communicate()
        except TimeoutError as error:
            asking.kill()
            await asking.wait()
            raise OSError(f"ssh to {self._named} does not answer") from error
        if asking.returncode:
            raise OSError(short(said.decode(errors="replace")))

    # ---- whether it works ----------------------------------------------------------------------------------------

    async def _check_allowed(self) -> None:
        """Raise Closed if the server forwards nothing."""
        await self._try()
        # ssh says it before it ends the connection, in another stream.
        await asyncio.sleep(0)
        if any(_PROHIBITED in line for line in self._said):
            raise Closed(
                f"the ssh server of {self._named} forbids it",
                "set 'AllowTcpForwarding yes' (or local) there; or 'devenv up --no-tunnel', if you have another way",
            )

    async def _check_answers(self) -> None:
        """End an ssh whose other side does not answer any more."""
        try:
            await self._try()
        except OSError:
            await self._end()

    async def _try(self) -> None:
        """Connect where nobody listens, and wait for the end. Raise OSError if none comes."""
        async with asyncio.timeout(_TRIAL_SECONDS):
            place = await self._forward(_NOBODY)
            reader, writer = await asyncio.open_unix_connection(place)
            try:
                await reader.read()
            finally:
                writer.close()

    async def _end(self) -> None:
        """End ssh, if it runs."""
        if master := self._master:
            for number in (signal.SIGTERM, signal.SIGKILL):
                with suppress(ProcessLookupError):
                    master.send_signal(number)
                with suppress(TimeoutError):
                    async with asyncio.timeout(2.0):
                        await master.wait()
                        break
        if self._reading:
            await self._reading
        self._master = self._reading = None
        self._forwarded.clear()
        for path in self._sockets.glob("*-*"):
            path.unlink(missing_ok=True)


def _end_with_parent() -> Callable[[], object] | None:
    """Return what a child runs first, so that the kernel ends it with its parent, however that ends; None elsewhere."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    death = 1  # PR_SET_PDEATHSIG
    return lambda: library.prctl(death, signal.SIGTERM)
