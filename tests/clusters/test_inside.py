"""devenv in a pod of the cluster, with that pod's service account: a CI's job there."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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
JOBS = ("job", "other")
PODS = [f"pod/{name}" for name in JOBS]
Run = Callable[..., str]
# A pod without a login to the cluster, where no engine answers: it takes the variables of an export's Secret.
NO_ENGINE = {"name": "DOCKER_HOST", "value": "unix:///nowhere/docker.sock"}

COMPONENTS = ("nova", "glance")
SHARED = "engine: kubernetes\nshared: ci\nprofile: database\ncomponents: [{component}]\n"

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


def job(name: str, image: str, attach: str = "") -> dict[str, Any]:
    """Return a pod that waits. It has the image's Python, and devenv from this checkout.

    It may use the cluster, or `attach` names a Secret with its variables, and it has no engine at all.
    """
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
    if attach:
        container["env"] += [NO_ENGINE]
        container["envFrom"] = [{"secretRef": {"name": attach}}]
    volumes = [{"name": name, "hostPath": {"path": str(path)}} for name, (_, path) in from_host.items()]
    spec = {
        **({"automountServiceAccountToken": False} if attach else {"serviceAccountName": "devenv"}),
        "containers": [container],
        "volumes": [*volumes, {"name": "home", "emptyDir": {}}],
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 0,
        "securityContext": {"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000},
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


@contextmanager
def pods(cluster: Cluster, namespace: str, names: Sequence[str], attach: str = "") -> Iterator[list[Run]]:
    """Make such pods; yield what runs a command in each, and returns what it prints."""
    space = f"--namespace={namespace}"
    image = images_for(load_profile(Path(__file__).parent, "base"), load_catalogue())["keystone"].reference

    def runner(name: str) -> Run:
        kubectl = [BIN / "kubectl", f"--kubeconfig={cluster.kubeconfig}", space, "exec", "-i", name, "--"]

        def run(*command: str, stdin: str = "") -> str:
            done = subprocess.run([*kubectl, *command], input=stdin, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
            return done.stdout

        return run

    made = [f"pod/{name}" for name in names]
    for name in names:
        cluster.kubectl("apply", space, "--filename=-", stdin=json.dumps(job(name, image, attach)))
    cluster.kubectl("wait", *made, space, "--for=condition=Ready", "--timeout=60s")
    yield [runner(name) for name in names]
    cluster.kubectl("delete", space, *made, "--now")


@pytest.fixture
def runs(cluster: Cluster, kubeconfig: Path, loaded: list[str], namespaces: tuple[str, ...]) -> Iterator[list[Run]]:
    with pods(cluster, namespaces[0], JOBS) as found:
        yield found


def test_a_job_in_a_pod_brings_services_up_uses_them_by_name_and_leaves_nothing(
    runs: list[Run], cluster: Cluster, namespaces: tuple[str, ...]
) -> None:
    run = runs[0]

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
    until(lambda: cluster.names(namespaces[0]) == {*PODS})


def test_a_job_uses_services_of_another_namespace_by_a_name_that_it_resolves(
    runs: list[Run], cluster: Cluster, namespaces: tuple[str, ...]
) -> None:
    run, (own, other) = runs[0], namespaces
    account = ("--role=devenv", f"--serviceaccount={own}:devenv")
    cluster.kubectl("create", f"--namespace={other}", "rolebinding", "job", *account)
    try:
        run("tee", f"{HOME}/devenv.yaml", stdin="profile: database\ncomponents: [nova]\n")
        run("tee", f"{HOME}/program.py", stdin=PROGRAM)
        run("python3", "-m", "devenv", "--engine", "kubernetes", "--namespace", other, "up")
        host, user = run("python3", "-m", "devenv", "run", "--component", "nova", "--", "python3", "program.py").split()
        assert f"service/{host.removesuffix(f'.{other}')}" in cluster.names(other)
        assert (host.endswith(f".{other}"), user) == (True, "nova")
        run("python3", "-m", "devenv", "down", "--volumes")
        cluster.emptied(other)
    finally:
        cluster.kubectl("delete", f"--namespace={other}", "rolebinding", "job")


def test_jobs_in_two_pods_share_one_environment(runs: list[Run], cluster: Cluster, namespaces: tuple[str, ...]) -> None:
    def devenv(run: Run, *arguments: str) -> str:
        return run("python3", "-m", "devenv", *arguments)

    for run, component in zip(runs, COMPONENTS, strict=True):
        run("tee", f"{HOME}/program.py", stdin=PROGRAM)
        run("tee", f"{HOME}/devenv.yaml", stdin=SHARED.format(component=component))
        devenv(run, "trust")
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda run: devenv(run, "up"), runs))
    hosts = set()
    for run, component in zip(runs, COMPONENTS, strict=True):
        host, user = devenv(run, "run", "--component", component, "--", "python3", "program.py").split()
        assert user == component
        hosts.add(host)
    assert len(hosts) == 1
    # One goes on when the other has left.
    devenv(runs[0], "down", "--leave")
    assert devenv(runs[1], "run", "--component", COMPONENTS[1], "--", "python3", "program.py").split()[1] == "glance"
    devenv(runs[1], "down", "--volumes")
    until(lambda: cluster.names(namespaces[0]) == {*PODS})
