"""Test suites of a scratch project, run with pytest or stestr as their developers run them."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import pytest
from project import Completed, Project, ours

from tests.integration.inside import run_program

NOTHING: dict[str, list[str]] = {"containers": [], "networks": [], "volumes": []}


def write(project: Project, name: str, text: str) -> None:
    """A file of the suite; what every test of these suites needs is imported already."""
    imports = "import os\nimport pytest\n" if name.endswith(".py") else ""
    (project.folder / name).write_text(imports + textwrap.dedent(text))


def _arguments(project: Project, *arguments: str) -> list[str]:
    """What pytest is told, in a folder that has a configuration of its own."""
    if not (project.folder / "pyproject.toml").exists():
        (project.folder / "pytest.ini").touch()
    return ["-p", "no:cacheprovider", *arguments]


def _started(project: Project, *arguments: str) -> dict[str, Any]:
    """What starts pytest, for Popen and run."""
    command = [sys.executable, "-m", "pytest", *_arguments(project, *arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    # A background job of a shell ignores Ctrl-C, and so do its children unless told otherwise.
    listen = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
    return {
        "args": command,
        "cwd": project.folder,
        "env": {**project.environ, "PYTHONUNBUFFERED": "1"},
        "umask": project.umask,
        **pipes,
        **listen,
    }


def pytest_run(project: Project, *arguments: str) -> Completed:
    """Run the project's tests in this process; what they print is in `stdout`."""
    words = _arguments(project, *arguments)
    with project.inside(), _modules_of(project):
        done = run_program(lambda: sys.exit(pytest.main(words)), ["pytest", *words])
    return Completed(done.args, done.returncode, done.stdout + done.stderr, "")


@contextmanager
def _modules_of(project: Project) -> Iterator[None]:
    """Forget the project's own modules afterwards: the next suite has others of the same names."""
    path = [*sys.path]
    # As `python -m pytest` has it.
    sys.path.insert(0, str(project.folder))
    try:
        yield
    finally:
        sys.path[:] = path
        for name, module in list(sys.modules.items()):
            if Path(getattr(module, "__file__", None) or "/").is_relative_to(project.folder):
                del sys.modules[name]
        importlib.invalidate_caches()


def pytest_process(project: Project, *arguments: str) -> Completed:
    """Run the project's tests in a process of their own, where there are workers, or where that is the point."""
    return subprocess.run(**_started(project, *arguments), check=False)


@contextmanager
def pytest_begun(project: Project, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Tests that run in a process group of their own; what is left of it in the end is killed."""
    with subprocess.Popen(**_started(project, *arguments), start_new_session=True) as run:
        try:
            yield run
        finally:
            if run.poll() is None:
                os.killpg(run.pid, signal.SIGKILL)


def outcome(done: Completed, **expected: int) -> None:
    """What pytest's last line counts."""
    last = next(line for line in reversed(done.stdout.splitlines()) if line.strip())
    for what, number in expected.items():
        assert f"{number} {what}" in last, done.stdout


def all_of(project: Project, client: docker.DockerClient) -> dict[str, list[str]]:
    """What the engine has of any environment of the project, by kind."""
    found: dict[str, list[str]] = {kind: [] for kind in NOTHING}
    for folder in (project.state / "environments").glob("*"):
        for kind, names in ours(client, folder.name).items():
            found[kind] += names
    return found


def remains(project: Project) -> list[str]:
    """What is on record of the project's environments; locks are not."""
    return sorted(p.name for p in (project.state / "environments").rglob("*") if p.is_file() and p.name not in _LOCKS)


_LOCKS = ("lock", "users")
