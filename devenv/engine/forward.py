"""Make ports of an engine elsewhere answer on this host's 127.0.0.1, through one process per environment: its tunnel.

That process, the supervisor (supervisor.py), listens on the ports and dials a destination for each connection. It goes
on when devenv has ended. It ends when devenv calls `end`, or when its folder or the file that it watches is gone.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from devenv.errors import DevenvError, NoEngine, PortTaken
from devenv.ports import HOST, holder
from devenv.store.files import create_or_open, make_private, read_json
from devenv.store.locks import GLANCES, held, is_held
from devenv.store.places import RECORD, forward_folder

# In the folder: held by the supervisor while it lives, held by a devenv that starts or ends one; its number and the
# folder of its sockets; its log.
LIFE, TURN, PROCESS, LOG = "life", "turn", "process.json", "log"
# The socket on which a supervisor takes requests, in the folder of its sockets. A request and its answer are a line.
CONTROL = "control"
# Seconds that a supervisor may take to answer: it answers immediately, unless it has to open a way first.
_ANSWER_SECONDS = 5.0
_OPEN_SECONDS = 60.0
_END_SECONDS = 5.0
_LOG_LINES = 10


@dataclass(frozen=True)
class Way:
    """How to reach destinations: the `kind` of a dialler (see supervisor.py) and its settings, which hold no secret."""

    kind: str
    settings: Mapping[str, str] = field(default_factory=dict)


def open_for(environment: str, way: Way, ports: Mapping[int, str]) -> None:
    """Have ports lead to an environment's services, as `ensure` does, until nothing is on record of it any more."""
    folder = forward_folder(environment)
    ensure(folder, way, ports, watch=folder.parent / RECORD)


def ensure(folder: Path, way: Way, ports: Mapping[int, str], watch: Path | None = None) -> None:
    """Have these ports of 127.0.0.1, and no others, lead to their destinations; return when all listen.

    A destination is in the words of the way's dialler. The supervisor ends by itself if `watch` is gone. Raise
    PortTaken if another program has a port, NoEngine, with the cause, if no way leads there. Then no new supervisor
    stays; one that ran before keeps what it had.
    """
    request = {"do": "forward", "way": asdict(way), "ports": {str(port): to for port, to in ports.items()}}
    make_private(folder)
    with held(folder / TURN, lambda _: None):
        answer = _asked(folder, request, _OPEN_SECONDS)
        if answer is None or "error" in answer:
            _kill(folder)
            answer = _started(folder, {**request, "watch": str(watch) if watch else ""})
    if taken := answer.get("taken"):
        raise _taken(int(taken))
    if fault := answer.get("fault"):
        raise NoEngine(f"cannot forward ports: {fault['reason']}", fault.get("hint", ""))
    if "error" in answer:
        raise DevenvError(f"cannot forward ports: {answer['error']}", f"{folder / LOG} says more")


def forwarded(folder: Path) -> frozenset[int]:
    """Return the ports that listen here and whose way is open, as far as is known; empty if no supervisor runs."""
    answer = _asked(folder, {"do": "tell"}, _ANSWER_SECONDS) or {}
    return frozenset() if answer.get("fault") else frozenset(answer.get("ports", ()))


def fault(folder: Path) -> str:
    """Return in words why the ports do not lead anywhere right now; empty if they do, as far as is known."""
    answer = _asked(folder, {"do": "tell"}, _ANSWER_SECONDS)
    if answer is None:
        return "no process forwards them"
    return str((answer.get("fault") or {}).get("reason", ""))


def runs(folder: Path) -> bool:
    """Return whether a supervisor of this folder lives. It need not answer."""
    return is_held(folder / LIFE, GLANCES)


def end(folder: Path) -> None:
    """End the supervisor, if one runs, and remove the folder."""
    if not folder.exists():
        return
    with held(folder / TURN, lambda _: None):
        if _asked(folder, {"do": "end"}, _ANSWER_SECONDS) is not None:
            _wait_for_end(folder)
        _kill(folder)
        shutil.rmtree(folder, ignore_errors=True)


# ---- the supervisor, from outside --------------------------------------------------------------------------------


def _asked(folder: Path, request: Mapping[str, Any], seconds: float) -> dict[str, Any] | None:
    """Return the supervisor's answer, None if none runs or it does not answer in time."""
    sockets = str(read_json(folder / PROCESS).get("sockets", ""))
    if not sockets:
        return None
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(seconds)
        try:
            client.connect(f"{sockets}/{CONTROL}")
            client.sendall(json.dumps(request).encode() + b"\n")
            with client.makefile("rb") as answer:
                return _understood(answer.readline())
        except OSError:
            return None


def _understood(line: bytes) -> dict[str, Any] | None:
    try:
        answer = json.loads(line)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def _started(folder: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    """Start a supervisor, give it its first request, and return its answer. It ends if that was not good."""
    with os.fdopen(create_or_open(folder / LOG, os.O_WRONLY | os.O_APPEND), "ab") as log:
        # Not in the working directory: a project may have a folder that is called devenv.
        command = [sys.executable, "-P", "-m", "devenv.engine.forward", str(folder.resolve())]
        # Only its first process is this one's child, and ends immediately: nobody would wait for the other.
        with subprocess.Popen(  # noqa: S603 - devenv's own program
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True, cwd="/"
        ) as process:
            answer = _first_answer(folder, process, request)
    if answer is None:
        said = _last_lines(folder)
        _kill(folder)
        raise DevenvError("cannot forward ports: the supervisor ended", f"{folder / LOG} says more", said)
    if "ports" not in answer:
        _wait_for_end(folder)
    return answer


def _first_answer(folder: Path, process: subprocess.Popen[bytes], request: Mapping[str, Any]) -> dict[str, Any] | None:
    """Give a new supervisor its first request; return its answer. End it if this process is interrupted."""
    if not process.stdin or not process.stdout:
        return None
    try:
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.close()
        return _understood(_line(process.stdout, _OPEN_SECONDS))
    except BaseException:
        _kill(folder)
        raise


def _line(stream: IO[bytes], seconds: float) -> bytes:
    deadline, line = time.monotonic() + seconds, b""
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([stream], [], [], max(0.0, deadline - time.monotonic()))
        data = os.read(stream.fileno(), 65536) if ready else b""
        if not data:
            break
        line += data
    return line


def _last_lines(folder: Path) -> list[str]:
    with suppress(OSError):
        return (folder / LOG).read_text(errors="replace").splitlines()[-_LOG_LINES:]
    return []


def _wait_for_end(folder: Path) -> None:
    deadline = time.monotonic() + _END_SECONDS
    while is_held(folder / LIFE) and time.monotonic() < deadline:
        time.sleep(0.01)


def _kill(folder: Path) -> None:
    """End a supervisor that does not answer, and remove what one that was killed has left.

    The kernel drops its lock with it: while that is held, the number is its own and not a later process's.
    """
    process = read_json(folder / PROCESS)
    pid = process.get("pid")
    for number in (signal.SIGTERM, signal.SIGKILL):
        if isinstance(pid, int) and runs(folder):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
                # One that was stopped ends when it goes on.
                os.kill(pid, signal.SIGCONT)
            _wait_for_end(folder)
    remove_sockets(str(process.get("sockets", "")))
    (folder / PROCESS).unlink(missing_ok=True)


def remove_sockets(folder: str) -> None:
    """Remove the folder of a supervisor's sockets; nothing else that a damaged file may name."""
    path = Path(folder)
    with suppress(OSError):
        if folder and path.name.startswith("devenv-") and (path / CONTROL).is_socket() and not path.is_symlink():
            shutil.rmtree(path)


def _taken(port: int) -> PortTaken:
    return PortTaken(
        f"cannot forward {HOST}:{port} to the engine's host: {holder(port)} has the port here",
        hint="stop that program, or pin another port in devenv.yaml",
    )


if __name__ == "__main__":
    # Imported here: whoever asks for ports needs no event loop.
    from devenv.engine.supervisor import main

    main(Path(sys.argv[1]))
