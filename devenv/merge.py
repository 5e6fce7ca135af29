"""Merge what an environment offers into files of the user's, and take it out again to the byte.

    <state folder>/wired.lock     held by the one devenv that changes such a file
    <state folder>/wired.json     0600; by a file's real path: for whom it is wired, and the edits that undo it

The record is written before the file is replaced, with the edits of before and the new ones, and again afterwards
with the new ones alone. Whenever devenv is killed, what it takes to undo what stands in the file is on record.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from devenv.errors import ConfigError
from devenv.initext import Edit, Merged, merge, options
from devenv.state import held, state_folder, wired_record, write_files
from devenv.yamltext import merge_clouds

_MOST_BYTES = 32 * 1024 * 1024
_YAML = (".yaml", ".yml")
_LINE = re.compile(r"[^\n]*\n|[^\n]+")


@dataclass(frozen=True)
class Owner:
    """For whom a file is wired: an environment's id, and a component's name or "" for clouds."""

    environment: str
    component: str


@dataclass(frozen=True)
class Change:
    """What became of a file, or would; `name` is what people call it, relative to the project."""

    path: Path
    before: str
    after: str
    notes: tuple[str, ...]
    name: str

    @property
    def changed(self) -> bool:
        return self.before != self.after

    @property
    def diff(self) -> str:
        """The change as a unified diff, a carriage return shown as ^M. It holds passwords, as the file does."""
        before, after = (_LINE.findall(text.replace("\r", "^M")) for text in (self.before, self.after))
        lines = difflib.unified_diff(before, after, f"a/{self.name}", f"b/{self.name}")
        return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


@dataclass(frozen=True)
class Wired:
    """A file that devenv has merged something into; `listed` ones are in the project's devenv.yaml."""

    path: Path
    environment: str
    component: str
    listed: bool


def wire(
    path: Path,
    project: Path,
    owner: Owner,
    overlay: str,
    listed: bool = False,
    inside_only: bool = False,
    write: bool = True,
    waiting: Callable[[str], None] = lambda _: None,
) -> Change:
    """Merge an overlay into a file, in place of what was merged for the same owner before.

    Nothing at all is written if not `write`. Raises ConfigError, with nothing changed, for a file that cannot be
    read, replaced or extended, or is wired for somebody else; with `inside_only` also for one outside the project.
    """
    with _locked(write, waiting):
        refuse = _Refusal("wire", path, owner.component)
        record = _load()
        target = _real(path)
        _refuse_outside(path, target, project, inside_only, refuse)
        _check(target, refuse)
        entry = record.get(str(target)) or _Entry(owner.environment, owner.component, listed)
        if (entry.environment, entry.component) != (owner.environment, owner.component):
            raise refuse(f"it is wired for {entry.owner} already", f"run 'devenv unwire {path}' for that one first; ")
        raw, before = _content(target, refuse)
        merged = _merge(target, before, overlay, entry.edits_of(raw), str(path))
        if write:
            _commit(target, record, replace(entry, listed=listed), raw, merged, refuse)
    return Change(target, before, merged.text, merged.notes, _name(target, project))


def unwire(
    path: Path,
    project: Path,
    owner_environment: str,
    write: bool = True,
    waiting: Callable[[str], None] = lambda _: None,
) -> Change:
    """Undo what was merged into a file for an environment, or for any if that is "".

    What the user has changed since stays, and is told in the notes. Raises ConfigError, with nothing changed, for a
    file that nothing was merged into, or that cannot be read or replaced.
    """
    with _locked(write, waiting):
        record = _load()
        target = _real(path)
        entry = record.get(str(target))
        if entry is None:
            raise ConfigError(f"cannot unwire {path}: devenv has merged nothing into it", hint="see 'devenv wire -h'")
        if owner_environment not in ("", entry.environment):
            raise ConfigError(
                f"cannot unwire {path}: it is wired for {entry.owner}", hint="run the same in that environment"
            )
        refuse = _Refusal("unwire", path, entry.component)
        if not _exists(target, refuse):
            if write:
                _save({key: other for key, other in record.items() if key != str(target)})
            return Change(target, "", "", (f"{path} is gone: forgotten",), _name(target, project))
        _check(target, refuse)
        raw, before = _content(target, refuse)
        merged = _merge(target, before, "", entry.edits_of(raw), str(path))
        if write:
            _commit(target, record, entry, raw, merged, refuse)
    return Change(target, before, merged.text, merged.notes, _name(target, project))


def wired(environment: str | None = None) -> list[Wired]:
    """The files that are wired for an environment, or for any, by path."""
    return [
        Wired(Path(path), entry.environment, entry.component, entry.listed)
        for path, entry in sorted(_load().items())
        if environment in (None, entry.environment)
    ]


def _merge(path: Path, text: str, overlay: str, edits: Sequence[Edit], source: str) -> Merged:
    if path.suffix.lower() in _YAML:
        return merge_clouds(text, overlay, edits, source)
    return merge(text, options(overlay, "devenv's own file"), edits, source)


def _name(path: Path, project: Path) -> str:
    project = project.resolve()
    return str(path.relative_to(project) if path.is_relative_to(project) else path)


# ---- the user's file ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Refusal:
    """How it is told why a file is left alone."""

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


def _real(path: Path) -> Path:
    # What no path may hold is told where the file is looked at.
    return path if "\0" in str(path) else Path(os.path.realpath(path))


def _exists(path: Path, refuse: _Refusal) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise refuse(_reason(error)) from error
    return True


def _refuse_outside(path: Path, real: Path, project: Path, inside_only: bool, refuse: _Refusal) -> None:
    """A link that stays in the project is followed; one that leads out may come with a repository."""
    if real.is_relative_to(project.resolve()):
        return
    if any(part.is_symlink() for part in _own_parts(path, project)):
        raise refuse(f"it is a symbolic link that leads out of the project, to {real}")
    if inside_only:
        raise refuse("it is outside of the project")


def _check(path: Path, refuse: _Refusal) -> None:
    """Raises ConfigError if the file cannot be read or replaced."""
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError)
        raise refuse("there is no such file" if missing else _reason(error)) from error
    if not stat.S_ISREG(found.st_mode):
        raise refuse("it is a folder" if stat.S_ISDIR(found.st_mode) else "it is not a regular file")
    if found.st_size > _MOST_BYTES:
        raise refuse(f"it is larger than {_MOST_BYTES // 1024**2} MiB")
    if not os.access(path, os.R_OK | os.W_OK):
        raise refuse("no permission to read and write it")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise refuse(f"no permission to write to its folder {path.parent}")


def _own_parts(path: Path, project: Path) -> Iterator[Path]:
    """The file's path and those above it as far as they are the project's."""
    path = Path.cwd() / path
    yield path
    for folder in {project.absolute(), project.resolve()}:
        yield from (part for part in path.parents if part != folder and part.is_relative_to(folder))


def _content(path: Path, refuse: _Refusal) -> tuple[bytes, str]:
    try:
        raw = path.read_bytes()
        return raw, raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise refuse("it is not UTF-8 text") from error
    except OSError as error:
        raise refuse(_reason(error)) from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def replace_file(path: Path, expected: bytes, new: bytes, refuse: _Refusal | None = None) -> None:
    """Replace a file at once, with its mode and, if we are root, its owner kept.

    Raises ConfigError, with nothing changed, if it does not hold what is expected or cannot be replaced.
    """
    refuse = refuse or _Refusal("wire", path, "")
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
        raise refuse(_reason(error), "make room or allow writing there, ") from error
    finally:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)
    _sync_folder(path.parent)


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


# ---- the record --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pending:
    """A replacement that may have happened or not: the edits after it, and digests of the file before and after."""

    edits: tuple[Edit, ...]
    before: str
    after: str


@dataclass(frozen=True)
class _Entry:
    """What is on record of one file."""

    environment: str
    component: str
    listed: bool
    edits: tuple[Edit, ...] = ()
    pending: _Pending | None = None

    @property
    def owner(self) -> str:
        what = f"component {self.component!r}" if self.component else "clouds"
        return f"{what} of environment {self.environment}"

    def edits_of(self, raw: bytes) -> tuple[Edit, ...]:
        """The edits that stand in the file."""
        if self.pending is None or _digest(raw) == self.pending.before:
            return self.edits
        if _digest(raw) == self.pending.after:
            return self.pending.edits
        # Killed in between, and changed by the user since: one of both stands, and the other undoes nothing.
        return (*self.edits, *(edit for edit in self.pending.edits if edit not in self.edits))


_Record = Mapping[str, _Entry]


def _commit(target: Path, record: _Record, entry: _Entry, raw: bytes, merged: Merged, refuse: _Refusal) -> None:
    """Replace the file and bring the record up to date, in an order that a kill at any moment does no harm to."""
    new = merged.text.encode()
    done = {**record, str(target): replace(entry, edits=merged.edits, pending=None)}
    if refuse.verb == "unwire":
        del done[str(target)]
    if new != raw:
        pending = _Pending(merged.edits, _digest(raw), _digest(new))
        _save({**record, str(target): replace(entry, edits=entry.edits_of(raw), pending=pending)})
        try:
            replace_file(target, raw, new, refuse)
        except ConfigError:
            # Nothing was replaced. After anything else that may be raised, only the record above is safe.
            _save(record)
            raise
    if new != raw or done != record:
        _save(done)


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


@contextmanager
def _locked(write: bool, waiting: Callable[[str], None]) -> Iterator[None]:
    """Hold the record's lock, which is a file, unless nothing is to be written."""
    with held(state_folder() / "wired.lock", waiting) if write else nullcontext():
        yield


def _save(record: _Record) -> None:
    text = json.dumps({path: asdict(entry) for path, entry in record.items()}, indent=2, sort_keys=True)
    write_files({wired_record(): f"{text}\n".encode()})


def _load() -> dict[str, _Entry]:
    """The record. Raises ConfigError if it cannot be understood: what was in the files would be lost with it."""
    path = wired_record()
    try:
        return {key: _entry(value) for key, value in json.loads(path.read_text("utf-8")).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = _reason(error) if isinstance(error, OSError) else "it is no record of wired files"
        raise ConfigError(
            f"cannot read {path}: {reason}",
            hint="it holds what stood in your files before: restore it, or move it away and mend those by hand",
        ) from error


def _entry(value: Any) -> _Entry:
    pending = value["pending"]
    later = None if pending is None else _Pending(_edits(pending["edits"]), pending["before"], pending["after"])
    entry = _Entry(value["environment"], value["component"], value["listed"], _edits(value["edits"]), later)
    if [type(entry.environment), type(entry.component), type(entry.listed)] != [str, str, bool]:
        raise TypeError
    return entry


def _edits(value: Any) -> tuple[Edit, ...]:
    edits = tuple(Edit(**edit) for edit in value)
    if not all(isinstance(text, str) for edit in edits for text in asdict(edit).values()):
        raise TypeError
    return edits
