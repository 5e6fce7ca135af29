"""Kill a database in the middle of its first start, and devenv with it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import docker
import pytest
from docker.models.containers import Container
from project import Project, until
from unharmed import unharmed

# Kill four times in a first start; `make chaos` sets it to 0.25, for sixteen times.
STEP = float(os.environ.get("KILL_EVERY", "1"))
MARK = "left-by-the-test"


@dataclass(frozen=True)
class Database:
    """A service that resumes: its volume, what is in its folder `data`, and its client.

    Its `number` is in a file of the data folder: the id that the server gave itself. A first start takes `seconds`.
    """

    name: str
    volume: str
    content: frozenset[str]
    number: str
    seconds: float
    client: tuple[str, ...]
    ready: bytes

    @property
    def data(self) -> str:
        return f"{self.volume}/data"


DATABASES = {
    "mysql": Database(
        *("mysql", "/var/lib/mysql", frozenset({"db", "owner"}), "auto.cnf", 4.0),
        *(("mysql", "-Ne"), b"ready for connections"),
    ),
    "mariadb": Database(
        *("mariadb", "/var/lib/mysql", frozenset({"db", "owner"}), "aria_log_control", 1.0),
        *(("mariadb", "-Ne"), b"ready for connections"),
    ),
    "postgresql": Database(
        *("postgresql", "/srv/postgresql", frozenset({"db"}), "global/pg_control", 0.5),
        *(("psql", "-Atc"), b"ready to accept connections"),
    ),
}


@pytest.fixture(params=["mysql", *(pytest.param(name, marks=pytest.mark.long) for name in ("mariadb", "postgresql"))])
def database(request: pytest.FixtureRequest) -> Database:
    return DATABASES[request.param]


def name_of(project: Project, database: Database) -> str:
    return f"devenv-{project.id}-{database.name}"


def server_id(container: Container, database: Database) -> str:
    """Return the id that the server gave itself, or nothing before its data folder is complete."""
    try:
        chunks, _ = container.get_archive(f"{database.data}/db/{database.number}")
    except docker.errors.NotFound:
        return ""
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
        file = archive.extractfile(archive.getmembers()[0])
        assert file
        content = file.read()
    # PostgreSQL's file begins with the number, MariaDB's has it near the beginning, MySQL's in a line.
    return content.partition(b"server-uuid=")[2].decode().strip() or content[:8].hex()


def killed_at(moment: float, database: Database, project: Project, client: docker.DockerClient) -> str:
    """Kill devenv and the server `moment` seconds after the start; return the server's id by then."""
    name = name_of(project, database)
    with project.begin("up", "--no-golden", database.name) as run:
        until(run, f"start {database.name}")
        with suppress(subprocess.TimeoutExpired):
            run.wait(moment)
        run.kill()
    # It may be another container than before.
    container = client.containers.get(name)
    with suppress(docker.errors.APIError):  # It may have ended by itself.
        container.kill()
    return server_id(container, database)


def in_data(database: Database, project: Project, client: docker.DockerClient, command: str) -> set[str]:
    """Run a shell command as the server's user in its data folder; return the words that it prints."""
    server = client.containers.get(name_of(project, database))
    printed = client.containers.run(
        server.image,
        ["-euc", command],
        entrypoint="sh",
        working_dir=database.data,
        volumes={f"{server.name}-data": {"bind": database.volume}},
        network_disabled=True,
        remove=True,
    )
    return {*printed.decode().split()}


@pytest.mark.long
def test_a_database_killed_again_and_again_in_its_first_start_is_made_anew_until_it_is_complete_and_kept_from_then_on(
    database: Database, project: Project, client: docker.DockerClient
) -> None:
    name = database.name
    project.killed_after(f"create {name}", "up", "--no-golden", name)
    with suppress(docker.errors.APIError):  # It may not have been started.
        client.containers.get(name_of(project, database)).kill()
    look = partial(in_data, database, project, client)
    # Each incomplete data folder gets a mark before the kill.
    moments = (number * STEP * database.seconds / 4 for number in range(1, 200))
    first = next(
        found
        for moment in moments
        if not look(f"mkdir -p db.new && touch db.new/{MARK}")
        and (found := killed_at(moment, database, project, client))
    )
    assert (look("ls"), {MARK} & look("ls db")) == (database.content, set())
    look(f"touch db/{MARK}")
    # The data folder is complete now, but the server has not worked yet.
    for moment in (0.25, 0.5, 0.75):
        assert killed_at(moment, database, project, client) == first
    with unharmed(project, name):
        project.devenv("up", "--no-golden", name)
    assert server_id(client.containers.get(name_of(project, database)), database) == first
    assert (look("ls"), {MARK} & look("ls db")) == (database.content, {MARK})
    assert project.devenv("exec", name, *database.client, "SELECT 6 * 7").stdout == "42\n"


def test_what_a_first_start_completed_unseen_is_kept(database: Database, project: Project) -> None:
    name = database.name
    project.killed_after(f"start {name}", "up", name)
    follow = [sys.executable, "-m", "devenv", "logs", "--follow", name]
    with subprocess.Popen(follow, cwd=project.folder, env=project.environ, stdout=subprocess.PIPE) as following:
        assert following.stdout
        assert any(database.ready in line for line in following.stdout)
        following.kill()
    project.devenv("exec", name, *database.client, "CREATE TABLE kept (a INT)")
    project.devenv("down")
    project.devenv("up", name)
    assert project.devenv("exec", name, *database.client, "SELECT count(*) FROM kept").stdout == "0\n"
