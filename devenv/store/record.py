"""What is remembered of an environment, and how much of a file is understood as that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

# Raise it when an older devenv would misread or lose what is in a record.
FORMAT = 1


@dataclass
class Record:
    """What is remembered of one environment.

    `ports` are host ports by "service/endpoint"; `provisioned` digests by "provider/component"; `files` the names of
    the wired files; `unfinished` the services whose first start was begun and not seen to end; `renewing` those that
    are to lose their data, each with the snapshot that it gets instead, or nothing, and `renewed` those of them that
    have, and are not known to work since; `borrowed` the services that runs
    brought up, each with what was there of it before (see lending.py); `owner` the token that everything made for it
    carries; `saving` the images that were to be made or removed with a snapshot, until it is known what became of them.
    """

    id: str
    name: str
    project: str
    profile: str = ""
    ports: dict[str, int] = field(default_factory=dict)
    provisioned: dict[str, str] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    renewing: dict[str, str] = field(default_factory=dict)
    renewed: list[str] = field(default_factory=list)
    borrowed: dict[str, str] = field(default_factory=dict)
    owner: str = ""
    saving: list[str] = field(default_factory=list)
    format: int = FORMAT


def understood(data: Mapping[str, Any], empty: Record) -> Record:
    """The record with every field that has the right type; what has not is left as it is in `empty`."""
    known = asdict(empty)
    fields = {key: value for key, value in data.items() if key in known and isinstance(value, type(known[key]))}
    for key, kind in (("ports", int), ("provisioned", str), ("renewing", str), ("borrowed", str)):
        if not all(isinstance(value, kind) for value in fields.get(key, {}).values()):
            del fields[key]
    for key in ("files", "unfinished", "renewed", "saving"):
        if not all(isinstance(name, str) for name in fields.get(key, ())):
            del fields[key]
    return Record(**{**known, **fields})
