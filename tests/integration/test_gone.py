"""Project folders that are moved or deleted while their environment runs, which people then see from elsewhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from project import Project, one_clear_line, ours, snapshot_images

from devenv.engine import connect


@pytest.fixture
def here(project: Project, tmp_path: Path) -> Iterator[Project]:
    """Make another project of the same user, to look from."""
    (folder := tmp_path / "here").mkdir()
    yield Project(folder, project.state)


def lost(project: Project) -> str:
    """Bring up an environment with a component, a snapshot and a file that it wired; return its id."""
    (project.folder / "nova.conf").write_text("[DEFAULT]\n")
    project.configure("profile: coordination\ncomponents: {nova: {wire: [nova.conf]}}\n")
    project.devenv("up")
    project.devenv("snapshot", "save", "before")
    return project.id


def test_a_deleted_folder_leaves_an_environment_that_gc_finds_and_removes_if_told_to(
    project: Project, here: Project, client: docker.DockerClient
) -> None:
    identity = lost(project)
    before = ours(client, identity)
    # What a killed `snapshot save` leaves: an image, and its name on record.
    (saved,) = snapshot_images(client, identity)
    client.images.get(saved).tag("devenv/snapshot", f"{identity}-interrupted")
    record = project.state / "environments" / identity / "record.json"
    record.write_text(
        json.dumps(json.loads(record.read_text()) | {"saving": [f"devenv/snapshot:{identity}-interrupted"]})
    )
    shutil.rmtree(project.folder)
    said = here.devenv("gc", "--keep", "100000").stdout
    assert f"{project.folder} was moved or deleted" in said
    assert (ours(client, identity), len(snapshot_images(client, identity))) == (before, 2)
    (found,) = json.loads(here.devenv("gc", "--keep", "100000", "--format", "json").stdout)["gone"]
    assert (found["id"], found["containers"], found["volumes"], found["snapshots"]) == (identity, 1, 1, 1)
    command = said.partition("'devenv ")[2].partition("'")[0]
    here.devenv(*command.split(), "--keep", "100000")
    assert ours(client, identity) == {"containers": [], "networks": [], "volumes": []}
    assert snapshot_images(client, identity) == set()
    assert here.devenv("gc", "--keep", "100000").stdout == "nothing to remove\n"


def test_a_moved_folder_is_another_environment_and_gets_the_first_one_back_in_its_old_place(
    project: Project, here: Project, tmp_path: Path
) -> None:
    identity, port = lost(project), project.env()["DEVENV_ETCD_PORT"]
    project.devenv("exec", "etcd", "etcdctl", "put", "key", "kept")
    moved = Project(project.folder.rename(tmp_path / "moved"), project.state)
    moved.devenv("up")
    assert moved.id != identity and moved.env()["DEVENV_ETCD_PORT"] != port
    assert identity in here.devenv("gc", "--keep", "100000").stdout
    moved.devenv("down", "--volumes")
    moved.folder.rename(project.folder)
    project.devenv("up")
    assert project.env()["DEVENV_ETCD_PORT"] == port
    assert "kept" in project.devenv("exec", "etcd", "etcdctl", "get", "key").stdout
    assert here.devenv("gc", "--keep", "100000").stdout == "nothing to remove\n"
    project.devenv("snapshot", "rm", "before")


def test_to_remove_what_a_moved_folder_left_touches_nothing_in_its_new_place(
    project: Project, here: Project, client: docker.DockerClient, tmp_path: Path
) -> None:
    identity = lost(project)
    moved = Project(project.folder.rename(tmp_path / "moved"), project.state)
    # The old path exists, and leads to the new environment.
    project.folder.symlink_to(moved.folder)
    moved.devenv("up")
    files = {path: path.read_bytes() for path in moved.folder.rglob("*") if path.is_file()}
    here.devenv("gc", "--keep", "100000", "--remove", identity)
    assert ours(client, identity) == {"containers": [], "networks": [], "volumes": []}
    assert {path: path.read_bytes() for path in moved.folder.rglob("*") if path.is_file()} == files
    assert moved.json("status")["services"]["etcd"]["state"] == "ready"
    moved.devenv("down", "--volumes")


def test_what_is_not_gone_is_not_removed(project: Project, here: Project, client: docker.DockerClient) -> None:
    project.devenv("up", "etcd")
    before = ours(client, project.id)
    one_clear_line(here.devenv("gc", "--remove", project.id, check=False), 3, project.id, "down --volumes")
    one_clear_line(here.devenv("gc", "--remove", "nobody-12345678", check=False), 3, "nobody-12345678")
    assert ours(client, project.id) == before


def test_a_deleted_folders_environment_is_listed_and_taken_down_by_its_id(
    project: Project, here: Project, client: docker.DockerClient
) -> None:
    project.devenv("up", "etcd")
    identity = project.id
    shutil.rmtree(project.folder)
    (found,) = (one for one in here.json("ls", "--usage") if one["id"] == identity)
    assert (found["project"], found["gone"], found["state"]) == (str(project.folder), True, "running")
    assert found["services"]["etcd"]["ports"].keys() == {"2379"}
    # A rootless engine may have no right to measure it.
    assert (found["memory"] or 0) > 0 or (found["memory"] is None and "rootless" in connect().about().name)
    here.devenv("down", "--id", identity)
    assert [len(names) for names in ours(client, identity).values()] == [0, 0, 1]
    stranger = Project(here.folder, here.folder / "other state")
    one_clear_line(stranger.devenv("down", "--id", identity, "--volumes", check=False), 7, identity, "no record")
    here.devenv("down", "--id", identity, "--volumes")
    assert ours(client, identity) == {"containers": [], "networks": [], "volumes": []}
