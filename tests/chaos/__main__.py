"""Run the sweep from end to end: `python -m tests.chaos [--scenario NAME] [--fault NAME] [--at N] [--jobs N] …`."""

from __future__ import annotations

import argparse
import datetime
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from devenv.engine import connect
from tests.chaos import pages
from tests.chaos.case import Case, Outcome, Place, places
from tests.chaos.proxy import FAULTS
from tests.chaos.scenarios import SCENARIOS

T = TypeVar("T")
Free = SimpleQueue[Place]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases and print the outcome of each; return 1 if devenv did not survive one.

    When the last case of a scenario has run, write its figures to docs/, unless some cases were left out.
    """
    options = _parse(arguments)
    # Also where a shell started this in the background, with SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    swept: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder, places(Path(folder), options.jobs) as free:
        counted = _counted(options.scenario or SCENARIOS, free)
        cases = [case for case in _all_of(counted) if _chosen(case, options)]
        if options.sample:
            cases = random.Random(options.seed).sample(cases, min(options.sample, len(cases)))
        # The shortest first, so that results show early.
        for name, _ in reversed(Counter(case.scenario for case in cases).most_common()):
            began = time.monotonic()
            outcomes = _run([case for case in cases if case.scenario == name], free)
            swept[name] = pages.figures(counted[name], outcomes, _about(began))
            if not (options.fault or options.at or options.sample):
                pages.write({name: swept[name]})
    print(pages.page(swept), flush=True)
    return 1 if any(one["not survived"] for one in swept.values()) else 0


def _about(began: float) -> dict[str, Any]:
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cores": os.cpu_count(),
        "engine": connect().about().version,
        "minutes": round((time.monotonic() - began) / 60),
    }


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Every request of devenv's fails once.")
    parser.add_argument("--scenario", action="append", choices=[*SCENARIOS], help="only this one; repeatable")
    parser.add_argument("--fault", action="append", choices=[*FAULTS], help="only this one; repeatable")
    parser.add_argument("--at", type=int, default=0, metavar="N", help="only the request of this number")
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="only so many cases, chosen by --seed")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="(default: 1)")
    # Cases wait as much as they work.
    jobs = (os.cpu_count() or 1) + 1
    parser.add_argument("--jobs", type=int, default=jobs, metavar="N", help=f"cases side by side (default: {jobs})")
    return parser.parse_args(arguments)


def _all_of(counted: Mapping[str, int]) -> list[Case]:
    return [
        Case(name, fault, at)
        for name, requests in counted.items()
        for at in range(1, requests + 1)
        for fault in SCENARIOS[name].faults
    ]


def _chosen(case: Case, options: argparse.Namespace) -> bool:
    return options.at in (0, case.at) and (not options.fault or case.fault in options.fault)


def _counted(names: Iterable[str], free: Free) -> dict[str, int]:
    """Return how many requests each scenario has when nothing goes wrong."""
    with ThreadPoolExecutor(free.qsize()) as pool:
        counts = pool.map(lambda name: _somewhere(free, lambda here: here.count(SCENARIOS[name])), names)
        found = dict(zip(names, counts, strict=True))
    for name, requests in found.items():
        _tell(f"{name}: {requests} requests")
    return found


def _run(cases: Sequence[Case], free: Free) -> list[Outcome]:
    """Run cases of one scenario; after them, leave nothing."""
    outcomes: list[Outcome] = []
    with ThreadPoolExecutor(free.qsize()) as pool:
        running = [pool.submit(_somewhere, free, lambda here, case=case: here.run(case)) for case in cases]
        try:
            for future in as_completed(running):
                outcomes.append(outcome := future.result())
                _tell_outcome(outcome, f"[{len(outcomes)}/{len(cases)}]")
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
    for here in [free.get() for _ in range(free.qsize())]:
        if left := here.clear():
            outcomes.append(outcome := Outcome(Case(cases[0].scenario, "all of them", 0), "", 0, tuple(left)))
            _tell_outcome(outcome, "[afterwards]")
        free.put(here)
    return sorted(outcomes, key=lambda outcome: outcome.case)


def _somewhere(free: Free, act: Callable[[Place], T]) -> T:
    here = free.get()
    try:
        return act(here)
    finally:
        free.put(here)


def _tell_outcome(outcome: Outcome, number: str) -> None:
    word = "NOT survived" if outcome.problems else "survived"
    _tell(f"{number} {outcome.case} ({outcome.request or 'no such request'}): {word}, {outcome.seconds} s")
    for problem in outcome.problems:
        _tell("    " + problem.replace("\n", "\n    "))


def _tell(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
