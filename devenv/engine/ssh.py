"""Reach another host with the user's own `ssh`: their config, agent, known hosts and jump hosts hold."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Iterable
from contextlib import suppress
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

from devenv.engine.http import Unreachable
from devenv.store.files import read_json
from devenv.store.places import FORWARD, state_folder

# The control socket of an ssh that a supervisor runs, in the folder of its sockets.
MASTER = "ssh"
# Seconds until ssh gives up: to connect, and a connection whose other side does not answer (twice this long).
_CONNECT_SECONDS, _ALIVE_SECONDS = 10, 5
# Seconds that an ssh of this host may take to greet, and to end.
_GREETING_SECONDS, _END_SECONDS = 0.5, 2.0
_URL_HINT = "write ssh://USER@HOST or ssh://USER@HOST:PORT"
NO_SSH = ("this host has no ssh", "install an ssh client ('apt install openssh-client')")

_TRY = "is the host up? 'ssh {host} true' must work"
# What ssh says -> the cause in words, and what to do. The first that is found counts.
_CAUSES = (
    (r"REMOTE HOST IDENTIFICATION HAS CHANGED", "the ssh host key of {host} has changed", "if that is right: {forget}"),
    (r"Host key verification failed", "{host} has no known ssh host key", "run 'ssh {host}' once and check its key"),
    (r"Permission denied", "{host} refused the ssh login ({said})", "'ssh -o BatchMode=yes {host} true' must work"),
    (r"Too many authentication failures", "{host} refused the ssh login ({said})", "name one key with IdentityFile"),
    (r"Could not resolve hostname", "nobody knows the host {host} ({said})", "check the name in DOCKER_HOST"),
    (r"timed out|No route to host|Network is unreachable", "{host} does not answer ({said})", _TRY),
    (r"Connection refused|Connection reset|Connection closed", "{host} takes no ssh connection ({said})", _TRY),
    (r"docker: (command )?not found", "{host} has no docker command", "install it there; with Podman, podman-docker"),
)


def target_of(url: str) -> list[str]:
    """Return the arguments of ssh that name the host of an engine's URL: "ssh://me@host:2222". Raise Unreachable."""
    try:
        parts = urlsplit(url)
        named = ["-p", str(parts.port)] if parts.port else []
    except ValueError as error:
        raise Unreachable(f"it is no URL for ssh ({error})", _URL_HINT) from error
    if not parts.hostname or parts.hostname.startswith("-"):
        raise Unreachable("it names no host", _URL_HINT)
    # urlsplit lowers the host's name, and ssh's own config may tell upper from lower case.
    host = parts.netloc.rpartition("@")[2].removesuffix(f":{parts.port}").strip("[]")
    return [*named, *(["-l", unquote(parts.username)] if parts.username else []), "--", host]


def options(**own: str) -> list[str]:
    """Return the options that every ssh of devenv gets, and its own, as arguments."""
    usual = {
        # Nobody is there to be asked.
        "BatchMode": "yes",
        "ConnectTimeout": str(_CONNECT_SECONDS),
        "ServerAliveInterval": str(_ALIVE_SECONDS),
        "ServerAliveCountMax": "2",
        # Causes come from what it says.
        "LogLevel": "INFO",
    }
    return [text for key, value in {**usual, **own}.items() for text in ("-o", f"{key}={value}")]


def cause_of(url: str, said: Iterable[str]) -> tuple[str, str]:
    """Return why ssh ended, from the lines that it said, and what to do."""
    port, host = urlsplit(url).port, target_of(url)[-1]
    forget = f"ssh-keygen -R '[{host}]:{port}'" if port else f"ssh-keygen -R {host}"
    lines = [line for line in said if line and not line.startswith("@")]
    for pattern, reason, hint in _CAUSES:
        if found := [line for line in said if re.search(pattern, line)]:
            words = {"host": host, "said": short(found[-1]), "forget": forget}
            return reason.format(**words), hint.format(**words)
    return f"ssh to {host} ended: {short(lines[-1]) if lines else 'it said nothing'}", f"try 'ssh {host}'"


def short(text: str) -> str:
    return " ".join(text.split())[:200]


# ---- the engine's API --------------------------------------------------------------------------------------------


class SshConnection(HTTPConnection):
    """HTTP to the engine of another host, through `docker system dial-stdio` there, as the docker command line has it.

    Where a supervisor has logged in to that host, this needs no login of its own.
    """

    def __init__(self, url: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._url = url
        self._program: subprocess.Popen[bytes] | None = None
        self._said: IO[bytes] | None = None

    def connect(self) -> None:
        self.sock, theirs = socket.socketpair()
        self.sock.settimeout(self.timeout)
        self._said = said = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the connection
        with theirs:
            try:
                self._program = _begun(self._url, theirs, said)
            except OSError as error:
                self.close()
                if isinstance(error, FileNotFoundError):
                    raise Unreachable(*NO_SSH) from error
                raise

    def getresponse(self) -> HTTPResponse:
        # Looked at first: the library closes the connection at its end, before anybody can ask why.
        with suppress(ConnectionResetError):
            if self.sock.recv(1, socket.MSG_PEEK):
                return super().getresponse()
        raise Unreachable(*self._cause())

    def _cause(self) -> tuple[str, str]:
        """Return why ssh ended, and what to do."""
        if self._program:
            with suppress(subprocess.TimeoutExpired):
                self._program.wait(_END_SECONDS)
        said: list[bytes] = []
        if self._said:
            self._said.seek(0)
            said = self._said.readlines()
        return cause_of(self._url, [line.decode(errors="replace").strip() for line in said])

    def close(self) -> None:
        super().close()
        if program := self._program:
            self._program = None
            # Asked to end, it would wait for the other side.
            program.kill()
            program.wait()
        if said := self._said:
            self._said = None
            said.close()


class Bridge:
    """A socket file at which the engine of another host answers, for a library that knows no ssh.

    It goes with this object, or with the process.
    """

    def __init__(self, url: str) -> None:
        folder = tempfile.mkdtemp(prefix="devenv-")
        self.path = f"{folder}/engine"
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(self.path)
        listening.listen()
        threading.Thread(target=_answer_at, args=(listening, url), daemon=True).start()
        weakref.finalize(self, _gone, listening, folder)


def _answer_at(listening: socket.socket, url: str) -> None:
    """Join each client to the engine, until nobody listens any more."""
    programs: list[subprocess.Popen[bytes]] = []
    try:
        while True:
            client, _ = listening.accept()
            with client:
                programs = [*(one for one in programs if one.poll() is None), _begun(url, client, subprocess.DEVNULL)]
    except OSError:
        for one in programs:
            one.kill()
            one.wait()


def _gone(listening: socket.socket, folder: str) -> None:
    with suppress(OSError):
        listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    shutil.rmtree(folder, ignore_errors=True)


def _begun(url: str, end: socket.socket, said: IO[bytes] | int) -> subprocess.Popen[bytes]:
    """Begin an ssh that joins a socket to the engine over there."""
    path = urlsplit(url).path.rstrip("/")
    command = ["docker", *(["--host", f"unix://{unquote(path)}"] if path else []), "system", "dial-stdio"]
    # Without one of devenv's, the user's own config may name a master.
    master = master_of(url)
    own = options(ControlPath=str(master), ControlMaster="no") if master else options()
    # In a session of its own: Ctrl-C is for devenv, which ends what has begun.
    return subprocess.Popen(  # noqa: S603 - the user's own ssh
        ["ssh", "-T", *own, *target_of(url), *command],  # noqa: S607
        stdin=end.fileno(),
        stdout=end.fileno(),
        stderr=said,
        start_new_session=True,
    )


def master_of(url: str) -> Path | None:
    """Return the control socket of an ssh that a supervisor of this user has logged in to that host, if one answers."""
    for process in (state_folder() / "environments").glob(f"*/{FORWARD}/process.json"):
        found = read_json(process)
        control = Path(str(found.get("sockets", ""))) / MASTER
        if found.get("way") == {"kind": "ssh", "settings": {"url": url}} and _greets(control):
            return control
    return None


def _greets(control: Path) -> bool:
    """Return whether an ssh answers at its control socket: it greets whoever connects."""
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(_GREETING_SECONDS)
            client.connect(str(control))
            return bool(client.recv(1))
    except OSError:
        return False
