"""A program of the user's, run with variables of devenv's; signals and the exit code go through."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from devenv.errors import DevenvError

# What a terminal or a CI system tells a program.
_PASSED_ON = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
# Those that ask it to end.
_ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGINT)
# As a shell has it.
_NOT_FOUND, _NOT_RUNNABLE, _SIGNALLED = 127, 126, 128
# As timeout(1) has it.
_OUT_OF_TIME = 124
# How long a program may take to end when its time is over or it was asked to, and how often it is looked at meanwhile.
_GRACE_SECONDS = 10.0
_LOOK_SECONDS = 0.05


class CannotRun(DevenvError):
    """The program is not there or cannot be run."""

    exit_code = _NOT_RUNNABLE


class OutOfTime(DevenvError):
    """The program took longer than it may."""

    exit_code = _OUT_OF_TIME


def run_program(command: Sequence[str], variables: Mapping[str, str]) -> int:
    """Run a program to its end; its exit code, or 128 and the number of the signal that ended it.

    Raises CannotRun if there is no such program.
    """
    with _signals_held(_in_foreground()) as received, _started(command, variables) as process:
        received.to(process.send_signal)
        return _code_of(process.wait())


def run_group(command: Sequence[str], variables: Mapping[str, str], limit: float | None = None) -> int:
    """Run a program as `run_program` does, in a session of its own: signals go to all that it starts.

    Raises OutOfTime when it ran for `limit` seconds. Then, and after a signal that asks it to end, all of its group are
    gone.
    """
    with _signals_held(False) as received, _started(command, variables, alone=True) as process, _Ending(process) as end:
        received.to(end.signal)
        try:
            return _code_of(process.wait(limit))
        except subprocess.TimeoutExpired as expired:
            end.signal(signal.SIGTERM)
            hint = "--timeout SECONDS gives it more time"
            raise OutOfTime(f"cannot finish {command[0]} within {limit:g} s: it was ended", hint) from expired


def _started(command: Sequence[str], variables: Mapping[str, str], alone: bool = False) -> subprocess.Popen[bytes]:
    try:
        # Whatever the user asks for.
        return subprocess.Popen(command, env={**os.environ, **variables}, start_new_session=alone)  # noqa: S603
    except OSError as error:
        failure = CannotRun(f"cannot run {command[0]}: {error.strerror}", "name a program and its arguments")
        failure.exit_code = _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_RUNNABLE
        raise failure from error


def _code_of(status: int) -> int:
    return _SIGNALLED - status if status < 0 else status


class _Ending:
    """The end of a program and of all that it started: asked at first, then not. What is left keeps its output open."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        # The program is waited for elsewhere, by who gets its exit code.
        self._patience: threading.Thread | None = None

    def __enter__(self) -> _Ending:
        return self

    def __exit__(self, *_: object) -> None:
        if self._patience:
            self._patience.join()

    def signal(self, number: int) -> None:
        """Pass a signal on; if it asks the program to end, that is the case after a while."""
        _signal_group(self._process, number)
        if number in _ENDING and not self._patience:
            self._patience = threading.Thread(target=self._see_to_it, daemon=True)
            self._patience.start()

    def _see_to_it(self) -> None:
        deadline = time.monotonic() + _GRACE_SECONDS
        # The group is there for as long as anybody is in it, the program itself or not.
        while _signal_group(self._process, 0) and time.monotonic() < deadline:
            self._process.poll()
            time.sleep(_LOOK_SECONDS)
        _signal_group(self._process, signal.SIGKILL)


def _signal_group(process: subprocess.Popen[bytes], number: int) -> bool:
    """Send a signal to all of the program's group; False if nobody is in it any more who could get it."""
    try:
        os.killpg(process.pid, number)
    except OSError:
        return False
    return True


class _Received:
    """Signals, which go to the program as soon as there is one."""

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
    """Have signals passed on, and none end this process before it has cleaned up.

    Ctrl-C reaches a program in the foreground by itself: the terminal sends it to all processes there. What is ignored
    (nohup, a background job of a script) stays ignored, for the program, too.
    """
    received = _Received()
    handlers = dict.fromkeys(_PASSED_ON, received) | {signal.SIGINT: _ignored if in_foreground else received}
    handlers = {number: handler for number, handler in handlers.items() if signal.getsignal(number) != signal.SIG_IGN}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignored(number: int, _: FrameType | None) -> None:
    """Unlike SIG_IGN, this is not handed down to the program."""


def _in_foreground() -> bool:
    try:
        with Path("/dev/tty").open("rb", buffering=0) as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:
        return False  # there is no terminal
