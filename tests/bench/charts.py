"""Bars of text, for the page and for the terminal; at most 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.bench.measure import FIRST_UP, STEPS
from tests.bench.rows import Row

_WIDE, _NARROW = 46, 34


def timings_chart(rows: Sequence[Row]) -> list[str]:
    """Two bars per step, devenv above its peer; one scale for all."""
    timed = [row for row in rows if row.name in STEPS]
    longest = max(max(row.ours, row.peer_value or 0) for row in timed)
    lines = []
    for row in timed:
        lines.append(f"{row.name:<15} devenv  {_bar(row.ours, longest)} {row.ours:.2f} s")
        if row.peer_value is not None:
            lines.append(f"{'':<15} compose {_bar(row.peer_value, longest)} {row.peer_value:.2f} s")
    return lines


def _bar(value: float, longest: float) -> str:
    return "█" * max(1, round(_WIDE * value / longest))


def spans_chart(seconds: float, operations: Sequence[dict[str, Any]]) -> list[str]:
    """One line per operation of a start: from when to when it ran."""
    ran = sorted((op for op in operations if "began" in op), key=lambda op: (op["began"], op["ended"]))
    end = max((op["ended"] for op in ran), default=0.0)
    lines = [f"{'operation':<26} {'from':>6} {'to':>6}"]
    for op in ran:
        name = f"{op['action']} {_short(op['target'])}"
        lines.append(
            f"{name:<26} {op['began']:6.2f} {op['ended']:6.2f} {_span(op['began'], op['ended'], end)}".rstrip()
        )
    lines.append(f"{'before and after the plan':<26} {seconds - end:13.2f} (of {seconds:.2f} s, {FIRST_UP!r})")
    return lines


def _short(target: str) -> str:
    """A network's name holds the environment's id, which says nothing here."""
    return "" if target.startswith("devenv-") else target


def _span(began: float, ended: float, end: float) -> str:
    if end <= 0:
        return ""
    left = int(_NARROW * began / end)
    return " " * left + "█" * max(1, round(_NARROW * ended / end) - left)
