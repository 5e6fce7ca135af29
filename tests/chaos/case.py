"""Run one case: a command of a scenario, a fault, and the number of the request that meets it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import docker
from pymysql import MySQLError

from devenv.engine.connection import endpoint_in_use
from devenv.errors import DevenvError
from devenv.lifecycle.environment import Environment
from devenv.store.places import environment_id
from tests.chaos import checks, files
from tests.chaos.proxy import Plan, Proxy, proxy
from tests.chaos.scenarios import SCENARIOS, SUITE, Scenario
from tests.integration.project import REPOSITORY, Completed, Ports, Project, new_project

# A command that takes longer hangs: the longest has three seconds of work, or many times that on a busy machine.
_SECONDS = 300
# Importing all other installed plugins takes as long as the tests.
_FEW = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
_PYTEST = ("-p", "devenv.testing.pytest_plugin", "-p", "no:cacheprovider")


@dataclass(frozen=True, order=True)
class Case:
    scenario: str
    fault: str
    at: int

    def __str__(self) -> str:
        return f"{self.scenario}, {self.fault} at request {self.at}"


@dataclass(frozen=True)
class Outcome:
    """The outcome of a case: the request that met the fault, empty if fewer requests came, and the seconds.

    `problems` is what did not hold afterwards. devenv survived a case without any.
    """

    case: Case
    request: str
    seconds: float
    problems: tuple[str, ...]


class Place:
    """A project of its own and a proxy, for one case after the other. Its state folder is this process's."""

    def __init__(self, project: Project, between: Proxy, ports: Ports, client: docker.DockerClient) -> None:
        self.project, self._proxy, self._ports, self._client = project, between, ports, client
        self._id = environment_id(project.folder, "default")
        (project.folder / "pytest.ini").touch()
        files.put_own(project)

    def count(self, scenario: Scenario) -> int:
        """Return how many requests a scenario has when nothing goes wrong. Raises AssertionError if something does."""
        plan = Plan()
        problems = [*self._survived(scenario, plan), *self.clear()]
        assert not problems, f"{scenario.name}, undisturbed: {problems}"
        return len(plan.requests)

    def run(self, case: Case) -> Outcome:
        """Run a case, and take all down. After a scenario's last case, the caller has to `clear` snapshots, too."""
        plan, began, scenario = Plan(case.fault, case.at), time.monotonic(), SCENARIOS[case.scenario]
        problems: list[str] = []
        try:
            for problem in self._survived(scenario, plan):
                problems.append(problem)
        except (AssertionError, DevenvError, OSError, MySQLError, subprocess.TimeoutExpired) as error:
            problems.append(f"{type(error).__name__}: {error}")
        problems += self.clear(snapshots=bool(problems))
        return Outcome(case, plan.hit, round(time.monotonic() - began, 1), tuple(problems))

    def clear(self, snapshots: bool = True) -> list[str]:
        """Take all down, remove complete snapshots only with `snapshots`, and return what is left after that."""
        volumes = checks.mounted(checks.objects(self._client, self._id))
        environment = Environment(self.project.folder)
        problems = []
        try:
            for snapshot in environment.snapshots() if snapshots else ():
                environment.remove_snapshot(snapshot.name)
            environment.down(volumes=True)
            problems += [f"after down --volumes: {wrong}" for wrong in self._snapshots()]
        except DevenvError as error:
            problems.append(f"down --volumes: {error}")
        problems += [f"after down --volumes: {left}" for left in checks.nothing(self._client, self._id, volumes)]
        problems += [f"after down --volumes: {wrong}" for wrong in files.own_options(self.project, wired=False)]
        if problems:
            checks.sweep(self._client, self._id)
            shutil.rmtree(files.state_of(self.project, self._id) / "snapshots", ignore_errors=True)
            files.put_own(self.project)
        return problems

    # ---- its steps -----------------------------------------------------------------------------------------------

    def _survived(self, scenario: Scenario, plan: Plan) -> Iterator[str]:
        """Yield what does not hold after the command, and after the command that mends what it left."""
        self._prepare(scenario)
        done = self._run(scenario.arguments, plan)
        killed = done.returncode == -signal.SIGKILL
        if plan.fault == "kill" and not killed:
            plan.hit = ""  # It had ended by itself.
        succeeded = done.returncode == 0 and "cannot" not in done.stdout
        if not killed:
            yield from checks.one_clear_line(done) if scenario.arguments else checks.clear_report(done)
        if plan.fault == "delay" and not succeeded:
            yield f"an answer that came late was none: {done.stdout[-1000:]}{done.stderr[-1000:]}"
        yield from files.whole(self.project, self._id)
        if succeeded and scenario.empties:
            yield from (f"at once: {left}" for left in checks.nothing(self._client, self._id))
        mended = self.project.devenv(*scenario.mended_by, check=False)
        if mended.returncode:
            yield f"then '{' '.join(scenario.mended_by)}' ended with {mended.returncode}: {mended.stderr[-2000:]}"
            return
        yield from files.whole(self.project, self._id)
        yield from files.no_leftovers(self.project, self._id)
        yield from files.credentials(self.project, self._id)
        yield from files.own_options(self.project, scenario.wires)
        yield from checks.one_of_each(checks.objects(self._client, self._id), scenario.services)
        yield from checks.logins(self.project)
        yield from checks.tests_components(self.project)
        yield from checks.data(self.project, scenario.after_success if succeeded else scenario.after)
        yield from self._snapshots()

    def _snapshots(self) -> Iterator[str]:
        saved = Environment(self.project.folder).snapshots()
        yield from checks.whole_snapshots(saved, self._client, self._id)

    def _prepare(self, scenario: Scenario) -> None:
        """Set up what the scenario begins with."""
        self._ports.hold()
        if scenario.before:
            self.project.configure(scenario.before)
            environment = Environment(self.project.folder)
            environment.up()
            scenario.prepare(environment)
        self.project.configure(scenario.during)
        (self.project.folder / "test_suite.py").write_text(SUITE.format(services=[*scenario.services]))

    def _run(self, arguments: Sequence[str], plan: Plan) -> Completed:
        """Run a command of devenv, or else the test suite, with the engine behind the proxy."""
        module = ("devenv", *arguments) if arguments else ("pytest", *_PYTEST)
        command = [sys.executable, "-m", *module]
        with subprocess.Popen(
            command,
            cwd=self.project.folder,
            env={**self.project.environ, "DOCKER_HOST": self._proxy.url, **_FEW},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            plan.kill = process.kill
            self._proxy.follow(plan)
            try:
                out, error = process.communicate(timeout=_SECONDS)
            finally:
                process.kill()
        return subprocess.CompletedProcess(command, process.returncode, out, error)


@contextmanager
def places(folder: Path, jobs: int) -> Iterator[SimpleQueue[Place]]:
    """Yield so many places, to be taken and put back.

    All have one state folder, below `folder`, so their environments do not take ports from each other.
    """
    subprocess.run([sys.executable, "-m", "devenv", "images", "build"], cwd=REPOSITORY, check=True)
    url = endpoint_in_use()[0]
    free: SimpleQueue[Place] = SimpleQueue()
    with ExitStack() as stack:
        stack.enter_context(_variable("DEVENV_STATE_DIR", str(folder / "state")))
        # Named: devenv knows the engine by the proxy's URL as well.
        stack.enter_context(_variable("DOCKER_HOST", url))
        ports = stack.enter_context(closing(Ports()))
        client = stack.enter_context(closing(docker.DockerClient(base_url=url)))
        for number in range(jobs):
            between = stack.enter_context(proxy(folder / f"engine{number}", url.removeprefix("unix://")))
            place = Place(new_project(folder, f"chaos{number}"), between, ports, client)
            stack.callback(place.clear)
            free.put(place)
        yield free


@contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before
