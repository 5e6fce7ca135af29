"""Join the user's terminal to containers: print merged logs, run commands inside."""

from __future__ import annotations

import os
import queue
import select
import shutil
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import click

from devenv.engine.protocol import Engine, Session, Tail
from devenv.errors import ServiceFailed
from devenv.lifecycle.environment import Environment

# One colour per service in merged logs, none of them red, which means failure here.
_LOG_COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "bright_cyan", "bright_green", "bright_magenta")
_CHUNK = 65536
# Try again later: a socket may no longer be ready, and one with TLS has work of its own.
_LATER = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


# ---- logs ----------------------------------------------------------------------------------------------------


def print_logs(environment: Environment, services: Sequence[str], follow: bool, tail: Tail) -> None:
    """Print the services' logs, each line after its service's name, in colour on a terminal."""
    containers = environment.containers(services)
    width = max((len(name) for name in containers), default=0)
    colours = dict(zip(containers, _LOG_COLOURS * len(containers), strict=False))

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
    """Yield lines of all containers as they come, until the last ends. Raise what reading one of them raised."""
    lines: queue.SimpleQueue[tuple[str, str | Exception | None]] = queue.SimpleQueue()

    def read(name: str, container: str) -> None:
        try:
            for line in engine.follow(container, tail):
                lines.put((name, line))
        except Exception as error:
            lines.put((name, error))
        else:
            lines.put((name, None))

    for name, container in containers.items():
        # A daemon thread: it waits for the engine until the container ends, and must not keep devenv from ending.
        threading.Thread(target=read, args=(name, container), daemon=True).start()
    open_logs = len(containers)
    while open_logs:
        name, line = lines.get()
        if isinstance(line, Exception):
            raise line
        if line is None:
            open_logs -= 1
        else:
            yield name, line


# ---- exec ----------------------------------------------------------------------------------------------------


def run_in_container(
    engine: Engine, container: str, command: Sequence[str], environment: Mapping[str, str] | None = None
) -> int:
    """Run a command in a container, joined to this process's input and output; return its exit code.

    It gets the variables of `environment` beside the container's own.
    """
    source = _input()
    tty = source is not None and os.isatty(source) and sys.stdout.isatty()
    session = engine.execute(container, command, tty, environment)
    with session.stream, _raw_terminal(tty), _resizing(session, tty):
        _relay(session, source)
    return session.exit_code()


def _input() -> int | None:
    """Return the descriptor of this process's input; None if the caller closed it."""
    try:
        return sys.stdin.fileno()
    except (AttributeError, OSError, ValueError):  # Python sets a closed input to None
        return None


def _relay(session: Session, source: int | None) -> None:
    """Pass bytes both ways until the container's end closes.

    Sending never blocks: the command may wait for devenv to read, or read nothing at all.
    """
    stream = session.stream
    stream.setblocking(False)
    sender = _Sender(stream, source)
    _print(session, b"")
    while True:
        inputs: list[socket.socket | int] = [stream, *sender.sources]
        readable, writable, _ = select.select(inputs, [stream] if sender.pending else [], [])
        if writable:
            sender.send()
        if source is not None and source in readable:
            sender.read(source)
        if stream in readable:
            try:
                data = stream.recv(_CHUNK)
            except _LATER:
                continue
            except OSError:
                return  # an engine that closes before it has read all input resets the connection
            if not data:
                return
            _print(session, data)


class _Sender:
    """Send this process's input into the container, one chunk at a time, so that memory does not grow."""

    def __init__(self, stream: socket.socket, source: int | None) -> None:
        self._stream, self._source = stream, source
        self.pending = b""
        if source is None:
            self._end()

    @property
    def sources(self) -> list[int]:
        """Return what to read from next: nothing while a chunk is still to be sent."""
        return [] if self._source is None or self.pending else [self._source]

    def read(self, source: int) -> None:
        try:
            self.pending = os.read(source, _CHUNK)
        except OSError:  # the input is a folder, or the terminal of another job
            self.pending = b""
        if not self.pending:
            self._end()

    def send(self) -> None:
        try:
            self.pending = self.pending[self._stream.send(self.pending) :]
        except _LATER:
            return
        except OSError:  # the command closed its input, or ended; its output is still to be read
            self.pending, self._source = b"", None

    def _end(self) -> None:
        self._source = None
        with suppress(OSError):
            self._stream.shutdown(socket.SHUT_WR)


def _print(session: Session, data: bytes) -> None:
    for output, text in session.output(data):
        stream = sys.stderr if output == 2 else sys.stdout
        stream.buffer.write(text)
        stream.flush()


@contextmanager
def _raw_terminal(tty: bool) -> Iterator[None]:
    """Pass keys to the container one by one, Ctrl-C included."""
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
        # The terminal may be gone.
        with suppress(termios.error):
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


@contextmanager
def _resizing(session: Session, tty: bool) -> Iterator[None]:
    """Keep the container's terminal as large as this one."""
    if not tty:
        yield
        return

    def resize(*_: object) -> None:
        columns, rows = shutil.get_terminal_size()
        # A short command may end before its terminal has a size.
        with suppress(ServiceFailed):
            session.resize(rows, columns)

    before = signal.signal(signal.SIGWINCH, resize)
    try:
        resize()
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)
