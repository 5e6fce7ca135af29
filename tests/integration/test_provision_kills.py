"""Kill devenv after each statement and each request that gives a component its parts, or takes them away."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from databases import DATABASES
from project import Completed, Project, remove

from devenv.lifecycle.environment import Environment
from devenv.names import identifier
from devenv.store.places import environment_id
from devenv.wiring.formats import from_dotenv
from tests.chaos import checks, files

SERVICES = (
    "mysql",
    pytest.param("mariadb", marks=pytest.mark.long),
    pytest.param("postgresql", marks=pytest.mark.long),
    *("rabbitmq", "etcd", "keystone"),
)
# Statements for the names of databases and users, by the variable with the administrator's URL.
NAMES = {
    "DEVENV_MYSQL_URL": "SELECT schema_name FROM information_schema.schemata UNION ALL SELECT user FROM mysql.user",
    "DEVENV_MARIADB_URL": "SELECT schema_name FROM information_schema.schemata UNION ALL SELECT user FROM mysql.user",
    "DEVENV_POSTGRESQL_URL": "SELECT datname FROM pg_database UNION ALL SELECT rolname FROM pg_roles",
}
WHICH = ["some", pytest.param("all", marks=pytest.mark.long)]
# More steps than any command takes.
MANY = 10**6
# The command line, which ends by SIGKILL once a service has taken so many steps for a component. Steps in the other
# services, probes and HTTP reads do not count: a kill after one of them is like a kill after the last step.
KILLED = """
import atexit, os, signal, sys, threading
from pg8000.native import Connection
from pymysql.cursors import Cursor
from devenv.cli import main as cli
from devenv.services.base import Provisioner
from devenv.services.http import HttpProvisioner

service, left = sys.argv.pop(1), int(sys.argv.pop(1))
atexit.register(lambda: print(left, file=sys.stderr))
thread = threading.local()

def noted(act):
    def acting(self, component):
        thread.service = self.target.service
        act(self, component)
        thread.service = ""
    return acting

def counted(send):
    def sending(self, what, *arguments, **more):
        global left
        answer = send(self, what, *arguments, **more)
        # Only here: threads of other services would undo what this one counts.
        if what != "GET" and getattr(thread, "service", "") == service:
            left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer
    return sending

Provisioner.ensure, Provisioner.drop = noted(Provisioner.ensure), noted(Provisioner.drop)
HttpProvisioner._answer = counted(HttpProvisioner._answer)
Cursor.execute, Connection.run = counted(Cursor.execute), counted(Connection.run)
cli.main()
"""


@pytest.fixture(scope="module")
def environments(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Project]]:
    """Bring up all services with this database; etcd gives components users, which takes more steps than a prefix."""
    there: dict[str, Project] = {}

    def brought_up(database: str) -> Project:
        if database not in there:
            # All have the state folder of the first, as each command in this process does.
            there[database] = Project(folder / database, folder / "state")
            there[database].folder.mkdir()
            wanted(there[database])
            up(there[database])
        return there[database]

    folder = tmp_path_factory.mktemp("kills")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DEVENV_STATE_DIR", str(folder / "state"))
        yield brought_up
        for project in there.values():
            remove(project)


@pytest.fixture
def kills(environments: Callable[[str], Project], service: str) -> Project:
    """Return the environment in which the service is."""
    return environments(service if service in DATABASES else "mysql")


def wanted(project: Project, name: str = "") -> None:
    """Write a devenv.yaml that names this component, or none."""
    catalog = f'{{catalog: {{type: {name}, url: "http://127.0.0.1:8774"}}}}'
    component = f"{{{name}: {catalog}}}" if name else "{}"
    database = project.folder.name
    project.configure(f"database: {database}\nservices: {{etcd: {{auth: true}}}}\ncomponents: {component}\n")


def up(project: Project, drop: bool = False) -> None:
    Environment(project.folder).up(drop=drop)


def killed_after(project: Project, service: str, step: int, *arguments: str) -> None:
    """Run the command line, and check that it is killed after this step in this service."""
    done = run(project, service, step, *arguments)
    assert done.returncode == -signal.SIGKILL, f"there is no step {step} in {service}: {done.stderr}"


def steps_of(project: Project, service: str, *arguments: str) -> int:
    """Run the command line to its end; return how many steps it took in this service."""
    done = run(project, service, MANY, *arguments)
    assert done.returncode == 0, done.stderr
    return MANY - int(done.stderr.splitlines()[-1])


def run(project: Project, service: str, step: int, *arguments: str) -> Completed:
    command = [sys.executable, "-c", KILLED, service, str(step), *arguments]
    return subprocess.run(command, cwd=project.folder, env=project.environ, capture_output=True, text=True, check=False)


def chosen(steps: int, which: str) -> list[int]:
    """Return the steps to kill devenv after: all, or the first, one in the middle and the last."""
    assert steps >= 2
    return sorted({1, steps // 2 + 1, steps}) if which == "some" else [*range(1, steps + 1)]


def problems(project: Project) -> list[str]:
    """Return the credentials on disk that do not log in, or that are not in the state folder, too."""
    return [*checks.logins(project), *files.credentials(project, environment_id(project.folder, "default"))]


def fill(project: Project, name: str) -> None:
    """Store something as the component, so that devenv has to take it away with the component."""
    values = from_dotenv((project.folder / ".devenv" / f"{name}.env").read_text())
    with checks.connect(values["DATABASE_URL"]) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS mark (word TEXT)")
    checks.etcd(values, "kv/put", {"key": checks.coded(f"/{name}/mark"), "value": checks.coded("mark")})


def held(project: Project) -> set[str]:
    """Return the names of all that components may have, as the services themselves tell their administrator."""
    admin = from_dotenv((project.folder / ".devenv" / "env").read_text())
    (database,) = {*NAMES} & {*admin}
    with checks.connect(admin[database]) as connection, connection.cursor() as cursor:
        cursor.execute(NAMES[database])
        names = [name for (name,) in cursor.fetchall()]
    login = (admin["DEVENV_RABBITMQ_USER"], admin["DEVENV_RABBITMQ_PASSWORD"])
    management = admin["DEVENV_RABBITMQ_MANAGEMENT_URL"]
    for kind in ("vhosts", "users"):
        names += [one["name"] for one in checks.http("GET", f"{management}/api/{kind}", auth=login).json()]
    every = checks.coded("\0")
    keys = checks.etcd(admin, "kv/range", {"key": every, "range_end": every, "keys_only": True}).get("kvs", [])
    names += [checks.decoded(one["key"]).split("/")[1] for one in keys]
    for kind in ("user", "role"):
        names += checks.etcd(admin, f"auth/{kind}/list", {})[f"{kind}s"]
    token = {"X-Auth-Token": checks.keystone_token(admin)}
    for kind in ("users", "services"):
        listed = checks.http("GET", f"{admin['OS_AUTH_URL']}/{kind}", headers=token).json()[kind]
        names += [one.get("type", one["name"]) for one in listed]
    return {*names}


def held_of(project: Project, *names: str) -> set[str]:
    return held(project) & {*names, *map(identifier, names)}


@pytest.mark.parametrize("which", WHICH)
@pytest.mark.parametrize("service", SERVICES)
def test_a_component_whose_making_was_killed_at_any_step_is_completed(kills: Project, service: str, which: str) -> None:
    names = [f"made-{service}-whole"]
    wanted(kills, names[0])
    for step in chosen(steps_of(kills, service, "up"), which):
        names.append(f"made-{service}-{step}")
        wanted(kills, names[-1])
        killed_after(kills, service, step, "up")
        up(kills)
        assert problems(kills) == [], f"killed after step {step} in {service}"
        fill(kills, names[-1])
    wanted(kills)
    up(kills, drop=True)
    assert held_of(kills, *names) == set()


def ready_to_drop(project: Project, name: str) -> None:
    """Make a complete component that holds something, then remove it from devenv.yaml."""
    wanted(project, name)
    up(project)
    assert problems(project) == []
    fill(project, name)
    wanted(project)


@pytest.mark.parametrize("which", WHICH)
@pytest.mark.parametrize("service", SERVICES)
def test_a_component_whose_dropping_was_killed_at_any_step_goes(kills: Project, service: str, which: str) -> None:
    name = f"gone-{service}"
    ready_to_drop(kills, name)
    for step in chosen(steps_of(kills, service, "up", "--drop"), which):
        ready_to_drop(kills, name)
        killed_after(kills, service, step, "up", "--drop")
        up(kills, drop=True)
        assert held_of(kills, name) == set(), f"killed after step {step} in {service}"


@pytest.mark.long
@pytest.mark.parametrize("service", SERVICES)
def test_a_component_whose_dropping_was_killed_at_any_step_comes_back(kills: Project, service: str) -> None:
    name = f"back-{service}"
    ready_to_drop(kills, name)
    for step in chosen(steps_of(kills, service, "up", "--drop"), "all"):
        ready_to_drop(kills, name)
        killed_after(kills, service, step, "up", "--drop")
    # After the last kill, too, the component comes back before it goes.
    ready_to_drop(kills, name)
    up(kills, drop=True)
    assert held_of(kills, name) == set()
