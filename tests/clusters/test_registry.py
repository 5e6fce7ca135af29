"""Nodes pull devenv's images from a registry that asks for a login."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from debian_registry import LOGIN, Registry
from project import Project, one_clear_line

from tests.clusters.cluster import Cluster
from tests.clusters.test_acceptance import ready
from tests.clusters.test_golden import everywhere

pytestmark = pytest.mark.long


@pytest.fixture
def registry(cluster: Cluster, tmp_path: Path) -> Iterator[Registry]:
    with everywhere(cluster, tmp_path, locked=True) as found:
        yield found


def log_in(cluster: Cluster, namespace: str, registry: Registry, user: str, password: str) -> None:
    """Put this login for the registry into the Secret that devenv.yaml names."""
    space, told = f"--namespace={namespace}", [f"--docker-username={user}", f"--docker-password={password}"]
    make = ["create", space, "secret", "docker-registry", "registry-login", f"--docker-server={registry.address}"]
    cluster.kubectl("delete", space, "--ignore-not-found", "secret", "registry-login")
    cluster.kubectl(*make, *told)


def test_nodes_pull_with_the_right_login_and_up_says_so_if_they_cannot(
    project: Project, registry: Registry, cluster: Cluster, namespaces: tuple[str, ...], tmp_path: Path
) -> None:
    auths = {registry.address: {"auth": base64.b64encode(":".join(LOGIN).encode()).decode()}}
    (tmp_path / "config.json").write_text(json.dumps({"auths": auths}))
    project.configure(
        f"profile: coordination\nimage_registry: {registry.address}\nimage_pull_secrets: [registry-login]\n"
    )
    project.process("trust")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(project.extra, "DOCKER_CONFIG", str(tmp_path))
        project.process("--engine", "docker", "images", "push")
    try:
        told = rf"cannot use etcd: the node has no image {registry.address}/devenv/etcd:\w+: 401 Unauthorized\n"
        for password in ("", "wrong"):
            if password:
                log_in(cluster, namespaces[0], registry, LOGIN[0], password)
            done = project.process("up", check=False)
            one_clear_line(done, 5, "hint: 'image_pull_secrets' in devenv.yaml names the Secret")
            assert re.search(told, done.stderr), done.stderr
        log_in(cluster, namespaces[0], registry, *LOGIN)
        project.process("up")
        assert ready(project) == {"etcd": "ready"}
    finally:
        cluster.kubectl("delete", f"--namespace={namespaces[0]}", "--ignore-not-found", "secret", "registry-login")
