"""The image that a service runs, by the name under which the engine lists it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from builders import BASE as BASE_IMAGE, desired, inspected, service
from fake_engine import FakeEngine

from devenv.engine.image_names import familiar
from devenv.engine.protocol import About
from devenv.errors import Cancelled, NotOurs, ServiceFailed
from devenv.images.build import build_lock, fetch_wheels
from devenv.images.references import (
    BASE,
    DRAFT,
    check_used,
    content_of,
    full_reference,
    images_for,
    is_genuine,
    stale_images,
)
from devenv.model import (
    LABEL_ENVIRONMENT,
    LABEL_SERVICE,
    SHARED,
    Image,
    Observed,
    Operation,
    Plan,
    Profile,
    ServiceChoice,
)
from devenv.spec.catalogue import load_catalogue
from devenv.store.places import cache_folder

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("mysql:8", "mysql:8"),
        ("docker.io/library/mysql:8", "mysql:8"),
        ("index.docker.io/library/mysql:8", "mysql:8"),
        ("docker.io/bitnami/etcd", "bitnami/etcd"),
        ("index.docker.io/bitnami/etcd", "bitnami/etcd"),
        ("localhost/devenv/base:1", "devenv/base:1"),
        ("localhost/mysql:8.4", "localhost/mysql:8.4"),
        (f"docker.io/library/mysql@{DIGEST}", f"mysql@{DIGEST}"),
        ("quay.io/coreos/etcd:v3", "quay.io/coreos/etcd:v3"),
        ("localhost:5000/mysql", "localhost:5000/mysql"),
        ("docker.iox/mysql", "docker.iox/mysql"),
        ("library/mysql", "library/mysql"),
        ("r.example/docker.io/library/mysql", "r.example/docker.io/library/mysql"),
    ],
)
def test_an_image_goes_by_its_familiar_name(reference: str, name: str) -> None:
    assert familiar(reference) == name
    assert familiar(name) == name


@pytest.mark.parametrize(
    ("written", "full"),
    [
        ("mysql", "mysql:latest"),
        ("mysql:8", "mysql:8"),
        ("docker.io/library/mysql", "mysql:latest"),
        ("docker.io/bitnami/etcd:3", "bitnami/etcd:3"),
        ("localhost:5000/mysql", "localhost:5000/mysql:latest"),
        ("localhost:5000/a/mysql:8", "localhost:5000/a/mysql:8"),
        (f"mysql@{DIGEST}", f"mysql@{DIGEST}"),
        (f"mysql:8@{DIGEST}", f"mysql@{DIGEST}"),
        (f"docker.io/library/mysql:8@{DIGEST}", f"mysql@{DIGEST}"),
        (f"localhost:5000/mysql@{DIGEST}", f"localhost:5000/mysql@{DIGEST}"),
        (f"localhost:5000/a/mysql:8@{DIGEST}", f"localhost:5000/a/mysql@{DIGEST}"),
    ],
)
def test_an_image_is_asked_for_as_the_engine_lists_it(written: str, full: str) -> None:
    assert full_reference(written) == full
    assert full_reference(full) == full


def test_an_image_of_the_projects_own_is_pulled() -> None:
    catalogue = load_catalogue()
    name = next(iter(catalogue))
    images = images_for(Profile("mine", {name: ServiceChoice(image="docker.io/library/x")}), catalogue)
    assert (images[name].reference, images[name].how) == ("x:latest", "pull")
    assert images[BASE].how == "base"


def test_one_image_is_built_by_one_devenv_at_a_time_and_others_beside_it() -> None:
    def give_up(_: str) -> None:
        raise Cancelled

    with build_lock("devenv/mysql:1", pytest.fail), build_lock("devenv/etcd:1", pytest.fail):
        with pytest.raises(Cancelled), build_lock("devenv/mysql:1", give_up):
            pytest.fail("both build")
        assert {path.name for path in cache_folder().iterdir()} == {"devenv-mysql-1.lock", "devenv-etcd-1.lock"}


# ---- whether it is the right image ---------------------------------------------------------------------------------

NAME = "devenv/one:1"


def test_an_image_is_genuine_under_its_own_name_only() -> None:
    image = inspected(NAME)
    assert is_genuine(NAME, image)
    assert not is_genuine("devenv/one:2", image)
    assert not is_genuine(NAME, inspected(NAME, labels={}))
    assert not is_genuine(NAME, {**image, "Config": {}})


@pytest.mark.parametrize(
    "other",
    [
        {"RootFS": {"Layers": ["sha256:1", "sha256:2"]}},
        {"RootFS": {"Layers": ["sha256:3"]}},
        {"Config": {"Env": ["LD_PRELOAD=/other.so"]}},
        {"Config": {"Entrypoint": ["/other"]}},
        {"Config": {"Cmd": ["/other"]}},
        {"Config": {"User": "0"}},
        {"Config": {"WorkingDir": "/tmp"}},
    ],
)
def test_other_content_with_the_same_labels_is_not_genuine(other: dict[str, Any]) -> None:
    labels = inspected(NAME)["Config"]["Labels"]
    assert not is_genuine(NAME, inspected(NAME, labels, **other))


def test_engines_differ_in_how_they_say_that_nothing_is_set() -> None:
    said = {"Env": None, "Cmd": [], "User": "", "Entrypoint": None}
    assert content_of(NAME, inspected(NAME, Config=said)) == content_of(NAME, inspected(NAME))


ONE = service("one", build=True)
REFERENCE = ONE.image.reference
TARGET = replace(desired(ONE), images=(BASE_IMAGE, ONE.image))
CREATE = Operation("create", "one")


def check(*operations: Operation, foreign: str, target: Any = TARGET, **image: Any) -> None:
    engine = FakeEngine(Observed(images=dict.fromkeys((REFERENCE, BASE_IMAGE.reference), "id")))
    engine.inspected[foreign] = inspected(foreign, **{"labels": {}, **image})
    check_used(engine, Plan(operations), target, {REFERENCE, BASE_IMAGE.reference})  # type: ignore[arg-type]


def test_an_image_is_looked_at_before_a_container_is_made_of_it() -> None:
    with pytest.raises(NotOurs, match=f"cannot use image {REFERENCE}: devenv did not build it"):
        check(CREATE, foreign=REFERENCE)
    check(CREATE, foreign="devenv/other:1")
    # This operation makes nothing from the image.
    check(Operation("ready", "one"), foreign=REFERENCE)


def test_the_base_is_looked_at_before_anything_is_built_on_it() -> None:
    with pytest.raises(NotOurs, match=BASE_IMAGE.reference):
        check(Operation("build image", "one", subject=REFERENCE), foreign=BASE_IMAGE.reference)
    check(CREATE, foreign=BASE_IMAGE.reference)


def test_an_image_of_the_users_choice_is_taken_as_it_is() -> None:
    own = replace(ONE, image=Image(REFERENCE, "pull", "one"))
    check(CREATE, foreign=REFERENCE, target=desired(own))


LABELS = {LABEL_ENVIRONMENT: SHARED, LABEL_SERVICE: "one"}


@pytest.mark.parametrize(
    "image",
    [
        {},
        {"labels": {**LABELS, LABEL_SERVICE: "two"}},
        {"labels": {**LABELS, LABEL_ENVIRONMENT: "another-1"}},
        {"labels": LABELS, "RootFS": {"Layers": ["sha256:1", "sha256:2"]}},
    ],
    ids=["no labels", "another service's", "another environment's", "made of ours"],
)
def test_data_comes_from_what_devenv_imported_for_that_service(image: dict[str, Any]) -> None:
    fill = Operation("fill", "v", subject="devenv/golden:one-v-1", service="one")
    with pytest.raises(NotOurs, match="cannot use image devenv/golden:one-v-1"):
        check(fill, foreign=fill.subject, **image)


@pytest.mark.parametrize("environment", [SHARED, TARGET.environment])
def test_golden_states_and_snapshots_are_data(environment: str) -> None:
    fill = Operation("fill", "v", subject="devenv/golden:one-v-1", service="one")
    check(fill, foreign=fill.subject, labels={**LABELS, LABEL_ENVIRONMENT: environment})


def test_what_nobody_asks_for_is_stale_and_not_what_is_being_made() -> None:
    stale = ["devenv/one:older", "devenv/one:older" + DRAFT, "devenv/one:other"]
    tags = [REFERENCE, REFERENCE + DRAFT, *stale, "devenv/golden:one-v-1"]
    engine = FakeEngine(Observed(images=dict.fromkeys(tags, "id")))
    found = stale_images(engine, [ONE.image])  # type: ignore[arg-type]
    assert found == stale


def test_what_somebody_made_of_ours_is_not_stale() -> None:
    # Such an image has all of devenv's labels. devenv pulls the one that a profile names, whatever it was made from.
    tags = ["<none>:<none>", "mine:1", "devenv/mine:1", "theirs/one:1", "registry/devenv/one:1"]
    engine = FakeEngine(Observed(images=dict.fromkeys(tags, "id")))
    assert stale_images(engine, [ONE.image, Image("mine:2", "pull", "two")]) == []  # type: ignore[arg-type]


def test_pip_is_never_one_of_the_projects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("pip", "queue"):
        (tmp_path / f"{module}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    engine: Any = SimpleNamespace(about=lambda: About("x", "1", "1"))
    with pytest.raises(ServiceFailed, match="cannot finish pip: exit code 1") as failure:
        fetch_wheels(engine, load_catalogue()["keystone"], lambda _: None)
    assert any("No matching distribution" in line for line in failure.value.detail)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("registry", "image", "address", "policy"),
    [
        ("", "", "devenv/etcd:", "Never"),
        ("r.example.org/team", "", "r.example.org/team/devenv/etcd:", "IfNotPresent"),
        ("r.example.org/team", "quay.io/coreos/etcd:v3", "quay.io/coreos/etcd:v3", "IfNotPresent"),
    ],
)
def test_nodes_get_devenvs_images_from_the_named_registry_and_from_no_other(
    registry: str, image: str, address: str, policy: str
) -> None:
    profile = Profile("p", {"etcd": ServiceChoice(image=image)}, image_registry=registry)
    found = images_for(profile, load_catalogue())["etcd"]
    assert found.address.startswith(address) and found.policy == policy
