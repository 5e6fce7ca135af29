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
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from devenv.errors import ConfigError
from devenv.store.files import (
    as_json,
    content,
    exists,
    obstacle,
    readable_by_all,
    real_path,
    reason_of,
    replace_file,
    write_files,
)
from devenv.store.locks import held
from devenv.store.places import state_folder, wired_record
from devenv.wiring.clouds import merge_clouds
from devenv.wiring.ini import Edit, Merged, merge, options

_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_OPEN_TO_ALL = "it holds passwords now, and its mode lets every user of this machine read it: see 'chmod o-r'"


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
class Refusal:
    """How errors say why devenv leaves a file alone: from the reason, and what to do first."""

    verb: str
    path: Path
    component: str

    def __call__(self, reason: str, first: str = "") -> ConfigError:
        if self.verb == "unwire":
            hint = "fix that, then run the same again"
        elif self.component:
            hint = f"{first}or pass .devenv/{self.component}.conf as another --config-file, which needs no edit"
        else:
            hint = f"{first}or set OS_CLIENT_CONFIG_FILE to .devenv/clouds.yaml, which needs no edit"
        return ConfigError(f"cannot {self.verb} {self.path}: {reason}", hint=hint)


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
    write: bool = True,
    waiting: Callable[[str], None] = lambda _: None,
) -> Change:
    """Merge an overlay into a file, in place of what was merged for the same owner before.

    Nothing at all is written if not `write`. Raises ConfigError, with nothing changed, for a file that cannot be
    read, replaced or extended, or is wired for somebody else; for a `listed` one also if it is outside the project.
    """
    with _locked(write, waiting):
        refuse = Refusal("wire", path, owner.component)
        record = _load()
        target = real_path(path)
        if reason := obstacle(path, project, existing=True, inside=listed):
            raise refuse(reason)
        raw, before = content(target, refuse)
        renamed = _renamed(record, owner, before) if str(target) not in record else ""
        entry = record.get(renamed or str(target)) or _Entry(owner.environment, owner.component, listed)
        if (entry.environment, entry.component) != (owner.environment, owner.component):
            who = entry.component or "--clouds"
            raise refuse(f"it is wired for {entry.owner} already", f"run 'devenv unwire {who} {path}' first, ")
        merged = _merge(entry, before, overlay, entry.edits_of(raw), str(path))
        if write:
            _commit(target, record, replace(entry, listed=listed), raw, merged, refuse, renamed)
    open_to_all = write and merged.text != before and readable_by_all(target)
    notes = (*merged.notes, _OPEN_TO_ALL) if open_to_all else merged.notes
    return Change(target, before, merged.text, notes, _name(target, project))


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
        target = real_path(path)
        entry = record.get(str(target))
        if entry is None:
            raise ConfigError(f"cannot unwire {path}: devenv has merged nothing into it", hint="see 'devenv wire -h'")
        if owner_environment not in ("", entry.environment):
            raise ConfigError(
                f"cannot unwire {path}: it is wired for {entry.owner}", hint="run the same in that environment"
            )
        refuse = Refusal("unwire", path, entry.component)
        if not exists(target, refuse):
            if write:
                _save({key: other for key, other in record.items() if key != str(target)})
            return Change(target, "", "", (f"{path} is gone: forgotten",), _name(target, project))
        if reason := obstacle(target, target.parent, existing=True):
            raise refuse(reason)
        raw, before = content(target, refuse)
        merged = _merge(entry, before, "", entry.edits_of(raw), str(path))
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


def _renamed(record: _Record, owner: Owner, text: str) -> str:
    """The name under which the file is on record, if that is gone and what was merged there stands here."""
    for path, entry in record.items():
        if (entry.environment, entry.component) == (owner.environment, owner.component) and not Path(path).exists():
            edits = (*entry.edits, *(entry.pending.edits if entry.pending else ()))
            if any(edit.option and edit.after.strip() and edit.after in text for edit in edits):
                return path
    return ""


def _merge(entry: _Entry, text: str, overlay: str, edits: Sequence[Edit], source: str) -> Merged:
    if not entry.component:
        return merge_clouds(text, overlay, edits, source)
    return merge(text, options(overlay, "devenv's own file"), edits, source)


def _name(path: Path, project: Path) -> str:
    project = project.resolve()
    return str(path.relative_to(project) if path.is_relative_to(project) else path)


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


def _commit(
    target: Path, record: _Record, entry: _Entry, raw: bytes, merged: Merged, refuse: Refusal, renamed: str = ""
) -> None:
    """Replace the file and bring the record up to date, in an order that a kill at any moment does no harm to."""
    new = merged.text.encode()
    done = {**record, str(target): replace(entry, edits=merged.edits, pending=None)}
    done.pop(renamed, None)
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
    write_files({wired_record(): as_json({path: asdict(entry) for path, entry in record.items()})})


def _load() -> dict[str, _Entry]:
    """The record. Raises ConfigError if it cannot be understood: what was in the files would be lost with it."""
    path = wired_record()
    try:
        return {key: _entry(value) for key, value in json.loads(path.read_text("utf-8")).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else "it is no record of wired files"
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
