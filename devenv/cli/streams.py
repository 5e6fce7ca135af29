"""Make the standard streams safe to use: what the caller did with them does not change what a command does.

Standard error is for people: a line that devenv cannot write there is lost, and devenv goes on. Standard output is the
result: devenv ends once nobody reads it, and fails if it cannot write there.
"""

from __future__ import annotations

import errno
import io
import os
import select
import stat
import sys
from typing import TYPE_CHECKING, BinaryIO, TextIO, cast

from devenv.errors import DevenvError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_INPUT, _OUTPUT, _ERROR = range(3)


class NobodyReads(Exception):
    """The reader of standard output has closed the pipe, or the terminal is gone."""


def guard() -> None:
    """Guard the standard streams of this process. Call this before anything opens a file or a socket.

    A stream that the caller closed becomes /dev/null, also for programs that devenv starts. Otherwise the next socket
    would get its number, and what some program prints.
    """
    for number in (_INPUT, _OUTPUT, _ERROR):
        _open(number)
    if sys.stdin is None:
        sys.stdin = open(_INPUT, closefd=False)  # noqa: SIM115, it lasts as long as the process
    sys.stdout = _text(_Output(_OUTPUT, "w", closefd=False), sys.stdout)
    sys.stderr = _text(_Error(_ERROR, "w", closefd=False), sys.stderr)


def _open(number: int) -> None:
    """Open /dev/null under this number if nothing is open there. It is the lowest free one: those below are open."""
    try:
        os.fstat(number)
    except OSError:
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def _text(raw: io.RawIOBase, before: TextIO | None) -> TextIO:
    """Return a text stream over `raw` that is otherwise like the one before. Python has none for a closed one.

    A text stream has a buffer of its own. Another one below it would write twice what Ctrl-C interrupts.
    """
    below = cast("BinaryIO", raw)
    if before is None:
        return io.TextIOWrapper(below, "utf-8", "backslashreplace")
    return io.TextIOWrapper(
        below, before.encoding, before.errors, line_buffering=getattr(before, "line_buffering", True)
    )


class _Stream(io.FileIO):
    """Write all at once. Wait for a pipe or a terminal that another process has set not to block."""

    def write(self, data: ReadableBuffer, /) -> int:
        rest = memoryview(data).cast("B")
        while rest:
            if (written := super().write(rest)) is None:
                select.select([], [self], [])
            else:
                rest = rest[written:]
        return memoryview(data).nbytes


class _Error(_Stream):
    """Lose what cannot be written: the disk under the log is full, the terminal is gone, the reader has left."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


class _Output(_Stream):
    """Raise NobodyReads or DevenvError, once. Python tries again, when it ends, to write what it holds: lose that."""

    _failed = False

    def write(self, data: ReadableBuffer, /) -> int:
        if self._failed:
            return memoryview(data).nbytes
        try:
            return super().write(data)
        except OSError as error:
            self._failed = True
            if self._reader_left(error):
                raise NobodyReads from error
            hint = "make room on the disk, or write to another file; what the command did before stays done"
            raise DevenvError(f"cannot write the output: {error.strerror}", hint) from error

    def _reader_left(self, error: OSError) -> bool:
        # A terminal that is gone fails like a broken disk, and is a device.
        gone = error.errno == errno.EIO and stat.S_ISCHR(os.fstat(self.fileno()).st_mode)
        return gone or error.errno == errno.EPIPE
