"""Merge options and clouds into the user's own files, and restore these files to the byte.

    <state folder>/wired.lock     held by the one devenv that changes a wired file
    <state folder>/wired.json     0600; by a file's real path: its owner, and the edits that undo the merge

devenv writes the record before it replaces the file, with the old and the new edits, and again afterwards with the new
ones alone. Whenever devenv is killed, the record has the edits that undo what stands in the file.
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
_OPEN_TO_ALL = "it holds passwords now, and every user of this machine can read it; 'chmod o-r' changes that"


@dataclass(frozen=True)
class Owner:
    """The owner of a merge: an environment's id, and a component's name or "" for clouds."""

    environment: str
    component: str


@dataclass(frozen=True)
class Addition:
    """A text to merge into a file for its owner; a `listed` file stands in the project's devenv.yaml.

    `source` is where the text is.
    """

    owner: Owner
    overlay: str
    listed: bool = False
    source: str = ""


@dataclass(frozen=True)
class Change:
    """A change of a file, done or only computed; `name` is what people call the file, relative to the project."""

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
        """Return the change as a unified diff, with ^M for a carriage return. It holds passwords, as the file does."""
        before, after = (_LINE.findall(text.replace("\r", "^M")) for text in (self.before, self.after))
        lines = difflib.unified_diff(before, after, f"a/{self.name}", f"b/{self.name}")
        return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


@dataclass(frozen=True)
class Refusal:
    """The error that says why devenv leaves a file alone. A call takes the reason, and what to do first.

    `source` is where the text to merge is.
    """

    verb: str
    path: Path
    component: str
    source: str = ""

    def __call__(self, reason: str, first: str = "") -> ConfigError:
        if self.verb == "unwire":
            hint = "fix that, then run the same again"
        elif self.component:
            hint = f"{first}or pass {self.source} as another --config-file, which needs no edit"
        else:
            hint = f"{first}or set OS_CLIENT_CONFIG_FILE to {self.source}, which needs no edit"
        return ConfigError(f"cannot {self.verb} {self.path}: {reason}", hint=hint)


@dataclass(frozen=True)
class Wired:
    """A file that devenv has merged into; `listed` ones are in the project's devenv.yaml."""

    path: Path
    environment: str
    component: str
    listed: bool


def wire(
    path: Path,
    project: Path,
    addition: Addition,
    write: bool = True,
    waiting: Callable[[str], None] = lambda _: None,
) -> Change:
    """Merge a text into a file, in place of the same owner's earlier one.

    Without `write`, only compute the change. Raise ConfigError, with nothing changed, for a file that devenv cannot
    read, replace or extend, and for one that another owner has; for a `listed` one also if it is outside the project.
    """
    owner, listed = addition.owner, addition.listed
    with _locked(write, waiting):
        refuse = Refusal("wire", path, owner.component, addition.source)
        record = _load()
        target = real_path(path)
        if reason := obstacle(path, project, existing=True, inside=listed):
            raise refuse(reason)
        raw, before = content(target, refuse)
        renamed = _renamed(record, owner, before) if str(target) not in record else ""
        entry = record.get(renamed or str(target)) or _Entry(owner.environment, owner.component, listed)
        if (entry.environment, entry.component) != (owner.environment, owner.component):
            who = entry.component or "--clouds"
            raise refuse(f"{entry.owner} has it already", f"run 'devenv unwire {who} {path}' first, ")
        merged = _merge(entry, before, addition.overlay, entry.edits_of(raw), str(path))
        if write:
            entry = replace(entry, listed=listed)
            _commit(_File(target, raw, renamed), record, entry, merged, refuse)
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
    """Undo the merge into a file for an environment, or for any if that is "".

    The user's later changes stay, and the notes name them. Raise ConfigError, with nothing changed, for a file that
    devenv has not merged into, or cannot read or replace.
    """
    with _locked(write, waiting):
        record = _load()
        target = real_path(path)
        entry = record.get(str(target))
        if entry is None:
            raise ConfigError(
                f"cannot unwire {path}: devenv has merged nothing into it",
                hint="'devenv unwire' without a file restores all files",
            )
        if owner_environment not in ("", entry.environment):
            raise ConfigError(f"cannot unwire {path}: {entry.owner} has it", hint="run the same in that environment")
        refuse = Refusal("unwire", path, entry.component)
        if not exists(target, refuse):
            if write:
                _save({key: other for key, other in record.items() if key != str(target)})
            return Change(target, "", "", (f"{path} does not exist any more: forgotten",), _name(target, project))
        if reason := obstacle(target, target.parent, existing=True):
            raise refuse(reason)
        raw, before = content(target, refuse)
        merged = _merge(entry, before, "", entry.edits_of(raw), str(path))
        if write:
            _commit(_File(target, raw), record, entry, merged, refuse)
    return Change(target, before, merged.text, merged.notes, _name(target, project))


def wired(environment: str | None = None) -> list[Wired]:
    """Return the files that an environment, or any, has merged into, by path."""
    return [
        Wired(Path(path), entry.environment, entry.component, entry.listed)
        for path, entry in sorted(_load().items())
        if environment in (None, entry.environment)
    ]


def _renamed(record: _Record, owner: Owner, text: str) -> str:
    """Return the name on record of a file that is gone and whose merge stands in this text, or an empty string."""
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
    """A replacement that a kill may have prevented: the edits after it, and digests of the file before and after."""

    edits: tuple[Edit, ...]
    before: str
    after: str


@dataclass(frozen=True)
class _Entry:
    """The record of one file."""

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
        """Return the edits that stand in the file."""
        if self.pending is None or _digest(raw) == self.pending.before:
            return self.edits
        if _digest(raw) == self.pending.after:
            return self.pending.edits
        # devenv was killed in between, and the user has changed the file since. One of the two lists of edits stands;
        # the other undoes nothing.
        return (*self.edits, *(edit for edit in self.pending.edits if edit not in self.edits))


_Record = Mapping[str, _Entry]


@dataclass(frozen=True)
class _File:
    """A file as devenv has read it; `renamed` is its name on record, if it had another one."""

    target: Path
    raw: bytes
    renamed: str = ""


def _commit(file: _File, record: _Record, entry: _Entry, merged: Merged, refuse: Refusal) -> None:
    """Replace the file and update the record, in an order in which a kill at any moment does no harm."""
    target, raw, new = file.target, file.raw, merged.text.encode()
    done = {**record, str(target): replace(entry, edits=merged.edits, pending=None)}
    done.pop(file.renamed, None)
    if refuse.verb == "unwire":
        del done[str(target)]
    if new != raw:
        pending = _Pending(merged.edits, _digest(raw), _digest(new))
        _save({**record, str(target): replace(entry, edits=entry.edits_of(raw), pending=pending)})
        try:
            replace_file(target, raw, new, refuse)
        except ConfigError:
            # Nothing was replaced. After any other exception, only the record above is safe.
            _save(record)
            raise
    if new != raw or done != record:
        _save(done)


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


@contextmanager
def _locked(write: bool, waiting: Callable[[str], None]) -> Iterator[None]:
    """Hold the record's lock, which is a file, if devenv is going to write."""
    with held(state_folder() / "wired.lock", waiting) if write else nullcontext():
        yield


def _save(record: _Record) -> None:
    write_files({wired_record(): as_json({path: asdict(entry) for path, entry in record.items()})})


def _load() -> dict[str, _Entry]:
    """Return the record. Raise ConfigError for a garbled one: without it, devenv cannot restore the files."""
    path = wired_record()
    try:
        return {key: _entry(value) for key, value in json.loads(path.read_text("utf-8")).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else "it is no record of wired files"
        raise ConfigError(
            f"cannot read {path}: {reason}",
            hint="it holds what stood in your files before; restore it, or move it away and restore your files by hand",
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
