"""What the methods of Environment are made of: loading, what should be and what is, doing it and remembering it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from devenv.engine.containers import Engine, connect
from devenv.errors import Cancelled, ConfigError
from devenv.images import snapshot
from devenv.images.golden import references
from devenv.images.references import BASE, images_for
from devenv.lifecycle.execute import Context, execute
from devenv.lifecycle.plan import plan_down
from devenv.model import (
    ComponentChoice,
    Desired,
    DesiredService,
    Image,
    Observed,
    ObservedContainer,
    Plan,
    Profile,
    ProjectFile,
    Report,
    Result,
    ServiceChoice,
    ServiceDefinition,
    Timing,
)
from devenv.names import check_name
from devenv.ports import holder
from devenv.spec.catalogue import load_catalogue
from devenv.spec.components import check_components, former_components, needed_components
from devenv.spec.desired import choose_ports, providers, resolve, secret_names, select
from devenv.spec.profile import existing_folder, find_project, load_profile
from devenv.store.record import Record
from devenv.store.state import Notes, State, all_records, new_token, ports_locked
from devenv.wiring import folder as wiring
from devenv.wiring.project_files import ProjectFiles

# In place of a digest: whether a service was prepared, and with what, is not known.
BEGUN = "begun"


class Steps:
    """One environment of one project: how it is named, where it is, and the steps that act on it."""

    def __init__(
        self,
        project: Path | str | None = None,
        name: str = "default",
        profile: str = "",
        report: Report | None = None,
        wait_timeout: float = 180.0,
        settings: Mapping[str, Any] | None = None,
        ask: Callable[[ProjectFile], bool] | None = None,
    ) -> None:
        self.name = check_name(name, "an environment")
        self.project, self.state = self._located(Path(project or "."))
        self.folder = wiring.folder_of(self.project, name)
        self.id = self.state.id
        self._profile_name, self._settings, self._ask = profile, settings, ask
        self._report = report or Report()
        self._files = ProjectFiles(self.project, self.id, name == "default", self._report.note)
        self._timeout = wait_timeout
        self._lost_ports: list[int] = []
        # What carries the environment's label and is not its own, as it was seen last.
        self.strangers: tuple[str, ...] = ()
        self._cancelled, self._over = threading.Event(), threading.Event()
        self._notes = Notes(self.state)
        # The components of devenv.yaml; the profile has those that are lent, too.
        self._listed: frozenset[str] = frozenset()
        self.catalogue: dict[str, ServiceDefinition] = {}
        self.images: dict[str, Image] = {}

    def _located(self, folder: Path) -> tuple[Path, State]:
        project = find_project(existing_folder(folder))
        return project, State(project, self.name)

    @cached_property
    def engine(self) -> Engine:
        """The engine, connected to at first use. Raises NoEngine."""
        return connect()

    def cancel(self) -> None:
        """From another thread: end what is being done, as an interrupt would, and do nothing after it.

        It raises Cancelled there.
        """
        self._over.set()
        self._cancelled.set()

    # ---- what should be, and what is -------------------------------------------------------------------------

    def observe(self) -> Observed:
        """What the engine has of the environment. Who only carries its label is told of, once."""
        observed = self.engine.observe(self.id, self.state.load().owner)
        if new := [stranger for stranger in observed.strangers if stranger not in self.strangers]:
            self._report.note(f"left alone, labelled as this environment's and not made by it: {', '.join(new)}")
        self.strangers = observed.strangers
        return observed

    def _load_profile(self) -> None:
        self._own = load_profile(self.project, self._profile_name, settings=self._settings)
        self._listed = frozenset(self._own.components)
        self._look_at_lendings()

    def _load(self) -> None:
        self._load_profile()
        switches = {name: choice.switches for name, choice in self.profile.services.items()}
        self.catalogue = load_catalogue(
            switches=switches, asked_by=self.profile.source, everywhere={"durable": self.profile.durable}
        )
        check_components(self.profile, self.catalogue)
        self.images = images_for(self.profile, self.catalogue)

    def _look_at_lendings(self) -> None:
        """Have the profile with the components that somebody has for a while: again, after a wait for the lock."""
        own = self._own.components
        lent = [name for name, held in self.state.lendings().items() if held and name not in own]
        self.profile = replace(self._own, components={**own, **{name: ComponentChoice(name) for name in lent}})

    @contextmanager
    def _changing(self) -> Iterator[None]:
        # Neither a broken devenv.yaml nor a profile that is gone keeps anybody from stopping what runs.
        self.catalogue = self.catalogue or load_catalogue()
        with self.state.locked(self._report.note, self._over):
            yield

    def _desired(
        self, names: Sequence[str], keep: bool = True, check_ports: bool = True
    ) -> tuple[Desired, Desired, Observed]:
        """What should be: of all services that are there or wanted, and of the wanted ones only; and what is.

        With `keep`, the token, new ports and secrets are remembered before anything on the engine carries them.
        """
        selected = select(self.profile, self.catalogue, names)
        observed = self.observe()
        if keep and not observed.owner:
            observed = replace(observed, owner=new_token())
        present = [name for name in observed.containers if name in self.catalogue and name not in selected]
        everything = select(self._widened([*present, *selected]), self.catalogue, [*present, *selected])
        # Those of a remote engine are not this host's, where a tunnel to them may have the same.
        ports = self._ports(everything, observed, keep, check_ports and self.engine.local)
        former = former_components(self.state.load().provisioned, self.profile, self.catalogue)
        secrets = self.state.secrets(secret_names(everything, self.profile, self.catalogue, former), keep)
        desired = resolve(self.id, everything, self.profile, self.catalogue, self.images, ports, secrets, former)
        desired = replace(desired, owner=observed.owner)
        services = {name: desired.services[name] for name in selected}
        images = (self.images[BASE], *(service.image for service in services.values()))
        return desired, replace(desired, services=services, images=images), observed

    def _on_paper(self) -> Desired:
        """What `up` would make of the whole profile, told without an engine; ports and secrets are kept like there."""
        selected = select(self.profile, self.catalogue)
        with self._changing():
            ports = self._ports(selected, Observed(), keep=True, check=False)
            secrets = self.state.secrets(secret_names(selected, self.profile, self.catalogue))
        return resolve(self.id, selected, self.profile, self.catalogue, self.images, ports, secrets)

    def _widened(self, present: Sequence[str]) -> Profile:
        """The profile, with services that are there although it does not (or no longer) have them."""
        more = {name: ServiceChoice() for name in present if name not in self.profile.services}
        return replace(self.profile, services={**self.profile.services, **more})

    def _ports(self, names: Sequence[str], observed: Observed, keep: bool, check: bool) -> dict[str, int]:
        with ports_locked(self._report.note) if keep else nullcontext():
            record = self.state.load()
            ports = choose_ports(
                names, self.profile, self.catalogue, observed, record, self._others(), self._holder, check
            )
            owner = record.owner or observed.owner
            known = replace(record, profile=self.profile.name, ports={**record.ports, **ports}, owner=owner)
            if keep and known != record:
                self.state.save(known)
        return ports

    def _others(self) -> list[Record]:
        lost = Record("", "", "", ports={str(port): port for port in self._lost_ports})
        return [*all_records(), lost]

    def _give_back(self, before: Mapping[str, int]) -> bool:
        """Forget the ports that were not there `before`, and do not choose them again; whether there were any."""
        record = self.state.load()
        self._lost_ports += [port for key, port in record.ports.items() if key not in before]
        self.state.save(replace(record, ports={key: port for key, port in record.ports.items() if key in before}))
        return len(record.ports) > len(before)

    def _holder(self, port: int) -> str:
        return self.engine.publisher(port) or holder(port)

    def _present(self, observed: Observed, names: Sequence[str]) -> list[ObservedContainer]:
        """The containers that there are of these services. Raises ConfigError for a service that nobody knows."""
        for name in names:
            if name not in self.catalogue and name not in observed.containers:
                raise ConfigError(f"cannot find service {name!r}", hint="there are: " + ", ".join(self.catalogue))
        everything = (*observed.containers.values(), *observed.extra)
        return [container for container in everything if not names or container.service in names]

    def _containers(self, observed: Observed, names: Sequence[str]) -> list[ObservedContainer]:
        for name in names:
            if name not in observed.containers:
                raise ConfigError(
                    f"cannot find a container of {name!r} in {self.id}",
                    hint="there are: " + (", ".join(observed.containers) or "none; 'devenv up' makes them"),
                )
        return [observed.containers[name] for name in names or observed.containers]

    def _volumes(self, observed: Observed, names: Collection[str]) -> dict[str, str]:
        """The volumes of these services (without names, all that there are), each with its service."""
        if not names:
            return {**observed.volumes, **dict.fromkeys(self.engine.leftover_volumes(self.id, observed.owner), "")}
        return {volume: service for volume, service in observed.volumes.items() if service in names}

    def _needs(self) -> dict[str, list[str]]:
        """Which services may hold on to which, by the roles that they require."""
        return {
            name: [other.name for other in self.catalogue.values() if any(other.role == r.role for r in s.requires)]
            for name, s in self.catalogue.items()
        }

    def _nothing(self) -> Desired:
        return Desired(self.id, f"devenv-{self.id}", {})

    # ---- doing and remembering -------------------------------------------------------------------------------

    def _execute(self, plan: Plan, desired: Desired, observed: Observed) -> list[Timing]:
        """Carry a plan out and remember what comes of it: for those who hold the environment's lock."""
        parts: dict[str, str] = {}
        ready: set[str] = set()
        made: set[str] = set()

        def note_renewed() -> None:
            # At once, like first starts. But who uses a service has to be made anew as well, or it misses its data.
            left = {op.target for op in plan.operations if op.action == "create"} - made
            missed = set().union(*(providers(name, desired) for name in left))
            self._notes.renewed({*self.state.load().renewed, *emptied} & ready - missed)

        def was_created(service: str) -> None:
            made.add(service)
            self._notes.starts((), [service] if self.catalogue[service].resumes else ())
            self._notes.made(service)
            note_renewed()

        def became_ready(service: str) -> None:
            ready.add(service)
            self._notes.starts((), [service])
            note_renewed()

        context = replace(
            self._context(desired, observed),
            provisioned=parts.__setitem__,
            created=was_created,
            became_ready=became_ready,
        )
        # Known before they are made: what a killed devenv leaves can then be found, made again or dropped.
        unknown = {"provision": "", "drop": "", "prepare": BEGUN}
        self._notes.parts({op.target: unknown[op.action] for op in plan.operations if op.action in unknown})
        emptied = [op.target for op in plan.operations if op.action == "empty"]
        created = [desired.services[op.target] for op in plan.operations if op.action == "create"]
        self._notes.starts([s.name for s in created if not set(s.volumes) <= set(observed.volumes)], ())
        try:
            return execute(plan, context, self._report)
        finally:
            self._notes.renewed({*emptied, *(service.name for service in created)} & ready)
            self._notes.parts(parts)
            self._notes.no_parts(
                [op.target for op in plan.operations if op.action == "drop" and parts.get(op.target) == ""]
            )

    def _execute_beside(self, plan: Plan, desired: Desired, observed: Observed) -> list[Timing]:
        """Carry out a plan that changes nothing of the environment, and leave its record to those who hold the lock."""
        return execute(plan, self._context(desired, observed), self._report)

    def _context(self, desired: Desired, observed: Observed) -> Context:
        self._cancelled = threading.Event()
        if self._over.is_set():
            raise Cancelled
        return Context(
            engine=self.engine,
            desired=desired,
            containers={name: container.id for name, container in observed.containers.items()},
            network=next(iter(observed.networks), ""),
            timeout=self._timeout,
            catalogue=self.catalogue,
            images=self.images,
            stop_seconds={name: s.options.stop_grace_period for name, s in self.catalogue.items()},
            golden=lambda service: self._golden_of(service, desired),
            note=self._report.note,
            cancelled=self._cancelled,
        )

    def _golden_of(self, service: DesiredService, desired: Desired) -> dict[str, str]:
        """The images for the golden state of a service, by volume: named by images as they are after all was built."""
        found = references(desired, self.catalogue, self.engine.images())
        return {volume: found[volume] for volume in service.golden}

    def _write(self, files: Mapping[str, str]) -> list[Path]:
        record = self.state.load()
        before = {*record.files, *wiring.known_files(self.catalogue)}
        if not before >= files.keys():
            # Known before they are written: what a killed devenv leaves is then ours to remove.
            self.state.amend(files=sorted({*record.files, *files}))
        written = wiring.write(self.project, self.folder, files, before)
        self.state.amend(files=sorted(files))
        return written

    def _take_down(self, names: Sequence[str], volumes: bool) -> Result:
        """Remove containers, with `volumes` their data, and for a whole environment all else that it has."""
        observed = self.observe()
        plan = plan_down(
            self._present(observed, names),
            self._needs(),
            () if names else observed.networks,
            self._volumes(observed, names) if volumes else {},
            gently=not volumes,
        )
        timings = self._execute(plan, self._nothing(), observed)
        record = self.state.load()
        if volumes and not names:
            self._remove_leftovers(observed.images)
            wiring.remove(self.project, self.folder, {*wiring.known_files(self.catalogue), *record.files})
            # Without a token on record, the next `up` might take over a stranger's.
            self.state.forget(observed.owner if observed.strangers else "")
            # Last: what cannot be restored stays on record for `unwire`, and keeps nothing from going down.
            for change in self._files.restore_all(wired.path for wired in self._files.wired()):
                if change.changed:
                    self._report.note(f"restored {change.path}")
        elif volumes:
            kept = {p: digest for p, digest in record.provisioned.items() if p.partition("/")[0] not in names}
            unfinished = [name for name in record.unfinished if name not in names]
            self.state.amend(provisioned=kept, unfinished=unfinished)
            self._notes.renewed(names)
        return Result(plan, {}, timings)

    def _remove_leftovers(self, images: Collection[str]) -> None:
        """Remove what an interrupted save of a snapshot left among these images."""
        if left := snapshot.leftovers(self.state, images):
            self.state.amend(saving=[image for image in left if not self.engine.remove_image(image)])

    # ---- components ----------------------------------------------------------------------------------------------

    def _there(self, components: Collection[str]) -> Desired:
        """What is there by now, as it should be. Raises ConfigError if that is nothing, or if no such component is."""
        self._load()
        for component in components:
            if component not in self.profile.components:
                known = ", ".join(self.profile.components) or "none"
                file = "." in component or "/" in component
                add = f"add it to devenv.yaml, 'components: {{{component}: {{}}}}', and run 'devenv up'"
                raise ConfigError(
                    f"cannot find component {component!r}; in devenv.yaml there are: {known}",
                    hint="name a component before the file, or --clouds before a clouds.yaml" if file else add,
                )
        desired, _selected, observed = self._desired((), keep=False, check_ports=False)
        services = {name: service for name, service in desired.services.items() if name in observed.containers}
        if not services:
            raise ConfigError(f"cannot tell any endpoint: nothing of {self.id} is there", hint="run 'devenv up' first")
        given = self._given(replace(desired, services=services))
        for component in components:
            if not any(component in service.components for service in given.services.values()):
                raise ConfigError(f"cannot use component {component!r}: no service has a part for it", "'devenv up'")
        return given

    def _given(self, desired: Desired) -> Desired:
        """The same with those parts of components only that are known to be in place."""
        record = self.state.load()
        services = {
            name: replace(
                s, components={c: part for c, part in s.components.items() if record.provisioned.get(part.pair)}
            )
            for name, s in desired.services.items()
        }
        return replace(desired, services=services)

    def _former(self) -> set[str]:
        """Who has a part of some service that nobody asks for any more."""
        return set(former_components(self.state.load().provisioned, self.profile, self.catalogue))

    def _left_behind(self) -> set[str]:
        """The components that were lent to somebody who was killed; those of devenv.yaml and of services never are."""
        return self.state.left_behind() - self._listed - needed_components(self.catalogue)
