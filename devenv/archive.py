"""Tar archives, which is how the engine takes files: into containers and into builds."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping


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
