"""Create and drop components for clients in one process, as in a test run. The soak watches its memory."""

from __future__ import annotations

import os
from multiprocessing.managers import BaseManager
from pathlib import Path

from devenv.lifecycle.environment import Environment
from devenv.testing.lease import Lease, LentComponent


class Keeper:
    """Lends components of an environment. Threads may share it."""

    def __init__(self, project: Path, environment: str) -> None:
        self._lease = Lease(Environment(project, environment))
        self._lent: dict[str, LentComponent] = {}

    def take(self) -> dict[str, str]:
        """Return the variables of a fresh component."""
        component = self._lease.component()
        self._lent[component.name] = component
        return component.env

    def give_back(self, name: str) -> None:
        self._lent.pop(name).give_back()

    def close(self) -> None:
        """Return when all components are dropped."""
        self._lease.close()

    def pid(self) -> int:
        return os.getpid()


class Manager(BaseManager):
    """Runs a keeper in a process of its own, with a thread for each client."""


Manager.register("Keeper", Keeper)


def resident(pid: int) -> float:
    """Return the megabytes of a process (RSS)."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
