"""Run a program of the user with additional variables, and pass signals and the exit code on."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from devenv.errors import DevenvError
from devenv.testing.tox import passed_on
from devenv.wiring.contents import inherited

# Signals that a terminal or a CI system sends to a program.
_PASSED_ON = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
# Signals of keys: Ctrl-C, and Ctrl-\ with most terminals.
_TYPED = (signal.SIGINT, signal.SIGQUIT)
# Signals that ask a program to end.
_ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGINT)
# As in a shell.
NOT_FOUND, _NOT_RUNNABLE, _SIGNALLED = 127, 126, 128
# As in timeout(1).
_OUT_OF_TIME = 124
# How long a program may take to end after it was asked to, and how often devenv checks meanwhile.
_GRACE_SECONDS = 10.0
_LOOK_SECONDS = 0.05


class CannotRun(DevenvError):
    """Report a program that does not exist or cannot be run."""

    exit_code = _NOT_RUNNABLE


class OutOfTime(DevenvError):
    """Report a program that took too long."""

    exit_code = _OUT_OF_TIME


def run_program(command: Sequence[str], variables: Mapping[str, str], replaced: Collection[str] = ()) -> int:
    """Run a program to its end; return its exit code, or 128 plus the number of the signal that ended it.

    It has the variables of this process, without those in `replaced`, and `variables`. Raises CannotRun if the program
    does not exist.
    """
    with _signals_held(_in_foreground()) as received, _started(command, variables, replaced) as process:
        received.to(process.send_signal)
        return _code_of(process.wait())


def run_group(
    command: Sequence[str],
    variables: Mapping[str, str],
    replaced: Collection[str] = (),
    limit: float | None = None,
) -> int:
    """Run a program as `run_program` does, in a session of its own: signals reach all processes that it starts.

    Raises OutOfTime after `limit` seconds. In that case, and after a signal that asks it to end, no process of its
    group is left.
    """
    with (
        _signals_held(False) as received,
        _started(command, variables, replaced, alone=True) as process,
        _Ending(process) as end,
    ):
        received.to(end.signal)
        try:
            return _code_of(process.wait(limit))
        except subprocess.TimeoutExpired as expired:
            end.signal(signal.SIGTERM)
            hint = "give it more time with --timeout SECONDS"
            raise OutOfTime(f"cannot finish {command[0]} within {limit:g} s: devenv ended it", hint) from expired


def _started(
    command: Sequence[str], variables: Mapping[str, str], replaced: Collection[str], alone: bool = False
) -> subprocess.Popen[bytes]:
    try:
        env = inherited(os.environ, passed_on(Path.cwd(), variables, os.environ, command), replaced)
        # Any command: the user chose it.
        return subprocess.Popen(command, env=env, start_new_session=alone)  # noqa: S603
    except OSError as error:
        raise cannot_run(command[0], error) from error


def cannot_run(program: str, error: OSError) -> CannotRun:
    """Return what to raise for a program that the system does not start, with the exit code of a shell."""
    hint = "check its name; if it is there, check its permissions and its first line"
    failure = CannotRun(f"cannot run {program}: {error.strerror}", hint)
    failure.exit_code = NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_RUNNABLE
    return failure


def _code_of(status: int) -> int:
    return _SIGNALLED - status if status < 0 else status


class _Ending:
    """End a program and all that it started: ask first, then kill. Processes left over would keep its output open."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        # This thread does not wait for the program itself: `run_group` does, for the exit code.
        self._patience: threading.Thread | None = None

    def __enter__(self) -> _Ending:
        return self

    def __exit__(self, *_: object) -> None:
        if self._patience:
            self._patience.join()

    def signal(self, number: int) -> None:
        """Pass a signal on. If it asks the program to end, make sure that the program does."""
        _signal_group(self._process, number)
        if number in _ENDING and not self._patience:
            self._patience = threading.Thread(target=self._make_sure, daemon=True)
            self._patience.start()

    def _make_sure(self) -> None:
        deadline = time.monotonic() + _GRACE_SECONDS
        # The group exists as long as any process is in it, the program itself or another.
        while _signal_group(self._process, 0) and time.monotonic() < deadline:
            self._process.poll()
            time.sleep(_LOOK_SECONDS)
        _signal_group(self._process, signal.SIGKILL)


def _signal_group(process: subprocess.Popen[bytes], number: int) -> bool:
    """Send a signal to the program's group. Return whether a process was left to get it."""
    try:
        os.killpg(process.pid, number)
    except OSError:
        return False
    return True


class _Received:
    """Hold signals until the program runs, and pass them on from then."""

    def __init__(self) -> None:
        self._early: list[int] = []
        self._send: Callable[[int], object] = self._early.append

    def __call__(self, number: int, _: FrameType | None) -> None:
        self._send(number)

    def to(self, send: Callable[[int], object]) -> None:
        self._send = send
        for number in self._early:
            send(number)


@contextmanager
def _signals_held(in_foreground: bool) -> Iterator[_Received]:
    """Pass signals on, and let none end this process before it has cleaned up.

    In the foreground the terminal sends what is typed to the program itself, and devenv drops these signals: it cannot
    tell a key from kill(1). Signals that are ignored (nohup, a background job of a script) stay ignored, also for
    the program.
    """
    received = _Received()
    handlers = dict.fromkeys(_PASSED_ON, received) | dict.fromkeys(_TYPED, _ignored if in_foreground else received)
    handlers = {number: handler for number, handler in handlers.items() if signal.getsignal(number) != signal.SIG_IGN}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignored(number: int, _: FrameType | None) -> None:
    """Do nothing. The program does not inherit this, as it would SIG_IGN."""


def _in_foreground() -> bool:
    try:
        with Path("/dev/tty").open("rb", buffering=0) as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:
        return False  # no terminal
