"""Run programs and time them. An interrupt reaches each program once, and the bench waits for its end."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.bench.machine import busy_seconds

# The slowest step by far is a first start: about a minute on a busy machine.
_LONGEST = 600
# Seconds that an interrupted program gets to leave things in order.
_FAREWELL = 30
# How many of the last lines of a failed program are worth showing.
_TAIL_LINES = 15

# Gets each line of stderr as it comes, with the time of day in seconds since 1970.
Hear = Callable[[float, str], None]


class Failed(Exception):
    """A program that the bench ran did not succeed."""


@dataclass(frozen=True)
class Done:
    """A program that succeeded: how many seconds it took, and what it printed on stdout.

    `began` is when it was started, in seconds since 1970. `cpu` is how many seconds all processors of the machine
    were at work meanwhile, for all programs.
    """

    seconds: float
    output: str
    began: float = 0.0
    cpu: float = 0.0


def run(
    command: Sequence[str], environment: Mapping[str, str], folder: Path | None = None, hear: Hear | None = None
) -> Done:
    """Run a program to its end. Raises Failed with the end of what it printed."""
    began, day, busy = time.perf_counter(), time.time(), busy_seconds()
    process = _start(command, environment, folder, subprocess.PIPE, subprocess.PIPE)
    output, errors = _Reader(process.stdout), _Reader(process.stderr, hear)
    try:
        _wait(process)
        seconds, cpu = time.perf_counter() - began, busy_seconds() - busy
    except BaseException as error:
        _end(process)
        if isinstance(error, subprocess.TimeoutExpired):
            raise Failed(f"cannot finish '{_shown(command)}' in {_LONGEST} s") from error
        raise
    finally:
        texts = output.text(), errors.text()
    _check(process, command, texts[1] or texts[0])
    return Done(seconds, texts[0], day, cpu)


def run_together(
    commands: Sequence[Sequence[str]], environment: Mapping[str, str], folder: Path | None = None
) -> float:
    """Start all programs together; return how many seconds it took until the last of them ended.

    Raises Failed for the first that did not succeed, when all have ended.
    """
    processes: list[subprocess.Popen[str]] = []
    with tempfile.TemporaryFile("w+") as printed:
        began = time.perf_counter()
        try:
            for command in commands:
                processes.append(_start(command, environment, folder, printed, printed))
            for process in processes:
                _wait(process)
        except BaseException as error:
            _end(*processes)
            if isinstance(error, subprocess.TimeoutExpired):
                raise Failed(f"cannot finish '{_shown(commands[0])}' and others in {_LONGEST} s") from error
            raise
        seconds = time.perf_counter() - began
        printed.seek(0)
        text = printed.read()
    for process, command in zip(processes, commands, strict=True):
        _check(process, command, text)
    return seconds


def _wait(process: subprocess.Popen[str]) -> None:
    """Return as soon as the process has ended. With a limit, `wait` itself only looks every 50 ms."""
    waiting = threading.Thread(target=process.wait, daemon=True)
    waiting.start()
    waiting.join(_LONGEST)
    if waiting.is_alive():
        raise subprocess.TimeoutExpired(process.args, _LONGEST)


def _start(
    command: Sequence[str],
    environment: Mapping[str, str],
    folder: Path | None,
    output: int | IO[str],
    errors: int | IO[str],
) -> subprocess.Popen[str]:
    # In a session of its own, the program gets no Ctrl-C from the terminal, only the one interrupt from below: a second
    # one makes devenv and Compose drop everything.
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=errors,
        text=True,
        cwd=folder,
        env={**os.environ, **environment},
        start_new_session=True,
    )


class _Reader:
    """Reads a stream to its end in a thread, so that its writer never waits."""

    def __init__(self, stream: IO[str] | None, hear: Hear | None = None) -> None:
        assert stream is not None
        self._stream, self._hear = stream, hear
        self._lines: list[str] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with self._stream:
            for line in self._stream:
                if self._hear:
                    self._hear(time.time(), line)
                self._lines.append(line)

    def text(self) -> str:
        """Return all that was read. A grandchild may hold the stream open; what comes later is lost."""
        self._thread.join(_FAREWELL)
        return "".join(self._lines)


def _check(process: subprocess.Popen[str], command: Sequence[str], text: str) -> None:
    if process.returncode:
        tail = "\n".join(text.strip().splitlines()[-_TAIL_LINES:])
        raise Failed(f"cannot finish '{_shown(command)}': exit code {process.returncode}\n{tail}")


def _shown(command: Sequence[str]) -> str:
    return " ".join([Path(command[0]).name, *command[1:]])


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let no interrupt end the body: it puts things in order."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        process.send_signal(signal.SIGINT)
    for process in processes:
        try:
            process.wait(_FAREWELL)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
