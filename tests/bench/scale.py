"""Measure what many environments side by side cost: time until all are ready, and memory."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from tests.bench.engine import Engine, Memory
from tests.bench.measure import have_golden
from tests.bench.samples import Tell
from tests.bench.sides import Devenv, down_together, up_together

SIZES = (1, 2, 4, 8)


@dataclass(frozen=True)
class Point:
    """Environments that were started together: seconds until all were ready, and megabytes of all."""

    environments: int
    seconds: float
    rss_mb: float
    pss_mb: float | None

    @property
    def seconds_each(self) -> float:
        return self.seconds / self.environments

    @property
    def memory_each(self) -> float:
        """Return the PSS of each, which is what another environment really takes; the RSS if PSS is unknown."""
        return (self.rss_mb if self.pss_mb is None else self.pss_mb) / self.environments


def siblings(side: Devenv) -> list[Devenv]:
    """Return as many environments as the bench ever starts together."""
    return [side.sibling(f"bench-{number + 1}") for number in range(max(SIZES))]


def measure_scale(environments: Sequence[Devenv], rounds: int, engine: Engine, tell: Tell) -> list[Point]:
    """Start 1, 2, 4 and 8 environments at the same time, each from golden states on new volumes."""
    have_golden(environments[0])
    found: dict[int, list[tuple[float, Memory]]] = {size: [] for size in SIZES}
    for _ in range(rounds):
        for size in SIZES:
            some = environments[:size]
            seconds = up_together(some)
            memory = engine.memory(*(one.label for one in some))
            down_together(some)
            found[size].append((seconds, memory))
            tell(f"  {'devenv':<8} {f'{size} at once':<24} {seconds:6.2f} s, {memory.rss:.0f} MB")
    return [_point(size, samples) for size, samples in found.items()]


def _point(size: int, samples: Sequence[tuple[float, Memory]]) -> Point:
    shares = [memory.pss for _, memory in samples if memory.pss is not None]
    return Point(
        size,
        round(statistics.median(seconds for seconds, _ in samples), 2),
        round(statistics.median(memory.rss for _, memory in samples), 1),
        round(statistics.median(shares), 1) if len(shares) == len(samples) else None,
    )
