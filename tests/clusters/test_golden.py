"""Pods begin with a copy of a golden state, where they can have one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import debian_registry
import pytest
from debian_registry import Registry
from project import Project

from devenv.images.references import POD_REPOSITORY
from tests.clusters.cluster import Cluster, until
from tests.pod_security import violations

pytestmark = pytest.mark.long

TABLE = "CREATE TABLE devenv.kept (id INT PRIMARY KEY)"


@contextmanager
def everywhere(cluster: Cluster, folder: Path, locked: bool = False) -> Iterator[Registry]:
    """Run a registry that this host and all nodes reach at the same address, each on its own loopback."""
    with ExitStack() as stack:
        program = debian_registry.program(folder / "program")
        here = stack.enter_context(debian_registry.served(program, folder / "registry", locked=locked))
        for node in cluster.nodes():
            around = ["nsenter", "--target", str(node), "--net"]
            stack.enter_context(debian_registry.served(program, folder / "registry", here.port, around, locked))
        yield here


@pytest.fixture
def registry(cluster: Cluster, tmp_path: Path) -> Iterator[Registry]:
    with everywhere(cluster, tmp_path) as found:
        yield found


def sql(project: Project, statement: str) -> str:
    return project.process("exec", "mysql", "--", "mysql", "--skip-column-names", "--execute", statement).stdout


def pod(cluster: Cluster, namespace: str) -> dict[str, Any]:
    (found,) = cluster.get("pods", f"--namespace={namespace}", "--selector=io.devenv.service=mysql")["items"]
    return dict(found)


def fills(found: dict[str, Any]) -> list[str]:
    """Return the images from which a pod copied its first data."""
    return [container["image"] for container in found["spec"].get("initContainers", ())]


def made(project: Project, *arguments: str) -> list[str]:
    """Make a golden state on this host's engine, and run a command about images there; return the golden ones."""
    here = ("--engine", "docker", "--env", "made")
    try:
        project.process(*here, "up")
        return list(json.loads(project.process(*here, "images", *arguments, "--format", "json").stdout)["golden"])
    finally:
        project.process(*here, "down", "--volumes")


def test_a_pod_copies_the_golden_state_once_and_gets_passwords_of_its_own(
    project: Project, registry: Registry, cluster: Cluster, namespaces: tuple[str, ...]
) -> None:
    project.configure(f"profile: database\ndurable: true\ncomponents: [nova]\nimage_registry: {registry.address}\n")
    project.process("trust")
    pushed = made(project, "push", "--golden")
    project.process("up")
    assert fills(pod(cluster, namespaces[0])) == pushed
    assert violations(pod(cluster, namespaces[0])["spec"]) == []
    found = json.loads(project.process("env", "--component", "nova", "--format", "json").stdout)
    assert found["DEVENV_MYSQL_PASSWORD"]
    assert sql(project, "SHOW DATABASES LIKE 'nova'").split() == ["nova"]
    # What is there when the next pod comes stays as it is.
    sql(project, TABLE)
    project.process("stop")
    project.process("start")
    assert fills(pod(cluster, namespaces[0])) == pushed
    assert sql(project, "SHOW TABLES IN devenv").split() == ["kept"]
    # A reset begins with the golden state, too.
    project.process("reset", "mysql")
    assert fills(pod(cluster, namespaces[0])) == pushed
    assert sql(project, "SHOW TABLES IN devenv").split() == []


def test_a_golden_state_that_nodes_cannot_have_costs_one_start_and_is_said_once(
    project: Project, registry: Registry, cluster: Cluster, namespaces: tuple[str, ...]
) -> None:
    project.configure(f"profile: database\nimage_registry: {registry.address}\n")
    project.process("trust")
    assert made(project, "push") == []
    first = project.process("up")
    assert "no start from the golden state of mysql (cannot use mysql: the node has no image" in first.stderr
    assert fills(pod(cluster, namespaces[0])) == [] and sql(project, "SELECT 1").split() == ["1"]
    project.process("down", "--volumes")
    assert "golden" not in project.process("up").stderr
    # Whoever pushes it can use it at once.
    pushed = made(project, "push", "--golden")
    project.process("reset", "mysql")
    assert fills(pod(cluster, namespaces[0])) == pushed


def test_nodes_may_have_the_golden_state_without_a_registry(
    project: Project, cluster: Cluster, namespaces: tuple[str, ...]
) -> None:
    project.extra = {**project.extra, "KUBECONFIG": str(cluster.kubeconfig), "DEVENV_KUBE_NAMESPACE": namespaces[0]}
    project.configure("profile: database\n")
    built = made(project, "build", "--golden")
    assert [one.partition(":")[0] for one in built] == [POD_REPOSITORY]
    cluster.load(built)
    until(lambda: all(built[0] in json.dumps(node) for node in cluster.get("nodes")["items"]))
    project.process("up")
    assert fills(pod(cluster, namespaces[0])) == built and sql(project, "SELECT 1").split() == ["1"]
