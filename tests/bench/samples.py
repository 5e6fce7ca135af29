"""Keep what was measured: every value by what it is and whose it is, and the operations of each run of devenv."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.bench.process import Done, Failed

Tell = Callable[[str], None]
# How long a run took in seconds, and its operations as devenv's JSON has them.
Profile = tuple[float, list[dict[str, Any]]]


@dataclass
class Samples:
    """Every measured value by (what, side); seconds, milliseconds or megabytes as the name says."""

    values: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    # Each run of devenv by what it was.
    profiles: dict[str, list[Profile]] = field(default_factory=lambda: defaultdict(list))

    def add(self, what: str, side: str, value: float) -> None:
        self.values[what, side].append(value)

    def median(self, what: str, side: str) -> float | None:
        found = self.values.get((what, side))
        return statistics.median(found) if found else None

    def typical(self, what: str) -> Profile | None:
        """Return the run whose duration is the median, or next to it."""
        runs = sorted(self.profiles.get(what, ()), key=lambda profile: profile[0])
        return runs[(len(runs) - 1) // 2] if runs else None

    def note(self, what: str, side: str, done: Done, tell: Tell) -> None:
        """Add how many seconds a command took, and its operations if it printed them."""
        self.add(what, side, done.seconds)
        self.add(cpu(what), side, done.cpu)
        tell(f"  {side:<8} {what:<24} {done.seconds:6.2f} s")
        if done.output.startswith("{"):
            self.profiles[what].append((done.seconds, operations(done)))


def cpu(what: str) -> str:
    """Return the name for the processor time of a measured thing: of the complete machine, in seconds."""
    return f"{what}: cpu"


def operations(done: Done) -> list[dict[str, Any]]:
    """Return the operations of a run of devenv. Raises Failed if it spent its time on building images."""
    found: list[dict[str, Any]] = json.loads(done.output).get("operations", [])
    if any("image" in operation["action"] for operation in found):
        raise Failed("cannot use this run: recipes of images changed while it went on; run the bench again")
    return found


def ran(profile: Sequence[dict[str, Any]], action: str) -> bool:
    """Return whether an operation of this kind was among them."""
    return any(operation["action"] == action for operation in profile)
