"""Check where devenv may write, and write files so that nobody ever sees half of one.

`obstacle` checks a file and `folder_obstacle` a folder. `_Draft` writes every file: the new content stands beside the
old file, for its owner alone, until it takes the old one's place in one step.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from devenv.errors import ConfigError, DevenvError

_MOST_BYTES = 32 * 1024 * 1024
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH

# Makes the error for a file that devenv leaves alone, from the reason and what to do first.
Refuse = Callable[[str, str], ConfigError]


# ---- where a file is ---------------------------------------------------------------------------------------------


def real_path(path: Path) -> Path:
    """Return where the file is, links followed."""
    # The code that looks at the file reports a path that no file can have.
    return path if "\0" in str(path) else Path(os.path.realpath(path))


def reason_of(error: Exception) -> str:
    """Return the system's own words."""
    return getattr(error, "strerror", None) or str(error)


def way_out(path: Path, folder: Path, name: str = "the project") -> str:
    """Return why devenv does not write through a link: it leads out of the folder, or it is elsewhere itself.

    The first may have come with a clone, the second may be another user's in a folder like /tmp. Return an empty string
    if neither is so. devenv follows a link that stays in the folder, which the reason calls `name`.
    """
    real = real_path(path)
    if real.is_relative_to(real_path(folder)):
        return ""
    if any(_is_link(part) for part in _own_parts(path, folder)):
        return f"it is a symbolic link that leads out of {name}, to {real}"
    return f"it is a symbolic link, to {real}" if _is_link(path) else ""


def _is_link(path: Path) -> bool:
    return os.path.islink(path)  # noqa: PTH114  Path.is_symlink raises where one cannot look


def _own_parts(path: Path, folder: Path) -> Iterator[Path]:
    """Yield the path and those above it as far as they are in the folder."""
    path = Path.cwd() / path
    for top in {folder.absolute(), real_path(folder)}:
        yield from (part for part in (path, *path.parents) if part != top and part.is_relative_to(top))


# ---- may devenv write there --------------------------------------------------------------------------------------


def obstacle(path: Path, project: Path, *, existing: bool = False, inside: bool = False) -> str:
    """Return why devenv cannot write a file, or an empty string. devenv replaces only regular files.

    A link that leads out of the project is an obstacle, and outside of the project every link is. With `existing`, the
    file must be there, readable and of a size that devenv reads; with `inside`, it must be in the project.
    """
    real = real_path(path)
    if reason := way_out(path, project):
        return reason
    if inside and not real.is_relative_to(real_path(project)):
        return "it is outside of the project"
    return _no_old_file(real) if existing else _no_new_file(real)


def folder_obstacle(folder: Path, project: Path, *, links: bool = True) -> str:
    """Return why devenv cannot write files to a folder, or create it, or an empty string.

    Links count as for files; without `links`, no part of the folder inside the project may be one.
    """
    if not links and (found := [part for part in _own_parts(folder, project) if _is_link(part)]):
        return f"{_it(found[-1], folder)} is a symbolic link (to {found[-1].readlink()})"
    if reason := way_out(folder, project):
        return reason
    try:
        nearest = next(part for part in (folder, *folder.absolute().parents) if part.exists())
    except (OSError, ValueError) as error:
        return reason_of(error)
    if not nearest.is_dir():
        return f"{_it(nearest, folder)} is not a folder"
    return "" if os.access(nearest, os.W_OK | os.X_OK) else f"no permission to write to {_it(nearest, folder)}"


def _it(part: Path, path: Path) -> str:
    return "it" if part == path else str(part)


def check_place(path: Path, project: Path) -> None:
    """Raise ConfigError if devenv cannot write a file there (see `obstacle`)."""
    if reason := obstacle(path, project):
        raise ConfigError(f"cannot write {path}: {reason}", hint="name a file in a folder that you may write to")


def _no_new_file(real: Path) -> str:
    try:
        if real.is_dir():
            return "it is a folder"
        if real.exists() and not real.is_file():
            return "it is not a regular file"
        if not real.parent.is_dir():
            return f"there is no folder {real.parent}"
        places = [real.parent, *([real] if real.exists() else ())]
    except OSError as error:
        return reason_of(error)
    return "" if all(os.access(place, os.W_OK) for place in places) else "no permission"


def _no_old_file(real: Path) -> str:
    try:
        found = real.stat()
    except (OSError, ValueError) as error:
        return "there is no such file" if isinstance(error, FileNotFoundError) else reason_of(error)
    if not stat.S_ISREG(found.st_mode):
        return "it is a folder" if stat.S_ISDIR(found.st_mode) else "it is not a regular file"
    if found.st_size > _MOST_BYTES:
        return f"it is larger than {_MOST_BYTES // 1024**2} MiB"
    if not os.access(real, os.R_OK | os.W_OK):
        return "no permission to read and write it"
    return "" if os.access(real.parent, os.W_OK | os.X_OK) else f"no permission to write to its folder {real.parent}"


# ---- whose is it -------------------------------------------------------------------------------------------------


def of_another(path: Path) -> str:
    """Return why devenv does not rely on a file or folder: it belongs to another user. Return "" if it does not.

    Everybody may use root's files. Root may use anybody's: in CI, a job is root in a container, its checkout is not.
    """
    try:
        owner, user = path.lstat().st_uid, os.geteuid()
    except OSError:
        return ""
    return f"it belongs to another user (uid {owner})" if user and owner not in (0, user) else ""


def open_to_others(folder: Path) -> str:
    """Return why devenv does not rely on a folder: it belongs to another user, or another may write to it."""
    try:
        mode = folder.lstat().st_mode
        if of_another(folder) or not stat.S_ISDIR(mode) or not mode & _OTHERS_WRITE or not _keeps_modes(folder, mode):
            return of_another(folder)
    except OSError:
        return ""
    return "other users may write to it"


def _keeps_modes(folder: Path, mode: int) -> bool:
    """Return whether the file system has modes. A Windows file system in WSL gives everybody all permissions."""
    try:
        folder.chmod(mode & ~_OTHERS_WRITE)
    except PermissionError:
        return True  # It belongs to root, and its mode counts.
    kept = folder.lstat().st_mode != mode
    folder.chmod(mode)
    return kept


def readable_by_all(path: Path) -> bool:
    """Return whether the file's mode lets every user of this machine read it."""
    try:
        return bool(path.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False


# ---- reading -----------------------------------------------------------------------------------------------------


def exists(path: Path, refuse: Refuse) -> bool:
    """Return whether anything is at the path. Raise ConfigError if the system does not say."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise refuse(reason_of(error), "") from error
    return True


def content(path: Path, refuse: Refuse) -> tuple[bytes, str]:
    """Return the file's bytes, and its text. Raise ConfigError if devenv cannot read it, or it is not UTF-8."""
    try:
        raw = path.read_bytes()
        return raw, raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise refuse("it is not UTF-8 text", "") from error
    except OSError as error:
        raise refuse(reason_of(error), "") from error


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file, or an empty one if the file is missing or holds no object."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def as_json(value: Any) -> bytes:
    """Return the text of a JSON file."""
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


# ---- writing -----------------------------------------------------------------------------------------------------


def make_private(folder: Path) -> None:
    """Create one of devenv's folders with those above it, for their owner alone, whatever the umask."""
    try:
        make_folders(folder)
    except OSError as error:
        raise DevenvError(
            f"cannot create {folder}: {error.strerror}",
            hint="set DEVENV_STATE_DIR and DEVENV_CACHE_DIR, or HOME, to folders that you may write to",
        ) from error


def make_folders(folder: Path) -> None:
    """Create a folder with those above it, for their owner alone. Raise OSError."""
    # With `parents`, only the last one would get the mode.
    for part in [part for part in (*reversed(folder.parents), folder) if not part.exists()]:
        create_folder(part)


def create_folder(folder: Path) -> None:
    """Create a folder for its owner alone, unless it exists. Raise OSError."""
    name = folder.name or os.curdir
    with _opened_folder(folder.parent) as parent:
        try:
            os.mkdir(name, mode=0o700, dir_fd=parent)
        except FileExistsError:
            if not folder.is_dir():
                raise
            return
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        try:
            _give_away(descriptor, parent)
        finally:
            os.close(descriptor)


def create_empty(path: Path) -> None:
    """Create an empty file for its owner alone, unless it exists. Raise OSError."""
    with suppress(FileExistsError):
        os.close(create_file(path, os.O_WRONLY))


def create_file(path: Path, flags: int, mode: int = 0o600) -> int:
    """Create a file where nothing is, and return its descriptor. Raise OSError."""
    with _opened_folder(path.parent) as parent:
        descriptor = os.open(path.name, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode, dir_fd=parent)
        try:
            _give_away(descriptor, parent)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor


def create_or_open(path: Path, flags: int) -> int:
    """Return the descriptor of a file, which devenv creates for its owner alone if it is missing. Follow no link.

    Raise OSError, for root also if the file has a second name: it may be one that another user must not change.
    """
    while True:
        with suppress(FileExistsError):
            return create_file(path, flags)
        # Somebody may remove it right now.
        with suppress(FileNotFoundError):
            descriptor = os.open(path, flags | os.O_NOFOLLOW)
            break
    # A lock's last holder may have removed it meanwhile: then it has no name.
    if os.geteuid() == 0 and os.fstat(descriptor).st_nlink > 1:
        os.close(descriptor)
        raise OSError(errno.EMLINK, "it has a second name (a hard link)", str(path))
    return descriptor


@contextmanager
def _opened_folder(folder: Path) -> Iterator[int]:
    # Where the system has O_PATH, this needs no permission to list the folder.
    descriptor = os.open(folder, getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _give_away(descriptor: int, folder: int) -> None:
    """Let what root has just created belong to the owner of the folder in which it was created.

    After `sudo devenv up`, a user can still change and remove what is in the project. Both are descriptors: nobody can
    put another file or folder in the place of either.
    """
    if os.geteuid() == 0:
        owner = os.fstat(folder)
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def write_files(files: Mapping[Path, bytes], mode: int = 0o600) -> None:
    """Write all of the files or none: all are on disk before devenv replaces the first one.

    Others can never read them, not even for a moment, unless `mode` allows it. The caller holds the lock of their
    folders. Raise ConfigError where a folder is missing, read-only or full; the old files then stay.
    """
    drafts = [_Draft(path) for path in files]
    try:
        for draft in drafts:
            draft.write(files[draft.path], lambda descriptor: os.fchmod(descriptor, mode))
        for draft in drafts:
            draft.take_place()
    except OSError as error:
        for one in drafts:
            one.discard()
        raise unwritable(draft.path, error) from error


def replace_file(path: Path, expected: bytes, new: bytes, refuse: Refuse) -> None:
    """Replace one of the user's files. Keep its mode and, if devenv runs as root, its owner.

    The caller holds a lock. Raise ConfigError, with nothing changed, if the file does not hold what is expected or
    devenv cannot replace it.
    """
    draft = _Draft(path)
    try:
        draft.write(new, lambda descriptor: _dress(descriptor, path.stat()))
        if path.read_bytes() != expected:
            raise refuse("it was changed meanwhile", "run the same again, ")
        draft.take_place()
    except OSError as error:
        raise refuse(reason_of(error), "make room or allow writing there, ") from error
    finally:
        draft.discard()
    _sync_folder(path.parent)


@contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """Open a stream whose content becomes the file when the block ends; until then the old file stays.

    The file is for its owner alone, and the caller needs no lock. devenv does not force large files to disk. Raise
    ConfigError if devenv cannot write it.
    """
    # Not the number of the process: two containers that share a folder can have the same.
    draft = _Draft(path, by=f"-{secrets.token_hex(4)}")
    try:
        if path.exists() and not path.is_file():
            raise FileExistsError(0, "it is not a regular file")
        with draft.opened() as stream:
            yield stream
        draft.take_place()
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        draft.discard()


def beside(path: Path, by: str = "") -> Path:
    """Return where the new content of a file stands until it takes the file's place."""
    # Not the file's name: that can be as long as names can be.
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:8]
    return path.with_name(f".devenv-{digest}{by}.new")


def unwritable(path: Path, error: OSError) -> ConfigError:
    """Return the error for a file that devenv cannot write."""
    hint = "make room or allow writing there, then run the same again"
    cannot = ConfigError(f"cannot write {path}: {reason_of(error)}", hint=hint)
    cannot.disk_full = error.errno == errno.ENOSPC
    return cannot


class _Draft:
    """The new content of a file, beside it and for its owner alone until it takes its place in one step."""

    def __init__(self, path: Path, by: str = "") -> None:
        self.path = path
        self._fresh = beside(path, by)

    @contextmanager
    def opened(self) -> Iterator[IO[bytes]]:
        # A killed devenv may have left one.
        self._fresh.unlink(missing_ok=True)
        with os.fdopen(create_file(self._fresh, os.O_WRONLY), "wb") as stream:
            yield stream

    def write(self, content: bytes, dress: Callable[[int], None]) -> None:
        """Write the content to disk; `dress` sets the mode by the descriptor."""
        with self.opened() as stream:
            stream.write(content)
            stream.flush()
            dress(stream.fileno())
            os.fsync(stream.fileno())

    def take_place(self) -> None:
        self._fresh.replace(self.path)

    def discard(self) -> None:
        with suppress(OSError):
            self._fresh.unlink(missing_ok=True)


def _dress(descriptor: int, like: os.stat_result) -> None:
    if os.geteuid() == 0:
        os.fchown(descriptor, like.st_uid, like.st_gid)
    else:
        # Only members of a group can give it to a file.
        with suppress(OSError):
            os.fchown(descriptor, -1, like.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(like.st_mode))


def _sync_folder(folder: Path) -> None:
    """Force the new file's name to disk: the record may drop earlier edits only after that."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
