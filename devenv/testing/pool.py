"""Create components for tests in advance, and drop them in the background: no test waits for either."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from devenv.errors import DevenvError
from devenv.model import Catalogue, ComponentChoice, Desired, Provision
from devenv.services.base import Component, Provisioner
from devenv.services.readiness import provisioner_of
from devenv.spec.components import Placed, provision
from devenv.store.state import new_secret

# A process has so many in advance. Creating one takes about 50 ms with all four services.
AHEAD = 4


def owner() -> tuple[int, object]:
    """Return what owns the threads of a pool: this process, and the library that makes its locks.

    A forked child does not have the threads of its parent. If eventlet or gevent replaces locks, threads of before
    cannot wake those that come after.
    """
    return os.getpid(), threading.Lock


@dataclass(frozen=True)
class Made:
    """Hold a component with its part of each service; `note` is the file that records that it may exist."""

    name: str
    desired: Desired
    note: Path
    parts: Mapping[str, Provision]
    begun: tuple[Future[None], ...] = ()


class Pool:
    """Hold the components of one process, with parts of the same services. Threads may share a pool.

    `notes` creates a file with the name of a new component; the file exists as long as anything of the component may
    exist. A devenv that finds such a file after the process has ended drops the component. `going` are services that
    stop with the last run: if they are slow to drop parts, they keep the parts until then.

    A pool is of use to its `owner` only. Another one leaves its components alone: `clear` drops them.
    """

    def __init__(
        self,
        desired: Desired,
        catalogue: Catalogue,
        notes: Callable[[], Path],
        going: Collection[str] = (),
    ) -> None:
        services = {name: s for name, s in desired.services.items() if s.provisioner}
        self._desired, self.catalogue, self._notes = replace(desired, services=services), catalogue, notes
        self._provisioners: dict[str, Provisioner] = {name: provisioner_of(s) for name, s in services.items()}
        self._left = {name for name, one in self._provisioners.items() if name in going and one.slow_to_drop}
        self._ahead: deque[Made] = deque()
        self._lock, self._owner = threading.Lock(), owner()
        # Passwords of all components so far: a service may log the password of a component that was dropped.
        self.passwords: list[str] = []
        # One thread for each service: a thread waits for its server nearly all the time.
        self._makers = ThreadPoolExecutor(len(services) or 1, thread_name_prefix="devenv-make")
        self._dropper = ThreadPoolExecutor(1, thread_name_prefix="devenv-drop")

    def fill(self) -> None:
        """Begin to create components until there are enough in advance."""
        with self._lock:
            while len(self._ahead) < AHEAD:
                self._ahead.append(self._begin())

    def wait(self) -> None:
        """Wait until the components created in advance exist or failed. `take` raises the failure."""
        with self._lock:
            begun = [future for made in self._ahead for future in made.begun]
        futures.wait(begun)

    def take(self) -> Made:
        """Return a component that nobody had before. Raise ServiceFailed if a service refuses to create its part."""
        with self._lock:
            made = self._ahead.popleft() if self._ahead else None
        if made and _failure(made):
            # It says nothing of now: a test may have stopped the service meanwhile, or blocked sockets.
            self.give_back(made)
            made = None
        with self._lock:
            made = made or self._begin()
        self.fill()
        if error := _failure(made):
            self.give_back(made)
            raise error
        return made

    def give_back(self, made: Made) -> None:
        """Drop a component in the background. Hundreds may wait for that, so keep only what dropping needs."""
        if self._owner != owner():
            return
        parts = {name: _called(part) for name, part in made.parts.items() if name not in self._left}
        self._dropper.submit(self._drop, made.note, parts, [one for one in made.begun if not one.done()])

    def close(self) -> None:
        """Drop all components; return when they are dropped."""
        while self._ahead:
            self.give_back(self._ahead.popleft())
        self._makers.shutdown()
        self._dropper.shutdown()
        for provisioner in self._provisioners.values():
            provisioner.close()

    def _begin(self) -> Made:
        note = self._notes()
        choice = ComponentChoice(note.stem)
        services, parts = {}, {}
        for name, service in self._desired.services.items():
            ports = {key: endpoint.port for key, endpoint in service.endpoints.items()}
            self.passwords.append(password := new_secret())
            part = provision(Placed(self.catalogue[name], ports), service.values, choice, password)
            services[name], parts[name] = replace(service, components={choice.name: part}), part
        desired = replace(self._desired, services=services, components={choice.name: choice})
        begun = tuple(self._makers.submit(self._ensure, name, part) for name, part in parts.items())
        return Made(choice.name, desired, note, parts, begun)

    def _ensure(self, service: str, part: Provision) -> None:
        self._provisioners[service].ensure(_called(part))

    def _drop(self, note: Path, parts: Mapping[str, Component], begun: Sequence[Future[None]]) -> None:
        # First finish the components that a test may ask for any moment.
        for future in [*begun, *(future for made in self._ahead for future in made.begun)]:
            future.exception()
        # If a service does not run, the next `up` drops what is left in it.
        with suppress(DevenvError):
            for service, component in parts.items():
                self._provisioners[service].drop(component)
            if not self._left:
                note.unlink(missing_ok=True)


def _failure(made: Made) -> BaseException | None:
    """Wait for a component; return why a service could not create its part."""
    return next((error for future in made.begun if (error := future.exception())), None)


def _called(part: Provision) -> Component:
    return Component(part.component, part.settings)
