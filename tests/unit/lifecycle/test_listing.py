"""All environments on the engine beside the records of this user, and the way to take one down by its id."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from fake_engine import FakeEngine

from devenv.errors import ConfigError, NoEngine, NotOurs, ServiceFailed
from devenv.images.references import images_for
from devenv.lifecycle import down
from devenv.lifecycle.environment import Environment
from devenv.lifecycle.listing import Listed, list_environments
from devenv.model import LABEL_ENVIRONMENT, LABEL_OWNER, Observed, Profile, Report
from devenv.spec.catalogue import load_catalogue
from devenv.store.record import FORMAT, Record
from devenv.store.state import State


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    images = images_for(Profile("", {}), load_catalogue()).values()
    engine = FakeEngine(Observed(images={image.reference: "id" for image in images}))
    for room in ("seat", "listing"):
        monkeypatch.setattr(f"devenv.lifecycle.{room}.connect", lambda: engine)
    monkeypatch.setattr("devenv.services.readiness.load_probe", lambda _: lambda target: None)
    return engine


@pytest.fixture
def up(engine: FakeEngine, tmp_path: Path) -> Callable[..., Environment]:
    """Return a function that brings etcd and what else is named up in the project of a name."""

    def bring_up(project: str, *services: str, name: str = "default") -> Environment:
        (folder := tmp_path / project).mkdir(exist_ok=True)
        environment = Environment(folder, name)
        engine.calls.clear()
        environment.up(["etcd", *services], use_golden=False)
        return environment

    return bring_up


def one(listed: list[Listed], environment: Environment) -> Listed:
    return next(each for each in listed if each.id == environment.id)


def killed_run(environment: Environment) -> None:
    """Leave the record as a killed run that brought etcd up leaves it."""
    environment.state.amend(borrowed={"etcd": "nothing"})


def test_without_any_environment_the_list_is_empty_and_nothing_is_written(engine: FakeEngine, own_world: Path) -> None:
    assert list_environments() == list_environments(usage=True) == []
    assert not (own_world / "state").exists()


def test_every_environment_of_every_project_is_listed(up: Callable[..., Environment]) -> None:
    made = [up("b"), up("a"), up("a", name="tests")]
    found = list_environments()
    assert {each.id for each in found} == {each.id for each in made}
    assert [each.record.project for each in found if each.record] == sorted(str(each.project) for each in made)
    tests = one(found, made[2])
    assert tests.record and (tests.record.name, tests.state, tests.services) == (
        "tests",
        "running",
        {"etcd": "running"},
    )
    assert not (tests.gone or tests.used or tests.leftover)


@pytest.mark.parametrize(
    ("act", "state", "services"),
    [
        (lambda e: e.stop(), "stopped", {"etcd": "exited", "rabbitmq": "exited"}),
        (lambda e: e.stop(["etcd"]), "partly", {"etcd": "exited", "rabbitmq": "running"}),
        (lambda e: e.down(), "down", {"etcd": "down", "rabbitmq": "down"}),
        (lambda e: e.down(["etcd"]), "running", {"etcd": "down", "rabbitmq": "running"}),
        (lambda e: [e.engine.pause(c.id) for c in e.observe().containers.values()], "paused", {}),
    ],
    ids=["stop", "stop one", "down", "down one", "paused"],
)
def test_an_environment_has_the_state_that_its_containers_have(
    up: Callable[..., Environment], act: Callable[[Environment], object], state: str, services: dict[str, str]
) -> None:
    environment = up("a", "rabbitmq")
    act(environment)
    (found,) = list_environments()
    assert found.state == state
    assert not services or found.services == services


def test_what_a_killed_run_left_is_called_so_unless_somebody_uses_it(up: Callable[..., Environment]) -> None:
    environment = up("a")
    killed_run(environment)
    with environment.state.using():
        (found,) = list_environments()
        assert (found.state, found.used, found.leftover) == ("running", True, ())
    (found,) = list_environments()
    assert (found.state, found.used, found.leftover) == ("leftover", False, ("etcd",))


def test_what_the_user_has_beside_a_leftover_is_no_leftover(up: Callable[..., Environment]) -> None:
    killed_run(up("a", "rabbitmq"))
    (found,) = list_environments()
    assert (found.state, found.leftover) == ("running", ("etcd",))


def test_an_environment_without_a_record_is_listed_last_and_as_nobodys(
    up: Callable[..., Environment], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    others = up("a")
    monkeypatch.setenv("DEVENV_STATE_DIR", str(tmp_path / "mine"))
    own = up("z")
    found = list_environments()
    assert [each.id for each in found] == [own.id, others.id]
    assert (found[1].record, found[1].state, found[1].services) == (None, "running", {"etcd": "running"})


def test_a_label_alone_makes_no_environment(engine: FakeEngine, up: Callable[..., Environment]) -> None:
    environment = up("a")
    engine.create_network("devenv-x", {LABEL_ENVIRONMENT: "x"})
    engine.create_network("copied", {LABEL_ENVIRONMENT: environment.id, LABEL_OWNER: "copied"})
    (found,) = list_environments()
    assert found.id == environment.id and found.observed.strangers == ("network copied",)


def test_memory_and_disk_are_measured_only_if_asked_for(engine: FakeEngine, up: Callable[..., Environment]) -> None:
    environment = up("a", "rabbitmq")
    environment.stop(["rabbitmq"])
    (found,) = list_environments()
    assert not found.memory and not found.disk
    (found,) = list_environments(usage=True)
    assert found.memory == {"etcd": 1024**2} and found.disk == {"etcd": 0, "rabbitmq": 0}


def test_what_the_engine_does_not_measure_is_unknown(
    engine: FakeEngine, up: Callable[..., Environment], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(error: Exception) -> Callable[..., None]:
        def fail(*_: object) -> None:
            raise error

        return fail

    up("a")
    for error in (ServiceFailed("cannot measure: one is already running"), NoEngine("cannot measure: timed out")):
        monkeypatch.setattr(engine, "memory", failing(error))
        monkeypatch.setattr(engine, "volume_sizes", failing(error))
        (found,) = list_environments(usage=True)
        assert found.memory == found.disk == {"etcd": None}


# ---- down by id --------------------------------------------------------------------------------------------------


def left(engine: FakeEngine, environment: Environment) -> tuple[int, int, int]:
    """Return how many containers, networks and volumes the environment has."""
    found = engine.observe(environment.id, "")
    return len(found.containers), len(found.networks), len(found.volumes)


def test_an_environment_is_taken_down_by_its_id_and_no_other(
    engine: FakeEngine, up: Callable[..., Environment]
) -> None:
    environment, other = up("a", name="tests"), up("b")
    down.by_id(environment.id, (), False, Report())
    assert (left(engine, environment), left(engine, other)) == ((0, 0, 1), (1, 1, 1))
    assert environment.state.load().ports
    down.by_id(environment.id, (), True, Report())
    assert (left(engine, environment), left(engine, other)) == ((0, 0, 0), (1, 1, 1))
    assert not environment.state.load().ports and not environment.folder.exists()


def test_services_are_taken_down_by_the_environments_id(engine: FakeEngine, up: Callable[..., Environment]) -> None:
    environment = up("a", "rabbitmq")
    down.by_id(environment.id, ["etcd"], True, Report())
    assert {*engine.observe(environment.id, "").services} == {"rabbitmq"}


@pytest.mark.parametrize(("volumes", "after"), [(False, (0, 0, 1)), (True, (0, 0, 0))])
def test_an_environment_whose_folder_is_gone_is_taken_down_by_its_id(
    engine: FakeEngine, up: Callable[..., Environment], volumes: bool, after: tuple[int, int, int]
) -> None:
    environment = up("a")
    shutil.rmtree(environment.project)
    (found,) = list_environments()
    assert found.gone
    down.by_id(environment.id, (), volumes, Report())
    assert left(engine, environment) == after
    assert not environment.project.exists()
    assert [each.id for each in list_environments()] == ([] if volumes else [environment.id])


def test_an_environment_without_a_record_is_not_touched(
    engine: FakeEngine, up: Callable[..., Environment], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    others = up("a")
    monkeypatch.setenv("DEVENV_STATE_DIR", str(tmp_path / "mine"))
    with pytest.raises(NotOurs, match=f"cannot take down {others.id}: there is no record of it here"):
        down.by_id(others.id, (), True, Report())
    assert left(engine, others) == (1, 1, 1)
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("identity", ["nosuch", "", "../a", "a*"])
def test_an_unknown_id_is_refused_with_the_closest_one(identity: str, up: Callable[..., Environment]) -> None:
    environment = up("nosuchproject")
    with pytest.raises(ConfigError, match="cannot find environment") as caught:
        down.by_id(identity, (), True, Report())
    assert environment.id in caught.value.hint and "devenv ls" in caught.value.hint


def test_the_record_of_a_newer_devenv_is_listed_and_not_touched(
    engine: FakeEngine, up: Callable[..., Environment]
) -> None:
    environment = up("a")
    path = State(environment.project, "default").folder / "record.json"
    path.write_text(path.read_text().replace(f'"format": {FORMAT}', '"format": 99'))
    (found,) = list_environments()
    assert found.id == environment.id
    with pytest.raises(ConfigError, match="a newer devenv wrote"):
        down.by_id(environment.id, (), True, Report())
    assert left(engine, environment) == (1, 1, 1)


# ---- attached services -------------------------------------------------------------------------------------------


def attach(environment: Environment, *names: str) -> None:
    environment.state.save(Record(environment.id, environment.name, str(environment.project)))
    environment.state.attach({name: {"attach": f"{name}://h"} for name in names})


def test_an_environment_of_attached_services_is_listed_where_no_engine_answers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def nowhere() -> NoReturn:
        raise NoEngine("cannot reach a container engine")

    monkeypatch.setattr("devenv.lifecycle.listing.connect", nowhere)
    with pytest.raises(NoEngine):
        list_environments()
    attach(Environment(tmp_path), "mysql", "etcd")
    notes: list[str] = []
    (found,) = list_environments(note=notes.append)
    assert (found.state, found.services) == ("attached", {"etcd": "attached", "mysql": "attached"})
    assert notes == ["cannot reach a container engine; what it has is left out"]


def test_attached_services_stand_beside_those_of_the_engine(up: Callable[..., Environment], tmp_path: Path) -> None:
    environment = up("nova")
    environment.state.attach({"mysql": {"attach": "mysql://h"}})
    (found,) = list_environments()
    assert (found.state, found.services) == ("running", {"etcd": "running", "mysql": "attached"})
