"""Start many environments together on one engine, and remove them again."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.engine import Engine
from tests.bench.samples import Tell
from tests.bench.sides import Devenv, down_together, up_together

# This file of an environment's state stays: without it, two processes could hold the lock.
_STAYS = "lock"


@dataclass(frozen=True)
class Crowd:
    """Seconds until all were ready and until all had gone, containers that ran together, megabytes of all (RSS), and
    what was left of them on the engine and on disk.
    """

    environments: int
    services: Sequence[str]
    up: float
    down: float
    running: int
    megabytes: float
    left: tuple[str, ...]

    @property
    def problems(self) -> list[str]:
        """Return what should not be."""
        missing = self.environments * len(self.services) - self.running
        return [
            *([f"{missing} services did not run"] if missing else []),
            *(f"left behind: {one}" for one in self.left),
        ]


def measure_crowd(side: Devenv, environments: int, tell: Tell) -> Crowd:
    """Start so many environments of one project at the same time, count what runs, remove all at the same time."""
    engine, before = Engine(), _files(side.folder)
    volumes: set[str] = set()
    some = [side.sibling(f"soak-{number + 1}") for number in range(environments)]
    tell(f"  {environments} environments come up")
    try:
        up = up_together(some)
        services = some[0].services()
        running = sum(engine.running(one.label) for one in some)
        volumes = engine.volumes(*(one.label for one in some))
        megabytes = engine.memory(*(one.label for one in some)).rss
    finally:
        tell("  all of them go")
        down = down_together(some)
    left = [name for one in some for name in _remaining(engine, one, volumes)]
    left += sorted(_files(side.folder) - before)
    return Crowd(environments, services, up, down, running, megabytes, tuple(dict.fromkeys(left)))


def _remaining(engine: Engine, side: Devenv, volumes: Collection[str]) -> list[str]:
    """Return what is left of an environment: by label, by name, of its containers' volumes, and of its state."""
    identity = side.label.partition("=")[2]
    state = side.folder / "state" / "environments" / identity
    found = [*engine.sweep(side.label), *engine.remaining(f"devenv-{identity}", volumes)]
    kept = sorted(path for path in state.rglob("*") if path != state / _STAYS)
    return [*found, *(str(path.relative_to(side.folder)) for path in kept)]


def _files(folder: Path) -> set[str]:
    """Return the files in the project, where devenv writes what programs read."""
    return {str(path.relative_to(folder)) for path in (folder / "project").rglob("*")}
