"""Services, and a component, lent to a run for as long as it lasts.

What a run brings up goes with the last run that uses the environment; what was there before stays as it was.
A killed run holds no lock any more: what it left goes with the next `up` or run, or with `gc`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from devenv.errors import ConfigError, DevenvError
from devenv.lifecycle.plan import plan_stop
from devenv.lifecycle.timing import Watch
from devenv.lifecycle.up import BringUp
from devenv.model import Desired, Observed, Operation, Plan, ServiceChoice
from devenv.names import check_component, identifier
from devenv.spec.components import check_free
from devenv.spec.desired import select
from devenv.wiring import folder as wiring

# What there was of a service before a run brought it up. So much is there again when the last run has ended.
_NOTHING, _DATA, _CONTAINER = "nothing", "data", "container"


class Lending(BringUp):
    """An environment whose services can be used for a while."""

    @contextmanager
    def lent(
        self, names: Sequence[str] = (), component: str = "", ending: Callable[[], None] | None = None
    ) -> Iterator[str]:
        """Services that work while the body runs (all of the profile, if none is named), and a component's name.

        A component of devenv.yaml keeps what it has. Any other is made for the run, under the name that is given or
        one of its own, and dropped afterwards. Raises ConfigError if another run has it. `ending` is called before
        anything goes, also if not all came up.
        """
        watch = Watch(self.id, self._report)
        # Nobody waits for the lock while the user is asked.
        self._load_profile()
        self._check_trust()
        with ExitStack() as stack:
            with self._changing():
                self._load()
                name = component or f"run-{secrets.token_hex(4)}"
                # It ends the other way round: the component goes, then the services if nobody else uses them.
                stack.callback(self._return_services)
                stack.enter_context(self.state.using())
                if name not in self._listed:
                    self._check_free(name)
                    stack.enter_context(self.state.lent(check_component(name)))
                    stack.callback(self._take_back, name)
                if ending:
                    stack.callback(ending)
                with self._as_found(names), self._noting(watch):
                    self._bring_up(names)
            yield name

    @contextmanager
    def shared(self) -> Iterator[Path]:
        """Be one of those who use the services that `borrow` brings up; a folder to note components in.

        They go on running afterwards: `clear` ends those that nobody uses any more.
        """
        with ExitStack() as stack:
            with self._changing():
                self._load()
                stack.enter_context(self.state.using())
                folder = stack.enter_context(self.state.pool())
            yield folder

    def borrow(self, names: Sequence[str] = ()) -> Desired:
        """Services that work (all of the profile, if none is named) with what they need; for who has them `shared`."""
        watch = Watch(self.id, self._report)
        watch.phase("wait for another devenv")
        with self._changing():
            # Where all of it runs already, that nothing was done is not worth a record.
            with self._as_found(names) as missing, self._noting(watch) if missing else nullcontext():
                self._bring_up(names)
            desired, selected, observed = self._desired(names, keep=False, check_ports=False)
        services = {name: desired.services[name] for name in selected.services if observed.runs(name)}
        return replace(desired, services=services)

    def selected(self, names: Sequence[str] = ()) -> list[str]:
        """The named services (all of the profile, if none is named) and those that they need."""
        self._load()
        return list(select(self.profile, self.catalogue, names))

    def make_room(self) -> None:
        """Remove what killed runs left of the whole environment, if nobody uses it.

        Raises ConfigError if it is somebody's own: it was brought up, and not by a run.
        """
        with self._changing():
            if self.state.used():
                return
            observed, borrowed = self.observe(), self.state.load().borrowed
            if own := sorted(name for name in observed.services if borrowed.get(name) != _NOTHING):
                raise ConfigError(
                    f"cannot begin afresh in environment {self.name!r}: it has {', '.join(own)}, and no run made it",
                    f"'devenv --env {self.name} down --volumes' removes that; or name another environment",
                )
            if observed.services:
                self._take_down((), volumes=True)

    def going(self) -> set[str]:
        """The services that go, with their data, when the last run has ended."""
        going = {name for name, was in self.state.load().borrowed.items() if was == _NOTHING}
        needs = self._needs()
        # What it keeps in a service that stays, stays.
        while staying := {name for name in going if not going.issuperset(needs.get(name, ()))}:
            going -= staying
        return going

    def clear(self, others: bool = True) -> None:
        """Take away what killed runs left: the services that nobody uses, and their components in the others.

        Without `others` components stay while somebody uses the services.
        """
        self._return_services()
        with self._changing():
            if (self.state.lendings() or self.state.abandoned()) and (others or not self.state.used()):
                self._load()
                self._adopt()
                self._drop(self._left_behind())

    # ---- services ----------------------------------------------------------------------------------------------

    @contextmanager
    def _as_found(self, names: Sequence[str]) -> Iterator[list[str]]:
        """Have those of the services that run be taken as they are inside; the names of the others.

        It is remembered what was there of these, so that what a killed run brought up is known to be a run's. Raises
        ConfigError if one that runs cannot be what is asked for.
        """
        self._prepare(names)
        observed, record = self.observe(), self.state.load()
        wanted = select(self.profile, self.catalogue, names)
        running = [name for name in wanted if observed.runs(name)]
        missing = [name for name in wanted if name not in running]
        for name in running:
            self._check_pins(name, observed.containers[name].ports)
        before = {name: _before(name, observed) for name in missing if name not in record.borrowed}
        if before:
            self.state.save(replace(record, borrowed={**record.borrowed, **before}))
        self._as_it_is = running
        try:
            yield missing
        finally:
            self._as_it_is = ()

    def _check_pins(self, service: str, published: Mapping[int, int]) -> None:
        """Raise ConfigError if a service that runs answers elsewhere than on the ports that are pinned for it."""
        pinned = self.profile.services.get(service, ServiceChoice()).ports
        for endpoint, definition in self.catalogue[service].endpoints.items():
            port, there = pinned.get(endpoint), published.get(definition.port)
            if port and there and port != there:
                raise ConfigError(
                    f"cannot use {service} as it runs: it answers on port {there}, and {port} is pinned for it",
                    f"'devenv up {service}' makes it what devenv.yaml says; or unpin the port",
                )

    def _keep(self, services: Collection[str]) -> None:
        """Have services be the user's own from now on."""
        borrowed = self.state.load().borrowed
        self.state.amend(borrowed={name: was for name, was in borrowed.items() if name not in services})

    def _return_services(self) -> None:
        """Have services be what they were before runs brought them up, if this was the last run."""
        if not self.state.load().borrowed:
            return
        with self._changing():
            borrowed = self.state.load().borrowed
            if self.state.used():
                return
            observed = self.observe()
            was: dict[str, list[str]] = {_NOTHING: [], _DATA: [], _CONTAINER: []}
            for name, what in borrowed.items():
                was[what].append(name)
            if observed.services <= {*was[_NOTHING]}:
                self._take_down((), volumes=True)
                return
            stops = [container for container in observed.containers.values() if container.service in was[_CONTAINER]]
            self._execute(plan_stop(stops, self._needs()), self._nothing(), observed)
            for names, volumes in ((was[_NOTHING], True), (was[_DATA], False)):
                if names:
                    self._take_down(names, volumes)
            if observed.containers.keys() <= {*was[_NOTHING], *was[_DATA]}:
                self._take_down((), volumes=False)  # the network
            self.state.amend(borrowed={})

    # ---- components --------------------------------------------------------------------------------------------

    def _check_free(self, name: str) -> None:
        """Raise ConfigError if somebody's component is the same to a service: it would go when the run ends.

        Also if the name is a service's: Keystone's database would go.
        """
        check_free(name, self.catalogue)
        held = {other for other, has in self.state.lendings().items() if has and other != name}
        for other in sorted(self._listed | held | (self._former() - self._left_behind())):
            if identifier(other) == identifier(name):
                raise ConfigError(
                    f"cannot make component {name!r} for a run: data of {other!r} would go with it",
                    "choose another name" if other != name else "choose another name, or 'devenv up --drop' drops it",
                )

    def _take_back(self, component: str) -> None:
        with self._changing():
            # Its user may have put it into devenv.yaml meanwhile.
            try:
                self._load()
            except DevenvError as error:
                self._report.note(f"{component} is not dropped ({error.message}): 'devenv gc' does it")
                return
            if component in self._listed:
                self.state.kept(component)
            else:
                self._drop({component})

    def _drop(self, components: set[str]) -> None:
        """Drop components that were made for runs. What cannot be dropped now goes with the next `up`."""
        pairs = [pair for pair in self.state.load().provisioned if pair.partition("/")[2] in components]
        try:
            if pairs:
                # Not only what is known to be in place: an interrupted `up` may have made more.
                present, _selected, observed = self._desired((), keep=False, check_ports=False)
                drops = [Operation("drop", p, "its run has ended") for p in pairs if observed.runs(p.partition("/")[0])]
                self._execute(Plan(tuple(drops)), present, observed)
            self._forget_lent(components)
            if pairs:
                self._write(wiring.wired_files(self._there(()), self.catalogue))
        except DevenvError as error:
            names = ", ".join(sorted(components))
            self._report.note(f"not all of {names} is dropped ({error.message}): 'devenv gc' does it")


def _before(service: str, observed: Observed) -> str:
    if service in observed.containers:
        return _CONTAINER
    return _DATA if service in observed.volumes.values() else _NOTHING
