"""Tar archives, which is how the engine takes and gives files: of containers, of volumes, into builds."""

from __future__ import annotations

import io
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from queue import Full, Queue

# How often a reader that waits for room looks whether anybody still wants what it read.
_LOOK_SECONDS = 0.1
# How long a reader may take to notice that nobody does. It may be stuck in a read that never ends.
_PATIENCE_SECONDS = 5.0


def pack(files: Mapping[str, bytes], mode: int = 0o444, folders: Iterable[str] = ()) -> io.BytesIO:
    """An archive of files by name, all of one mode, and of folders that any user may write to. They are root's."""
    # Lazily: most commands put nothing anywhere.
    import tarfile

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
        for name in folders:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777
            archive.addfile(entry)
    buffer.seek(0)
    return buffer


def read_ahead(stream: Generator[bytes, None, None], most: int = 8) -> Iterator[bytes]:
    """The same chunks: up to `most` of the next ones are read while one is worked on. Raises what the stream raises.

    What is read from the engine goes back to the engine, and both sides take their time.
    """
    chunks: Queue[bytes | BaseException | None] = Queue(most)
    unwanted = threading.Event()

    def put(chunk: bytes | BaseException | None) -> None:
        while not unwanted.is_set():
            with suppress(Full):
                return chunks.put(chunk, timeout=_LOOK_SECONDS)

    def read() -> None:
        try:
            with closing(stream):
                for chunk in stream:
                    put(chunk)
                    if unwanted.is_set():
                        return
            put(None)
        except BaseException as error:
            put(error)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        while (chunk := chunks.get()) is not None:
            if isinstance(chunk, BaseException):
                raise chunk
            yield chunk
    finally:
        # Who gives it may hold something for as long as it is read: the engine a container.
        unwanted.set()
        reader.join(_PATIENCE_SECONDS)
