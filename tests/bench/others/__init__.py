"""Measure other tools that bring up base services for tests; report those that are missing.

`sh tests/bench/others/set_up.sh FOLDER` installs them in a folder of their own.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.measure import have_golden
from tests.bench.process import Done, Failed, run
from tests.bench.samples import Samples, Tell
from tests.bench.sides import COMPOSE_FILE, Devenv

# Each variable names a Python that has the package; without it, the bench asks its own Python.
PYTHONS = {"testcontainers": "DEVENV_BENCH_TESTCONTAINERS", "pifpaf": "DEVENV_BENCH_PIFPAF"}
# Folders with the servers' programs for pifpaf, before those of PATH.
PATH_VARIABLE = "DEVENV_BENCH_PIFPAF_PATH"
_HERE = Path(__file__).parent
_NO_KEYSTONE = "it starts keystone-wsgi-public and keystone-wsgi-admin, which this Keystone does not have any more"


@dataclass(frozen=True)
class Task:
    """Services that a peer and devenv both bring up. `server` is the peer's server if it is another one."""

    peer: str
    services: tuple[str, ...]
    version: str
    server: str = ""

    @property
    def what(self) -> str:
        return f"{' and '.join(self.services)}, {self.peer}"

    @property
    def title(self) -> str:
        return f"{self.peer} {self.version}" + (f" with {self.server}" if self.server else "")


@dataclass(frozen=True)
class Missing:
    """Something that the bench did not measure, and why."""

    what: str
    reason: str


class Driver:
    """Runs a peer by the script beside this file, in the peer's own Python."""

    def __init__(self, peer: str, images: Mapping[str, str], token: str) -> None:
        self._command = [os.environ.get(PYTHONS[peer]) or sys.executable, str(_HERE / f"drive_{peer}.py")]
        path = os.pathsep.join(filter(None, [os.environ.get(PATH_VARIABLE), os.environ.get("PATH")]))
        self._environment = {
            "PATH": path,
            "BENCH_FOLDER": str(COMPOSE_FILE.parent),
            "BENCH_IMAGES": json.dumps(dict(images)),
            "BENCH_TOKEN": token,
        }

    def about(self) -> dict[str, str]:
        """Return the version of the package, and of each server that it can start here."""
        return dict(json.loads(run([*self._command, "--about"], self._environment).output))

    def bring_up(self, services: Sequence[str]) -> tuple[float, float]:
        """Start and stop services; return the seconds from the program's start until all is ready, and from then on."""
        done = run([*self._command, *services], self._environment)
        ready = float(done.output.split()[-1])
        return ready - done.began, done.seconds - (ready - done.began)


def find(drivers: Mapping[str, Driver]) -> tuple[list[Task], list[Missing]]:
    """Return what the bench can measure here, and what it cannot."""
    tasks: list[Task] = []
    missing = [Missing("pifpaf: keystone", _NO_KEYSTONE)]
    for peer, driver in drivers.items():
        try:
            about = driver.about()
        except Failed as error:
            missing.append(Missing(peer, f"not there ({PYTHONS[peer]}): {str(error).splitlines()[-1]}"))
            continue
        for services in _tasks(peer):
            if absent := [service for service in services if not about.get(service)]:
                missing.append(Missing(f"{peer}: {', '.join(absent)}", f"no program for it ({PATH_VARIABLE})"))
            else:
                server = about[services[0]] if peer == "pifpaf" else ""
                tasks.append(Task(peer, services, about[peer], server))
    return tasks, missing


def _tasks(peer: str) -> list[tuple[str, ...]]:
    return [("mysql", "rabbitmq")] if peer == "testcontainers" else [("rabbitmq",), ("etcd",), ("mysql",)]


def measure_peers(
    side: Devenv, drivers: Mapping[str, Driver], tasks: Sequence[Task], rounds: int, samples: Samples, tell: Tell
) -> list[Missing]:
    """Start the same services by devenv, golden, and by the peer in turn. Leave out and report a peer that fails."""
    missing = []
    for task in tasks:
        have_golden(side, *task.services)
        for _ in range(rounds):
            _devenv(side, task, samples, tell)
            try:
                up, down = drivers[task.peer].bring_up(task.services)
            except Failed as error:
                tell(str(error))
                missing.append(Missing(f"{task.title}: {', '.join(task.services)}", str(error).splitlines()[-1]))
                break
            _add(samples, task, task.peer, up, down, tell)
    return missing


def _devenv(side: Devenv, task: Task, samples: Samples, tell: Tell) -> None:
    up: Done = side.up(*task.services)
    _add(samples, task, side.name, up.seconds, side.down(volumes=True).seconds, tell)


def _add(samples: Samples, task: Task, who: str, up: float, down: float, tell: Tell) -> None:
    samples.add(f"up: {task.what}", who, up)
    samples.add(f"down: {task.what}", who, down)
    tell(f"  {who:<14} {' and '.join(task.services):<18} {up:6.2f} s, down {down:.2f} s")
