"""What the bench leaves behind: docs/benchmarks.md, docs/benchmarks.json and a table in the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tests.bench.charts import spans_chart, timings_chart
from tests.bench.rows import Row

_HEADINGS = ("what", "value", "target", "met", "devenv", "compose")
_PAGE = """\
# Benchmarks

Written by `make bench` on {date}; [benchmarks.json](benchmarks.json) has the same numbers for programs.
Lower is better everywhere.

- Machine: {machine}
- Busy: load average {load} before the bench began
- Versions: {versions}

{method}

{summary}

{table}

`x` is devenv's time over Compose's. A row without a target is for information. Memory is resident memory
(RSS) of all processes in the four containers, after the second `up`. Images are unique layers, their common base
counted once. `down --volumes` of devenv ends containers without asking them to stop first, because their
data goes, too; Compose always asks. A component is its database, vhost, key prefix and service user with their logins,
made in services that run; readiness checks and the start of the command are not in it.

## Timings

```text
{timings}
```

## Where the time goes

One first `devenv up`, the one of median length; seconds since the plan began.

```text
{spans}
```
"""

_METHOD = """\
devenv and Docker Compose bring up the same four images on the same engine, in turn; every number is the median
of {rounds}. Compose gets a file that is written as each project's own documentation tells:
[tests/bench/compose](../tests/bench/compose/compose.yaml), with upstream's default settings and a health check
every second. devenv uses its own settings, for throw-away data. Compose returns after `mysqladmin ping`,
`rabbitmq-diagnostics ping`, `etcdctl endpoint health` and a page of Keystone; devenv after a login, a queue, an
answer of etcd and a token. Beyond Compose's file, devenv runs RabbitMQ's management and makes Keystone's accounts."""
_METHOD_ALONE = (
    "There was no Compose v2 on this machine, so nothing to compare with; every number is the median of {rounds}."
)


@dataclass(frozen=True)
class Report:
    """Everything that the outputs show."""

    date: str
    machine: Mapping[str, str | int | float]
    versions: Mapping[str, str]
    rounds: int
    rows: Sequence[Row]
    start: tuple[float, list[dict[str, Any]]]

    @property
    def has_peer(self) -> bool:
        return any(row.peer for row in self.rows)

    @property
    def summary(self) -> str:
        """The verdict in one sentence; a missed target must not hide in a table."""
        missed = [row.name for row in self.rows if row.met is False]
        checked = sum(row.met is not None for row in self.rows)
        if missed:
            return f"{len(missed)} of {checked} targets MISSED: {'; '.join(missed)}."
        return f"All {checked} targets are met."


def write(report: Report, folder: Path) -> list[Path]:
    """Write both files."""
    folder.mkdir(parents=True, exist_ok=True)
    page, data = folder / "benchmarks.md", folder / "benchmarks.json"
    page.write_text(as_markdown(report), encoding="utf-8")
    data.write_text(as_json(report), encoding="utf-8")
    return [page, data]


def as_json(report: Report) -> str:
    """For programs; the shape is an interface."""
    content = {
        "machine": dict(report.machine),
        "date": report.date,
        "versions": dict(report.versions),
        "rows": [asdict(row) for row in report.rows],
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def as_markdown(report: Report) -> str:
    """For people."""
    lines = ["| " + " | ".join(_HEADINGS) + " |", "|---|--:|--:|---|--:|--:|"]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in report.rows]
    rounds = f"{report.rounds} round{'s' if report.rounds > 1 else ''}"
    return _PAGE.format(
        date=report.date,
        machine=_machine(report.machine),
        load=report.machine["load_before"],
        versions=", ".join(f"{name} {version}" for name, version in report.versions.items()),
        method=(_METHOD if report.has_peer else _METHOD_ALONE).format(rounds=rounds),
        summary=f"**{report.summary}**",
        table="\n".join(lines),
        timings="\n".join(timings_chart(report.rows)),
        spans="\n".join(spans_chart(*report.start)),
    )


def _machine(about: Mapping[str, str | int | float]) -> str:
    return f"{about['cpu']}, {about['cores']} cores, {about['memory_gb']} GB, {about['os']}, {about['kernel']}"


def show(report: Report, console: Console) -> None:
    """The table and the bars, in 80 columns."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading in _HEADINGS:
        table.add_column(heading, justify="left" if heading in ("what", "met") else "right")
    for row in report.rows:
        style = {True: "green", False: "bold red", None: ""}[row.met]
        table.add_row(*(Text(cell, style if at == 3 else "") for at, cell in enumerate(_cells(row))))
    console.print(table)
    console.print()
    for line in [*timings_chart(report.rows), "", *spans_chart(*report.start), ""]:
        console.print(Text(line))
    console.print(Text(report.summary, "bold red" if "MISSED" in report.summary else "bold green"))


def _cells(row: Row) -> tuple[str, ...]:
    unit = row.unit
    if unit == "x":
        unit = "MB" if row.name == "memory" else "s"
    return (
        row.name,
        f"{row.value:.2f} x" if row.unit == "x" else _amount(row.value, unit),
        "" if row.target is None else f"<= {row.target:g} {row.unit}",
        {True: "yes", False: "NO", None: ""}[row.met],
        _amount(row.ours, unit),
        "" if row.peer_value is None else _amount(row.peer_value, unit),
    )


def _amount(value: float, unit: str) -> str:
    return f"{value:.2f} s" if unit == "s" else f"{value:.0f} {unit}"
