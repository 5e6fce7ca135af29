"""Put load on one environment: many components, and many clients at work on all four services together."""

from __future__ import annotations

import os
import time
from concurrent.futures import ProcessPoolExecutor, wait
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from typing import Any

from tests.bench.samples import Tell
from tests.bench.sides import Devenv
from tests.soak.clients import work
from tests.soak.figures import Load, Work
from tests.soak.inventory import inventory
from tests.soak.keeper import Manager, resident

ENVIRONMENT = "soak"
_SAMPLE_SECONDS = 0.5


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
    """Return what all clients did, each in a process with `each` components, and samples of the keeper's memory."""
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
