"""Write docs/suites.md, the table in the terminal, and the numbers for `make test-long`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from tests.suites.inventory import Run, Suite
from tests.suites.results import Outcome

_HEADINGS = ("suite", "servers", "passed", "failed", "found no server", "skipped", "seconds")
_TEMPLATE = Path(__file__).with_name("page.md")


@dataclass(frozen=True)
class Row:
    """A run and its outcome."""

    suite: Suite
    run: Run
    outcome: Outcome

    @property
    def name(self) -> str:
        return f"{self.suite.name} on {self.run.servers}"


def as_markdown(rows: Sequence[Row], date: str, machine: Mapping[str, str | int | float]) -> str:
    """Return the page."""
    return _TEMPLATE.read_text(encoding="utf-8").format(
        date=date,
        where=f"{machine['cores']} cores, {machine['memory_gb']} GB, load average {machine['load_before']} before",
        table=table(rows),
        suites="\n\n".join(_about(suite, rows) for suite in {row.suite.name: row.suite for row in rows}.values()),
    )


def table(rows: Sequence[Row]) -> str:
    lines = [_line(_HEADINGS), "|---|---|" + "--:|" * (len(_HEADINGS) - 2)]
    return "\n".join([*lines, *(_line(_cells(row)) for row in rows)])


def told(row: Row) -> str:
    """Return a line for the terminal."""
    done = row.outcome
    words = f"{done.passed} passed, {len(done.failed)} failed, {done.no_server.total()} found no server"
    return f"  on {row.run.servers}: {words}, {done.skipped.total()} skipped in {done.seconds:.0f} s"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(row: Row) -> tuple[str, ...]:
    done = row.outcome
    numbers = (done.passed, len(done.failed), done.no_server.total(), done.skipped.total(), round(done.seconds))
    return (f"{row.suite.name} {row.suite.version}", row.run.servers, *map(str, numbers))


def _about(suite: Suite, rows: Sequence[Row]) -> str:
    """Return the commands of a suite, and why tests failed or were skipped."""
    parts = [f"## {suite.name}"]
    if suite.extras:
        parts.append(f"Installed with the extras {', '.join(suite.extras)}.")
    for row in rows:
        if row.suite.name == suite.name:
            parts.append(f"```sh\n{row.run.command}\n```")
            parts += ["\n".join(notes)] if (notes := _notes(row.outcome)) else []
    return "\n\n".join(parts)


def _notes(outcome: Outcome) -> list[str]:
    skipped: Counter[str] = Counter()
    for (reason, cause), number in outcome.skipped.items():
        skipped[cause or f"not known why: {reason}"] += number
    notes = [f"- {number} skipped: {why}" for why, number in skipped.items()]
    notes += [f"- {number} found no server: {reason}" for reason, number in outcome.no_server.items()]
    return notes + [f"- `{test}` failed: {cause or 'not known why'}" for test, cause in outcome.failed.items()]


def as_junit(rows: Sequence[Row]) -> str:
    """Return the numbers as other test runners write them."""
    root = ElementTree.Element("testsuites")
    for row in rows:
        done = row.outcome
        numbers = {
            "tests": done.tests,
            "skipped": done.skipped.total() + done.no_server.total(),
            "failures": len(done.failed),
        }
        ElementTree.SubElement(root, "testsuite", name=row.name, **{key: str(value) for key, value in numbers.items()})
    return ElementTree.tostring(root, encoding="unicode")
