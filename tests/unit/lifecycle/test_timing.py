"""The timing of an `up`: how devenv notes and keeps it, and which operations were critical."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fake_engine import FakeEngine, Recorder
from hypothesis import given, strategies as st
from runs import ID, TYPICAL, run_of, step

from devenv.cli.main import main
from devenv.errors import ConfigError, ServiceFailed
from devenv.lifecycle.environment import Environment
from devenv.lifecycle.timing import (
    CRITICAL,
    OTHER,
    WAITING,
    Run,
    Step,
    Watch,
    as_data,
    critical,
    in_words,
    process_began,
    rows,
    understood,
    waits,
)
from devenv.lifecycle.trace import as_trace, write_trace
from devenv.model import Operation, Plan, Report
from devenv.store.files import check_place
from devenv.store.state import State

# ---- what was critical -------------------------------------------------------------------------------------------


def test_the_chain_goes_back_over_what_ended_last() -> None:
    assert [(link.span.key, link.waited) for link in critical(TYPICAL)] == [
        ("start devenv", 0.0),
        ("start mysql", 0.0),
        ("ready mysql", 0.0),
        ("provision mysql/keystone", 0.0),
        ("ready keystone", 0.25),
        ("write files", 0.0),
    ]


def test_it_is_told_in_words() -> None:
    assert in_words(TYPICAL) == (
        "critical: start mysql -> ready mysql -> provision mysql/keystone -> ready keystone, 6.8 of 7.5 s"
        " (0.2 s of them waiting for a free place); most of it: ready mysql 4.5 s"
    )


def test_where_nothing_was_done_devenv_itself_is_what_took_time() -> None:
    told = in_words(run_of())
    assert told == "critical: nothing but devenv itself, 0.00 of 0.75 s; most of it: start devenv 0.50 s"


def test_the_longest_may_be_a_wait() -> None:
    run = run_of(step("ready mysql", 0.5, 1.0), step("provision mysql/b", 5.0, 6.0, "ready mysql"))
    assert in_words(run).endswith("most of it: waiting before provision mysql/b 4.0 s")


def test_what_is_not_there_was_not_waited_for() -> None:
    run = run_of(step("ready mysql", 1.0, 2.0, "start mysql"))
    assert [link.span.key for link in critical(run)] == ["start devenv", "ready mysql", "write files"]
    assert waits(run) == {"ready mysql": 0.5}


def test_operations_that_wait_for_each_other_do_no_harm() -> None:
    run = run_of(step("ready a", 1.0, 1.0, "ready b"), step("ready b", 1.0, 1.0, "ready a"))
    assert len(critical(run)) == 4


@st.composite
def runs(draw: st.DrawFn) -> Run:
    """Draw a run of any plan, executed in one to four places."""
    count = draw(st.integers(0, 12))
    places = [float(draw(st.integers(0, 9)))] * draw(st.integers(1, 4))
    begins, steps = places[0], []
    for number in range(count):
        after = draw(st.sets(st.sampled_from(steps))) if steps else set()
        place = min(range(len(places)), key=places.__getitem__)
        began = max([places[place], *(other.ended for other in after)]) + draw(st.integers(0, 2))
        ended = began + draw(st.integers(0, 9))
        places[place] = ended
        steps.append(step(f"ready s{number}", began, ended, *(other.key for other in after)))
    return run_of(*steps, begins=begins, ends=float(draw(st.integers(0, 3))))


@given(runs())
def test_the_chain_adds_up_to_the_whole_and_hangs_together(run: Run) -> None:
    links = critical(run)
    assert sum(link.waited + link.span.seconds for link in links) == pytest.approx(run.seconds)
    assert all(link.waited >= 0 for link in links)
    chain = [link.span for link in links if isinstance(link.span, Step)]
    assert all(one.key in other.after for one, other in itertools.pairwise(chain))
    assert bool(chain) == bool(run.operations)
    if chain:
        assert chain[-1].ended == max(one.ended for one in run.operations)
        assert not chain[0].after


@given(runs())
def test_what_was_critical_waited_as_long_as_its_link_says(run: Run) -> None:
    waited = waits(run)
    assert min(waited.values(), default=0) >= 0
    for link in critical(run):
        if isinstance(link.span, Step):
            assert waited[link.span.key] == pytest.approx(link.waited)


# ---- what a chart shows ------------------------------------------------------------------------------------------


def test_each_operation_has_a_row_in_the_order_of_its_beginning() -> None:
    found = rows(TYPICAL)
    assert [row.name for row in found] == [
        "start devenv",
        "start mysql",
        "start keystone",
        "ready mysql",
        "provision mysql/keystone",
        "ready keystone",
        "write files",
    ]
    assert found[2].pieces[1:] == ((OTHER, 0.5, 1.5),)
    assert found[5].pieces == ((WAITING, 5.75, 6.0), (CRITICAL, 6.0, 7.25))


def test_many_components_share_a_row_for_each_service() -> None:
    ready = step("ready mysql", 0.5, 1.0)
    parts = [step(f"provision mysql/c{n}", 1.0 + n, 2.0 + n, "ready mysql", failed=n == 5) for n in range(100)]
    found = rows(run_of(ready, *parts))
    assert [row.name for row in found] == [
        "start devenv",
        "ready mysql",
        "provision mysql (100), failed",
        "write files",
    ]
    assert found[2].seconds == 100
    assert found[2].pieces[-1] == (CRITICAL, 100.0, 101.0)  # inside another piece, so drawn last
    few = rows(run_of(ready, *parts[:3]))
    assert [row.name for row in few][2:5] == [f"provision mysql/c{n}" for n in range(3)]


def test_names_are_without_what_all_have_in_common() -> None:
    run = run_of(step(f"create network devenv-{ID}", 0.5, 1), step(f"fill devenv-{ID}-mysql-data", 0.5, 1))
    assert [row.name for row in rows(run)][1:3] == ["create network", "fill mysql-data"]


def test_a_phase_that_took_no_time_has_no_row() -> None:
    assert "write files" not in [row.name for row in rows(run_of(step("ready a", 0.5, 1), ends=0.001))]


# ---- as data -----------------------------------------------------------------------------------------------------


def test_the_data_say_what_was_critical_and_what_waited() -> None:
    data = json.loads(json.dumps(as_data(TYPICAL)))
    assert data["seconds"] == 7.5 and data["environment"] == ID and data["version"] == "1.2"
    assert data["phases"][0] == {"key": "start devenv", "began": 0.0, "ended": 0.5, "waited": 0.0}
    assert data["operations"][-1] == {
        "key": "ready keystone",
        "cause": "new",
        "began": 6.0,
        "ended": 7.25,
        "after": ["start keystone", "provision mysql/keystone"],
        "service": "keystone",
        "failed": False,
        "waited": 0.25,
        "critical": True,
    }
    assert [one["key"] for one in data["operations"] if not one["critical"]] == ["start keystone"]
    assert data["critical"] == [link.span.key for link in critical(TYPICAL)]
    late = replace(TYPICAL, phases=(*TYPICAL.phases[:-1], replace(TYPICAL.phases[-1], began=7.3)))
    spans = {span["key"]: span for span in (*as_data(late)["phases"], *as_data(late)["operations"])}
    took = sum(spans[key]["ended"] - spans[key]["began"] + spans[key]["waited"] for key in as_data(late)["critical"])
    assert took == pytest.approx(late.seconds)


@given(runs())
def test_what_is_kept_is_understood(run: Run) -> None:
    assert understood(json.loads(json.dumps(asdict(run)))) == run


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: {},
        lambda data: data | {"more": 1},
        lambda data: data | {"seconds": "long"},
        lambda data: data | {"seconds": 1e300},
        lambda data: data | {"seconds": float("nan")},
        lambda data: data | {"began": "yesterday"},
        lambda data: data | {"began": 5},
        lambda data: data | {"phases": 5},
        lambda data: data | {"phases": [5]},
        lambda data: data | {"operations": [{"key": "ready a"}]},
        lambda data: data | {"operations": [data["operations"][0] | {"began": -1}]},
        lambda data: data | {"operations": [data["operations"][0] | {"ended": 99}]},
        lambda data: data | {"operations": [data["operations"][0] | {"key": 5}]},
        lambda data: data | {"operations": [data["operations"][0] | {"service": []}]},
        lambda data: data | {"operations": [data["operations"][0] | {"after": None}]},
    ],
)
def test_what_is_no_run_is_not_understood(spoil: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    assert understood(spoil(json.loads(json.dumps(asdict(TYPICAL))))) is None


# ---- a trace file ------------------------------------------------------------------------------------------------


def events(run: Run, kind: str) -> list[dict[str, Any]]:
    return [event for event in as_trace(run)["traceEvents"] if event["ph"] == kind]


def test_a_trace_has_a_slice_for_everything_and_a_track_for_each_service() -> None:
    slices = {event["name"]: event for event in events(TYPICAL, "X")}
    assert (slices["ready mysql"]["ts"], slices["ready mysql"]["dur"]) == (1_000_000, 4_500_000)
    assert slices["ready mysql"]["cat"] == "ready" and slices["start devenv"]["cat"] == "devenv"
    assert slices["ready keystone"]["args"]["waited"] == 0.25
    assert slices["start mysql"]["args"]["cause"] == "new"
    assert [name for name, event in slices.items() if not event["args"]["critical"]] == ["start keystone"]
    tracks = {event["tid"]: event["args"]["name"] for event in events(TYPICAL, "M") if event["name"] == "thread_name"}
    assert {name: tracks[event["tid"]] for name, event in slices.items()} == {
        "start devenv": "devenv",
        "write files": "devenv",
        "start mysql": "mysql",
        "ready mysql": "mysql",
        "provision mysql/keystone": "mysql",
        "start keystone": "keystone",
        "ready keystone": "keystone",
    }


@given(runs(), st.sampled_from(["one", "two"]))
def test_slices_of_one_track_do_not_overlap_and_arrows_leave_from_inside(run: Run, service: str) -> None:
    run = replace(run, operations=tuple(replace(one, service=service) for one in run.operations))
    slices = events(run, "X")
    assert len(slices) == len(run.operations) + len(run.phases)
    for one in slices:
        beside = [other for other in slices if other["tid"] == one["tid"] and other is not one]
        assert all(o["ts"] >= one["ts"] + one["dur"] or o["ts"] + o["dur"] <= one["ts"] for o in beside)
    assert len(events(run, "s")) == len(events(run, "f")) == sum(len(one.after) for one in run.operations)
    for arrow in events(run, "s"):
        track = [one for one in slices if one["tid"] == arrow["tid"]]
        assert any(one["ts"] <= arrow["ts"] <= one["ts"] + max(0, one["dur"] - 1) for one in track)


def test_a_trace_file_is_written_and_replaced(tmp_path: Path) -> None:
    place = tmp_path / "trace.json"
    for _ in range(2):
        write_trace(place, TYPICAL, tmp_path)
        assert json.loads(place.read_text()) == json.loads(json.dumps(as_trace(TYPICAL)))
    assert [path.name for path in tmp_path.iterdir()] == ["trace.json"]
    assert place.stat().st_mode & 0o777 == 0o644


def test_a_link_to_a_file_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_trace(tmp_path / "link", TYPICAL, tmp_path)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").is_file()


@pytest.mark.parametrize(
    ("place", "word"),
    [
        ("/nonexistent/trace.json", "no folder"),
        ("/dev/null", "not a regular file"),
        ("/etc", "folder"),
        ("/etc/passwd/trace.json", "no folder"),
        ("x" * 300, "name too long"),
    ],
)
def test_no_file_is_written_where_none_can_be(place: str, word: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=word) as error:
        write_trace(Path(place), TYPICAL, tmp_path)
    assert error.value.message.startswith("cannot write") and "\n" not in error.value.message


def test_no_permission_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(ConfigError, match=r"cannot write .*no permission"):
        check_place(tmp_path / "trace.json", tmp_path)


# ---- noted -------------------------------------------------------------------------------------------------------

NETWORK = Operation("create network", f"devenv-{ID}", "no network")
FILL = Operation("fill", f"devenv-{ID}-my-sql-data", "golden state", service="my-sql")
READY = Operation("ready", "my-sql", after=(FILL.key,), service="my-sql")
PART = Operation("provision", "my-sql/nova", "new", (READY.key,), service="my-sql", component="nova")
PLAN = Plan((NETWORK, FILL, READY, PART, Operation("ready", "my", service="my")))


def test_a_watch_notes_what_is_reported_and_passes_it_on() -> None:
    heard = Recorder()
    watch = Watch(ID, heard, time.monotonic() - 100)
    watch.phase("plan")
    watch.begin(PLAN)
    for operation in (NETWORK, FILL, READY):
        watch.started(operation)
        watch.progress(operation, "half done")
        watch.finished(operation, 1.0)
    watch.started(PART)
    watch.failed(PART, 1.0, "no")
    watch.note("a note")
    watch.end()
    told = [words for operation in (NETWORK, FILL, READY) for words in _told(operation)]
    assert heard.told == ["begin 5", *told, f"started {PART.key}", f"failed {PART.key}: no", "note a note", "end"]
    run = watch.run()
    assert run and run == understood(json.loads(json.dumps(asdict(run))))
    assert [span.key for span in run.phases] == ["start devenv", "read files", "plan", "write files"]
    assert run.phases[0].seconds >= 100 and run.phases[-1].ended == run.seconds
    assert [(s.key, s.service, s.failed) for s in run.operations] == [
        (NETWORK.key, "network", False),
        (FILL.key, "my-sql", False),
        (READY.key, "my-sql", False),
        (PART.key, "my-sql", True),
    ]
    assert (run.operations[2].after, run.operations[3].cause) == ((FILL.key,), "new")
    links = critical(run)
    assert sum(link.waited + link.span.seconds for link in links) == pytest.approx(run.seconds)


def _told(operation: Operation) -> list[str]:
    return [f"started {operation.key}", f"progress {operation.key}: half done", f"finished {operation.key}"]


def test_what_was_tried_before_is_one_phase() -> None:
    watch = Watch(ID, Recorder())
    for _ in range(2):
        watch.phase("plan")
        watch.begin(PLAN)
        watch.started(NETWORK)
        watch.finished(NETWORK, 1.0)
        watch.end()
    run = watch.run()
    assert run and [one.key for one in run.operations] == [NETWORK.key]
    assert [span.key for span in run.phases] == [
        "read files",
        "plan",
        "an earlier attempt",
        "write files",
        "plan",
        "write files",
    ]


def test_what_never_began_is_no_run() -> None:
    assert Watch(ID, Recorder()).run() is None


def test_a_process_began_before_now_and_not_long_ago() -> None:
    began = process_began()
    assert 0 < time.monotonic() - began < time.clock_gettime(time.CLOCK_MONOTONIC) + 3600


# ---- kept --------------------------------------------------------------------------------------------------------


def executing(monkeypatch: pytest.MonkeyPatch, failure: Exception | None = None) -> None:
    """Have `up` execute nothing but readiness, which may fail."""

    def carry_out(_world: Any, _plan: Any, _picture: Any, report: Report) -> list[Any]:
        report.begin(PLAN)
        report.started(READY)
        if failure:
            report.failed(READY, 1.0, str(failure))
        else:
            report.finished(READY, 1.0)
        report.end()
        if failure:
            raise failure
        return []

    monkeypatch.setattr("devenv.lifecycle.up.carry_out", carry_out)


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    monkeypatch.setattr("devenv.lifecycle.seat.connect", FakeEngine)
    (tmp_path / "devenv.yaml").write_text("profile: coordination\n")
    return Environment(tmp_path)


def test_an_up_is_kept_for_its_owner_alone(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    executing(monkeypatch)
    environment.up()
    kept = environment.state.folder / "timing.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert Environment(environment.project).timing() == environment.timing() == environment.latest
    assert [one.key for one in environment.timing().operations] == [READY.key]
    environment.state.forget()
    assert not kept.exists()


def test_an_up_that_fails_is_kept(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    executing(monkeypatch, ServiceFailed("cannot use it"))
    with pytest.raises(ServiceFailed):
        environment.up()
    assert [one.failed for one in Environment(environment.project).timing().operations] == [True]


def test_no_up_fails_for_want_of_it(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    executing(monkeypatch)
    (environment.state.folder / "timing.json").mkdir(parents=True)
    environment.up()
    assert environment.timing().operations
    with pytest.raises(ConfigError, match="cannot show timings"):
        Environment(environment.project).timing()


def test_an_up_that_plans_nothing_leaves_what_was_kept(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    executing(monkeypatch)
    environment.up()
    kept = environment.timing()
    (environment.project / "devenv.yaml").write_text("profile: nosuch\n")
    again = Environment(environment.project)
    with pytest.raises(ConfigError):
        again.up()
    assert again.latest is None and again.timing() == kept


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"phases": [], "operations": []}'])
def test_what_cannot_be_read_is_as_if_it_were_not_there(environment: Environment, content: bytes) -> None:
    state: State = environment.state
    state.folder.mkdir(parents=True)
    (state.folder / "timing.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"cannot show timings: no 'up' of .* is on record"):
        environment.timing()


# ---- on the command line -----------------------------------------------------------------------------------------


def run(environment: Environment, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["--project", str(environment.project), *arguments])


def test_status_shows_the_last_up_if_asked(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    executing(monkeypatch)
    chart = run(environment, "up", "--timing").stdout.partition("\nlast up")[2]
    assert "ready my-sql" in chart and "critical: ready my-sql, " in chart
    assert run(environment, "status", "--timing").stdout.partition("\nlast up")[2] == chart
    assert "last up" not in run(environment, "status").stdout


def test_the_json_has_timing_only_if_asked(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    executing(monkeypatch)
    told = json.loads(run(environment, "up", "--timing", "--format", "json").stdout)
    assert set(told) == {"operations", "written", "restored", "timing"}
    found = json.loads(run(environment, "status", "--timing", "--format", "json").stdout)
    assert set(found) == {"environment", "services", "strangers", "timing"} and found["timing"] == told["timing"]
    assert set(json.loads(run(environment, "up", "--format", "json").stdout)) == {"operations", "written", "restored"}
    found = json.loads(run(environment, "status", "--format", "json").stdout)
    assert set(found) == {"environment", "services", "strangers"}


@pytest.mark.parametrize("options", [["--timing"], ["--trace", "trace.json"], ["--timing", "--format", "json"]])
def test_where_no_up_is_on_record_that_is_one_clear_line(environment: Environment, options: list[str]) -> None:
    result = run(environment, "status", *options)
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.startswith(f"cannot show timings: no 'up' of {environment.id} is on record\nhint: ")


def test_an_up_that_fails_leaves_a_trace(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    executing(monkeypatch, ServiceFailed("cannot use it"))
    place = environment.project / "trace.json"
    result = run(environment, "up", "--trace", str(place))
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (5, "cannot use it")
    slices = [event for event in json.loads(place.read_text())["traceEvents"] if event["ph"] == "X"]
    assert [event["name"] for event in slices if event["args"].get("failed")] == [READY.key]


def test_a_trace_needs_no_chart(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    executing(monkeypatch)
    assert "last up" not in run(environment, "up", "--trace", str(environment.project / "one")).stdout
    assert "last up" not in run(environment, "status", "--trace", str(environment.project / "two")).stdout
    assert (environment.project / "one").read_text() == (environment.project / "two").read_text()


def test_nothing_is_done_if_the_trace_cannot_be_written(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    executing(monkeypatch)
    result = run(environment, "up", "--trace", "/nonexistent/trace.json")
    assert result.exit_code == 3 and result.stderr.startswith("cannot write /nonexistent/trace.json: ")
    assert not environment.state.folder.exists()
