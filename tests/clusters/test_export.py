"""`devenv export kubernetes`, applied to a real cluster with kubectl alone."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pymysql
import pytest
import requests
import yaml
from project import Project, new_project

from devenv.wiring.kubernetes import ATTACH
from tests.clusters.cluster import BIN, Cluster
from tests.clusters.test_inside import HOME, PROGRAM, pods
from tests.pod_security import violations

COMPONENTS = """\
components:
  nova:
    catalog: {type: compute, url: "http://127.0.0.1:8774/v2.1"}
"""
SERVICES = ("mysql", "rabbitmq", "etcd", "keystone")


@contextmanager
def forwarded(cluster: Cluster, namespace: str, service: str, port: int) -> Iterator[int]:
    """Let a free port on 127.0.0.1 lead to a Service, with kubectl."""
    command = [BIN / "kubectl", f"--kubeconfig={cluster.kubeconfig}", f"--namespace={namespace}"]
    command += ["port-forward", f"service/{service}", f":{port}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        found = re.search(r"127\.0\.0\.1:(\d+) ->", process.stdout.readline())
        assert found
        try:
            yield int(found[1])
        finally:
            process.kill()


def attaching(cluster: Cluster, namespace: str) -> dict[str, str]:
    """Return the variables that the Secret holds for pods."""
    data = cluster.get("secret", ATTACH, f"--namespace={namespace}")["data"]
    return {name: base64.b64decode(value).decode() for name, value in data.items()}


def as_nova(port: int, password: str) -> pymysql.Connection[pymysql.cursors.Cursor]:
    return pymysql.connect(host="127.0.0.1", port=port, user="nova", password=password, database="nova")


def token(port: int, user: str, password: str, project: str) -> requests.Response:
    domain = {"id": "default"}
    identity = {
        "methods": ["password"],
        "password": {"user": {"name": user, "password": password, "domain": domain}},
    }
    scope = {"project": {"name": project, "domain": domain}}
    url = f"http://127.0.0.1:{port}/v3/auth/tokens"
    return requests.post(url, json={"auth": {"identity": identity, "scope": scope}}, timeout=10)


def parts(cluster: Cluster, namespace: str) -> dict[str, set[str]]:
    """Return the names of the parts that components have, by service."""
    found = attaching(cluster, namespace)
    with forwarded(cluster, namespace, "keystone", 5000) as port:
        login = token(port, "admin", found["DEVENV_ATTACH_KEYSTONE_PASSWORD"], "admin").headers["X-Subject-Token"]
        users = requests.get(f"http://127.0.0.1:{port}/v3/users", headers={"X-Auth-Token": login}, timeout=10).json()

    def run(service: str, *command: str) -> set[str]:
        return {*cluster.kubectl("exec", f"--namespace={namespace}", f"{service}-0", "--", *command).split()}

    return {
        "mysql": run(
            "mysql", "mysql", "--skip-column-names", "--execute", "SHOW DATABASES; SELECT user FROM mysql.user"
        ),
        "rabbitmq": run("rabbitmq", "sh", "-c", "rabbitmqctl -q list_vhosts; rabbitmqctl -q list_users"),
        "keystone": {user["name"] for user in users["users"]},
    }


@pytest.mark.parametrize(
    "text",
    [
        "profile: database\ndatabase: mariadb\n",
        "profile: database\ndatabase: postgresql\n",
        "profile: coordination\nservices: {etcd: {auth: true}}\n",
        "image_registry: registry.example.org/team\nimage_pull_secrets: [registry-login]\n",
    ],
    ids=["mariadb", "postgresql", "etcd with accounts", "images of a registry with a login"],
)
def test_the_cluster_takes_each_export(
    text: str, cluster: Cluster, namespaces: tuple[str, ...], tmp_path: Path
) -> None:
    project: Project = new_project(tmp_path, "exported")
    project.configure(text + COMPONENTS, trusted=True)
    exported = project.devenv("export", "kubernetes").stdout
    accepted(cluster, namespaces[1], exported)
    login = [{"name": "registry-login"}] if "registry-login" in text else None
    for one in yaml.safe_load_all(exported):
        if one["kind"] == "StatefulSet":
            spec = one["spec"]["template"]["spec"]
            assert (violations(spec), spec.get("imagePullSecrets")) == ([], login)


def accepted(cluster: Cluster, namespace: str, exported: str) -> None:
    """Have the cluster check the objects, and change nothing."""
    check = ("apply", f"--namespace={namespace}", "--dry-run=server", "--filename=-")
    told = cluster.kubectl(*check, stdin=exported).splitlines()
    assert len(told) == exported.count("---\n") and all(line.endswith("created (server dry run)") for line in told)


@pytest.fixture
def exported(cluster: Cluster, namespaces: tuple[str, ...], loaded: list[str], tmp_path: Path) -> Iterator[Path]:
    """Export all four services, apply the file, and wait until all are ready; delete them afterwards."""
    project: Project = new_project(tmp_path, "exported")
    project.configure(COMPONENTS)
    path = project.folder / "kubernetes.yaml"
    project.devenv("export", "kubernetes", "--output", str(path))
    space = f"--namespace={namespaces[1]}"
    accepted(cluster, namespaces[1], path.read_text())
    cluster.kubectl("apply", space, f"--filename={path}")
    for service in SERVICES:
        cluster.kubectl("rollout", "status", space, f"statefulset/{service}", "--timeout=180s")
    yield path
    cluster.kubectl("delete", space, f"--filename={path}")
    cluster.emptied(namespaces[1])


@pytest.mark.long
def test_an_exported_environment_becomes_ready_and_serves_its_components_and_keeps_its_data(
    cluster: Cluster, namespaces: tuple[str, ...], exported: Path
) -> None:
    space, found = namespaces[1], attaching(cluster, namespaces[1])
    text = exported.read_text()
    files = {one["metadata"]["name"]: one["stringData"] for one in yaml.safe_load_all(text) if one["kind"] == "Secret"}
    of_nova = dict(re.findall(r"ALTER USER '(\w+)'@'\S+ IDENTIFIED BY '(\w+)'", files["mysql-files"]["accounts.sql"]))
    with ExitStack() as stack:
        mysql = stack.enter_context(forwarded(cluster, space, "mysql", 3306))
        keystone = stack.enter_context(forwarded(cluster, space, "keystone", 5000))
        etcd = stack.enter_context(forwarded(cluster, space, "etcd", 2379))
        rabbitmq = stack.enter_context(forwarded(cluster, space, "rabbitmq", 15672))
        with pymysql.connect(
            host="127.0.0.1", port=mysql, user="nova", password=of_nova["nova"], database="nova"
        ) as nova:
            nova.cursor().execute("CREATE TABLE kept (id INT)")
        answer = token(keystone, "admin", found["DEVENV_ATTACH_KEYSTONE_PASSWORD"], "admin")
        catalog = {one["type"]: one["endpoints"][0]["url"] for one in answer.json()["token"]["catalog"]}
        # Pods reach it by this name; the component's address is its own.
        assert catalog == {"identity": "http://keystone:5000/v3", "compute": "http://127.0.0.1:8774/v2.1"}
        assert requests.get(f"http://127.0.0.1:{etcd}/health", timeout=10).json()["health"] == "true"
        password = re.search(r"//devenv:(\w+)@", found["DEVENV_ATTACH_RABBITMQ"])
        assert password
        vhosts = requests.get(f"http://127.0.0.1:{rabbitmq}/api/vhosts", auth=("devenv", password[1]), timeout=10)
        assert {"devenv", "nova"} <= {one["name"] for one in vhosts.json()}
    # What a drained node or an update does: the pod goes, its data stays.
    cluster.kubectl("delete", "pod", "mysql-0", f"--namespace={space}", "--wait=true")
    cluster.kubectl("rollout", "status", f"--namespace={space}", "statefulset/mysql", "--timeout=120s")
    with (
        forwarded(cluster, space, "mysql", 3306) as mysql,
        as_nova(mysql, of_nova["nova"]) as nova,
        nova.cursor() as cursor,
    ):
        cursor.execute("SELECT COUNT(*) FROM kept")
        assert cursor.fetchone() == (0,)


@pytest.mark.long
def test_a_job_in_a_pod_attaches_by_the_secret_of_the_export_and_leaves_nothing(
    cluster: Cluster, namespaces: tuple[str, ...], exported: Path
) -> None:
    space = namespaces[1]
    before = parts(cluster, space)
    assert "nova" in before["mysql"] and "nova" in before["keystone"]
    with pods(cluster, space, ["attached"], ATTACH) as (run,):

        def devenv(*arguments: str) -> str:
            return run("python3", "-m", "devenv", *arguments)

        run("tee", f"{HOME}/devenv.yaml", stdin="components: [glance]\n")
        run("tee", f"{HOME}/program.py", stdin=PROGRAM)
        devenv("up")
        found = json.loads(devenv("status", "--format", "json"))["services"]
        assert {(name, one["state"], one["container"]) for name, one in found.items()} == {
            (name, "ready", "") for name in SERVICES
        }
        variables = json.loads(devenv("env", "--component", "glance", "--format", "json"))
        given = [f"{name}={value}" for name, value in variables.items()]
        assert run("env", *given, "python3", "program.py").split() == ["mysql", "glance"]
        during = parts(cluster, space)
        assert {service for service, names in during.items() if "glance" in names} == {"mysql", "rabbitmq", "keystone"}
        devenv("down", "--volumes")
    assert parts(cluster, space) == before


@pytest.mark.long
def test_a_pod_is_ready_only_while_its_service_is_usable(
    cluster: Cluster, namespaces: tuple[str, ...], exported: Path
) -> None:
    space = f"--namespace={namespaces[1]}"
    # Keystone still answers without its database, and gives no token.
    cluster.kubectl("scale", space, "statefulset/mysql", "--replicas=0")
    cluster.kubectl("wait", space, "pod/keystone-0", "--for=condition=Ready=false", "--timeout=120s")
    cluster.kubectl("scale", space, "statefulset/mysql", "--replicas=1")
    cluster.kubectl("wait", space, "pod/keystone-0", "--for=condition=Ready", "--timeout=120s")
