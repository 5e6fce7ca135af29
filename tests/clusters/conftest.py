"""A real Kubernetes for the tests of this folder: one cluster and two namespaces for all of them.

`make kubernetes` builds its programs. With K8S_STATE and K8S_PORT, the tests use the cluster that runs there, and leave
it: `K8S_STATE=… K8S_PORT=… tests/clusters/kubernetes start` takes half a minute that a second run of a test then saves.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
import yaml
from project import Ports, Project, new_project, require

from devenv.engine.connection import endpoint_in_use
from devenv.engine.kubernetes.connection import open_cluster
from devenv.engine.kubernetes.kubernetes import Kubernetes
from devenv.images.references import BASE, images_for
from devenv.model import Profile
from devenv.spec.catalogue import load_catalogue
from devenv.spec.profile import load_profile
from tests.clusters.cluster import BIN, BUILD, Cluster, built, free_port, running, until

NAMESPACES = ("devenv-one", "devenv-two")
# A folder without devenv.yaml, for the profile as it is shipped.
PROJECT = Path(__file__).parent
PAGE = Path(__file__).parents[2] / "docs" / "kubernetes.md"


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Run a cluster of two nodes."""
    if state := os.environ.get("K8S_STATE"):
        yield Cluster(Path(state), int(os.environ.get("K8S_PORT", "16444")))
        return
    require("" if built() else BUILD)
    with running(tmp_path_factory.mktemp("cluster") / "state", free_port(), nodes=2) as found:
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
    """Write a kubeconfig with a context for each namespace, named like it; the first one is current.

    Its logins are service accounts that have the rights which docs/kubernetes.md asks for, and no others.
    """
    found = yaml.safe_load(cluster.kubeconfig.read_text())
    found["users"] = [{"name": name, "user": {"token": _account(cluster, name)}} for name in namespaces]
    found["contexts"] = [
        {"name": name, "context": {"cluster": "local", "user": name, "namespace": name}} for name in namespaces
    ]
    found["current-context"] = namespaces[0]
    path = tmp_path_factory.mktemp("kubeconfig") / "config"
    path.write_text(yaml.safe_dump(found))
    path.chmod(0o600)
    return path


def _account(cluster: Cluster, namespace: str) -> str:
    """Make a service account with the Role of docs/kubernetes.md; return its token."""
    space = f"--namespace={namespace}"
    cluster.kubectl("apply", space, "--filename=-", stdin=role())
    cluster.kubectl("create", space, "serviceaccount", "devenv")
    cluster.kubectl(
        *("create", space, "rolebinding", "devenv", "--role=devenv", f"--serviceaccount={namespace}:devenv")
    )
    until(lambda: cluster.get("serviceaccount", "devenv", space).get("secrets"))
    secret = cluster.get("serviceaccount", "devenv", space)["secrets"][0]["name"]
    return base64.b64decode(cluster.get("secret", secret, space)["data"]["token"]).decode()


def role() -> str:
    """Return the Role that docs/kubernetes.md shows."""
    (found,) = re.findall(r"```yaml\n(apiVersion: rbac.*?)```", PAGE.read_text(), re.DOTALL)
    return str(found)


@pytest.fixture(scope="session")
def loaded(cluster: Cluster, images: Ports) -> list[str]:
    """Give all nodes the images of the profile `base`; return their names."""
    catalogue = load_catalogue()
    profile = load_profile(PROJECT, "base")
    found = sorted(image.reference for image in images_for(profile, catalogue).values())
    cluster.load(found)
    return found


@pytest.fixture
def place(kubeconfig: Path, loaded: list[str]) -> dict[str, str]:
    """Return the variables by which devenv uses the first namespace."""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return {"KUBECONFIG": str(kubeconfig), "DEVENV_ENGINE": "kubernetes", "PATH": path}


@pytest.fixture
def project(tmp_path: Path, place: dict[str, str], cluster: Cluster, namespaces: tuple[str, ...]) -> Iterator[Project]:
    """Make an empty project whose services run in the first namespace; take down afterwards whatever runs in it."""
    scratch = new_project(tmp_path, "project")
    scratch.extra = place
    yield scratch
    (scratch.folder / "devenv.yaml").unlink(missing_ok=True)
    scratch.process("down", "--volumes")
    cluster.emptied(namespaces[0])


@pytest.fixture(scope="session")
def client() -> Iterator[docker.DockerClient]:
    """Connect to the Docker engine without devenv."""
    engine = docker.DockerClient(base_url=endpoint_in_use()[0])
    yield engine
    engine.close()


# ---- the engine itself, without the command line -------------------------------------------------------------------


@pytest.fixture(scope="module")
def image(cluster: Cluster) -> str:
    """Load the base onto all nodes; return its reference."""
    found = images_for(Profile("", {}), {})[BASE].reference
    cluster.load([found])
    return found


@pytest.fixture(scope="module")
def subject(cluster: Cluster, namespaces: tuple[str, ...]) -> Iterator[Kubernetes]:
    """Yield the engine of the first namespace."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(cluster.kubeconfig))
        found = open_cluster(namespace=namespaces[0])
        try:
            yield Kubernetes(found)
        finally:
            found.close()
