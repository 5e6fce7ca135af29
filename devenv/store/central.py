"""Say what `State` needs of the place where hosts keep what they have in common of a shared environment.

`Engine.central` returns that place, if several hosts can reach the engine. What is kept there counts. Each host has a
copy on disk, and reads it again when it takes the lock or looks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from threading import Event
from typing import Any, Protocol

from devenv.errors import ConfigError
from devenv.store.record import FORMAT, Record, with_common


@dataclass(frozen=True)
class Kept:
    """What is kept of an environment: the common part of its record, and files with passwords by name, each as JSON.

    `owner` is the environment's token. Without one, there is no such environment.
    """

    owner: str = ""
    record: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class Central(Protocol):
    """Where several hosts keep one environment. Raises NoEngine and ServiceFailed as an engine does."""

    def read(self) -> Kept:
        """Return what is kept right now, without the lock."""

    def locked(
        self, waiting: Callable[[str], None] | None, over: Event | None, make: bool
    ) -> AbstractContextManager[Kept | None]:
        """Hold the lock between hosts while the body runs; yield what is kept.

        It yields None without `waiting` if another host has the lock. `waiting` gets a text, once, if another host has
        it; raise Cancelled once `over` is set. If there is no such environment, `make` begins one; else there is
        nothing to lock. A killed holder blocks others for some seconds. Raise LostLock if the body was cancelled
        because another host has taken the lock.
        """

    def keep(self, record: Mapping[str, Any]) -> None:
        """Keep this record. Raise LostLock, and change nothing, if this process does not have the lock any more."""

    def keep_file(self, name: str, content: Mapping[str, Any]) -> None:
        """Keep a file, as `keep` does."""

    def remove(self) -> None:
        """Remove the environment's place: there is no such environment any more."""


def check_format(identity: str, kept: Kept) -> None:
    """Raise ConfigError if a newer devenv wrote what is kept: this one would lose what it does not know."""
    found = kept.record.get("format", FORMAT)
    if not isinstance(found, int) or found > FORMAT:
        raise ConfigError(
            f"cannot use environment {identity}: a newer devenv of another host has written its record",
            hint=f"use that one, or another that knows format {found}",
        )


def ends(record: Record, kept: Kept) -> bool:
    """Return whether the environment that a host knows by its record is gone, or another one is in its place."""
    return bool(record.owner) and record.owner != kept.owner


def following(record: Record, kept: Kept) -> Record:
    """Return a host's record with what is kept. Nothing stays of an environment that is gone.

    What a host has chosen before there was any, such as ports for an export, stays: the environment begins with it.
    """
    if kept.record or ends(record, kept):
        return with_common(record, {**kept.record, "owner": kept.owner})
    return replace(record, owner=kept.owner or record.owner)
