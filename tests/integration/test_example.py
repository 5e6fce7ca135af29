"""The example's own functional suite works as its developers run it, and leaves nothing, however it ends."""

from __future__ import annotations

import os
import re
import shutil
import signal

import docker
import pytest
from project import REPOSITORY, Project
from suites import NOTHING, all_of, outcome, pytest_begun, pytest_process, remains, write

EXAMPLE = REPOSITORY / "tests" / "examples" / "inventory"
DIES = """
import signal

def test_dies(devenv_component):
    assert devenv_component.env["DATABASE_URL"]
    os.kill(os.getpid(), signal.SIGKILL)
"""
WAITS = """
import signal

def test_waits(conf, database):
    with open("begun", "w") as begun:
        begun.write("here")
    while True:
        signal.pause()
"""
# The commands in its README.
COMMANDS = [
    line.removeprefix("$ ").partition("  #")[0].rstrip()
    for line in (EXAMPLE / "README.md").read_text().splitlines()
    if line.startswith("$ ")
]
INSTALL = [command for command in COMMANDS if command.startswith("pip ")]
SUITES = [command for command in COMMANDS if command.startswith(("pytest", "stestr"))]
BY_HAND = [command for command in COMMANDS if command.startswith("devenv")]


@pytest.fixture
def example(project: Project) -> Project:
    """Copy the example, with nothing running."""
    shutil.copytree(
        EXAMPLE, project.folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", ".stestr")
    )
    return project


def test_its_readme_shows_how_it_is_installed_run_and_used() -> None:
    # No index has devenv: it comes from the clone that the example is in.
    assert INSTALL == ["pip install -e ../../.. -e '.[test]'"] and (EXAMPLE / "../../.." / "devenv").is_dir()
    assert SUITES[:3] == ["pytest", "pytest -n 4", "stestr run"]
    assert BY_HAND[0] == "devenv up"


@pytest.mark.long
@pytest.mark.parametrize("command", SUITES)
def test_its_suites_pass_and_leave_nothing(example: Project, client: docker.DockerClient, command: str) -> None:
    told = example.shell(command)
    assert re.search(r"[1-9]\d* passed|Passed: [1-9]", told) and not re.search(r"skipped|Skipped: [1-9]", told), told
    assert all_of(example, client) == NOTHING and remains(example) == []


@pytest.mark.long
def test_it_can_be_used_by_hand(example: Project) -> None:
    # Its dependencies are installed here already, and devenv is this one.
    example.shell("pip install --quiet --no-deps --target installed .")
    example.extra["PYTHONPATH"] = f"{example.checkout}{os.pathsep}{example.folder / 'installed'}"
    for command in BY_HAND:
        example.shell(f"PATH=$PWD/installed/bin:$PATH; {command}")


@pytest.mark.long
def test_a_killed_worker_fails_one_test_and_leaves_nothing(example: Project, client: docker.DockerClient) -> None:
    write(example, "tests/functional/test_dies.py", DIES)
    done = pytest_process(example, "-n", "4")
    outcome(done, failed=1)
    assert "crashed while running 'tests/functional/test_dies.py::test_dies'" in done.stdout
    assert all_of(example, client) == NOTHING and remains(example) == []


@pytest.mark.long
def test_ctrl_c_leaves_nothing(example: Project, client: docker.DockerClient) -> None:
    write(example, "tests/functional/test_waits.py", WAITS)
    os.mkfifo(example.folder / "begun")
    with pytest_begun(example, "-n", "4") as run:
        assert (example.folder / "begun").read_text() == "here"
        os.killpg(run.pid, signal.SIGINT)
        told = run.communicate()[0]
    assert run.returncode == pytest.ExitCode.INTERRUPTED, told
    assert all_of(example, client) == NOTHING and remains(example) == []
