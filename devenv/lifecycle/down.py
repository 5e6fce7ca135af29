"""Environments whose project folder is not there any more: what is left of them, and their removal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from devenv.errors import ConfigError
from devenv.images import snapshot
from devenv.lifecycle.environment import Environment
from devenv.lifecycle.plan import plan_down
from devenv.model import Report, Result
from devenv.store import registry as elsewhere
from devenv.store.record import Record
from devenv.store.state import State


@dataclass(frozen=True)
class Gone:
    """What is left of an environment: `containers`, `volumes` and `snapshots` are how many there are."""

    id: str
    name: str
    project: str
    containers: int
    volumes: int
    snapshots: int


class _Remains(Environment):
    """An environment known by its record alone."""

    def __init__(self, record: Record, report: Report) -> None:
        self._record = record
        super().__init__(record.project, record.name, report=report)

    def _located(self, folder: Path) -> tuple[Path, State]:
        return folder, State(folder, self.name, self._record.id)

    def look(self) -> Gone:
        observed = self.observe()
        return Gone(
            id=self.id,
            name=self.name,
            project=str(self.project),
            containers=len(observed.containers) + len(observed.extra),
            volumes=len(observed.volumes),
            snapshots=len(self.snapshots()),
        )

    def remove(self) -> Result:
        """Remove all of it. No file is touched where the project folder was: that may be a link to its new place."""
        with self._changing():
            observed = self.observe()
            for saved in self.snapshots():
                snapshot.remove(self.state, self.engine, saved)
            containers, volumes = self._present(observed, ()), self._volumes(observed, ())
            plan = plan_down(containers, self._needs(), observed.networks, volumes, gently=False)
            timings = self._execute(plan, self._nothing(), observed)
            self._remove_leftovers(observed.images)
            # As when an environment goes down: a project that comes back must not take over a stranger's token.
            self.state.forget(observed.owner if observed.strangers else "")
            self._files.restore_all(wired.path for wired in self._files.wired() if not wired.path.exists())
            return Result(plan, {}, timings)


def listed() -> list[Gone]:
    """The environments whose project folder was moved or deleted, or is on a disk that is not there now."""
    return [_Remains(record, Report()).look() for record in elsewhere.gone()]


def remove(identity: str, report: Report) -> Result:
    """Remove an environment whose project folder is gone, with its data and its snapshots.

    Where strangers have its labels, its token stays on record, and it is `listed` until they are gone, too.
    Raises ConfigError if it is no such environment.
    """
    records = {record.id: record for record in elsewhere.gone()}
    if record := records.get(identity):
        return _Remains(record, report).remove()
    known = ", ".join(records) or "none"
    raise ConfigError(
        f"cannot remove environment {identity!r}: it is not one whose project folder is gone",
        hint=f"of these there are: {known}; in its folder, 'devenv down --volumes' removes an environment",
    )
