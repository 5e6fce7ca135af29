"""Run the soak from end to end: `python -m tests.soak`; `--help` shows what can be less."""

from __future__ import annotations

import argparse
import datetime
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.bench import machine
from tests.bench.process import Failed
from tests.bench.sides import Devenv
from tests.soak import page
from tests.soak.crowd import measure_crowd
from tests.soak.load import ENVIRONMENT, measure_load


def main(arguments: Sequence[str] | None = None) -> int:
    """Put the load on, show the figures, write them if asked; return 1 if anything is not as promised."""
    options = _parse(arguments)
    where, today = machine.machine(), datetime.date.today().isoformat()
    try:
        with tempfile.TemporaryDirectory(prefix="devenv-soak-") as folder:
            side = Devenv(Path(folder), ENVIRONMENT)
            side.prepare()
            load = measure_load(side, options.components, options.clients, options.seconds, _tell)
            (Path(folder) / "project" / "devenv.yaml").write_text(f"profile: {options.profile}\n")
            crowd = measure_crowd(side, options.environments, _tell)
        text = page.figures(today, where, load, crowd)
        problems = [*load.problems, *crowd.problems]
        if options.page:
            # A minute is too short to tell what a process needs once from what it loses.
            problems += ["devenv's own process has grown"] if load.grown else []
            page.write(options.page, text)
    except Failed as error:
        _tell(str(error))
        return 1
    print(text, end="")
    for problem in problems:
        _tell(problem)
    return 1 if problems else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    add = parser.add_argument
    add("--components", type=int, default=200, help="at once, a multiple of the clients (%(default)s)")
    add("--clients", type=int, default=50, help="at once (%(default)s)")
    add("--seconds", type=float, default=300, help="that they work (%(default)s)")
    add("--environments", type=int, default=20, help="at once, when the clients have ended (%(default)s)")
    add("--profile", default="base", help="of these environments (%(default)s)")
    add("--page", type=Path, help="write the figures into this page, and hold memory to be flat")
    return parser.parse_args(arguments)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
