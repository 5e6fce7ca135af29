"""Make rows of samples, and compare them with their targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.bench.measure import (
    DOWN,
    DOWN_VOLUMES,
    ENGINE_DOWN,
    FIRST_UP,
    GOLDEN_UP,
    IMPORTS,
    KEPT_UP,
    MANY_COMPONENTS,
    ONE_COMPONENT,
    RESET,
    SECOND_UP,
    START,
    STATUS,
    STOP,
    alone,
    on,
)
from tests.bench.others import Task
from tests.bench.places import STEPS, Times
from tests.bench.readiness import READY
from tests.bench.samples import Samples, cpu
from tests.bench.sides import OTHER_DATABASES, SERVICES
from tests.bench.snapshots import ENGINE_COPY, RESTORE, SAVE
from tests.bench.suite import ALL, MEDIAN, SECONDS, WORST

US, THEM = "devenv", "compose"
SLOWEST, STOP_START, KNOWN = "up, golden, to slowest alone", "stop, then start", "from ready to known"
# What devenv does, what Compose does to compare with, and the largest part of Compose's time that devenv may take.
_BESIDE_COMPOSE: tuple[tuple[str, str, float | None], ...] = (
    (GOLDEN_UP, FIRST_UP, 0.28),
    (FIRST_UP, FIRST_UP, 0.45),
    (SECOND_UP, SECOND_UP, 0.35),
    (DOWN_VOLUMES, DOWN_VOLUMES, 0.3),
    (DOWN, STOP, 0.7),
    (STOP, STOP, 0.7),
    (START, START, None),
    (KEPT_UP, KEPT_UP, None),
)
# Targets against devenv's own golden `up`.
_SLOWEST, _STOP_START, _RESET = 1.3, 1.0, 1.0
_SAVE_S, _RESTORE_S, _KNOWN_MS = 3.0, 5.0, 100.0
_HELP_MS, _STATUS_MS, _MEMORY_MB, _IMAGES_MB = 120.0, 300.0, 450.0, 1100.0
_COMPONENT_MS, _MANY_COMPONENTS_S = 250.0, 15.0
# Targets for 500 tests in four processes.
_TEST_MEDIAN_MS, _TEST_WORST_MS = 20.0, 100.0
_OWN = "devenv"


@dataclass(frozen=True)
class Row:
    """One measured thing. `met` compares `value` (lower is better) with `target`, if it has one.

    If a peer was measured, `value` is a ratio with the unit "x": `ours` over `peer_value`, both in seconds (or in MB,
    for memory). Else it is `ours`. If the peer is devenv itself, `peer` says which step.
    """

    name: str
    value: float
    unit: str
    target: float | None
    ours: float
    peer: str | None = None
    peer_value: float | None = None

    @property
    def met(self) -> bool | None:
        return None if self.target is None else self.value <= self.target


@dataclass(frozen=True)
class Table:
    """The rows that the samples allow, and the names of rows with a target that they do not allow."""

    rows: Sequence[Row]
    unmeasured: Sequence[str] = ()


class _Maker:
    """Collects rows. `peer` names Compose and its version; it is empty without Compose."""

    def __init__(self, samples: Samples, peer: str) -> None:
        self._samples, self._peer = samples, peer
        self.rows: list[Row] = []
        self.unmeasured: list[str] = []

    def ours(self, what: str) -> float | None:
        return self._samples.median(what, US)

    def theirs(self, what: str) -> float | None:
        return self._samples.median(what, THEM)

    def against_compose(self, name: str, theirs: str, target: float | None, unit: str = "s") -> None:
        if self._peer:
            self.ratio(name, self.ours(name), self._peer, self.theirs(theirs), target)
        else:
            self.plain(name, self.ours(name), unit)
            self.unmeasured += [name] if target is not None else []

    def ratio(self, name: str, ours: float | None, peer: str, theirs: float | None, target: float | None) -> None:
        if ours is not None and theirs:
            row = Row(name, round(ours / theirs, 3), "x", target, round(ours, 3), peer, round(theirs, 3))
            self.rows.append(row)
        elif target is not None:
            self.unmeasured.append(name)

    def plain(self, name: str, value: float | None, unit: str, target: float | None = None) -> None:
        if value is not None:
            shown = round(value, 3 if unit == "s" else 1)
            self.rows.append(Row(name, shown, unit, target, shown))
        elif target is not None:
            self.unmeasured.append(name)


def make_table(samples: Samples, images_mb: float, peer: str) -> Table:
    """Return all rows with targets, and those beside them, in their order."""
    make = _Maker(samples, peer)
    golden = make.ours(GOLDEN_UP)
    own = f"{_OWN} {GOLDEN_UP}"
    for name, theirs, target in _BESIDE_COMPOSE:
        make.against_compose(name, theirs, target)
        if name == GOLDEN_UP:
            slowest, seconds = slowest_alone(samples)
            make.ratio(SLOWEST, golden, f"{_OWN} {alone(slowest)}", seconds, _SLOWEST)
            for database in OTHER_DATABASES:
                make.ratio(on(database), make.ours(on(database)), own, golden, None)
    stop, start = make.ours(STOP), make.ours(START)
    both = None if stop is None or start is None else stop + start
    make.ratio(STOP_START, both, own, golden, _STOP_START)
    make.ratio(RESET, make.ours(RESET), own, golden, _RESET)
    make.plain(SAVE, make.ours(SAVE), "s", _SAVE_S)
    make.plain(RESTORE, make.ours(RESTORE), "s", _RESTORE_S)
    make.plain(KNOWN, max(known(samples).values(), default=None), "ms", _KNOWN_MS)
    make.plain("devenv --help", make.ours("--help"), "ms", _HELP_MS)
    make.plain("devenv status", make.ours(STATUS), "ms", _STATUS_MS)
    make.plain(ONE_COMPONENT, make.ours(ONE_COMPONENT), "ms", _COMPONENT_MS)
    make.plain(MANY_COMPONENTS, make.ours(MANY_COMPONENTS), "s", _MANY_COMPONENTS_S)
    make.plain(MEDIAN, make.ours(MEDIAN), "ms", _TEST_MEDIAN_MS)
    make.plain(WORST, make.ours(WORST), "ms", _TEST_WORST_MS)
    make.plain(SECONDS, make.ours(SECONDS), "s")
    for what, unit in ((MEDIAN, "ms"), (WORST, "ms"), (SECONDS, "s")):
        make.plain(what + ALL, make.ours(what + ALL), unit)
    make.plain("memory, all services", make.ours("memory"), "MB", _MEMORY_MB)
    make.ratio("memory", make.ours("memory"), peer, make.theirs("memory") if peer else None, None)
    make.plain("images, all services", images_mb, "MB", _IMAGES_MB)
    return Table(make.rows, make.unmeasured)


def slowest_alone(samples: Samples) -> tuple[str, float | None]:
    """Return the service whose own golden start takes longest, and its seconds if all services were measured."""
    times = {service: samples.median(alone(service), US) for service in SERVICES}
    found = {service: seconds for service, seconds in times.items() if seconds is not None}
    slowest = max(found, key=lambda service: found[service], default="")
    return slowest, found[slowest] if len(found) == len(times) else None


def known(samples: Samples) -> dict[str, float]:
    """Return the median milliseconds from when each service was ready until devenv knew; empty if one is missing."""
    found = {service: samples.median(f"{READY}{service}", US) for service in SERVICES}
    return (
        {service: value for service, value in found.items() if value is not None} if None not in found.values() else {}
    )


@dataclass(frozen=True)
class Limits:
    """The times that bound devenv from below on a machine, in seconds; `status` and `imports` in ms.

    `golden_cpu` is the processor time of a golden `up`, for all programs; `golden_least` is that spread evenly over the
    cores. `slowest` is the service whose own golden `up` takes longest, `slowest_seconds` how long. The engine alone
    takes `engine_down` to remove an environment, and `engine_copy` to copy its data into images. Python takes `imports`
    to start and to import what a `status` imports.
    """

    cores: int
    golden: float
    golden_cpu: float
    slowest: str
    slowest_seconds: float
    slowest_cpu: float
    engine_down: float
    stop: float
    start: float
    status: float
    imports: float
    engine_copy: float

    @property
    def golden_least(self) -> float:
        return self.golden_cpu / self.cores


def limits(samples: Samples, cores: int) -> Limits | None:
    """Return the limits, if all that they are made of was measured."""
    slowest, seconds = slowest_alone(samples)
    golden, golden_cpu, slowest_cpu = (
        samples.median(what, US) for what in (GOLDEN_UP, cpu(GOLDEN_UP), cpu(alone(slowest)))
    )
    more = [samples.median(what, US) for what in (ENGINE_DOWN, STOP, START, STATUS, IMPORTS, ENGINE_COPY)]
    if seconds and golden and golden_cpu and slowest_cpu and all(more):
        return Limits(cores, golden, golden_cpu, slowest, seconds, slowest_cpu, *more)
    return None


def other_rows(samples: Samples, tasks: Sequence[Task]) -> list[Row]:
    """Return rows beside other tools, for information."""
    make = _Maker(samples, "")
    for verb in ("up", "down"):
        for task in tasks:
            what = f"{verb}: {task.what}"
            ours, theirs = samples.median(what, US), samples.median(what, task.peer)
            make.ratio(f"{verb}, {' and '.join(task.services)}", ours, task.title, theirs, None)
    return make.rows


def place_rows(places: Sequence[Times]) -> list[Row]:
    """Return rows for what each place takes, for information: beside the first place, if that was measured, too."""
    make = _Maker(Samples(), "")
    for step in STEPS:
        first = places[0].seconds.get(step) if places else None
        for one in places:
            name, seconds = f"{one.place}: {step}", one.seconds.get(step)
            if one is places[0] or first is None:
                make.plain(name, seconds, "s")
            else:
                make.ratio(name, seconds, f"{_OWN} {step}, {places[0].place}", first, None)
    return make.rows
