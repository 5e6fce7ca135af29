"""Locks of the kernel's on files: they go with their holder, however that ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

# A forked child would go on holding a lock when its parent has ended.
_LOCKS: set[IO[str]] = set()


def _let_go() -> None:
    for stream in _LOCKS:
        stream.close()
    _LOCKS.clear()


os.register_at_fork(after_in_child=_let_go)


def open_lock(path: Path) -> IO[str]:
    """A file to lock, made for its owner alone if it is not there: whoever can open it can hold its lock.

    Its text is written anew, so a link in its place is not followed.
    """
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600), "a+")


@contextmanager
def own(stream: IO[str]) -> Iterator[None]:
    """Have a lock on the file be this process's alone."""
    _LOCKS.add(stream)
    try:
        yield
    finally:
        _LOCKS.discard(stream)


def is_held(path: Path) -> bool:
    """Whether anybody holds a lock on the file."""
    try:
        # For writing: where the kernel makes a lock on NFS of it, it takes no other.
        with path.open("r+") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # Somebody does, or nobody can tell: then it is safer to think so.
    return False
