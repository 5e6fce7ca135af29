"""Draw bars of text, for the page and for the terminal; at most 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.bench.measure import DOWN, DOWN_VOLUMES, FIRST_UP, GOLDEN_UP, KEPT_UP, SECOND_UP, START, STOP
from tests.bench.places import TESTS, Times
from tests.bench.rows import Row

_STEPS = (GOLDEN_UP, FIRST_UP, SECOND_UP, KEPT_UP, START, STOP, DOWN, DOWN_VOLUMES)
_LONG = (FIRST_UP, TESTS)
_WIDE, _BESIDE, _NARROW, _NAME = 46, 42, 34, 26


def timings_chart(rows: Sequence[Row]) -> list[str]:
    """Return two bars per step, devenv above its peer; one scale for all."""
    timed = [row for row in rows if row.name in _STEPS]
    longest = max((max(row.ours, row.peer_value or 0) for row in timed), default=1.0)
    lines = []
    for row in timed:
        lines.append(f"{row.name:<15} devenv  {_bar(row.ours, longest)} {row.ours:.2f} s")
        if row.peer_value is not None:
            lines.append(f"{'':<15} compose {_bar(row.peer_value, longest)} {row.peer_value:.2f} s")
    return lines


def places_chart(places: Sequence[Times]) -> list[str]:
    """Return a bar for each place, for the steps that take longest; one scale for all."""
    timed = [(step, one.place, one.seconds[step]) for step in _LONG for one in places if step in one.seconds]
    longest = max((seconds for _, _, seconds in timed), default=1.0)
    return [
        f"{step:<8} {place:<17} {_bar(seconds, longest, _BESIDE)} {seconds:.2f} s" for step, place, seconds in timed
    ]


def _bar(value: float, longest: float, wide: int = _WIDE) -> str:
    return "█" * max(1, round(wide * value / longest))


def spans_chart(what: str, seconds: float, operations: Sequence[dict[str, Any]]) -> list[str]:
    """Return one line per operation of a run: when it began and ended."""
    ran = sorted((op for op in operations if "began" in op), key=lambda op: (op["began"], op["ended"]))
    end = max((op["ended"] for op in ran), default=0.0)
    lines = [f"{'operation':<{_NAME}} {'from':>6} {'to':>6}"]
    for op in ran:
        name = f"{op['action']} {_short(op['target'])}".rstrip()[:_NAME]
        began, ended = op["began"], op["ended"]
        lines.append(f"{name:<{_NAME}} {began:6.2f} {ended:6.2f} {_span(began, ended, end)}".rstrip())
    lines.append(f"{'before and after the plan':<{_NAME}} {seconds - end:13.2f} (of {seconds:.2f} s, {what!r})")
    return lines


def _short(target: str) -> str:
    """Return the name of a network or volume without the environment's id, which says nothing here."""
    parts = target.split("-")
    if parts[0] != "devenv":
        return target
    # devenv-<slug>-<hash>[-<volume>]: the hash is the first part of eight hexadecimal digits.
    at = next((i for i, part in enumerate(parts) if len(part) == 8 and set(part) <= set("0123456789abcdef")), None)
    return "-".join(parts[at + 1 :]) if at is not None else target


def _span(began: float, ended: float, end: float) -> str:
    if end <= 0:
        return ""
    left = int(_NARROW * began / end)
    return " " * left + "█" * max(1, round(_NARROW * ended / end) - left)
