"""Environments of other project folders: which of these are not there any more, and what takes one down from here."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from pathlib import Path

from devenv.store.record import FORMAT, Record
from devenv.store.state import all_records, environment_id


def gone() -> list[Record]:
    """The environments whose project folder was moved or deleted, or is on a disk that is not there now.

    Where the folder became a link to its new place, no command in there means the old environment either. Those of a
    newer devenv are left to that one.
    """
    return [record for record in all_records() if record.format <= FORMAT and not _reachable(record)]


def network_holders(environments: Collection[str]) -> list[str]:
    """A line for each of these environments, which hold a network: whose it is, and what frees that."""
    records = {record.id: record for record in all_records()}
    lines = []
    for identity in sorted(environments):
        if record := records.get(identity):
            lines.append(f"{identity} of {record.project} has a network: '{_removal(record)}' frees it")
        else:
            lines.append(f"{identity}, which is not on record here, has a network")
    return lines


def _reachable(record: Record) -> bool:
    folder = Path(record.project)
    try:
        return folder.is_dir() and environment_id(folder, record.name) == record.id
    except PermissionError:
        return True  # to somebody


def _removal(record: Record) -> str:
    if not _reachable(record):
        return f"devenv gc --remove {record.id}"
    name = "" if record.name == "default" else f"--env {record.name} "
    return f"devenv --project {shlex.quote(record.project)} {name}down"
