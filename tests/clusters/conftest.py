"""A real Kubernetes for the tests of this folder: one cluster and two namespaces for all of them.

`make kubernetes` builds its programs. With K8S_STATE and K8S_PORT, the tests use the cluster that runs there, and leave
it: `K8S_STATE=… K8S_PORT=… tests/clusters/kubernetes start` takes half a minute that a second run of a test then saves.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
import yaml
from project import Ports, Project, new_project, remove, require

from devenv.engine.connection import endpoint_in_use
from devenv.images.references import images_for
from devenv.spec.catalogue import load_catalogue
from devenv.spec.profile import load_profile
from tests.clusters.cluster import BUILD, Cluster, built, running

NAMESPACES = ("devenv-one", "devenv-two")
# A folder without devenv.yaml, for the profile as it is shipped.
PROJECT = Path(__file__).parent


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Run a cluster of two nodes."""
    if state := os.environ.get("K8S_STATE"):
        yield Cluster(Path(state), int(os.environ.get("K8S_PORT", "16444")))
        return
    require("" if built() else BUILD)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    with running(tmp_path_factory.mktemp("cluster") / "state", port, nodes=2) as found:
        yield found


@pytest.fixture(scope="session")
def namespaces(cluster: Cluster) -> Iterator[tuple[str, ...]]:
    """Make two namespaces, and remove them with all that they have."""
    cluster.kubectl("delete", "namespace", "--ignore-not-found", *NAMESPACES)
    for name in NAMESPACES:
        cluster.kubectl("create", "namespace", name)
    yield NAMESPACES
    cluster.kubectl("delete", "namespace", *NAMESPACES)


@pytest.fixture(scope="session")
def kubeconfig(cluster: Cluster, namespaces: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a kubeconfig with a context for each namespace, named like it; the first one is current."""
    found = yaml.safe_load(cluster.kubeconfig.read_text())
    found["contexts"] = [
        {"name": name, "context": {"cluster": "local", "user": "admin", "namespace": name}} for name in namespaces
    ]
    found["current-context"] = namespaces[0]
    path = tmp_path_factory.mktemp("kubeconfig") / "config"
    path.write_text(yaml.safe_dump(found))
    path.chmod(0o600)
    return path


@pytest.fixture(scope="session")
def loaded(cluster: Cluster, images: Ports) -> list[str]:
    """Give all nodes the images of the profile `base`; return their names."""
    catalogue = load_catalogue()
    profile = load_profile(PROJECT, "base")
    found = sorted(image.reference for image in images_for(profile, catalogue).values())
    cluster.load(found)
    return found


@pytest.fixture
def project(tmp_path: Path, kubeconfig: Path, loaded: list[str]) -> Iterator[Project]:
    """Make an empty project whose services run in the first namespace; take down afterwards whatever runs in it."""
    scratch = new_project(tmp_path, "project")
    scratch.extra = {"KUBECONFIG": str(kubeconfig), "DEVENV_ENGINE": "kubernetes"}
    yield scratch
    extra = scratch.extra
    remove(scratch)
    scratch.extra = extra


@pytest.fixture(scope="session")
def client() -> Iterator[docker.DockerClient]:
    """Connect to the Docker engine without devenv."""
    engine = docker.DockerClient(base_url=endpoint_in_use()[0])
    yield engine
    engine.close()
