"""The services' files are Compose files, and so is an exported environment: the real docker compose takes them."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import amqp
import composing
import docker
import psycopg2
import pymysql
import pytest
import requests
import yaml
from project import REPOSITORY, Completed, Project, new_project, one_clear_line, ours, require

FILES = sorted((REPOSITORY / "compose").glob("*/compose.yaml"))
NOTHING: dict[str, list[str]] = {"containers": [], "networks": [], "volumes": []}
COMPONENTS = """
components:
  nova:
    roles: [admin]
    catalog: {type: compute, name: nova, url: "http://127.0.0.1:8774/v2.1"}
  my-service: {}
"""


@pytest.fixture(scope="module")
def compose(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    command = composing.find(tmp_path_factory.mktemp("compose"))
    require("" if command else "no docker compose 2 here or from Debian; DEVENV_BENCH_COMPOSE may name one")
    return command


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_docker_compose_accepts_the_file(path: Path, compose: list[str]) -> None:
    done = subprocess.run([*compose, "-f", str(path), "config", "--quiet"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# ---- an exported environment -------------------------------------------------------------------------------------


class Exported:
    """An exported file, its content, and docker compose to run it."""

    def __init__(self, path: Path, compose: list[str]) -> None:
        self.path, self._compose = path, compose
        self.data: dict[str, Any] = yaml.safe_load(path.read_text())

    def run(self, *arguments: str) -> Completed:
        command = [*self._compose, "--file", str(self.path), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def port(self, service: str, inside: int) -> int:
        (found,) = (one.split(":")[1] for one in self.data["services"][service]["ports"] if one.endswith(f":{inside}"))
        return int(found)

    def file(self, name: str) -> str:
        return str(self.data["configs"][name]["content"].replace("$$", "$"))

    def passwords(self, name: str) -> dict[str, str]:
        """Return the passwords of the users that a JSON file of accounts names."""
        return {user["name"]: user["password"] for user in json.loads(self.file(name))["users"]}

    def sql_passwords(self, name: str = "mysql") -> dict[str, str]:
        return dict(re.findall(r"ALTER USER '(\w+)'@'\S+ IDENTIFIED BY '(\w+)'", self.file(f"{name}-accounts.sql")))


@contextmanager
def brought_up(project: Project, compose: list[str]) -> Iterator[Exported]:
    project.devenv("export", "compose", "--output", "compose.yaml")
    exported = Exported(project.folder / "compose.yaml", compose)
    try:
        done = exported.run("up", "--wait")
        assert done.returncode == 0, done.stderr + exported.run("logs").stdout
        yield exported
    finally:
        exported.run("down", "--volumes")


def left(client: docker.DockerClient, name: str) -> dict[str, list[str]]:
    """Return what the engine has of a Compose project."""
    label = {"label": f"com.docker.compose.project={name}"}
    return {
        "containers": [c.name for c in client.containers.list(all=True, filters=label, ignore_removed=True)],
        "networks": [n.name for n in client.networks.list(filters=label)],
        "volumes": [v.name for v in client.volumes.list(filters=label)],
    }


def token(exported: Exported, user: str, project: str) -> requests.Response:
    password, domain = exported.passwords("keystone-accounts.json")[user], {"id": "default"}
    login = {"name": user, "password": password, "domain": domain}
    identity = {"methods": ["password"], "password": {"user": login}}
    scope = {"project": {"name": project, "domain": domain}}
    url = f"http://127.0.0.1:{exported.port('keystone', 5000)}/v3/auth/tokens"
    return requests.post(url, json={"auth": {"identity": identity, "scope": scope}}, timeout=10)


@pytest.mark.long
def test_docker_compose_alone_brings_an_exported_environment_up(
    project: Project, compose: list[str], client: docker.DockerClient
) -> None:
    project.configure(COMPONENTS)
    identity = project.id
    with brought_up(project, compose) as exported:
        assert ours(client, identity) == NOTHING
        check_mysql(exported)
        check_rabbitmq(exported)
        check_etcd(exported)
        check_keystone(exported)
        again = exported.run("up", "--wait")
        assert again.returncode == 0 and "Recreate" not in again.stderr, again.stderr
        assert exported.run("restart").returncode == 0
        assert exported.run("up", "--wait").returncode == 0
        check_keystone(exported)
    assert left(client, exported.data["name"]) == NOTHING


@pytest.mark.long
def test_an_exported_mariadb_has_the_databases_of_keystone_and_of_the_components(
    project: Project, compose: list[str]
) -> None:
    project.configure(f"profile: identity\ndatabase: mariadb\n{COMPONENTS}")
    with brought_up(project, compose) as exported:
        check_mysql(exported, "mariadb")
        check_keystone(exported)
        assert exported.run("restart").returncode == 0
        assert exported.run("up", "--wait").returncode == 0
        check_keystone(exported)


def check_mysql(exported: Exported, name: str = "mysql") -> None:
    passwords = exported.sql_passwords(name)
    assert set(passwords) == {"devenv", "root", "keystone", "nova", "my_service"}
    common = {"host": "127.0.0.1", "port": exported.port(name, 3306)}
    for user, database in (("devenv", "devenv"), ("nova", "nova"), ("my_service", "my_service")):
        with pymysql.connect(user=user, password=passwords[user], database=database, **common) as connection:
            connection.cursor().execute("CREATE TABLE kept (id INT)")
    with pymysql.connect(user="devenv", password=passwords["devenv"], **common) as connection:
        connection.cursor().execute("CREATE DATABASE myxservice")
    with pytest.raises(pymysql.OperationalError, match="Access denied"):
        pymysql.connect(user="my_service", password=passwords["my_service"], database="myxservice", **common)


def check_rabbitmq(exported: Exported) -> None:
    passwords = exported.passwords("rabbitmq-definitions.json")
    for user in ("devenv", "nova", "my-service"):
        address = f"127.0.0.1:{exported.port('rabbitmq', 5672)}"
        with amqp.Connection(address, userid=user, password=passwords[user], virtual_host=user) as connection:
            connection.channel().queue_declare("kept", durable=True, auto_delete=False)


def check_etcd(exported: Exported) -> None:
    url = f"http://127.0.0.1:{exported.port('etcd', 2379)}/v3/kv/put"
    assert requests.post(url, json={"key": "YQ==", "value": "YQ=="}, timeout=10).status_code == 200


def check_keystone(exported: Exported) -> None:
    for user, project in (("admin", "admin"), ("demo", "demo"), ("my-service", "service")):
        assert token(exported, user, project).status_code == 201
    nova = token(exported, "nova", "service").json()["token"]
    assert {role["name"] for role in nova["roles"]} >= {"service", "admin"}
    (compute,) = (entry for entry in nova["catalog"] if entry["type"] == "compute")
    assert {endpoint["url"] for endpoint in compute["endpoints"]} == {"http://127.0.0.1:8774/v2.1"}
    assert len(compute["endpoints"]) == 3


def test_an_exported_etcd_asks_for_the_logins_that_the_project_wants(project: Project, compose: list[str]) -> None:
    project.configure("profile: coordination\ncomponents: [nova]\nservices: {etcd: {auth: true}}\n")
    with brought_up(project, compose) as exported:
        made = exported.file("etcd-accounts.sh")
        login = dict(zip(("name", "password"), re.findall(r"account '(\w+)' '(\w+)'", made)[-1], strict=True))
        url = f"http://127.0.0.1:{exported.port('etcd', 2379)}/v3"
        assert requests.post(f"{url}/kv/put", json={"key": "YQ==", "value": "YQ=="}, timeout=10).status_code == 400
        ticket = requests.post(f"{url}/auth/authenticate", json=login, timeout=10).json()["token"]
        # "/nova/a" and "/other/a" in base64.
        codes = [
            requests.post(
                f"{url}/kv/put", json={"key": key, "value": "YQ=="}, headers={"Authorization": ticket}, timeout=10
            ).status_code
            for key in ("L25vdmEvYQ==", "L290aGVyL2E=")
        ]
        assert codes == [200, 403]
        assert exported.run("restart").returncode == 0
        assert exported.run("up", "--wait").returncode == 0
        assert requests.post(f"{url}/auth/authenticate", json=login, timeout=10).status_code == 200


@pytest.mark.long
def test_an_exported_postgresql_has_the_databases_of_keystone_and_of_the_components(
    project: Project, compose: list[str]
) -> None:
    project.configure(f"profile: identity\ndatabase: postgresql\n{COMPONENTS}")
    with brought_up(project, compose) as exported:
        check_keystone(exported)
        check_postgresql(exported)
        assert exported.run("restart").returncode == 0
        assert exported.run("up", "--wait").returncode == 0
        check_postgresql(exported)


def check_postgresql(exported: Exported) -> None:
    passwords = dict(re.findall(r'ALTER ROLE "?(\w+)"? .*PASSWORD \'(\w+)\'', exported.file("postgresql-accounts.sql")))
    assert set(passwords) == {"devenv", "keystone", "nova", "my_service"}
    common = {"host": "127.0.0.1", "port": exported.port("postgresql", 5432)}
    for user, password in passwords.items():
        with closing(psycopg2.connect(user=user, password=password, dbname=user, **common)) as connection:
            connection.cursor().execute("CREATE TABLE IF NOT EXISTS kept (id INT)")
            connection.commit()
    with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
        psycopg2.connect(user="my_service", password=passwords["my_service"], dbname="nova", **common)


@pytest.mark.long
def test_a_service_that_does_not_work_is_not_healthy(project: Project, compose: list[str]) -> None:
    project.configure("profile: identity\n")
    with brought_up(project, compose) as exported:
        # Keystone answers on its port, but has no database to make a token from.
        assert exported.run("stop", "mysql").returncode == 0
        assert exported.run("exec", "keystone", "bash", "/etc/devenv/healthy.sh").returncode == 1
        assert exported.run("start", "mysql").returncode == 0
        # If a check has found Keystone unhealthy meanwhile, the wait fails immediately, until the next check succeeds.
        assert any(exported.run("up", "--wait").returncode == 0 for _ in range(60))
        assert exported.run("exec", "keystone", "bash", "/etc/devenv/healthy.sh").returncode == 0


# ---- devenv beside it ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["coordination", pytest.param("base", marks=pytest.mark.long)])
def test_an_environment_attaches_to_an_exported_one_and_leaves_nothing_in_it(
    project: Project, compose: list[str], profile: str
) -> None:
    project.configure(f"profile: {profile}\ncomponents: [theirs]\n")
    user = new_project(project.folder.parent, "user")
    user.configure(f"profile: {profile}\ncomponents: [nova]\n")
    with brought_up(project, compose) as exported:
        user.extra = {"DOCKER_HOST": "unix:///nowhere/docker.sock", **exported.data["x-devenv-attach"]}
        user.devenv("up")
        states = {name: one["state"] for name, one in user.json("status")["services"].items()}
        assert states == dict.fromkeys(exported.data["services"], "ready")
        assert "ETCD_ENDPOINTS=http://127.0.0.1" in user.process("run", "--", "env").stdout
        refused = user.devenv("--env", "second", "up", check=False)
        one_clear_line(refused, 7, "of component nova in ", "that devenv did not make")
        user.devenv("--env", "second", "down", "--volumes")
        assert "dropped nova there" in user.devenv("down", "--volumes").stderr
        if profile == "base":
            assert databases(exported) == {"devenv", "keystone", "theirs"}
        assert exported.run("ps", "--quiet").stdout.split() == exported.run("ps", "--all", "--quiet").stdout.split()


def databases(exported: Exported) -> set[str]:
    """Return the databases that its MySQL has, beside MySQL's own."""
    login = {"user": "devenv", "password": exported.sql_passwords()["devenv"], "port": exported.port("mysql", 3306)}
    with pymysql.connect(host="127.0.0.1", **login) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW DATABASES")
        return {name for (name,) in cursor.fetchall()} - {"mysql", "sys", "performance_schema", "information_schema"}
