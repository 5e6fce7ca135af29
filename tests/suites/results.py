"""Say what became of each test of a run, and whether that is known."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from subunit import ByteStreamToStreamResult
from testtools import StreamToDict

from tests.suites.inventory import Run

_PASSED = ("success", "xfail")


@dataclass(frozen=True)
class Result:
    """A test that ran; `reason` says why it was skipped."""

    name: str
    status: str
    reason: str = ""


@dataclass(frozen=True)
class Outcome:
    """The tests of a run, sorted. A reason or a failed test stands with its cause; "" if that is not known."""

    passed: int = 0
    no_server: Counter[str] = field(default_factory=Counter)
    # (reason, cause): how many.
    skipped: Counter[tuple[str, str]] = field(default_factory=Counter)
    failed: Mapping[str, str] = field(default_factory=dict)
    # Patterns of known failures that did not happen.
    missed: Sequence[str] = ()
    # What the command said if it ended otherwise than its tests.
    broken: str = ""
    seconds: float = 0

    @property
    def tests(self) -> int:
        return self.passed + self.no_server.total() + self.skipped.total() + len(self.failed)

    @property
    def problems(self) -> list[str]:
        """Return what nobody expected, a line each; if there is none, the run is as it should be."""
        found = [f"{test} failed" for test, cause in self.failed.items() if not cause]
        found += [f"{number} tests found no server: {reason}" for reason, number in self.no_server.items()]
        found += [
            f"{number} tests were skipped: {reason}" for (reason, cause), number in self.skipped.items() if not cause
        ]
        found += [f"{pattern} is known to fail, and did not" for pattern in self.missed]
        if not self.passed:
            found.append("no test passed")
        return [*found, self.broken] if self.broken else found


def read(stream: bytes) -> list[Result]:
    """Return the tests of a subunit stream, as `stestr last --subunit` prints it."""
    tests: list[Result] = []

    def ended(test: dict[str, Any]) -> None:
        reason = test["details"]["reason"].as_text() if "reason" in test["details"] else ""
        tests.append(Result(test["id"], test["status"], " ".join(reason.split())))

    result = StreamToDict(ended)
    result.startTestRun()
    ByteStreamToStreamResult(io.BytesIO(stream)).run(result)
    result.stopTestRun()
    return tests


def judge(run: Run, tests: Iterable[Result], no_server: Sequence[str], seconds: float = 0, broken: str = "") -> Outcome:
    """Hold what became of each test against what is known of it."""
    passed, wanting = 0, Counter[str]()
    skipped: Counter[tuple[str, str]] = Counter()
    failed: dict[str, str] = {}
    for test in tests:
        if test.status in _PASSED:
            passed += 1
        elif test.status != "skip":
            failed[test.name] = known(run.failures, test.name)
        elif not any(re.search(pattern, test.reason) for pattern in no_server):
            skipped[test.reason, known(run.skips, test.reason)] += 1
        elif run.without and run.without in test.reason:
            skipped[test.reason, f"{run.without} is not part of this run"] += 1
        else:
            wanting[test.reason] += 1
    missed = [pattern for pattern in run.failures if not any(re.search(pattern, name) for name in failed)]
    return Outcome(passed, wanting, skipped, failed, missed, broken, seconds)


def known(causes: Mapping[str, str], text: str) -> str:
    """Return the cause whose pattern is in the text; "" if there is none."""
    return next((cause for pattern, cause in causes.items() if re.search(pattern, text)), "")
