"""Jobs with services beside them, run as GitHub and GitLab lay them out: devenv attaches to the services."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml
from project import Project
from sidecars import Bench, Job, github_services, gitlab_services, make_bench, run_github, run_gitlab

from tests.pages import steps

# The project's own tests: real clients of each service, with what devenv wires.
TESTS = """\
import os
import shutil
from pathlib import Path

import amqp
import pymysql
from oslo_config import cfg


def test_no_engine_is_here():
    assert not shutil.which("docker") and not Path("/var/run/docker.sock").exists()


def test_the_component_uses_its_parts():
    env = os.environ
    database = pymysql.connect(
        host=env["DEVENV_MYSQL_HOST"], port=int(env["DEVENV_MYSQL_PORT"]), user=env["DEVENV_MYSQL_USER"],
        password=env["DEVENV_MYSQL_PASSWORD"], database=env["DEVENV_MYSQL_DATABASE"],
    )
    with database, database.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS words (word VARCHAR(9))")
        cursor.execute("SHOW DATABASES")
        seen = {name for name, in cursor.fetchall()} - {"information_schema", "performance_schema"}
    assert seen == {env["DEVENV_MYSQL_DATABASE"]}
    broker = f"{env['DEVENV_RABBITMQ_HOST']}:{env['DEVENV_RABBITMQ_PORT']}"
    login = env["DEVENV_RABBITMQ_USER"], env["DEVENV_RABBITMQ_PASSWORD"]
    with amqp.Connection(broker, *login, virtual_host=env["DEVENV_RABBITMQ_VHOST"]) as connection:
        connection.channel().queue_declare("words")
    assert env["ETCD_ENDPOINTS"] == env["DEVENV_ETCD_URL"]


def test_oslo_config_reads_the_same():
    conf = cfg.ConfigOpts()
    conf.register_opts([cfg.StrOpt("connection")], "database")
    conf.register_opts([cfg.StrOpt("transport_url")])
    conf([], default_config_files=[os.environ["DEVENV_OSLO_CONF"]])
    assert conf.database.connection == os.environ["DEVENV_MYSQL_URL"]
    assert conf.transport_url == os.environ["DEVENV_RABBITMQ_URL"]


def test_it_fails_if_it_is_told_to():
    assert "FAIL" not in os.environ
"""


ONLY_ETCD = """\
import os
import urllib.request


def test_the_server_answers():
    assert os.environ["DEVENV_ETCD_PREFIX"] == "/nova/"
    assert b"true" in urllib.request.urlopen(os.environ["DEVENV_ETCD_URL"] + "/health").read()
"""
ONLY_DATABASE = """\
import os
from importlib import import_module
from urllib.parse import urlsplit


def test_the_component_may_create_tables():
    url = urlsplit(os.environ["DATABASE_URL"])
    login = {"host": url.hostname, "user": url.username, "password": url.password, "database": url.path.strip("/")}
    driver = import_module("pymysql" if url.scheme == "mysql" else "pg8000.dbapi")
    connection = driver.connect(**login)
    connection.cursor().execute("CREATE TABLE words (word VARCHAR(9))")
    connection.close()
"""
NAMES = ("mysql", "rabbitmq", "etcd")


@pytest.fixture(scope="session")
def bench(client: docker.DockerClient, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(client, wheel, tmp_path_factory.mktemp("bench"))


@pytest.fixture
def tested(project: Project, wheel: Path) -> Project:
    """Make a project with tests, requirements and the wheel that its jobs install."""
    project.configure("components: [nova, my-service]\n")
    (project.folder / "tests").mkdir()
    (project.folder / "tests" / "test_it.py").write_text(TESTS)
    (project.folder / "test-requirements.txt").write_text("pytest\noslo.config\n")
    (project.folder / wheel.name).write_bytes(wheel.read_bytes())
    return project


def exported(project: Project, tool: str) -> dict[str, Any]:
    """Export the job with services beside it."""
    (wheel,) = project.folder.glob("*.whl")
    file = yaml.safe_load(project.devenv("export", tool, "--install", f"./{wheel.name}").stdout)
    job: dict[str, Any] = (file["jobs"] if tool == "github" else file)["with-services"]
    return job


def components(place: Job) -> dict[str, list[str]]:
    """Return what a job's servers have beyond what they were started with."""
    mysql = place.inside("mysql", "mysql", "-uroot", "-pno-secret", "-h127.0.0.1", "-Ne", "SHOW DATABASES").split()
    users = "SELECT user FROM mysql.user WHERE user NOT LIKE 'mysql.%'"
    accounts = place.inside("mysql", "mysql", "-uroot", "-pno-secret", "-h127.0.0.1", "-Ne", users).split()
    vhosts = place.inside("rabbitmq", "sh", "-c", "HOME=/tmp/home rabbitmqctl -q list_vhosts --no-table-headers")
    keys = place.inside("etcd", "etcdctl", "get", "--prefix", "--keys-only", "/")
    return {
        "databases": sorted({*mysql} - {"information_schema", "mysql", "performance_schema", "sys"}),
        "accounts": sorted({*accounts} - {"root"}),
        "vhosts": sorted({*vhosts.split()} - {"/"}),
        "keys": keys.split(),
    }


NOTHING: dict[str, list[str]] = {"databases": [], "accounts": [], "vhosts": [], "keys": []}


def checked(place: Job, passed: bool) -> None:
    """Check that a job ended as it should, that devenv kept evidence, and that it left nothing in the servers."""
    assert ("4 passed" if passed else "1 failed, 3 passed") in place.said, place.said
    assert 'tests="4"' in place.read("junit.xml")["junit.xml"]
    status = json.loads(place.read("devenv-artifacts")["devenv-artifacts/status.json"])
    states = {name: one["state"] for name, one in status["services"].items()}
    assert states == {**dict.fromkeys(NAMES, "ready"), "keystone": "absent"}
    assert components(place) == NOTHING


def test_a_job_of_gitlab_attaches_to_its_service_without_an_engine(tested: Project, bench: Bench) -> None:
    tested.configure("profile: coordination\ncomponents: [nova]\n")
    (tested.folder / "tests" / "test_it.py").write_text(ONLY_ETCD)
    job = exported(tested, "gitlab")
    with bench.job(tested.folder, gitlab_services(job)) as place:
        assert run_gitlab(job, place), place.said
        assert "1 passed" in place.said and "section_start" in place.said
        assert place.inside("etcd", "etcdctl", "get", "--prefix", "--keys-only", "/") == ""


@pytest.mark.long
def test_the_job_for_gitlab_uses_its_services_and_leaves_nothing_in_them(tested: Project, bench: Bench) -> None:
    job = exported(tested, "gitlab")
    with bench.job(tested.folder, gitlab_services(job)) as place:
        assert run_gitlab(job, place), place.said
        checked(place, passed=True)
        assert not run_gitlab({**job, "variables": {**job["variables"], "FAIL": "1"}}, place)
        checked(place, passed=False)


@pytest.mark.long
def test_the_job_for_github_uses_the_published_ports_of_its_services(tested: Project, bench: Bench) -> None:
    job = exported(tested, "github")
    with bench.job(tested.folder, github_services(job)) as place:
        assert run_github(job, place), place.said
        checked(place, passed=True)


@pytest.mark.long
def test_a_job_of_github_in_a_container_finds_its_services_by_their_names(tested: Project, bench: Bench) -> None:
    job = exported(tested, "github")
    job["container"] = "python:3.13"
    for name in NAMES:
        variable = f"DEVENV_ATTACH_{name.upper()}"
        job["env"][variable] = job["env"][variable].replace("127.0.0.1", name)
    with bench.job(tested.folder, github_services(job)) as place:
        assert run_github(job, place), place.said
        checked(place, passed=True)


@pytest.mark.long
@pytest.mark.parametrize("tool", ["github", "gitlab"])
def test_a_job_waits_for_a_server_that_comes_late(tested: Project, bench: Bench, tool: str) -> None:
    job = exported(tested, tool)
    services = github_services(job) if tool == "github" else gitlab_services(job)
    with bench.job(tested.folder, services, late=["mysql"]) as place:

        def start(said: str) -> None:
            # The server comes once devenv has seen that the others are ready.
            if "ready etcd" in said and not started:
                started.append(place.containers["mysql"].start())

        started: list[None] = []
        passed = run_github(job, place, start) if tool == "github" else run_gitlab(job, place, start, waits=0)
        assert passed and started, place.said
        checked(place, passed=True)


@pytest.mark.parametrize(
    ("service", "right", "wrong"),
    [
        pytest.param("mysql", "root:no-secret", "root:wrong", marks=pytest.mark.long),
        pytest.param("rabbitmq", "devenv:no-secret", "devenv:wrong", marks=pytest.mark.long),
    ],
)
def test_a_wrong_password_is_one_clear_line(
    tested: Project, bench: Bench, service: str, right: str, wrong: str
) -> None:
    job = exported(tested, "gitlab")
    variable = f"DEVENV_ATTACH_{service.upper()}"
    job["variables"][variable] = job["variables"][variable].replace(right, wrong)
    with bench.job(tested.folder, gitlab_services(job)) as place:
        assert not run_gitlab(job, place)
        (line,) = (line for line in place.said.splitlines() if line.startswith("cannot "))
        assert service in line and "wrong" not in line and "hint: " in place.said
        assert "test session starts" not in place.said
        assert components(place) == NOTHING


@pytest.mark.long
@pytest.mark.parametrize("database", ["mariadb", "postgresql"])
def test_a_job_attaches_to_another_database(tested: Project, bench: Bench, database: str) -> None:
    tested.configure(f"profile: database\ndatabase: {database}\ncomponents: [nova]\n")
    (tested.folder / "tests" / "test_it.py").write_text(ONLY_DATABASE)
    job = exported(tested, "gitlab")
    with bench.job(tested.folder, gitlab_services(job)) as place:
        assert run_gitlab(job, place), place.said
        assert "1 passed" in place.said and "drop nova" in place.said


@pytest.mark.long
@pytest.mark.parametrize("pod", [False, True], ids=["on a network", "in a pod"])
def test_the_job_of_the_docs_works_on_a_network_and_in_a_pod(tested: Project, bench: Bench, pod: bool) -> None:
    text = next(content for file, content in steps(Path("docs/ci.md")) if file == ".gitlab/sidecars.yml")
    (wheel,) = tested.folder.glob("*.whl")
    if pod:
        text = text.replace("@mysql:", "@127.0.0.1:")
    job = yaml.safe_load(text.replace("git+https://git.example.org/devenv@v0.1.0", f"./{wheel.name}"))["tests"]
    tested.configure("profile: database\n")
    (tested.folder / "tests" / "test_it.py").write_text(ONLY_DATABASE)
    with bench.job(tested.folder, gitlab_services(job), pod=pod) as place:
        assert run_gitlab(job, place), place.said
        assert "1 passed" in place.said and "drop nova" in place.said
