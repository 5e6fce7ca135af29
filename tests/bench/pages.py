"""Write the bench's results: two pages of docs/, a file for programs, a picture, and a table in the terminal."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from tests.bench import plot
from tests.bench.charts import places_chart, spans_chart, timings_chart
from tests.bench.measure import FIRST_UP, GOLDEN_UP, RESET, START, STOP
from tests.bench.others import Missing
from tests.bench.places import STEPS, Times
from tests.bench.rows import KNOWN, SLOWEST, STOP_START, Limits, Row, Table, place_rows
from tests.bench.samples import Profile
from tests.bench.scale import Point
from tests.bench.sides import SERVICES
from tests.bench.snapshots import DATA_MB

PICTURE = "benchmarks-scale.svg"
_HEADINGS = ("what", "value", "target", "met", "devenv", "peer", "the peer is")
_TEMPLATE = Path(__file__).with_name("page.md")
_OPERATIONS = Path(__file__).with_name("operations.md")
_METHOD = """\
devenv and Docker Compose start the same four images on the same engine, in turn; every number is the median
of {rounds}.

- **Compose** gets a file that follows each project's own documentation
  ([tests/bench/compose](../tests/bench/compose/compose.yaml)): upstream's default settings, and a health check every
  second. It returns after `mysqladmin ping`, `rabbitmq-diagnostics ping`, `etcdctl endpoint health` and a page of
  Keystone.
- **devenv** uses its own settings, for throw-away data. It returns after a login, a queue, an answer of etcd and a
  token. It also runs RabbitMQ's management and creates Keystone's accounts, which Compose's file does not."""
_METHOD_ALONE = "This machine had no Compose v2 to compare with; every number is the median of {rounds}."
# The page always shows these, and others only if they missed their target.
_PROFILES = (FIRST_UP, GOLDEN_UP, RESET)
# The runs that show why a row is as it is, if they have other names than the row.
_RUNS_OF: dict[str, tuple[str, ...]] = {STOP_START: (STOP, START), SLOWEST: (GOLDEN_UP,), KNOWN: (GOLDEN_UP,)}
_NOT_MEASURED = "Not measured in this run."


@dataclass(frozen=True)
class Report:
    """Everything that the outputs show."""

    date: str
    machine: Mapping[str, str | int | float]
    versions: Mapping[str, str]
    rounds: int
    table: Table
    # The run of median length of each thing that devenv did.
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    # Milliseconds from when each service was ready until devenv knew.
    known: Mapping[str, float] = field(default_factory=dict)
    limits: Limits | None = None
    scale: Sequence[Point] = ()
    others: Sequence[Row] = ()
    missing: Sequence[Missing] = ()
    # What each place takes, and the places that this machine cannot have.
    places: Sequence[Times] = ()
    absent: Sequence[Missing] = ()

    @property
    def has_peer(self) -> bool:
        return "docker compose" in self.versions

    @property
    def summary(self) -> str:
        """Return the verdict; a missed target must not hide in a table."""
        rows = self.table.rows
        missed = [row.name for row in rows if row.met is False]
        checked = sum(row.met is not None for row in rows)
        words = f"{len(missed)} of {checked} targets MISSED: {'; '.join(missed)}."
        if not missed:
            words = f"All {checked} targets are met." if checked else "No target was measured."
        if self.table.unmeasured:
            words += f" Not measured: {'; '.join(self.table.unmeasured)}."
        return words


def write(report: Report, folder: Path) -> list[Path]:
    """Write the pages, the numbers, and the picture if there is something to draw."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "benchmarks.md": as_markdown(report),
        "benchmarks-operations.md": operations(report),
        "benchmarks.json": as_json(report),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    if report.scale:
        plot.draw(report.scale, folder / PICTURE)
    return [folder / name for name in (*texts, *([PICTURE] if report.scale else []))]


def write_places(report: Report, folder: Path) -> list[Path]:
    """Replace what earlier pages say of places, and nothing else: these take the longest, and need no peer."""
    page, numbers = folder / "benchmarks.md", folder / "benchmarks.json"
    before = page.read_text(encoding="utf-8").partition(_PLACES_HEADING)[0].rstrip()
    page.write_text(f"{before}\n\n{_PLACES_HEADING}\n\n{_places(report)}\n", encoding="utf-8")
    content = {**json.loads(numbers.read_text(encoding="utf-8")), "places": _places_data(report)}
    numbers.write_text(_as_text(content), encoding="utf-8")
    return [page, numbers]


def as_json(report: Report) -> str:
    """Return the report for programs; its shape is an interface. Rows beside other tools come after all others."""
    content = {
        "machine": dict(report.machine),
        "date": report.date,
        "versions": dict(report.versions),
        "rows": [asdict(row) for row in (*report.table.rows, *report.others)],
        "ready_to_known_ms": {service: round(value, 1) for service, value in report.known.items()},
        "scale": [asdict(point) for point in report.scale],
        "not_measured": [
            *map(asdict, report.missing),
            *({"what": what, "reason": ""} for what in report.table.unmeasured),
        ],
        "places": _places_data(report),
    }
    return _as_text(content)


def _places_data(report: Report) -> dict[str, Any]:
    rows, missing = [asdict(row) for row in place_rows(report.places)], [asdict(one) for one in report.absent]
    return {"date": report.date, "load": report.machine["load_before"], "rows": rows, "not_measured": missing}


def _as_text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def as_markdown(report: Report) -> str:
    """Return the report for people."""
    rounds = _rounds(report)
    return _TEMPLATE.read_text(encoding="utf-8").format(
        date=report.date,
        machine=_machine(report.machine),
        load=report.machine["load_before"],
        additions=report.machine["additions_ms"],
        versions=", ".join(f"{name} {version}" for name, version in report.versions.items()),
        method=(_METHOD if report.has_peer else _METHOD_ALONE).format(rounds=rounds),
        summary=f"**{report.summary}**",
        table=_rows_table(report.table.rows),
        data_mb=DATA_MB,
        readiness=_readiness(report.known),
        timings="\n".join(timings_chart(report.table.rows)),
        limits=_limits(report.limits),
        scale=_scale(report.scale),
        others=_others(report),
        places=_places(report),
    )


def operations(report: Report) -> str:
    """Return the page with the operations of some runs."""
    return _OPERATIONS.read_text(encoding="utf-8").format(
        date=report.date,
        profiles="\n\n".join(_profile(what, report.profiles[what]) for what in profiled(report)) or _NOT_MEASURED,
    )


def _rows_table(rows: Sequence[Row]) -> str:
    lines = ["| " + " | ".join(_HEADINGS) + " |", "|---|--:|--:|---|--:|--:|---|"]
    return "\n".join([*lines, *("| " + " | ".join(_cells(row)) + " |" for row in rows)])


def _readiness(known: Mapping[str, float]) -> str:
    if not known:
        return ""
    times = ", ".join(f"{service} {value:.0f} ms" for service, value in known.items())
    return _KNOWN_WORDS.format(name=KNOWN[0].upper() + KNOWN[1:], times=times)


_KNOWN_WORDS = """\
- **{name}.** Each service logs a line when it is ready. The bench takes the time of that line, by the
  engine's clock, and measures how much later devenv stops waiting in a golden `up`. The worst of the four counts. etcd
  logs no such line at devenv's level, so the bench asks its `/health` every 5 ms.
  The medians: {times}.
  devenv looks at least every 50 ms. A look at RabbitMQ logs in and declares a queue, while Keystone's start occupies
  the processors.
"""


def _limits(found: Limits | None) -> str:
    if not found:
        return _NOT_MEASURED
    return _LIMITS_WORDS.format(
        **asdict(found),
        least=found.golden_least,
        least_ratio=found.golden_least / found.slowest_seconds,
        start_ratio=found.start / found.golden,
    )


_LIMITS_WORDS = """\
These limits explain the numbers on this machine, with the services as they are configured today:

- **Processors.** A golden `up` of all four services keeps the machine's processors at work for {golden_cpu:.1f} s, for
  all programs together. Spread evenly over {cores} cores, that is {least:.2f} s; it took {golden:.2f} s.
  Alone, {slowest} takes {slowest_seconds:.2f} s, with {slowest_cpu:.1f} s of processor time. So `up, golden, to slowest
  alone` cannot be below {least_ratio:.2f}. A quicker slowest service raises this limit.
- **The engine.** If it only has to remove the same containers, volumes and network, all requested together, it takes
  {engine_down:.2f} s. `down --volumes` adds the start of a command and a look at what exists.
- **Stop.** `start` alone takes {start_ratio:.2f} of a golden `up`: in both, RabbitMQ boots and Keystone imports its
  code. `stop` adds {stop:.2f} s; `down` takes as long as `stop` and then removes containers. A debugger showed
  that MySQL, even with little to write, waits for a thread of InnoDB that sleeps for a second at a time
  (`srv_master_thread`), so its stop takes between 0.2 and 1.2 s. devenv stops MySQL after Keystone, because MySQL waits
  two seconds for clients that hold on to it.
- **Snapshots.** If the engine only has to copy all volumes into images, all requested together, it takes
  {engine_copy:.2f} s. A restore copies as much back, and then does what `start` does, which takes {start:.2f} s.
- **The command.** Of the {status:.0f} ms of a `status`, Python needs {imports:.0f} ms to start and to import devenv
  and the clients that log in to MySQL and RabbitMQ. A second `up` imports the same, and `--help` a part of it."""


def _scale(points: Sequence[Point]) -> str:
    if not points:
        return _NOT_MEASURED
    lines = [
        "| environments | until all are ready | each | RSS | PSS | PSS each |",
        "|--:|--:|--:|--:|--:|--:|",
        *(_scale_line(point) for point in points),
    ]
    return "\n".join([_picture(points), "", *lines, "", _SCALE_WORDS])


_SCALE_WORDS = """\
All environments started at the same moment, golden, each on new volumes. PSS counts a page that several processes share
once for all of them: memory holds programs and libraries once, however many environments run."""


def _scale_line(point: Point) -> str:
    pss = ("", "") if point.pss_mb is None else (f"{point.pss_mb:.0f} MB", f"{point.memory_each:.0f} MB")
    cells = (
        str(point.environments),
        f"{point.seconds:.1f} s",
        f"{point.seconds_each:.1f} s",
        f"{point.rss_mb:.0f} MB",
        *pss,
    )
    return f"| {' | '.join(cells)} |"


def _picture(points: Sequence[Point]) -> str:
    """Return the picture, with what it shows in words."""
    first, last = points[0], points[-1]
    words = (
        f"Two charts of cost against the number of environments. Time until all are ready rises from "
        f"{first.seconds:.1f} s for {first.environments} to {last.seconds:.1f} s for {last.environments}; "
        f"resident memory from {first.rss_mb / 1000:.1f} GB to {last.rss_mb / 1000:.1f} GB."
    )
    return f"![{words}]({PICTURE})"


def _others(report: Report) -> str:
    """Return what other tools take for the same services, and what the bench could not measure."""
    parts = []
    if report.others:
        parts += [_OTHERS_WORDS, _others_table(report.others)]
    return "\n\n".join([*parts, *_unmeasured(report.missing)]) or _NOT_MEASURED


def _unmeasured(missing: Sequence[Missing]) -> list[str]:
    lines = [f"- {one.what}: {one.reason}" for one in missing]
    return ["\n".join(["Not measured:", "", *lines])] if lines else []


_OTHERS_WORDS = """\
This table is for information, with the same services. testcontainers gets the images that devenv built, and starts one
container after the other, as its users do. pifpaf runs Debian's servers on the host, without containers; its MySQL is
MariaDB without network and accounts. Each time runs from the start of the process (devenv's with golden states) until
everything is ready by the tool's own check. `sh tests/bench/others/set_up.sh FOLDER` installs both."""


def _others_table(rows: Sequence[Row]) -> str:
    lines = ["| what | value | devenv | the other | which |", "|---|--:|--:|--:|---|"]
    for row in rows:
        name, value, _target, _met, ours, theirs, _peer = _cells(row)
        lines.append(f"| {name} | {value} | {ours} | {theirs} | {row.peer} |")
    return "\n".join(lines)


def _rounds(report: Report) -> str:
    return f"{report.rounds} round{'s' if report.rounds > 1 else ''}"


def _places(report: Report) -> str:
    """Return what the same takes in each place, and which places this machine cannot have."""
    parts = []
    if report.places:
        chart = "\n".join(["```text", *places_chart(report.places), "```"])
        load = report.machine["load_before"]
        when = f"Medians of {_rounds(report)}, measured on {report.date}, with a load average of {load} before."
        parts += [_PLACES_WORDS, when, _places_table(report.places), chart]
    return "\n\n".join([*parts, *_unmeasured(report.absent)]) or _NOT_MEASURED


_PLACES_HEADING = "## In every place"
_PLACES_WORDS = """\
The same profile, with all four services, and the same [40 tests](../tests/bench/places_suite.py) wherever devenv can
have services. All places share this one machine and its processors, and have the images already. The tests run in four
processes while the services are up; each has a component of its own in one service, and writes and reads there. In
`attached`, the services are another environment's: `up` waits for them, and `down` leaves them. An empty cell says that
there is no golden state to start from."""


def _places_table(places: Sequence[Times]) -> str:
    lines = [f"| where | {' | '.join(STEPS)} |", f"|---|{'--:|' * len(STEPS)}"]
    for one in places:
        cells = (_amount(one.seconds[step], "s") if step in one.seconds else "" for step in STEPS)
        lines.append(f"| {one.place} | {' | '.join(cells)} |")
    return "\n".join(lines)


def profiled(report: Report) -> list[str]:
    """Return the runs whose operations the page shows: some always, and those that say why a target was missed."""
    missed = [row.name for row in report.table.rows if row.met is False]
    wanted = [*_PROFILES, *(run for name in missed for run in _RUNS_OF.get(name, (name,)))]
    if SLOWEST in missed:
        wanted += [f"up {service}, golden" for service in SERVICES]
    return [what for what in dict.fromkeys(wanted) if what in report.profiles]


def _profile(what: str, profile: Profile) -> str:
    return "\n".join([f"### {what}", "", "```text", *spans_chart(what, *profile), "```"])


def _machine(about: Mapping[str, str | int | float]) -> str:
    return f"{about['cpu']}, {about['cores']} cores, {about['memory_gb']} GB, {about['os']}, {about['kernel']}"


def show(report: Report, console: Console) -> None:
    """Print the tables and the bars, in 80 columns."""
    _show_rows(report.table.rows, console)
    for line in timings_chart(report.table.rows):
        console.print(Text(line))
    if report.scale:
        for point in report.scale:
            console.print(Text(_scale_line(point).replace("|", " ")))
    if report.others:
        console.print()
        _show_rows(report.others, console)
    for line in places_chart(report.places):
        console.print(Text(line))
    for one in (*report.missing, *report.absent):
        console.print(Text(f"not measured: {one.what}: {one.reason}"))
    console.print(Text(report.summary, "bold green" if report.summary.startswith("All") else "bold red"))


def _show_rows(rows: Sequence[Row], console: Console) -> None:
    table = RichTable(box=None, padding=(0, 1, 0, 0), header_style="bold")
    for heading in _HEADINGS[:-1]:
        table.add_column(heading, justify="left" if heading in ("what", "met") else "right")
    for row in rows:
        style = {True: "green", False: "bold red", None: ""}[row.met]
        table.add_row(*(Text(cell, style if at == 3 else "") for at, cell in enumerate(_cells(row)[:-1])))
    console.print(table)
    console.print()


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
        # The page names the version above, once.
        re.sub(r"^(docker compose) .*", r"\1", row.peer or ""),
    )


def _amount(value: float, unit: str) -> str:
    return f"{value:.2f} s" if unit == "s" else f"{value:.0f} {unit}"
