"""Images and golden states in one file: its keys, what is saved, and what is not loaded."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from archives import HEX, Carrier, archive, entry
from fake_engine import Recorder

from devenv.errors import ConfigError
from devenv.images.golden import references
from devenv.images.references import BASE
from devenv.lifecycle.environment import Environment
from devenv.model import Observed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (folder := tmp_path / "project").mkdir()
    return folder


def project(folder: Path, text: str = "profile: database\n", engine: Carrier | None = None) -> Environment:
    (folder / "devenv.yaml").write_text(text)
    environment = Environment(folder, report=Recorder())
    environment._world.seat._connected = engine or Carrier()  # type: ignore[assignment]
    return environment


def with_all_images(environment: Environment, engine: Carrier) -> dict[str, str]:
    """Put all images on the engine, and return the golden states that belong to them."""
    there = {reference: f"id of {reference}" for reference in environment.image_references().values()}
    engine.observed = Observed(images=there)
    picture = environment._world.look(environment._world.define())
    return references(picture.wanted, picture.defined.catalogue, picture.observed.images)


# ---- keys --------------------------------------------------------------------------------------------------------


def test_keys_are_the_same_for_the_same_content_and_need_no_engine(folder: Path, tmp_path: Path) -> None:
    (other := tmp_path / "other").mkdir()
    keys = project(folder).cache_keys()
    assert keys == project(other, "profile: database\ncomponents: {nova: {}}\n").cache_keys()
    assert keys["golden"].startswith(f"{keys['images']}-")
    assert list(project(folder).engine.calls) == []  # type: ignore[attr-defined]


def test_another_image_is_another_key_for_both(folder: Path) -> None:
    before = project(folder).cache_keys()
    after = project(folder, "profile: database\nservices: {mysql: {image: 'mysql:8.4'}}\n").cache_keys()
    assert before["images"] != after["images"] and before["golden"] != after["golden"]


def test_another_setting_is_another_key_for_golden_states_only(folder: Path) -> None:
    before = project(folder).cache_keys()
    after = project(folder, "profile: database\nservices: {mysql: {durable: true}}\n").cache_keys()
    assert before["images"] == after["images"] and before["golden"] != after["golden"]


def test_services_have_keys_of_their_own(folder: Path) -> None:
    environment = project(folder, "profile: base\n")
    assert environment.cache_keys(["mysql"]) != environment.cache_keys()
    assert environment.cache_keys(["mysql"]) == project(folder).cache_keys()


# ---- save --------------------------------------------------------------------------------------------------------


def test_images_and_the_golden_states_of_this_content_are_saved(folder: Path, tmp_path: Path) -> None:
    environment = project(folder, engine=(engine := Carrier()))
    (golden,) = with_all_images(environment, engine).values()
    others = {golden: "1", "devenv/golden:mysql-data-other": "2", "devenv/mysql:older": "3", "theirs:1": "4"}
    engine.observed = replace(engine.observed, images={**engine.observed.images, **others})
    saved = environment.save_images(target := tmp_path / "cache.tar")
    references = tuple(environment.image_references().values())
    assert (saved.images, saved.golden) == (references, (golden,))
    assert target.read_text().split() == [*references, golden]
    assert saved.size == target.stat().st_size and target.stat().st_mode & 0o777 == 0o600


def test_a_missing_image_is_named_and_the_old_file_stays(folder: Path, tmp_path: Path) -> None:
    (target := tmp_path / "cache.tar").write_text("old")
    with pytest.raises(ConfigError, match="cannot save images: devenv/mysql:"):
        project(folder).save_images(target)
    assert target.read_text() == "old"


def test_the_base_is_not_missed_where_nothing_was_built(folder: Path, tmp_path: Path) -> None:
    environment = project(folder, engine=(engine := Carrier()))
    with_all_images(environment, engine)
    there = dict(engine.observed.images)
    del there[environment.image_references()[BASE]]
    engine.observed = replace(engine.observed, images=there)
    assert environment.save_images(tmp_path / "cache.tar").images == (environment.image_references()["mysql"],)


def test_a_missing_golden_state_is_told_and_so_is_what_has_no_name(folder: Path) -> None:
    digest = "sha256:" + "0" * 64
    text = f"profile: database\nservices: {{mysql: {{image: 'mysql@{digest}'}}, etcd: {{}}}}\n"
    environment = project(folder, text, engine := Carrier())
    with_all_images(environment, engine)
    saved = environment.save_images(io.BytesIO())
    assert not saved.golden and f"mysql@{digest}" not in saved.images
    told = " ".join(environment._world.report.told)  # type: ignore[attr-defined]
    assert f"note mysql@{digest} has no name" in told and "note not every golden state is there" in told


def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    environment = project(folder, engine=(engine := Carrier()))
    with_all_images(environment, engine)

    def interrupted() -> None:
        raise KeyboardInterrupt

    engine.on[f"save {environment.image_references()['mysql']}"] = interrupted
    (target := tmp_path / "cache.tar").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        environment.save_images(target)
    assert target.read_text() == "old" and sorted(tmp_path.glob(".cache*")) == []


@pytest.mark.parametrize("name", ["no/such/folder/cache.tar", "project"])
def test_where_no_file_can_be_is_a_clear_error(name: str, folder: Path, tmp_path: Path) -> None:
    environment = project(folder, engine=(engine := Carrier()))
    with_all_images(environment, engine)
    with pytest.raises(ConfigError, match="cannot write"):
        environment.save_images(tmp_path / name)


# ---- load --------------------------------------------------------------------------------------------------------


def test_devenvs_own_images_are_loaded_whole(folder: Path) -> None:
    file = archive(manifest=[entry("devenv/mysql:1"), entry("devenv/golden:mysql-data-1")])
    environment = project(folder, engine=(engine := Carrier(Observed(images={"devenv/mysql:1": "another"}))))
    loaded = environment.load_images(file, "file")
    assert (loaded.images, loaded.golden) == (("devenv/mysql:1",), ("devenv/golden:mysql-data-1",))
    assert engine.loaded == file.getvalue()


def test_an_image_that_the_profile_names_is_loaded_but_never_over_another_one(folder: Path) -> None:
    text = "profile: database\nservices: {mysql: {image: 'mysql:8'}}\n"
    project(folder, text).trust()
    for there in ({}, {"mysql:8": f"sha256:{HEX}"}):
        environment = project(folder, text, engine := Carrier(Observed(images=there)))
        environment.load_images(archive(manifest=[entry("mysql:8")]), "file")
        assert engine.loaded
    environment = project(folder, text, engine := Carrier(Observed(images={"mysql:8": "another"})))
    with pytest.raises(ConfigError, match="cannot load file: another image has the name mysql:8 here"):
        environment.load_images(archive(manifest=[entry("mysql:8")]), "file")
    assert not engine.loaded


def test_nothing_of_an_archive_with_a_foreign_image_is_loaded(folder: Path) -> None:
    environment = project(folder, engine=(engine := Carrier()))
    with pytest.raises(ConfigError, match="cannot load file: alpine:3 in it is no image of devenv's"):
        environment.load_images(archive(manifest=[entry("devenv/mysql:1", "alpine:3")]), "file")
    assert not engine.loaded
