"""Run the parts of `make test[-long]`: `python -m tests.run [--long]`; the last line says how many tests, how long.

Each part is a program. The parts of one lane run one after the other, the lanes side by side: a test of a real service
waits more than it works. The last lane prints as it runs; each part of the others prints when it has ended.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from tests.clusters.cluster import BUILD, built

_BIN = Path(sys.executable).parent
_PYTEST = (str(_BIN / "pytest"), "-q", "--junitxml")
# Tests against real services that run side by side: each waits for the engine most of the time.
_PROCESSES = os.environ.get("PROCESSES", "4")


@dataclass
class Part:
    """A program, and its outcome once it has ended."""

    name: str
    command: tuple[str, ...]
    failed: bool = False
    tests: int = 0


def lanes(folder: Path, long: bool) -> list[list[Part]]:
    """Return all parts; tests write their reports to `folder`."""

    def tests(name: str, *arguments: str) -> Part:
        return Part(name, (*_PYTEST, str(folder / f"{name}.xml"), *arguments))

    engine = Part("engine", (str(_BIN / "devenv"), "doctor", "--fix"))
    spread = ("--numprocesses", _PROCESSES, "--dist", "loadgroup")
    services = ("tests/integration", "tests/consumers", "tests/chaos")
    if long:
        examples = tests("examples", "tests/unit", "-m", "hypothesis or long", "--hypothesis-profile", "thorough")
        suites = Part("suites", (sys.executable, "-m", "tests.suites", "--junitxml", str(folder / "suites.xml")))
        others = Part(
            "engines", (sys.executable, "-m", "tests.engines", "--fast", "--junitxml", f"{folder}/engines.xml")
        )
        # One process: all its tests share a cluster.
        clusters = [tests("clusters", "tests/clusters")] if built() else []
        return [[examples], [engine, tests("long", *services, "-m", "long", *spread), *clusters, suites, others]]
    return [
        [
            Part("ruff", (str(_BIN / "ruff"), "check", ".")),
            Part("format", (str(_BIN / "ruff"), "format", "--check", ".")),
            Part("mypy", (str(_BIN / "mypy"),)),
            tests("unit", "tests/unit", "-m", "not long"),
        ],
        [engine, tests("integration", *services, "-m", "not long", *spread)],
    ]


def run(lane: Sequence[Part], folder: Path, shown: bool) -> None:
    """Run one part after the other, even if one fails."""
    for part in lane:
        with tempfile.TemporaryFile() as output:
            to = None if shown else output
            part.failed = subprocess.run(part.command, stdout=to, stderr=to, check=False).returncode != 0
            output.seek(0)
            told = output.read().decode(errors="replace")
        if (report := folder / f"{part.name}.xml").exists():
            part.tests = sum(_ran(suite) for suite in ElementTree.parse(report).iter("testsuite"))
        if not shown:
            # In one piece: the other lane is writing, too.
            print(f"\n---- {part.name} ----\n{told}", end="", flush=True)


def _ran(suite: ElementTree.Element) -> int:
    return int(suite.get("tests", "0")) - int(suite.get("skipped", "0"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all parts; return 1 if any failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.run", description=__doc__)
    parser.add_argument("--long", action="store_true", help="what is left out otherwise")
    long: bool = parser.parse_args(arguments).long
    if long and not built():
        print(f"without tests/clusters: {BUILD}", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="devenv-tests-") as name:
        folder = Path(name)
        *beside, last = lanes(folder, long)
        threads = [threading.Thread(target=run, args=(lane, folder, False)) for lane in beside]
        for thread in threads:
            thread.start()
        run(last, folder, True)
        for thread in threads:
            thread.join()
    parts = [part for lane in (*beside, last) for part in lane]
    failed = [part.name for part in parts if part.failed]
    minutes, seconds = divmod(round(time.monotonic() - began), 60)
    if failed:
        print(f"failed: {', '.join(failed)}")
    print(f"ran {sum(part.tests for part in parts)} tests in {minutes} min {seconds} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
