"""A file of the user's: whether it may be changed, what it holds, and its replacement at once."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from devenv.errors import ConfigError

_MOST_BYTES = 32 * 1024 * 1024
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True)
class Refusal:
    """How it is told why a file is left alone: called with the reason, and what to do first, it makes the error."""

    verb: str
    path: Path
    component: str

    def __call__(self, reason: str, first: str = "") -> ConfigError:
        if self.verb == "unwire":
            hint = "mend that, then run the same again"
        elif self.component:
            hint = f"{first}or pass .devenv/{self.component}.conf as another --config-file, which needs no edit"
        else:
            hint = f"{first}or set OS_CLIENT_CONFIG_FILE to .devenv/clouds.yaml, which needs no edit"
        return ConfigError(f"cannot {self.verb} {self.path}: {reason}", hint=hint)


def real_path(path: Path) -> Path:
    """Where the file is, links followed."""
    # What no path may hold is told where the file is looked at.
    return path if "\0" in str(path) else Path(os.path.realpath(path))


def exists(path: Path, refuse: Refusal) -> bool:
    """Whether there is anything. Raises ConfigError where that cannot be found out."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise refuse(reason_of(error)) from error
    return True


def way_out(path: Path, folder: Path, name: str = "the project") -> str:
    """Why nothing is written to a path: a link leads out of the folder with it, or it is one itself, elsewhere.

    The first may have come with a clone, the second be somebody else's in a folder like /tmp. Empty if neither is so. A
    link that stays in the folder, which is called `name`, is followed.
    """
    real = real_path(path)
    if real.is_relative_to(real_path(folder)):
        return ""
    if any(_is_link(part) for part in _own_parts(path, folder)):
        return f"it is a symbolic link that leads out of {name}, to {real}"
    return f"it is a symbolic link, to {real}" if _is_link(path) else ""


def _is_link(path: Path) -> bool:
    return os.path.islink(path)  # noqa: PTH114  what has no name is no link


def check_place(path: Path, project: Path) -> None:
    """Raises ConfigError if no file can be written there. Nothing but a regular file is ever replaced.

    That is also where a link leads out of the project, and outside of it for a link.
    """
    if reason := way_out(path, project) or _no_place(real_path(path)):
        raise ConfigError(f"cannot write {path}: {reason}", hint="name a file in a folder that you may write to")


def _no_place(real: Path) -> str:
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


def refuse_outside(path: Path, real: Path, project: Path, inside_only: bool, refuse: Refusal) -> None:
    """Raises ConfigError for a link that leads out of the project, and for another file outside if `inside_only`."""
    if real.is_relative_to(real_path(project)):
        return
    if reason := way_out(path, project):
        raise refuse(reason)
    if inside_only:
        raise refuse("it is outside of the project")


def check(path: Path, refuse: Refusal) -> None:
    """Raises ConfigError if the file cannot be read or replaced."""
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError)
        raise refuse("there is no such file" if missing else reason_of(error)) from error
    if not stat.S_ISREG(found.st_mode):
        raise refuse("it is a folder" if stat.S_ISDIR(found.st_mode) else "it is not a regular file")
    if found.st_size > _MOST_BYTES:
        raise refuse(f"it is larger than {_MOST_BYTES // 1024**2} MiB")
    if not os.access(path, os.R_OK | os.W_OK):
        raise refuse("no permission to read and write it")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise refuse(f"no permission to write to its folder {path.parent}")


def of_another(path: Path) -> str:
    """Why what is there is not relied on: another user made it. Empty if nobody did.

    What is root's may be used by all. Root may use anybody's: a CI's job is root in a container, its checkout not.
    """
    try:
        owner, user = path.lstat().st_uid, os.geteuid()
    except OSError:
        return ""
    return f"it belongs to another user (uid {owner})" if user and owner not in (0, user) else ""


def open_to_others(folder: Path) -> str:
    """Why a folder is not relied on: another user has made it, or may write to it. Empty if neither is so."""
    try:
        mode = folder.lstat().st_mode
        if of_another(folder) or not stat.S_ISDIR(mode) or not mode & _OTHERS_WRITE or not _keeps_modes(folder, mode):
            return of_another(folder)
    except OSError:
        return ""
    return "other users may write to it"


def _keeps_modes(folder: Path, mode: int) -> bool:
    """Whether its file system has modes at all. One of Windows', as WSL shows it, lets everybody, and means its own."""
    try:
        folder.chmod(mode & ~_OTHERS_WRITE)
    except PermissionError:
        return True  # It is root's, and means what it says.
    kept = folder.lstat().st_mode != mode
    folder.chmod(mode)
    return kept


def _own_parts(path: Path, folder: Path) -> Iterator[Path]:
    """The path and those above it as far as they are in the folder."""
    path = Path.cwd() / path
    for top in {folder.absolute(), real_path(folder)}:
        yield from (part for part in (path, *path.parents) if part != top and part.is_relative_to(top))


def content(path: Path, refuse: Refusal) -> tuple[bytes, str]:
    """What the file holds, as it is and as text. Raises ConfigError if it cannot be read, or is not UTF-8."""
    try:
        raw = path.read_bytes()
        return raw, raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise refuse("it is not UTF-8 text") from error
    except OSError as error:
        raise refuse(reason_of(error)) from error


def readable_by_all(path: Path) -> bool:
    """Whether the file's mode lets every user of this machine read it."""
    try:
        return bool(path.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False


def reason_of(error: Exception) -> str:
    """The system's own words."""
    return getattr(error, "strerror", None) or str(error)


def replace_file(path: Path, expected: bytes, new: bytes, refuse: Refusal | None = None) -> None:
    """Replace a file at once, with its mode and, if we are root, its owner kept.

    Raises ConfigError, with nothing changed, if it does not hold what is expected or cannot be replaced.
    """
    refuse = refuse or Refusal("wire", path, "")
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:8]
    fresh = path.with_name(f".devenv-{digest}.new")  # the name of the file may be as long as names can be
    try:
        # What a killed devenv left; the lock is ours.
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(new)
            stream.flush()
            _dress(stream.fileno(), path.stat())
            os.fsync(stream.fileno())
        if path.read_bytes() != expected:
            raise refuse("it was changed meanwhile", "run the same again, ")
        fresh.replace(path)
    except OSError as error:
        raise refuse(reason_of(error), "make room or allow writing there, ") from error
    finally:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)
    _sync_folder(path.parent)


@contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """A stream whose content becomes the file once all of it was written; until then the old file stays.

    It is for its owner's eyes only. Raises ConfigError where it cannot be written.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        if path.exists() and not path.is_file():
            raise FileExistsError(0, "it is not a regular file")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
        fresh.replace(path)
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {reason_of(error)}", "make room or allow writing there, then run the same again"
        ) from error
    finally:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)


def _dress(descriptor: int, like: os.stat_result) -> None:
    if os.geteuid() == 0:
        os.fchown(descriptor, like.st_uid, like.st_gid)
    else:
        # The group is kept where we are in it.
        with suppress(OSError):
            os.fchown(descriptor, -1, like.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(like.st_mode))


def _sync_folder(folder: Path) -> None:
    """The record may drop the edits of before only once the new file is there to stay."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
