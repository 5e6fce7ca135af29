"""A place in memory where several hosts keep a shared environment: what store/central.py says. Written by hand."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import Event
from typing import Any

from devenv.errors import LostLock
from devenv.store.central import Kept


@dataclass
class Place:
    """What is kept of one environment, and who has the lock; `writes` are the names of what was kept."""

    kept: Kept = field(default_factory=Kept)
    holder: object = None
    writes: list[str] = field(default_factory=list)


class FakeCentral:
    """One host's view of a place."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def read(self) -> Kept:
        return self.place.kept

    @contextmanager
    def locked(self, waiting: Callable[[str], None] | None, over: Event | None, make: bool) -> Iterator[Kept | None]:
        if self.place.holder not in (None, self):
            if waiting is None:
                yield None
                return
            waiting("waiting for another devenv (other process 1)")
        if make and not self.place.kept.owner:
            self.place.kept = Kept(secrets.token_hex(8))
        self.place.holder = self if self.place.kept.owner else None
        try:
            yield self.place.kept
        finally:
            if self.place.holder is self:
                self.place.holder = None

    def keep(self, record: Mapping[str, Any]) -> None:
        self._check()
        self.place.kept = replace(self.place.kept, record=dict(record))
        self.place.writes.append("record")

    def keep_file(self, name: str, content: Mapping[str, Any]) -> None:
        self._check()
        self.place.kept = replace(self.place.kept, files={**self.place.kept.files, name: dict(content)})
        self.place.writes.append(name)

    def remove(self) -> None:
        self._check()
        self.place.kept, self.place.holder = Kept(), None

    def _check(self) -> None:
        if self.place.holder is not self:
            raise LostLock("cannot go on: other process 1 has taken over")
