"""Golden states on the real engine: what the next environment begins with, and what devenv never keeps."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import psycopg2
import pymysql
import pytest
import requests
from project import Project, golden_states, new_project, plan_of, remove, tags

from devenv.engine.image_names import familiar
from devenv.lifecycle.environment import Environment
from devenv.model import Plan, Report

# Seconds after the beginning of the write at which the test kills devenv; the write takes about one.
MOMENTS = [pytest.param([0.0], id="first"), pytest.param([0.2, 0.4, 0.6], id="later", marks=pytest.mark.long)]


def imported(client: docker.DockerClient, golden: set[str], since: float) -> list[str]:
    """Return the images that got the name of one of these golden states after `since`, in seconds since 1970.

    If several got one name, only the last still has it.
    """
    filters = {"type": "image", "event": "tag"}
    events = client.api.events(since=int(since), until=int(time.time()) + 1, filters=filters, decode=True)
    return [event["id"] for event in events if familiar(event["Actor"]["Attributes"]["name"]) in golden]


@pytest.fixture
def golden(client: docker.DockerClient) -> Iterator[set[str]]:
    """Remove the golden states that the test adds to this set: nobody will ever ask for their content again.

    Meanwhile tests in other processes make and remove others.
    """
    own: set[str] = set()
    yield own
    for tag in kept(client, own):
        client.images.remove(tag)


def kept(client: docker.DockerClient, golden: set[str]) -> set[str]:
    """Return those of the golden states that the engine has."""
    return golden & tags(client, "devenv/golden")


def unpacked(client: docker.DockerClient, image: str) -> bytes:
    """Return all that an image holds; some engines keep its layers compressed."""
    archive = io.BytesIO(b"".join(client.images.get(image).save()))
    with tarfile.open(fileobj=archive) as tar:
        found = [content.read() for entry in tar if (content := tar.extractfile(entry))]
    return b"".join(gzip.decompress(one) if one.startswith(b"\x1f\x8b") else one for one in found)


@pytest.fixture
def other(project: Project, tmp_path: Path) -> Iterator[Project]:
    """Make a second project that runs the same sources."""
    scratch = new_project(tmp_path, "other")
    scratch.checkout = project.checkout
    yield scratch
    remove(scratch)


@pytest.fixture
def etcd(checkout: Path, project: Project, golden: set[str]) -> Callable[[], None]:
    """Give etcd, which starts in a moment, a golden state, too; each call of the result makes another content.

    `golden` gets the name of the image that devenv would keep.
    """
    path = checkout / "compose" / "etcd" / "compose.yaml"
    before = path.read_text()

    def change() -> None:
        path.write_text(before.replace("  role: coordination\n", "  role: coordination\n  golden: [data]\n"))
        with (checkout / "compose" / "etcd" / "etcd.yaml").open("a") as stream:
            stream.write(f"# {uuid.uuid4()}\n")
        golden.update(golden_states(project))

    project.configure("profile: coordination\n")
    change()
    return change


def fills(project: Project) -> list[str]:
    """Return the volumes that the next `up` would fill from a golden state."""
    return [target for action, target, cause in plan_of(project) if (action, cause) == ("fill", "golden state")]


def put(project: Project, key: str, value: str) -> None:
    project.devenv("exec", "etcd", "etcdctl", "put", key, value)


def value_of(project: Project, key: str) -> str:
    return project.devenv("exec", "etcd", "etcdctl", "get", "--print-value-only", key).stdout.strip()


def works(project: Project) -> None:
    """Check that etcd keeps a value."""
    put(project, "key", token := uuid.uuid4().hex)
    assert value_of(project, "key") == token


# ---- a database and Keystone: what is shared and what never is ---------------------------------------------------


@dataclass(frozen=True)
class Database:
    """A database with a golden state: its config file, how to log in, and statements for the names that it has.

    `number` is a statement for the server's own id, if it has one that a copy must not share.
    """

    name: str
    config: str
    connect: Callable[..., Any]
    accounts: str
    databases: str
    number: str = ""

    def login(self, env: dict[str, str], user: str, password: str) -> Any:
        port = int(env[f"DEVENV_{self.name.upper()}_PORT"])
        return closing(self.connect(host="127.0.0.1", port=port, user=user, password=password, database=user))

    def denied(self, env: dict[str, str], user: str, password: str) -> bool:
        try:
            with self.login(env, user, password):
                return False
        except (pymysql.err.OperationalError, psycopg2.OperationalError) as error:
            return error.args[0] == 1045 or "password authentication failed" in str(error)

    def names(self, env: dict[str, str], statement: str) -> set[str]:
        login = self.login(env, "devenv", env[f"DEVENV_{self.name.upper()}_PASSWORD"])
        with login as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return {name for (name,) in cursor.fetchall()}


DATABASES = [
    Database(
        *("mysql", "my.cnf", pymysql.connect),
        *("SELECT user FROM mysql.user", "SHOW DATABASES", "SELECT @@server_uuid"),
    ),
    Database(*("mariadb", "my.cnf", pymysql.connect), *("SELECT user FROM mysql.user", "SHOW DATABASES")),
    Database(
        *("postgresql", "postgresql.conf", psycopg2.connect),
        *("SELECT rolname FROM pg_roles", "SELECT datname FROM pg_database"),
    ),
]


def token_of(env: dict[str, str], user: str, password: str, project: str = "") -> requests.Response:
    domain = {"id": "default"}
    credentials = {"user": {"name": user, "domain": domain, "password": password}}
    scope = {"scope": {"project": {"name": project, "domain": domain}}} if project else {}
    request = {"auth": {"identity": {"methods": ["password"], "password": credentials}, **scope}}
    return requests.post(f"{env['OS_AUTH_URL']}/auth/tokens", json=request, timeout=30)


@pytest.mark.parametrize(
    "database",
    [pytest.param(one, id=one.name, marks=[pytest.mark.long] * (one.name != "mysql")) for one in DATABASES],
)
def test_the_next_environment_begins_with_the_schema_but_with_no_credential_of_the_first(
    database: Database,
    project: Project,
    other: Project,
    checkout: Path,
    client: docker.DockerClient,
    golden: set[str],
) -> None:
    name = database.name
    with (checkout / "compose" / name / database.config).open("a") as stream:
        stream.write(f"# {uuid.uuid4()}\n")
    other.checkout = checkout
    project.configure(f"profile: identity\ndatabase: {name}\ncomponents: {{nova: {{}}}}\n")
    other.configure(f"profile: identity\ndatabase: {name}\n")
    golden.update(golden_states(project))
    assert golden == golden_states(other)
    project.devenv("up")
    (image,) = kept(client, golden)
    assert image.startswith(f"devenv/golden:{name}-data-")
    assert fills(other) == [f"devenv-{other.id}-{name}-data"]

    # The image holds no secret but the mark that says whose data it is, which opens nothing.
    (path,) = project.state.glob(f"environments/{project.id}/secrets.json")
    content = unpacked(client, image)
    found = {key for key, secret in json.loads(path.read_text()).items() if secret.encode() in content}
    assert found == {f"{name}.owner"}
    other.devenv("up")
    first, second = project.env(), other.env()

    # The image holds nothing of the first one's component, and each server has its own id.
    assert "nova" not in database.names(second, database.accounts) | database.names(second, database.databases)
    assert "keystone" in database.names(second, database.databases)
    if database.number:
        assert not database.names(first, database.number) & database.names(second, database.number)

    # No account of the second takes the first one's password.
    secrets = [p.state / "environments" / p.id / "secrets.json" for p in (project, other)]
    old, new = (json.loads(path.read_text()) for path in secrets)
    assert not set(old.values()) & set(new.values())
    for user, key in (("devenv", f"{name}.password"), ("keystone", f"{name}/keystone")):
        assert database.denied(second, user, old[key]) and not database.denied(second, user, new[key])
    for user, key in (("admin", "admin_password"), ("devenv", "password"), ("demo", "demo_password")):
        assert token_of(second, user, old[f"keystone.{key}"]).status_code == 401
        assert token_of(second, user, new[f"keystone.{key}"]).status_code == 201

    # A token of one is not valid in the other: the keys differ. The catalog names each one's own port.
    foreign = token_of(first, "admin", old["keystone.admin_password"]).headers["X-Subject-Token"]
    own = token_of(second, "admin", new["keystone.admin_password"], "admin").headers["X-Subject-Token"]
    url = f"{second['OS_AUTH_URL']}/auth/tokens"
    answer = requests.get(url, headers={"X-Auth-Token": own, "X-Subject-Token": foreign}, timeout=30)
    assert answer.status_code == 404
    catalog = requests.get(f"{second['OS_AUTH_URL']}/endpoints", headers={"X-Auth-Token": own}, timeout=30).json()
    assert {endpoint["url"] for endpoint in catalog["endpoints"]} == {second["OS_AUTH_URL"]}

    # The second one's own data survives a restart, as does a component's account.
    other.configure(f"profile: identity\ndatabase: {name}\ncomponents: {{glance: {{}}}}\n")
    other.devenv("up")
    other.devenv("restart", name)
    glance = other.json("env", "--component", "glance")
    assert not database.denied(glance, "glance", glance[f"DEVENV_{name.upper()}_PASSWORD"])


# ---- what never becomes a golden state ---------------------------------------------------------------------------


@pytest.mark.parametrize("moments", MOMENTS)
def test_a_devenv_killed_while_it_keeps_a_golden_state_leaves_none_that_does_not_work(
    etcd: Callable[[], None], golden: set[str], project: Project, client: docker.DockerClient, moments: Sequence[float]
) -> None:
    killed = 0
    for moment in moments:
        etcd()
        killed += project.killed_while_paused(client, moment, "up")
        # The container is still paused: the next `up` lets it go on.
        project.devenv("up")
        works(project)
        # The next start works whether devenv has kept a golden state or not; after it, devenv has one.
        project.devenv("reset")
        works(project)
        project.devenv("down", "--volumes")
        assert fills(project)
    assert killed >= max(1, len(moments) - 1)


def test_two_environments_that_keep_the_same_at_once_leave_one(
    etcd: Callable[[], None], golden: set[str], project: Project, other: Project, client: docker.DockerClient
) -> None:
    began = time.time()
    other.checkout = project.checkout
    other.configure("profile: coordination\n")
    assert len(golden) == 1 and golden == golden_states(other)
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(p.process, "up") for p in (project, other)]:
            assert "not kept" not in done.result().stderr
    assert kept(client, golden) == golden
    assert len(imported(client, golden, began)) == 1
    works(project)
    works(other)


def test_without_golden_none_is_used_and_none_is_kept(
    etcd: Callable[[], None], golden: set[str], project: Project, client: docker.DockerClient
) -> None:
    project.devenv("up", "--no-golden")
    assert not kept(client, golden)
    project.devenv("down", "--volumes")
    project.devenv("up")
    project.devenv("down", "--volumes")
    assert "fill" not in project.devenv("up", "--no-golden").stderr


# ---- golden states that cannot be used ---------------------------------------------------------------------------


def test_a_golden_state_that_does_not_start_is_thrown_away_with_a_warning(
    etcd: Callable[[], None], golden: set[str], project: Project, client: docker.DockerClient, tmp_path: Path
) -> None:
    project.devenv("up")
    project.devenv("down", "--volumes")
    (image,) = kept(client, golden)
    good = client.images.get(image).id
    spoilt = tmp_path / "spoilt" / "etcd" / "data" / "etcd" / "member" / "snap"
    spoilt.mkdir(parents=True)
    (spoilt / "db").write_bytes(b"no database" * 1000)
    archive = shutil.make_archive(str(tmp_path / "spoilt"), "tar", tmp_path / "spoilt")
    labels = [f'LABEL {key}="{value}"' for key, value in client.images.get(good).labels.items()]
    # The tag is in the name: Podman 4 takes no other.
    client.api.import_image_from_file(archive, repository=image, changes=labels)
    client.images.remove(good)
    done = project.devenv("up")
    assert "no start from the golden state of etcd" in done.stderr and "starting without it" in done.stderr
    works(project)
    # devenv keeps what the normal start left instead, and that works.
    assert client.images.get(image).id != good
    project.devenv("down", "--volumes")
    assert fills(project)
    assert "starting without it" not in project.devenv("up").stderr
    works(project)


def test_a_golden_state_that_is_deleted_behind_devenvs_back_is_done_without(
    etcd: Callable[[], None],
    golden: set[str],
    project: Project,
    client: docker.DockerClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    project.devenv("up")
    project.devenv("down", "--volumes")
    (image,) = kept(client, golden)
    client.images.remove(image)
    assert not fills(project)
    project.devenv("up")
    project.devenv("down", "--volumes")
    assert fills(project)

    class Deleting(Report):
        """Deletes the images that the plan is about to use."""

        def __init__(self) -> None:
            self.notes: list[str] = []

        def begin(self, plan: Plan) -> None:
            for operation in plan.operations:
                if operation.action == "fill":
                    client.images.remove(operation.subject)

        def note(self, text: str) -> None:
            self.notes.append(text)

    for name, value in project.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("devenv.spec.catalogue.data_folder", lambda name: project.checkout / name)
    monkeypatch.setattr("devenv.images.references.data_folder", lambda name: project.checkout / name)
    report = Deleting()
    Environment(project.folder, report=report).up()
    assert any("no start from the golden state of etcd" in note for note in report.notes)
    works(project)


def test_a_changed_config_file_makes_another_golden_state(
    etcd: Callable[[], None], golden: set[str], project: Project, client: docker.DockerClient
) -> None:
    project.devenv("up")
    project.devenv("down", "--volumes")
    assert fills(project)
    etcd()
    assert not fills(project)
    project.devenv("up")
    assert kept(client, golden) == golden and len(golden) == 2


def test_gc_removes_what_was_not_used_for_longest_and_up_goes_on_without(
    etcd: Callable[[], None], golden: set[str], project: Project, client: docker.DockerClient
) -> None:
    project.devenv("up")
    (image,) = kept(client, golden)
    # Golden states that tests beside this one begin with are younger, or stay within the limit.
    assert "nothing to remove" in project.devenv("gc", "--keep", "100000").stdout
    assert kept(client, golden) == {image}
    client.images.remove(image)
    project.devenv("reset")
    works(project)
