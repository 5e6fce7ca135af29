"""Say what a host may do in an environment that several hosts share, and which components of it are its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from devenv.engine import DOCKER, KUBERNETES
from devenv.errors import ConfigError
from devenv.names import Pair
from devenv.store.record import OUTSIDE, PODS, Record
from devenv.store.state import State


def check(state: State, kind: str, project: Path) -> None:
    """Raise ConfigError if hosts cannot share it on this kind of engine, or another folder of this host has it."""
    if kind != KUBERNETES:
        raise ConfigError(
            f"cannot share an environment ({state.shared}) on {kind or DOCKER}: hosts share them in a cluster",
            "'devenv --engine kubernetes …', or leave 'shared' out",
        )
    if (known := state.load().project) != str(project) and Path(known).is_dir():
        raise ConfigError(
            f"cannot share environment {state.shared!r} in {project}: on this host, {known} has it",
            f"use it there; or give it up there first: 'devenv --project {known} down --leave'",
        )


def check_within(record: Record, inside: bool) -> None:
    """Raise ConfigError if a host outside of the cluster joins those that are pods of it (`inside`), or vice versa.

    Both reach services by other addresses, and some services and Keystone's catalogue hold one.
    """
    words = {PODS: "pods of the cluster", OUTSIDE: "outside of the cluster"}
    if record.within and record.within != _within(inside):
        raise ConfigError(
            f"cannot join environment {record.id}: its hosts are {words[record.within]}, and this one is not",
            f"share another one between hosts that are {words[_within(inside)]}: 'devenv --shared NAME …'",
        )


def joined(record: Record, components: Iterable[str], inside: bool) -> Record:
    """Return the record of a host that brings an environment up with these components. Raise as `check_within`."""
    if not record.shared:
        return record
    check_within(record, inside)
    return replace(record, within=record.within or _within(inside), asked=sorted({*asked(record), *components}))


def asked(record: Record) -> set[str]:
    """Return the components that this host has asked for and that still have a part of some service."""
    return {*record.asked} & {Pair.parse(pair).component for pair in record.provisioned}


def own(record: Record, components: Iterable[str]) -> set[str]:
    """Return those of the components that are this host's to drop: other hosts may ask for others."""
    return {*components} & asked(record) if record.shared else {*components}


def _within(inside: bool) -> str:
    return PODS if inside else OUTSIDE
