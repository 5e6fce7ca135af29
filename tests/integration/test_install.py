"""The built wheel works away from any checkout, and a fresh clone comes up with one command."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from project import REPOSITORY, Project, ours


def test_the_wheel_brings_its_services_and_nothing_else_of_the_checkout(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for service in (REPOSITORY / "compose").glob("*/compose.yaml"):
        assert f"devenv/compose/{service.parent.name}/compose.yaml" in names
    for page in (REPOSITORY / "docs").glob("*.md"):
        assert f"devenv/docs/{page.name}" in names
    assert "devenv/profiles/base.yaml" in names
    others = ("tests/", "compose/", "profiles/", "docs/")
    assert not [name for name in names if name.startswith(others) or ".devenv/" in name]


@pytest.mark.long
def test_make_dist_builds_files_that_pass_all_checks(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(clone)], check=True)
    build = [sys.executable, "-m", "tests.dist"]
    for tag, code in (("", 0), ("v99", 1)):
        done = subprocess.run(
            [*build, *(["--tag", tag] if tag else [])], cwd=clone, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
    assert "cannot release this:\nthe tag is v99, and devenv.__version__ is " in done.stderr
    # The release that was not one left the files of before.
    assert {path.suffix for path in (clone / "dist").iterdir()} == {".whl", ".gz"}


@pytest.mark.long
def test_the_wheel_works_from_another_folder(project: Project, wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "empty"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    subprocess.run([str(environment / "bin" / "pip"), "install", "--quiet", str(wheel)], check=True)
    clean = {name: value for name, value in project.environ.items() if name != "PYTHONPATH"}

    def devenv(*arguments: str) -> str:
        command = [str(environment / "bin" / "devenv"), *arguments]
        return subprocess.run(
            command, cwd=project.folder, env=clean, check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    # The same images as in the checkout: the tag is a hash of content, wherever that lies.
    installed = json.loads(devenv("images", "list", "--format", "json"))
    assert installed == project.json("images", "list")
    assert devenv("help", "wiring").startswith("# ")
    assert devenv("--version").strip().endswith(wheel.name.split("-")[1])
    devenv("up", "etcd")
    assert json.loads(devenv("status", "--format", "json"))["services"]["etcd"]["state"] == "ready"
    devenv("down", "--volumes")


@pytest.mark.long
def test_a_fresh_clone_comes_up_and_goes_down_with_make(project: Project, tmp_path: Path, client) -> None:  # type: ignore[no-untyped-def]
    clone = tmp_path / "devenv-clone"
    subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(clone)], check=True)
    clean = {name: value for name, value in project.environ.items() if name != "PYTHONPATH"}

    def make(target: str) -> str:
        return subprocess.run(
            ["make", target], cwd=clone, env=clean, check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    assert make("help").startswith("help")
    first = make("up")
    for service in ("mysql", "rabbitmq", "etcd", "keystone"):
        assert f"{service} " in first
    assert "clouds.yaml" in first
    again = make("up")
    assert "nothing to do, all ready" in again
    (record,) = project.state.glob("environments/*/record.json")
    identity = json.loads(record.read_text())["id"]
    assert len(ours(client, identity)["containers"]) == 4
    make("down")
    assert ours(client, identity)["containers"] == []
    subprocess.run([str(clone / ".venv" / "bin" / "devenv"), "down", "--volumes"], cwd=clone, env=clean, check=True)
    assert ours(client, identity) == {"containers": [], "networks": [], "volumes": []}
