"""The example's own functional suite, as its developers run it; and what is left of it, whatever happens to it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys

import docker
import pytest
from project import REPOSITORY, Project
from suites import NOTHING, all_of, outcome, pytest_begun, pytest_run, remains, write

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


@pytest.fixture
def example(project: Project) -> Project:
    """A copy of the example, with nothing running."""
    shutil.copytree(
        EXAMPLE, project.folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", ".stestr")
    )
    return project


@pytest.mark.parametrize("arguments", [(), ("-n", "4")], ids=["alone", "workers"])
def test_its_suite_passes_and_leaves_nothing(
    example: Project, client: docker.DockerClient, arguments: tuple[str, ...]
) -> None:
    done = pytest_run(example, *arguments)
    assert done.returncode == 0, done.stdout
    assert all_of(example, client) == NOTHING and remains(example) == []


def test_a_killed_worker_fails_one_test_and_leaves_nothing(example: Project, client: docker.DockerClient) -> None:
    write(example, "tests/functional/test_dies.py", DIES)
    done = pytest_run(example, "-n", "4")
    outcome(done, failed=1)
    assert "crashed while running 'tests/functional/test_dies.py::test_dies'" in done.stdout
    assert all_of(example, client) == NOTHING and remains(example) == []


def test_ctrl_c_leaves_nothing(example: Project, client: docker.DockerClient) -> None:
    write(example, "tests/functional/test_waits.py", WAITS)
    os.mkfifo(example.folder / "begun")
    with pytest_begun(example, "-n", "4") as run:
        assert (example.folder / "begun").read_text() == "here"
        os.killpg(run.pid, signal.SIGINT)
        told = run.communicate()[0]
    assert run.returncode == pytest.ExitCode.INTERRUPTED, told
    assert all_of(example, client) == NOTHING and remains(example) == []


def test_its_cases_pass_under_stestr_and_leave_nothing(example: Project, client: docker.DockerClient) -> None:
    command = [sys.executable, "-m", "stestr", "run", "--concurrency", "4"]
    done = subprocess.run(command, cwd=example.folder, env=example.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "- Failed: 0" in done.stdout and "- Passed: 0" not in done.stdout
    assert all_of(example, client) == NOTHING and remains(example) == []
