"""devenv in a pod of the cluster, with that pod's service account: a CI's job there."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from project import REPOSITORY

from devenv.images.references import images_for
from devenv.spec.catalogue import load_catalogue
from devenv.spec.profile import load_profile
from tests.clusters.cluster import BIN, Cluster, until

pytestmark = pytest.mark.long

# Where the pod has devenv, what it needs, and its project.
DEVENV, PACKAGES, HOME = "/devenv", "/packages", "/home/job"
Run = Callable[..., str]

# Logs in to a component's database by its variables.
PROGRAM = """\
import os
import pymysql
host, user, password = (os.environ[f"DEVENV_MYSQL_{key}"] for key in ("HOST", "USER", "PASSWORD"))
with pymysql.connect(host=host, port=int(os.environ["DEVENV_MYSQL_PORT"]), user=user, password=password) as mysql:
    cursor = mysql.cursor()
    cursor.execute("SELECT CURRENT_USER()")
    print(host, cursor.fetchone()[0].partition("@")[0])
"""


def job(image: str) -> dict[str, Any]:
    """Return a pod that waits. It has the image's Python, and devenv from this checkout."""
    from_host = {"devenv": (DEVENV, REPOSITORY), "packages": (PACKAGES, Path(click.__file__).parents[1])}
    # Packages of the image come first: those of this host may be for another Python.
    paths = f"{DEVENV}:/opt/keystone:{PACKAGES}"
    container = {
        "name": "job",
        "image": image,
        "imagePullPolicy": "Never",
        "command": ["sleep", "3600"],
        "workingDir": HOME,
        "env": [{"name": "HOME", "value": HOME}, {"name": "PYTHONPATH", "value": paths}],
        "volumeMounts": [
            *({"name": name, "mountPath": path, "readOnly": True} for name, (path, _) in from_host.items()),
            {"name": "home", "mountPath": HOME},
        ],
    }
    volumes = [{"name": name, "hostPath": {"path": str(path)}} for name, (_, path) in from_host.items()]
    spec = {
        "serviceAccountName": "devenv",
        "containers": [container],
        "volumes": [*volumes, {"name": "home", "emptyDir": {}}],
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 0,
        "securityContext": {"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000},
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "job"}, "spec": spec}


@pytest.fixture
def run(cluster: Cluster, kubeconfig: Path, loaded: list[str], namespaces: tuple[str, ...]) -> Iterator[Run]:
    """Yield what runs a command in such a pod, and returns what it prints."""
    space = f"--namespace={namespaces[0]}"
    image = images_for(load_profile(Path(__file__).parent, "base"), load_catalogue())["keystone"].reference
    cluster.kubectl("apply", space, "--filename=-", stdin=json.dumps(job(image)))
    cluster.kubectl("wait", "pod/job", space, "--for=condition=Ready", "--timeout=60s")

    def run(*command: str, stdin: str = "") -> str:
        kubectl = [BIN / "kubectl", f"--kubeconfig={cluster.kubeconfig}", space, "exec", "-i", "job", "--"]
        done = subprocess.run([*kubectl, *command], input=stdin, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    yield run
    cluster.kubectl("delete", space, "pod/job", "--now")


def test_a_job_in_a_pod_brings_services_up_uses_them_by_name_and_leaves_nothing(
    run: Run, cluster: Cluster, namespaces: tuple[str, ...]
) -> None:
    def devenv(*arguments: str) -> str:
        return run("python3", "-m", "devenv", *arguments)

    run("tee", f"{HOME}/devenv.yaml", stdin="profile: base\ncomponents: [nova]\n")
    run("tee", f"{HOME}/program.py", stdin=PROGRAM)
    devenv("--engine", "kubernetes", "up")
    services = json.loads(devenv("status", "--format", "json"))["services"]
    assert {one["state"] for one in services.values()} == {"ready"}
    variables = json.loads(devenv("env", "--component", "nova", "--format", "json"))
    mysql = services["mysql"]["container"]
    assert variables["DEVENV_MYSQL_HOST"] == mysql and variables["DEVENV_MYSQL_PORT"] == "3306"
    given = [f"{name}={value}" for name, value in variables.items()]
    assert run("env", *given, "python3", "program.py").split() == [mysql, "nova"]
    assert devenv("exec", "mysql", "--", "echo", "there").split() == ["there"]
    # A run brings its own component, and drops it.
    host, user = devenv("run", "--component", "test", "--", "python3", "program.py").split()
    assert (host, user) == (mysql, "test")
    devenv("down", "--volumes")
    until(lambda: cluster.names(namespaces[0]) == {"pod/job"})
