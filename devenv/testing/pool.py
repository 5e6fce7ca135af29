"""Components for tests, made ahead: one that is asked for is there already, and goes behind the test's back."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

from devenv.errors import DevenvError
from devenv.model import ComponentChoice, Desired, Provision, ServiceDefinition
from devenv.services.base import Component, Provisioner
from devenv.services.lookup import load_provisioner
from devenv.services.readiness import target_of
from devenv.spec.components import provision
from devenv.store.state import new_secret

# So many are there for a process before it asks. Making one takes about 50 ms with all four services.
AHEAD = 4


@dataclass(frozen=True)
class Made:
    """A component with its part of each service; `note` is the file that says it may be there."""

    name: str
    desired: Desired
    note: Path
    parts: Mapping[str, Provision]
    begun: tuple[Future[None], ...] = ()


class Pool:
    """Components of one process, with parts of the same services. Threads may share it.

    `notes` makes a new file for each component, called like it: it is there for as long as anything of the component
    may be. Whoever finds one after the process has ended drops what was left. `going` are services that go with the
    last run: those that are slow to drop parts keep them until then.
    """

    def __init__(
        self,
        desired: Desired,
        catalogue: Mapping[str, ServiceDefinition],
        notes: Callable[[], Path],
        going: Collection[str] = (),
    ) -> None:
        services = {name: s for name, s in desired.services.items() if s.provisioner}
        self._desired, self._catalogue, self._notes = replace(desired, services=services), catalogue, notes
        self._provisioners: dict[str, Provisioner] = {
            name: load_provisioner(s.provisioner["kind"])(target_of(s, s.provisioner)) for name, s in services.items()
        }
        self._left = {name for name, one in self._provisioners.items() if name in going and one.slow_to_drop}
        self._ahead: deque[Made] = deque()
        self._lock = Lock()
        # Of all components so far: a service may log one of a component that has gone.
        self.passwords: list[str] = []
        # One for each service: they wait for servers nearly all the time.
        self._makers = ThreadPoolExecutor(len(services) or 1, thread_name_prefix="devenv-make")
        self._dropper = ThreadPoolExecutor(1, thread_name_prefix="devenv-drop")

    def fill(self) -> None:
        """Begin to make as many as there should be."""
        with self._lock:
            while len(self._ahead) < AHEAD:
                self._ahead.append(self._begin())

    def wait(self) -> None:
        """Return when those that are being made ahead are there, or failed: whoever takes one learns of that."""
        with self._lock:
            begun = [future for made in self._ahead for future in made.begun]
        futures.wait(begun)

    def take(self) -> Made:
        """A component that nobody had before. Raises ServiceFailed where a service refuses to make its part."""
        with self._lock:
            made = self._ahead.popleft() if self._ahead else self._begin()
        self.fill()
        try:
            for future in made.begun:
                future.result()
        except DevenvError:
            self.give_back(made)
            raise
        return made

    def give_back(self, made: Made) -> None:
        """Have a component dropped, some time. Hundreds may wait for that: no more of them is kept than it takes."""
        parts = {name: _called(part) for name, part in made.parts.items() if name not in self._left}
        self._dropper.submit(self._drop, made.note, parts, [one for one in made.begun if not one.done()])

    def close(self) -> None:
        """Drop what is left; return when all of it has gone."""
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
            part = provision(self._catalogue[name], service.values, ports, choice, password)
            services[name], parts[name] = replace(service, components={choice.name: part}), part
        desired = replace(self._desired, services=services, components={choice.name: choice})
        begun = tuple(self._makers.submit(self._ensure, name, part) for name, part in parts.items())
        return Made(choice.name, desired, note, parts, begun)

    def _ensure(self, service: str, part: Provision) -> None:
        self._provisioners[service].ensure(_called(part))

    def _drop(self, note: Path, parts: Mapping[str, Component], begun: Sequence[Future[None]]) -> None:
        # Those that a test may ask for any moment are made first.
        for future in [*begun, *(future for made in self._ahead for future in made.begun)]:
            future.exception()
        # What cannot be dropped now, as its service does not run, is dropped by the next `up`.
        with suppress(DevenvError):
            for service, component in parts.items():
                self._provisioners[service].drop(component)
            if not self._left:
                note.unlink(missing_ok=True)


def _called(part: Provision) -> Component:
    return Component(part.component, part.settings)
