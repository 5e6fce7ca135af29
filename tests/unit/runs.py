"""Runs of `up` on record."""

from __future__ import annotations

from typing import Any

from devenv.lifecycle.timing import Run, Span, Step

ID = "nova-12345678"


def run_of(*steps: Step, begins: float = 0.5, ends: float = 0.25) -> Run:
    """Return a run of these operations, with a phase before and one after them."""
    last = max((step.ended for step in steps), default=begins)
    phases = (Span("start devenv", 0.0, begins), Span("write files", last, last + ends))
    ordered = tuple(sorted(steps, key=lambda step: step.began))
    return Run(ID, "2026-11-22T10:11:12.500+00:00", "1.2", last + ends, phases, ordered)


def step(key: str, began: float, ended: float, *after: str, **more: Any) -> Step:
    more.setdefault("service", key.rpartition(" ")[2].partition("/")[0])
    return Step(key, began, ended, "new", after, **more)


# Two services; the slower one gives the other its part.
TYPICAL = run_of(
    step("start mysql", 0.5, 1.0),
    step("start keystone", 0.5, 1.5),
    step("ready mysql", 1.0, 5.5, "start mysql"),
    step("provision mysql/keystone", 5.5, 5.75, "ready mysql"),
    step("ready keystone", 6.0, 7.25, "start keystone", "provision mysql/keystone"),
)
