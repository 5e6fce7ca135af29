"""Check the folder .devenv/ of a project on disk, write files to it, remove them.

Each environment has one: .devenv/ for the default one, .devenv/environments/NAME/ for any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from devenv.errors import ConfigError
from devenv.spec.profile import WIRED_FOLDER
from devenv.store.files import beside, create_folder, folder_obstacle, way_out, write_files
from devenv.store.locks import held
from devenv.store.places import state_folder


def folder_of(project: Path, name: str) -> Path:
    """Return the folder of an environment's files."""
    top = project / WIRED_FOLDER
    return top if name == "default" else top / "environments" / name


def write(project: Path, folder: Path, files: Mapping[str, str], before: Iterable[str]) -> list[Path]:
    """Write these files to the folder and remove the others that were written `before`. Return the changed ones.

    Raise ConfigError, with nothing written, if it is not a folder of the project's own.
    """
    with _alone():
        for part in sorted({(folder / name).parent for name in files}):
            _make(project, part)
        changed = {folder / name: text.encode() for name, text in files.items() if _content(folder / name) != text}
        write_files(changed)
        _remove(folder, set(before) - set(files))
    return list(changed)


def remove(project: Path, folder: Path, files: Iterable[str]) -> None:
    """Remove the files that devenv wrote, and the folders if nothing else is in them."""
    if any(part.is_symlink() for part in _parts(project, folder)):
        return
    with _alone():
        _remove(folder, files)
        for part in reversed(_parts(project, folder)):
            ignored = part / ".gitignore"
            with suppress(OSError):
                if part.name == WIRED_FOLDER and list(part.iterdir()) == [ignored]:
                    ignored.unlink()
                part.rmdir()


def _alone() -> AbstractContextManager[None]:
    """Hold the lock on all .devenv/ folders.

    The environments of a project have locks of their own but share .devenv/: one must not remove it while another
    writes there.
    """
    return held(state_folder() / "folders.lock", lambda _: None)


def check(project: Path, folder: Path) -> None:
    """Raise ConfigError, before the work, if devenv cannot write to the folder or create it.

    devenv writes secrets there. So it follows no link, not even one that stays in the project.
    """
    if reason := folder_obstacle(folder, project, links=False):
        raise ConfigError(
            f"cannot write to {folder}: {reason}", hint="remove what is in the way, or allow writing there"
        )


def _parts(project: Path, folder: Path) -> list[Path]:
    """Return the folder and those above it that are devenv's, the outermost first."""
    return [*(part for part in reversed(folder.parents) if part.is_relative_to(project / WIRED_FOLDER)), folder]


def _make(project: Path, folder: Path) -> None:
    check(project, folder)
    for part in _parts(project, folder):
        try:
            create_folder(part)
        except OSError as error:
            reason = "it is not a folder" if part.exists() else error.strerror
            raise ConfigError(f"cannot create {part}: {reason}", hint="make room or allow writing there") from error
    ignored = project / WIRED_FOLDER / ".gitignore"
    if not ignored.exists() or not ignored.stat().st_size:
        write_files({ignored: b"*\n"})


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
