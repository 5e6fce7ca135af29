"""Podman, which speaks Docker's API with some differences: in a network namespace of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from private_engine import PrivateEngine, private_podman
from project import Completed, Project


@pytest.fixture
def podman(project: Project, tmp_path: Path) -> Iterator[PrivateEngine]:
    """Start Debian's Podman with the images of all services."""
    with private_podman(tmp_path) as engine:
        engine.load([image["reference"] for image in project.json("images", "list")])
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

    # A paused container, as a killed devenv may leave it, stops and goes on.
    for command, state in (("stop", "stopped"), ("up", "ready")):
        podman.client.containers.get(f"devenv-{project.id}-etcd").pause()
        run(command, "etcd")
        assert states()["etcd"] == state
        run("up", "etcd")

    # A restore brings back all that was saved.
    tables = ("exec", "mysql", "mysql", "-N", "-e", "SHOW TABLES IN nova")
    run("exec", "mysql", "mysql", "-e", "CREATE TABLE nova.kept (a INT)")
    run("exec", "etcd", "etcdctl", "put", "key", "saved")
    run("snapshot", "save", "good")
    run("exec", "mysql", "mysql", "-e", "DROP TABLE nova.kept; CREATE TABLE nova.later (a INT)")
    run("exec", "etcd", "etcdctl", "put", "key", "changed")
    run("snapshot", "restore", "good")
    assert run(*tables).stdout.split() == ["kept"]
    assert run("exec", "etcd", "etcdctl", "get", "--print-value-only", "key").stdout.split() == ["saved"]

    # The next environment begins with the golden state, which holds none of that data.
    run("down", "--volumes")
    assert podman.client.containers.list(all=True) == [] and podman.client.volumes.list() == []
    operations = json.loads(run("plan", "--format", "json").stdout)["operations"]
    assert ("fill", "golden state") in {(op["action"], op["cause"]) for op in operations}
    assert "starting without it" not in run("up").stderr
    assert run(*tables).stdout.split() == []
    assert {*states().values()} == {"ready"}
    run("down", "--volumes")
