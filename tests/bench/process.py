"""Run programs and time them; an interrupt reaches each of them once, and is waited for."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# The slowest step by far is a first start, of a minute or so on a machine that has much else to do.
_LONGEST = 600
# What an interrupted program gets to leave things in order, in seconds.
_FAREWELL = 30


class Failed(Exception):
    """A program that the bench ran did not succeed."""


@dataclass(frozen=True)
class Done:
    """A program that succeeded: how long it took, and what it printed on stdout."""

    seconds: float
    output: str


def run(command: Sequence[str], environment: Mapping[str, str], folder: Path | None = None) -> Done:
    """Run a program to its end. Raises Failed with the end of what it printed."""
    began = time.perf_counter()
    # In a session of its own it gets no Ctrl-C from the terminal, only the one interrupt from below:
    # a second one makes devenv and Compose drop everything.
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, **environment},
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=_LONGEST)
    except subprocess.TimeoutExpired as error:
        _end(process)
        raise Failed(f"cannot finish '{_shown(command)}' in {_LONGEST} s") from error
    except BaseException:
        _end(process)
        raise
    seconds = time.perf_counter() - began
    if process.returncode:
        tail = "\n".join((errors or output).strip().splitlines()[-15:])
        raise Failed(f"cannot finish '{_shown(command)}': exit code {process.returncode}\n{tail}")
    return Done(seconds, output)


def _shown(command: Sequence[str]) -> str:
    return " ".join([Path(command[0]).name, *command[1:]])


def _end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.communicate(timeout=_FAREWELL)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
