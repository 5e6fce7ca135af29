"""Measure what a component costs a test: the example's 500 tests, in four processes that share an environment."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

from tests.bench.process import run
from tests.bench.samples import Samples
from tests.bench.sides import Devenv

MEDIAN, WORST, SECONDS = "component in a test, median", "component in a test, worst", "500 tests"
ALL = ", all four"
PROCESSES = 4
_MANY = Path(__file__).resolve().parents[1] / "examples" / "inventory" / "tests" / "many" / "test_many.py"
_NAMED = re.compile(r"^@pytest\.mark\.devenv\(.*\)$", re.MULTILINE)
_TIMES = "times"
_CONFTEST = f"""
import time
import pytest

@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef, request):
    began = time.perf_counter()
    try:
        return (yield)
    finally:
        if fixturedef.argname == "devenv_component":
            with open({_TIMES!r}, "a") as times:
                print(time.perf_counter() - began, file=times)
"""

Tell = Callable[[str], None]


def measure_suite(side: Devenv, samples: Samples, tell: Tell) -> None:
    """Measure the tests as they are, each with the service that it names, and with a part of all services for each."""
    text = _MANY.read_text()
    for kind, tests in (("", text), (ALL, _NAMED.sub("@pytest.mark.devenv()", text))):
        seconds, times = _run(side, tests)
        samples.add(SECONDS + kind, side.name, seconds)
        samples.add(MEDIAN + kind, side.name, median(times) * 1000)
        samples.add(WORST + kind, side.name, max(times) * 1000)
        tell(
            f"  {side.name:<8} {f'{len(times)} tests{kind}':<24} {seconds:6.2f} s, a component: "
            f"median {median(times) * 1000:.1f} ms, worst {max(times) * 1000:.0f} ms"
        )


def _run(side: Devenv, tests: str) -> tuple[float, list[float]]:
    """Return how many seconds all tests took, with the services' start and end, and each of their components."""
    folder = side.folder / "suite"
    folder.mkdir()
    try:
        (folder / "test_many.py").write_text(tests)
        (folder / "conftest.py").write_text(_CONFTEST)
        (folder / "pytest.ini").touch()
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", str(PROCESSES)]
        done = run(command, {**os.environ, **side.environment}, folder)
        return done.seconds, [float(line) for line in (folder / _TIMES).read_text().split()]
    finally:
        shutil.rmtree(folder)
