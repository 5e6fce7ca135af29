"""What must hold of an environment whatever went wrong before: each check says what does not, one line for each."""

from __future__ import annotations

import base64
import json
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import docker
import pymysql
import requests
from requests import Session

from devenv.snapshot import Snapshot
from devenv.wiring import from_dotenv
from tests.integration.project import Completed, Project

_LABEL = "io.devenv.environment"
_SECONDS = 10
# Only to be locked: they hold a process's number or nothing.
_LOCKS = ("lock", "users", "ports.lock")


# ---- what a command says -------------------------------------------------------------------------------------------


def one_clear_line(done: Completed) -> Iterator[str]:
    """A command works, or says in one line what it cannot do, and nothing of its insides."""
    said = done.stdout + done.stderr
    if "Traceback" in said:
        yield f"a traceback: {said[-2000:]}"
    elif done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("cannot ")]
        if len(lines) != 1 or done.returncode not in range(1, 8):
            yield f"exit code {done.returncode} and {len(lines)} lines that begin with 'cannot': {done.stderr[-2000:]}"


def clear_report(done: Completed) -> Iterator[str]:
    """A test run ends with all tests reported, those that could not have their services in a line of devenv's."""
    said = done.stdout + done.stderr
    if "Traceback" in said or "INTERNALERROR" in said:
        yield f"a traceback: {said[-3000:]}"
    elif done.returncode not in (0, 1) or (done.returncode == 1 and "cannot " not in said):
        yield f"exit code {done.returncode}: {said[-3000:]}"


# ---- files -----------------------------------------------------------------------------------------------------------


def whole_files(project: Project, identity: str) -> Iterator[str]:
    """Every JSON file can be read as such, and nobody else may read a file or look into a folder."""
    for path in _files(project, identity):
        if path.suffix == ".json" and not path.name.startswith("."):
            try:
                json.loads(path.read_text())
            except ValueError as error:
                yield f"{path.name} is half-written: {error}"
        if path.name not in _LOCKS and stat.S_IMODE(path.stat().st_mode) & 0o077:
            yield f"others can read {path}"


def no_leftovers(project: Project, identity: str) -> Iterator[str]:
    """No file is there that was to replace another one."""
    yield from (f"{path} was left" for path in _files(project, identity) if path.name.endswith(".new"))


def _files(project: Project, identity: str) -> Iterator[Path]:
    for folder in (project.folder / ".devenv", _state(project, identity)):
        if folder.exists():
            yield folder
            yield from folder.rglob("*")


def _state(project: Project, identity: str) -> Path:
    return project.state / "environments" / identity


# ---- what is on the engine -------------------------------------------------------------------------------------------


def objects(client: docker.DockerClient, identity: str) -> dict[str, Mapping[str, Any]]:
    """All that the engine has of an environment, by its label or its name, in words."""
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


def snapshot_images(client: docker.DockerClient, identity: str) -> set[str]:
    """The images that hold, or were to hold, data of an environment."""
    tags = (tag for image in client.api.images() for tag in image["RepoTags"] or ())
    return {tag for tag in tags if tag.startswith(f"devenv/snapshot:{identity}-")}


def mounted(found: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """The volumes, anonymous ones too, that containers among these have."""
    return {m["Name"] for thing in found.values() for m in thing.get("Mounts") or () if m["Type"] == "volume"}


def one_of_each(found: Mapping[str, Mapping[str, Any]], services: Sequence[str]) -> Iterator[str]:
    """One container of each service, which runs, one network, and no volume that no container has."""
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
    """Nothing of the environment, and none of these volumes, whatever it is called."""
    yield from (f"{what} is left" for what in objects(client, identity))
    if volumes:
        there = {volume["Name"] for volume in client.api.volumes()["Volumes"] or []}
        yield from (f"volume {name} is left" for name in sorted(there & {*volumes}))
    yield from (f"image {tag} is left" for tag in snapshot_images(client, identity))


def whole_snapshots(snapshots: Sequence[Snapshot], client: docker.DockerClient, identity: str) -> Iterator[str]:
    """Every snapshot has all of its data, and there is no data that belongs to none."""
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


def logins(project: Project, identity: str) -> Iterator[str]:
    """What the files say is what the services take: of the administrator, and of each component."""
    folder = project.folder / ".devenv"
    known = set(json.loads((_state(project, identity) / "secrets.json").read_text()).values())
    for path in (folder / "env", *sorted(folder.glob("*.env"))):
        values = from_dotenv(path.read_text())
        for what, check in _LOGINS.items():
            if what in values:
                try:
                    check(values)
                except (pymysql.MySQLError, requests.RequestException, OSError) as error:
                    yield f"{path.name}: {what} does not log in: {error}"
        yield from (f"{path.name}: {n} is in no secrets.json" for n, v in values.items() if _foreign(n, v, known))


def _foreign(name: str, value: str, known: set[str]) -> bool:
    return name.endswith("PASSWORD") and value not in known


def connect(url: str) -> pymysql.connections.Connection[Any]:
    at = urlsplit(url)
    login = {"user": at.username, "password": unquote(at.password or ""), "database": at.path.lstrip("/")}
    return pymysql.connect(host=at.hostname, port=at.port or 0, connect_timeout=_SECONDS, autocommit=True, **login)


def _mysql(url: str) -> None:
    with connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def _amqp(url: str) -> None:
    import amqp

    at = urlsplit(url)
    with amqp.Connection(
        f"{at.hostname}:{at.port}", at.username, at.password, virtual_host=at.path[1:], connect_timeout=_SECONDS
    ) as connection:
        connection.channel().queue_declare("", exclusive=True)


def http(method: str, url: str, body: object) -> Any:
    with Session() as session:
        session.trust_env = False
        answer = session.request(method, url, json=body, timeout=_SECONDS)
        answer.raise_for_status()
        return answer.json()


def _keystone(values: Mapping[str, str]) -> None:
    domain = {"id": values["OS_USER_DOMAIN_ID"]}
    user = {"name": values["OS_USERNAME"], "password": values["OS_PASSWORD"], "domain": domain}
    scope = {"project": {"name": values["OS_PROJECT_NAME"], "domain": domain}}
    body = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}}
    http("POST", f"{values['OS_AUTH_URL']}/auth/tokens", body)


_LOGINS = {
    "DEVENV_MYSQL_URL": lambda values: _mysql(values["DEVENV_MYSQL_URL"]),
    "DATABASE_URL": lambda values: _mysql(values["DATABASE_URL"]),
    "DEVENV_RABBITMQ_URL": lambda values: _amqp(values["DEVENV_RABBITMQ_URL"]),
    "AMQP_URL": lambda values: _amqp(values["AMQP_URL"]),
    "DEVENV_ETCD_URL": lambda values: key(values["DEVENV_ETCD_URL"], "/"),
    "ETCD_ENDPOINTS": lambda values: key(values["ETCD_ENDPOINTS"], values["ETCD_PREFIX"]),
    "OS_AUTH_URL": _keystone,
}


def key(url: str, name: str) -> str:
    """What etcd has at a key, or an empty text."""
    found = http("POST", f"{url}/v3/kv/range", {"key": _coded(name)}).get("kvs")
    return base64.b64decode(found[0]["value"]).decode() if found else ""


def put_marks(folder: Path, mark: str) -> None:
    """Have the component's part of each service hold a word."""
    values = _component(folder)
    with connect(values["DATABASE_URL"]) as connection, connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS mark")
        cursor.execute("CREATE TABLE mark SELECT %s AS word", [mark])
    body = {"key": _coded(f"{values['ETCD_PREFIX']}mark"), "value": _coded(mark)}
    http("POST", f"{values['ETCD_ENDPOINTS']}/v3/kv/put", body)


def marks(folder: Path) -> dict[str, str]:
    """The words that the component's parts hold, by service; an empty one where there is none."""
    values = _component(folder)
    found = {"etcd": key(values["ETCD_ENDPOINTS"], f"{values['ETCD_PREFIX']}mark")}
    if url := values.get("DATABASE_URL"):
        with connect(url) as connection, connection.cursor() as cursor:
            found["mysql"] = ""
            if cursor.execute("SHOW TABLES LIKE 'mark'"):
                cursor.execute("SELECT word FROM mark")
                found["mysql"] = "".join(row[0] for row in cursor.fetchall())
    return found


def tests_components(project: Project) -> Iterator[str]:
    """Nothing is left of what a test had in MySQL."""
    values = from_dotenv((project.folder / ".devenv" / "env").read_text())
    if url := values.get("DEVENV_MYSQL_URL"):
        with connect(url) as connection, connection.cursor() as cursor:
            cursor.execute("SHOW DATABASES LIKE 'test%'")
            yield from (f"database {name} is left" for (name,) in cursor.fetchall())
            cursor.execute("SELECT user FROM mysql.user WHERE user LIKE 'test%'")
            yield from (f"database user {name} is left" for (name,) in cursor.fetchall())


def data(project: Project, allowed: Collection[str]) -> Iterator[str]:
    """All services hold the same word, one of these."""
    found = marks(project.folder)
    if allowed and (len({*found.values()}) > 1 or not {*found.values()} <= {*allowed}):
        yield f"the data is {found}, not {' or '.join(map(repr, allowed))}"


def _component(folder: Path) -> dict[str, str]:
    return from_dotenv((folder / ".devenv" / "nova.env").read_text())


def _coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
