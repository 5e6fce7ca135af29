"""What people see: live progress on a terminal, plain lines elsewhere, tables and the summary."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import IO, TYPE_CHECKING, Any

import click

from devenv.lifecycle.environment import Environment
from devenv.lifecycle.timing import CRITICAL, OTHER, WAITING, Row, Run, in_words, rows
from devenv.model import Operation, Plan, Report, Result, Timing
from devenv.services.readiness import ServiceStatus

if TYPE_CHECKING:
    from rich.console import Console

_STATE_COLOURS = {"ready": "green", "starting": "yellow", "stopped": "bright_black", "failed": "red"}
_CHECK_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}
# One colour per service in merged logs, none of them red, which means failure here.
LOG_COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "bright_cyan", "bright_green", "bright_magenta")
_BAR = 24
_UNBROKEN: dict[str, Any] = {"subsequent_indent": "  ", "break_long_words": False, "break_on_hyphens": False}
_COMPONENT_ACTIONS = ("provision", "drop")
# More than these share one line of the live display, which has to fit the screen.
_MOST_COMPONENTS = 6
_WIDE = 78
# The least that a folded column keeps.
_NARROWEST = 12
# A step of a build may be a page of shell; its beginning names it.
_STEP_WIDTH = 60


def console(stream: IO[str] | None = None) -> Console:
    """A console that knows whether its stream is a terminal, how wide, and whether NO_COLOR is set."""
    from rich.console import Console

    chosen = stream or sys.stdout
    # Tables fit 80 columns wherever nobody says how wide the other end is.
    width = None if chosen.isatty() or os.environ.get("COLUMNS") else 80
    return Console(file=chosen, width=width, highlight=False, markup=False, emoji=False, soft_wrap=not chosen.isatty())


def wants_live(stream: IO[str]) -> bool:
    """Live progress is for a person at a terminal, not for CI, which keeps every frame."""
    return stream.isatty() and not os.environ.get("CI") and os.environ.get("TERM") != "dumb"


class Plain(Report):
    """One line per operation that changes something or fails, and per service that is ready."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._told: dict[str, str] = {}
        self._services: set[str] = set()
        self._left: Counter[tuple[str, str]] = Counter()

    def _line(self, text: str) -> None:
        with self._lock:
            print(text, file=self._stream, flush=True)

    def started(self, operation: Operation) -> None:
        # These take minutes: silence would look like a hang.
        if operation.action in ("build image", "pull image", "fetch wheels"):
            self._line(f"  {operation.key} ({operation.cause}) …")

    def progress(self, operation: Operation, text: str) -> None:
        # Steps of a build are worth a line each; a service that is not ready yet says so at every look.
        if text[:5].lower() == "step " and self._told.get(operation.key) != text:
            self._told[operation.key] = text
            self._line(f"  {operation.key}: {text[:_STEP_WIDTH]}")

    def begin(self, plan: Plan) -> None:
        self._services = {op.target for op in plan.operations if op.action == "ready"}
        parts = [op for op in plan.operations if op.action in _COMPONENT_ACTIONS]
        self._left = Counter((op.action, _subject(op)) for op in parts)

    def finished(self, operation: Operation, seconds: float) -> None:
        cause = f" ({operation.cause})" if operation.cause else ""
        what, key = operation.key, (operation.action, _subject(operation))
        if operation.action in _COMPONENT_ACTIONS and key[1] not in self._services:
            # One line per component, not one per service that it has a part of.
            with self._lock:
                self._left[key] -= 1
                if self._left[key]:
                    return
            what = " ".join(key)
        self._line(f"  {what}{cause}: {seconds:.1f} s")

    def failed(self, operation: Operation, seconds: float, reason: str) -> None:
        self._line(f"  {operation.key} FAILED after {seconds:.1f} s: {reason}")

    def note(self, text: str) -> None:
        self._line(text)


class Live(Report):
    """A line per service that changes in place: what is done with it, for how long, and what it waits for."""

    def __init__(self, stream: IO[str]) -> None:
        from rich.live import Live as RichLive

        self._lock = threading.Lock()
        self._rows: dict[str, _Row] = {}
        self._left: Counter[str] = Counter()
        self._all: Counter[str] = Counter()
        self._services: frozenset[str] = frozenset()
        self._together = False
        self._live = RichLive(console=console(stream), get_renderable=self._lines, refresh_per_second=10)

    def begin(self, plan: Plan) -> None:
        self._services = frozenset(op.target for op in plan.operations if op.action == "ready")
        components = {_subject(op) for op in plan.operations if op.action in _COMPONENT_ACTIONS} - self._services
        self._together = len(components) > _MOST_COMPONENTS
        self._all = Counter(self._row_of(op) for op in plan.operations)
        self._left = Counter(self._all)
        self._live.start()

    def end(self) -> None:
        self._live.stop()

    def started(self, operation: Operation) -> None:
        with self._lock:
            row = self._rows.setdefault(self._row_of(operation), _Row())
            row.running[operation.key] = _words(operation)

    def progress(self, operation: Operation, text: str) -> None:
        if text:
            with self._lock:
                self._rows[self._row_of(operation)].running[operation.key] = f"{_words(operation)}: {text}"

    def finished(self, operation: Operation, seconds: float) -> None:
        with self._lock:
            self._left[self._row_of(operation)] -= 1
        done = operation.action in _COMPONENT_ACTIONS and self._row_of(operation) not in self._services
        self._settle(operation, "done" if done else _words(operation))

    def failed(self, operation: Operation, seconds: float, reason: str) -> None:
        self._settle(operation, reason, failed=True)

    def note(self, text: str) -> None:
        self._live.console.print(text)

    def _waiting(self, name: str) -> str:
        done = self._all[name] - self._left[name]
        return "waiting for what it needs" if name in self._services else f"{done} of {self._all[name]} done"

    def _row_of(self, operation: Operation) -> str:
        subject = _subject(operation)
        one_of_many = self._together and operation.action in _COMPONENT_ACTIONS and subject not in self._services
        return "components" if one_of_many else subject

    def _settle(self, operation: Operation, words: str, failed: bool = False) -> None:
        with self._lock:
            row = self._rows[self._row_of(operation)]
            row.running.pop(operation.key, None)
            row.ended = time.monotonic()
            row.failed = row.failed or failed
            row.words = words if failed or not row.failed else row.words

    def _lines(self) -> Any:
        from rich.text import Text

        lines = Text(no_wrap=True, overflow="ellipsis")
        with self._lock:
            width = max((len(name) for name in self._rows), default=0)
            for number, (name, row) in enumerate(self._rows.items()):
                going = row.running or (self._left[name] > 0 and not row.failed)
                mark, style = ("✗", "bold red") if row.failed else ("…", "yellow") if going else ("✓", "green")
                seconds = (time.monotonic() if going else row.ended) - row.began
                waiting = self._waiting(name) if going else row.words
                lines.append("\n" if number else "")
                lines.append(f"{mark} ", style)
                lines.append(f"{name:<{width}} {seconds:6.1f} s  ")
                lines.append(next(reversed(row.running.values()), waiting), "dim")
        return lines


@dataclass
class _Row:
    """What happens to one service: the words of what runs by operation, else of what ended last."""

    began: float = field(default_factory=time.monotonic)
    ended: float = 0.0
    running: dict[str, str] = field(default_factory=dict)
    words: str = ""
    failed: bool = False


def _subject(operation: Operation) -> str:
    """Whose line shows the operation: a service's, a component's, or that of the network, a volume or the base."""
    if operation.action in ("create network", "remove network"):
        return "network"
    if operation.action in _COMPONENT_ACTIONS:
        return operation.target.rpartition("/")[2]
    return operation.service or operation.target


def _words(operation: Operation) -> str:
    cause = f" ({operation.cause})" if operation.cause else ""
    if operation.action in _COMPONENT_ACTIONS:
        return f"{operation.action} {operation.target.partition('/')[0]}{cause}"
    return f"{operation.action}{cause}"


def reporter(stream: IO[str], plain: bool = False) -> Report:
    """The report that suits the stream; a `plain` one where others write to it, too."""
    return Live(stream) if wants_live(stream) and not plain else Plain(stream)


# ---- tables --------------------------------------------------------------------------------------------------


def status_table(statuses: Mapping[str, ServiceStatus]) -> str:
    """Service, state, endpoint and reason."""
    rows = []
    for name, status in statuses.items():
        present = status.state != "absent"
        where = [f"{e['host']}:{e['port']}" for e in status.endpoints.values()] if present else []
        rows.append((name, status.state, " ".join(where), status.reason))
    return rows_table(("SERVICE", "STATE", "ENDPOINT", "REASON"), rows, _STATE_COLOURS)


def check_table(checks: Iterable[Any]) -> Any:
    """The doctor's findings, each with what to do below it."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        text = Text(check.detail)
        if check.hint:
            text.append(f"\n-> {check.hint}", "dim")
        table.add_row(Text(check.status, _CHECK_STYLES[check.status]), check.name, text)
    return table


def rows_table(headings: Sequence[str], rows: Iterable[Sequence[str]], colours: Mapping[str, str] | None = None) -> str:
    """A table as wide as the terminal at most: the widest column gives way and is folded.

    `colours` are those of cells with these words, for a terminal. By hand, since loading rich takes longer than all
    else that a short command does.
    """
    cells = [tuple(headings), *map(tuple, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    excess = sum(widths) + 2 * (len(widths) - 1) - _width()
    if excess > 0:
        widest = widths.index(max(widths))
        widths[widest] = max(_NARROWEST, widths[widest] - excess)
    lines = []
    for row in cells:
        folded = [textwrap.wrap(c, w) if len(c) > w else [c] for c, w in zip(row, widths, strict=True)]
        for line in itertools.zip_longest(*folded, fillvalue=""):
            padded = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
            if _coloured():
                padded = [click.style(p, fg=(colours or {}).get(p.strip())) for p in padded]
            lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def _coloured() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


# ---- after `up` ------------------------------------------------------------------------------------------------


def summary(environment: Environment, result: Result, seconds: float) -> None:
    """What answers where, how long each took, and which files tell it to programs."""
    spans = service_spans(result.timings)
    total = max((ended for _, ended in spans.values()), default=0.0)
    # Where nothing was done there is nothing to compare, and a narrow terminal has no room for it.
    wide = bool(result.plan.changes) and _width() >= _WIDE
    rows = []
    for name, service in result.services.items():
        where = " ".join(f"{endpoint.host}:{endpoint.port}" for endpoint in service.endpoints.values())
        began, ended = spans.get(name, (0.0, 0.0))
        rows.append((name, where, f"{ended:.1f} s", bar(began, ended, total) if wide else ""))
    click.echo(rows_table(("SERVICE", "ENDPOINT", "READY", ""), rows))
    folder = environment.folder
    inside = sorted(str(path.relative_to(folder)) for path in result.written if path.is_relative_to(folder))
    own = [name for name in inside if name.partition(".")[0] not in result.components]
    if inside:
        names = ", ".join([*own, *(["the components' files"] if own != inside else [])])
        click.echo(textwrap.fill(names, _width(), initial_indent=f"wrote to {folder}: ", **_UNBROKEN))
    else:
        click.echo(f"{folder} is up to date")
    if result.components:
        first = os.path.relpath(folder / f"{result.components[0]}.conf")
        names = f"{', '.join(result.components)} (--config-file {first} …)"
        click.echo(textwrap.fill(names, _width(), initial_indent="components: ", **_UNBROKEN))
    for path in result.written:
        if not path.is_relative_to(folder):
            click.echo(f"merged into {path}")
    for path in result.restored:
        click.echo(f"restored {path}")
    done = "up" if result.plan.changes or result.written or result.restored else "nothing to do, all ready"
    click.echo(f"{done} in {seconds:.1f} s")


def _width() -> int:
    return shutil.get_terminal_size().columns


def service_spans(timings: Sequence[Timing]) -> dict[str, tuple[float, float]]:
    """From when to when each service was brought up, in seconds since the plan began."""
    spans: dict[str, tuple[float, float]] = {}
    for timing in timings:
        name = timing.operation.target
        if timing.operation.action not in ("create network", "prepare", "keep", *_COMPONENT_ACTIONS):
            began, ended = spans.get(name, (timing.began, timing.ended))
            spans[name] = (min(began, timing.began), max(ended, timing.ended))
    return spans


def bar(began: float, ended: float, total: float) -> str:
    """A span of time as part of the whole, `_BAR` characters wide."""
    if total <= 0 or ended <= began:
        return ""
    left = int(_BAR * began / total)
    return " " * left + "█" * max(1, round(_BAR * ended / total) - left)


# ---- what took how long ------------------------------------------------------------------------------------------

# By colour and by character, so that it can be told on any terminal. None is red, which means failure.
_MARKS = {CRITICAL: "█", OTHER: "░", WAITING: "·"}
_MARK_COLOURS = {"█": "yellow", "░": "cyan"}
_WIDEST, _LONGEST_NAME = 120, 30
_BETWEEN_MARKS = 6


def timing_chart(run: Run) -> str:
    """A line per operation with its bar on one axis of time, what was critical, and the same in words."""
    shown, width = rows(run), min(_width(), _WIDEST)
    names = min(max(len(text) for text in ("OPERATION", *(row.name for row in shown))), _LONGEST_NAME)
    room, seconds = max(_NARROWEST, width - names - len("  123456.78  ")), max(run.seconds, 0.001)
    day = datetime.fromisoformat(run.began).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    told = [f"last up, {day}: {_MARKS[CRITICAL]} critical, {_MARKS[OTHER]} at the same time, {_MARKS[WAITING]} waiting"]
    lines = [f"{'OPERATION':<{names}}    SECONDS  {_axis(seconds, room)}"]
    for row in shown:
        name = row.name if len(row.name) <= names else f"{row.name[: names - 1]}…"
        lines.append(f"{name:<{names}}  {row.seconds:9.2f}  {_bars(row, room, room / seconds)}")
    words = textwrap.fill(in_words(run), width, subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join(["", *told, *lines, words])


def _axis(seconds: float, room: int) -> str:
    """Marks at round numbers of seconds, as many as there is room for."""
    least = seconds * _BETWEEN_MARKS / room
    step = next(n * 10**power for power in range(-4, 9) for n in (1, 2, 5) if n * 10**power >= least)
    line = ""
    for number in range(int(seconds / step) + 1):
        longer = line.ljust(round(room * number * step / seconds)) + f"|{number * step:g}"
        line = longer if len(longer) <= room else line
    return line


def _bars(row: Row, room: int, per_second: float) -> str:
    cells = [" "] * room
    for kind, began, ended in row.pieces:
        left, right = round(began * per_second), round(ended * per_second)
        if kind != WAITING:
            # What was done is seen, however short it was.
            left = min(left, room - 1)
            right = max(right, left + 1)
        elif (ended - began) * per_second < 1:
            continue
        cells[left:right] = _MARKS[kind] * (right - left)
    bars = "".join(cells).rstrip()
    if not _coloured():
        return bars
    runs = ((mark, "".join(same)) for mark, same in itertools.groupby(bars))
    return "".join(click.style(same, fg=_MARK_COLOURS.get(mark)) for mark, same in runs)
