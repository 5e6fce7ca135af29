"""Check what must hold of an environment whatever went wrong before. Checks yield one line for each failure."""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import amqp
import docker
import psycopg2
import pymysql
import requests
from requests import Session

from devenv.images.snapshot import Snapshot
from devenv.wiring.formats import from_dotenv
from tests.integration.project import Completed, Project, snapshot_images

_LABEL = "io.devenv.environment"
_SECONDS = 10


# ---- what a command says -------------------------------------------------------------------------------------------


def one_clear_line(done: Completed) -> Iterator[str]:
    """Check that a command works, or says in one line what it cannot do, and nothing of its insides."""
    said = done.stdout + done.stderr
    if "Traceback" in said:
        yield f"a traceback: {said[-2000:]}"
    elif done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("cannot ")]
        if len(lines) != 1 or done.returncode not in range(1, 8):
            yield f"exit code {done.returncode} and {len(lines)} lines that begin with 'cannot': {done.stderr[-2000:]}"


def clear_report(done: Completed) -> Iterator[str]:
    """Check that a test run reports all tests, with a line of devenv for those that could not have their services."""
    said = done.stdout + done.stderr
    if "Traceback" in said or "INTERNALERROR" in said:
        yield f"a traceback: {said[-3000:]}"
    elif done.returncode not in (0, 1) or (done.returncode == 1 and "cannot " not in said):
        yield f"exit code {done.returncode}: {said[-3000:]}"


# ---- what is on the engine -------------------------------------------------------------------------------------------


def objects(client: docker.DockerClient, identity: str) -> dict[str, Mapping[str, Any]]:
    """Return all that the engine has of an environment, by its label or its name, in words."""
    name = f"devenv-{identity}"
    listed = {
        "container": client.api.containers(all=True),
        "network": client.api.networks(),
        "volume": client.api.volumes()["Volumes"] or [],
    }
    found: dict[str, Mapping[str, Any]] = {}
    for kind, things in listed.items():
        for thing in things:
            names = [one.lstrip("/") for one in thing.get("Names") or [thing.get("Name", "")]]
            ours = (thing.get("Labels") or {}).get(_LABEL) == identity or any(one.startswith(name) for one in names)
            if ours:
                found[f"{kind} {names[0]}"] = thing
    return found


def mounted(found: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """Return the volumes, also anonymous ones, that containers among these have."""
    return {m["Name"] for thing in found.values() for m in thing.get("Mounts") or () if m["Type"] == "volume"}


def one_of_each(found: Mapping[str, Mapping[str, Any]], services: Sequence[str]) -> Iterator[str]:
    """Check for one running container of each service, one network, and no volume without a container."""
    containers = [thing for what, thing in found.items() if what.startswith("container ")]
    there = sorted(thing["Labels"].get("io.devenv.service", "") for thing in containers)
    if there != [*services]:
        yield f"containers of {', '.join(there) or 'nothing'}"
    yield from (f"{c['Names'][0]} is {c['State']}, {c['Status']}" for c in containers if c["State"] != "running")
    yield from (f"{c['Names'][0]} is paused" for c in containers if "(Paused)" in c["Status"])
    if (networks := sum(what.startswith("network ") for what in found)) != 1:
        yield f"{networks} networks"
    strangers = {what.removeprefix("volume ") for what in found if what.startswith("volume ")} - mounted(found)
    yield from (f"volume {name} belongs to nothing" for name in sorted(strangers))


def nothing(client: docker.DockerClient, identity: str, volumes: Collection[str] = ()) -> Iterator[str]:
    """Check that nothing of the environment is left, and none of these volumes, whatever its name."""
    yield from (f"{what} is left" for what in objects(client, identity))
    if volumes:
        there = {volume["Name"] for volume in client.api.volumes()["Volumes"] or []}
        yield from (f"volume {name} is left" for name in sorted(there & {*volumes}))


def whole_snapshots(snapshots: Sequence[Snapshot], client: docker.DockerClient, identity: str) -> Iterator[str]:
    """Check that every snapshot has all of its data, and that all data belong to a snapshot."""
    named = {image for snapshot in snapshots for image in snapshot.images}
    there = snapshot_images(client, identity)
    yield from (f"image {tag} is missing" for tag in named - there)
    yield from (f"image {tag} belongs to no snapshot" for tag in there - named)


def sweep(client: docker.DockerClient, identity: str) -> None:
    """Remove what is left, so that the next case begins with nothing."""
    for what in sorted(objects(client, identity)):  # containers, networks, volumes
        kind, _, name = what.partition(" ")
        if kind == "container":
            client.api.remove_container(name, v=True, force=True)
        elif kind == "network":
            client.api.remove_network(name)
        else:
            client.api.remove_volume(name, force=True)
    for tag in snapshot_images(client, identity):
        client.api.remove_image(tag)


# ---- credentials and data ------------------------------------------------------------------------------------------


def logins(project: Project) -> Iterator[str]:
    """Check that services accept the logins in the files: the administrator's, and each component's."""
    folder = project.folder / ".devenv"
    for path in (folder / "env", *sorted(folder.glob("*.env"))):
        values = from_dotenv(path.read_text())
        for what, check in _LOGINS.items():
            if what in values:
                try:
                    check(values)
                except (pymysql.MySQLError, psycopg2.Error, amqp.AMQPError, OSError) as error:
                    yield f"{path.name}: {what} does not log in: {error}"


def connect(url: str) -> Any:
    """Log in to the database of a URL; leaving the context of the result closes the connection."""
    at = urlsplit(url)
    login = {"user": at.username, "password": unquote(at.password or ""), "database": at.path.lstrip("/")}
    common = {"host": at.hostname, "port": at.port or 0, "connect_timeout": _SECONDS, **login}
    if at.scheme.startswith("mysql"):
        return pymysql.connect(autocommit=True, **common)
    connection = psycopg2.connect(**common)
    connection.autocommit = True
    return closing(connection)


def _sql(url: str) -> None:
    with connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def _amqp(url: str) -> None:
    at = urlsplit(url)
    with amqp.Connection(
        f"{at.hostname}:{at.port}", at.username, at.password, virtual_host=at.path[1:], connect_timeout=_SECONDS
    ) as connection:
        connection.channel().queue_declare("", exclusive=True)


def http(method: str, url: str, body: object = None, **more: Any) -> requests.Response:
    with Session() as session:
        session.trust_env = False
        answer = session.request(method, url, json=body, timeout=_SECONDS, **more)
        answer.raise_for_status()
        return answer


def etcd(values: Mapping[str, str], path: str, body: Mapping[str, object]) -> Any:
    """Return etcd's answer to the administrator or the component with these variables."""
    url = values.get("ETCD_ENDPOINTS") or values["DEVENV_ETCD_URL"]
    headers = {}
    if login := values.get("ETCDCTL_USER"):  # With `auth: true`.
        name, _, password = login.partition(":")
        answer = http("POST", f"{url}/v3/auth/authenticate", {"name": name, "password": password})
        headers["Authorization"] = answer.json()["token"]
    return http("POST", f"{url}/v3/{path}", body, headers=headers).json()


def keystone_token(values: Mapping[str, str]) -> str:
    domain = {"id": values["OS_USER_DOMAIN_ID"]}
    user = {"name": values["OS_USERNAME"], "password": values["OS_PASSWORD"], "domain": domain}
    scope = {"project": {"name": values["OS_PROJECT_NAME"], "domain": domain}}
    body = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}}
    return http("POST", f"{values['OS_AUTH_URL']}/auth/tokens", body).headers["X-Subject-Token"]


_LOGINS = {
    "DEVENV_MYSQL_URL": lambda values: _sql(values["DEVENV_MYSQL_URL"]),
    "DEVENV_MARIADB_URL": lambda values: _sql(values["DEVENV_MARIADB_URL"]),
    "DEVENV_POSTGRESQL_URL": lambda values: _sql(values["DEVENV_POSTGRESQL_URL"]),
    "DATABASE_URL": lambda values: _sql(values["DATABASE_URL"]),
    "DEVENV_RABBITMQ_URL": lambda values: _amqp(values["DEVENV_RABBITMQ_URL"]),
    "AMQP_URL": lambda values: _amqp(values["AMQP_URL"]),
    "DEVENV_ETCD_URL": lambda values: key(values, "/"),
    "ETCD_ENDPOINTS": lambda values: key(values, values["ETCD_PREFIX"]),
    "OS_AUTH_URL": keystone_token,
}


def key(values: Mapping[str, str], name: str) -> str:
    """Return what etcd has at a key, or an empty text."""
    found = etcd(values, "kv/range", {"key": coded(name)}).get("kvs")
    return decoded(found[0]["value"]) if found else ""


def put_marks(folder: Path, mark: str) -> None:
    """Put a word into the component's part of each service."""
    values = _component(folder)
    with connect(values["DATABASE_URL"]) as connection, connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS mark")
        cursor.execute("CREATE TABLE mark SELECT %s AS word", [mark])
    etcd(values, "kv/put", {"key": coded(f"{values['ETCD_PREFIX']}mark"), "value": coded(mark)})


def marks(folder: Path) -> dict[str, str]:
    """Return the words that the component's parts hold, by service; an empty one for a part without a word."""
    values = _component(folder)
    found = {"etcd": key(values, f"{values['ETCD_PREFIX']}mark")}
    if url := values.get("DATABASE_URL"):
        with connect(url) as connection, connection.cursor() as cursor:
            found["mysql"] = ""
            if cursor.execute("SHOW TABLES LIKE 'mark'"):
                cursor.execute("SELECT word FROM mark")
                found["mysql"] = "".join(row[0] for row in cursor.fetchall())
    return found


def tests_components(project: Project) -> Iterator[str]:
    """Check that nothing is left of what a test had in MySQL."""
    values = from_dotenv((project.folder / ".devenv" / "env").read_text())
    if url := values.get("DEVENV_MYSQL_URL"):
        with connect(url) as connection, connection.cursor() as cursor:
            cursor.execute("SHOW DATABASES LIKE 'test%'")
            yield from (f"database {name} is left" for (name,) in cursor.fetchall())
            cursor.execute("SELECT user FROM mysql.user WHERE user LIKE 'test%'")
            yield from (f"database user {name} is left" for (name,) in cursor.fetchall())


def data(project: Project, allowed: Collection[str]) -> Iterator[str]:
    """Check that all services hold the same word, one of these."""
    found = marks(project.folder)
    if allowed and (len({*found.values()}) > 1 or not {*found.values()} <= {*allowed}):
        yield f"the data is {found}, not {' or '.join(map(repr, allowed))}"


def _component(folder: Path) -> dict[str, str]:
    return from_dotenv((folder / ".devenv" / "nova.env").read_text())


def coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def decoded(text: str) -> str:
    return base64.b64decode(text).decode()
