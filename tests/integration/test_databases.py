"""What OpenStack's components and their test suites expect of a database server."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pymysql
import pytest
from project import DATABASES, Project, new_project, plan_of, remove

from devenv.spec.catalogue import load_catalogue

# Those that speak MySQL's protocol.
LIKE_MYSQL = ["mysql", "mariadb"]
# devstack's and keystone's `max_connections`.
MOST_CONNECTIONS = 1024

# PyMySQL before 1.2 does the same without `ssl_disabled`.
LOGIN = """
import json, sys
sys.modules["cryptography"] = None
import pymysql
pymysql.connect(**json.load(sys.stdin), ssl_disabled=True).close()
"""


@dataclass(frozen=True)
class Server:
    """Hold a database service that runs alone, and a component's arguments for PyMySQL."""

    name: str
    project: Project
    nova: Mapping[str, Any]

    def ask(self, *statements: str) -> Any:
        """Run statements as the component; return the last one's first row."""
        with pymysql.connect(**self.nova, autocommit=True) as connection, connection.cursor() as cursor:
            for text in statements:
                cursor.execute(text)
            return cursor.fetchone()


@pytest.fixture(scope="module", params=LIKE_MYSQL)
def server(
    request: pytest.FixtureRequest, images: object, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Bring up a server that speaks MySQL's protocol, with the component nova."""
    scratch = new_project(tmp_path_factory.mktemp(request.param), "server")
    scratch.configure(f"profile: database\ndatabase: {request.param}\ncomponents: [nova]\n")
    scratch.devenv("up")
    yield Server(request.param, scratch, arguments(scratch, "nova"))
    remove(scratch)


def arguments(project: Project, component: str) -> Mapping[str, Any]:
    """Return a component's arguments for PyMySQL, as devenv wired them."""
    return dict(json.loads((project.folder / ".devenv" / f"{component}.json").read_text())["pymysql"])


def administrator(project: Project) -> Mapping[str, Any]:
    """Return the administrator's arguments for PyMySQL."""
    env = project.env()
    login = {"user": env["DEVENV_MYSQL_USER"], "password": env["DEVENV_MYSQL_PASSWORD"]}
    return {"host": env["DEVENV_MYSQL_HOST"], "port": int(env["DEVENV_MYSQL_PORT"]), **login}


@contextmanager
def file_limit(least: int) -> Iterator[None]:
    """Let this process open at least so many files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, least), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_every_database_service_is_tested() -> None:
    assert {name for name, service in load_catalogue().items() if service.role == "database"} == {*DATABASES}


def test_a_row_may_refer_to_itself_by_the_number_that_the_server_gives_it(server: Server) -> None:
    table = (
        "CREATE TABLE node (id INT PRIMARY KEY AUTO_INCREMENT, parent INT, FOREIGN KEY (parent) REFERENCES node (id))"
    )
    assert server.ask(table, "INSERT INTO node (parent) VALUES (1)", "SELECT id, parent FROM node") == (1, 1)


def test_as_many_clients_as_the_server_promises_work_at_the_same_time(server: Server) -> None:
    # Each makes a table in memory to answer.
    query = "SELECT a.c, COUNT(*) FROM (SELECT 1 AS c UNION SELECT 2) a GROUP BY a.c ORDER BY 2, 1"
    held: list[Any] = []
    with file_limit(MOST_CONNECTIONS + 512), ExitStack() as stack:
        with pytest.raises(pymysql.err.OperationalError, match="Too many connections"):
            for _ in range(MOST_CONNECTIONS + 1):
                held.append(stack.enter_context(pymysql.connect(**server.nova, ssl_disabled=True)))
        for connection in held:
            with connection.cursor() as cursor:
                cursor.execute(query)
                assert cursor.fetchall() == ((1, 1), (2, 1))
        with held[0].cursor() as cursor:
            cursor.execute("SHOW STATUS LIKE 'Threads_connected'")
            assert cursor.fetchone() == ("Threads_connected", str(MOST_CONNECTIONS))


def test_the_server_knows_time_zones_by_name(server: Server) -> None:
    noon = "SELECT DATE_FORMAT(CONVERT_TZ('2026-07-01 12:00:00', 'UTC', 'Europe/Paris'), '%H:%i')"
    assert server.ask("SET time_zone = 'America/New_York'", noon) == ("14:00",)


@pytest.mark.parametrize("options", [[], ["--single-transaction", "--routines", "--events", "--triggers"]])
def test_a_component_dumps_its_own_database(server: Server, options: list[str]) -> None:
    word = uuid.uuid4().hex
    server.ask("CREATE TABLE IF NOT EXISTS t (word VARCHAR(40))", f"INSERT INTO t VALUES ('{word}')")
    program = {"mariadb": "mariadb-dump"}.get(server.name, "mysqldump")
    login = [f"--user={server.nova['user']}", f"--password={server.nova['password']}"]
    dumped = server.project.devenv("exec", server.name, "--", program, *login, *options, server.nova["database"])
    assert word in dumped.stdout
    assert "denied" not in dumped.stderr.lower()


# The settings that OpenStack needs, as the servers call them. MariaDB lists what TRADITIONAL stands for, and more.
SETTINGS = {
    "mysql": {"innodb_native_foreign_keys": 1, "gtid_mode": "OFF"},
    "mariadb": {"innodb_snapshot_isolation": 0},
}


def test_the_server_has_the_settings_that_openstack_needs(server: Server) -> None:
    common = {"character_set_server": "utf8mb4", "max_connections": MOST_CONNECTIONS, "require_secure_transport": 0}
    for name, value in {**common, **SETTINGS[server.name]}.items():
        assert server.ask(f"SELECT @@GLOBAL.{name}") == (value,)
    assert "TRADITIONAL" in server.ask("SELECT @@GLOBAL.sql_mode")[0]


def logs_in(login: Mapping[str, Any]) -> str:
    """Log in with PyMySQL where no package cryptography is installed; return the last line of the error, if any."""
    done = subprocess.run(
        [sys.executable, "-c", LOGIN], input=json.dumps(login), capture_output=True, text=True, check=False
    )
    return (done.stderr.splitlines() or [""])[-1]


def test_clients_need_no_cryptography_after_each_start_of_the_server(
    project: Project, client: docker.DockerClient
) -> None:
    project.configure("components: [nova, glance]\n")
    project.devenv("up", "mysql")
    logins = [administrator(project), arguments(project, "nova"), arguments(project, "glance")]
    assert [logs_in(login) for login in logins] == ["", "", ""]

    # The server can be made to forget. Then it asks for more.
    project.devenv("exec", "mysql", "--", "mysql", "-e", "FLUSH PRIVILEGES")
    assert "'cryptography' package is required" in logs_in(logins[1])

    project.devenv("restart", "mysql")
    assert [logs_in(login) for login in logins] == ["", "", ""]
    project.devenv("stop", "mysql")
    project.devenv("start", "mysql")
    assert [logs_in(login) for login in logins] == ["", "", ""]
    client.containers.get(f"devenv-{project.id}-mysql").kill()
    assert ("log in", "mysql/nova", "mysql starts") in plan_of(project, "mysql")
    project.devenv("up", "mysql")
    assert [logs_in(login) for login in logins] == ["", "", ""]
    assert plan_of(project, "mysql") == []


# As in the official images: the program that writes the time zones.
PROGRAM = (
    "grep -v '^USE' time_zones.sql > /usr/share/zoneinfo/all; cd /usr/bin; "
    "printf '#!/bin/sh\\ncat $1/all\\n' > {program}; chmod 755 {program}"
)
# The folder of each server's files, and the program.
ZONES = {
    "mysql": ("/usr/share/mysql", "mysql_tzinfo_to_sql"),
    "mariadb": ("/usr/share/mariadb", "mariadb-tzinfo-to-sql"),
}


@pytest.mark.long
@pytest.mark.parametrize(("change", "noon"), [(PROGRAM, "14:00"), ("true", "NULL")], ids=["with a program", "without"])
@pytest.mark.parametrize("database", LIKE_MYSQL)
def test_an_image_without_prepared_time_zones_works(
    project: Project, client: docker.DockerClient, tmp_path: Path, database: str, change: str, noon: str
) -> None:
    project.configure(f"profile: database\ndatabase: {database}\n")
    image = next(i for i in project.json("images", "list") if i["service"] == database)["reference"]
    folder, program = ZONES[database]
    commands = f"cd {folder}; {change.format(program=program)}; rm {folder}/time_zones.sql"
    (tmp_path / "Dockerfile").write_text(f"FROM {image}\nUSER root\nRUN {commands}\n")
    tag = f"devenv-test/{uuid.uuid4().hex}:official-shape"
    client.images.build(path=str(tmp_path), tag=tag, rm=True, forcerm=True)
    try:
        project.configure(f"database: {database}\nservices: {{{database}: {{image: '{tag}'}}}}\n", trusted=True)
        project.devenv("up", "--no-golden", database)
        query = "SELECT DATE_FORMAT(CONVERT_TZ('2026-07-01 12:00:00', 'UTC', 'Europe/Paris'), '%H:%i')"
        assert project.sql(database, query).strip() == noon
        project.devenv("down", "--volumes")
    finally:
        client.images.remove(tag, force=True)
