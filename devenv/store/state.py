"""Keep what devenv remembers of one environment on this machine: its lock, its record and its secrets.

    <state folder>/environments/<id>/lock           held by the one devenv that changes the environment
    <state folder>/environments/<id>/record.json    project, name, profile, ports, what is provisioned, the token
    <state folder>/environments/<id>/secrets.json   0600
    <state folder>/environments/<id>/attached.json  0600; URLs and logins of the services that somebody else runs
    <state folder>/environments/<id>/timing.json    the steps of the last `up` and their times
    <state folder>/environments/<id>/snapshots/     one file per snapshot, with the secrets of its data, 0600
    <state folder>/environments/<id>/users          held, together with others, by each run that uses the services
    <state folder>/environments/<id>/lent/<name>    held by the run that uses this component, or by several together
    <state folder>/environments/<id>/pools/<token>/ one process's components for tests, and a lock that it holds: a file
                                                    per component, with its passwords once a test asked for its overlay,
                                                    0600
    <state folder>/environments/<id>/holder         under which token this host has the lock of a shared environment
    <state folder>/environments/<id>/forward/       what forwards the ports of an engine elsewhere (engine/forward.py)

The engine's labels are the truth about what runs; the record is a cache, except for ports and secrets. The token marks
what runs as the environment's own. If the record loses it, devenv takes it from the labels (see engine/ownership.py).

What several hosts have in common of a shared environment is kept at one place (central.py). The files here are then
this host's copy: whoever takes the lock reads them again, and whoever looks without it reads there.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import string
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, replace
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import quote, unquote

from devenv.errors import ConfigError
from devenv.names import Pair
from devenv.store.central import Central, Kept, check_format, ends, following
from devenv.store.files import as_json, create_empty, make_private, read_json, write_files
from devenv.store.locks import GLANCES, held, held_if_free, is_held, shared
from devenv.store.places import RECORD, environment_folder, environment_id, shared_id
from devenv.store.record import FORMAT, Record, common, record_of

# Nothing to escape in URLs, INI, YAML, SQL or a shell, and no dash, which a program could take for an option.
_SECRET_ALPHABET, _SECRET_LENGTH = string.ascii_letters + string.digits, 32
# devenv accepts no other text as a secret: each file would have to escape it in its own way.
_SECRET = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*\Z")
_LOCK = _POOL_LOCK = "lock"
_SECRETS, _ATTACHED = "secrets.json", "attached.json"


def new_secret() -> str:
    """Return a password that nobody can guess."""
    return "".join(secrets.choice(_SECRET_ALPHABET) for _ in range(_SECRET_LENGTH))


def new_token() -> str:
    """Return a token that tells one environment from all others, also from later ones with the same id.

    It says which user has the record of the environment, with its passwords.
    """
    return f"{os.geteuid()}-{secrets.token_hex(16)}"


def user_of(token: str) -> int | None:
    """Return the id of the user who has the record of an environment, or None if an older devenv made its token."""
    found = re.match(r"(\d{1,10})-", token)
    return int(found[1]) if found else None


class State:
    """The state folder of one environment; `known_as` is its id if the project folder does not exist any more.

    Hosts may share the environment under the name `shared`. Then `central`, once somebody has set it, is the place of
    what they have in common.
    """

    def __init__(self, project: Path, name: str, known_as: str = "", shared: str = "") -> None:
        self.id = known_as or (shared_id(shared, name) if shared else environment_id(project, name))
        self.folder = environment_folder(self.id)
        self.snapshots = self.folder / "snapshots"
        self._project, self._name = project, name
        self._record_path = self.folder / RECORD
        self.shared = shared or (str(read_json(self._record_path).get("shared", "")) if known_as else "")
        self.central: Central | None = None
        # What was there at the last look without the lock; what is there, while this process has the lock.
        self._seen: Kept | None = None
        self._kept: Kept | None = None
        self._told_end = False
        # Threads take turns at the record. The lock's holder reads it once: nobody else writes it meanwhile.
        self._turn = threading.RLock()
        self._holder = 0
        self._known: Record | None = None

    # ---- the lock ------------------------------------------------------------------------------------------

    @contextmanager
    def locked(self, waiting: Callable[[str], None], over: Event | None = None, make: bool = False) -> Iterator[None]:
        """Wait for the environment's lock until `over` is set, and hold it. `waiting`: see `held`.

        The kernel drops the lock with its holder, so a killed devenv blocks nobody. Between hosts that share the
        environment, it blocks them for some seconds; `make` begins a shared environment that does not exist.
        """
        with held(self.folder / _LOCK, waiting, over), self._holding(), self._common(waiting, over, make):
            yield

    @contextmanager
    def locked_if_free(self) -> Iterator[bool]:
        """Hold the environment's lock unless somebody else has it. Yield whether it is held."""
        with held_if_free(self.folder / _LOCK) as mine, self._holding() if mine else nullcontext():  # noqa: SIM117
            with self._common(None, None, False) if mine else nullcontext(False) as ours:
                yield ours

    @contextmanager
    def _holding(self) -> Iterator[None]:
        # A forked child does not hold it. A thread that reads right now must not keep what it read for the next holder.
        with self._turn:
            self._known, self._holder = None, os.getpid()
        try:
            yield
        finally:
            with self._turn:
                ours = self._holder == os.getpid()
                self._known, self._holder = None, 0
            if ours:
                self._tidy()

    # ---- what hosts have in common ---------------------------------------------------------------------------

    @contextmanager
    def _common(self, waiting: Callable[[str], None] | None, over: Event | None, make: bool) -> Iterator[bool]:
        """Hold the lock between hosts, if they share the environment, and take over what is kept there.

        Yield whether this process has the lock.
        """
        if self.central is None:
            yield True
            return
        with self.central.locked(waiting, over, make) as kept:
            if kept is None:
                yield False
                return
            note = waiting or (lambda _: None)
            with self._turn:
                self._seen = None
                self._take_over(kept, note)
                self._kept = kept if kept.owner else None
            try:
                yield True
            finally:
                self._kept = None
                if kept.owner and not self._local().engine:
                    # This host has nothing of it: it has only ended it, for one.
                    for name in (RECORD, _SECRETS, _ATTACHED):
                        self._write(name, {})

    def look(self, note: Callable[[str], None]) -> None:
        """Read what hosts have in common of a shared environment, for a process that only looks.

        `note` gets a text if another host has ended the environment that this one knew.
        """
        if self.central is None or self._holder == os.getpid():
            return
        kept = self.central.read()
        check_format(self.id, kept)
        with self._turn:
            self._tell_end(self._local(), kept, note)
            self._seen = kept

    def _take_over(self, kept: Kept, note: Callable[[str], None]) -> None:
        """Make this host's copy what is kept. What an environment that is gone had is gone."""
        check_format(self.id, kept)
        local = self._local()
        self._tell_end(local, kept, note)
        record = replace(following(local, kept), project=str(self._project))
        if kept.record or ends(local, kept):
            for name in (_SECRETS, _ATTACHED):
                self._write(name, kept.files.get(name, {}))
        if record != local:
            self._write(RECORD, asdict(record))

    def _tell_end(self, local: Record, kept: Kept, note: Callable[[str], None]) -> None:
        """Say, once, that the environment that this host knew is gone."""
        if ends(local, kept) and not self._told_end:
            self._told_end = True
            now = "it is a new one, with other passwords" if kept.owner else "'devenv down --volumes' clears the rest"
            note(f"{self.id} was taken down with its data, by another host: {now}")

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        """Write this host's copy of a file; an empty one is none."""
        if content:
            make_private(self.folder)
            write_files({self.folder / name: as_json(content)})
        else:
            (self.folder / name).unlink(missing_ok=True)

    def _tidy(self) -> None:
        """Remove the folder, with the lock that this process holds, if nothing is in it but locks that nobody holds."""
        if self._record_path.exists():
            return
        with suppress(OSError):
            if not self.used():
                (self.folder / "users").unlink(missing_ok=True)
            for empty in (self._lent, self._pools, self.snapshots):
                if empty.exists():
                    empty.rmdir()
            if [path.name for path in self.folder.iterdir()] == [_LOCK]:
                (self.folder / _LOCK).unlink()
                self.folder.rmdir()

    # ---- the record ----------------------------------------------------------------------------------------

    def load(self) -> Record:
        """Return the record, or an empty one if it is missing or garbled: it is a cache.

        Raise ConfigError if a newer devenv wrote it: this one would lose what it does not know.
        """
        with self._turn:
            holds = self._holder == os.getpid()
            if holds and self._known:
                return self._known
            record = self._local()
            if self._seen and not holds:
                record = following(record, self._seen)
            if record.format > FORMAT:
                raise ConfigError(
                    f"cannot use environment {self.id}: a newer devenv wrote {self._record_path}",
                    hint=f"use that one, or another that knows format {record.format}",
                )
            self._known = record if holds else None
            return record

    def _local(self) -> Record:
        return record_of({**read_json(self._record_path), "id": self.id}, self._empty())

    def save(self, record: Record) -> None:
        with self._turn:
            # First where it is the truth: this raises if another host has the lock by now.
            if self.central and self._kept and (wanted := common(record)) != self._kept.record:
                self.central.keep(wanted)
                self._kept = replace(self._kept, record=wanted)
            make_private(self.folder)
            write_files({self._record_path: as_json(asdict(replace(record, format=FORMAT)))})
            self._known = record

    def change(self, changed: Callable[[Record], Record]) -> None:
        """Save what the function returns for the record, unless it is the same record."""
        with self._turn:
            record = self.load()
            if (wanted := changed(record)) != record:
                self.save(wanted)

    def amend(self, **fields: Any) -> None:
        """Set these fields of the record."""
        self.change(lambda record: replace(record, **fields))

    def forget(self, owner: str = "") -> None:
        """Remove record, timing and secrets. With `owner`, keep a record that holds only this token.

        A shared environment ends for all hosts, and the token with it.
        """
        with self._turn:
            if self.central and self._kept:
                self.central.remove()
                self._kept = None
            self._forget_here("" if self.shared else owner)

    def leave(self) -> None:
        """Remove what this host has of a shared environment, for a caller with the lock. Others keep theirs."""
        with self._turn:
            self._kept = None
            self._forget_here("")

    def _forget_here(self, owner: str) -> None:
        with self._turn:
            if owner:
                self.save(replace(self._empty(), owner=owner))
            for name in (*(() if owner else (RECORD,)), "timing.json", _SECRETS, _ATTACHED):
                (self.folder / name).unlink(missing_ok=True)
            self._known = None
        self.adopt()
        for component in self.left_behind():
            (self._lent / component).unlink(missing_ok=True)

    def _empty(self) -> Record:
        return Record(self.id, self._name, str(self._project), shared=self.shared)

    def save_timing(self, timing: Mapping[str, Any]) -> None:
        make_private(self.folder)
        write_files({self.folder / "timing.json": as_json(timing)})

    def load_timing(self) -> dict[str, Any]:
        """Return the saved timing of the last `up`, or an empty mapping if that is missing or no JSON."""
        return read_json(self.folder / "timing.json")

    # ---- who uses it ---------------------------------------------------------------------------------------

    # The kernel drops these locks with their holder, so a killed process uses nothing any more. devenv takes them and
    # looks at them under the environment's own lock, so no user comes or goes meanwhile.

    @contextmanager
    def using(self) -> Iterator[None]:
        """Be one of the processes that use the services."""
        with shared(self.folder / "users"):
            yield

    def used(self) -> bool:
        """Return whether any process uses the services right now."""
        return is_held(self.folder / "users", GLANCES)

    @contextmanager
    def lent(self, component: str, together: bool = False) -> Iterator[None]:
        """Borrow a component. Unless runs have it `together`, raise ConfigError if another one has it."""
        if together:
            with shared(self._lent / component):
                yield
            return
        with held_if_free(self._lent / component, GLANCES) as mine:
            if not mine:
                raise ConfigError(
                    f"cannot use component {component!r}: another run has it", "wait for that run, or name another one"
                )
            yield

    def lendings(self) -> dict[str, bool]:
        """Return the components that runs borrow or, before they were killed, borrowed: whether a run has them now."""
        return {path.name: is_held(path) for path in sorted(self._lent.glob("*"))}

    def held_now(self) -> set[str]:
        """Return the components that runs have right now."""
        return {name for name, held in self.lendings().items() if held}

    def left_behind(self) -> set[str]:
        """Return the components that killed runs had."""
        return {name for name, held in self.lendings().items() if not held}

    @contextmanager
    def pool(self) -> Iterator[Path]:
        """Yield a folder to note components in before they are created, one file NAME.conf each, until their removal.

        Components noted there when this process ends are `abandoned`.
        """
        folder = self._pools / secrets.token_hex(3)
        # It is new, so nobody else holds its lock for longer than a glance.
        with held(folder / _POOL_LOCK, lambda _: None):
            yield folder
            if not _noted(folder):
                shutil.rmtree(folder, ignore_errors=True)

    def abandoned(self) -> list[str]:
        """Return the components that are noted in pools of ended processes."""
        return [path.stem for folder in self._abandoned_pools() for path in _noted(folder)]

    def adopt(self) -> None:
        """Treat abandoned components as components that killed runs had."""
        for folder in self._abandoned_pools():
            make_private(self._lent)
            for path in _noted(folder):
                create_empty(self._lent / path.stem)
            shutil.rmtree(folder, ignore_errors=True)

    def _abandoned_pools(self) -> list[Path]:
        return [folder for folder in sorted(self._pools.glob("*")) if not is_held(folder / _POOL_LOCK)]

    def kept(self, component: str) -> None:
        """Forget that a run had a component: it is the project's own now."""
        (self._lent / component).unlink(missing_ok=True)

    def returned(self, component: str) -> None:
        """Forget that a run had a component, and its passwords."""
        self.kept(component)
        known = self._file(_SECRETS)
        kept = {name: secret for name, secret in known.items() if Pair.parse(name).component != component}
        if kept != known:
            self._save_file(_SECRETS, kept)

    @property
    def _lent(self) -> Path:
        return self.folder / "lent"

    @property
    def _pools(self) -> Path:
        return self.folder / "pools"

    # ---- secrets -------------------------------------------------------------------------------------------

    def _file(self, name: str) -> dict[str, Any]:
        """Return a file with passwords."""
        with self._turn:
            if self._seen and self._holder != os.getpid():
                return dict(self._seen.files.get(name, {}))
            return read_json(self.folder / name)

    def _save_file(self, name: str, content: Mapping[str, Any]) -> None:
        with self._turn:
            if self.central and self._kept:
                self.central.keep_file(name, content)
                self._kept = replace(self._kept, files={**self._kept.files, name: content})
            make_private(self.folder)
            write_files({self.folder / name: as_json(content)})

    def secrets(self, names: Iterable[str], keep: bool = True) -> dict[str, str]:
        """Return the environment's secrets by name. Create those that are missing, and save them if `keep`."""
        known = {
            key: value for key, value in self._file(_SECRETS).items() if isinstance(value, str) and _SECRET.match(value)
        }
        missing = [name for name in names if name not in known]
        known.update({name: new_secret() for name in missing})
        if keep and (missing or (known and self._kept and _SECRETS not in self._kept.files)):
            self._save_file(_SECRETS, known)
        return known

    # ---- attached services ---------------------------------------------------------------------------------

    def attachments(self) -> dict[str, dict[str, str]]:
        """Return the settings of attached services, with their logins, by service."""
        found = self._file(_ATTACHED)
        return {
            name: {key: value for key, value in settings.items() if isinstance(value, str)}
            for name, settings in found.items()
            if isinstance(settings, dict)
        }

    def attach(self, settings: Mapping[str, Mapping[str, str]]) -> None:
        """Remember these attached services, and no others."""
        self._save_file(_ATTACHED, {key: dict(one) for key, one in settings.items()})

    def without_engine(self) -> bool:
        """Return whether services were attached, and no engine has had anything of the environment, by the record."""
        return not self.shared and (self.folder / _ATTACHED).exists() and not self.load().engine

    def passwords(self) -> set[str]:
        """Return all that no log may show: the secrets, and the passwords of attached services as files have them.

        A password that is the name of a user, a service or a database as well protects nothing, and to hide it would
        garble every log.
        """
        found = {*self.secrets((), keep=False).values()}
        names = {"", "devenv"} | {part for pair in self.load().provisioned for part in pair.split("/")}
        for service, settings in self.attachments().items():
            user, password, database = _parts_of(settings.get("attach", ""))
            names |= {service, settings.get("user", ""), unquote(user), unquote(database)}
            for one in (settings.get("password", ""), unquote(password)):
                found |= {one, quote(one, safe="")}
            found.add(password)
        return found - names

    def restore_secrets(self, saved: Mapping[str, str]) -> None:
        """Restore these secrets; others stay."""
        known = self.secrets(())
        if (restored := {**known, **saved}) != known:
            self._save_file(_SECRETS, restored)


def _parts_of(url: str) -> tuple[str, str, str]:
    """Return the user, the password and the path that a URL names, as they stand there."""
    login, _, rest = url.partition("://")[2].rpartition("@")
    user, _, password = login.partition(":")
    return user, password, rest.partition("/")[2].partition("?")[0]


def _noted(pool: Path) -> list[Path]:
    return [path for path in sorted(pool.glob("*")) if path.name != _POOL_LOCK]


class Notes:
    """Notes on the record of one environment, for the holder of its lock.

    devenv saves each one immediately: if it is killed a moment later, the record must still say what services have.
    """

    def __init__(self, state: State) -> None:
        self._change = state.change

    def starts(self, begun: Sequence[str], finished: Sequence[str]) -> None:
        """Note the services whose first start began, and those whose first start ended."""
        self._change(lambda r: replace(r, unfinished=sorted({*r.unfinished, *begun} - set(finished))))

    def made(self, service: str) -> None:
        """Note that a service has new data. devenv does not know yet that a service in `renewing` works with it."""
        self._change(
            lambda r: replace(r, renewed=sorted({*r.renewed, service})) if service in r.renewing else r,
        )

    def renewed(self, services: Collection[str]) -> None:
        """Note that services work with their other data, so that they do not lose this data, too."""
        self._change(
            lambda r: replace(
                r,
                renewing={name: source for name, source in r.renewing.items() if name not in services},
                renewed=[name for name in r.renewed if name not in services],
            )
        )

    def parts(self, parts: Mapping[str, str]) -> None:
        """Note what components have of services: by pair, a digest or an empty string."""
        self._change(lambda r: replace(r, provisioned={**r.provisioned, **parts}))

    def no_parts(self, pairs: Collection[str]) -> None:
        """Note that components no longer have these parts of services."""
        self._change(
            lambda r: replace(r, provisioned={pair: d for pair, d in r.provisioned.items() if pair not in pairs})
        )
