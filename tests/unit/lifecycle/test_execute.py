"""Walking a plan: what runs together, what a failure stops, and waiting for readiness."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, get_args

import pytest
from builders import DIGEST, consumer, container, desired, operation, part, service
from fake_engine import FakeEngine, Recorder

from devenv.cli.progress import _STATES
from devenv.engine.protocol import ContainerState
from devenv.errors import (
    Cancelled,
    ConfigError,
    DevenvError,
    LimitRefused,
    NotOurs,
    NotReady,
    NotReadyInTime,
    ServiceFailed,
    Unreachable,
)
from devenv.images import build as imagebuild
from devenv.images.build import build_lock
from devenv.lifecycle import execute as module
from devenv.lifecycle.execute import Context, execute
from devenv.lifecycle.journal import Journal, RecordJournal
from devenv.lifecycle.plan import make_plan
from devenv.model import Action, Endpoint, Image, Observed, Operation, Plan
from devenv.services import readiness
from devenv.services.base import Component, Provisioner, Refused, Taken, Target
from devenv.services.readiness import Patience, wait_until_ready
from devenv.spec.catalogue import load_catalogue
from devenv.store.state import State

ONE, TWO = service("one"), service("two")


def test_every_kind_of_operation_has_a_function_and_words_that_show_it() -> None:
    assert set(module._ACTIONS) == set(_STATES) == set(get_args(Action))


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """Return an engine whose services are probed without a pause."""
    fake = FakeEngine(Observed({"one": container(ONE)}))
    monkeypatch.setattr(readiness, "load_probe", lambda _: fake.check)
    monkeypatch.setattr(readiness, "_LOOK_SECONDS", 0.0)
    monkeypatch.setattr(readiness, "_FIRST_PAUSE", 0.0)
    return fake


def context(engine: FakeEngine, *services: Any, **more: Any) -> Context:
    target = desired(*(services or (ONE, TWO)))
    more = {"network": "n", **more}
    there = {name: container(one) for name, one in target.services.items()}
    images = {} if "images" in more else {one.image.reference: "id" for one in target.services.values()}
    engine.observed = Observed(there, (more["network"],), images=images)
    return Context(engine, target, {name: f"id-{name}" for name in target.services}, **more)  # type: ignore[arg-type]


def plan(*operations: str | tuple[str, ...]) -> Plan:
    """Make a plan from operations as "action target"; a tuple adds the keys of the operations before it."""
    made = []
    for written in operations:
        key, *after = (written,) if isinstance(written, str) else written
        made.append(operation(key, after=tuple(after), subject=key.rpartition(" ")[2]))
    return Plan(tuple(made))


def failing(error: BaseException) -> Callable[[], None]:
    def fail(*_: object) -> None:
        raise error

    return fail


# ---- the walk ----------------------------------------------------------------------------------------------------


def test_independent_operations_run_at_the_same_time(engine: FakeEngine) -> None:
    # Each call returns only after all three have begun.
    barrier = threading.Barrier(3, timeout=20)
    for call in ("pull a", "pull b", "create network n"):
        engine.on[call] = barrier.wait
    execute(plan("pull image a", "pull image b", "create network n"), context(engine), Recorder())


def test_an_operation_begins_as_soon_as_those_before_it_are_done(engine: FakeEngine) -> None:
    # b's successor runs while a still runs: no operation waits for a complete row.
    barrier = threading.Barrier(2, timeout=20)
    engine.on["pull a"] = engine.on["remove c"] = barrier.wait
    execute(plan("pull image a", "pull image b", ("remove c", "pull image b")), context(engine), Recorder())
    assert engine.calls.index("pull b") < engine.calls.index("remove c")


def test_an_operation_waits_for_all_before_it(engine: FakeEngine) -> None:
    execute(plan("remove a", "remove b", ("remove c", "remove a", "remove b")), context(engine), Recorder())
    assert engine.calls[-1] == "remove c"


def recording_provisioner(calls: list[str]) -> type[Provisioner]:
    """Return a provisioner that only records what it is asked for."""

    class Recording(Provisioner):
        def __init__(self, target: Target) -> None:
            super().__init__(target)
            calls.append("log in")

        def prepare(self) -> None:
            calls.append("prepare")

        def ensure(self, component: Component) -> None:
            calls.append(f"ensure {component.name}")

        def drop(self, component: Component) -> None:
            calls.append(f"drop {component.name}")

        def close(self) -> None:
            calls.append("log out")

    return Recording


class Provisions(Journal):
    """A journal that notes the digest of each part in place."""

    def __init__(self, told: dict[str, str]) -> None:
        self._told = told

    def provisioned(self, target: str, digest: str) -> None:
        self._told[target] = digest


def test_one_provisioner_serves_all_components_of_a_service(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {name: part(f"db/{name}") for name in ("nova", "glance")}
    settings = {"kind": "fake", "endpoint": "main", "prepare": "true"}
    database = service("db", provisioner=settings, prepared="p", components=parts, former={"old": part("db/old")})
    monkeypatch.setattr(readiness, "load_provisioner", lambda _: recording_provisioner(engine.calls))
    told: dict[str, str] = {}
    operations = plan("prepare db", ("provision db/nova", "prepare db"), ("provision db/glance", "prepare db"))
    drop = plan(("drop db/old", "provision db/nova", "provision db/glance"))
    both = Plan((*operations.operations, *drop.operations))
    execute(both, context(engine, database, journal=Provisions(told)), Recorder())
    assert engine.calls[:2] == ["log in", "prepare"]
    assert sorted(engine.calls[2:4]) == ["ensure glance", "ensure nova"]
    assert engine.calls[4:] == ["drop old", "log out"]
    assert told == {"db": "p", "db/nova": DIGEST, "db/glance": DIGEST, "db/old": ""}


def test_a_login_that_fails_is_told_and_left_to_the_next_up(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Choosy(Provisioner):
        def _log_in(self, component: Component) -> None:
            if component.name == "glance":
                raise Refused("account is locked")

    parts = {name: part(f"db/{name}") for name in ("nova", "glance")}
    database = service("db", provisioner={"kind": "fake", "endpoint": "main"}, components=parts)
    monkeypatch.setattr(readiness, "load_provisioner", lambda _: Choosy)
    told: dict[str, str] = {}
    notes: list[str] = []
    logins = plan("log in db/nova", "log in db/glance")
    execute(logins, context(engine, database, journal=Provisions(told), note=notes.append), Recorder())
    assert told == {"db/nova": DIGEST}
    (note,) = notes
    assert note.startswith("cannot log in to db as component glance at 127.0.0.1:")
    assert note.endswith(": account is locked: 'devenv up' completes what is missing")


def test_a_whole_plan_brings_services_up_in_order(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    database = service("db", provisioner={"kind": "fake", "endpoint": "main"})
    target = desired(database, consumer("web", "db", "service_healthy"))
    monkeypatch.setattr(readiness, "load_provisioner", lambda _: recording_provisioner(engine.calls))
    told: dict[str, str] = {}
    run = context(engine, *target.services.values(), journal=Provisions(told))
    timings = execute(make_plan(target, Observed()), run, Recorder())
    assert [call for call in engine.calls if call.split()[0] in ("start", "check", "ensure")] == [
        "start new-db",
        "check 1",
        "ensure web",
        "start new-web",
        "check 1",
    ]
    assert told == {"db/web": DIGEST} and run.containers == {"db": "new-db", "web": "new-web"}
    assert len(timings) == len(make_plan(target, Observed()).operations)
    assert all(timing.began <= timing.ended for timing in timings)


def test_a_service_gets_its_own_time_to_stop(engine: FakeEngine) -> None:
    definition = load_catalogue()["etcd"]
    slow = replace(definition, options=replace(definition.options, stop_grace_period=20))
    execute(plan("stop one", "stop two"), context(engine, catalogue={"one": slow}), Recorder())
    assert set(engine.calls) == {"stop one 20", "stop two 10"}


def test_an_empty_plan_is_done_at_once(engine: FakeEngine) -> None:
    report = Recorder()
    assert execute(Plan(()), context(engine), report) == []
    assert report.told == ["begin 0", "end"]


# ---- failures ----------------------------------------------------------------------------------------------------


def test_a_failure_stops_its_dependents_and_nothing_else(engine: FakeEngine) -> None:
    engine.on["pull a"] = failing(ServiceFailed("cannot pull a"))
    steps = plan(
        "pull image a",
        ("start one", "pull image a"),
        ("ready one", "start one"),
        "pull image b",
        ("start two", "pull image b"),
    )
    report = Recorder()
    with pytest.raises(ServiceFailed, match="cannot pull a"):
        execute(steps, context(engine), report)
    assert set(engine.calls) == {"pull a", "pull b", "start id-two"}
    assert [line for line in report.told if line.startswith("failed")] == ["failed pull image a: cannot pull a"]
    assert report.told[-1] == "end"


def test_other_failures_are_told_in_the_first_ones_detail(engine: FakeEngine) -> None:
    barrier = threading.Barrier(2, timeout=20)
    for name in ("a", "b"):
        engine.on[f"pull {name}"] = lambda name=name: (barrier.wait(), failing(ServiceFailed(f"cannot pull {name}"))())
    with pytest.raises(ServiceFailed, match="cannot pull a") as caught:
        execute(plan("pull image a", "pull image b"), context(engine), Recorder())
    assert caught.value.detail == ("also: cannot pull b",)


def test_an_unforeseen_error_comes_out_as_it_is(engine: FakeEngine) -> None:
    engine.on["pull a"] = failing(ZeroDivisionError("x"))
    with pytest.raises(ZeroDivisionError):
        execute(plan("pull image a"), context(engine), Recorder())


def test_an_unknown_probe_is_a_clear_error(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="cannot find a probe of kind 'fake'"):
        execute(plan("ready one"), context(engine), Recorder())


# ---- interrupts --------------------------------------------------------------------------------------------------


def interrupt_once(monkeypatch: pytest.MonkeyPatch, ready: Callable[[], object]) -> None:
    """Press Ctrl-C the first time that the executor waits, once `ready` has returned."""
    real, pressed = module.wait, []

    def wait(*arguments: Any, **more: Any) -> Any:
        if not pressed:
            pressed.append(ready())
            raise KeyboardInterrupt
        return real(*arguments, **more)

    monkeypatch.setattr(module, "wait", wait)


def test_an_interrupt_ends_what_has_begun_and_begins_nothing(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.answers = ["starting"]
    probed = threading.Event()
    engine.on["check 1"] = probed.set
    interrupt_once(monkeypatch, lambda: probed.wait(20))
    run, report = context(engine), Recorder()
    with pytest.raises(KeyboardInterrupt):
        execute(plan("ready one", ("start two", "ready one")), run, report)
    assert run.cancelled.is_set()
    assert "start id-two" not in engine.calls
    assert "failed ready one: interrupted" in report.told and report.told[-1] == "end"
    assert any(line.startswith("note interrupted") for line in report.told)


def test_an_interrupt_lets_an_engine_call_come_to_its_end(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, pressed = threading.Event(), threading.Event()
    engine.on["create one"] = lambda: (begun.set(), pressed.wait(20)) and "made"
    interrupt_once(monkeypatch, lambda: begun.wait(20) and pressed.set())
    run = context(engine)
    with pytest.raises(KeyboardInterrupt):
        execute(plan("create one"), run, Recorder())
    assert run.containers["one"] == "made"


def test_an_interrupt_between_two_waits_cancels_as_well(engine: FakeEngine) -> None:
    # The signal may come while the executor hands out work. Running operations must not go on for minutes.
    engine.answers = ["starting"]
    run = context(engine, timeout=2.0)

    class Interrupting(Recorder):
        def begin(self, plan: Plan) -> None:
            submit = module.ThreadPoolExecutor.submit

            def submit_and_interrupt(pool: Any, *arguments: Any) -> Any:
                submit(pool, *arguments)
                raise KeyboardInterrupt

            patch.setattr(module.ThreadPoolExecutor, "submit", submit_and_interrupt)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        execute(plan("ready one"), run, Interrupting())
    assert run.cancelled.is_set()


def test_a_second_interrupt_ends_at_once_also_while_the_first_is_told(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()
    engine.on["create one"] = lambda: ended.wait(20) and "made"
    interrupt_once(monkeypatch, lambda: None)

    class Impatient(Recorder):
        def note(self, text: str) -> None:
            raise KeyboardInterrupt

    def end(code: int) -> None:
        ended.set()
        raise SystemExit(code)

    monkeypatch.setattr(module.os, "_exit", end)
    run = context(engine)
    with pytest.raises(SystemExit, match="130"):
        execute(plan("create one"), run, Impatient())
    # `create` was still running when the second interrupt ended the process.
    assert run.containers["one"] == "made"


# ---- readiness ---------------------------------------------------------------------------------------------------


def waited(engine: FakeEngine, timeout: float = 60.0) -> list[str]:
    told: list[str] = []
    wait_until_ready(ONE, "id-one", engine, Patience(timeout, threading.Event()), told.append)  # type: ignore[arg-type]
    return told


def test_a_service_is_asked_until_it_works_and_the_reason_is_told(engine: FakeEngine) -> None:
    engine.on["check 1"] = lambda: engine.answers.clear() if len(engine.calls) > 4 else None
    engine.answers = ["connection refused", "access denied"]
    assert waited(engine) == ["connection refused", "access denied"]


def test_a_service_that_works_is_asked_once_and_its_container_not_at_all(engine: FakeEngine) -> None:
    assert waited(engine) == []
    assert engine.calls == ["check 1"]


def test_a_wait_ends_even_if_the_test_froze_the_time(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 1326499200.0)
    engine.answers = ["refused"]
    with pytest.raises(NotReadyInTime, match=r"not ready after 0.01 s: refused"):
        waited(engine, timeout=0.01)


def test_the_published_port_is_asked() -> None:
    one = replace(ONE, endpoints={"main": Endpoint("127.0.0.1", 4711, "u"), "other": Endpoint("127.0.0.1", 2, "v")})
    target = readiness.target_of(one, one.probe)
    assert (target.host, target.port, target.url) == ("127.0.0.1", 4711, "u")


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (ContainerState("exited", 3), "its container exited 3 (last answer: refused)"),
        (ContainerState("exited", 137, reason="evicted: low on memory"), "exited 137, evicted: low on memory"),
        (ContainerState("exited", 137, out_of_memory=True), "exited 137, killed because it used too much memory"),
        (ContainerState("dead", 1), "its container exited 1"),
    ],
)
def test_an_exit_is_noticed_at_once_with_code_and_log(engine: FakeEngine, state: ContainerState, words: str) -> None:
    engine.answers, engine.states["id-one"] = ["refused"], state
    with pytest.raises(ServiceFailed) as caught:
        waited(engine)
    assert caught.value.message.startswith("cannot use one: ") and words in caught.value.message
    assert caught.value.detail == ("first line", "last line")
    assert "devenv logs one" in caught.value.hint
    assert not caught.value.disk_full


@pytest.mark.parametrize("status", ["waiting", "gone"])
def test_a_container_that_cannot_start_or_is_gone_says_why_at_once(engine: FakeEngine, status: str) -> None:
    engine.answers, engine.states["id-one"] = ["refused"], ContainerState(status, reason="no image x", hint="push it")
    with pytest.raises(ServiceFailed, match="cannot use one: no image x") as caught:
        waited(engine)
    assert caught.value.hint == "push it"


@pytest.mark.parametrize("state", [ContainerState("exited", 1), ContainerState("running")])
def test_a_log_that_ends_with_a_full_disk_says_so_to_whoever_decides(engine: FakeEngine, state: ContainerState) -> None:
    engine.answers, engine.states["id-one"] = ["refused"], state
    engine.log = ["[ERROR] [InnoDB] OS error 28: No space left on device"]
    with pytest.raises(DevenvError) as caught:
        waited(engine, timeout=0)
    assert caught.value.disk_full


def test_a_paused_container_is_told_as_such(engine: FakeEngine) -> None:
    engine.answers, engine.states["id-one"] = ["timed out"], ContainerState("paused")
    with pytest.raises(ServiceFailed, match="its container is paused"):
        waited(engine)


def test_when_the_time_is_up_the_last_reason_and_the_log_are_told(engine: FakeEngine) -> None:
    engine.answers = ["access denied"]
    with pytest.raises(NotReadyInTime, match="cannot use one: not ready after 0 s: access denied") as caught:
        waited(engine, timeout=0.0)
    assert caught.value.detail == ("first line", "last line") and "--wait-timeout" in caught.value.hint
    assert caught.value.exit_code == 6


def test_an_exit_is_told_rather_than_the_end_of_the_time(engine: FakeEngine) -> None:
    engine.answers, engine.states["id-one"] = ["refused"], ContainerState("exited", 1)
    with pytest.raises(ServiceFailed):
        waited(engine, timeout=0.0)


def test_waiting_ends_when_the_user_interrupts(engine: FakeEngine) -> None:
    def interrupted(_: str) -> None:
        raise Cancelled

    engine.answers = ["refused"]
    with pytest.raises(Cancelled):
        wait_until_ready(ONE, "id-one", engine, Patience(9, threading.Event()), interrupted)  # type: ignore[arg-type]


# ---- the network -------------------------------------------------------------------------------------------------


def test_a_container_is_made_on_the_network_by_its_id(engine: FakeEngine) -> None:
    # Names of networks are not unique.
    run = context(engine)
    execute(plan("create network devenv-env", ("create one", "create network devenv-env")), run, Recorder())
    assert (run.network, engine.networks) == ("id-of-devenv-env", {"one": "id-of-devenv-env"})


def test_a_container_is_made_on_the_network_that_there_is(engine: FakeEngine) -> None:
    execute(plan("create one"), context(engine, network="n1"), Recorder())
    assert engine.networks == {"one": "n1"}


# ---- images ------------------------------------------------------------------------------------------------------


def build(reference: str = "devenv/one:1", target: str = "one") -> Plan:
    return Plan((Operation("build image", target, subject=reference),))


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note the references of built images."""
    made: list[str] = []
    monkeypatch.setattr(
        imagebuild, "build_image", lambda _engine, _service, reference, _base, _tell: made.append(reference)
    )
    monkeypatch.setattr(imagebuild, "make_base", lambda _engine, reference, _tell: made.append(reference))
    return made


def building(engine: FakeEngine) -> Context:
    images = {"base": Image("devenv/base:1", "base")}
    return context(engine, catalogue={"one": None}, images=images)


def test_an_image_is_built_once_it_is_known_to_be_missing_still(engine: FakeEngine, built: list[str]) -> None:
    execute(build(), building(engine), Recorder())
    execute(build("devenv/base:1", "base"), building(engine), Recorder())
    assert built == ["devenv/one:1", "devenv/base:1"]


@pytest.mark.parametrize(("reference", "target"), [("devenv/one:1", "one"), ("devenv/base:1", "base")])
def test_an_image_that_another_devenv_built_meanwhile_will_do(
    engine: FakeEngine, built: list[str], reference: str, target: str
) -> None:
    report = Recorder()
    waiting = threading.Event()
    report.progress = lambda operation, text: waiting.set()  # type: ignore[method-assign]
    run, looks = building(engine), list[str]()
    engine.images = lambda: (looks.append("images"), engine.observed.images)[1]  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as pool:
        with build_lock(reference, pytest.fail):
            done = pool.submit(execute, build(reference, target), run, report)
            assert waiting.wait(20)
            assert looks == []
            engine.observed = Observed(images={reference: "id"})
        assert len(done.result(20)) == 1
    assert built == []


def test_an_interrupt_ends_the_wait_for_another_devenv(engine: FakeEngine, built: list[str]) -> None:
    run = building(engine)
    told: list[str] = []

    def interrupt(text: str) -> None:
        told.append(text)
        run.cancelled.set()

    with build_lock("devenv/one:1", pytest.fail), pytest.raises(Cancelled):
        module._build_image(build().operations[0], run, interrupt)
    assert built == [] and told == [f"waiting for another devenv (process {os.getpid()})"]


# ---- limits ------------------------------------------------------------------------------------------------------


def refuse_limit() -> NoReturn:
    raise LimitRefused("cannot start one: the engine may not set limits on open files")


def test_an_engine_that_refuses_the_limit_on_files_gets_a_container_without_it(engine: FakeEngine) -> None:
    engine.on["start id-one"] = refuse_limit
    run = context(engine)
    execute(plan("start one"), run, Recorder())
    assert engine.calls == ["start id-one", "remove id-one", "create one", "start new-one"]
    assert run.containers["one"] == "new-one"


def test_an_engine_that_refuses_the_limit_twice_fails_the_service(engine: FakeEngine) -> None:
    engine.on["start id-one"] = engine.on["start new-one"] = refuse_limit
    with pytest.raises(ServiceFailed, match="cannot start one: the engine may not set limits on open files"):
        execute(plan("start one", ("ready one", "start one")), context(engine), Recorder())
    assert engine.calls == ["start id-one", "remove id-one", "create one", "start new-one"]


def test_an_engine_that_refuses_one_limit_after_the_other_gets_a_container_without_both(engine: FakeEngine) -> None:
    refused = ["open files", "memory and processes"]

    def refuse() -> None:
        if refused:
            raise LimitRefused("cannot start one", limit=refused.pop())

    engine.on["start id-one"] = engine.on["start new-one"] = refuse
    execute(plan("start one"), context(engine), Recorder())
    again = ["remove new-one", "create one", "start new-one-2"]
    assert engine.calls == ["start id-one", "remove id-one", "create one", "start new-one", *again]


def test_services_that_start_at_the_same_time_all_fall_back(engine: FakeEngine) -> None:
    services = [service(name) for name in ("one", "two", "three", "four")]
    # The engine refuses all four before any of them is recreated.
    barrier = threading.Barrier(4, timeout=20)

    def refuse_together() -> NoReturn:
        barrier.wait()
        refuse_limit()

    for each in services:
        engine.on[f"start id-{each.name}"] = refuse_together
    run = context(engine, *services)
    execute(plan(*(f"start {each.name}" for each in services)), run, Recorder())
    assert run.containers == {each.name: f"new-{each.name}" for each in services}
    assert engine.networks == dict.fromkeys(run.containers, "n")
    for each in services:
        own = [call for call in engine.calls if call.split("-")[-1].split()[-1] == each.name]
        assert own == [
            f"start id-{each.name}",
            f"remove id-{each.name}",
            f"create {each.name}",
            f"start new-{each.name}",
        ]


# ---- what goes on record of attached services ------------------------------------------------------------------------


@pytest.mark.parametrize(("lacks", "known"), [("HTTP 401", {}), ("", {"db": "begun"})])
def test_only_what_devenv_began_to_make_in_an_attached_service_is_on_record(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lacks: str, known: dict[str, str]
) -> None:
    class Refusing(Provisioner):
        def _lacks(self) -> bool:
            if lacks:
                raise Refused(lacks)
            return True

        def prepare(self) -> None:
            raise ServiceFailed("cannot prepare db")

    settings = {"kind": "fake", "endpoint": "main", "prepare": "true"}
    database = service("db", provisioner=settings, prepared="p", attached="http://db")
    monkeypatch.setattr(readiness, "load_provisioner", lambda _: Refusing)
    state, preparing = State(tmp_path, "default"), plan("prepare db")
    journal = RecordJournal(state, preparing, desired(database), Observed(), {})
    journal.begin()
    with pytest.raises(ServiceFailed, match="cannot prepare db"):
        execute(preparing, context(engine, database, journal=journal), Recorder())
    journal.end()
    assert state.load().provisioned == known


def test_what_somebody_made_meanwhile_is_neither_dropped_nor_on_record(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Slow(Provisioner):
        def _found(self, component: Component) -> str:
            return ""

        def _make(self, component: Component) -> None:
            assert component.new
            raise Taken("an account")

    parts = {"nova": part("db/nova")}
    database = service("db", provisioner={"kind": "fake", "endpoint": "main"}, components=parts, attached="http://db")
    monkeypatch.setattr(readiness, "load_provisioner", lambda _: Slow)
    state, making = State(tmp_path, "default"), plan("provision db/nova")
    journal = RecordJournal(state, making, desired(database), Observed(), {})
    journal.begin()
    with pytest.raises(NotOurs, match="somebody else has made an account of that name meanwhile"):
        execute(making, context(engine, database, journal=journal), Recorder())
    journal.end()
    assert state.load().provisioned == {}


def test_a_probe_that_knows_what_to_do_says_so_when_the_time_is_up(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(_: Target) -> NoReturn:
        raise NotReady("no management", "open it")

    monkeypatch.setattr(readiness, "load_probe", lambda _: check)
    theirs = service("one", attached="amqp://mq")
    with pytest.raises(NotReadyInTime, match=r"cannot use one at amqp://mq: .*: no management$") as late:
        wait_until_ready(theirs, "", engine, Patience(0, threading.Event()), lambda _: None)
    assert late.value.hint == "open it; --wait-timeout gives it more time"


def test_a_server_that_does_not_answer_is_one_error_with_all_that_was_left_undone(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Gone(Provisioner):
        def drop(self, component: Component) -> None:
            raise Unreachable(f"cannot reach {self.target.service}", "repeat this")

    former = {name: part(f"db/{name}") for name in ("a1", "a2", "a3")}
    theirs = service("db", provisioner={"kind": "fake", "endpoint": "main"}, former=former, attached="http://db")
    monkeypatch.setattr(readiness, "load_provisioner", lambda _: Gone)
    engine.on["remove x"] = failing(ServiceFailed("cannot remove x"))
    dropping, recorder = plan("drop db/a1", "remove x", "drop db/a2", "drop db/a3"), Recorder()
    with pytest.raises(Unreachable) as caught:
        execute(dropping, context(engine, theirs), recorder)
    assert caught.value.message == "cannot reach db; left undone there: drop a1, a2, a3"
    assert caught.value.detail == ("also: cannot remove x",)
    assert sum(line.endswith(": cannot reach db") for line in recorder.told) == 1
    assert sum(line.endswith(": ") for line in recorder.told) == 2
