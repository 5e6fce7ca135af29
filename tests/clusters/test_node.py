"""A node that goes away: its services come back on another one, and no command waits for it for ever."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from project import Project, new_project, one_clear_line, require

from devenv.images.references import images_for
from devenv.spec.catalogue import load_catalogue
from devenv.spec.profile import load_profile
from tests.clusters.cluster import BIN, BUILD, Cluster, built, free_port, running, until

pytestmark = pytest.mark.long

SPACE = "own"
LOST = "its node node2 does not answer"


@pytest.fixture
def alone(tmp_path_factory: pytest.TempPathFactory, images: object) -> Iterator[Cluster]:
    """Run a cluster for this test alone, with the images of two services."""
    require("" if built() else BUILD)
    # A short name: paths of the kubelet's sockets have a limit.
    folder = tmp_path_factory.mktemp("own")
    found = images_for(load_profile(folder, "base"), load_catalogue())
    with running(folder / "state", free_port(), nodes=2) as cluster:
        cluster.load([found[name].reference for name in ("mysql", "etcd")])
        cluster.kubectl("create", "namespace", SPACE)
        yield cluster


def a_project(cluster: Cluster, folder: Path, name: str, settings: str) -> Project:
    project = new_project(folder, name)
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    project.extra = {"KUBECONFIG": str(cluster.kubeconfig), "DEVENV_ENGINE": "kubernetes", "PATH": path}
    project.extra["DEVENV_KUBE_NAMESPACE"] = SPACE
    project.configure(settings)
    return project


def test_services_of_a_node_that_went_away_come_back_on_another_or_go(alone: Cluster, tmp_path: Path) -> None:
    kept = a_project(alone, tmp_path, "kept", "profile: database\ndurable: true\n")
    going = a_project(alone, tmp_path, "going", "profile: coordination\ndurable: true\n")
    alone.kubectl("cordon", "node1")
    for project in (kept, going):
        project.process("up")
    kept.process("mysql", "-e", "CREATE TABLE devenv.kept (id INT)")
    alone.kubectl("uncordon", "node1")
    os.kill(alone.nodes()[1], signal.SIGKILL)
    until(lambda: LOST in kept.process("status").stdout)
    one_clear_line(kept.process("wait", check=False), 5, LOST, "devenv up")
    one_clear_line(kept.process("exec", "mysql", "--", "true", check=False), 3, LOST, "devenv up")
    kept.process("up")
    (pod,) = alone.get("pods", f"--namespace={SPACE}", "--selector=io.devenv.service=mysql")["items"]
    assert pod["spec"]["nodeName"] == "node1"
    assert kept.process("mysql", "-N", "-e", "SHOW TABLES IN devenv").stdout.split() == ["kept"]
    for project in (going, kept):
        project.process("down", "--volumes")
    alone.emptied(SPACE)
