"""The bench's arithmetic and its pages, from made-up measures; the bench itself measures a real engine."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from tests.bench import __main__ as bench, charts, machine, pages, places, readiness
from tests.bench.measure import (
    DOWN,
    DOWN_VOLUMES,
    ENGINE_DOWN,
    FIRST_UP,
    GOLDEN_UP,
    IMPORTS,
    KEPT_UP,
    RESET,
    SECOND_UP,
    START,
    STOP,
    alone,
    on,
)
from tests.bench.others import Missing, Task
from tests.bench.places import TESTS, Times
from tests.bench.process import Done, Failed, run, run_together, undisturbed
from tests.bench.rows import (
    KNOWN,
    SLOWEST,
    STOP_START,
    Row,
    Table,
    known,
    limits,
    make_table,
    other_rows,
    place_rows,
    slowest_alone,
)
from tests.bench.samples import Samples, cpu, operations
from tests.bench.scale import Point
from tests.bench.sides import OTHER_DATABASES, SERVICES
from tests.bench.snapshots import ENGINE_COPY, RESTORE, SAVE

COMPOSE = "docker compose 2.40.3"
OURS = {
    FIRST_UP: [8.0, 9.0, 7.0],
    SECOND_UP: [0.3],
    GOLDEN_UP: [5.0, 4.0, 6.0],
    KEPT_UP: [4.0],
    STOP: [1.0],
    START: [3.0],
    DOWN: [1.2],
    DOWN_VOLUMES: [0.5],
    RESET: [6.0],
    SAVE: [2.5],
    RESTORE: [4.5],
    "--help": [80.0],
    "status": [200.0],
    "memory": [440.0],
    "component, all four roles": [120.0],
    "100 components": [5.5],
    "component in a test, median": [2.5],
    "component in a test, worst": [80.0],
    **{alone(service): [seconds] for service, seconds in zip(SERVICES, (3.0, 4.0, 1.0, 4.5), strict=True)},
    **{on(database): [5.0] for database in OTHER_DATABASES},
    **{f"{readiness.READY}{service}": [20.0, 90.0, 30.0] for service in SERVICES},
}
THEIRS = {
    FIRST_UP: [20.0],
    SECOND_UP: [1.0],
    KEPT_UP: [6.0],
    STOP: [2.0],
    START: [6.0],
    DOWN: [2.2],
    DOWN_VOLUMES: [2.5],
    "memory": [850.0],
}
OPERATIONS = [
    {"action": "create network", "target": "devenv-my-project-bench-0123abcd", "cause": "", "began": 0.0, "ended": 0.1},
    {"action": "fill", "target": "devenv-my-project-bench-0123abcd-mysql-data", "began": 0.1, "ended": 1.0},
    {"action": "ready", "target": "mysql", "began": 1.0, "ended": 4.0},
    {"action": "drop", "target": "mysql/x"},
]


def samples(ours: dict[str, list[float]] = OURS, theirs: dict[str, list[float]] = THEIRS) -> Samples:
    made = Samples()
    for side, values in (("devenv", ours), ("compose", theirs)):
        for what, numbers in values.items():
            for number in numbers:
                made.add(what, side, number)
    return made


# Call it once: it measures how fast this machine is, which takes a while.
MACHINE = machine.machine()


def rows(measured: Samples, peer: str = COMPOSE) -> dict[str, Row]:
    return {row.name: row for row in make_table(measured, 508.0, peer).rows}


def report(measured: Samples, **more: object) -> pages.Report:
    versions = {"devenv": "0.1.0", "docker compose": "2.40.3"}
    made = {"table": make_table(measured, 508.0, COMPOSE), "profiles": {}, "known": known(measured)} | more
    return pages.Report("2026-01-02", MACHINE, versions, 3, **made)  # type: ignore[arg-type]


# ---- rows --------------------------------------------------------------------------------------------------------


def test_a_ratio_is_of_medians() -> None:
    row = rows(samples())[FIRST_UP]
    assert (row.value, row.unit, row.target, row.ours, row.peer_value) == (0.4, "x", 0.45, 8.0, 20.0)
    assert row.peer == COMPOSE
    assert row.met


def test_every_target_has_its_row() -> None:
    made = {row.name: (row.target, row.unit) for row in rows(samples()).values() if row.target is not None}
    assert made == {
        GOLDEN_UP: (0.28, "x"),
        SLOWEST: (1.3, "x"),
        FIRST_UP: (0.45, "x"),
        SECOND_UP: (0.35, "x"),
        DOWN_VOLUMES: (0.3, "x"),
        DOWN: (0.7, "x"),
        STOP: (0.7, "x"),
        STOP_START: (1.0, "x"),
        RESET: (1.0, "x"),
        SAVE: (3.0, "s"),
        RESTORE: (5.0, "s"),
        KNOWN: (100.0, "ms"),
        "devenv --help": (120.0, "ms"),
        "devenv status": (300.0, "ms"),
        "component, all four roles": (250.0, "ms"),
        "100 components": (15.0, "s"),
        "component in a test, median": (20.0, "ms"),
        "component in a test, worst": (100.0, "ms"),
        "memory, all services": (450.0, "MB"),
        "images, all services": (1100.0, "MB"),
    }


def test_a_golden_up_is_held_against_the_only_first_start_that_compose_knows() -> None:
    assert rows(samples())[GOLDEN_UP].value == 5.0 / 20.0


def test_down_and_stop_are_both_held_against_the_stop_of_compose() -> None:
    made = rows(samples())
    assert (made[DOWN].peer_value, made[STOP].peer_value) == (2.0, 2.0)


def test_devenv_is_held_against_itself_where_the_row_says_so() -> None:
    made = rows(samples())
    assert (made[STOP_START].ours, made[STOP_START].peer_value, made[STOP_START].value) == (4.0, 5.0, 0.8)
    assert (made[RESET].value, made[RESET].met, made[RESET].peer) == (1.2, False, "devenv up, golden")
    assert (made[SLOWEST].peer, made[SLOWEST].peer_value) == ("devenv up keystone, golden", 4.5)
    for database in OTHER_DATABASES:
        assert (made[on(database)].value, made[on(database)].peer) == (1.0, "devenv up, golden")


def test_the_slowest_service_is_known_only_when_all_were_measured() -> None:
    some = {what: values for what, values in OURS.items() if what != alone("etcd")}
    assert slowest_alone(samples()) == ("keystone", 4.5)
    assert slowest_alone(samples(some)) == ("keystone", None)
    assert SLOWEST in make_table(samples(some), 508.0, COMPOSE).unmeasured


def test_what_devenv_knows_late_is_the_worst_of_the_medians() -> None:
    made = samples(OURS | {f"{readiness.READY}etcd": [10.0, 500.0, 120.0]})
    assert known(made) == {"mysql": 30.0, "rabbitmq": 30.0, "etcd": 120.0, "keystone": 30.0}
    assert (rows(made)[KNOWN].value, rows(made)[KNOWN].met) == (120.0, False)


def test_a_service_whose_readiness_was_not_seen_makes_no_row() -> None:
    some = {what: values for what, values in OURS.items() if what != f"{readiness.READY}etcd"}
    table = make_table(samples(some), 508.0, COMPOSE)
    assert KNOWN in table.unmeasured
    assert KNOWN not in [row.name for row in table.rows]


def test_without_compose_its_rows_are_seconds_without_a_target() -> None:
    table = make_table(samples(theirs={}), 508.0, "")
    made = {row.name: row for row in table.rows}
    assert (made[FIRST_UP].value, made[FIRST_UP].unit, made[FIRST_UP].target) == (8.0, "s", None)
    assert "memory" not in made
    assert set(table.unmeasured) == {GOLDEN_UP, FIRST_UP, SECOND_UP, DOWN_VOLUMES, DOWN, STOP}


def test_limits_are_told_when_all_that_they_are_made_of_was_measured() -> None:
    assert limits(samples(), 2) is None
    more = {
        IMPORTS: [150.0],
        ENGINE_COPY: [2.0],
        ENGINE_DOWN: [0.4],
        cpu(GOLDEN_UP): [6.0, 7.0, 8.0],
        cpu(alone("keystone")): [3.0],
    }
    found = limits(samples(OURS | more), 2)
    assert found and (found.slowest, found.golden_least, found.engine_down) == ("keystone", 3.5, 0.4)
    page = pages.as_markdown(report(samples(OURS | more), limits=found))
    for words in (
        "at work for 7.0 s",
        "cannot be below 0.78",
        "takes 0.60 of a golden",
        "Of the 200 ms",
        "needs 150 ms",
    ):
        assert words in page


def test_rows_beside_other_tools_are_for_information() -> None:
    task = Task("pifpaf", ("rabbitmq",), "3.4.0", "RabbitMQ 3.10.8")
    made = samples({f"up: {task.what}": [3.0]}, {})
    made.add(f"up: {task.what}", "pifpaf", 6.0)
    assert other_rows(made, [task]) == [
        Row("up, rabbitmq", 0.5, "x", None, 3.0, "pifpaf 3.4.0 with RabbitMQ 3.10.8", 6.0)
    ]


def test_rows_of_places_are_beside_the_first_place_where_both_were_measured() -> None:
    here, there = Times("Docker", {FIRST_UP: 8.0}), Times("attached", {FIRST_UP: 2.0, TESTS: 9.0})
    assert place_rows([here, there]) == [
        Row(f"Docker: {FIRST_UP}", 8.0, "s", None, 8.0),
        Row(f"attached: {FIRST_UP}", 0.25, "x", None, 2.0, f"devenv {FIRST_UP}, Docker", 8.0),
        Row(f"attached: {TESTS}", 9.0, "s", None, 9.0),
    ]
    assert place_rows([]) == []


# ---- pages -------------------------------------------------------------------------------------------------------


def test_the_json_keeps_its_interface() -> None:
    data = json.loads(pages.as_json(report(samples())))
    assert {"machine", "date", "versions", "rows"} <= set(data)
    for row in data["rows"]:
        assert set(row) == {"name", "value", "unit", "target", "ours", "peer", "peer_value"}
        assert isinstance(row["value"], float)


def test_a_missed_target_is_in_the_first_sentence_and_what_was_not_measured_in_the_second() -> None:
    some = {what: values for what, values in OURS.items() if what != SAVE}
    summary = report(samples(some)).summary
    assert summary == f"1 of 19 targets MISSED: {RESET}. Not measured: {SAVE}."


def test_nothing_is_called_met_when_nothing_was_measured() -> None:
    assert report(Samples(), table=Table([])).summary == "No target was measured."


def test_the_page_has_every_row_and_no_leftover_of_its_template() -> None:
    profiles = {what: (5.0, OPERATIONS) for what in (FIRST_UP, GOLDEN_UP, RESET, STOP, START)}
    points = [Point(1, 3.0, 460.0, 400.0), Point(8, 20.0, 3700.0, 2100.0)]
    others = [Row("up, etcd", 2.0, "x", None, 2.0, "pifpaf 3.4.0", 1.0)]
    everywhere = [Times("Docker", {FIRST_UP: 8.0, TESTS: 10.0}), Times("Kubernetes 1.20.2", {TESTS: 20.0})]
    full = report(
        samples(),
        **{"profiles": profiles, "scale": points, "others": others, "missing": [Missing("x", "not there")]},
        **{"places": everywhere, "absent": [Missing("Podman", "no mmdebstrap")]},
    )
    page = pages.as_markdown(full)
    assert not re.search(r"\{\w*\}", page + pages.operations(full))
    assert f"### {GOLDEN_UP}\n" in pages.operations(full)
    for row in full.table.rows:
        assert f"| {row.name} |" in page
    assert "![Two charts of cost" in page
    assert "| 8 | 20.0 s | 2.5 s | 3700 MB | 2100 MB | 262 MB |" in page
    assert "| up, etcd | 2.00 x | 2.00 s | 1.00 s | pifpaf 3.4.0 |" in page
    assert "- x: not there" in page
    assert "| Kubernetes 1.20.2 |  |  |  | 20.00 s |  |" in page
    assert "- Podman: no mmdebstrap" in page
    data = json.loads(pages.as_json(full))
    assert [one["what"] for one in data["not_measured"]] == ["x"]
    assert [one["what"] for one in data["places"]["not_measured"]] == ["Podman"]
    assert max(map(len, (line for line in page.splitlines() if not line.startswith(("|", "![", "**"))))) <= 120


def test_places_alone_replace_what_a_page_says_of_places_and_nothing_else(tmp_path: Path) -> None:
    before, after = ([Times("Docker", {TESTS: seconds})] for seconds in (10.0, 20.0))
    pages.write(report(samples(), places=before), tmp_path)
    whole = (tmp_path / "benchmarks.md").read_text()
    later = replace(report(samples({}, {}), places=after), date="2027-01-02")
    pages.write_places(later, tmp_path)
    page, data = ((tmp_path / f"benchmarks.{kind}").read_text() for kind in ("md", "json"))
    heading = "## In every place"
    assert page.partition(heading)[0] == whole.partition(heading)[0] and "2027-01-02" in page.partition(heading)[2]
    assert "| 20.00 s |" in page and "| 10.00 s |" not in page
    assert {**json.loads(data), "places": None} == {**json.loads(pages.as_json(report(samples()))), "places": None}
    assert [row["ours"] for row in json.loads(data)["places"]["rows"]] == [20.0]


def test_a_page_of_a_part_says_what_was_not_measured() -> None:
    part = report(samples({"--help": [80.0]}, {}))
    page = pages.as_markdown(part)
    assert page.count("Not measured in this run.") == 4
    assert "Not measured in this run." in pages.operations(part)
    assert "| devenv --help | 80 ms | <= 120 ms | yes | 80 ms |  |  |" in page


def test_a_missed_row_shows_the_runs_that_say_why() -> None:
    profiles = {what: (5.0, OPERATIONS) for what in OURS}
    slow = samples(OURS | {START: [9.0], alone("keystone"): [1.0], alone("rabbitmq"): [1.0], GOLDEN_UP: [5.5]})
    wanted = pages.profiled(report(slow, profiles=profiles))
    assert wanted[:3] == [FIRST_UP, GOLDEN_UP, RESET]
    assert set(wanted[3:]) == {STOP, START, *map(alone, SERVICES)}


def test_the_terminal_gets_80_columns() -> None:
    with Path(os.devnull).open("w") as nowhere:
        console = Console(width=80, file=nowhere, record=True, highlight=False)
        long = [Times("Kubernetes 1.20.2", {FIRST_UP: 1234.5})]
        pages.show(report(samples(), scale=[Point(1, 3.0, 460.0, None)], places=long), console)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("up, golden, to slowest alone") for line in lines)


def test_an_operation_is_drawn_from_its_begin_to_its_end_without_the_environments_name() -> None:
    lines = charts.spans_chart(GOLDEN_UP, 5.0, OPERATIONS)
    assert [line[:26].strip() for line in lines[1:4]] == ["create network", "fill mysql-data", "ready mysql"]
    assert lines[3].endswith(" " + "█" * 26)
    assert lines[-1] == "before and after the plan           1.00 (of 5.00 s, 'up, golden')"


# ---- places ------------------------------------------------------------------------------------------------------


def test_a_place_that_cannot_be_had_is_reported_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def without(error: BaseException) -> Iterator[places.Place]:
        raise error
        yield

    errors = {
        "Docker over ssh": pytest.skip.Exception("no ssh or unshare"),
        "Podman": Failed("cannot finish 'start': exit code 1\ncannot make trixie: no mmdebstrap\nhint: install it"),
        "Kubernetes": AssertionError("('start', '1'): 1\nonly root may"),
    }
    monkeypatch.setattr(places, "_OPENERS", {name: lambda *_, e=e: without(e) for name, e in errors.items()})
    side = SimpleNamespace(folder=tmp_path, run=lambda *arguments: Path(arguments[-1]).touch())
    times, missing = places.measure_places(side, [], 1, Samples(), lambda _: None)  # type: ignore[arg-type]
    assert times == []
    assert [one.reason for one in missing] == [
        "no ssh or unshare",
        "cannot make trixie: no mmdebstrap",
        "only root may",
    ]


# ---- readiness ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "operation"),
    [
        ("  ready mysql: 3.3 s\n", "ready mysql"),
        ("  create etcd (no container): 0.3 s\n", "create etcd"),
        ("  provision mysql/keystone (new): 0.0 s\n", ""),
        ("  ready mysql FAILED after 3.3 s: no\n", ""),
        ("up in 3.3 s\n", ""),
    ],
)
def test_progress_tells_which_operation_has_ended(line: str, operation: str) -> None:
    assert readiness.ended_operation(line) == operation


def test_a_service_is_ready_when_it_last_logged_so() -> None:
    logs = {
        "mysql": [
            "2026-11-24T10:45:59.841795588Z … /usr/sbin/mysqld: ready for connections. Version: '9.7.4-2'",
            "2026-11-24T10:46:59.841795588Z … /usr/sbin/mysqld: ready for connections. Version: '9.7.4-2'",
        ],
        "rabbitmq": ["2026-11-24T10:45:59.595149270Z  completed with 3 plugins."],
        "keystone": ["2026-11-24T10:46:00.7Z serving http://127.0.0.1:5000/v3 after 3.80 s"],
    }
    found = readiness.ready_times(logs, since=1795517159.7)
    assert found == {"mysql": 1795517219.841795, "keystone": 1795517160.7}


# ---- samples and programs ----------------------------------------------------------------------------------------


def test_the_typical_run_is_the_one_of_median_length() -> None:
    made = Samples()
    for seconds in (9.0, 1.0, 4.0):
        made.note("x", "devenv", Done(seconds, json.dumps({"operations": [{"action": f"{seconds}"}]})), lambda _: None)
    assert made.typical("x") == (4.0, [{"action": "4.0"}])
    assert made.typical("y") is None


def test_a_run_that_built_images_is_no_measure() -> None:
    with pytest.raises(Failed, match="run the bench again"):
        operations(Done(1.0, json.dumps({"operations": [{"action": "build image"}]})))


def test_a_program_is_heard_while_it_runs() -> None:
    heard: list[str] = []
    script = "import sys; print('out'); print('one', file=sys.stderr); print('two', file=sys.stderr)"
    done = run([sys.executable, "-c", script], {}, hear=lambda when, line: heard.append(line.strip()))
    assert (done.output, heard) == ("out\n", ["one", "two"])


def test_a_failed_program_shows_what_it_printed_last() -> None:
    with pytest.raises(Failed, match=r"exit code 3\nno luck"):
        run([sys.executable, "-c", "import sys; print('no luck', file=sys.stderr); sys.exit(3)"], {})
    with pytest.raises(Failed, match=r"exit code 1\nno luck"):
        run_together([[sys.executable, "-c", "import sys; sys.exit('no luck')"], [sys.executable, "-c", ""]], {})


def test_an_interrupt_reaches_all_programs_and_is_waited_for(tmp_path: Path) -> None:
    script = """
import os, pathlib, signal, sys
path = pathlib.Path(sys.argv[1])
try:
    path.touch()
    signal.pause()
except KeyboardInterrupt:
    path.rename(path.with_suffix('.ended'))
"""
    paths = [tmp_path / "one", tmp_path / "two"]
    watcher = threading.Thread(target=_interrupt_when, args=(paths,))
    watcher.start()
    with pytest.raises(KeyboardInterrupt):
        run_together([[sys.executable, "-c", script, str(path)] for path in paths], {})
    watcher.join()
    assert all(path.with_suffix(".ended").exists() for path in paths)


def test_no_interrupt_ends_what_puts_things_in_order() -> None:
    handler = signal.getsignal(signal.SIGTERM)
    with undisturbed():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is handler


def _interrupt_when(paths: list[Path]) -> None:
    """Interrupt this program as soon as all files are there."""
    pause = threading.Event()
    while not all(path.exists() for path in paths):
        pause.wait(0.01)
    os.kill(os.getpid(), signal.SIGINT)


# ---- options -----------------------------------------------------------------------------------------------------


def test_only_a_complete_run_writes_docs() -> None:
    assert bench.parse([]).output.name == "docs"
    assert bench.parse([]).rounds == 3
    part = bench.parse(["--only", "scale", "--only", "rounds"])
    assert (part.parts, part.output) == (("rounds", "scale"), None)


def test_a_part_may_not_be_written_over_docs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.parse(["--only", "scale", "--output", str(bench.parse([]).output)])
    assert "needs all parts" in capsys.readouterr().err
