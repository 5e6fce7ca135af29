"""The real engine and the real services."""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest
from project import REPOSITORY, Ports, Project, new_project, remove

from devenv.engine.connection import endpoint_in_use


@pytest.fixture(scope="session")
def client() -> Iterator[docker.DockerClient]:
    """Connect to the engine without devenv."""
    engine = docker.DockerClient(base_url=endpoint_in_use()[0])
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build this checkout's wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(REPOSITORY)]
    subprocess.run(build, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(autouse=True)
def _ready(images: Ports) -> None:
    """Wait for the images, and hold the ports that another process has released meanwhile."""
    images.hold()


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """Make an empty project; take down afterwards whatever runs in it."""
    scratch = new_project(tmp_path, "project")
    yield scratch
    remove(scratch)


@pytest.fixture
def checkout(project: Project, tmp_path: Path) -> Path:
    """Copy the source tree for the test to change; the project's command line runs from the copy."""
    copy = tmp_path / "checkout"
    for name in ("devenv", "compose", "profiles"):
        shutil.copytree(REPOSITORY / name, copy / name)
    project.checkout = copy
    return copy


@pytest.fixture
def etcd_that(client: docker.DockerClient, tmp_path: Path, project: Project) -> Iterator[Callable[[str], str]]:
    """Yield a function that builds an image that passes for etcd and runs a script instead."""
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
    """Collect garbage at the end of each test, so that Python warns in that test of what it left open."""
    yield
    gc.collect()
