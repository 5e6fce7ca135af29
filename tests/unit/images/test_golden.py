"""Golden states: which one a service begins with, how devenv keeps them, and when it removes them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from builders import consumer, container, desired, operation, part, service, shipped
from fake_engine import FakeEngine

from devenv.engine.protocol import Capability
from devenv.errors import Cancelled, DevenvError, NoEngine, NoSpace, NotOurs, ServiceFailed
from devenv.images import golden
from devenv.images.references import POD_REPOSITORY
from devenv.model import Desired, Observed, Plan, ServiceDefinition, Source
from devenv.spec.catalogue import load_catalogue
from devenv.store.locks import held

VOLUME = "devenv-env-1-mysql-data"
SERVICES = ("mysql", "keystone")
CATALOGUE = load_catalogue()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEVENV_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def images_of(target: Desired) -> dict[str, str]:
    return {s.image.reference: f"id of {s.image.reference}" for s in target.services.values()}


def reference(
    catalogue: Mapping[str, ServiceDefinition] = CATALOGUE,
    images: Mapping[str, str] | None = None,
    services: tuple[str, ...] = SERVICES,
) -> str:
    target = shipped(services)
    return golden.references(target, catalogue, images or images_of(target))[VOLUME]


# ---- which golden state ------------------------------------------------------------------------------------------


def other(value: Any) -> Any:
    """Return another value of the same kind."""
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case str():
            return f"{value}x"
        case tuple():
            return (*value, "x")
        case dict():
            return {**value, "x": "y"}
        case None:
            return "x"
    return replace(value, **{(first := fields(value)[0].name): other(getattr(value, first))})


CONTENT = [field.name for field in fields(ServiceDefinition) if field.name not in ("folder", "wire", "files")]


@pytest.mark.parametrize("name", SERVICES)
@pytest.mark.parametrize("field", CONTENT)
def test_a_change_of_any_input_makes_another_golden_state(field: str, name: str) -> None:
    changed = replace(CATALOGUE[name], **{field: other(getattr(CATALOGUE[name], field))})
    assert reference({**CATALOGUE, name: changed}) != reference()


FILES = [(name, number) for name in SERVICES for number in range(len(CATALOGUE[name].files))]


@pytest.mark.parametrize(("name", "number"), FILES, ids=[CATALOGUE[n].files[i].target for n, i in FILES])
def test_a_change_of_any_file_makes_another_golden_state(name: str, number: int, tmp_path: Path) -> None:
    files = list(CATALOGUE[name].files)
    source = tmp_path / "changed"
    source.write_text(files[number].source.read_text() + "\n")
    files[number] = replace(files[number], source=source)
    assert reference({**CATALOGUE, name: replace(CATALOGUE[name], files=tuple(files))}) != reference()


@pytest.mark.parametrize("name", SERVICES)
def test_another_image_of_the_same_name_makes_another_golden_state(name: str) -> None:
    target = shipped(SERVICES)
    rebuilt = {**images_of(target), target.services[name].image.reference: "sha256:other"}
    assert reference(images=rebuilt) != reference()


def test_without_the_service_that_uses_it_it_is_another_golden_state() -> None:
    assert reference(services=("mysql",)) != reference()


def test_where_things_lie_and_what_an_environment_has_of_its_own_make_no_difference() -> None:
    elsewhere = {name: replace(one, folder=Path("/elsewhere"), wire=Path("other")) for name, one in CATALOGUE.items()}
    assert reference(elsewhere) == reference()
    target = shipped(SERVICES)
    secrets = {s.name: replace(s, files={}, ports={}, config_hash="other") for s in target.services.values()}
    found = golden.references(replace(target, services=secrets), CATALOGUE, images_of(target))
    assert found[VOLUME] == reference()


def test_what_does_not_use_the_service_makes_no_difference() -> None:
    assert reference(services=("mysql", "keystone", "rabbitmq", "etcd")) == reference()


def test_nothing_is_known_of_a_service_whose_image_or_whose_users_image_is_not_there() -> None:
    target = shipped(SERVICES)
    for name in SERVICES:
        there = {r: i for r, i in images_of(target).items() if r != target.services[name].image.reference}
        assert VOLUME not in golden.references(target, CATALOGUE, there)


def test_a_golden_state_that_is_there_is_a_source_unless_told_otherwise() -> None:
    target = shipped(SERVICES)
    without = Observed(images=images_of(target))
    assert golden.with_golden(target, CATALOGUE, without, use=True).sources == {}
    there = Observed(images={**images_of(target), reference(): "id"})
    assert golden.with_golden(target, CATALOGUE, there, use=False).sources == {}
    begun = golden.with_golden(target, CATALOGUE, there, use=True)
    assert begun.keep and begun.sources[VOLUME].image == reference() and set(begun.sources) == {VOLUME}


# ---- for pods ----------------------------------------------------------------------------------------------------


def test_pods_begin_with_what_was_pushed_under_a_name_that_needs_no_image() -> None:
    target = shipped(SERVICES)
    (image,) = golden.for_pods(target, CATALOGUE).values()
    begun = golden.with_pushed(target, CATALOGUE, FakeEngine(), "registry.test")  # type: ignore[arg-type]
    assert begun.sources == {VOLUME: Source(f"registry.test/{image}", golden.CAUSE, golden=True)}
    assert not begun.keep and image.startswith(f"{POD_REPOSITORY}:mysql-data-")
    changed = {**CATALOGUE, "mysql": replace(CATALOGUE["mysql"], settings={"flush_log": "1"})}
    assert golden.for_pods(target, changed) != golden.for_pods(target, CATALOGUE)


def test_without_a_registry_pods_begin_with_what_each_node_has() -> None:
    target, engine = shipped(SERVICES), FakeEngine()
    (image,) = golden.for_pods(target, CATALOGUE).values()
    assert golden.with_pushed(target, CATALOGUE, engine, "").sources == {}  # type: ignore[arg-type]
    engine = FakeEngine(Observed(images={image: "id"}))
    assert golden.with_pushed(target, CATALOGUE, engine, "").sources[VOLUME].image == image  # type: ignore[arg-type]


def test_a_golden_state_that_pods_cannot_start_from_is_left_alone_until_it_is_made_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target, engine = shipped(SERVICES), FakeEngine()
    engine.can = frozenset({Capability.FILL})

    def source() -> str:
        found = golden.with_pushed(target, CATALOGUE, engine, "registry.test").sources  # type: ignore[arg-type]
        return found[VOLUME].image if found else ""

    image = source()
    golden.throw_away(engine, image)  # type: ignore[arg-type]
    assert image and source() == ""
    golden.try_again([image])
    assert source() == image
    golden.throw_away(engine, image)  # type: ignore[arg-type]
    later = time.time() + 25 * 3600
    monkeypatch.setattr("time.time", lambda: later)
    assert source() == image


# ---- keep --------------------------------------------------------------------------------------------------------

ONE = service("one", volumes={"v": "/var/lib/one", "w": "/srv/two/"}, golden=("v", "w"))
IMAGES = {"v": "devenv/golden:one-v-1", "w": "devenv/golden:one-w-1"}


def keep(engine: FakeEngine) -> list[str]:
    told: list[str] = []
    golden.keep(engine, "c", ONE, IMAGES, told.append)  # type: ignore[arg-type]
    return told


def test_the_container_stands_still_while_its_volumes_are_kept() -> None:
    engine = FakeEngine(Observed({"one": container(ONE, id="c")}))
    assert keep(engine)[-1] == "0 MB"
    assert engine.calls == [
        "pause c",
        "read /var/lib/one of c",
        "import devenv/golden:one-v-1",
        "read /srv/two/ of c",
        "import devenv/golden:one-w-1",
        "unpause c",
    ]
    assert [golden.folder_in(target) for target in ONE.volumes.values()] == ["/one", "/two"]


def test_the_container_goes_on_when_nothing_could_be_kept() -> None:
    engine = FakeEngine(Observed({"one": container(ONE, id="c")}))

    def full() -> None:
        raise ServiceFailed("cannot keep data: no space left on device")

    engine.on["import devenv/golden:one-v-1"] = full
    with pytest.raises(ServiceFailed, match="no space left"):
        keep(engine)
    assert engine.calls[-1] == "unpause c"


def test_what_another_environment_kept_meanwhile_is_not_kept_again() -> None:
    engine = FakeEngine(Observed(images=dict.fromkeys(IMAGES.values(), "id")))
    keep(engine)
    assert "pause c" not in engine.calls


def test_an_interrupt_ends_the_wait_for_another_devenv_that_keeps_the_same(cache: Path) -> None:
    engine, over = FakeEngine(), Event()
    waiting = held(cache / "golden-one.lock", pytest.fail)
    with waiting, pytest.raises(Cancelled):
        golden.keep(engine, "c", ONE, IMAGES, lambda _: over.set(), over)  # type: ignore[arg-type]
    assert engine.calls == []


# ---- thrown away -------------------------------------------------------------------------------------------------

MYSQL = service(volumes={"v": "/data"}, golden=("v",), components={"nova": part("mysql/nova")})
WEB = service("web")
BOTH = desired(MYSQL, consumer(), WEB)
FILL = operation("fill v", golden.CAUSE, subject="image", service="mysql", golden=True)
FILLED = Plan((FILL, operation("create mysql")))


def blamed(
    *operations: str, plan: Plan = FILLED, error: Callable[[str], DevenvError] = ServiceFailed
) -> dict[str, str]:
    failure = error("cannot go on")
    failure.operations = [FILL if key == FILL.key else operation(key) for key in operations]
    return golden.blamed(plan, BOTH, failure)


@pytest.mark.parametrize("operation", ["fill v", "ready mysql", "ready keystone", "provision mysql/keystone"])
def test_a_golden_state_is_blamed_for_what_fails_because_of_its_service(operation: str) -> None:
    assert blamed(operation) == {"mysql": "image"}


@pytest.mark.parametrize("operation", ["ready web", "create mysql", "start keystone", "provision mysql/nova"])
def test_a_golden_state_is_not_blamed_for_anything_else(operation: str) -> None:
    assert blamed(operation) == {}


def test_neither_a_snapshot_nor_an_engine_that_went_away_costs_a_golden_state() -> None:
    restored = Plan((operation("fill v", "snapshot one", subject="image", service="mysql"),))
    assert blamed("ready mysql", plan=restored) == {}
    assert blamed("ready mysql", error=NoEngine) == {}


def test_neither_a_name_that_is_taken_nor_a_full_disk_costs_a_golden_state() -> None:
    assert blamed("fill v", error=NotOurs) == {}
    assert blamed("ready mysql", error=NoSpace) == {}


# ---- the disk ----------------------------------------------------------------------------------------------------


def test_those_that_were_not_used_for_longest_go_first(cache: Path) -> None:
    tags = [f"devenv/golden:one-v-{number}" for number in range(3)]
    engine = FakeEngine(Observed(images=dict.fromkeys([*tags, "devenv/mysql:1", "someone/elses:1"], "id")))
    # In seconds since 1970. A golden state that was never used counts from its creation, which is 1 here.
    golden.touch([tags[1]])
    assert next(iter(golden.listed(engine))).image == tags[1]  # type: ignore[arg-type]
    removed = golden.collect(engine, 250)  # type: ignore[arg-type]
    assert [one.image for one in removed] == [tags[2]]
    assert not any("mysql" in call or "someone" in call for call in engine.calls if call.startswith("remove"))
    assert [one.image for one in golden.collect(engine, 0)] == [tags[1], tags[0]]  # type: ignore[arg-type]


def test_a_cache_folder_that_cannot_be_written_only_forgets_what_was_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DEVENV_CACHE_DIR", str(tmp_path / "file"))
    golden.touch(["devenv/golden:one-v-1"])
    assert golden.listed(FakeEngine()) == []  # type: ignore[arg-type]
