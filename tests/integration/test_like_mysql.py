"""What components and OpenStack's test suites expect of MySQL and MariaDB."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pymysql
import pytest
from databases import LIKE_MYSQL, ask, connect
from project import Project, file_limit, new_project, plan_of, remove

# devstack's and keystone's `max_connections`.
MOST_CONNECTIONS = 1024

# PyMySQL before 1.2 does the same without `ssl_disabled`.
LOGIN = """
import json, sys
sys.modules["cryptography"] = None
import pymysql
pymysql.connect(**json.load(sys.stdin), ssl_disabled=True).close()
"""


def url_of(project: Project, service: str, component: str = "") -> str:
    """Return the URL of a component, or of the administrator, as devenv wired it."""
    of_component = ("--component", component) if component else ()
    return str(project.json("env", *of_component)[f"DEVENV_{service.upper()}_URL"])


@dataclass(frozen=True)
class Server:
    """Hold a database service that runs alone, and a component's URL."""

    name: str
    project: Project
    nova: str


def configure(project: Project, database: str, components: str = "") -> None:
    project.configure(f"profile: database\ndatabase: {database}\ncomponents: [{components}]\n")


@pytest.fixture(scope="module", params=LIKE_MYSQL)
def server(
    request: pytest.FixtureRequest, images: object, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Bring up a database with the components nova and my-service."""
    scratch = new_project(tmp_path_factory.mktemp(request.param), "server")
    configure(scratch, request.param, "nova, my-service")
    scratch.devenv("up")
    yield Server(request.param, scratch, url_of(scratch, request.param, "nova"))
    remove(scratch)


def arguments(project: Project, component: str) -> Mapping[str, Any]:
    """Return a component's arguments for PyMySQL, as devenv wired them."""
    return dict(json.loads((project.folder / ".devenv" / f"{component}.json").read_text())["pymysql"])


def administrator(project: Project, service: str = "mysql") -> Mapping[str, Any]:
    """Return the administrator's arguments for PyMySQL."""
    env, name = project.env(), f"DEVENV_{service.upper()}"
    login = {"user": env[f"{name}_USER"], "password": env[f"{name}_PASSWORD"]}
    return {"host": env[f"{name}_HOST"], "port": int(env[f"{name}_PORT"]), **login}


# ---- components --------------------------------------------------------------------------------------------------


def test_a_component_may_do_everything_in_its_database_and_nothing_elsewhere(server: Server) -> None:
    made = ("CREATE TABLE own (word VARCHAR(40))", "INSERT INTO own VALUES ('grüße ✓ 🚀')", "SELECT word FROM own")
    assert [word for (word,) in ask(server.nova, *made)] == ["grüße ✓ 🚀"]
    ask(server.nova, "DROP TABLE own")
    for foreign in ("CREATE DATABASE more", "CREATE USER more", "DROP DATABASE my_service"):
        with pytest.raises(pymysql.err.MySQLError):
            ask(server.nova, foreign)
    with pytest.raises(pymysql.err.MySQLError):
        connect(server.nova, database="my_service")


def test_a_killed_server_keeps_what_it_committed(server: Server, client: docker.DockerClient) -> None:
    rows = [f"INSERT INTO committed VALUES ({number})" for number in range(200)]
    ask(server.nova, "CREATE TABLE committed (i INT PRIMARY KEY)", *rows)
    client.containers.get(f"devenv-{server.project.id}-{server.name}").kill()
    server.project.devenv("up")
    assert [*ask(server.nova, "SELECT COUNT(*) FROM committed")] == [(200,)]
    ask(server.nova, "DROP TABLE committed")


def test_an_open_transaction_does_not_keep_a_component_from_being_emptied(server: Server) -> None:
    url = url_of(server.project, server.name, "my-service")
    ask(url, "CREATE TABLE t (i INT)")
    with closing(connect(url)) as forgotten, forgotten.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("INSERT INTO t VALUES (1)")
        server.project.devenv("reset", "--component", "my-service")
    ask(url, "CREATE TABLE t (i INT)")


def test_an_account_that_somebody_changed_is_put_right_with_the_next_container(server: Server) -> None:
    changed = "ALTER USER 'nova'@'%' IDENTIFIED BY 'another' ACCOUNT LOCK"
    ask(url_of(server.project, server.name), changed, "GRANT SELECT ON my_service.* TO 'nova'@'%'")
    with pytest.raises(pymysql.err.MySQLError):
        connect(server.nova)
    server.project.devenv("down")
    server.project.devenv("up")
    ask(server.nova, "CREATE TABLE t (i INT)", "DROP TABLE t")
    with pytest.raises(pymysql.err.MySQLError):
        connect(server.nova, database="my_service")


@pytest.mark.long
def test_a_snapshot_brings_data_back_and_a_reset_takes_it_away(server: Server) -> None:
    ask(server.nova, "CREATE TABLE saved (i INT)", "INSERT INTO saved VALUES (1)")
    server.project.devenv("snapshot", "save", "before")
    ask(server.nova, "DROP TABLE saved")
    server.project.devenv("snapshot", "restore", "before")
    assert [*ask(server.nova, "SELECT i FROM saved")] == [(1,)]
    server.project.devenv("reset")
    ask(server.nova, "CREATE TABLE saved (i INT)", "DROP TABLE saved")
    server.project.devenv("snapshot", "rm", "before")


# ---- the server --------------------------------------------------------------------------------------------------


def test_the_server_has_neither_anonymous_accounts_nor_root_over_tcp_nor_a_test_database(server: Server) -> None:
    url = url_of(server.project, server.name)
    (path,) = server.project.state.glob(f"environments/{server.project.id}/secrets.json")
    root = json.loads(path.read_text())[f"{server.name}.root_password"]
    for user, password in (("root", ""), ("root", root), ("", ""), ("mysql", ""), ("devenv", ""), ("test", "")):
        with pytest.raises(pymysql.err.OperationalError, match="Access denied"):
            connect(url, user=user, password=password, database="mysql")
    own = {name for (name,) in ask(url, "SELECT DISTINCT user FROM mysql.user WHERE user NOT LIKE 'm%.%'")}
    assert own - {"PUBLIC"} == {"root", "devenv", "nova", "my_service"}
    hosts = ask(url, "SELECT host FROM mysql.user WHERE user = 'root'")
    assert [host for (host,) in hosts] == ["localhost"]
    databases = {name for (name,) in ask(url, "SHOW DATABASES")}
    system = {"mysql", "sys", "information_schema", "performance_schema"}
    assert databases - system == {"devenv", "nova", "my_service"}


def test_a_row_may_refer_to_itself_by_the_number_that_the_server_gives_it(server: Server) -> None:
    table = (
        "CREATE TABLE node (id INT PRIMARY KEY AUTO_INCREMENT, parent INT, FOREIGN KEY (parent) REFERENCES node (id))"
    )
    rows = ask(server.nova, table, "INSERT INTO node (parent) VALUES (1)", "SELECT id, parent FROM node")
    assert rows == ((1, 1),)


def test_as_many_clients_as_the_server_promises_work_at_the_same_time(server: Server) -> None:
    # Each makes a table in memory to answer.
    query = "SELECT a.c, COUNT(*) FROM (SELECT 1 AS c UNION SELECT 2) a GROUP BY a.c ORDER BY 2, 1"
    nova, held = arguments(server.project, "nova"), list[Any]()
    with file_limit(MOST_CONNECTIONS + 512), ExitStack() as stack:
        with pytest.raises(pymysql.err.OperationalError, match="Too many connections"):
            for _ in range(MOST_CONNECTIONS + 1):
                held.append(stack.enter_context(pymysql.connect(**nova, ssl_disabled=True)))
        # For a moment, the server still counts the client that it refused, and refuses the administrator, too.
        full = "takes no more clients: all"
        while (reason := server.project.reason(server.name)) == f"{full} connections are in use":
            pass
        assert reason == f"{full} {MOST_CONNECTIONS} connections are in use"
        for connection in held:
            with connection.cursor() as cursor:
                cursor.execute(query)
                assert cursor.fetchall() == ((1, 1), (2, 1))
        with held[0].cursor() as cursor:
            cursor.execute("SHOW STATUS LIKE 'Threads_connected'")
            assert cursor.fetchone() == ("Threads_connected", str(MOST_CONNECTIONS))


def test_a_server_that_takes_no_writes_is_told(server: Server) -> None:
    login = administrator(server.project, server.name)
    with pymysql.connect(**login, ssl_disabled=True) as connection, connection.cursor() as cursor:
        cursor.execute("SET GLOBAL read_only = ON")
        try:
            with pytest.raises(pymysql.err.MySQLError, match="read-only"):
                ask(server.nova, "CREATE TABLE never (i INT)")
            assert server.project.reason(server.name).startswith("takes no writes: read_only is on")
        finally:
            cursor.execute("SET GLOBAL read_only = OFF")
    assert server.project.reason(server.name) == ""


def test_the_server_knows_time_zones_by_name(server: Server) -> None:
    noon = "SELECT DATE_FORMAT(CONVERT_TZ('2026-07-01 12:00:00', 'UTC', 'Europe/Paris'), '%H:%i')"
    assert ask(server.nova, "SET time_zone = 'America/New_York'", noon) == (("14:00",),)


@pytest.mark.parametrize("options", [[], ["--single-transaction", "--routines", "--events", "--triggers"]])
def test_a_component_dumps_its_own_database(server: Server, options: list[str]) -> None:
    word = uuid.uuid4().hex
    ask(server.nova, "CREATE TABLE IF NOT EXISTS t (word VARCHAR(40))", f"INSERT INTO t VALUES ('{word}')")
    nova = arguments(server.project, "nova")
    program = {"mariadb": "mariadb-dump"}.get(server.name, "mysqldump")
    login = [f"--user={nova['user']}", f"--password={nova['password']}"]
    dumped = server.project.devenv("exec", server.name, "--", program, *login, *options, nova["database"])
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
        assert ask(server.nova, f"SELECT @@GLOBAL.{name}") == ((value,),)
    assert "TRADITIONAL" in ask(server.nova, "SELECT @@GLOBAL.sql_mode")[0][0]


# ---- MySQL alone -------------------------------------------------------------------------------------------------


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


# ---- images of others --------------------------------------------------------------------------------------------

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
