"""Write the table of docs/engines.md, between two marks, and the numbers for `make test-long`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

_MARKED = re.compile(r"(<!-- engines: begin -->\n).*?(<!-- engines: end -->)", re.DOTALL)


@dataclass(frozen=True)
class Outcome:
    """The tests of one area on one engine: how many passed, which failed, and the seconds that all took."""

    passed: int
    failed: tuple[str, ...]
    seconds: float

    def __str__(self) -> str:
        failed = f", **{len(self.failed)} failed**" if self.failed else ""
        return f"{self.passed}{failed}, {self.seconds:.0f} s"


@dataclass(frozen=True)
class Row:
    """An engine, as it reports itself, and the outcome of each area by its name; `fault` says why it did not start."""

    name: str
    version: str
    outcomes: Mapping[str, Outcome]
    date: str
    fault: str = ""


def read_report(report: Path, areas: Mapping[str, str]) -> dict[str, Outcome]:
    """Return the outcome of each area, whose tests are in the module of that name, from pytest's report for JUnit."""
    if not report.exists():
        return {area: Outcome(0, ("pytest itself",), 0) for area in areas}
    cases = [*ElementTree.parse(report).iter("testcase")]
    of = {
        area: [case for case in cases if module in case.get("classname", "").split(".")]
        for area, module in areas.items()
    }
    return {area: _outcome(found) for area, found in of.items() if found}


def _outcome(cases: Sequence[ElementTree.Element]) -> Outcome:
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    # A test that fails and cannot be cleaned up after is there twice.
    names = dict.fromkeys(case.get("name", "?") for case in failed)
    skipped = sum(case.find("skipped") is not None for case in cases)
    seconds = sum(float(case.get("time", "0")) for case in cases)
    return Outcome(len(cases) - len(failed) - skipped, tuple(names), seconds)


def table(rows: Sequence[Row], areas: Sequence[str]) -> str:
    """Return the rows in Markdown: a line for each engine."""
    lines = [_line(("engine", *areas, "date")), "|---|" + "--:|" * len(areas) + "---|"]
    return "\n".join([*lines, *(as_line(row, areas) for row in rows)])


def as_line(row: Row, areas: Sequence[str]) -> str:
    cells = [str(row.outcomes[area]) if area in row.outcomes else row.fault or "-" for area in areas]
    return _line((f"{row.name}: {row.version}", *cells, row.date))


def write(page: Path, rows: Sequence[Row], areas: Sequence[str], names: Sequence[str]) -> None:
    """Write the rows into the page, in the order of `names`; engines that did not run keep the rows that they have."""
    text = page.read_text(encoding="utf-8")
    found = _MARKED.search(text)
    assert found, f"{page} has no place for the table"
    lines = {name: line for line in found[0].splitlines() if (name := line.removeprefix("| ").partition(":")[0])}
    lines |= {row.name: as_line(row, areas) for row in rows}
    head = table((), areas).splitlines()
    whole = "\n".join([*head, *(lines[name] for name in names if name in lines)])
    page.write_text(_MARKED.sub(lambda marks: f"{marks[1]}{whole}\n{marks[2]}", text), encoding="utf-8")


def as_junit(rows: Sequence[Row]) -> str:
    """Return how many tests ran, in JUnit's format."""
    suites = ElementTree.Element("testsuites")
    for row in rows:
        for area, outcome in row.outcomes.items():
            numbers = {"tests": outcome.passed + len(outcome.failed), "failures": len(outcome.failed), "skipped": 0}
            ElementTree.SubElement(
                suites, "testsuite", name=f"{area} on {row.name}", **{key: str(one) for key, one in numbers.items()}
            )
    return ElementTree.tostring(suites, encoding="unicode")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
