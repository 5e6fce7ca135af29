"""Which image a service runs, by the name that the engine lists it under."""

from __future__ import annotations

import pytest

from devenv.catalogue import load_catalogue
from devenv.errors import Cancelled
from devenv.imagebuild import build_lock
from devenv.images import BASE, full_reference, images_for
from devenv.model import Profile, ServiceChoice
from devenv.names import familiar
from devenv.state import cache_folder

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
