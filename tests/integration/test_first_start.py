"""Kill MySQL in the middle of its first start, and devenv with it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from contextlib import suppress
from functools import partial

import docker
import pytest
from docker.models.containers import Container
from project import Project, until
from unharmed import unharmed

DATA = "/var/lib/mysql/data"
# In seconds; `make chaos` sets it to 0.25.
STEP = float(os.environ.get("KILL_EVERY", "1"))
# Seconds after the container was started.
MOMENTS = [number * STEP for number in range(1, 200)]
MARK = "left-by-the-test"


def name_of(project: Project) -> str:
    return f"devenv-{project.id}-mysql"


def container_of(project: Project, client: docker.DockerClient) -> Container:
    return client.containers.get(name_of(project))


def server_id(container: Container) -> str:
    """Return the id that the server gave itself, or nothing before its data folder is complete."""
    try:
        chunks, _ = container.get_archive(f"{DATA}/db/auto.cnf")
    except docker.errors.NotFound:
        return ""
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
        file = archive.extractfile("auto.cnf")
        assert file
        return file.read().decode().partition("server-uuid=")[2].strip()


def killed_at(moment: float, project: Project, client: docker.DockerClient) -> str:
    """Kill devenv and MySQL `moment` seconds after the start; return the server's id by then."""
    name = name_of(project)
    with project.begin("up", "--no-golden", "mysql") as run:
        until(run, "start mysql")
        with suppress(subprocess.TimeoutExpired):
            run.wait(moment)
        run.kill()
    # It may be another container than before.
    container = client.containers.get(name)
    container.kill()
    return server_id(container)


def in_data(project: Project, client: docker.DockerClient, command: str) -> set[str]:
    """Run a shell command as the server's user in its data folder; return the words that it prints."""
    server = container_of(project, client)
    printed = client.containers.run(
        server.image,
        ["-euc", command],
        entrypoint="sh",
        working_dir=DATA,
        volumes={f"{server.name}-data": {"bind": "/var/lib/mysql"}},
        network_disabled=True,
        remove=True,
    )
    return {*printed.decode().split()}


@pytest.mark.long
def test_mysql_killed_again_and_again_in_its_first_start_is_made_anew_until_it_is_complete_and_kept_from_then_on(
    project: Project, client: docker.DockerClient
) -> None:
    project.killed_after("create mysql", "up", "--no-golden", "mysql")
    with suppress(docker.errors.APIError):  # It may not have been started.
        container_of(project, client).kill()
    mark = partial(in_data, project, client, f"mkdir -p db.new && touch db.new/{MARK}")
    # Each incomplete data folder gets a mark before the kill.
    first = next(found for moment in MOMENTS if not mark() and (found := killed_at(moment, project, client)))
    assert (in_data(project, client, "ls"), {MARK} & in_data(project, client, "ls db")) == ({"db", "owner"}, set())
    in_data(project, client, f"touch db/{MARK}")
    # The data folder is complete now, but the server has not worked yet.
    for moment in (0.25, 0.5, 0.75):
        assert killed_at(moment, project, client) == first
    with unharmed(project, "mysql"):
        project.devenv("up", "--no-golden", "mysql")
    assert server_id(container_of(project, client)) == first
    assert (in_data(project, client, "ls"), {MARK} & in_data(project, client, "ls db")) == ({"db", "owner"}, {MARK})
    assert project.devenv("exec", "mysql", "mysql", "-Ne", "SELECT 6 * 7").stdout == "42\n"


def test_what_a_first_start_completed_unseen_is_kept(project: Project) -> None:
    project.killed_after("start mysql", "up", "mysql")
    follow = [sys.executable, "-m", "devenv", "logs", "--follow", "mysql"]
    with subprocess.Popen(follow, cwd=project.folder, env=project.environ, stdout=subprocess.PIPE) as following:
        assert following.stdout
        assert any(b"ready for connections" in line for line in following.stdout)
        following.kill()
    project.devenv("exec", "mysql", "mysql", "-e", "CREATE DATABASE kept")
    project.devenv("down")
    project.devenv("up", "mysql")
    assert "kept" in project.devenv("exec", "mysql", "mysql", "-Ne", "SHOW DATABASES").stdout
