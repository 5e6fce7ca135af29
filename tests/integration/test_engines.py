"""Docker and Podman keep what every engine promises."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from private_engine import private_podman
from project import Project

from devenv.engine import connect
from devenv.engine.connection import Connection
from devenv.engine.docker import Docker
from devenv.engine.protocol import Engine
from devenv.images.references import BASE, images_for
from devenv.model import Profile
from tests.contract import *  # noqa: F403 - the tests


@pytest.fixture(scope="module")
def image() -> str:
    return images_for(Profile("", {}), {})[BASE].reference


@pytest.fixture(scope="module", params=["docker", pytest.param("podman", marks=pytest.mark.long)])
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, image: str) -> Iterator[Engine]:
    if request.param == "docker":
        yield connect()
        return
    with private_podman(tmp_path_factory.mktemp("podman")) as podman:
        podman.load([image])
        yield Docker(Connection(f"unix://{podman.socket}", "podman"))


@pytest.mark.long
def test_an_image_is_built_of_packages_and_its_service_starts(
    project: Project, checkout: Path, client: docker.DockerClient
) -> None:
    # Another Dockerfile makes another image, so it is built even where the usual one is there.
    dockerfile = checkout / "compose/etcd/Dockerfile"
    dockerfile.write_text(dockerfile.read_text().replace("RUN set -eu", f"RUN : {project.id} && set -eu"))
    (wanted,) = (one for one in project.json("images", "list") if one["service"] == "etcd")
    assert wanted["id"] == ""
    try:
        project.devenv("images", "build", "etcd")
        project.devenv("up", "etcd")
        (built,) = (one for one in project.json("images", "list") if one["service"] == "etcd")
        assert (built["reference"], built["version"] != "") == (wanted["reference"], True)
        assert project.json("status", "etcd")["services"]["etcd"]["state"] == "ready"
    finally:
        project.devenv("down", "--volumes")
        client.images.remove(wanted["reference"], force=True)
