"""Pack and read tar archives, in which the engine takes and gives the files of containers, volumes and builds."""

from __future__ import annotations

import io
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from posixpath import normpath
from queue import Full, Queue
from typing import Any

# Bytes of a file per read.
_CHUNK = 1 << 20
_PAX_NAMES = ("path", "linkpath")
# Seconds between two looks of a reader that waits for room: does anybody still want what it read?
_LOOK_SECONDS = 0.1
# Seconds that a reader gets to notice that nobody wants more. It may be stuck in a read that never ends.
_PATIENCE_SECONDS = 5.0


class Torn(Exception):
    """An archive that breaks off."""


def pack(files: Mapping[str, bytes], mode: int = 0o444, folders: Iterable[str] = ()) -> io.BytesIO:
    """Return an archive of files by name, all of one mode, and of folders that any user may write to. Root owns all."""
    # Imported when needed: most commands copy nothing.
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
        end = archive.offset + 2 * tarfile.BLOCKSIZE
    # Without the padding of a tape's record: Podman may have stopped reading by then, and calls it a broken pipe.
    buffer.truncate(end)
    buffer.seek(0)
    return buffer


class Chunks(io.RawIOBase):
    """Chunks, as a file that can be read once. An empty chunk is not the end."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks, self._rest = filter(None, chunks), b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._rest = self._rest or next(self._chunks, b"")
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


def in_folder(name: str, stream: Generator[bytes, None, None]) -> Generator[bytes, None, None]:
    """Yield the archive of a folder so that all entries begin with the folder's name, whether they did or not.

    Raises what the stream raises, and Torn if the archive breaks off.
    """
    import tarfile

    class Strict(tarfile.TarInfo):
        """Refuses a block that is no entry: the library takes it for the end."""

        @classmethod
        def fromtarfile(cls, archive: tarfile.TarFile) -> Strict:
            try:
                return super().fromtarfile(archive)
            except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
                raise
            except tarfile.HeaderError as error:
                raise tarfile.ReadError(str(error)) from error

    outside = None
    with closing(stream):
        try:
            with tarfile.open(fileobj=Chunks(stream), mode="r|", bufsize=_CHUNK, tarinfo=Strict) as archive:
                for entry in archive:
                    if outside is None:
                        outside = _path(entry.name).partition("/")[0] != name
                    if outside:
                        entry.name = f"{name}/{_path(entry.name)}".rstrip("/")
                        entry.linkname = f"{name}/{_path(entry.linkname)}" if entry.islnk() else entry.linkname
                        # These headers hold names that are too long for the entry itself.
                        entry.pax_headers = {k: v for k, v in entry.pax_headers.items() if k not in _PAX_NAMES}
                    yield entry.tobuf(tarfile.PAX_FORMAT)
                    if content := archive.extractfile(entry) if entry.isreg() else None:
                        while chunk := content.read(_CHUNK):
                            yield chunk
                        yield bytes(-entry.size % tarfile.BLOCKSIZE)
        except tarfile.TarError as error:
            raise Torn(f"the archive breaks off ({error})") from error
    yield bytes(2 * tarfile.BLOCKSIZE)


def _path(name: str) -> str:
    return normpath(f"/{name}").lstrip("/")


def read_ahead(stream: Generator[bytes, None, None], most: int = 8) -> Iterator[bytes]:
    """Yield the same chunks, and read up to `most` ahead. Raises what the stream raises.

    The caller sends the chunks back to the engine, and both reading and sending take time.
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
        # The engine may lock the container until reading ends.
        unwanted.set()
        reader.join(_PATIENCE_SECONDS)
