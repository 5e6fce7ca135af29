"""Print tables, the summary of `up`, and the chart of its step times."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from devenv.cli.progress import COMPONENT_ACTIONS
from devenv.lifecycle.timing import CRITICAL, OTHER, WAITING, Row, Run, in_words, rows
from devenv.model import Result, Timing
from devenv.services.readiness import ServiceStatus

if TYPE_CHECKING:
    from devenv.lifecycle.environment import Environment

_STATE_COLOURS = {
    "ready": "green",
    "attached": "green",
    "starting": "yellow",
    "stopped": "bright_black",
    "failed": "red",
}
_CHECK_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}
_BAR = 24
_UNBROKEN: dict[str, Any] = {"subsequent_indent": "  ", "break_long_words": False, "break_on_hyphens": False}
_WIDE = 78
# The smallest width of a folded column.
_NARROWEST = 12


def status_table(statuses: Mapping[str, ServiceStatus]) -> str:
    """Return a table of services with their states, endpoints and reasons."""
    rows = []
    for name, status in statuses.items():
        present = status.state != "absent"
        where = [f"{e['host']}:{e['port']}" for e in status.endpoints.values()] if present else []
        # Somebody else runs an attached service: what matters is whether devenv can use it.
        attached = status.attached and status.state == "ready"
        rows.append((name, "attached" if attached else status.state, " ".join(where), status.reason))
    return rows_table(("SERVICE", "STATE", "ENDPOINT", "REASON"), rows, _STATE_COLOURS)


def check_table(checks: Iterable[Any]) -> Any:
    """Return the checks of the doctor as a table, each with what to do below it."""
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
    """Return a table that is at most as wide as the terminal: the widest column is folded.

    `colours` maps words of cells to their colours on a terminal. Without rich: loading it takes longer than everything
    else that a short command does.
    """
    cells = [tuple(headings), *map(tuple, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    excess = sum(widths) + 2 * (len(widths) - 1) - terminal_width()
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
    """Print where each service answers, how long it took, and which files tell programs the same."""
    spans = service_spans(result.timings)
    total = max((ended for _, ended in spans.values()), default=0.0)
    # Without changes the bars would compare nothing, and a narrow terminal has no room for them.
    wide = bool(result.plan.changes) and terminal_width() >= _WIDE
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
        click.echo(textwrap.fill(names, terminal_width(), initial_indent=f"wrote to {folder}: ", **_UNBROKEN))
    else:
        click.echo(f"{folder} is up to date")
    if result.components:
        first = os.path.relpath(folder / f"{result.components[0]}.conf")
        names = f"{', '.join(result.components)} (--config-file {first} …)"
        click.echo(textwrap.fill(names, terminal_width(), initial_indent="components: ", **_UNBROKEN))
    for path in result.written:
        if not path.is_relative_to(folder):
            click.echo(f"merged into {path}")
    for path in result.restored:
        click.echo(f"restored {path}")
    done = "up" if result.plan.changes or result.written or result.restored else "nothing to do, all ready"
    click.echo(f"{done} in {seconds:.1f} s")


def terminal_width() -> int:
    """Return how many characters fit on a line."""
    return shutil.get_terminal_size().columns


def service_spans(timings: Sequence[Timing]) -> dict[str, tuple[float, float]]:
    """Return when each service began to start and was ready, in seconds since the plan began."""
    spans: dict[str, tuple[float, float]] = {}
    for timing in timings:
        name = timing.operation.service
        if timing.operation.action not in ("create network", "prepare", "keep", *COMPONENT_ACTIONS):
            began, ended = spans.get(name, (timing.began, timing.ended))
            spans[name] = (min(began, timing.began), max(ended, timing.ended))
    return spans


def bar(began: float, ended: float, total: float) -> str:
    """Return a bar that shows a span of time as part of the total, `_BAR` characters wide."""
    if total <= 0 or ended <= began:
        return ""
    left = int(_BAR * began / total)
    return " " * left + "█" * max(1, round(_BAR * ended / total) - left)


# ---- step times -----------------------------------------------------------------------------------------------

# Marks differ in colour and in character, for terminals without colours. None is red, which means failure.
_MARKS = {CRITICAL: "█", OTHER: "░", WAITING: "·"}
_MARK_COLOURS = {"█": "yellow", "░": "cyan"}
_WIDEST, _LONGEST_NAME = 120, 30
_BETWEEN_MARKS = 6


def timing_chart(run: Run) -> str:
    """Return a chart with a bar for each operation on one axis of time, and the critical path in words."""
    shown, width = rows(run), min(terminal_width(), _WIDEST)
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
    """Return marks at round numbers of seconds, as many as fit."""
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
            # Draw every operation, however short it was.
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
