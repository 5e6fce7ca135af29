"""PostgreSQL in place of MySQL: what components get, what its provisioner mends, and how the server starts and ends."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import docker
import psycopg2
import pytest
import requests
from project import Project, new_project, one_clear_line, plan_of, remove

from devenv.errors import NotReady, ServiceFailed
from devenv.services import base, postgresql
from devenv.services.base import Component, Refused, Target
from devenv.services.postgresql import PostgreSQL

ODD = "a\"b'c%s; -- é"


@pytest.fixture(scope="module")
def on_postgresql(images: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """Start PostgreSQL and a Keystone that uses it, with two components."""
    scratch = new_project(tmp_path_factory.mktemp("postgresql"), "postgresql")
    scratch.configure("profile: identity\ndatabase: postgresql\ncomponents: [nova, my-service]\n")
    scratch.devenv("up")
    yield scratch
    remove(scratch)


def variables(project: Project, component: str = "") -> dict[str, str]:
    return dict(project.json("env", *(("--component", component) if component else ())))


def connect(values: dict[str, str], **other: str) -> Any:
    names = {"host": "HOST", "port": "PORT", "user": "USER", "password": "PASSWORD", "dbname": "DATABASE"}
    login = {key: values[f"DEVENV_POSTGRESQL_{name}"] for key, name in names.items()}
    connection = psycopg2.connect(**login | other)
    connection.autocommit = True
    return closing(connection)


def ask(values: dict[str, str], *statements: str, **other: str) -> list[tuple[Any, ...]]:
    """Execute statements; return the rows of the last one."""
    with connect(values, **other) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        return list(cursor.fetchall()) if cursor.description else []


def psql(project: Project, statement: str) -> str:
    return project.devenv("exec", "postgresql", "psql", "-qAtc", statement).stdout.strip()


@pytest.fixture
def work(on_postgresql: Project) -> PostgreSQL:
    """Return the provisioner of the running server."""
    values = variables(on_postgresql)
    names = ("user", "password", "database")
    settings = {name: values[f"DEVENV_POSTGRESQL_{name.upper()}"] for name in names}
    return PostgreSQL(Target("127.0.0.1", int(values["DEVENV_POSTGRESQL_PORT"]), "", settings, "postgresql"))


@pytest.fixture
def made(work: PostgreSQL) -> Iterator[Callable[..., Component]]:
    """Yield a function that creates a component, which the test need not drop."""
    there: list[Component] = []

    def make(name: str, **more: str) -> Component:
        settings = {"user": name, "password": f"{name}'s own", "database": name, **more}
        there.append(Component("scratch", settings))
        work.ensure(there[-1])
        return there[-1]

    yield make
    for component in there:
        work.drop(component)


def as_component(on_postgresql: Project, component: Component) -> dict[str, str]:
    settings = {f"DEVENV_POSTGRESQL_{key.upper()}": value for key, value in component.settings.items()}
    return variables(on_postgresql) | settings


# ---- components --------------------------------------------------------------------------------------------------


def test_a_component_can_do_everything_in_its_database_and_nothing_elsewhere(on_postgresql: Project) -> None:
    for name in ("nova", "my-service"):
        values = variables(on_postgresql, name)
        identifier = name.replace("-", "_")
        assert ask(values, "SELECT current_user, current_database()") == [(identifier, identifier)]
        ask(values, "CREATE TABLE t (i INT)", "CREATE SCHEMA s", "CREATE EXTENSION pgcrypto", "DROP SCHEMA s")
        ask(values, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public", "CREATE TEMP TABLE t (i INT)")
        for statement in ("CREATE DATABASE other", "CREATE ROLE other", "SELECT * FROM pg_authid"):
            with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                ask(values, statement)
        for other in {"nova", "my_service", "keystone", "devenv", "postgres", "template1"} - {identifier}:
            with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
                ask(values, dbname=other)


def test_text_and_times_are_as_openstack_expects_them(on_postgresql: Project) -> None:
    names = "server_encoding, timezone, lc_collate, upper"
    query = "SELECT current_setting('server_encoding'), current_setting('timezone'), datcollate, upper('é') "
    (row,) = ask(variables(on_postgresql, "nova"), query + "FROM pg_database WHERE datname = current_database()")
    assert dict(zip(names.split(", "), row, strict=True)) == {
        "server_encoding": "UTF8",
        "timezone": "UTC",
        "lc_collate": "C",
        "upper": "É",
    }


def test_keystone_serves_from_it(on_postgresql: Project) -> None:
    values = variables(on_postgresql, "nova")
    domain = {"id": "default"}
    user = {"name": values["OS_USERNAME"], "domain": domain, "password": values["OS_PASSWORD"]}
    body = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}}}
    assert requests.post(f"{values['OS_AUTH_URL']}/auth/tokens", json=body, timeout=30).status_code == 201
    assert ask(variables(on_postgresql), "SELECT name FROM local_user WHERE name = 'nova'", dbname="keystone") == [
        ("nova",)
    ]
    assert "Traceback" not in on_postgresql.devenv("logs", "keystone").stdout


def test_the_client_in_the_container_needs_no_options(on_postgresql: Project) -> None:
    assert psql(on_postgresql, "SELECT current_user, current_database()") == "devenv|devenv"
    assert "CREATE TABLE" in on_postgresql.devenv("exec", "postgresql", "pg_dump", "--schema-only", "keystone").stdout


def test_one_component_is_reset_and_the_others_keep_what_they_have(on_postgresql: Project) -> None:
    for name in ("nova", "my-service"):
        ask(variables(on_postgresql, name), "CREATE SCHEMA reset_me")
    on_postgresql.devenv("reset", "--component", "nova")
    query = "SELECT count(*) FROM pg_namespace WHERE nspname = 'reset_me'"
    assert ask(variables(on_postgresql, "nova"), query) == [(0,)]
    assert ask(variables(on_postgresql, "my-service"), query, "DROP SCHEMA reset_me", query) == [(0,)]


# ---- the provisioner ---------------------------------------------------------------------------------------------


def test_what_was_changed_behind_devenvs_back_is_mended(
    on_postgresql: Project, work: PostgreSQL, made: Callable[..., Component]
) -> None:
    component = made("changed")
    values = as_component(on_postgresql, component)
    ask(values, "CREATE TABLE kept (i INT)")
    ask(
        variables(on_postgresql),
        "ALTER ROLE changed NOLOGIN CREATEDB PASSWORD 'another' CONNECTION LIMIT 0 VALID UNTIL '2001-01-01'",
        "GRANT nova TO changed",
        "GRANT CONNECT ON DATABASE nova TO changed",
        "ALTER DATABASE changed OWNER TO devenv",
        "ALTER DATABASE changed ALLOW_CONNECTIONS false CONNECTION LIMIT 0",
        "GRANT ALL ON DATABASE changed TO PUBLIC",
    )
    work.ensure(component)
    assert ask(values, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'") == [("kept",)]
    ask(values, "CREATE SCHEMA mine")
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        ask(values, "CREATE DATABASE other")
    for user, database in ((values, "nova"), (variables(on_postgresql, "nova"), "changed")):
        with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
            ask(user, dbname=database)


def test_any_name_is_only_a_name(on_postgresql: Project, work: PostgreSQL, made: Callable[..., Component]) -> None:
    component = made(ODD, password="p'\"\\%s")
    values = as_component(on_postgresql, component)
    work.ensure(component)
    assert ask(values, "CREATE TABLE t (i INT)", "SELECT current_database()") == [(ODD,)]
    work.drop(component)
    assert ask(variables(on_postgresql), "SELECT 1 FROM pg_database WHERE datname NOT LIKE '_%'") == []
    work.drop(component)


def test_a_drop_ends_connections_and_takes_all_that_the_role_owns(
    on_postgresql: Project, work: PostgreSQL, made: Callable[..., Component]
) -> None:
    component = made("going")
    admin = variables(on_postgresql)
    with connect(as_component(on_postgresql, component)) as open_one, open_one.cursor() as cursor:
        open_one.autocommit = False
        cursor.execute("CREATE TABLE t (i INT)")
        ask(
            admin,
            "CREATE DATABASE going_too OWNER going",
            "GRANT CREATE ON DATABASE nova TO going",
            "CREATE TABLE left_behind (i INT)",
            "ALTER TABLE left_behind OWNER TO going",
        )
        ask(admin, "CREATE SCHEMA going AUTHORIZATION going", dbname="postgres")
        work.drop(component)
        with pytest.raises(psycopg2.OperationalError):
            cursor.execute("SELECT 1")
    assert ask(admin, "SELECT datname FROM pg_database WHERE datname LIKE 'going%'") == []
    assert ask(admin, "SELECT rolname FROM pg_roles WHERE rolname = 'going'") == []


def test_a_database_that_a_killed_server_half_dropped_is_created_again(
    on_postgresql: Project, work: PostgreSQL, made: Callable[..., Component]
) -> None:
    component = made("halved")
    ask(variables(on_postgresql), "UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'halved'")
    with pytest.raises(psycopg2.OperationalError, match="cannot connect to invalid database"):
        ask(as_component(on_postgresql, component))
    work.ensure(component)
    assert ask(as_component(on_postgresql, component), "SELECT current_database()") == [("halved",)]


def test_many_threads_create_and_drop_at_the_same_time(on_postgresql: Project, work: PostgreSQL) -> None:
    many = [Component(f"m{n}", {"user": f"m{n}", "password": "p", "database": f"m{n}"}) for n in range(64)]
    names = {component.name for component in many}
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(work.ensure, many))
        made = {row[0] for row in ask(variables(on_postgresql), "SELECT datname FROM pg_database")}
        list(pool.map(work.drop, many))
    left = {row[0] for row in ask(variables(on_postgresql), "SELECT datname FROM pg_database")}
    assert made & names == names and not left & names


def test_a_refusal_is_in_the_servers_words_and_no_password_reaches_its_log(
    on_postgresql: Project, work: PostgreSQL, made: Callable[..., Component]
) -> None:
    component = made("refused")
    ask(variables(on_postgresql), "ALTER DATABASE refused IS_TEMPLATE true")
    with pytest.raises(ServiceFailed, match=r"cannot remove the database .*: cannot drop a template database"):
        work.drop(component)
    ask(variables(on_postgresql), "ALTER DATABASE refused IS_TEMPLATE false")
    canary = uuid.uuid4().hex
    with pytest.raises(ServiceFailed, match=r"cannot create the database .*: role name .*reserved"):
        work.ensure(Component("scratch", {"user": "pg_own", "password": canary, "database": "refused"}))
    assert canary not in on_postgresql.devenv("logs", "postgresql").stdout
    with pytest.raises(psycopg2.errors.UndefinedTable):
        ask(variables(on_postgresql), f'SELECT * FROM "{canary}"')
    assert re.search(f'ERROR: .*"{canary}" does not exist', on_postgresql.devenv("logs", "postgresql").stdout)


def test_a_server_that_stands_still_is_not_waited_for_forever(
    on_postgresql: Project, work: PostgreSQL, client: docker.DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "PROBE_CONNECT_SECONDS", 0.1)
    monkeypatch.setattr(postgresql, "ANSWER_SECONDS", 0.1)
    container = client.containers.get(f"devenv-{on_postgresql.id}-postgresql")
    try:
        with pytest.raises(Refused, match=r"^no answer in time$"), work._session() as execute:
            container.pause()
            execute("SELECT 1")
        with pytest.raises(NotReady, match=r"^no answer in time$"):
            postgresql.check(work.target)
    finally:
        container.unpause()
    postgresql.check(work.target)


def test_a_server_that_takes_no_writes_is_told(on_postgresql: Project) -> None:
    admin = variables(on_postgresql)
    ask(admin, "ALTER ROLE ALL SET default_transaction_read_only = on")
    try:
        with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
            ask(variables(on_postgresql, "nova"), "CREATE TABLE never (i INT)")
        assert on_postgresql.reason("postgresql") == "takes no writes: default_transaction_read_only is on"
    finally:
        ask(admin, "SET default_transaction_read_only = off", "ALTER ROLE ALL RESET default_transaction_read_only")
    assert on_postgresql.reason("postgresql") == ""


@pytest.mark.long
def test_as_many_clients_as_the_server_promises_work_at_the_same_time(on_postgresql: Project) -> None:
    nova, held = variables(on_postgresql, "nova"), []
    limits = "current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int"
    ((promised,),) = ask(nova, f"SELECT {limits}")
    with ExitStack() as stack:
        with pytest.raises(psycopg2.OperationalError, match="remaining connection slots are reserved"):
            for _ in range(promised + 1):
                held.append(stack.enter_context(connect(nova)))
        for connection in held:
            with connection.cursor() as cursor:
                cursor.execute("SELECT count(*) FROM pg_class, generate_series(1, 10)")
        told = on_postgresql.reason("postgresql")
        assert told == f"takes no more clients: all {promised} connections that are not reserved are in use"
    assert len(held) > promised - 20  # Keystone has some.


def test_nobody_logs_in_without_a_password(on_postgresql: Project) -> None:
    values = variables(on_postgresql)
    tried = [(user, password) for user in ("devenv", "postgres", "root", "nobody", "nova") for password in ("", user)]
    for user, password in [*tried, ("postgres", values["DEVENV_POSTGRESQL_PASSWORD"])]:
        with pytest.raises(psycopg2.OperationalError, match=r"no password supplied|password authentication failed"):
            ask(values, user=user, password=password)
        inside = f"host=/tmp dbname=devenv user={user} password='{password}'"
        done = on_postgresql.devenv("exec", "postgresql", "psql", "-wc", "SELECT 1", inside, check=False)
        assert done.returncode == 2 and "password" in done.stderr
    roles = ask(values, "SELECT rolname FROM pg_roles WHERE rolcanlogin")
    assert {role for (role,) in roles} == {"devenv", "keystone", "nova", "my_service"}


# ---- the server --------------------------------------------------------------------------------------------------


def test_what_is_left_behind_in_the_container_does_not_disturb_the_server(on_postgresql: Project) -> None:
    # It waits until its parent is gone, so that process 1 inherits it, and then fails.
    orphan = "while [ -e /proc/$0 ]; do :; done; echo $$ > /tmp/orphan; exit 3"
    ended = "until [ -s /tmp/orphan ]; do :; done; read id < /tmp/orphan; while [ -e /proc/$id ]; do :; done"
    with connect(variables(on_postgresql)) as connection, connection.cursor() as cursor:
        on_postgresql.devenv("exec", "postgresql", "sh", "-c", f"sh -c '{orphan}' $$ > /dev/null 2>&1 &")
        on_postgresql.devenv("exec", "postgresql", "sh", "-c", ended)
        cursor.execute("SELECT 1")
        assert cursor.fetchall() == [(1,)]


def test_it_stops_without_waiting_for_connections(on_postgresql: Project, client: docker.DockerClient) -> None:
    with connect(variables(on_postgresql)):
        on_postgresql.devenv("stop", "postgresql")
    container = client.containers.get(f"devenv-{on_postgresql.id}-postgresql")
    assert container.attrs["State"]["ExitCode"] == 0
    assert "received fast shutdown request" in on_postgresql.devenv("logs", "postgresql").stdout
    on_postgresql.devenv("start", "postgresql")
    assert plan_of(on_postgresql) == []


def test_killed_it_keeps_what_it_has_committed(on_postgresql: Project, client: docker.DockerClient) -> None:
    values = variables(on_postgresql, "nova")
    with connect(values) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE committed (i INT)")
        for number in range(200):
            cursor.execute("INSERT INTO committed VALUES (%s)", [number])
        client.containers.get(f"devenv-{on_postgresql.id}-postgresql").kill()
    on_postgresql.devenv("up")
    assert ask(values, "SELECT count(*) FROM committed") == [(200,)]


def test_a_lost_password_and_a_lost_database_of_devenvs_own_come_back_with_a_start(on_postgresql: Project) -> None:
    ask(variables(on_postgresql), "DROP DATABASE devenv", "ALTER ROLE devenv PASSWORD 'another'", dbname="postgres")
    on_postgresql.devenv("restart", "postgresql")
    assert ask(variables(on_postgresql), "SELECT current_database()") == [("devenv",)]
    # The roles of components keep their passwords.
    assert ask(variables(on_postgresql, "nova"), "SELECT current_user") == [("nova",)]


def test_a_snapshot_brings_back_what_was_there_with_all_logins(project: Project) -> None:
    project.configure("profile: database\ndatabase: postgresql\ncomponents: [nova]\n")
    project.devenv("up")
    before = variables(project, "nova")
    ask(before, "CREATE TABLE early (i INT)")
    project.devenv("snapshot", "save", "one")
    ask(before, "CREATE TABLE late (i INT)")
    project.devenv("down", "--volumes")
    project.devenv("snapshot", "restore", "one")
    after = variables(project, "nova")
    assert after["DEVENV_POSTGRESQL_PASSWORD"] == before["DEVENV_POSTGRESQL_PASSWORD"]
    assert ask(after, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'") == [("early",)]
    project.devenv("snapshot", "rm", "one")


def test_data_of_another_version_is_told_in_one_line(project: Project, client: docker.DockerClient) -> None:
    project.configure("profile: database\ndatabase: postgresql\n")
    project.devenv("up")
    project.devenv("exec", "postgresql", "sh", "-c", "echo 9 > /srv/postgresql/data/db/PG_VERSION")
    done = project.devenv("restart", check=False)
    one_clear_line(done, 5, "cannot use postgresql: its container exited 1")
    assert re.search(
        r"the data: PostgreSQL 9 wrote it, and this is PostgreSQL \d+; 'devenv reset postgresql'", done.stderr
    )
    project.devenv("reset", "postgresql")
    assert psql(project, "SELECT 1") == "1"


def test_an_image_of_the_official_ones_shape_works(
    project: Project, client: docker.DockerClient, tmp_path: Path
) -> None:
    # Another number of the user, nothing of devenv's folder, and a volume of its own below /var/lib/postgresql.
    project.configure("profile: database\ndatabase: postgresql\n")
    image = next(i for i in project.json("images", "list") if i["service"] == "postgresql")["reference"]
    (tmp_path / "Dockerfile").write_text(
        f"FROM {image}\nUSER root\n"
        "RUN sed -i 's/^postgres:x:[0-9]*:/postgres:x:12345:/' /etc/passwd && rm -rf /srv/postgresql"
        " && install -d -o 12345 -m 1777 /var/lib/postgresql/data\n"
        "ENV PGDATA=/var/lib/postgresql/data POSTGRES_PASSWORD=\n"
        "VOLUME /var/lib/postgresql/data\nSTOPSIGNAL SIGINT\n"
        'ENTRYPOINT ["docker-entrypoint.sh"]\nCMD ["postgres"]\n'
    )
    tag = f"devenv-test/{uuid.uuid4().hex}:official-shape"
    client.images.build(path=str(tmp_path), tag=tag, rm=True, forcerm=True)
    try:
        project.configure(
            f"profile: database\ndatabase: postgresql\nservices: {{postgresql: {{image: '{tag}'}}}}\n", True
        )
        project.devenv("up")
        assert psql(project, "CREATE TABLE kept (i INT); SELECT 1") == "1"
        project.devenv("down")
        project.devenv("up")
        assert psql(project, "SELECT count(*) FROM kept") == "0"
        project.devenv("down", "--volumes")
    finally:
        client.images.remove(tag, force=True)
