"""Many environments up at once on one engine, and down again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.engine import Engine
from tests.bench.samples import Tell
from tests.bench.sides import Devenv, down_together, up_together


@dataclass(frozen=True)
class Crowd:
    """Seconds until all were ready and until all had gone, containers that ran at once, megabytes of all together
    (RSS), and what was left of them on the engine and on disk.
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
        """What should not be."""
        missing = self.environments * len(self.services) - self.running
        return [
            *([f"{missing} services did not run"] if missing else []),
            *(f"left behind: {one}" for one in self.left),
        ]


def measure_crowd(side: Devenv, environments: int, tell: Tell) -> Crowd:
    """Start as many environments of one project at the same time, count what runs, remove all at the same time."""
    engine, before = Engine(), _files(side.folder)
    some = [side.sibling(f"soak-{number + 1}") for number in range(environments)]
    tell(f"  {environments} environments come up")
    try:
        up = up_together(some)
        services = some[0].services()
        running = sum(engine.running(one.label) for one in some)
        megabytes = engine.memory(*(one.label for one in some)).rss
    finally:
        tell("  all of them go")
        down = down_together(some)
    left = [name for one in some for name in engine.sweep(one.label)]
    left += sorted(_files(side.folder) - before)
    return Crowd(environments, services, up, down, running, megabytes, tuple(left))


def _files(folder: Path) -> set[str]:
    """Those in the project, where devenv writes what programs are told."""
    return {str(path.relative_to(folder)) for path in (folder / "project").rglob("*")}
