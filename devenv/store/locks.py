"""Hold the kernel's locks on files. A lock ends with its holder, however the holder ends.

A holder may remove the file: whoever waited for that lock then takes one on the file that has its name.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import IO

from devenv.errors import Cancelled
from devenv.store.files import create_or_open, make_folders, make_private, unwritable

_POLL_SECONDS = 0.05
# A program that only looks whether a lock is held holds it for a moment.
GLANCES = 10
_GLANCE_SECONDS = 0.005
_TRIES = 100
# A forked child would go on holding a lock when its parent has ended.
_LOCKS: set[IO[str]] = set()


def _let_go() -> None:
    for stream in _LOCKS:
        stream.close()
    _LOCKS.clear()


os.register_at_fork(after_in_child=_let_go)


@contextmanager
def held(path: Path, waiting: Callable[[str], None], over: Event | None = None) -> Iterator[None]:
    """Wait for a lock, and hold it alone. `waiting` gets a text, once, if somebody else has it, and may raise.

    Raise Cancelled if `over` is set before the lock is free.
    """
    told = False
    while True:
        with _openable(path) as stream, _own(stream):
            if over and over.is_set():
                raise Cancelled
            if _take(stream, path):
                _note_holder(stream)
                yield
                return
            if not told and _is_at(path, stream):
                stream.seek(0)
                waiting(f"waiting for another devenv (process {stream.read().strip() or 'unknown'})")
                told = True
        time.sleep(_POLL_SECONDS)


@contextmanager
def shared(path: Path) -> Iterator[None]:
    """Hold a lock together with others."""
    with _openable(path) as stream, _own(stream):
        fcntl.flock(stream, fcntl.LOCK_SH)
        yield


@contextmanager
def held_if_free(path: Path, attempts: int = 1) -> Iterator[bool]:
    """Hold a lock alone unless somebody else has it. Yield whether this process holds it.

    GLANCES attempts are enough where others only look whether the lock is held.
    """
    for attempt in range(attempts):
        if attempt:
            time.sleep(_POLL_SECONDS)
        with _openable(path) as stream, _own(stream):
            if _take(stream, path):
                _note_holder(stream)
                yield True
                return
    yield False


def is_held(path: Path, attempts: int = 1) -> bool:
    """Return whether any process holds a lock on the file.

    GLANCES attempts tell a holder from others that only look, too.
    """
    for attempt in range(attempts):
        if attempt:
            time.sleep(_GLANCE_SECONDS)
        if not _seems_held(path):
            return False
    return True


def _seems_held(path: Path) -> bool:
    try:
        # For writing: on NFS, the kernel grants this lock only on a file that is open for writing.
        with path.open("r+") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # It is held, or the system cannot say. Then it is safer to think so.
    return False


def _openable(path: Path) -> IO[str]:
    """Open a file to lock, and create its folder if it is missing. Raise ConfigError if the system refuses."""
    for _ in range(_TRIES):
        # Somebody who held the lock may be removing the folder right now.
        with suppress(OSError):
            make_folders(path.parent)
            return _open(path)
    make_private(path.parent)
    try:
        return _open(path)
    except OSError as error:
        raise unwritable(path, error) from error


def _open(path: Path) -> IO[str]:
    """Open a file to lock. It is for its owner alone: every process that can open it can hold its lock.

    A holder replaces its text, so this takes no link in its place.
    """
    return os.fdopen(create_or_open(path, os.O_RDWR | os.O_APPEND), "a+")


def _note_holder(stream: IO[str]) -> None:
    """Write this process's number, for others to show while they wait. The lock holds even if the disk is full."""
    # Not through the stream: closing it would try again to write what it could not.
    with suppress(OSError):
        stream.truncate(0)
        os.write(stream.fileno(), str(os.getpid()).encode())


def _take(stream: IO[str], path: Path) -> bool:
    """Take the lock if it is free and the file has not been removed. Return whether this process has it."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return _is_at(path, stream)


def _is_at(path: Path, stream: IO[str]) -> bool:
    """Return whether the open file still has its name: the last holder of its lock may have removed it."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def _own(stream: IO[str]) -> Iterator[None]:
    """Keep the lock from forked children."""
    _LOCKS.add(stream)
    try:
        yield
    finally:
        _LOCKS.discard(stream)
