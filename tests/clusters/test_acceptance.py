"""devenv on a real Kubernetes cluster, by the command line: what users do there, and what happens to them there."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
import pytest
import requests
from project import REPOSITORY, Completed, Project, new_project, one_clear_line

from tests.clusters.cluster import Cluster, until

pytestmark = pytest.mark.long

TWO = """\
profile: coordination
services: [mysql]
components: [nova]
"""
# Ready in seconds.
KEPT = """\
profile: coordination
durable: true
"""
TABLE = "CREATE TABLE IF NOT EXISTS devenv.kept (id INT PRIMARY KEY)"


def ready(project: Project) -> dict[str, str]:
    """Return the state of each service."""
    found = json.loads(project.process("status", "--format", "json").stdout)["services"]
    return {name: one["state"] for name, one in found.items()}


def sql(project: Project, statement: str) -> str:
    return project.process("exec", "mysql", "--", "mysql", "--skip-column-names", "--execute", statement).stdout


def users(project: Project) -> list[str]:
    """Return the accounts of etcd."""
    return project.process("etcdctl", "user", "list").stdout.split()


def token(variables: dict[str, str]) -> requests.Response:
    domain = {"id": "default"}
    user = {"name": variables["OS_USERNAME"], "password": variables["OS_PASSWORD"], "domain": domain}
    identity = {"methods": ["password"], "password": {"user": user}}
    scope = {"project": {"name": variables["OS_PROJECT_NAME"], "domain": domain}}
    url = f"{variables['OS_AUTH_URL']}/auth/tokens"
    return requests.post(url, json={"auth": {"identity": identity, "scope": scope}}, timeout=10)


def variables(project: Project, *arguments: str) -> dict[str, str]:
    return dict(json.loads(project.process("env", *arguments, "--format", "json").stdout))


def pod_of(cluster: Cluster, namespace: str, service: str) -> str:
    """Return the name of a service's pod."""
    found = cluster.get("pods", f"--namespace={namespace}", f"--selector=io.devenv.service={service}")["items"]
    (pod,) = found
    return str(pod["metadata"]["name"])


def forwarders(project: Project) -> list[str]:
    """Return the processes that bring ports of this project's cluster to the host."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if "devenv.engine.forward" in words and any(str(project.state) in word for word in words):
            found.append(process.name)
    return found


def test_all_four_services_come_up_serve_and_leave_nothing(
    project: Project, cluster: Cluster, namespaces: tuple[str, ...]
) -> None:
    project.configure("profile: base\ndurable: true\ncomponents: [nova]\n")
    project.process("up")
    assert set(ready(project).values()) == {"ready"}
    assert token(variables(project)).status_code == 201
    assert token(variables(project, "--component", "nova")).status_code == 201
    assert sql(project, "SHOW DATABASES LIKE 'nova'").split() == ["nova"]
    again = json.loads(project.process("plan", "--format", "json").stdout)
    assert {one["action"] for one in again["operations"]} <= {"ready"}
    project.process("stop")
    assert set(ready(project).values()) == {"stopped"} and not forwarders(project)
    project.process("start")
    assert token(variables(project)).status_code == 201
    project.process("down", "--volumes")
    cluster.emptied(namespaces[0])
    assert not forwarders(project)


def test_data_that_is_not_durable_goes_with_its_pod_and_start_says_so(project: Project) -> None:
    project.configure("profile: coordination\n")
    project.process("up")
    project.process("stop")
    one_clear_line(project.process("start", check=False), 3, "cannot start etcd: the data went", "devenv up")
    project.process("up")
    assert ready(project) == {"etcd": "ready"}
    refused = project.process("restart", check=False)
    one_clear_line(refused, 3, "cannot restart etcd and keep the data", "devenv reset")
    assert ready(project) == {"etcd": "ready"}


def test_logs_are_followed_until_the_service_stops_and_go_with_its_pod(project: Project) -> None:
    project.configure(KEPT)
    project.process("up")
    assert all(line.startswith("etcd | {") for line in project.process("logs", "etcd").stdout.splitlines())
    assert len(project.process("logs", "--tail", "2", "etcd").stdout.splitlines()) == 2
    command = [sys.executable, "-m", "devenv", "logs", "--follow", "etcd"]
    with subprocess.Popen(
        command, cwd=project.folder, env=project.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as following:
        assert following.stdout
        assert following.stdout.readline().startswith("etcd | ")
        project.process("stop")
        rest, said = following.communicate()
    assert (following.returncode, said) == (0, "")
    # etcd's last words.
    assert "stopping insecure grpc server" in rest
    assert all(line.startswith("etcd | {") for line in rest.splitlines())
    gone = project.process("logs", "etcd")
    assert (gone.stdout, gone.stderr) == ("", "")


def test_restart_makes_another_pod_that_has_the_durable_data(
    project: Project, cluster: Cluster, namespaces: tuple[str, ...]
) -> None:
    project.configure(KEPT)
    project.process("up")
    project.process("etcdctl", "put", "key", "value")
    pod = ("pod", pod_of(cluster, namespaces[0], "etcd"), f"--namespace={namespaces[0]}")
    before = cluster.get(*pod)["metadata"]["uid"]
    project.process("restart")
    assert cluster.get(*pod)["metadata"]["uid"] != before
    assert ready(project) == {"etcd": "ready"}
    assert project.process("etcdctl", "get", "--print-value-only", "key").stdout == "value\n"


def test_a_snapshot_is_refused_and_the_services_go_on(project: Project) -> None:
    project.configure(KEPT)
    project.process("up")
    one_clear_line(project.process("snapshot", "save", "first", check=False), 3, "cannot save a snapshot: ", "volumes")
    assert ready(project) == {"etcd": "ready"}
    assert json.loads(project.process("snapshot", "list", "--format", "json").stdout) == []


def test_the_way_to_the_ports_is_opened_again_after_its_process_was_killed(project: Project) -> None:
    project.configure(KEPT)
    project.process("up")
    health = f"{variables(project)['DEVENV_ETCD_URL']}/health"
    (process,) = forwarders(project)
    os.kill(int(process), signal.SIGKILL)
    until(lambda: not forwarders(project))
    assert project.process("status", "--exit-code", check=False).returncode == 6
    status = json.loads(project.process("status", "--format", "json").stdout)["services"]["etcd"]
    assert "the way to its ports is closed: 'devenv wait' opens it" in status["reason"]
    with pytest.raises(requests.ConnectionError):
        requests.get(health, timeout=10)
    for command in ("wait", "up"):
        project.process(command)
        assert requests.get(health, timeout=10).json()["health"] == "true"
        assert ready(project) == {"etcd": "ready"}
        (process,) = forwarders(project)
        os.kill(int(process), signal.SIGKILL)
        until(lambda: not forwarders(project))


def test_the_consumers_checks_pass(place: dict[str, str]) -> None:
    """oslo's libraries and other real clients, on services in the cluster.

    test_load.py brings up services of its own, on this host's engine.
    """
    command = [sys.executable, "-m", "pytest", "-q", "tests/consumers", "--timeout=600"]
    command.append("--ignore=tests/consumers/test_load.py")
    environ = {**os.environ, **place, "TESTS_ENGINE": "kubernetes"}
    del environ["DEVENV_ENGINE"]
    done = subprocess.run(command, cwd=REPOSITORY, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:]


SUITE = """\
import base64
import os
from urllib.parse import urlsplit

import pymysql
import pytest
import requests


def ask(env, path, body):
    account = {"name": env["ETCD_USERNAME"], "password": env["ETCD_PASSWORD"]}
    with requests.Session() as session:
        session.trust_env = False
        session.headers["Authorization"] = post(session, env, "auth/authenticate", account)["token"]
        answer = post(session, env, path, body)
    # A token gets old when another worker makes an account: etcd's own clients log in again, too.
    return ask(env, path, body) if "auth store is old" in answer.get("message", "") else answer


def post(session, env, path, body):
    return session.post(f"{env['ETCD_ENDPOINTS']}/v3/{path}", json=body, timeout=30).json()


def key(text):
    return base64.b64encode(text.encode()).decode()


@pytest.mark.devenv(services=["mysql", "etcd"])
@pytest.mark.parametrize("number", range(12))
def test(devenv_component, number):
    env = devenv_component.env
    url = urlsplit(env["DATABASE_URL"])
    login = {"user": url.username, "password": url.password, "database": url.path[1:]}
    with pymysql.connect(host=url.hostname, port=url.port, **login) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW DATABASES")
        assert {name for (name,) in cursor} == {url.path[1:], "information_schema", "performance_schema"}
        assert cursor.execute("SHOW TABLES") == 0
        cursor.execute("CREATE TABLE numbers (number INT)")
    prefix = env["ETCD_PREFIX"]
    own = {"key": key(prefix), "range_end": key(prefix[:-1] + chr(ord(prefix[-1]) + 1))}
    assert "kvs" not in ask(env, "kv/range", own)
    ask(env, "kv/put", {"key": key(f"{prefix}number"), "value": ""})
    assert len(ask(env, "kv/range", own)["kvs"]) == 1
    assert "permission denied" in ask(env, "kv/range", {"key": "AA==", "range_end": "AA=="})["message"]
    with open("seen", "a") as seen:
        print(devenv_component.name, os.environ["PYTEST_XDIST_WORKER"], file=seen)
"""


def test_each_test_of_a_suite_with_four_workers_logs_in_to_a_component_of_its_own(
    project: Project, cluster: Cluster, namespaces: tuple[str, ...]
) -> None:
    project.configure("profile: database\nservices: {etcd: {auth: true}}\n")
    (project.folder / "pytest.ini").touch()
    (project.folder / "test_it.py").write_text(SUITE)
    command = [sys.executable, "-m", "pytest", "-q", "-n", "4", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=project.folder, env=project.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "12 passed" in done.stdout, done.stdout + done.stderr
    seen = [line.split() for line in (project.folder / "seen").read_text().splitlines()]
    assert len({name for name, _ in seen}) == 12 and len({worker for _, worker in seen}) > 1
    cluster.emptied(namespaces[0])


DATABASES = """\
services: {mariadb: {}, postgresql: {}, mysql: false, rabbitmq: false, etcd: false, keystone: false}
components: [nova]
"""


def test_the_other_databases_come_up_and_serve(project: Project, cluster: Cluster) -> None:
    project.configure(DATABASES)
    here = ("--engine", "docker", "--env", "made", "images")
    project.process(*here, "build")
    listed = json.loads(project.process(*here, "list", "--format", "json").stdout)
    cluster.load([image["reference"] for image in listed])
    project.process("up")
    assert set(ready(project).values()) == {"ready"}
    assert "nova" in project.process("psql", "--list", "--tuples-only").stdout
    of_mariadb = ("mariadb", "--skip-column-names", "--execute", "SHOW DATABASES LIKE 'nova'")
    assert project.process("exec", "mariadb", "--", *of_mariadb).stdout.split() == ["nova"]


def test_an_image_whose_user_has_another_number_runs_as_well(
    project: Project, cluster: Cluster, client: docker.DockerClient, loaded: list[str]
) -> None:
    tag = "devenv-test/user:1"
    mysql = next(image for image in loaded if image.startswith("devenv/mysql:"))
    recipe = f"FROM {mysql}\nUSER root\nRUN usermod --uid 1234 mysql && groupmod --gid 1234 mysql\nUSER mysql\n"
    client.images.build(fileobj=io.BytesIO(recipe.encode()), tag=tag, rm=True, forcerm=True)
    try:
        cluster.load([tag])
        project.configure(f"profile: database\nservices: {{mysql: {{image: '{tag}'}}}}\ncomponents: [nova]\n")
        project.process("trust")
        project.process("up")
        assert sql(project, "SHOW DATABASES LIKE 'nova'").split() == ["nova"]
    finally:
        client.images.remove(tag)


# ---- devenv is killed --------------------------------------------------------------------------------------------


# Two services at once: one is ready soon and has accounts, the other one takes some seconds.
ACCOUNTS = """\
profile: database
services: {etcd: {auth: true}}
durable: true
components: [nova]
"""
# The command line, which ends by SIGKILL with its first request like this one: once it is `sent`, so that nobody knows
# whether the cluster gets it, or once it is `answered`.
UNTIL = """
import os, re, signal, sys
from http.client import HTTPConnection
from devenv.cli import main as cli

moment, sought = sys.argv.pop(1), re.compile(sys.argv.pop(1))
begin, wait = HTTPConnection.putrequest, HTTPConnection.getresponse

def begun(self, method, url, *arguments, **more):
    self.found = sought.search(f"{method} {url}")
    begin(self, method, url, *arguments, **more)

def reached(connection, now):
    if connection.found and now == moment:
        os.kill(os.getpid(), signal.SIGKILL)

def waited(self):
    reached(self, "sent")
    answer = wait(self)
    reached(self, "answered")
    return answer

HTTPConnection.putrequest, HTTPConnection.getresponse = begun, waited
cli.main()
"""
UP = (
    "sent: POST configmaps$",
    "answered: POST configmaps$",
    "answered: POST persistentvolumeclaims$",
    "sent: POST services$",
    "answered: POST secrets$",
    "sent: POST pods$",
    "answered: POST pods$",
    "answered: PATCH services/",
    # The pods run, and the first of the services makes nova's account.
    "sent: POST auth/user/add$",
    "answered: POST auth/role/grant$",
)
DOWN = tuple(
    f"{moment}: DELETE {kind}/"
    for kind in ("pods", "secrets", "services", "persistentvolumeclaims", "configmaps")
    for moment in ("sent", "answered")
)


def killed(project: Project, point: str, *arguments: str) -> None:
    """Run a command that is killed at this point; fail the test if it was not."""
    moment, method, path = point.replace(":", "").split()
    command = [sys.executable, "-c", UNTIL, moment, f"^{method} .*/{path}", *arguments]
    done = subprocess.run(command, cwd=project.folder, env=project.environ, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, f"{arguments} did not come to {point!r}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize(("up", "down"), [*zip(UP, DOWN, strict=True)])
def test_an_up_and_a_down_that_were_killed_anywhere_are_finished_by_the_next(
    project: Project, cluster: Cluster, namespaces: tuple[str, ...], up: str, down: str
) -> None:
    project.configure(ACCOUNTS)
    killed(project, up, "up")
    project.process("up")
    assert set(ready(project).values()) == {"ready"}
    assert "nova" in users(project)
    assert sql(project, "SHOW DATABASES LIKE 'nova'").split() == ["nova"]
    killed(project, down, "down", "--volumes")
    project.process("down", "--volumes")
    cluster.emptied(namespaces[0])
    assert not forwarders(project)


def test_durable_data_survive_each_up_and_each_down_that_was_killed(project: Project) -> None:
    project.configure(ACCOUNTS)
    project.process("up")
    sql(project, f"{TABLE}; INSERT INTO devenv.kept VALUES (9)")
    # Each `up` but the last makes what the next `down` is to remove.
    for down, up in zip(DOWN[:6], (*UP[6:], UP[4], UP[3]), strict=True):
        killed(project, down, "down")
        project.process("down")
        killed(project, up, "up")
    project.process("up")
    assert sql(project, "SELECT id FROM devenv.kept").split() == ["9"]
    assert "nova" in users(project)


def test_what_a_killed_run_left_is_collected(project: Project, cluster: Cluster, namespaces: tuple[str, ...]) -> None:
    project.configure("profile: coordination\n")
    began = project.folder / "began"
    with project.begin("run", "--component", "test", "--", "sh", "-c", f"touch {began}; sleep 600") as run:
        until(began.exists)
        run.send_signal(signal.SIGKILL)
    assert cluster.names(namespaces[0])
    project.process("gc")
    cluster.emptied(namespaces[0])
    assert not forwarders(project)


# ---- what happens in a cluster -----------------------------------------------------------------------------------


def test_a_pod_that_somebody_deleted_comes_back_with_the_next_up(
    project: Project, cluster: Cluster, namespaces: tuple[str, ...]
) -> None:
    project.configure(f"{TWO}durable: true\n")
    project.process("up")
    sql(project, f"{TABLE}; INSERT INTO devenv.kept VALUES (7)")
    space = f"--namespace={namespaces[0]}"
    cluster.kubectl("delete", space, "pod", pod_of(cluster, namespaces[0], "mysql"), "--now")
    assert ready(project)["mysql"] != "ready" and ready(project)["etcd"] == "ready"
    project.process("up")
    assert set(ready(project).values()) == {"ready"}
    assert sql(project, "SELECT id FROM devenv.kept").split() == ["7"]


def test_a_full_quota_is_said_and_once_there_is_room_up_finishes(
    project: Project, cluster: Cluster, namespaces: tuple[str, ...]
) -> None:
    project.configure("profile: coordination\n")
    space = f"--namespace={namespaces[0]}"
    cluster.kubectl("create", "quota", "small", space, "--hard=pods=0")
    try:
        until(lambda: cluster.get("quota", "small", space)["status"].get("hard"))
        done = project.process("up", check=False)
        assert done.returncode in (5, 6), done.stderr
        one_clear_line(done, done.returncode, "quota")
    finally:
        cluster.kubectl("delete", "quota", "small", space)
    project.process("up")
    assert set(ready(project).values()) == {"ready"}


@pytest.fixture
def other(tmp_path: Path, place: dict[str, str], cluster: Cluster, namespaces: tuple[str, ...]) -> Iterator[Project]:
    """Make a project whose services run in the second namespace."""
    scratch = new_project(tmp_path, "other")
    scratch.extra = {**place, "DEVENV_KUBE_CONTEXT": namespaces[1]}
    yield scratch
    scratch.process("down", "--volumes")
    cluster.emptied(namespaces[1])


def test_two_environments_in_two_namespaces_come_up_at_once_and_share_nothing(
    project: Project, other: Project, cluster: Cluster, namespaces: tuple[str, ...]
) -> None:
    done: dict[str, Completed] = {}
    for one in (project, other):
        one.configure(TWO)
    threads = [
        threading.Thread(target=lambda one=one: done.update({one.folder.name: one.process("up", check=False)}))
        for one in (project, other)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(run.returncode == 0 for run in done.values()), [run.stderr for run in done.values()]
    first, second = variables(project), variables(other)
    assert first["DEVENV_MYSQL_PORT"] != second["DEVENV_MYSQL_PORT"]
    assert first["DEVENV_MYSQL_PASSWORD"] != second["DEVENV_MYSQL_PASSWORD"]
    sql(project, TABLE)
    assert not sql(other, "SHOW TABLES IN devenv LIKE 'kept'").split()
    project.process("down", "--volumes")
    cluster.emptied(namespaces[0])
    assert set(ready(other).values()) == {"ready"}


@contextmanager
def drained(cluster: Cluster, node: str) -> Iterator[None]:
    """Move all pods off a node, and let pods onto it again afterwards."""
    least = ["--ignore-daemonsets", "--delete-emptydir-data", "--force", "--grace-period=1", "--timeout=90s"]
    cluster.kubectl("drain", node, *least)
    try:
        yield
    finally:
        cluster.kubectl("uncordon", node)


def test_after_a_node_was_drained_up_brings_the_services_back_on_another(
    project: Project, cluster: Cluster, namespaces: tuple[str, ...]
) -> None:
    project.configure(f"{TWO}durable: true\n")
    project.process("up")
    sql(project, f"{TABLE}; INSERT INTO devenv.kept VALUES (8)")
    space = f"--namespace={namespaces[0]}"
    if len(cluster.get("nodes")["items"]) < 2:
        pytest.fail("this needs a cluster of two nodes: tests/clusters/kubernetes start 2")
    node = cluster.get("pod", pod_of(cluster, namespaces[0], "mysql"), space)["spec"]["nodeName"]
    with drained(cluster, node):
        project.process("up")
        assert set(ready(project).values()) == {"ready"}
        assert sql(project, "SELECT id FROM devenv.kept").split() == ["8"]
        assert cluster.get("pod", pod_of(cluster, namespaces[0], "mysql"), space)["spec"]["nodeName"] != node


def test_the_pods_keep_the_restricted_standard(project: Project, cluster: Cluster, namespaces: tuple[str, ...]) -> None:
    from tests.pod_security import violations

    project.configure("profile: base\n")
    project.process("up")
    pods = cluster.get("pods", f"--namespace={namespaces[0]}")["items"]
    assert len(pods) == 4
    assert {pod["metadata"]["name"]: violations(pod["spec"]) for pod in pods} == {
        pod["metadata"]["name"]: [] for pod in pods
    }
    # Nothing on the host listens for others: ports are this host's alone.
    for name, value in variables(project).items():
        if re.fullmatch(r"DEVENV_\w+_HOST", name):
            assert value == "127.0.0.1"
