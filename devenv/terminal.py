"""The user's terminal joined to containers: merged logs, and commands run inside."""

from __future__ import annotations

import os
import queue
import select
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import click

from devenv.engine import Engine, Tail
from devenv.environment import Environment
from devenv.errors import ServiceFailed
from devenv.report import LOG_COLOURS

_CHUNK = 65536


# ---- logs ----------------------------------------------------------------------------------------------------


def print_logs(environment: Environment, services: Sequence[str], follow: bool, tail: Tail) -> None:
    """Print the services' logs, each line after its service's name, in colour on a terminal."""
    containers = environment.containers(services)
    width = max((len(name) for name in containers), default=0)
    colours = dict(zip(containers, LOG_COLOURS * len(containers), strict=False))

    def show(name: str, line: str) -> None:
        plain = None if not os.environ.get("NO_COLOR") else False
        click.echo(click.style(f"{name:<{width}} |", fg=colours[name]) + f" {line}", color=plain)

    if not follow:
        for name, container in containers.items():
            for line in environment.engine.logs(container, tail):
                show(name, line)
        return
    for name, line in _merged(environment.engine, containers, tail):
        show(name, line)


def _merged(engine: Engine, containers: dict[str, str], tail: Tail) -> Iterator[tuple[str, str]]:
    """Lines of all containers as they come, until the last of them ends."""
    lines: queue.SimpleQueue[tuple[str, str | None]] = queue.SimpleQueue()

    def read(name: str, container: str) -> None:
        try:
            for line in engine.follow(container, tail):
                lines.put((name, line))
        finally:
            lines.put((name, None))

    for name, container in containers.items():
        # A daemon: it hangs on the engine until the container ends, and must not keep devenv from ending.
        threading.Thread(target=read, args=(name, container), daemon=True).start()
    open_logs = len(containers)
    while open_logs:
        name, line = lines.get()
        if line is None:
            open_logs -= 1
        else:
            yield name, line


# ---- exec ----------------------------------------------------------------------------------------------------


def run_in_container(engine: Engine, container: str, command: Sequence[str]) -> int:
    """Run a command in a container, joined to this process's input and output; returns its exit code."""
    tty = sys.stdin.isatty() and sys.stdout.isatty()
    run, stream = engine.execute(container, command, tty)
    with stream, _raw_terminal(tty), _resizing(engine, run, tty):
        relay = _relay_raw if tty else _relay_framed
        relay(stream)
    return engine.exit_code(run)


def _relay_raw(stream: socket.socket) -> None:
    """Bytes both ways until the other end closes. With a terminal in the container there is one output."""
    inputs: list[socket.socket | int] = [stream, sys.stdin.fileno()]
    while True:
        ready, _, _ = select.select(inputs, [], [])
        if stream in ready:
            data = stream.recv(_CHUNK)
            if not data:
                return
            os.write(sys.stdout.fileno(), data)
        if sys.stdin.fileno() in ready:
            _forward_input(stream, inputs)


def _relay_framed(stream: socket.socket) -> None:
    """Without a terminal the engine sends frames: a byte for the stream, three unused, four for the length."""
    inputs: list[socket.socket | int] = [stream, sys.stdin.fileno()]
    buffer = b""
    while True:
        ready, _, _ = select.select(inputs, [], [])
        if stream in ready:
            data = stream.recv(_CHUNK)
            if not data:
                return
            buffer += data
            while len(buffer) >= 8 and len(buffer) >= (end := 8 + int.from_bytes(buffer[4:8], "big")):
                target = sys.stderr if buffer[0] == 2 else sys.stdout
                target.buffer.write(buffer[8:end])
                target.flush()
                buffer = buffer[end:]
        if sys.stdin.fileno() in ready:
            _forward_input(stream, inputs)


def _forward_input(stream: socket.socket, inputs: list[socket.socket | int]) -> None:
    data = os.read(sys.stdin.fileno(), _CHUNK)
    if data:
        stream.sendall(data)
    else:
        stream.shutdown(socket.SHUT_WR)
        inputs.remove(sys.stdin.fileno())


@contextmanager
def _raw_terminal(tty: bool) -> Iterator[None]:
    """Keys go to the container one by one, Ctrl-C included."""
    if not tty:
        yield
        return
    import termios
    import tty as terminal

    before = termios.tcgetattr(sys.stdin)
    try:
        terminal.setraw(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


@contextmanager
def _resizing(engine: Engine, run: str, tty: bool) -> Iterator[None]:
    """Keep the container's terminal as large as this one."""
    if not tty:
        yield
        return

    def resize(*_: object) -> None:
        columns, rows = shutil.get_terminal_size()
        # A short command may be over before its terminal has a size.
        with suppress(ServiceFailed):
            engine.resize(run, rows, columns)

    before = signal.signal(signal.SIGWINCH, resize)
    try:
        resize()
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)
