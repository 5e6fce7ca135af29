"""The rounds: the same steps on each side in turn, every duration kept."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.bench.engine import Engine
from tests.bench.process import Done, Failed
from tests.bench.sides import Devenv, Side

HELP_RUNS, STATUS_RUNS = 20, 5
COMPONENT_RUNS, MANY = 5, 100
ONE_COMPONENT, MANY_COMPONENTS = "component, all four roles", f"{MANY} components"
FIRST_UP, SECOND_UP, DOWN_VOLUMES = "up, no data", "up again", "down --volumes"
# In the order in which a round runs them.
STEPS: dict[str, Callable[[Side], Any]] = {
    FIRST_UP: lambda side: side.up(),
    SECOND_UP: lambda side: side.up(),
    "stop": lambda side: side.stop(),
    "up, stopped": lambda side: side.up(),
    "down": lambda side: side.down(),
    "up, data kept": lambda side: side.up(),
    DOWN_VOLUMES: lambda side: side.down(volumes=True),
}
Tell = Callable[[str], None]


@dataclass
class Samples:
    """Every measured value by (what, side); seconds, milliseconds or megabytes as the name says."""

    values: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    # Each first start of devenv: its seconds and its operations.
    starts: list[tuple[float, list[dict[str, Any]]]] = field(default_factory=list)

    def add(self, what: str, side: str, value: float) -> None:
        self.values[what, side].append(value)

    def median(self, what: str, side: str) -> float | None:
        found = self.values.get((what, side))
        return statistics.median(found) if found else None

    def typical_start(self) -> tuple[float, list[dict[str, Any]]]:
        """The first start whose duration is the median, or next to it."""
        return sorted(self.starts, key=lambda start: start[0])[(len(self.starts) - 1) // 2]


def measure(sides: Sequence[Side], rounds: int, engine: Engine, tell: Tell) -> Samples:
    """Run all rounds. Who goes first changes from round to round."""
    samples = Samples()
    for number in range(rounds):
        tell(f"round {number + 1} of {rounds}")
        for side in sides if number % 2 == 0 else reversed(sides):
            _one_round(side, samples, engine, tell)
    return samples


def _one_round(side: Side, samples: Samples, engine: Engine, tell: Tell) -> None:
    for what, step in STEPS.items():
        done = step(side)
        samples.add(what, side.name, done.seconds)
        tell(f"  {side.name:<8} {what:<16} {done.seconds:6.2f} s")
        if what == FIRST_UP and isinstance(side, Devenv):
            samples.starts.append((done.seconds, _operations(done.output)))
        if what == SECOND_UP:
            _look(side, samples, engine, tell)


def _operations(output: str) -> list[dict[str, Any]]:
    """The operations of a start, which must not have spent its time on building images."""
    operations: list[dict[str, Any]] = json.loads(output)["operations"]
    if any("image" in operation["action"] for operation in operations):
        raise Failed("cannot use this run: recipes of images changed while it went on; run the bench again")
    return operations


def _look(side: Side, samples: Samples, engine: Engine, tell: Tell) -> None:
    """What can be measured while everything runs."""
    megabytes = engine.memory(side.label)
    samples.add("memory", side.name, megabytes)
    tell(f"  {side.name:<8} {'memory':<16} {megabytes:6.0f} MB")
    if isinstance(side, Devenv):
        for _ in range(STATUS_RUNS):
            samples.add("status", side.name, side.status().seconds * 1000)


def measure_components(side: Devenv, samples: Samples, tell: Tell) -> None:
    """How long services that run take to give components their parts, all four roles together."""
    side.components([])
    for number in range(COMPONENT_RUNS):
        # One more each time: a drop beside it would be measured, too.
        done = side.components([f"one{i}" for i in range(number + 1)])
        samples.add(ONE_COMPONENT, side.name, _provisioning(done) * 1000)
    tell(f"  {side.name:<8} {'component':<16} {samples.median(ONE_COMPONENT, side.name):6.0f} ms")
    side.components([])
    samples.add(MANY_COMPONENTS, side.name, _provisioning(side.components([f"c{i}" for i in range(MANY)])))
    tell(f"  {side.name:<8} {MANY_COMPONENTS:<16} {samples.median(MANY_COMPONENTS, side.name):6.2f} s")
    side.down(volumes=True)


def _provisioning(done: Done) -> float:
    """From the first begin to the last end, in seconds, less the time in which there was nothing to do but wait."""
    spans = [(op["began"], op["ended"]) for op in _operations(done.output) if op["action"] == "provision"]
    total, reached = 0.0, 0.0
    for began, ended in sorted(spans):
        total += max(0.0, ended - max(began, reached))
        reached = max(reached, ended)
    return total


def measure_help(side: Devenv, samples: Samples, tell: Tell) -> None:
    """`devenv --help` without anything else going on; the first run only warms the disk's cache."""
    side.help()
    for _ in range(HELP_RUNS):
        samples.add("--help", side.name, side.help().seconds * 1000)
    tell(f"  {side.name:<8} {'--help':<16} {samples.median('--help', side.name):6.0f} ms")
