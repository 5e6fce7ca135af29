"""Podman, which speaks Docker's API and does some of it otherwise: in a network namespace of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import debian
import pytest
from private_engine import PrivateEngine, PrivatePodman, private_engine
from project import Completed, Project, require

# In MB: room for the images of all services, their data and a snapshot of that.
DISK = 4000
# All that it needs, as apt leaves out what the host has: libraries serve from there.
PACKAGES = ("podman", "conmon", "golang-github-containers-common", "netavark", "aardvark-dns")


@pytest.fixture
def podman(project: Project, tmp_path: Path) -> Iterator[PrivateEngine]:
    """Debian's Podman with the images of all services."""
    (parent := tmp_path / "debian").mkdir()
    options = ("--yes", "--download-only", "--reinstall", "--no-install-recommends")
    unpacked = debian.unpacked(parent, "install", *options, *PACKAGES)
    require("" if unpacked else "no Podman from Debian")
    images = [image["reference"] for image in project.json("images", "list")]
    with private_engine(tmp_path, DISK, str(unpacked), kind=PrivatePodman) as engine:
        engine.load(images)
        yield engine


@pytest.mark.long
def test_podman_keeps_what_it_is_given(podman: PrivateEngine, project: Project) -> None:
    def run(*arguments: str) -> Completed:
        done = podman.devenv(project, *arguments)
        assert done.returncode == 0, done.stderr
        return done

    def states() -> dict[str, str]:
        services = json.loads(run("status", "--format", "json").stdout)["services"]
        return {name: one["state"] for name, one in services.items()}

    project.configure("profile: base\ncomponents: {nova: {}}\n")
    assert "Podman answers" in run("doctor").stdout
    run("up")
    assert "nothing to change" in run("plan").stdout

    # What stands still, as a killed devenv may leave it, stops and goes on.
    for command, state in (("stop", "stopped"), ("up", "ready")):
        podman.client.containers.get(f"devenv-{project.id}-etcd").pause()
        run(command, "etcd")
        assert states()["etcd"] == state
        run("up", "etcd")

    # What was saved is there again, all of it.
    tables = ("exec", "mysql", "mysql", "-N", "-e", "SHOW TABLES IN nova")
    run("exec", "mysql", "mysql", "-e", "CREATE TABLE nova.kept (a INT)")
    run("exec", "etcd", "etcdctl", "put", "key", "saved")
    run("snapshot", "save", "good")
    run("exec", "mysql", "mysql", "-e", "DROP TABLE nova.kept; CREATE TABLE nova.later (a INT)")
    run("exec", "etcd", "etcdctl", "put", "key", "changed")
    run("snapshot", "restore", "good")
    assert run(*tables).stdout.split() == ["kept"]
    assert run("exec", "etcd", "etcdctl", "get", "--print-value-only", "key").stdout.split() == ["saved"]

    # The next environment begins with the golden state, which holds none of that.
    run("down", "--volumes")
    assert podman.client.containers.list(all=True) == [] and podman.client.volumes.list() == []
    operations = json.loads(run("plan", "--format", "json").stdout)["operations"]
    assert ("fill", "golden state") in {(op["action"], op["cause"]) for op in operations}
    assert "starting without it" not in run("up").stderr
    assert run(*tables).stdout.split() == []
    assert {*states().values()} == {"ready"}
    run("down", "--volumes")
