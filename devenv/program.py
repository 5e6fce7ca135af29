"""A program of the user's, run with variables of devenv's; signals and the exit code go through."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from devenv.errors import DevenvError

# What a terminal or a CI system tells a program.
_PASSED_ON = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
# As a shell has it.
_NOT_FOUND, _NOT_RUNNABLE, _SIGNALLED = 127, 126, 128


class CannotRun(DevenvError):
    """The program is not there or cannot be run."""

    exit_code = _NOT_RUNNABLE


def run_program(command: Sequence[str], variables: Mapping[str, str]) -> int:
    """Run a program to its end; its exit code, or 128 and the number of the signal that ended it.

    Raises CannotRun if there is no such program.
    """
    with _signals_held() as received:
        try:
            # Whatever the user asks for.
            process = subprocess.Popen(command, env={**os.environ, **variables})  # noqa: S603
        except OSError as error:
            failure = CannotRun(f"cannot run {command[0]}: {error.strerror}", "name a program and its arguments")
            failure.exit_code = _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_RUNNABLE
            raise failure from error
        with process:
            received.to(process)
            code = process.wait()
    return _SIGNALLED - code if code < 0 else code


class _Received:
    """Signals, which go to the program as soon as there is one."""

    def __init__(self) -> None:
        self._early: list[int] = []
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self, number: int, _: FrameType | None) -> None:
        if self._process:
            self._process.send_signal(number)
        else:
            self._early.append(number)

    def to(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        for number in self._early:
            process.send_signal(number)


@contextmanager
def _signals_held() -> Iterator[_Received]:
    """Have signals passed on, and none end this process before it has cleaned up.

    Ctrl-C reaches the program by itself: the terminal sends it to all processes in its foreground.
    """
    received = _Received()
    handlers = dict.fromkeys(_PASSED_ON, received) | {signal.SIGINT: _ignored if _in_foreground() else received}
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
