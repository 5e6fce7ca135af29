"""Check the folder .devenv/ of a project on disk, write files to it, remove them.

Each environment has one: .devenv/ for the default one, .devenv/environments/NAME/ for any other. The caller may name
another folder than .devenv/. Another tool may have files there, too: devenv changes only its own.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from devenv.errors import ConfigError
from devenv.spec.profile import WIRED_FOLDER
from devenv.store.files import (
    beside,
    create_folder,
    folder_obstacle,
    make_folders,
    open_to_others,
    way_out,
    write_files,
)
from devenv.store.locks import held
from devenv.store.places import state_folder

_MARK, _ALL = ".gitignore", b"*\n"
_ELSEWHERE = "--output-dir or DEVENV_OUTPUT_DIR"


def folder_of(project: Path, name: str, top: Path | None = None) -> Path:
    """Return the folder of an environment's files, which is or is below `top`: .devenv/ if nobody chose another."""
    top = top or project / WIRED_FOLDER
    return top if name == "default" else top / "environments" / name


def top_of(folder: Path, name: str) -> Path:
    """Return the folder in which all environments of the project have theirs."""
    return folder if name == "default" else folder.parents[1]


def is_marked(top: Path) -> bool:
    """Return whether devenv's .gitignore is in the folder. devenv puts it in .devenv/ and in folders that it creates.

    In another folder, it would hide the user's own files from git.
    """
    try:
        text = (top / _MARK).read_bytes()
    except OSError:
        return False
    # A full disk leaves an empty one.
    return text == _ALL or (not text and top.name == WIRED_FOLDER)


def check_files(folder: Path, top: Path, names: Iterable[str], ours: Collection[str]) -> None:
    """Raise ConfigError if a file of another program has one of these names; `ours` are those on record."""
    if is_marked(top):  # The record may have been lost.
        return
    for name in sorted({*names} - {*ours}):
        if os.path.lexists(folder / name):
            raise ConfigError(
                f"cannot write {folder / name}: it is there, and devenv did not write it",
                hint=f"move it away, or name another folder with {_ELSEWHERE}",
            )


def write(
    project: Path, folder: Path, files: Mapping[str, str], before: Iterable[str], top: Path | None = None
) -> list[Path]:
    """Write these files to the folder and remove the others that were written `before`. Return the changed ones.

    Raise ConfigError, with nothing written, if it is not a folder of the project's own.
    """
    with _alone():
        for part in sorted({(folder / name).parent for name in files}):
            _make(project, part, top or project / WIRED_FOLDER)
        changed = {folder / name: text.encode() for name, text in files.items() if _content(folder / name) != text}
        write_files(changed)
        _remove(folder, set(before) - set(files))
    return list(changed)


def remove(project: Path, folder: Path, files: Iterable[str], top: Path | None = None) -> None:
    """Remove the files that devenv wrote, and the folders that it created if nothing else is in them."""
    top = top or project / WIRED_FOLDER
    if any(part.is_symlink() for part in _parts(folder, top)):
        return
    with _alone():
        _remove(folder, files)
        for part in reversed(_parts(folder, top)):
            with suppress(OSError):
                if part == top and is_marked(top) and [*top.iterdir()] == [top / _MARK]:
                    (top / _MARK).unlink()
                    part.rmdir()
                elif part != top or top.name == WIRED_FOLDER:
                    part.rmdir()


def _alone() -> AbstractContextManager[None]:
    """Hold the lock on all .devenv/ folders.

    The environments of a project have locks of their own but share .devenv/: one must not remove it while another
    writes there.
    """
    return held(state_folder() / "folders.lock", lambda _: None)


def check(project: Path, folder: Path, top: Path | None = None) -> None:
    """Raise ConfigError, before the work, if devenv cannot write to the folder or create it.

    devenv writes secrets there. So it follows no link, not even one that stays in the project, and uses no folder that
    others may change.
    """
    top = top or project / WIRED_FOLDER
    if reason := folder_obstacle(folder, project, links=False) or open_to_others(top):
        hint = f"remove what is in the way, allow writing there, or name another folder with {_ELSEWHERE}"
        raise ConfigError(f"cannot write to {folder}: {reason}", hint)


def _parts(folder: Path, top: Path) -> list[Path]:
    """Return the folder and those above it that are devenv's, the outermost first."""
    return [*(part for part in reversed(folder.parents) if part.is_relative_to(top)), folder]


def _make(project: Path, folder: Path, top: Path) -> None:
    check(project, folder, top)
    created = not top.exists()
    part = top.parent
    try:
        make_folders(part)
        for part in _parts(folder, top):
            create_folder(part)
    except OSError as error:
        reason = "it is not a folder" if part.exists() else error.strerror
        raise ConfigError(f"cannot create {part}: {reason}", hint="make room or allow writing there") from error
    mark = top / _MARK
    if created or (top.name == WIRED_FOLDER and (not mark.exists() or not mark.stat().st_size)):
        write_files({mark: _ALL})


def _remove(folder: Path, names: Iterable[str]) -> None:
    """Remove devenv's files, and what a killed devenv left of them. A folder with one of the names is not devenv's."""
    for path in map(folder.joinpath, names):
        # Somebody may have edited the record, or put a link in place of a folder of devenv's.
        if ".." in path.parts or not path.is_relative_to(folder) or way_out(path.parent, folder):
            continue
        for name in (path, beside(path)):
            if name.is_symlink() or not name.is_dir():
                with suppress(OSError):
                    name.unlink()
        if path.parent != folder:
            with suppress(OSError):
                path.parent.rmdir()


def _content(path: Path) -> str | None:
    """Return the file's text, or None if devenv has to write it whatever it holds: others can read it, for one."""
    try:
        if path.is_symlink() or path.stat().st_mode & 0o077:
            return None
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
