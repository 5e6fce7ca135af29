"""Docker and Podman keep what every engine promises."""

from __future__ import annotations

import pytest

from devenv.engine.docker import connect
from devenv.engine.protocol import Engine
from devenv.images.references import BASE, images_for
from devenv.model import Profile
from tests.contract import *  # noqa: F403 - the tests


@pytest.fixture(scope="module")
def subject() -> Engine:
    return connect()


@pytest.fixture(scope="module")
def image() -> str:
    return images_for(Profile("", {}), {})[BASE].reference
