"""Snapshots as files: what they say, what they refuse, and how devenv pauses services for them."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import container, converged, desired, service, with_containers
from fake_engine import FakeEngine

from devenv.errors import ConfigError, NoEngine
from devenv.images import snapshot
from devenv.images.snapshot import SavedService, Snapshot
from devenv.model import Image, Observed
from devenv.store.state import State

ONE = service("one", volumes={"devenv-env-one-data": "/data", "devenv-env-one-keys": "/keys"})
TWO = service("two")
TARGET = desired(ONE, TWO)
SAVED = {"one": SavedService("devenv/one:1", "id", {"data": "devenv/snapshot:a", "keys": "devenv/snapshot:b"})}
THERE = {"devenv/one:1": "id", "devenv/snapshot:a": "1", "devenv/snapshot:b": "2"}


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> State:
    monkeypatch.setenv("DEVENV_STATE_DIR", str(tmp_path / "state"))
    (tmp_path / "project").mkdir()
    return State(tmp_path / "project", "default")


def written(state: State, name: str = "before") -> Snapshot:
    engine: Any = FakeEngine(Observed(images=THERE))
    return snapshot.write(state, name, SAVED, engine)


# ---- files -------------------------------------------------------------------------------------------------------


def test_a_snapshot_is_read_as_it_was_written_and_by_nobody_else(state: State) -> None:
    secrets = state.secrets(["one.password"])
    state.save(replace(state.load(), provisioned={"one/nova": "1"}))
    saved = written(state)
    assert snapshot.load(state, "before") == saved
    assert (saved.size, saved.provisioned, saved.secrets) == (2, {"one/nova": "1"}, secrets)
    path = state.snapshots / "before.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert secrets["one.password"] not in repr(saved)


def test_the_newest_is_listed_first_and_what_cannot_be_read_is_left_out(state: State) -> None:
    assert snapshot.load_all(state) == []
    for name in ("older", "newer"):
        written(state, name)
    (state.snapshots / "garbled.json").write_text("{")
    assert [one.name for one in snapshot.load_all(state)] == ["newer", "older"]


def test_a_snapshot_that_is_not_there_is_refused_with_those_that_are(state: State) -> None:
    with pytest.raises(ConfigError, match="cannot find snapshot 'other'") as caught:
        snapshot.load(state, "other")
    assert "devenv snapshot save" in caught.value.hint
    written(state)
    with pytest.raises(ConfigError) as caught:
        snapshot.load(state, "other")
    assert caught.value.hint == "snapshots of this environment: before; 'devenv snapshot save NAME' creates one"


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 99}', '{"format": 1, "services": {"one": {"x": 1}}}'])
def test_a_snapshot_that_cannot_be_understood_is_one_clear_line(state: State, content: str) -> None:
    state.snapshots.mkdir(parents=True)
    (state.snapshots / "odd.json").write_text(content)
    with pytest.raises(ConfigError, match=r"cannot read .*odd.json"):
        snapshot.load(state, "odd")


@pytest.mark.parametrize("name", ["", "../up", "a/b", "Upper", "-x", "a" * 40, "a.json"])
def test_a_name_that_could_be_a_path_is_refused(state: State, name: str) -> None:
    with pytest.raises(ConfigError, match="as the name of a snapshot"):
        snapshot.load(state, name)


# ---- save --------------------------------------------------------------------------------------------------------


def test_every_volume_of_every_service_is_saved_under_a_name_of_its_own() -> None:
    plan, services = snapshot.plan_save(TARGET, converged(TARGET))
    assert [op.key for op in plan.operations] == ["save devenv-env-one-data", "save devenv-env-one-keys"]
    assert set(services) == {"one", "two"} and services["two"].volumes == {}
    images = [op.subject for op in plan.operations]
    assert list(services["one"].volumes.values()) == images
    assert not set(images) & {op.subject for op in snapshot.plan_save(TARGET, converged(TARGET))[0].operations}
    assert (services["one"].image, services["one"].image_id) == ("devenv/one:1", "id of devenv/one:1")


@pytest.mark.parametrize("state_of_one", [None, "created"])
def test_a_service_that_was_never_started_cannot_be_saved(state_of_one: str | None) -> None:
    observed = converged(TARGET)
    there = {"two": observed.containers["two"]}
    there |= {"one": container(ONE, state_of_one)} if state_of_one else {}
    with pytest.raises(ConfigError, match="cannot save one: it was not started"):
        snapshot.plan_save(TARGET, replace(observed, containers=there))


def test_only_what_runs_and_is_late_settles_before_a_save() -> None:
    late = {"kind": "fake", "endpoint": "main", "settle": "true"}
    target = desired(service("one", provisioner=late), service("two", provisioner=late), service("three"))
    observed = with_containers(converged(target), container(target.services["two"], "exited"))
    assert [op.key for op in snapshot.plan_settle(target, observed).operations] == ["settle one"]


def test_services_that_run_stand_still_together_and_go_on_whatever_happens() -> None:
    containers = [container(ONE), container(TWO), container(service("three"), "exited")]
    engine: Any = FakeEngine(Observed({one.service: one for one in containers}))
    with pytest.raises(KeyboardInterrupt), snapshot.standing_still(engine, containers):
        assert sorted(engine.calls) == ["pause id-one", "pause id-two"]
        engine.calls.clear()
        raise KeyboardInterrupt
    assert {"unpause id-one", "unpause id-two"} <= set(engine.calls) and "unpause id-three" not in engine.calls


def test_those_that_did_pause_go_on_when_another_one_could_not() -> None:
    containers = [container(ONE), container(TWO)]
    engine: Any = FakeEngine(Observed({one.service: one for one in containers}))

    def refused() -> None:
        raise ConfigError("cannot pause")

    engine.on["pause id-two"] = refused
    with pytest.raises(ConfigError), snapshot.standing_still(engine, containers):
        raise AssertionError("it must not come to this")
    assert "unpause id-one" in engine.calls and "unpause id-two" not in engine.calls


def test_what_a_save_was_to_make_and_no_snapshot_names_is_left_over(state: State) -> None:
    mine = [f"devenv/snapshot:{state.id}-{number}" for number in range(3)]
    # Not on record: they belong to another state folder, or to nobody.
    foreign = [f"devenv/snapshot:{state.id}-other", "devenv/snapshot:other-1", "devenv/one:1"]
    kept = {"one": replace(SAVED["one"], volumes={"data": mine[0]})}
    engine: Any = FakeEngine()
    snapshot.write(state, "before", kept, engine)
    assert snapshot.leftovers(state, [*mine, *foreign]) == []
    state.amend(saving=mine)
    assert snapshot.leftovers(state, [*mine[:2], *foreign]) == [mine[1]]
    # A snapshot that devenv cannot read may name any of them.
    (state.snapshots / "garbled.json").write_text("{")
    assert snapshot.leftovers(state, [*mine, *foreign]) == []


# ---- restore -----------------------------------------------------------------------------------------------------


def check(saved: Snapshot, reference: str = "devenv/one:1", how: str = "build", **there: str) -> None:
    snapshot.check(saved, {"one": Image(reference, how, "one")}, {**THERE, **there}, ["one"])


def test_data_of_the_same_version_is_accepted_and_goes_where_it_came_from(state: State) -> None:
    saved = written(state)
    check(saved)
    found = snapshot.sources(saved, ["one", "two"])
    assert {volume: source.image for volume, source in found.items()} == {
        f"devenv-{state.id}-one-data": "devenv/snapshot:a",
        f"devenv-{state.id}-one-keys": "devenv/snapshot:b",
    }
    assert {source.cause for source in found.values()} == {"snapshot before"}
    assert snapshot.sources(saved, ["two"]) == {}


def test_data_of_another_version_is_refused_with_the_reason(state: State) -> None:
    saved = written(state)
    with pytest.raises(ConfigError, match="one was devenv/one:1 then and is devenv/one:2 now"):
        check(saved, "devenv/one:2")
    with pytest.raises(ConfigError, match="another image has the name devenv/one:1 now"):
        check(saved, how="pull", **{"devenv/one:1": "other"})
    check(saved, how="build", **{"devenv/one:1": "built again of the same content"})


def test_data_of_a_service_that_nobody_wants_any_more_is_refused(state: State) -> None:
    with pytest.raises(ConfigError, match="it holds one, which the profile does not have"):
        snapshot.check(written(state), {}, THERE, ["two"])


def test_data_that_is_not_on_this_engine_is_refused(state: State) -> None:
    saved = written(state)
    without = {reference: identity for reference, identity in THERE.items() if reference != "devenv/snapshot:b"}
    with pytest.raises(ConfigError, match=r"not on this engine any more \(devenv/snapshot:b\)"):
        snapshot.check(saved, {"one": Image("devenv/one:1", "build", "one")}, without, ["one"])


def test_what_a_failed_removal_leaves_is_on_record(state: State) -> None:
    def fail() -> None:
        raise NoEngine("it went away")

    saved = written(state)
    engine: Any = FakeEngine(Observed(images=THERE))
    engine.on["remove image devenv/snapshot:b"] = fail
    with pytest.raises(NoEngine):
        snapshot.remove(state, engine, saved)
    assert snapshot.load_all(state) == []
    assert snapshot.leftovers(state, engine.observed.images) == ["devenv/snapshot:b"]


def test_a_removed_snapshot_is_forgotten_before_its_data_goes(state: State) -> None:
    saved = written(state)
    engine: Any = FakeEngine(Observed(images=THERE))
    engine.on["remove image devenv/snapshot:a"] = lambda: json.loads((state.snapshots / "before.json").read_text())
    with pytest.raises(FileNotFoundError):
        snapshot.remove(state, engine, saved)
    engine.on.clear()
    snapshot.remove(state, engine, saved)
    assert set(engine.observed.images) == {"devenv/one:1"}
