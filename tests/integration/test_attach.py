"""Servers that somebody else runs: devenv waits, makes and drops components' parts, and touches nothing else."""

from __future__ import annotations

import json
import secrets
import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing

import docker
import psycopg2
import pymysql
import pytest
import requests
from project import Project, new_project, one_clear_line, ours, plan_of
from servers import PASSWORD, Server, started
from suites import outcome, pytest_run, write

from devenv.services.base import Provisioner, Target
from devenv.services.lookup import load_probe

# Nobody listens there: what needs an engine fails.
NO_ENGINE = {"DOCKER_HOST": "unix:///nowhere/docker.sock"}
SERVICES = ("mysql", "mariadb", "postgresql", "rabbitmq", "etcd")
NOVA = "services: {keystone: false}\ncomponents: [nova]\n"
MYSQL_ALONE = "services: {rabbitmq: false, etcd: false, keystone: false}\ncomponents: [nova]\n"


@pytest.fixture(scope="session")
def outside(client: docker.DockerClient) -> Iterator[dict[str, Server]]:
    """Start one server of each kind; yield them by service. MySQL answers, since each test looks at it afterwards."""
    with ExitStack() as stack:
        servers = {name: stack.enter_context(started(client, name)) for name in SERVICES}
        servers["mysql"].wait_for("SELECT i FROM theirs.kept")
        yield servers


@pytest.fixture
def attached(project: Project, outside: dict[str, Server]) -> Project:
    """Attach all servers to a project with the component nova, where no engine answers."""
    project.configure(NOVA)
    project.extra = dict(NO_ENGINE)
    for server in outside.values():
        project.extra |= server.variables
    return project


@pytest.fixture
def on_mysql(project: Project, outside: dict[str, Server]) -> Project:
    """Attach MySQL alone to a project with the component nova."""
    project.configure(MYSQL_ALONE)
    project.extra = {**NO_ENGINE, **outside["mysql"].variables}
    return project


@pytest.fixture(autouse=True)
def _unharmed(outside: dict[str, Server]) -> Iterator[None]:
    """Check that no test has left anything in MySQL, and that what is not devenv's is as it was."""
    yield
    found = outside["mysql"].sql("SHOW DATABASES").split()
    assert {name for name in found if name not in ("mysql", "sys", "performance_schema", "information_schema")} == {
        "theirs"
    }
    assert outside["mysql"].sql("SELECT i FROM theirs.kept").strip() == "7"
    assert "nova" not in outside["mysql"].sql("SELECT user FROM mysql.user")


def databases(project: Project) -> list[str]:
    """Return what nova sees in the MySQL that its file names, logged in as nova."""
    env = project.json("env", "--component", "nova")
    login = {key: env[f"DEVENV_MYSQL_{key.upper()}"] for key in ("host", "user", "password", "database")}
    with pymysql.connect(**login, port=int(env["DEVENV_MYSQL_PORT"])) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW DATABASES")
        return [name for (name,) in cursor.fetchall()]


def log_in_as_nova(project: Project, service: str) -> None:
    """Use nova's part of a service, with nova's own login."""
    prefix = f"DEVENV_{service.upper()}_"
    env = {key.removeprefix(prefix).lower(): value for key, value in project.json("env", "--component", "nova").items()}
    if service == "postgresql":  # What its probe asks for, only an administrator may have.
        with closing(psycopg2.connect(env["url"].replace("+psycopg2", ""))):
            return
    target = Target(env["host"], int(env["port"]), env["url"], env, service)
    load_probe({"rabbitmq": "amqp"}.get(service, service))(target)


def catalog_of(project: Project) -> list[str]:
    """Return the types of services in the catalog that Keystone shows nova, logged in by the variables for it."""
    env = project.json("env", "--component", "nova")
    domain = {"id": "default"}
    user = {"name": env["OS_USERNAME"], "password": env["OS_PASSWORD"], "domain": domain}
    scope = {"project": {"name": env["OS_PROJECT_NAME"], "domain": domain}}
    body = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}}
    answer = requests.post(f"{env['OS_AUTH_URL']}/auth/tokens", json=body, timeout=30)
    answer.raise_for_status()
    return [service["type"] for service in answer.json()["token"]["catalog"]]


# ---- a life without an engine --------------------------------------------------------------------------------------


def test_components_of_attached_services_live_and_go_where_no_engine_answers(attached: Project) -> None:
    attached.devenv("wait")
    plan = plan_of(attached)
    assert {(action, target.partition("/")[2]) for action, target, _ in plan} == {("provision", "nova")}
    attached.devenv("up")
    found = attached.json("status")["services"]
    assert {(name, one["state"], one["container"]) for name, one in found.items()} == {
        (name, "ready", "") for name in SERVICES
    }
    table = attached.devenv("status").stdout.splitlines()[1:]
    assert [line.split()[1] for line in table] == ["attached"] * len(SERVICES)
    assert "nova" in databases(attached)
    (own := attached.folder / "nova.conf").write_text("[DEFAULT]\n")
    attached.devenv("wire", "nova", "nova.conf")
    options = own.read_text()
    assert "mysql+pymysql://nova:" in options and "transport_url = rabbit://nova:" in options
    attached.devenv("unwire")
    assert own.read_text() == "[DEFAULT]\n"
    # The second `up` only makes sure that components can log in.
    assert {action for action, _, _ in plan_of(attached)} == {"log in"}
    attached.devenv("up", "--drop")
    told = attached.devenv("down").stderr
    for name in SERVICES:
        assert f"{name} at " in told
    assert "dropped nova there" in told
    attached.devenv("down", "--volumes")
    assert not list((attached.state / "environments").glob("*/record.json"))
    assert not (attached.folder / ".devenv").exists()


def test_an_administrators_password_is_in_no_report_and_in_no_file_that_others_read(attached: Project) -> None:
    said = ""
    for command in (["plan"], ["up"], ["status"], ["status", "--format", "json"], ["plan", "--format", "json"]):
        done = attached.devenv("--debug", *command)
        said += done.stdout + done.stderr
    assert PASSWORD not in said
    assert "adm%2Bin" not in said
    files = [path for path in [*attached.state.rglob("*"), *attached.folder.rglob("*")] if path.is_file()]
    holding = [path for path in files if any(word in path.read_text() for word in (PASSWORD, "adm%2Bin"))]
    assert "attached.json" in {path.name for path in holding}
    assert all(path.stat().st_mode & 0o077 == 0 for path in holding)
    attached.devenv("down", "--volumes")


def test_a_run_and_a_ci_leave_nothing_in_attached_services(attached: Project) -> None:
    attached.configure("services: {keystone: false}\n")
    shown = attached.process("run", "--", "env").stdout
    assert "DATABASE_URL=mysql://run_" in shown
    assert "PIFPAF_RABBITMQ_URL=rabbit://run-" in shown
    attached.process("ci", "--", "true")
    assert not list((attached.state / "environments").glob("*/record.json"))


@pytest.mark.long
def test_parallel_tests_of_pytest_each_have_a_component_of_an_attached_service(on_mysql: Project) -> None:
    on_mysql.configure("services: {rabbitmq: false, etcd: false, keystone: false}\n")
    write(
        on_mysql,
        "test_all.py",
        """
        import pymysql

        @pytest.mark.parametrize("number", range(8))
        def test_a_table(devenv_component, number):
            service = devenv_component.service("mysql")
            env = service.env
            login = {key: env[f"DEVENV_MYSQL_{key.upper()}"] for key in ("host", "user", "password", "database")}
            with pymysql.connect(port=service.endpoint.port, **login) as connection:
                assert connection.cursor().execute("SHOW TABLES") == 0
                connection.cursor().execute("CREATE TABLE t (a INT)")
        """,
    )
    outcome(pytest_run(on_mysql, "-n", "2"), passed=8)


@pytest.mark.long
def test_an_attached_server_has_the_account_of_openstacks_suites_for_a_run(
    on_mysql: Project, outside: dict[str, Server]
) -> None:
    on_mysql.configure("services: {rabbitmq: false, etcd: false, keystone: false}\n")
    shown = on_mysql.process("run", "--citest", "mysql", "--", "env").stdout
    assert "OS_TEST_DBAPI_ADMIN_CONNECTION=mysql+pymysql://openstack_citest:openstack_citest@127.0.0.1" in shown
    assert "openstack_citest" not in outside["mysql"].sql("SELECT user FROM mysql.user")
    outside["mysql"].sql("CREATE USER openstack_citest")
    refused = on_mysql.devenv("run", "--citest", "mysql", "--", "true", check=False)
    one_clear_line(refused, 7, "cannot lend openstack_citest in mysql", "another job may use it now")
    outside["mysql"].sql("DROP USER openstack_citest")


@pytest.mark.long
def test_a_component_of_an_etcd_with_logins_has_one_that_goes_with_it(
    project: Project, client: docker.DockerClient
) -> None:
    project.configure("profile: coordination\ncomponents: [nova]\n")
    with started(client, "etcd") as server:
        project.extra = {**NO_ENGINE, **server.variables}
        project.devenv("wait")
        for command in ("user add root:rootpw", "user grant-role root root", "auth enable"):
            server.run("etcdctl", *command.split())
        one_clear_line(project.devenv("wait", check=False), 5, "user name is empty")
        url = f"http://root:rootpw@127.0.0.1:{server.ports[2379]}"
        project.extra["DEVENV_ATTACH_ETCD"] = url
        project.devenv("up")
        login = project.json("env", "--component", "nova")["ETCDCTL_USER"]
        server.run("etcdctl", f"--user={login}", "put", "/nova/key", "value")
        project.devenv("down", "--volumes")
        users = server.run("etcdctl", "--user=root:rootpw", "user", "list")
        assert users.split() == ["root"]


def test_no_tool_is_told_to_run_an_attached_service(on_mysql: Project) -> None:
    refused = on_mysql.devenv("export", "compose", check=False)
    one_clear_line(refused, 3, "cannot export to compose: somebody else runs mysql")


# ---- beside services that devenv runs ------------------------------------------------------------------------------


@pytest.mark.long
def test_services_that_devenv_runs_stand_beside_an_attached_one(on_mysql: Project, client: docker.DockerClient) -> None:
    on_mysql.configure("services: {rabbitmq: false, keystone: false}\ncomponents: [nova]\n")
    del on_mysql.extra["DOCKER_HOST"]
    on_mysql.devenv("up")
    assert [name.rpartition("-")[2] for name in ours(client, on_mysql.id)["containers"]] == ["etcd"]
    refused = on_mysql.devenv("reset", check=False)
    one_clear_line(refused, 3, "cannot reset mysql: somebody else runs it")
    on_mysql.devenv("reset", "etcd")
    on_mysql.devenv("reset", "--component", "nova")
    on_mysql.devenv("stop")
    on_mysql.devenv("start")
    assert "nova" in databases(on_mysql)
    on_mysql.devenv("down", "--volumes")
    assert ours(client, on_mysql.id) == {"containers": [], "networks": [], "volumes": []}


@pytest.mark.long
def test_keystone_gets_what_service_users_need_and_has_it_no_more_after_down(
    project: Project, running: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = running.env()
    project.extra = dict(NO_ENGINE)
    for variable, key in (("", "URL"), ("_USER", "USER"), ("_PASSWORD", "PASSWORD")):
        project.extra[f"DEVENV_ATTACH_KEYSTONE{variable}"] = env[f"DEVENV_KEYSTONE_{key}"]
    catalog = "{nova: {catalog: {type: compute, url: 'http://127.0.0.1:8774/v2.1'}}}"
    project.configure(f"services: {{mysql: false, rabbitmq: false, etcd: false}}\ncomponents: {catalog}\n")
    assert [action for action, _, _ in plan_of(project)] == ["prepare", "provision"]
    project.devenv("up")
    assert "compute" in catalog_of(project)
    again = new_project(project.folder.parent, "again")
    again.extra, text = project.extra, (project.folder / "devenv.yaml").read_text()
    again.configure(text)
    one_clear_line(again.devenv("up", check=False), 7, "it has an account of that name that devenv did not make")
    with monkeypatch.context() as patch:
        # The other job has looked before this one made anything.
        patch.setattr(Provisioner, "found", lambda *_: "")
        one_clear_line(again.devenv("up", check=False), 7, "somebody else has made an account of that name meanwhile")
    assert "compute" in catalog_of(project)
    again.devenv("down", "--volumes")
    project.devenv("down", "--volumes")
    assert "release keystone" not in project.devenv("plan").stdout


def test_keystone_does_not_run_on_a_database_that_its_container_cannot_reach(on_mysql: Project) -> None:
    on_mysql.configure("services: {rabbitmq: false, etcd: false}\n")
    del on_mysql.extra["DOCKER_HOST"]
    one_clear_line(on_mysql.devenv("up", check=False), 3, "cannot run keystone on mysql://127.0.0.1")
    # MySQL alone can be used all the same, and the component of the run goes.
    assert "dropped" not in on_mysql.devenv("run", "mysql", "--", "true").stderr


@pytest.mark.long
def test_keystone_runs_on_a_database_by_an_address_of_this_host_that_containers_reach(
    project: Project, client: docker.DockerClient
) -> None:
    project.configure("services: {rabbitmq: false, etcd: false}\ncomponents: [nova]\n")
    network = client.networks.create(f"test-attached-{secrets.token_hex(4)}")
    try:
        network.reload()
        with started(client, "mysql", address=network.attrs["IPAM"]["Config"][0]["Gateway"]) as server:
            project.extra = dict(server.variables)
            project.devenv("up")
            assert catalog_of(project) == ["identity"]
            assert {"keystone", "nova"} <= {*server.sql("SHOW DATABASES").split()}
            project.devenv("down", "--volumes")
            assert not {"keystone", "nova"} & {*server.sql("SHOW DATABASES").split()}
    finally:
        network.remove()


# ---- what is not devenv's ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", ["CREATE DATABASE nova", "CREATE USER nova@localhost"])
def test_a_database_or_account_that_exists_is_neither_used_nor_dropped(
    on_mysql: Project, outside: dict[str, Server], there: str
) -> None:
    outside["mysql"].sql(there)
    refused = on_mysql.devenv("up", check=False)
    one_clear_line(refused, 7, "of component nova in mysql", "that devenv did not make")
    on_mysql.devenv("down", "--volumes")
    # It is still there to be dropped.
    outside["mysql"].sql(there.replace("CREATE", "DROP"))


def test_one_environment_alone_has_a_prefix_of_an_etcd_that_asks_for_no_login(
    project: Project, outside: dict[str, Server]
) -> None:
    project.configure("profile: coordination\ncomponents: [nova]\n")
    project.extra = {**NO_ENGINE, **outside["etcd"].variables}
    etcd = outside["etcd"]
    # While no key is there, nothing else tells.
    project.devenv("up")
    refused = project.devenv("--env", "second", "up", check=False)
    one_clear_line(refused, 7, "of component nova in etcd", "it has another environment's prefix")
    etcd.run("etcdctl", "put", "/nova/key", "kept")
    project.devenv("--env", "second", "down", "--volumes")
    assert etcd.run("etcdctl", "get", "/nova/key").split() == ["/nova/key", "kept"]
    project.devenv("up")
    project.devenv("down", "--volumes")
    assert etcd.run("etcdctl", "get", "", "--prefix") == ""


def test_of_two_jobs_that_want_a_name_at_the_same_moment_one_gets_it_and_keeps_it(
    attached: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    attached.devenv("up")
    with monkeypatch.context() as patch:
        # The second job has looked before the first one made anything.
        patch.setattr(Provisioner, "found", lambda *_: "")
        refused = attached.devenv("--env", "second", "up", check=False)
    one_clear_line(refused, 7, "cannot create the database of component nova")
    assert refused.stderr.count("meanwhile") >= len(SERVICES), refused.stderr
    assert "dropped" not in attached.devenv("--env", "second", "down", "--volumes").stderr
    for service in SERVICES:
        log_in_as_nova(attached, service)
    assert "dropped nova there" in attached.devenv("down", "--volumes").stderr


@pytest.mark.parametrize("command", [["up"], *(pytest.param([c], marks=pytest.mark.long) for c in ("down", "gc"))])
def test_what_a_killed_devenv_made_there_goes(
    on_mysql: Project, outside: dict[str, Server], command: list[str]
) -> None:
    with on_mysql.begin("run", "--", "sh", "-c", "echo running >&2; sleep 600") as run:
        assert run.stderr
        assert any("running" in line for line in run.stderr)
        run.send_signal(signal.SIGKILL)
        run.stderr.close()
    assert "run_" in outside["mysql"].sql("SHOW DATABASES")
    on_mysql.devenv(*command)
    assert "run_" not in outside["mysql"].sql("SHOW DATABASES")
    on_mysql.devenv("down", "--volumes")


def test_down_needs_neither_devenv_yaml_nor_the_variables(on_mysql: Project) -> None:
    on_mysql.devenv("up")
    on_mysql.configure("services: [\n")
    on_mysql.extra = dict(NO_ENGINE)
    assert "dropped nova there" in on_mysql.devenv("down", "--volumes").stderr


@pytest.mark.long
def test_what_devenv_made_in_a_server_that_is_gone_can_be_abandoned(
    on_mysql: Project, client: docker.DockerClient
) -> None:
    with started(client, "mysql") as gone:
        on_mysql.extra |= gone.variables
        on_mysql.devenv("up")
    refused = on_mysql.devenv("down", "--volumes", check=False)
    one_clear_line(refused, 5, "cannot reach mysql at", "left undone there: drop nova", "devenv down --abandon")
    assert "left in mysql" in on_mysql.devenv("down", "--volumes", "--abandon").stderr
    assert not list((on_mysql.state / "environments").glob("*/record.json"))


@pytest.mark.long
def test_another_server_takes_over_only_after_down(
    on_mysql: Project, outside: dict[str, Server], client: docker.DockerClient
) -> None:
    on_mysql.devenv("up")
    first = on_mysql.extra["DEVENV_ATTACH_MYSQL"]
    with started(client, "mysql") as other:
        on_mysql.extra |= other.variables
        one_clear_line(on_mysql.devenv("up", check=False), 3, "cannot attach mysql", "this environment has it attached")
        del on_mysql.extra["DEVENV_ATTACH_MYSQL"]
        on_mysql.extra.pop("DOCKER_HOST")
        one_clear_line(on_mysql.devenv("up", check=False), 3, "cannot run mysql: this environment has it attached")
        on_mysql.devenv("down")
        on_mysql.extra |= {**NO_ENGINE, **other.variables}
        on_mysql.devenv("up")
        assert "nova" in other.sql("SHOW DATABASES")
        on_mysql.devenv("down", "--volumes")
    assert first


# ---- what a server refuses -----------------------------------------------------------------------------------------


def attach(project: Project, login: str, port: int) -> None:
    project.extra["DEVENV_ATTACH_MYSQL"] = f"mysql://{login}@127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("login", "port", "code", "words"),
    [
        ("boss:wrong", None, 5, ["Access denied for user 'boss'"]),
        ("reader:reader", None, 5, ["cannot create the database of component nova", "WITH GRANT OPTION"]),
        ("boss:wrong", 1, 6, ["connection refused"]),
    ],
)
def test_a_server_that_does_not_help_is_one_clear_line(
    on_mysql: Project, outside: dict[str, Server], login: str, port: int | None, code: int, words: list[str]
) -> None:
    attach(on_mysql, login, port or outside["mysql"].ports[3306])
    refused = on_mysql.devenv("up", "--wait-timeout", "6", check=False)
    one_clear_line(refused, code, *words)
    assert "wrong" not in refused.stderr
    record = next((on_mysql.state / "environments").glob("*/record.json"))
    assert json.loads(record.read_text())["provisioned"] == {}
    on_mysql.devenv("down", "--volumes")


@pytest.mark.long
def test_an_older_server_is_refused_by_its_version(project: Project, client: docker.DockerClient) -> None:
    project.configure("database: mariadb\n" + MYSQL_ALONE)
    with started(client, "mariadb", "--version=10.3.39-MariaDB") as server:
        project.extra = {**NO_ENGINE, **server.variables}
        refused = project.devenv("up", check=False)
        one_clear_line(refused, 5, "its version is 10.3.39-MariaDB, and devenv needs 10.5 or newer")
        project.devenv("down", "--volumes")


@pytest.mark.parametrize(
    "command",
    [
        *(["stop"], ["start"], ["restart"], ["logs"], ["reset"]),
        *(["exec", "mysql", "true"], ["mysql", "-e", "SELECT 1"]),
    ],
)
def test_what_needs_a_container_is_refused_for_an_attached_service(on_mysql: Project, command: list[str]) -> None:
    on_mysql.devenv("up")
    command = [*command, "mysql"] if len(command) == 1 else command
    one_clear_line(on_mysql.devenv(*command, check=False), 3, "mysql", "somebody else runs it")
    on_mysql.devenv("down", "--volumes")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("snapshot save a", "cannot save mysql"),
        ("snapshot restore a", "cannot restore mysql"),
        ("images build --golden mysql", "cannot keep a golden state of mysql"),
        ("images push --golden localhost:1 mysql", "cannot keep a golden state of mysql"),
    ],
)
def test_states_of_attached_services_are_refused(on_mysql: Project, command: str, words: str) -> None:
    on_mysql.devenv("wait")
    one_clear_line(on_mysql.devenv(*command.split(), check=False), 3, f"{words}: somebody else runs it")


# ---- what comes with a clone ---------------------------------------------------------------------------------------


def test_an_address_that_a_clone_names_needs_trust_and_the_callers_own_needs_none(on_mysql: Project) -> None:
    own = on_mysql.extra.pop("DEVENV_ATTACH_MYSQL")
    text = "services:\n  rabbitmq: false\n  etcd: false\n  keystone: false\n  mysql: {attach: '%s'}\n"
    on_mysql.configure(text % "mysql://root:secret@db.invalid:3306")
    for command in (["up"], ["status"], ["wait"], ["run", "--", "true"]):
        one_clear_line(on_mysql.devenv(*command, check=False), 3, "cannot use address db.invalid:3306", "trust")
    on_mysql.extra["DEVENV_ATTACH_MYSQL"] = own
    on_mysql.devenv("wait")
    del on_mysql.extra["DEVENV_ATTACH_MYSQL"]
    on_mysql.configure(text % "${env:DB}")
    one_clear_line(on_mysql.devenv("wait", check=False), 3, "attach is ${env:DB}, and this variable is not set")
    on_mysql.extra["DB"] = own
    on_mysql.devenv("wait")
    on_mysql.configure(text % own)  # on the loopback address
    on_mysql.devenv("wait")
    on_mysql.configure(text % "mysql://root:secret@db.invalid:3306", trusted=True)
    one_clear_line(on_mysql.devenv("wait", "--wait-timeout", "1", check=False), 6, "cannot use mysql at mysql://db.inv")
