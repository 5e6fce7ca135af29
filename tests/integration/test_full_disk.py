"""The engine's disk is full while devenv saves data: on an engine of the test's own, with a small disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from private_engine import PrivateEngine, private_engine
from project import Project, one_clear_line

# In MB: room for etcd's image, its base, an etcd and two copies of its data.
DISK = 900
# In bytes: less than the data of an etcd, which takes its space in advance.
TOO_LITTLE = 30_000_000


@pytest.fixture
def small(project: Project, tmp_path: Path) -> Iterator[PrivateEngine]:
    """Start an engine with a small disk and the image of etcd, and configure a project for it."""
    project.configure("profile: coordination\n")
    images = [image["reference"] for image in project.json("images", "list")]
    with private_engine(tmp_path, DISK) as engine:
        engine.load(images)
        yield engine


@pytest.mark.long
def test_a_full_disk_costs_neither_the_environment_nor_what_was_saved_before(
    small: PrivateEngine, project: Project, checkout: Path
) -> None:
    compose = checkout / "compose" / "etcd" / "compose.yaml"
    compose.write_text(
        compose.read_text().replace("  role: coordination\n", "  role: coordination\n  golden: [data]\n")
    )
    images = {image.id for image in small.client.images.list(all=True)}

    def run(*arguments: str) -> str:
        done = small.devenv(project, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    # Without room for a golden state, devenv keeps none, and the environment still works.
    ballast = small.fill(leave=TOO_LITTLE + 130_000_000)
    said = run("up")
    assert "could not keep the golden state of etcd: cannot keep data" in said and "no space left" in said
    assert {image.id for image in small.client.images.list(all=True)} == images
    run("exec", "etcd", "etcdctl", "put", "key", "1")

    # With room, devenv keeps it.
    ballast.unlink()
    run("down", "--volumes")
    assert "not kept" not in run("up")
    run("exec", "etcd", "etcdctl", "put", "key", "1")
    run("snapshot", "save", "before")

    # A save fails with one line and leaves nothing; services go on.
    images = {image.id for image in small.client.images.list(all=True)}
    small.fill(leave=TOO_LITTLE)
    failed = small.devenv(project, "snapshot", "save", "full")
    one_clear_line(failed, 5, "cannot keep data", "no space left", "devenv gc")
    assert {image.id for image in small.client.images.list(all=True)} == images
    assert json.loads(run("status", "--format", "json"))["services"]["etcd"]["state"] == "ready"
    assert [one["name"] for one in json.loads(run("snapshot", "list", "--format", "json"))] == ["before"]

    # gc makes room, and devenv can restore what it saved before.
    assert "removed devenv/golden:etcd-data-" in run("gc", "--keep", "0")
    ballast.unlink()
    run("exec", "etcd", "etcdctl", "del", "key")
    run("snapshot", "restore", "before")
    assert "key" in run("exec", "etcd", "etcdctl", "get", "key")
    run("snapshot", "rm", "before")
    run("down", "--volumes")
