"""Write test suites of a scratch project, and run them with pytest as their developers do."""

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
    """Write a file of the suite; a Python file begins with the imports that every test needs."""
    imports = "import os\nimport pytest\n" if name.endswith(".py") else ""
    (project.folder / name).write_text(imports + textwrap.dedent(text))


def _arguments(project: Project, *arguments: str) -> list[str]:
    """Return the arguments of pytest; make sure that the folder has a configuration of its own."""
    if not (project.folder / "pyproject.toml").exists():
        (project.folder / "pytest.ini").touch()
    return ["-p", "no:cacheprovider", *arguments]


def _started(project: Project, *arguments: str) -> dict[str, Any]:
    """Return the arguments of Popen and run that start pytest."""
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
    # `python -m pytest` does this.
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
    """Run the project's tests in a new process, for runs with workers and for tests that need one."""
    return subprocess.run(**_started(project, *arguments), check=False)


@contextmanager
def pytest_begun(project: Project, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Start tests in a process group of their own; kill it in the end if they still run."""
    with subprocess.Popen(**_started(project, *arguments), start_new_session=True) as run:
        try:
            yield run
        finally:
            if run.poll() is None:
                os.killpg(run.pid, signal.SIGKILL)


def outcome(done: Completed, **expected: int) -> None:
    """Check the counts in pytest's last line."""
    last = next(line for line in reversed(done.stdout.splitlines()) if line.strip())
    for what, number in expected.items():
        assert f"{number} {what}" in last, done.stdout


def all_of(project: Project, client: docker.DockerClient) -> dict[str, list[str]]:
    """Return what the engine has of all environments of the project, by kind."""
    found: dict[str, list[str]] = {kind: [] for kind in NOTHING}
    for folder in (project.state / "environments").glob("*"):
        for kind, names in ours(client, folder.name).items():
            found[kind] += names
    return found


def remains(project: Project) -> list[str]:
    """Return the names of the files that devenv keeps of the project's environments, without locks."""
    return sorted(p.name for p in (project.state / "environments").rglob("*") if p.is_file() and p.name not in _LOCKS)


_LOCKS = ("lock", "users")
