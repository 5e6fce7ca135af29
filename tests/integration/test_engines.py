"""Docker and Podman keep what every engine promises."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from private_engine import private_podman

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
