"""Run the command line in a scratch project as users do, and check what it does."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import docker
import pytest
from databases import DATABASES

from devenv.engine.image_names import familiar
from devenv.images import golden
from devenv.lifecycle.environment import Environment
from devenv.spec.catalogue import load_catalogue
from devenv.store.places import environment_id
from tests.integration.inside import REPOSITORY, run_inside, sources, surroundings

Completed = subprocess.CompletedProcess[str]


@dataclass
class Project:
    """A scratch project with a state folder of its own; `devenv(...)` runs the command line in it.

    `checkout` is the source tree that runs: this one, or a copy that a test may change.
    """

    folder: Path
    state: Path
    checkout: Path = REPOSITORY
    extra: dict[str, str] = field(default_factory=dict)
    # If negative, that of this process.
    umask: int = -1
    # The command that runs devenv somewhere else, such as in a network of its own.
    within: tuple[str, ...] = ()

    @property
    def environ(self) -> dict[str, str]:
        # MAKE… and MFLAGS are what `make test` passes to a make that it runs.
        foreign = ("OS_", "DEVENV_", "MAKE", "MFLAGS")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        # tests/clusters runs the consumers' tests on a cluster.
        engine = {"DEVENV_ENGINE": os.environ["TESTS_ENGINE"]} if "TESTS_ENGINE" in os.environ else {}
        return {**clean, "DEVENV_STATE_DIR": str(self.state), "PYTHONPATH": str(self.checkout), **engine, **self.extra}

    def devenv(self, *arguments: str, check: bool = True, cwd: Path | None = None, stdin: str = "") -> Completed:
        """Run the command line in this process, which takes a tenth of the time of a new one.

        A thread gets a new one: the working directory and the variables of this process belong to all threads.
        """
        if threading.current_thread() is not threading.main_thread():
            return self.process(*arguments, check=check, cwd=cwd, stdin=stdin)
        with self.inside(cwd):
            done = run_inside(arguments, stdin)
        return self._judged(done, arguments, check)

    def process(
        self,
        *arguments: str,
        check: bool = True,
        cwd: Path | None = None,
        stdin: str = "",
        limit: float | None = None,
    ) -> Completed:
        """Run the command line in a new process, for tests that need one.

        Raises TimeoutExpired if it does not end within `limit` seconds.
        """
        done = subprocess.run(
            [*self.within, sys.executable, "-m", "devenv", *arguments],
            cwd=cwd or self.folder,
            env=self.environ,
            capture_output=True,
            text=True,
            input=stdin,
            check=False,
            umask=self.umask,
            timeout=limit,
        )
        return self._judged(done, arguments, check)

    def reason(self, service: str) -> str:
        """Return why a service is not ready, as `status` shows it; an empty string if it is."""
        return str(self.json("status", service)["services"][service]["reason"])

    def _judged(self, done: Completed, arguments: Sequence[str], check: bool) -> Completed:
        """Fail the test for a traceback, and with `check` for an exit code other than 0."""
        assert "Traceback" not in done.stderr or "--debug" in arguments, done.stderr
        assert not check or done.returncode == 0, f"devenv {arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    @contextmanager
    def inside(self, cwd: Path | None = None) -> Iterator[None]:
        """Make this process like one that is started in the project and runs its checkout."""
        with surroundings(cwd or self.folder, self.environ, self.umask), sources(self.checkout):
            yield

    def shell(self, command: str) -> str:
        """Run a command, which must succeed, in a shell as a reader of the docs has; return what it prints."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=self.folder,
            env={**self.environ, "PATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        return done.stdout

    def killed_while_paused(
        self,
        client: docker.DockerClient,
        pause: float,
        *arguments: str,
        by: signal.Signals = signal.SIGKILL,
        code: int = -signal.SIGKILL,
    ) -> bool:
        """Run the command line and send it a signal `pause` seconds after one of its containers is paused.

        Return whether it ended with `code`; it may have ended before the signal.
        """
        label = f"io.devenv.environment={self.id}"
        with subprocess.Popen(
            [sys.executable, "-m", "devenv", *arguments],
            cwd=self.folder,
            env=self.environ,
            stderr=subprocess.DEVNULL,
        ) as run:
            while run.poll() is None:
                if client.api.containers(filters={"label": label, "status": "paused"}):
                    with suppress(subprocess.TimeoutExpired):
                        run.wait(pause)
                    run.send_signal(by)
                    break
        return run.returncode == code

    def killed_after(self, seen: str, *arguments: str) -> None:
        """Run the command line and kill it once it has reported `seen`."""
        code, _ = self._until(seen, signal.SIGKILL, *arguments)
        assert code == -signal.SIGKILL, f"it ended before it reported {seen!r}"

    def up_until(self, seen: str, number: signal.Signals, *services: str) -> tuple[int, str]:
        """Run `up`, send it the signal once it has reported `seen`; return its exit code and the rest of its report."""
        return self._until(seen, number, "up", *services)

    def _until(self, seen: str, number: signal.Signals, *arguments: str) -> tuple[int, str]:
        with self.begin(*arguments) as run:
            assert run.stderr
            for line in run.stderr:
                if seen in line:
                    run.send_signal(number)
                    break
            rest = run.stderr.read()
        return run.returncode, rest

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the command line; its stderr reports what it does."""
        return subprocess.Popen(
            [*self.within, sys.executable, "-m", "devenv", *arguments],
            cwd=self.folder,
            env=self.environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            # A background job of a shell ignores Ctrl-C, and so do its children unless told otherwise.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def json(self, *arguments: str) -> Any:
        return json.loads(self.devenv(*arguments, "--format", "json").stdout)

    def configure(self, text: str, trusted: bool = False) -> None:
        """Write devenv.yaml; with `trusted`, allow the images that it names."""
        (self.folder / "devenv.yaml").write_text(text)
        if trusted:
            self.devenv("trust")

    def sql(self, database: str, statement: str) -> str:
        """Run a statement as the administrator of a database service; return the rows that it prints."""
        return self.devenv("exec", database, "--", *DATABASES[database], statement).stdout

    @property
    def id(self) -> str:
        """Return the id of its default environment."""
        return environment_id(self.folder, "default")

    def env(self) -> dict[str, str]:
        return dict(self.json("env"))


def build_images() -> None:
    """Build the images of all services that are missing."""
    command = [sys.executable, "-m", "devenv", "images", "build", *load_catalogue()]
    subprocess.run(command, cwd=REPOSITORY, check=True)


class Ports:
    """The services' well-known ports, held so that devenv chooses none of them.

    Tests in several processes, each with a state folder of its own, would take them from each other.
    """

    def __init__(self) -> None:
        numbers = {e.port for service in load_catalogue().values() for e in service.endpoints.values()}
        self._missing, self._held, self._lock = numbers, ExitStack(), Lock()

    def hold(self) -> None:
        """Hold those that are free right now."""
        with self._lock:
            for number in [*self._missing]:
                with suppress(OSError):
                    # Connections that ended a minute ago do not count, as when devenv looks for a free port.
                    listener = socket.create_server(("127.0.0.1", number))
                    self._held.enter_context(listener)
                    self._missing.remove(number)

    def close(self) -> None:
        self._held.close()


def new_project(parent: Path, name: str) -> Project:
    folder = parent / name
    folder.mkdir()
    return Project(folder, parent / "state")


@contextmanager
def components(project: Project, text: str) -> Iterator[None]:
    """Give a running project these components, and drop them afterwards."""
    project.configure(text)
    project.devenv("up")
    yield
    (project.folder / "devenv.yaml").unlink()
    project.devenv("up", "--drop")


def remove(project: Project) -> None:
    """Take down every environment of a scratch project, from sources that no test has changed."""
    project.checkout, project.extra = REPOSITORY, {}
    (project.folder / "devenv.yaml").unlink(missing_ok=True)
    for record in (project.state / "environments").glob("*/record.json"):
        project.devenv("--env", json.loads(record.read_text())["name"], "down", "--volumes")


def ours(client: docker.DockerClient, identity: str) -> dict[str, list[str]]:
    """Return what the engine has of an environment, by kind: names of containers, networks and volumes."""
    label = {"label": f"io.devenv.environment={identity}"}
    return {
        "containers": sorted(c.name for c in client.containers.list(all=True, filters=label, ignore_removed=True)),
        "networks": [n.name for n in client.networks.list(filters=label)],
        "volumes": sorted(v.name for v in client.volumes.list(filters=label)),
    }


def is_podman(client: docker.DockerClient) -> bool:
    """Return whether the engine is Podman, where that makes a difference that users see (docs/engines.md)."""
    return "podman" in str(client.version().get("Components")).lower()


def tags(client: docker.DockerClient, repository: str | None = None) -> set[str]:
    """Return the names of images. It takes one request: between two, images of other tests come and go."""
    # Podman puts the name of a registry before names that have none.
    names = {familiar(tag) for image in client.api.images() for tag in image["RepoTags"] or ()}
    return {name for name in names if repository is None or name.startswith(f"{repository}:")}


def snapshot_images(client: docker.DockerClient, identity: str) -> set[str]:
    """Return the images that hold, or were to hold, data of an environment."""
    return {tag for tag in tags(client, "devenv/snapshot") if tag.startswith(f"devenv/snapshot:{identity}-")}


def plan_of(project: Project, *services: str) -> list[tuple[str, str, str]]:
    """Return action, target and cause of each operation of `devenv plan`, without readiness checks."""
    operations: list[Mapping[str, str]] = project.json("plan", *services)["operations"]
    return [(op["action"], op["target"], op["cause"]) for op in operations if op["action"] != "ready"]


def golden_states(project: Project) -> set[str]:
    """Return the images that hold, or would hold, the golden states of its services."""
    with project.inside():
        world = Environment()._world
        picture = world.look(world.define())
        return {*golden.references(picture.wanted, picture.defined.catalogue, picture.observed.images).values()}


def require(missing: str) -> None:
    """Skip the test if something is missing here; fail it in CI, where nobody reads what was skipped."""
    if missing:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(missing)


def not_root(what: str) -> str:
    """Return why a test cannot do what only root may do; empty for root."""
    return "" if os.geteuid() == 0 else f"only root may {what}"


def until(run: subprocess.Popen[str], seen: str) -> None:
    """Read the report of a run until it has reported `seen`."""
    assert run.stderr
    assert any(seen in line for line in run.stderr), f"it ended before it reported {seen!r}"


@contextmanager
def file_limit(least: int) -> Iterator[None]:
    """Let this process open at least so many files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, least), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def one_clear_line(done: Completed, exit_code: int, *words: str) -> None:
    """Check that a failure is as promised: one line that begins with "cannot", a hint, the right exit code."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("cannot ")]
    assert done.returncode == exit_code, done.stderr
    assert len(lines) == 1, done.stderr
    assert "hint: " in done.stderr
    for word in words:
        assert word in done.stderr, f"{word!r} is not in {done.stderr!r}"
