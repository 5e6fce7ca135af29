"""`--citest` lends the account that OpenStack's own test suites expect in each database, and takes it away again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import SplitResult, urlsplit

import psycopg2
import pymysql
import pytest
from project import Project, new_project, one_clear_line, remove
from test_run import begun, end

VARIABLE = "OS_TEST_DBAPI_ADMIN_CONNECTION"
ACCOUNT = "openstack_citest"
# MariaDB takes the same way as MySQL.
DATABASES = ["mysql", "postgresql", pytest.param("mariadb", marks=pytest.mark.long)]
# How the administrator lists the accounts and databases whose names begin with the account's.
LISTS = {
    "mysql": (
        "mysql",
        "-Ne",
        f"SELECT User FROM mysql.user WHERE User LIKE '{ACCOUNT}%' UNION ALL "
        f"SELECT SCHEMA_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME LIKE '{ACCOUNT}%'",
    ),
    "mariadb": (
        "mariadb",
        "-Ne",
        f"SELECT User FROM mysql.user WHERE User LIKE '{ACCOUNT}%' UNION ALL "
        f"SELECT SCHEMA_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME LIKE '{ACCOUNT}%'",
    ),
    "postgresql": (
        "psql",
        "-Atc",
        f"SELECT rolname FROM pg_roles WHERE rolname LIKE '{ACCOUNT}%' UNION ALL "
        f"SELECT datname FROM pg_database WHERE datname LIKE '{ACCOUNT}%'",
    ),
}


def urls_in(text: str) -> list[SplitResult]:
    return [urlsplit(url) for url in text.strip().split(";")]


def ask(url: SplitResult, *statements: str) -> None:
    """Execute statements as the account."""
    assert url.hostname and url.port and url.username and url.password
    where = {"host": url.hostname, "port": url.port, "user": url.username, "password": url.password}
    connection: Any
    if url.scheme.startswith("mysql"):
        connection = pymysql.connect(**where)
    else:
        connection = psycopg2.connect(**where, dbname=url.path[1:])
        connection.autocommit = True
    with closing(connection), connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def accounts(project: Project, service: str) -> list[str]:
    """Return which accounts and databases the server has by the name that test suites use."""
    return project.devenv("exec", service, *LISTS[service]).stdout.split()


class Lending(NamedTuple):
    """Hold a project and the database that runs in it, without an account for test suites."""

    project: Project
    database: str


@pytest.fixture(scope="module", params=DATABASES)
def lending(
    request: pytest.FixtureRequest, images: object, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lending]:
    project = new_project(tmp_path_factory.mktemp(request.param), "lending")
    project.configure(f"profile: database\ndatabase: {request.param}\n")
    project.devenv("up")
    yield Lending(project, request.param)
    remove(project)


only_mysql = pytest.mark.parametrize("lending", ["mysql"], indirect=True)


# ---- what a suite gets -------------------------------------------------------------------------------------------


def test_the_variable_names_the_databases_and_sqlite_and_the_account_may_do_everything(
    lending: Lending,
) -> None:
    project, database = lending
    with begun(project, "--citest", database) as (run, variables):
        url, last = urls_in(variables[VARIABLE])
        assert last.geturl() == "sqlite:"
        assert (url.username, url.password, url.hostname) == (ACCOUNT, ACCOUNT, "127.0.0.1")
        # They would win over what a suite gives oslo.config.
        assert not [name for name in variables if name.startswith("OS_DATABASE__")]
        assert url.port == int(project.env()[f"DEVENV_{database.upper()}_PORT"])
        ask(url, "CREATE DATABASE one_of_ten_letters", "CREATE USER other_user", "DROP USER other_user")
        ask(url, "DROP DATABASE one_of_ten_letters")
        assert accounts(project, database) == [ACCOUNT, ACCOUNT]
        assert end(run) == 0
    assert accounts(project, database) == []


def test_runs_at_the_same_time_share_the_account_and_the_last_one_drops_it(lending: Lending) -> None:
    project, database = lending
    with begun(project, "--citest", database) as (first, variables):
        url, _ = urls_in(variables[VARIABLE])
        ask(url, f"CREATE DATABASE {ACCOUNT}_of_the_first")
        with begun(project, "--citest", database) as (second, others):
            assert others[VARIABLE] == variables[VARIABLE]
            project.devenv("run", "--citest", database, "--", "true")
            assert end(first) == 0
            ask(url, f"DROP DATABASE {ACCOUNT}_of_the_first")
            assert accounts(project, database) == [ACCOUNT, ACCOUNT]
            assert end(second) == 0
    assert accounts(project, database) == []


def test_a_run_that_does_not_ask_gets_none_and_leaves_the_others_alone(lending: Lending) -> None:
    project, database = lending
    with begun(project, "--citest", database) as (run, _):
        seen = project.devenv("run", database, "--", "sh", "-c", f"echo ${{{VARIABLE}-none}}").stdout
        assert seen.strip() == "none"
        project.devenv("up", "--drop")
        project.devenv("gc")
        assert accounts(project, database) == [ACCOUNT, ACCOUNT]
        assert end(run) == 0


def test_data_that_is_reset_meanwhile_gets_the_account_again(lending: Lending) -> None:
    project, database = lending
    with begun(project, "--citest", database) as (run, variables):
        project.devenv("reset", database)
        ask(urls_in(variables[VARIABLE])[0], "SELECT 1")
        assert end(run) == 0
    assert accounts(project, database) == []


@only_mysql
@pytest.mark.parametrize(
    "meanwhile",
    [[("snapshot", "restore", "clean")], [("down", "mysql", "--volumes"), ("up",)]],
    ids=["restore", "down"],
)
def test_data_that_is_another_meanwhile_has_the_account_too(lending: Lending, meanwhile: list[tuple[str, ...]]) -> None:
    project = lending.project
    project.devenv("snapshot", "save", "clean")
    with begun(project, "--citest") as (run, variables):
        for command in meanwhile:
            project.devenv(*command)
        ask(urls_in(variables[VARIABLE])[0], f"USE {ACCOUNT}")
        assert end(run) == 0
    assert accounts(project, "mysql") == []
    project.devenv("snapshot", "rm", "clean")


def test_a_run_of_another_service_takes_the_account_of_a_killed_run_away_too(project: Project) -> None:
    project.configure("profile: base\n")
    project.devenv("up", "mysql", "etcd")
    with begun(project, "--citest", "mysql") as (run, _):
        os.kill(run.pid, signal.SIGKILL)
    project.devenv("run", "etcd", "--", "true")
    assert accounts(project, "mysql") == []


@pytest.mark.parametrize("command", ["run", pytest.param("ci", marks=pytest.mark.long)])
def test_nested_runs_name_the_databases_of_both(project: Project, command: str) -> None:
    devenv = [sys.executable, "-m", "devenv", command]
    inner = [*devenv, "--citest", "postgresql", "--", "sh", "-c", f"echo ${VARIABLE}"]
    first, second, last = urls_in(project.process("run", "--citest", "mysql", "--", *inner).stdout)
    assert (first.scheme, second.scheme, last.scheme) == ("mysql+pymysql", "postgresql+psycopg2", "sqlite")


@only_mysql
def test_an_export_meanwhile_has_nothing_of_it(lending: Lending) -> None:
    project = lending.project
    with begun(project, "--citest") as (run, _):
        assert ACCOUNT not in project.devenv("export", "compose").stdout
        assert end(run) == 0


def test_a_component_that_had_this_name_before_is_kept(project: Project) -> None:
    project.configure("profile: database\n")
    project.devenv("up")
    project.devenv("exec", "mysql", "mysql", "-e", f"CREATE DATABASE {ACCOUNT}")
    (path,) = project.state.glob("environments/*/record.json")
    record = json.loads(path.read_text())
    record["provisioned"][f"mysql/{ACCOUNT}"] = "as an older devenv has noted it"
    path.write_text(json.dumps(record))
    assert f"kept the data of {ACCOUNT}" in project.devenv("up").stderr
    assert accounts(project, "mysql") == [ACCOUNT]


@only_mysql
@pytest.mark.parametrize("later", [("up",), ("run", "--", "true"), ("gc",), ("run", "--citest", "--", "true")])
def test_the_account_of_a_killed_run_goes_with_the_next_command(lending: Lending, later: tuple[str, ...]) -> None:
    project = lending.project
    with begun(project, "--citest") as (run, _):
        os.kill(run.pid, signal.SIGKILL)
    assert accounts(project, "mysql") == [ACCOUNT, ACCOUNT]
    project.devenv(*later)
    assert accounts(project, "mysql") == []


def test_a_snapshot_of_meanwhile_brings_no_account_back(lending: Lending) -> None:
    project, database = lending
    with begun(project, "--citest", database) as (run, _):
        project.devenv("snapshot", "save", "meanwhile")
        assert end(run) == 0
    project.devenv("snapshot", "restore", "meanwhile")
    project.devenv("up")
    assert accounts(project, database) == []
    project.devenv("snapshot", "rm", "meanwhile")


def test_devenv_yaml_can_ask_for_it_in_ci_too_and_needs_no_database_then(project: Project) -> None:
    project.configure("profile: base\nservices: {rabbitmq: false}\ncitest: true\n")
    project.devenv("up", "mysql", "etcd")
    script = f"echo ${{{VARIABLE}-none}}"
    for command in (["run"], ["ci"], ["ci", "--citest"]):
        seen = project.devenv(*command, "mysql", "--", "sh", "-c", script).stdout
        assert f"{ACCOUNT}:{ACCOUNT}@" in seen and seen.strip().endswith(";sqlite://")
    assert project.devenv("run", "etcd", "--", "sh", "-c", script).stdout.strip() == "none"


# ---- where it is -------------------------------------------------------------------------------------------------


def test_a_port_that_suites_do_not_know_is_told_with_how_to_pin_it(project: Project) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    project.configure(f"profile: database\nservices: {{mysql: {{ports: {{sql: {port}}}}}}}\n")
    told = project.devenv("run", "--citest", "--", "true").stderr
    assert (
        f"mysql has port {port}, and suites with a login in their code use 3306: "
        "pin it with 'services: {mysql: {ports: {sql: 3306}}}'"
    ) in told


def test_a_pinned_port_that_is_taken_is_told_before_the_command_runs(project: Project) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        project.configure(f"profile: database\nservices: {{mysql: {{ports: {{sql: {port}}}}}}}\n")
        done = project.devenv("run", "--citest", "--", "echo", "ran", check=False)
    assert "ran" not in done.stdout
    one_clear_line(done, 7, f"127.0.0.1:{port}")


# ---- what cannot be ----------------------------------------------------------------------------------------------


def test_a_run_without_a_database_is_refused_before_anything_starts(project: Project) -> None:
    project.configure("profile: coordination\n")
    done = project.devenv("run", "--citest", "--", "echo", "ran", check=False)
    assert not done.stdout
    why = f"cannot lend {ACCOUNT}: no database is among the run's services (etcd)"
    one_clear_line(done, 3, why, "name one after --citest: ")


@only_mysql
@pytest.mark.parametrize(
    ("made", "what"),
    [
        (f"CREATE USER {ACCOUNT} IDENTIFIED BY 'x'", "an account"),
        (
            f"CREATE DATABASE {ACCOUNT}; CREATE TABLE {ACCOUNT}.kept (a INT)",
            "a database with 1 tables",
        ),
    ],
)
def test_what_the_project_made_itself_is_neither_used_nor_lost(lending: Lending, made: str, what: str) -> None:
    project = lending.project
    project.devenv("exec", "mysql", "mysql", "-e", made)
    before = accounts(project, "mysql")
    done = project.devenv("run", "--citest", "--", "echo", "ran", check=False)
    assert "ran" not in done.stdout
    why = f"cannot lend {ACCOUNT} in mysql: it has {what} of that name that devenv did not create"
    one_clear_line(done, 7, why, "devenv exec mysql")
    project.devenv("gc")
    assert accounts(project, "mysql") == before
    gone = f"DROP USER IF EXISTS {ACCOUNT}; DROP DATABASE IF EXISTS {ACCOUNT}"
    project.devenv("exec", "mysql", "mysql", "-e", gone)


@only_mysql
def test_a_tox_ini_that_hides_the_databases_is_told(lending: Lending) -> None:
    (lending.project.folder / "tox.ini").write_text(f"[testenv]\nsetenv =\n  {VARIABLE}=sqlite://\n")
    told = f"tox.ini sets {VARIABLE} itself, and so hides devenv's from the tests"
    tox = str(Path(sys.executable).with_name("tox"))
    for command in ("run", "ci"):
        assert told not in lending.project.devenv(command, "--citest", "--", "true").stderr
        assert told in lending.project.devenv(command, "--citest", "--", tox, "--version").stderr
    (lending.project.folder / "tox.ini").unlink()


def test_a_component_cannot_have_its_name(project: Project) -> None:
    project.configure("components: [openstack_citest]\n")
    done = project.devenv("plan", check=False)
    one_clear_line(done, 3, f"cannot name a component '{ACCOUNT}'")


# ---- pytest ------------------------------------------------------------------------------------------------------


@only_mysql
def test_a_pytest_run_takes_it_away_even_if_others_go_on_using_the_environment(lending: Lending) -> None:
    project = lending.project
    (project.folder / "test_suite.py").write_text(
        "import os, pytest\n"
        f"def test_one(): assert '{ACCOUNT}' in os.environ['{VARIABLE}']\n"
        "@pytest.mark.devenv(profile='coordination')\n"
        "def test_two(devenv_component): assert devenv_component.env['ETCD_ENDPOINTS']\n"
    )
    with begun(project) as (run, _):
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--devenv-citest"]
        done = subprocess.run(
            command, cwd=project.folder, env=project.environ, capture_output=True, text=True, check=False
        )
        assert "2 passed" in done.stdout, done.stdout + done.stderr
        assert accounts(project, "mysql") == []
        assert end(run) == 0


@only_mysql
@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["one process", "two workers"])
def test_a_pytest_run_has_the_account_before_its_first_test(lending: Lending, workers: list[str]) -> None:
    project = lending.project
    (project.folder / "test_suite.py").write_text(
        "import os, pymysql\n"
        "def check():\n"
        f"    first, last = os.environ['{VARIABLE}'].split(';')\n"
        "    assert last == 'sqlite://'\n"
        "    port = int(first.rstrip('/').rpartition(':')[2])\n"
        f"    pymysql.connect(host='127.0.0.1', port=port, user='{ACCOUNT}', password='{ACCOUNT}').close()\n"
        "def test_one(): check()\n"
        "def test_two(): check()\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--devenv-citest", *workers]
    done = subprocess.run(command, cwd=project.folder, env=project.environ, capture_output=True, text=True, check=False)
    assert "2 passed" in done.stdout, done.stdout + done.stderr
    assert accounts(project, "mysql") == []


def test_a_project_that_asks_for_it_gets_it_with_its_first_service(project: Project, tmp_path: Path) -> None:
    project.configure("profile: database\ncitest: true\n")
    project.devenv("up")
    (project.folder / "test_suite.py").write_text(
        "import os\n"
        "def test_one(devenv):\n"
        "    assert devenv.service('mysql')\n"
        f"    assert os.environ['{VARIABLE}'].endswith(';sqlite://')\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=project.folder, env=project.environ, capture_output=True, text=True, check=False)
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    assert accounts(project, "mysql") == []
