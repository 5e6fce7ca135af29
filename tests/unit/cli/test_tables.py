"""Tables, the summary of `up` and the chart, on a terminal and elsewhere."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from builders import operation, service
from pseudo_terminal import on_terminal

from devenv.cli.progress import console
from devenv.cli.tables import bar, check_table, rows_table, service_spans, status_table, summary, timing_chart
from devenv.lifecycle.timing import Run, Span, Step
from devenv.model import Operation, Plan, Result, Timing
from devenv.services.readiness import ServiceStatus

READY = operation("ready mysql", after=("start mysql",))


@pytest.fixture(autouse=True)
def no_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "")


def printed(table: Any) -> list[str]:
    stream = io.StringIO()
    console(stream).print(table)
    return stream.getvalue().splitlines()


def status(state: str, reason: str = "", ports: int = 1) -> ServiceStatus:
    endpoints = {str(n): {"host": "127.0.0.1", "port": 15672 + n, "url": ""} for n in range(ports)}
    return ServiceStatus("role", state, "image", "container", endpoints, reason)


def test_the_status_table_fits_80_columns_and_loses_nothing() -> None:
    reason = "(1045, \"Access denied for user 'devenv'@'172.18.0.1'\") " + "and more " * 20
    lines = printed(status_table({"rabbitmq": status("starting", reason, 2), "etcd": status("absent", "no container")}))
    assert max(map(len, lines)) <= 80
    assert "127.0.0.1:15672" in " ".join(lines) and "127.0.0.1:15673" in " ".join(lines)
    assert "".join(lines).count("more") == 20
    assert "127.0.0.1" not in lines[-1]  # an absent service has no address


def test_a_reason_is_shown_as_it_is() -> None:
    assert "[errno] [/odd]" in printed(status_table({"etcd": status("failed", "[errno] [/odd]")}))[1]


def test_a_table_in_a_pipe_has_no_escapes() -> None:
    assert "\x1b" not in "".join(printed(status_table({"etcd": status("failed", "x")})))


def test_other_tables_fit_80_columns() -> None:
    @dataclass
    class Check:
        name: str = "port 3306"
        status: str = "fail"
        detail: str = "somebody has it " * 10
        hint: str = "end it [/now] " * 10

    assert max(map(len, printed(check_table([Check()])))) <= 80
    image = "registry.example.org/openstack/devenv/keystone@sha256:" + "0" * 64
    lines = printed(rows_table(("SERVICE", "IMAGE", "SIZE"), [("keystone", image, "100 MB")]))
    assert max(map(len, lines)) <= 80 and "keystone" in lines[1]
    assert "[/x]" in printed(rows_table(("A",), [("[/x]",)]))[1]


# ---- the summary -------------------------------------------------------------------------------------------------


def test_a_bar_shows_a_span_of_the_whole() -> None:
    assert bar(0.0, 1.0, 1.0) == "█" * 24
    assert bar(0.5, 1.0, 1.0) == " " * 12 + "█" * 12
    assert bar(0.0, 0.0, 1.0) == bar(0.0, 1.0, 0.0) == ""
    assert len(bar(0.999, 1.0, 1.0)) == 24 and bar(0.999, 1.0, 1.0)[-1] == "█"


def test_a_services_span_covers_all_that_was_done_for_it() -> None:
    timings = [Timing(operation("create a"), 2, 3), Timing(operation("ready a"), 3, 5)]
    timings += [Timing(Operation("fill", "devenv-env-a-data", service="a"), 1, 2)]
    timings += [Timing(Operation("create network", "n"), 0, 1), Timing(operation("provision a/b"), 5, 9)]
    assert service_spans(timings) == {"a": (1, 5)}


@pytest.mark.parametrize("name", ["plain", "odd[/b]", "[red]", "long" * 30])
def test_the_summary_names_endpoints_files_and_time(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path("/p") / name / ".devenv"
    environment: Any = SimpleNamespace(folder=folder)
    plan = Plan((operation("create mysql"),))
    timings = [Timing(plan.operations[0], 0.0, 2.0)]
    summary(environment, Result(plan, {"mysql": service()}, timings, [folder / "openrc", folder / "env"]), 2.5)
    output = capsys.readouterr().out
    assert "127.0.0.1:1" in output and "2.0 s" in output
    assert f"wrote to {folder}: env," in output  # the complete path, to copy
    assert "openrc\n" in output
    assert output.endswith("up in 2.5 s\n")


def test_the_summary_says_when_there_was_nothing_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    environment: Any = SimpleNamespace(folder=Path("/p/.devenv/environments/two"))
    summary(environment, Result(Plan((READY,)), {"mysql": service()}), 0.5)
    assert capsys.readouterr().out.endswith(
        "/p/.devenv/environments/two is up to date\nnothing to do, all ready in 0.5 s\n"
    )


# ---- what took how long ------------------------------------------------------------------------------------------


def a_run(*operations: Step, seconds: float = 11.0) -> Run:
    phases = (Span("start devenv", 0.0, 1.0), Span("write files", seconds - 1, seconds))
    return Run("id-1", "2026-11-22T10:11:12+00:00", "1", seconds, phases, operations)


PART = Step("drop mysql/b", 6.0, 10.0, "", ("ready mysql",))
TWO = a_run(Step("ready etcd", 1.0, 2.0), Step("ready mysql", 1.0, 4.0), PART)


def test_the_chart_has_a_bar_for_each_operation_on_one_axis() -> None:
    lines = timing_chart(TWO).splitlines()
    assert lines[0] == "" and re.fullmatch(
        r"last up, 2026-11-2\d \d\d:\d1:12: █ critical, ░ at the same time, · waiting", lines[1]
    )
    assert lines[2:] == [
        "OPERATION       SECONDS  |0        |2        |4        |6        |8        |10",
        "start devenv       1.00  █████",
        "ready etcd         1.00       ░░░░░",
        "ready mysql        3.00       ███████████████",
        "drop mysql/b       4.00                      ··········████████████████████",
        "write files        1.00                                                    █████",
        "critical: ready mysql -> drop mysql/b, 9.0 of 11.0 s (2.0 s of them waiting for",
        "  a free place); most of it: drop mysql/b 4.0 s",
    ]


def parts(count: int) -> list[Step]:
    """Return steps that provision so many components on each of four services, six at a time."""
    names = ("mysql", "rabbitmq", "etcd", "keystone")
    times = [(1 + n // 6 * 0.1, 1.1 + n // 6 * 0.1) for n in range(count)]
    return [
        Step(f"provision {name}/component-{n}", began, ended, "new", (f"ready {name}",), name)
        for name in names
        for n, (began, ended) in enumerate(times)
    ]


@pytest.mark.parametrize("columns", [20, 60, 80, 100, 200])
@pytest.mark.parametrize("count", [0, 6, 100])
@pytest.mark.parametrize("seconds", [4.0, 11.0, 3600.0])
def test_the_chart_fits_the_terminal_and_one_screen(
    columns: int, count: int, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    run = a_run(*parts(count), Step("remove " + "x" * 99, 1.0, 1.0), seconds=seconds)
    lines = timing_chart(run).splitlines()
    fitting = [line for line in lines if not line.startswith(("critical", "  ", "last up"))]
    # The chart never drops names or numbers for bars.
    assert max(map(len, fitting)) <= max(min(columns, 120), 55)
    assert len(lines) <= 40
    if count == 100:
        assert next(line.split(" (")[0] for line in lines if "(100)" in line) == "provision mysql"
    if columns >= 80:
        assert max(map(len, lines)) <= columns


@pytest.mark.parametrize("seconds", [0.0, 0.0004, 0.37, 59.0, 1e7])
def test_the_axis_has_marks_however_long_it_took(seconds: float) -> None:
    run = Run("id-1", "2026-11-22T10:11:12+00:00", "1", seconds, (Span("plan", 0.0, seconds),), ())
    assert re.search(r"SECONDS  \|0 .*\|" if seconds else r"SECONDS  \|0", timing_chart(run))


def charted(stream: Any) -> None:
    with redirect_stdout(stream):
        print(timing_chart(TWO))


def test_what_was_critical_has_another_colour_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    coloured = on_terminal(charted)
    assert "\x1b[33m█" in coloured and "\x1b[36m░" in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in on_terminal(charted)
    assert "\x1b" not in timing_chart(TWO)
