"""`devenv images save|load|key` carry images and golden states to a machine that has none."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from private_engine import PrivateEngine, private_engine
from project import Project, one_clear_line

# In MB: room for the images of MySQL and the base, and for the data of one MySQL.
DISK = 4000


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[PrivateEngine]:
    """Start an engine that has nothing."""
    with private_engine(tmp_path, DISK) as engine:
        yield engine


@pytest.mark.long
def test_an_engine_without_images_starts_from_golden_state_and_builds_nothing(
    project: Project, fresh: PrivateEngine
) -> None:
    project.configure("profile: database\n")
    keys = project.devenv("images", "key").stdout
    project.devenv("images", "save", "images.tar")

    def there(*arguments: str) -> str:
        done = fresh.devenv(project, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    # The very first start on that engine, whose golden states no other test uses.
    there("images", "load", "images.tar")
    there("up")
    assert there("images", "key") == keys
    saved = json.loads(there("images", "save", "cache.tar", "--format", "json"))
    assert len(saved["golden"]) == 1 and saved["size"] == (project.folder / "cache.tar").stat().st_size
    there("down", "--volumes")
    for image in fresh.client.images.list():
        fresh.client.images.remove(image.id, force=True)
    assert fresh.client.images.list(all=True) == []

    assert json.loads(there("images", "load", "cache.tar", "--format", "json")) == saved
    operations = json.loads(there("up", "--format", "json"))["operations"]
    assert ("fill", "golden state") in {(op["action"], op["cause"]) for op in operations}
    assert not {op["action"] for op in operations} & {"build image", "pull image", "fetch wheels", "keep"}
    assert there("exec", "mysql", "mysql", "-N", "-e", "SELECT 1").strip() == "1"
    # Loading what is there already does no harm.
    there("images", "load", "cache.tar")
    assert json.loads(there("status", "--format", "json"))["services"]["mysql"]["state"] == "ready"
    there("down", "--volumes")


def test_an_archive_goes_through_pipes(project: Project) -> None:
    project.configure("profile: coordination\n")
    command = f"{sys.executable} -m devenv images"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"{command} save - | gzip -1 | gzip -d | {command} load -"],
        cwd=project.folder,
        env=project.environ,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.startswith("saved 2 images and 0 golden states")
    assert done.stdout.startswith("loaded 2 images and 0 golden states")


def test_layers_that_images_share_are_in_it_once(project: Project) -> None:
    project.configure("profile: base\n")
    images = {image["service"]: image["size"] for image in project.json("images", "list")}
    saved = project.json("images", "save", "both.tar", "etcd", "rabbitmq")
    assert len(saved["images"]) == 3
    # Each of the three images contains the base. With the base in it three times, the file would be larger by two.
    assert saved["size"] < images["etcd"] + images["rabbitmq"]


def test_what_is_no_archive_of_devenvs_is_refused(project: Project, client: docker.DockerClient) -> None:
    project.configure("profile: coordination\n")
    tag = f"theirs-{project.id}:1"
    client.api.import_image_from_data(_empty_tar(), repository=tag.partition(":")[0], tag="1")
    before = client.images.get(tag).id
    try:
        foreign = b"".join(client.images.get(tag).save(named=True))
        (project.folder / "foreign.tar").write_bytes(foreign)
        refused = project.devenv("images", "load", "foreign.tar", check=False)
        one_clear_line(refused, 3, f"cannot load foreign.tar: {tag} in it is no image of devenv's")
        # devenv refuses it even if devenv.yaml names it, when another image has that name here.
        project.configure(f"profile: coordination\nservices: {{etcd: {{image: '{tag}'}}}}\n", trusted=True)
        project.devenv("images", "load", "foreign.tar")
        client.api.import_image_from_data(_empty_tar("other"), repository=tag.partition(":")[0], tag="1")
        other = client.images.get(tag).id
        assert other != before
        refused = project.devenv("images", "load", "foreign.tar", check=False)
        one_clear_line(refused, 3, f"another image has the name {tag} here")
        assert client.images.get(tag).id == other
        client.images.remove(other, force=True)
    finally:
        for image in client.api.images(all=True):
            if image["Id"] == before or tag in (image["RepoTags"] or ()):
                client.images.remove(image["Id"], force=True)
    for name, content in (("half.tar", foreign[: len(foreign) // 2]), ("small.gz", gzip.compress(foreign))):
        (project.folder / name).write_bytes(content)
        one_clear_line(
            project.devenv("images", "load", name, check=False), 3, f"cannot load {name}: it is not a complete"
        )
    one_clear_line(project.devenv("images", "load", "no.tar", check=False), 3, "cannot load no.tar: No such file")
    one_clear_line(project.devenv("images", "save", "no/a.tar", check=False), 3, "cannot write no/a.tar")


def _empty_tar(name: str = "file") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo(name))
    return buffer.getvalue()
