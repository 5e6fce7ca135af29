"""Note what an `up` did and when, find what was critical, and hand it to other programs.

A run is one row of devenv's own phases. The operations of its plan, many at the same time, stand between two phases.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from devenv import __version__
from devenv.model import Action, Operation, Plan, Report
from devenv.names import Names

WAITING, OTHER, CRITICAL = "waiting", "other", "critical"
# In place of a phase's name, for the time when the operations ran.
_OPERATIONS = ""
# The target of an operation that acts on no service.
_WITHOUT_SERVICE: Mapping[Action, str] = {
    "create network": "network",
    "remove network": "network",
    "build image": "base",
}
# If one service has more components' parts than this, they share one line.
_MOST_COMPONENTS = 6
# A phase of 0.00 s tells nothing.
_SHOWN_SECONDS = 0.005
# Waiting for less than this is not worth a word.
_TOLD_SECONDS = 0.05
# No `up` takes years.
_LONGEST = 1e8


@dataclass(frozen=True)
class Span:
    """A phase or an operation: when it began and ended, in seconds since the run began."""

    key: str
    began: float
    ended: float

    @property
    def seconds(self) -> float:
        return self.ended - self.began


@dataclass(frozen=True)
class Step(Span):
    """An operation of the plan: why, after which others (by key), for which service, and whether it failed."""

    cause: str = ""
    after: tuple[str, ...] = ()
    service: str = ""
    failed: bool = False


@dataclass(frozen=True)
class Run:
    """One `up` of an environment (its id). `began` is the time of day as ISO 8601 in UTC.

    `seconds` is the total, for `devenv up` since the start of the process. `phases` are devenv's own, in their order;
    `operations` are those that ran, in the order in which they began.
    """

    environment: str
    began: str
    version: str
    seconds: float
    phases: tuple[Span, ...]
    operations: tuple[Step, ...]

    def name(self, span: Span) -> str:
        """Return the key without the prefix that all names of the environment share."""
        prefix = f" {Names(self.environment).network}"
        return span.key.replace(f"{prefix}-", " ").replace(prefix, "")


@dataclass(frozen=True)
class Link:
    """A piece of the critical chain, and the seconds before it in which it only waited for a free place."""

    span: Span
    waited: float


@dataclass(frozen=True)
class Row:
    """One line of a chart: a phase, an operation, or operations for many components.

    `pieces` are WAITING, OTHER or CRITICAL, each with its two ends, to draw in this order.
    """

    name: str
    seconds: float
    pieces: tuple[tuple[str, float, float], ...]


# ---- noting it ---------------------------------------------------------------------------------------------------


def process_began() -> float:
    """Return when this process began, by time.monotonic(); a little late where the system does not tell."""
    age = time.process_time()
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age = max(age, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, AttributeError, ValueError, IndexError):
        pass
    return time.monotonic() - age


class Watch(Report):
    """A report that notes when things happen and passes them on.

    `began` is when the program that asked for the run began, by time.monotonic(): until now it was starting.
    """

    def __init__(self, environment: str, report: Report, began: float | None = None) -> None:
        self._environment, self._report = environment, report
        now = time.monotonic()
        self._zero = now if began is None else began
        self._day = datetime.now(UTC) - timedelta(seconds=now - self._zero)
        self._marks = [] if began is None else [("start devenv", 0.0)]
        self._began: dict[str, float] = {}
        self._steps: list[Step] = []
        self.phase("read files")

    def phase(self, name: str) -> None:
        """Begin a phase, which lasts until the next phase or operation."""
        self._marks.append((name, self._now()))

    def run(self) -> Run | None:
        """Return what was done until now; None if no plan has begun."""
        names = [name for name, _ in self._marks]
        if _OPERATIONS not in names:
            return None
        now = self._now()
        last = len(names) - 1 - names[::-1].index(_OPERATIONS)
        ends = [*(began for _, began in self._marks[1:]), now]
        spans = [
            Span(name or "an earlier attempt", began, ended)
            for (name, began), ended in zip(self._marks, ends, strict=True)
        ]
        steps = sorted(self._steps, key=lambda step: (step.began, step.ended))
        return Run(
            self._environment,
            self._day.isoformat(timespec="milliseconds"),
            __version__,
            now,
            (*spans[:last], *spans[last + 1 :]),
            tuple(steps),
        )

    def _now(self) -> float:
        return round(time.monotonic() - self._zero, 6)

    def _done(self, operation: Operation, failed: bool) -> None:
        service = operation.service or _WITHOUT_SERVICE.get(operation.action, "")
        began = self._began[operation.key]
        step = Step(operation.key, began, self._now(), operation.cause, operation.after, service, failed)
        self._steps.append(step)

    # ---- as a report ---------------------------------------------------------------------------------------------

    def begin(self, plan: Plan) -> None:
        self.phase(_OPERATIONS)
        self._steps = []
        self._report.begin(plan)

    def started(self, operation: Operation) -> None:
        self._began[operation.key] = self._now()
        self._report.started(operation)

    def progress(self, operation: Operation, text: str) -> None:
        self._report.progress(operation, text)

    def finished(self, operation: Operation, seconds: float) -> None:
        self._done(operation, failed=False)
        self._report.finished(operation, seconds)

    def failed(self, operation: Operation, seconds: float, reason: str) -> None:
        self._done(operation, failed=True)
        self._report.failed(operation, seconds, reason)

    def note(self, text: str) -> None:
        self._report.note(text)

    def end(self) -> None:
        self.phase("write files")
        self._report.end()


def understood(data: Mapping[str, Any]) -> Run | None:
    """Return the run of which `dataclasses.asdict` made this data; None for any other data."""
    try:
        phases = tuple(Span(**phase) for phase in data["phases"])
        steps = tuple(Step(**{**step, "after": tuple(map(str, step["after"]))}) for step in data["operations"])
        run = Run(**{**data, "phases": phases, "operations": steps})
        datetime.fromisoformat(run.began)
        times = all(0 <= span.began <= span.ended <= run.seconds < _LONGEST for span in (*phases, *steps))
        words = [span.key for span in phases] + [word for step in steps for word in (step.key, step.service)]
    except (KeyError, TypeError, ValueError):
        return None
    return run if times and all(isinstance(word, str) for word in words) else None


# ---- what was critical -------------------------------------------------------------------------------------------


def critical(run: Run) -> tuple[Link, ...]:
    """Return the chain that made the run as long as it was: phases, operations, phases. It adds up to the total.

    The last operation is the one that ended last. Before each stands the last to end of those that it waited for.
    """
    chain: list[Span] = []
    earlier = before(run)
    step = max(run.operations, key=_end, default=None)
    while step and step not in chain:
        chain.append(step)
        step = max(earlier[step.key], key=_end, default=None)
    begins = _begin_of_operations(run)
    ahead = [phase for phase in run.phases if phase.ended <= begins]
    spans = [*ahead, *reversed(chain), *run.phases[len(ahead) :]]
    ends = [0.0, *(span.ended for span in spans)]
    return tuple(Link(span, span.began - end) for span, end in zip(spans, ends, strict=False))


def waits(run: Run) -> dict[str, float]:
    """Return for how many seconds each operation (by key) was ready to run and waited for a free place."""
    begins, earlier = _begin_of_operations(run), before(run)
    ends = {key: max(map(_end, steps), default=begins) for key, steps in earlier.items()}
    return {step.key: max(0.0, step.began - ends[step.key]) for step in run.operations}


def before(run: Run) -> dict[str, list[Step]]:
    """Return the operations that each one (by key) waited for."""
    steps = {step.key: step for step in run.operations}
    return {step.key: [steps[key] for key in step.after if key in steps] for step in run.operations}


def _begin_of_operations(run: Run) -> float:
    first = min((step.began for step in run.operations), default=run.seconds)
    return max((phase.ended for phase in run.phases if phase.ended <= first), default=0.0)


def _end(span: Span) -> float:
    return span.ended


def in_words(run: Run) -> str:
    """Return the critical chain, its share of the total, and its longest piece, in one line."""
    links = critical(run)
    chain = [link for link in links if isinstance(link.span, Step)]
    pieces = [(run.name(link.span), link.span.seconds) for link in links]
    pieces += [(f"waiting before {run.name(link.span)}", link.waited) for link in links]
    longest, seconds = max(pieces, key=lambda piece: piece[1], default=("nothing", 0.0))
    waited = sum(link.waited for link in chain)
    took = waited + sum(link.span.seconds for link in chain)
    names = " -> ".join(run.name(link.span) for link in chain) or "nothing but devenv itself"
    digits = 1 if run.seconds >= 1 else 2
    waiting = f" ({waited:.{digits}f} s of them waiting for a free place)" if waited >= _TOLD_SECONDS else ""
    whole = f"{took:.{digits}f} of {run.seconds:.{digits}f} s{waiting}"
    return f"critical: {names}, {whole}; most of it: {longest} {seconds:.{digits}f} s"


def rows(run: Run) -> list[Row]:
    """Return the rows of a chart, in the order in which they began; many components of one service are one row."""
    chain, waited = {link.span for link in critical(run)}, waits(run)
    parts = Counter(group for step in run.operations if (group := _group(step)))
    found: dict[str, list[Span]] = {}
    for span in sorted([*run.phases, *run.operations], key=lambda span: span.began):
        group = _group(span)
        if parts[group] > _MOST_COMPONENTS:
            found.setdefault(f"{group} ({parts[group]})", []).append(span)
        elif isinstance(span, Step) or span.seconds >= _SHOWN_SECONDS:
            found.setdefault(run.name(span), []).append(span)
    return [_row(name, spans, chain, waited) for name, spans in found.items()]


def _row(name: str, spans: Sequence[Span], chain: Container[Span], waited: Mapping[str, float]) -> Row:
    pieces = [(WAITING, span.began - waited.get(span.key, 0.0), span.began) for span in spans]
    pieces += [(OTHER, span.began, span.ended) for span in spans if span not in chain]
    pieces += [(CRITICAL, span.began, span.ended) for span in spans if span in chain]
    failed = ", failed" if any(isinstance(span, Step) and span.failed for span in spans) else ""
    return Row(f"{name}{failed}", max(map(_end, spans)) - spans[0].began, tuple(pieces))


def _group(span: Span) -> str:
    """Return what components' parts of one service have in common: "provision mysql"; empty for all else."""
    group, slash, _ = span.key.partition("/")
    return group if slash else ""


# ---- for other programs ------------------------------------------------------------------------------------------


def as_data(run: Run) -> dict[str, Any]:
    """Return the run for JSON, with what was critical and how long each part waited; in seconds since the run began.

    The times and waits of the critical phases and operations add up to the total.
    """
    links = {link.span.key: link.waited for link in critical(run)}
    waited, data = {**links, **waits(run)}, asdict(run)
    for span in (*data["phases"], *data["operations"]):
        span["waited"] = round(waited.get(span["key"], 0.0), 6)
    for step in data["operations"]:
        step["critical"] = step["key"] in links
    return {**data, "critical": [*links]}
