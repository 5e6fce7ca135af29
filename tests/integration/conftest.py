"""The real engine and the real services."""

from __future__ import annotations

import gc
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest
from project import REPOSITORY, Ports, Project, new_project, remove

from devenv.engine.connection import endpoint_in_use


@pytest.fixture(scope="session")
def client() -> Iterator[docker.DockerClient]:
    """The engine, asked without devenv."""
    engine = docker.DockerClient(base_url=endpoint_in_use()[0])
    yield engine
    engine.close()


@pytest.fixture(autouse=True)
def _ready(images: Ports) -> None:
    """Every test here needs images, and ports that another process may have let go of."""
    images.hold()


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """An empty project; whatever was brought up in it is gone afterwards."""
    scratch = new_project(tmp_path, "project")
    yield scratch
    remove(scratch)


@pytest.fixture
def checkout(project: Project, tmp_path: Path) -> Path:
    """A copy of the source tree that the project's command line runs from, for the test to change."""
    copy = tmp_path / "checkout"
    for name in ("devenv", "compose", "profiles"):
        shutil.copytree(REPOSITORY / name, copy / name)
    project.checkout = copy
    return copy


@pytest.fixture
def etcd_that(client: docker.DockerClient, tmp_path: Path, project: Project) -> Iterator[Callable[[str], str]]:
    """Makes an image that passes for etcd and runs a script instead."""
    base = next(image for image in project.json("images", "list") if image["service"] == "base")["reference"]
    tag = f"devenv-test/{uuid.uuid4().hex}:broken"

    def build(script: str) -> str:
        (tmp_path / "etcd").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "etcd").chmod(0o755)
        (tmp_path / "Dockerfile").write_text(f"FROM {base}\nCOPY etcd /usr/local/bin/etcd\n")
        client.images.build(path=str(tmp_path), tag=tag, rm=True, forcerm=True)
        return tag

    yield build
    client.images.remove(tag, force=True)


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    """What a test left open is told of in this test: garbage is collected at its end, not in a later one."""
    yield
    gc.collect()
