"""`up` beside its plan: ports that others took first, and services that it could not reach."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from builders import container, converged, with_containers
from fake_engine import FakeEngine

from devenv.engine.protocol import Capability
from devenv.errors import ConfigError, NotOurs, PortTaken, ServiceFailed, Unsupported
from devenv.images.snapshot import SavedService, Snapshot
from devenv.lifecycle.environment import Environment
from devenv.lifecycle.picture import Definitions, Picture
from devenv.lifecycle.world import World
from devenv.model import Plan, Report
from devenv.services.lookup import NEEDS


@pytest.fixture
def tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Enter a project with etcd alone, and return a list for the port of each try."""
    monkeypatch.setattr("devenv.lifecycle.seat.connect", FakeEngine)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "devenv.yaml").write_text("profile: coordination\n")
    return []


def refusing(tried: list[int], times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def carry_out(_world: Any, _plan: Any, picture: Picture, _report: Any) -> list[Any]:
        tried.append(picture.wanted.services["etcd"].endpoints["client"].port)
        if len(tried) <= times:
            raise PortTaken("cannot publish a port of etcd: it is taken", "end what has it")
        return []

    monkeypatch.setattr("devenv.lifecycle.up.carry_out", carry_out)


def test_a_port_that_somebody_was_quicker_to_take_is_followed_by_another(
    tried: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing(tried, 2, monkeypatch)
    environment = Environment()
    environment.up()
    assert len(set(tried)) == len(tried) == 3
    assert environment.state.load().ports == {"etcd/client": tried[-1]}


@pytest.mark.parametrize("inside, told", [(False, True), (True, False)])
def test_who_is_among_the_engines_containers_needs_no_way_to_its_ports(
    tried: list[int], monkeypatch: pytest.MonkeyPatch, inside: bool, told: bool
) -> None:
    refusing(tried, 0, monkeypatch)
    monkeypatch.setattr(FakeEngine, "local", False)
    monkeypatch.setattr(FakeEngine, "inside", inside)
    notes: list[str] = []
    monkeypatch.setattr(Report, "note", lambda _, text: notes.append(text))
    Environment().up()
    assert any("forward them" in note for note in notes) == told


def test_the_data_that_is_kept_is_told_with_the_name_of_the_file_that_no_longer_lists_it(
    tried: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing(tried, 0, monkeypatch)
    Path("devenv.yaml").rename("mine.yaml")
    notes: list[str] = []
    monkeypatch.setattr(Report, "note", lambda _, text: notes.append(text))
    environment = Environment(file="mine.yaml")
    environment.state.amend(provisioned={"etcd/nova": "hash"})
    environment.up()
    assert notes == ["kept the data of nova, which mine.yaml no longer lists; 'devenv up --drop' drops it"]


def test_a_package_that_a_service_needs_is_missed_before_anything_is_done(
    tried: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NEEDS, "etcd", "no_such_package")
    refusing(tried, 0, monkeypatch)
    for ask in (Environment().up, Environment().plan):
        with pytest.raises(ConfigError, match="cannot use etcd: the Python package no_such_package is not installed"):
            ask()
    assert not tried


def test_it_is_not_tried_for_ever(tried: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    refusing(tried, 99, monkeypatch)
    with pytest.raises(PortTaken):
        Environment().up()
    assert len(tried) == 3


def test_a_port_of_before_is_not_given_up(tried: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    refusing(tried, 0, monkeypatch)
    environment = Environment()
    environment.up()
    refusing(tried, 99, monkeypatch)
    with pytest.raises(PortTaken):
        Environment().up()
    assert tried == [tried[0]] * 2
    assert environment.state.load().ports == {"etcd/client": tried[0]}


@pytest.mark.parametrize(("state", "again"), [("exited", ["start etcd", "ready etcd"]), ("running", None)])
@pytest.mark.parametrize("failures", [1, 99])
def test_what_does_not_stay_as_it_was_found_is_looked_at_once_more(
    tried: list[int], monkeypatch: pytest.MonkeyPatch, state: str, again: list[str] | None, failures: int
) -> None:
    """The engine still stops the containers that a killed devenv asked it to stop."""
    engine, plans = FakeEngine(), list[list[str]]()
    monkeypatch.setattr("devenv.lifecycle.seat.connect", lambda: engine)

    def carry_out(_world: Any, plan: Plan, picture: Picture, _report: Any) -> list[Any]:
        desired = picture.wanted
        plans.append([op.key for op in plan.operations if op.action != "build image"])
        engine.observed = converged(desired)
        if 1 < len(plans) <= 1 + failures:
            engine.observed = with_containers(engine.observed, container(desired.services["etcd"], state))
            raise ServiceFailed("cannot use etcd: its container exited 0")
        return []

    monkeypatch.setattr("devenv.lifecycle.up.carry_out", carry_out)
    Environment().up()
    with pytest.raises(ServiceFailed) if failures > 1 or not again else nullcontext():
        Environment().up()
    assert plans[1:] == [["ready etcd"], *([again] if again else [])]


def test_where_services_could_not_be_reached_none_is_started(tried: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: FakeEngine) -> None:
        raise ConfigError("cannot reach services from container 0123abcd")

    refusing(tried, 0, monkeypatch)
    monkeypatch.setattr(FakeEngine, "check_reach", refuse)
    with pytest.raises(ConfigError, match="cannot reach services from container 0123abcd"):
        Environment().up()
    assert tried == []


def test_a_port_of_a_remote_engine_may_be_a_tunnels_here(tried: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    refusing(tried, 0, monkeypatch)
    monkeypatch.setattr(FakeEngine, "local", False)
    with socket.create_server(("127.0.0.1", 0)) as tunnel:
        port = tunnel.getsockname()[1]
        Environment(settings={"etcd": {"ports": {"client": port}}}).up()
        monkeypatch.setattr(FakeEngine, "local", True)
        with pytest.raises(NotOurs, match=f"127.0.0.1:{port} "):
            Environment(settings={"etcd": {"ports": {"client": port}}}).up()


def test_a_component_that_a_run_has_since_is_known_after_the_wait_for_the_lock(
    tried: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, seen = Environment(), list[str]()
    read = waits._world.prepared(())

    def carry_out(_world: Any, _plan: Any, picture: Picture, _report: Any) -> list[Any]:
        seen.extend(picture.defined.profile.components)
        return []

    monkeypatch.setattr("devenv.lifecycle.up.carry_out", carry_out)
    with ExitStack() as stack:

        def prepared(_: World, _names: Any, join: bool) -> Definitions:
            stack.enter_context(waits.state.lent("run-1"))  # another process had the lock first
            return read

        monkeypatch.setattr(World, "prepared", prepared)
        waits.up()
    assert seen == ["run-1"]


def test_a_snapshots_passwords_are_those_of_its_services() -> None:
    saved = {"mysql.password": "1", "mysql/nova": "2", "etcd.root_password": "3", "etcd/nova": "4"}
    services = {"mysql": SavedService("i", "d", {})}
    assert Snapshot("s", "e", 0, "", 0, services, {}, saved).own_secrets == {"mysql.password": "1", "mysql/nova": "2"}


def test_an_engine_that_keeps_no_data_has_no_golden_states_and_refuses_snapshots(
    tried: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = list[Plan]()
    monkeypatch.setattr(FakeEngine, "can", frozenset({Capability.BUILD}))

    def carry_out(_world: Any, plan: Plan, _picture: Any, _report: Any) -> list[Any]:
        plans.append(plan)
        return []

    monkeypatch.setattr("devenv.lifecycle.up.carry_out", carry_out)
    Environment().up()
    assert "create" in {op.action for op in plans[0].operations}
    assert not {"keep", "fill"} & {op.action for op in plans[0].operations}
    with pytest.raises(Unsupported, match="cannot save a snapshot"):
        Environment().save("one")


def test_a_snapshot_names_the_images_of_the_services_as_they_are_after_the_wait_for_the_lock(
    tried: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named, saves = list[str](), Environment()
    changing = World.changing

    @contextmanager
    def waited(world: World) -> Iterator[None]:
        (tmp_path / "devenv.yaml").write_text("profile: coordination\nservices: {etcd: {image: 'other:1'}}\n")
        with changing(world):
            yield

    def there(_: World, defined: Definitions, *__: Any) -> Picture:
        named.append(defined.images["etcd"].reference)
        raise ConfigError("cannot go on")

    monkeypatch.setattr(World, "changing", waited)
    monkeypatch.setattr(World, "there", there)
    with pytest.raises(ConfigError):
        saves.save("one")
    assert named == ["other:1"]
