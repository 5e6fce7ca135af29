"""Keep what devenv remembers of one environment as a value, and read it from a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

# Raise it when an older devenv would misread or lose what is in a record, such as a field that it does not know.
FORMAT = 4
# What `tunnel` says if devenv does not forward the ports of an engine elsewhere.
NO_TUNNEL = "no"
# What `within` says: hosts that are pods of the cluster reach services by other addresses than hosts outside of it.
PODS, OUTSIDE = "pods", "outside"
# What all hosts have in common of an environment that they share. The other fields are about this host alone.
COMMON = (
    *("profile", "ports", "provisioned", "unfinished", "renewing", "renewed", "roles", "citest", "within"),
    *("owner", "format"),
)


@dataclass(frozen=True)
class Record:
    """Everything that devenv remembers of one environment, except its secrets and timing.

    - `ports`: host ports by "service/endpoint"
    - `provisioned`: digests of what components have, by pair ("mysql/nova"), and of prepared services ("mysql")
    - `files`: the names of the wired files
    - `folder`: where these are, if not in .devenv/
    - `left_folder`, `left_files`: where else files of devenv's may be, while `up` moves them, and their names
    - `unfinished`: services whose first start began, but devenv has not seen it end
    - `renewing`: services that lose their data, each with the snapshot that it gets instead, or an empty string
    - `renewed`: services in `renewing` that already have other data; devenv does not know yet that they work with it
    - `borrowed`: services that runs have started, each with what existed of it before (see lifecycle/loans.py)
    - `roles`: the services that fill roles since somebody asked for them by name ("database": "postgresql")
    - `citest`: services in which runs have the account for OpenStack's own test suites
    - `engine`: the URL of the engine that has it, as far as is known
    - `tunnel`: NO_TUNNEL if devenv does not forward the ports of an engine elsewhere
    - `shared`: the name under which hosts share it, if they do
    - `within`: whether the hosts of a shared environment are PODS of its cluster or OUTSIDE, once `up` knows
    - `asked`: the components that this host has asked for, of a shared environment
    - `owner`: the token on everything that devenv creates for this environment
    - `saving`: images that devenv creates or removes with a snapshot, until it knows the outcome
    """

    id: str
    name: str
    project: str
    profile: str = ""
    ports: Mapping[str, int] = field(default_factory=dict)
    provisioned: Mapping[str, str] = field(default_factory=dict)
    files: Sequence[str] = field(default_factory=list)
    folder: str = ""
    left_folder: str = ""
    left_files: Sequence[str] = field(default_factory=list)
    unfinished: Sequence[str] = field(default_factory=list)
    renewing: Mapping[str, str] = field(default_factory=dict)
    renewed: Sequence[str] = field(default_factory=list)
    borrowed: Mapping[str, str] = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)
    citest: Sequence[str] = field(default_factory=list)
    engine: str = ""
    tunnel: str = ""
    shared: str = ""
    within: str = ""
    asked: Sequence[str] = field(default_factory=list)
    owner: str = ""
    saving: Sequence[str] = field(default_factory=list)
    format: int = FORMAT


_VALUES = {"ports": int, "provisioned": str, "renewing": str, "borrowed": str, "roles": str}
_LISTS = ("files", "left_files", "unfinished", "renewed", "citest", "saving", "asked")


def record_of(data: Mapping[str, Any], empty: Record) -> Record:
    """Return the record with every field of `data` that has the right type; `empty` gives the others."""
    known = asdict(empty)
    fields = {key: value for key, value in data.items() if key in known and isinstance(value, type(known[key]))}
    for key, kind in _VALUES.items():
        if not all(isinstance(value, kind) for value in fields.get(key, {}).values()):
            del fields[key]
    for key in _LISTS:
        if not all(isinstance(name, str) for name in fields.get(key, ())):
            del fields[key]
    return Record(**{**known, **fields})


def common(record: Record) -> dict[str, Any]:
    """Return what the hosts of a shared environment have in common, as JSON holds it."""
    known = asdict(replace(record, format=FORMAT))
    return {key: known[key] for key in COMMON}


def with_common(record: Record, data: Mapping[str, Any]) -> Record:
    """Return this host's record with what the hosts have in common; what `data` lacks is empty."""
    empty = Record(record.id, record.name, record.project)
    there = record_of({key: value for key, value in data.items() if key in COMMON}, empty)
    return replace(record, **{key: getattr(there, key) for key in COMMON})
