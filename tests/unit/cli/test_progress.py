"""What people see while devenv works, on a terminal and elsewhere."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from pseudo_terminal import on_terminal

from devenv.cli.progress import Live, Plain, reporter
from devenv.model import Operation, Plan

CREATE = Operation("create", "mysql", "no container")
START = Operation("start", "mysql", "container exited 3", ("create mysql",))
READY = Operation("ready", "mysql", after=("start mysql",))
NEEDY = (
    Operation("start", "keystone", "no container", ("ready mysql",)),
    Operation("ready", "keystone", after=("start keystone",)),
)
ETCD = Operation("ready", "etcd")
NOVA = (
    Operation("provision", "mysql/nova", "new", ("ready mysql",)),
    Operation("provision", "etcd/nova", "new", ("ready etcd",)),
)


@pytest.fixture(autouse=True)
def no_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "")


# ---- plain lines -------------------------------------------------------------------------------------------------


def test_plain_lines_tell_what_was_done_and_why() -> None:
    stream = io.StringIO()
    report = Plain(stream)
    report.begin(Plan((START, READY)))
    report.started(START)
    report.finished(START, 0.25)
    report.progress(READY, "connection refused")
    report.finished(READY, 1.5)
    report.failed(READY, 2.0, "cannot use mysql")
    report.failed(READY, 2.0, "")  # Another line has told it.
    report.note("waiting for another devenv")
    report.end()
    assert stream.getvalue() == (
        "  start mysql (container exited 3): 0.2 s\n"
        "  ready mysql: 1.5 s\n"
        "  ready mysql FAILED after 2.0 s: cannot use mysql\n"
        "waiting for another devenv\n"
    )


@pytest.mark.parametrize("action", ["build image", "pull image", "fetch wheels"])
def test_what_takes_minutes_is_told_when_it_begins(action: str) -> None:
    stream = io.StringIO()
    Plain(stream).started(Operation(action, "mysql", "image missing"))
    assert stream.getvalue() == f"  {action} mysql (image missing) …\n"


@pytest.mark.parametrize("action", ["create", "start", "ready", "stop", "remove", "provision", "create network"])
def test_what_is_done_soon_is_told_when_it_is_done(action: str) -> None:
    stream = io.StringIO()
    Plain(stream).started(Operation(action, "mysql", "no container"))
    assert stream.getvalue() == ""


def test_each_step_of_a_build_is_told_once_in_one_short_line() -> None:
    stream = io.StringIO()
    report = Plain(stream)
    build = Operation("build image", "mysql")
    for text in ("Step 1/2 : FROM x", "Step 1/2 : FROM x", "unpacking", "Step 2/2 : RUN " + "x" * 500):
        report.progress(build, text)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "  build image mysql: Step 1/2 : FROM x" and len(lines) == 2
    assert len(lines[1]) <= 100


# ---- a terminal --------------------------------------------------------------------------------------------------


def live(stream: Any) -> None:
    report = reporter(stream)
    report.begin(Plan((START, ETCD, READY)))
    report.started(START)
    report.finished(START, 0.2)
    report.started(ETCD)
    report.finished(ETCD, 0.1)
    report.started(READY)
    report.progress(READY, "[errno] " + "x" * 300)
    report.note("a note [/with] brackets")
    report.failed(READY, 1.0, "no answer [/at all]")
    report.end()


def lines_of(report: Live) -> list[str]:
    """Return the lines that a live display shows now, with single spaces and without times."""
    text = re.sub(r" +[0-9.]+ s\b", "", str(report._lines()))
    return [re.sub(" +", " ", line).rstrip() for line in text.splitlines()]


@pytest.fixture
def report() -> Live:
    return Live(io.StringIO())


def test_a_line_says_in_words_what_devenv_waits_for(report: Live) -> None:
    report._reset(Plan((CREATE, START, READY, *NEEDY)))
    assert lines_of(report) == ["… mysql waiting", "… keystone waiting for mysql", "0 of 2 services ready"]
    report.started(CREATE)
    assert lines_of(report)[0] == "… mysql creating (no container)"
    report.finished(CREATE, 0.1)
    report.started(START)
    assert lines_of(report)[0] == "… mysql starting (container exited 3)"
    report.finished(START, 0.1)
    report.started(READY)
    report.progress(READY, "not accepting logins yet")
    assert lines_of(report)[0] == "… mysql starting not accepting logins yet"


def test_a_cause_is_told_once(report: Live) -> None:
    start = Operation("start", "mysql", "no container", ("create mysql",))
    report._reset(Plan((CREATE, start, READY)))
    report.started(CREATE)
    report.finished(CREATE, 0.1)
    report.started(start)
    assert lines_of(report)[0] == "… mysql starting"


def test_a_service_is_ready_when_its_probe_says_so_and_not_before(report: Live) -> None:
    report._reset(Plan((START, READY, ETCD)))
    for operation in (START, READY):
        report.started(operation)
        assert not re.search(r"✓|mysql ready", "\n".join(lines_of(report)))
        assert lines_of(report)[-1] == "0 of 2 services ready"
        report.finished(operation, 0.1)
    assert lines_of(report) == ["✓ mysql ready", "… etcd waiting", "1 of 2 services ready"]


def test_a_service_that_runs_already_is_checked_and_not_started(report: Live) -> None:
    report._reset(Plan((ETCD,)))
    report.started(ETCD)
    assert lines_of(report) == ["… etcd checking", "0 of 1 service ready"]


def test_a_component_is_one_line_that_counts_its_parts(report: Live) -> None:
    report._reset(Plan((READY, ETCD, *NOVA)))
    report.started(NOVA[0])
    assert lines_of(report)[2] == "… nova adding 0 of 2 done"
    report.finished(NOVA[0], 0.1)
    assert lines_of(report)[2] == "… nova adding 1 of 2 done"
    report.started(NOVA[1])
    report.finished(NOVA[1], 0.1)
    assert lines_of(report)[2] == "✓ nova done"


def test_many_components_share_one_line(report: Live) -> None:
    parts = [Operation("provision", f"mysql/c{number}", "new", ("ready mysql",)) for number in range(40)]
    report._reset(Plan((READY, *parts)))
    for part in parts[:3]:
        report.started(part)
        report.finished(part, 0.1)
    assert lines_of(report) == ["… mysql waiting", "… components adding 3 of 40 done", "0 of 1 service ready"]


def test_what_a_failure_leaves_undone_is_not_called_ready(report: Live) -> None:
    report._reset(Plan((START, READY, *NEEDY, ETCD)))
    report.started(START)
    report.failed(START, 1.0, "cannot start mysql")
    report.started(ETCD)
    report.finished(ETCD, 0.1)
    report.end()
    assert lines_of(report) == [
        "✗ mysql failed cannot start mysql",
        "- keystone not ready",
        "✓ etcd ready",
        "1 of 3 services ready",
    ]


def test_a_plan_that_brings_nothing_up_counts_no_services(report: Live) -> None:
    stop = Operation("stop", "mysql", "down", subject="1")
    report._reset(Plan((stop,)))
    report.started(stop)
    assert lines_of(report) == ["… mysql stopping (down)"]
    report.finished(stop, 0.1)
    assert lines_of(report) == ["✓ mysql stopped"]


def test_a_second_plan_begins_with_lines_of_its_own() -> None:
    def twice(stream: Any) -> None:
        report = reporter(stream)
        for operation in (START, ETCD):
            report.begin(Plan((operation,)))
            report.started(operation)
            report.finished(operation, 0.1)
            report.end()

    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", on_terminal(twice)).split("mysql")[-1]
    assert "etcd" in last and "1 of 1 service ready" in last


def test_a_terminal_gets_live_progress_that_fits_its_width() -> None:
    output = on_terminal(live)
    assert "\x1b[" in output
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output)
    assert max(len(line) for line in re.split(r"[\r\n]+", plain)) <= 80
    assert "✗ mysql" in plain and "✓ etcd" in plain
    assert "no answer [/at all]" in plain and "a note [/with] brackets" in plain


def test_no_colour_is_honoured_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    codes = re.findall(r"\x1b\[([0-9;]*)m", on_terminal(live))
    assert not [code for code in codes if re.search(r"(?:^|;)(?:3[0-7]|9[0-7]|38)", code)]


def test_live_progress_is_for_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(reporter(io.StringIO()), Plain)
    kinds: list[type] = []
    on_terminal(lambda stream: kinds.append(type(reporter(stream))))
    for name, value in (("CI", "true"), ("TERM", "dumb")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            on_terminal(lambda stream: kinds.append(type(reporter(stream))))
    assert kinds == [Live, Plain, Plain]
