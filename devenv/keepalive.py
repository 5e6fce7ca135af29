"""Keep HTTP connections to a server open, and use them again: opening one takes as long as a small request."""

from __future__ import annotations

import os
import select
import socket
import weakref
from collections.abc import Callable, Iterable
from http.client import HTTPConnection, HTTPResponse


class KeptConnections:
    """Connections to one server. Threads may share them; a forked child opens its own."""

    def __init__(self, new: Callable[[], HTTPConnection]) -> None:
        """`new` returns a connection that is not open yet; its timeout is for opening it."""
        self._new = new
        self._idle: list[HTTPConnection] = []
        self._process = os.getpid()
        weakref.finalize(self, _close, self._idle)

    def take(self, timeout: float) -> HTTPConnection:
        """Return an open connection whose server may be silent for `timeout` seconds. Raise OSError."""
        if self._process != os.getpid():
            # Two processes would read each other's answers.
            self.close()
            self._process = os.getpid()
        connection = self._kept() or self._opened()
        connection.sock.settimeout(timeout)
        return connection

    def give_back(self, connection: HTTPConnection, answer: HTTPResponse) -> None:
        """Keep the connection if all of the answer was read; otherwise close it."""
        if answer.isclosed() and connection.sock:
            self._idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Close the connections that nobody uses."""
        _close(self._idle)
        self._idle.clear()

    def _kept(self) -> HTTPConnection | None:
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:
                break  # another thread has it
            if not _hung_up(connection.sock):
                return connection
            connection.close()
        return None

    def _opened(self) -> HTTPConnection:
        connection = self._new()
        connection.connect()
        return connection


def _close(connections: Iterable[HTTPConnection]) -> None:
    for connection in connections:
        connection.close()


def _hung_up(connection: socket.socket) -> bool:
    """Return whether the other side closed an idle connection: its end is then there to read."""
    # Without select.poll, which eventlet removes.
    if hasattr(connection, "pending"):  # with TLS, one cannot look at what has not been taken apart
        try:
            return bool(select.select([connection], [], [], 0)[0])
        except (OSError, ValueError):  # ValueError for a number that is too large for select
            return True
    connection.setblocking(False)
    try:
        connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
