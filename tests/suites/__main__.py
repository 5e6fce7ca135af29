"""Run OpenStack's own test suites on devenv's services: `python -m tests.suites [SUITE…]`."""

from __future__ import annotations

import argparse
import datetime
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.bench import machine
from tests.suites import page
from tests.suites.execute import execute
from tests.suites.inventory import Inventory, Run, Suite, load
from tests.suites.page import Row
from tests.suites.prepare import ROOM, Unprepared, prepare

_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suites, show the table, write what was asked for; return 1 if anything is not as it is known to be."""
    inventory = load()
    options = _parse(inventory, arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    where, today = machine.machine(), datetime.datetime.now(datetime.UTC).date().isoformat()
    try:
        rows, unprepared = _rows(inventory, options.suites)
    except KeyboardInterrupt:
        _tell("interrupted; nothing was written")
        return _INTERRUPTED
    print(page.table(rows))
    if options.junitxml:
        options.junitxml.write_text(page.as_junit(rows), encoding="utf-8")
    if options.page and not unprepared:
        options.page.write_text(page.as_markdown(rows, today, where), encoding="utf-8")
    problems = [*unprepared, *(f"{row.name}: {problem}" for row in rows for problem in row.outcome.problems)]
    for problem in problems:
        _tell(problem)
    for row in rows:
        if row.outcome.problems:
            _tell(f"{row.name} said more: {_log(row.suite, row.run).relative_to(ROOM.parent)}")
    return 1 if problems else 0


def _rows(inventory: Inventory, names: Sequence[str]) -> tuple[list[Row], list[str]]:
    """Return what became of each run, and why suites could not be prepared."""
    rows, unprepared = list[Row](), list[str]()
    for suite in inventory.suites:
        if suite.name not in names:
            continue
        _tell(f"{suite.name} {suite.version}")
        try:
            prepared = prepare(suite)
        except Unprepared as error:
            unprepared.append(str(error))
            continue
        for run in suite.runs:
            rows.append(Row(suite, run, execute(run, prepared, inventory.no_server, _log(suite, run))))
            _tell(page.told(rows[-1]))
    return rows, unprepared


def _log(suite: Suite, run: Run) -> Path:
    """Return the file with all that the run printed."""
    return ROOM / suite.name / f"run-{suite.runs.index(run) + 1}.log"


def _parse(inventory: Inventory, arguments: Sequence[str] | None) -> argparse.Namespace:
    names = [suite.name for suite in inventory.suites]
    parser = argparse.ArgumentParser(prog="python -m tests.suites", description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"all without one: {', '.join(names)}")
    parser.add_argument("--page", type=Path, help="write the results into this page; needs all suites")
    parser.add_argument("--junitxml", type=Path, help="write the numbers of tests into this file")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.suites if name not in names]:
        parser.error(f"there is no suite {', '.join(unknown)}")
    if options.page and options.suites:
        parser.error("--page needs all suites")
    options.suites = options.suites or names
    return options


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
