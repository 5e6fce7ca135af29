"""Many components on one environment, and many clients at work on all four services at once."""

from __future__ import annotations

import os
import time
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from statistics import mean
from typing import Any

from tests.bench.samples import Tell
from tests.bench.sides import Devenv
from tests.soak.clients import SERVICES, Work, work
from tests.soak.inventory import inventory
from tests.soak.keeper import Manager, resident

ENVIRONMENT = "soak"
_SAMPLE_SECONDS = 0.5
# More than this much of the first quarter's memory in the last one is growth.
_FLAT = 1.1


@dataclass(frozen=True)
class Load:
    """What came of it: `resident` are megabytes of devenv's own process while clients worked, `closing` the seconds
    until it had dropped all components, `left` what the services hold afterwards that they did not before.
    """

    components: int
    clients: int
    seconds: float
    work: Work
    resident: tuple[float, ...]
    closing: float
    left: tuple[str, ...]

    @property
    def first_quarter(self) -> float:
        return mean(self.resident[: max(1, len(self.resident) // 4)])

    @property
    def last_quarter(self) -> float:
        return mean(self.resident[-max(1, len(self.resident) // 4) :])

    @property
    def grown(self) -> bool:
        return self.last_quarter > self.first_quarter * _FLAT

    @property
    def problems(self) -> list[str]:
        """What should not be."""
        found = [f"{count} times {error}" for error, count in self.work.errors.items()]
        found += [f"{service} was not used" for service in SERVICES if not self.work.uses[service]]
        return [*found, *(f"not dropped: {name}" for name in self.left)]


def measure_load(side: Devenv, components: int, clients: int, seconds: float, tell: Tell) -> Load:
    """Bring an environment up, have all clients work in it, drop the components, and take it down."""
    os.environ.update(side.environment)
    side.up()
    try:
        before = inventory(side.variables())
        with Manager(ctx=get_context("spawn")) as manager:
            keeper = manager.Keeper(side.folder / "project", ENVIRONMENT)
            done, samples = _worked(keeper, components // clients, clients, seconds, tell)
            tell("  all components go")
            began = time.monotonic()
            keeper.close()
            closing = time.monotonic() - began
        left = inventory(side.variables()) - before
    finally:
        side.down(volumes=True)
    return Load(components, clients, seconds, done, tuple(samples), closing, tuple(sorted(left)))


_BEGIN: list[Barrier] = []


def _worked(keeper: Any, each: int, clients: int, seconds: float, tell: Tell) -> tuple[Work, list[float]]:
    """What all clients did, each in a process of its own with `each` components; and samples of the keeper's memory."""
    processes = get_context("fork")
    begin = processes.Barrier(clients + 1)
    pid, samples, done = keeper.pid(), list[float](), Work()
    with ProcessPoolExecutor(clients, processes, _BEGIN.append, (begin,)) as pool:
        working = {pool.submit(_work, keeper, each, seconds) for _ in range(clients)}
        tell(f"  {clients} clients take {each} components each")
        begin.wait()
        tell(f"  they work for {seconds:.0f} s")
        until = time.monotonic() + seconds
        while time.monotonic() < until and not wait(working, _SAMPLE_SECONDS).done:
            samples.append(resident(pid))
        for future in working:
            done.add(future.result())
    return done, samples


def _work(keeper: Any, components: int, seconds: float) -> Work:
    return work(keeper, _BEGIN[0], components, seconds)
