"""What devenv remembers of an environment on this machine: its lock, its record and its secrets.

    <state folder>/environments/<id>/lock           held by the one devenv that changes the environment
    <state folder>/environments/<id>/record.json    project, name, profile, ports, what is provisioned, the token
    <state folder>/environments/<id>/secrets.json   0600
    <state folder>/environments/<id>/timing.json    what the last `up` did, and when
    <state folder>/environments/<id>/snapshots/     one file per snapshot, with the secrets of its data, 0600
    <state folder>/environments/<id>/users          held, together with others, by each run that uses the services
    <state folder>/environments/<id>/lent/<name>    held by the run that a component is lent to
    <state folder>/environments/<id>/pools/<token>/ one process's components for tests, and a lock that it holds: a file
                                                    for each, with its passwords once its overlay was asked for, 0600

The engine's labels are the truth about what runs; the record is a cache, except for ports and secrets.
The token makes what runs known as the environment's own; a lost one is taken over from there (see ownership.py).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import string
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from threading import Event
from typing import IO, Any

import platformdirs

from devenv.errors import Cancelled, ConfigError, DevenvError
from devenv.store.files import open_to_others, real_path
from devenv.store.locks import is_held, open_lock, own
from devenv.store.record import FORMAT, Record, understood

# Nothing to escape in URLs, INI, YAML, SQL or a shell, and no dash, which a program could take for an option.
_SECRET_ALPHABET, _SECRET_LENGTH = string.ascii_letters + string.digits, 32
# No other text is taken for one: it would have to be escaped, each file in its own way.
_SECRET = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*\Z")
_LOCK_POLL = 0.05
_POOL_LOCK = "lock"
# Who only looks whether a lock is held holds it for a moment.
_GLANCES = 10


def state_folder() -> Path:
    """Where devenv keeps its state: DEVENV_STATE_DIR, else the platform's place for a user's state."""
    return _own("DEVENV_STATE_DIR", platformdirs.user_state_path)


def cache_folder() -> Path:
    """Where devenv keeps what it can make again: DEVENV_CACHE_DIR, else the platform's place."""
    return _own("DEVENV_CACHE_DIR", platformdirs.user_cache_path)


def _own(variable: str, default: Callable[[str], Path]) -> Path:
    """A folder of this user's. Raises ConfigError where others could change what is in it."""
    folder = Path(os.environ.get(variable) or default("devenv"))
    if reason := open_to_others(real_path(folder)):
        hint = f"'chmod go-w {folder}' if it is yours, else set {variable} to a folder of your own"
        raise ConfigError(f"cannot use {folder}: {reason}", hint)
    return folder


def wired_record() -> Path:
    """Where it is kept what was merged into files of projects, all environments' in one."""
    return state_folder() / "wired.json"


def environment_id(project: Path, name: str) -> str:
    """A slug of the folder's name (and of the environment's, if it is not the default) and a hash of both.

    The hash is of the folder's real path, so two checkouts of one name are two environments.
    """
    words = project.name if name == "default" else f"{project.name}-{name}"
    slug = re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")[:24].strip("-") or "project"
    # fsencode: the name of a folder need not be UTF-8.
    digest = hashlib.sha256(os.fsencode(project.resolve()) + f"\0{name}".encode()).hexdigest()
    return f"{slug}-{digest[:8]}"


def write_files(files: Mapping[Path, bytes], mode: int = 0o600) -> None:
    """Write files whole or not at all: all of them are on disk before the first one is replaced.

    They are never readable by others, not even for a moment, unless `mode` says so. The caller holds the lock of
    their folders. Raises ConfigError where a folder is missing, read-only or full; the old files then stay.
    """
    fresh = {path: path.with_name(f".{path.name}.new") for path in files}
    try:
        for path, temporary in fresh.items():
            # What a killed devenv left.
            temporary.unlink(missing_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(files[path])
                stream.flush()
                os.fchmod(stream.fileno(), mode)
                os.fsync(stream.fileno())
        for path, temporary in fresh.items():
            temporary.replace(path)
    except OSError as error:
        for temporary in fresh.values():
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        raise _no_room(error, path) from error


def _no_room(error: OSError, path: Path) -> ConfigError:
    cannot = ConfigError(
        f"cannot write {path}: {error.strerror}", hint="make room or allow writing there, then run the same again"
    )
    cannot.disk_full = error.errno == errno.ENOSPC
    return cannot


class State:
    """The state folder of one environment; `known_as` is its id where the project folder tells none any more."""

    def __init__(self, project: Path, name: str, known_as: str = "") -> None:
        self.id = known_as or environment_id(project, name)
        self.folder = state_folder() / "environments" / self.id
        self.snapshots = self.folder / "snapshots"
        self._project, self._name = project, name

    # ---- the lock ------------------------------------------------------------------------------------------

    @contextmanager
    def locked(self, waiting: Callable[[str], None], over: Event | None = None) -> Iterator[None]:
        """Hold the environment's lock; `waiting` is told once when somebody else has it, until it is `over`.

        The kernel drops the lock with its holder, so a killed devenv blocks nobody.
        """
        with held(self.folder / "lock", waiting, over):
            yield

    @contextmanager
    def locked_if_free(self) -> Iterator[bool]:
        """Hold the environment's lock unless somebody else has it; yield whether it is held."""
        with held_if_free(self.folder / "lock") as ours:
            yield ours

    # ---- the record ----------------------------------------------------------------------------------------

    def load(self) -> Record:
        """The record, or an empty one where there is none or it cannot be understood: it is a cache.

        Raises ConfigError if a newer devenv wrote it: what this one does not know would be lost.
        """
        path = self.folder / "record.json"
        record = understood({**_read_json(path), "id": self.id}, Record(self.id, self._name, str(self._project)))
        if record.format > FORMAT:
            raise ConfigError(
                f"cannot use environment {self.id}: a newer devenv wrote {path}",
                hint=f"use that one, or another that knows format {record.format}",
            )
        return record

    def save(self, record: Record) -> None:
        make_private(self.folder)
        write_files({self.folder / "record.json": _to_json(asdict(record))})

    def amend(self, **fields: Any) -> None:
        """Have these fields of the record be so; where they are, nothing is written."""
        record = self.load()
        if (amended := replace(record, **fields)) != record:
            self.save(amended)

    def forget(self, owner: str = "") -> None:
        """Drop record, timing and secrets; a token that is to be known further on stays on record.

        The lock file stays: removing it would give two holders the lock.
        """
        if owner:
            self.save(Record(self.id, self._name, str(self._project), owner=owner))
        for name in (*(() if owner else ("record.json",)), "timing.json", "secrets.json"):
            (self.folder / name).unlink(missing_ok=True)
        self.adopt()
        for component in self.left_behind():
            (self._lent / component).unlink(missing_ok=True)

    def save_timing(self, timing: Mapping[str, Any]) -> None:
        make_private(self.folder)
        write_files({self.folder / "timing.json": _to_json(timing)})

    def load_timing(self) -> dict[str, Any]:
        """What was saved of the last `up`, or nothing where that is not there or no JSON."""
        return _read_json(self.folder / "timing.json")

    # ---- who uses it ---------------------------------------------------------------------------------------

    # The kernel drops these locks with their holder: whoever is killed uses nothing any more. Under the environment's
    # own lock they are taken and looked at, so nobody comes or goes meanwhile.

    @contextmanager
    def using(self) -> Iterator[None]:
        """Be one of those who use the services."""
        make_private(self.folder)
        with open_lock(self.folder / "users") as stream, own(stream):
            fcntl.flock(stream, fcntl.LOCK_SH)
            yield

    def used(self) -> bool:
        """Whether anybody uses the services right now."""
        return is_held(self.folder / "users")

    @contextmanager
    def lent(self, component: str) -> Iterator[None]:
        """Have a component lent. Raises ConfigError if somebody else has it."""
        make_private(self._lent)
        with open_lock(self._lent / component) as stream, own(stream):
            for _ in range(_GLANCES):
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    time.sleep(_LOCK_POLL)
            else:
                raise ConfigError(
                    f"cannot use component {component!r}: another run has it", "wait for that, or name another one"
                )
            yield

    def lendings(self) -> dict[str, bool]:
        """The components that are lent, or were to somebody who was killed: whether somebody has them."""
        return {path.name: is_held(path) for path in sorted(self._lent.glob("*"))}

    def left_behind(self) -> set[str]:
        """The components that were lent to somebody who was killed."""
        return {name for name, held in self.lendings().items() if not held}

    @contextmanager
    def pool(self) -> Iterator[Path]:
        """A folder to note components in before they are made, one file NAME.conf each, until they are dropped again.

        What is noted there when this process ends is `abandoned`.
        """
        folder = self._pools / secrets.token_hex(3)
        make_private(folder)
        with open_lock(folder / _POOL_LOCK) as stream, own(stream):
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield folder
            if not _noted(folder):
                shutil.rmtree(folder, ignore_errors=True)

    def abandoned(self) -> list[str]:
        """The components that are noted in pools of processes that are gone."""
        return [path.stem for folder in self._abandoned_pools() for path in _noted(folder)]

    def adopt(self) -> None:
        """Have those be lent to nobody, as the components of killed runs are."""
        for folder in self._abandoned_pools():
            make_private(self._lent)
            for path in _noted(folder):
                (self._lent / path.stem).touch(mode=0o600)
            shutil.rmtree(folder, ignore_errors=True)

    def _abandoned_pools(self) -> list[Path]:
        return [folder for folder in sorted(self._pools.glob("*")) if not is_held(folder / _POOL_LOCK)]

    def kept(self, component: str) -> None:
        """Forget that a component was lent: it is the project's own by now."""
        (self._lent / component).unlink(missing_ok=True)

    def returned(self, component: str) -> None:
        """Forget that a component was lent, and its passwords."""
        self.kept(component)
        path = self.folder / "secrets.json"
        known = _read_json(path)
        kept = {name: secret for name, secret in known.items() if name.partition("/")[2] != component}
        if kept != known:
            write_files({path: _to_json(kept)})

    @property
    def _lent(self) -> Path:
        return self.folder / "lent"

    @property
    def _pools(self) -> Path:
        return self.folder / "pools"

    # ---- secrets -------------------------------------------------------------------------------------------

    def secrets(self, names: Iterable[str], keep: bool = True) -> dict[str, str]:
        """The environment's secrets by name; those that are not there yet are made, and kept unless told not to."""
        path = self.folder / "secrets.json"
        known = {
            key: value for key, value in _read_json(path).items() if isinstance(value, str) and _SECRET.match(value)
        }
        missing = [name for name in names if name not in known]
        known.update({name: new_secret() for name in missing})
        if missing and keep:
            make_private(self.folder)
            write_files({path: _to_json(known)})
        return known

    def restore_secrets(self, saved: Mapping[str, str]) -> None:
        """Have these secrets again; others stay."""
        known = self.secrets(())
        if (restored := {**known, **saved}) != known:
            make_private(self.folder)
            write_files({self.folder / "secrets.json": _to_json(restored)})


def all_records() -> list[Record]:
    """The records of every environment of this user: those that say that they are of the folder that they are in."""
    found = [(path.parent.name, _read_json(path)) for path in sorted(state_folder().glob("environments/*/record.json"))]
    return [
        understood(data, Record("", "", ""))
        for folder, data in found
        if {"id", "name", "project"} <= data.keys() and data["id"] == folder
    ]


# ---- ports -----------------------------------------------------------------------------------------------------


@contextmanager
def ports_locked(waiting: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock under which this user's environments choose their ports."""
    with held(state_folder() / "ports.lock", waiting):
        yield


# ---- helpers ---------------------------------------------------------------------------------------------------


def new_secret() -> str:
    """A password that nobody can guess."""
    return "".join(secrets.choice(_SECRET_ALPHABET) for _ in range(_SECRET_LENGTH))


def new_token() -> str:
    """What tells one environment from all others, also from later ones of the same id."""
    return secrets.token_hex(16)


def make_private(folder: Path) -> None:
    """Have a folder; it and those above it that are not there are made for their owner alone, whatever the umask."""
    try:
        make_folders(folder)
    except OSError as error:
        raise DevenvError(
            f"cannot create the state folder {folder}: {error.strerror}",
            hint="set DEVENV_STATE_DIR to a folder that you may write to",
        ) from error


def make_folders(folder: Path) -> None:
    """The same, for a folder of any kind. Raises OSError."""
    # With `parents`, only the last one would get the mode.
    for part in [part for part in (*reversed(folder.parents), folder) if not part.exists()]:
        part.mkdir(mode=0o700, exist_ok=True)


@contextmanager
def held(path: Path, waiting: Callable[[str], None], over: Event | None = None) -> Iterator[None]:
    """Hold a lock on a file; `waiting` is told once when somebody else has it, and may raise to give up.

    Raises Cancelled if it is `over` before that.
    """
    make_private(path.parent)
    try:
        stream = open_lock(path)
    except OSError as error:
        raise _no_room(error, path) from error
    with stream, own(stream):
        told = False
        while True:
            if over and over.is_set():
                raise Cancelled
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    stream.seek(0)
                    waiting(f"waiting for another devenv (process {stream.read().strip() or 'unknown'})")
                    told = True
                time.sleep(_LOCK_POLL)
        _note_holder(stream)
        yield


@contextmanager
def held_if_free(path: Path) -> Iterator[bool]:
    """Hold a lock on a file unless somebody else has it; yield whether it is held."""
    make_private(path.parent)
    with open_lock(path) as stream, own(stream):
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        _note_holder(stream)
        yield True


def _note_holder(stream: IO[str]) -> None:
    """Tell others whom they wait for. On a full disk the lock holds all the same."""
    # What is written through the stream and cannot be would be tried again when it is closed.
    with suppress(OSError):
        stream.truncate(0)
        os.write(stream.fileno(), str(os.getpid()).encode())


def _noted(pool: Path) -> list[Path]:
    return [path for path in sorted(pool.glob("*")) if path.name != _POOL_LOCK]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _to_json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


class Notes:
    """Notes on the record of one environment, for who holds its lock.

    They are made at once: whoever kills devenv a moment later must not lose what a service has by then.
    """

    def __init__(self, state: State) -> None:
        self._state, self._lock = state, threading.Lock()

    def starts(self, begun: Sequence[str], finished: Sequence[str]) -> None:
        """Which services were started for the first time and are not known to have got through it."""
        with self._lock:
            self._state.amend(unfinished=sorted({*self._state.load().unfinished, *begun} - set(finished)))

    def made(self, service: str) -> None:
        """A service has new data. If it was to get other data, it has that by now, and is not known to work."""
        with self._lock:
            record = self._state.load()
            if service in record.renewing:
                self._state.amend(renewed=sorted({*record.renewed, service}))

    def renewed(self, services: Collection[str]) -> None:
        """Services that were to get other data work with it: they are not to lose that, too."""
        with self._lock:
            record = self._state.load()
            self._state.amend(
                renewing={name: source for name, source in record.renewing.items() if name not in services},
                renewed=[name for name in record.renewed if name not in services],
            )

    def parts(self, parts: Mapping[str, str]) -> None:
        """What components have of services, by pair, with the digest of what they have or nothing."""
        with self._lock:
            self._state.amend(provisioned={**self._state.load().provisioned, **parts})

    def no_parts(self, pairs: Collection[str]) -> None:
        """What components had of services and have no more."""
        with self._lock:
            provisioned = self._state.load().provisioned
            self._state.amend(provisioned={pair: digest for pair, digest in provisioned.items() if pair not in pairs})
