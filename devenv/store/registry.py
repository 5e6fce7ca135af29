"""Look at all environments of this user: their records, the lock on their ports, the command that removes one."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from devenv.store.files import read_json
from devenv.store.locks import held
from devenv.store.places import environment_id, shared_id, state_folder
from devenv.store.record import FORMAT, Record, record_of


def all_records() -> list[Record]:
    """Return the records of all environments of this user. A record must name the folder that it is in."""
    found = [(path.parent.name, read_json(path)) for path in sorted(state_folder().glob("environments/*/record.json"))]
    return [
        record_of(data, Record("", "", ""))
        for folder, data in found
        if {"id", "name", "project"} <= data.keys() and data["id"] == folder
    ]


@contextmanager
def ports_locked(waiting: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock under which this user's environments choose their ports."""
    with held(state_folder() / "ports.lock", waiting):
        yield


def gone() -> list[Record]:
    """Return the environments whose project folder was moved or deleted, or is on a disk that is not mounted.

    A link from the old place to the new one does not bring it back: commands there mean another environment. devenv
    leaves environments of a newer devenv alone.
    """
    return [record for record in all_records() if record.format <= FORMAT and not _reachable(record)]


def network_holders(environments: Collection[str]) -> list[str]:
    """Return a line for each of these environments, which hold a network: whose it is, and what frees it."""
    records = {record.id: record for record in all_records()}
    lines = []
    for identity in sorted(environments):
        if record := records.get(identity):
            lines.append(f"{identity} of {record.project} has a network: '{_removal(record)}' frees it")
        else:
            lines.append(f"{identity} has a network; this user has no record of it")
    return lines


def _reachable(record: Record) -> bool:
    folder = Path(record.project)
    try:
        its = shared_id(record.shared, record.name) if record.shared else environment_id(folder, record.name)
        return folder.is_dir() and its == record.id
    except PermissionError:
        return True  # Another user may reach it.


def _removal(record: Record) -> str:
    if not _reachable(record):
        return f"devenv gc --remove {record.id}"
    name = "" if record.name == "default" else f"--env {record.name} "
    return f"devenv --project {shlex.quote(record.project)} {name}down"
