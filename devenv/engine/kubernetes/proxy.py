"""Reach a cluster's API with any login that kubectl knows: through `kubectl proxy`, at a socket of this process alone.

kubectl refreshes tokens, asks plugins for credentials and goes through proxies. One kubectl lasts as long as the
process that uses it, so a request takes milliseconds, as over a connection of devenv's own.
"""

from __future__ import annotations

import contextlib
import select
import shutil
import subprocess
import tempfile
import threading
import weakref
from http.client import HTTPConnection
from pathlib import Path

from devenv.engine.http import SocketConnection
from devenv.errors import NoEngine

# Seconds until kubectl has to listen. It asks neither the cluster nor a plugin before that.
_START_SECONDS = 30.0
_SOCKET = "api"
_LOG = "log"
# The shell ends kubectl and removes the folder ($0) once its input ends: also if devenv is killed. kubectl reads no
# input itself. A command in the background ignores Ctrl-C, and the shell is in a session of its own.
_GUARD = f"""\
"$@" 2> "$0/{_LOG}" &
exec >&- 2>&-
read -r _
kill $!
wait $!
rm -f "$0/{_SOCKET}" "$0/{_LOG}"
rmdir "$0"
"""


class KubectlProxy:
    """A `kubectl proxy` of this process. Thread-safe. It starts at the first connection, and again if it ended."""

    def __init__(self, context: str) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._folder: Path | None = None
        self._end: weakref.finalize[[subprocess.Popen[bytes]], KubectlProxy] | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers that a request needs: none, kubectl adds the login."""
        return {}

    def connection(self, timeout: float) -> HTTPConnection:
        """Return an open connection to the API. Raise NoEngine if kubectl cannot start, OSError if nothing answers."""
        with self._lock:
            if self._folder:
                with contextlib.suppress(OSError):
                    return _opened(self._folder, timeout)
            self._folder = self._start()
        return _opened(self._folder, timeout)

    def socket(self) -> Path:
        """Return the socket file at which the API answers now."""
        self.connection(_START_SECONDS).close()
        assert self._folder  # noqa: S101, a connection has been there
        return self._folder / _SOCKET

    def close(self) -> None:
        """End kubectl, and leave nothing of it."""
        with self._lock:
            self._folder = None
            if self._end:
                self._end()

    def _start(self) -> Path:
        if self._end:
            self._end()
        if not (kubectl := shutil.which("kubectl")):
            raise NoEngine(
                "cannot find kubectl in PATH", hint="install kubectl: devenv reaches a cluster with its logins"
            )
        # A socket's path may not be long, and nobody else may open it: mkdtemp makes folders of mode 0700.
        folder = Path(tempfile.mkdtemp(prefix="devenv-kubectl-"))
        command = [kubectl, "proxy", f"--context={self._context}", f"--unix-socket={folder / _SOCKET}"]
        # By default, it lets no exec through. A path is never empty.
        command += ["--reject-paths=^$"]
        guard = subprocess.Popen(  # noqa: S603, the name of a context is one argument
            ["/bin/sh", "-c", _GUARD, str(folder), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._end = weakref.finalize(self, _finish, guard)
        if not _says_ready(guard):
            reason = _last_line(folder / _LOG)
            self._end()
            raise NoEngine(f"cannot start kubectl proxy: {reason}", hint="'kubectl get pods' has to work first")
        return folder


def _opened(folder: Path, timeout: float) -> HTTPConnection:
    connection = SocketConnection(str(folder / _SOCKET), timeout)
    connection.connect()
    return connection


def _says_ready(guard: subprocess.Popen[bytes]) -> bool:
    """Wait for the line that kubectl prints once it listens. Return False if it ends or says nothing."""
    assert guard.stdout  # noqa: S101, it is a pipe
    ready, _, _ = select.select([guard.stdout], [], [], _START_SECONDS)
    return bool(ready and guard.stdout.readline())


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    return next((line.removeprefix("error: ") for line in reversed(lines) if line.strip()), "it does not answer")


def _finish(guard: subprocess.Popen[bytes]) -> None:
    """Tell the shell to end kubectl, and wait for that. A line tells it, too: a forked child may hold the pipe."""
    with contextlib.suppress(OSError, ValueError):
        guard.communicate(b"\n", timeout=_START_SECONDS)
