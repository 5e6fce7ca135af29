"""What the methods of Environment are made of: loading, what should be and what is, doing it and remembering it."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from devenv import wiring
from devenv.catalogue import load_catalogue
from devenv.components import check_components, former_components
from devenv.engine import Engine, connect
from devenv.errors import ConfigError
from devenv.execute import Context, Report, execute
from devenv.images import BASE, images_for
from devenv.model import (
    Desired,
    Image,
    Observed,
    ObservedContainer,
    Plan,
    Profile,
    ServiceChoice,
    ServiceDefinition,
    Timing,
)
from devenv.ports import holder
from devenv.profile import existing_folder, find_project, load_profile
from devenv.resolve import check_name, choose_ports, resolve, secret_names, select
from devenv.state import Record, State, all_records, ports_locked, wired_record

if TYPE_CHECKING:
    from devenv.merge import Change, Wired


@dataclass(frozen=True)
class Job:
    """A file of the project's own to merge into: the options of a component, or clouds if `component` is empty.

    `listed` says that devenv.yaml asks for it, and so that it must be inside the project.
    """

    path: Path
    component: str
    listed: bool


class Steps:
    """One environment of one project: how it is named, where it is, and the steps that act on it."""

    def __init__(
        self,
        project: Path | str | None = None,
        name: str = "default",
        profile: str = "",
        report: Report | None = None,
        wait_timeout: float = 180.0,
    ) -> None:
        self.name = check_name(name, "the name of an environment")
        self.project = find_project(existing_folder(Path(project or ".")))
        self.folder = wiring.folder_of(self.project, name)
        self.state = State(self.project, name)
        self.id = self.state.id
        self._profile_name = profile
        self._report = report or Report()
        self._timeout = wait_timeout
        self._engine: Engine | None = None
        self._lost_ports: list[int] = []
        self.catalogue: dict[str, ServiceDefinition] = {}
        self.images: dict[str, Image] = {}

    @property
    def engine(self) -> Engine:
        """The engine, connected to at first use. Raises NoEngine."""
        if self._engine is None:
            self._engine = connect()
        return self._engine

    # ---- what should be, and what is -------------------------------------------------------------------------

    def _load(self) -> None:
        self.profile = load_profile(self.project, self._profile_name)
        switches = {name: choice.switches for name, choice in self.profile.services.items()}
        self.catalogue = load_catalogue(switches=switches, asked_by=self.profile.source)
        check_components(self.profile, self.catalogue)
        self.images = images_for(self.profile, self.catalogue)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        # Neither a broken devenv.yaml nor a profile that is gone keeps anybody from stopping what runs.
        self.catalogue = self.catalogue or load_catalogue()
        with self.state.locked(self._report.note):
            yield

    def _desired(
        self, names: Sequence[str], keep: bool = True, check_ports: bool = True
    ) -> tuple[Desired, Desired, Observed]:
        """What should be: of all services that are there or wanted, and of the wanted ones only; and what is.

        With `keep`, new ports and secrets are remembered before anything on the engine carries them.
        """
        selected = select(self.profile, self.catalogue, names)
        observed = self.engine.observe(self.id)
        present = [name for name in observed.containers if name in self.catalogue and name not in selected]
        everything = select(self._widened([*present, *selected]), self.catalogue, [*present, *selected])
        ports = self._ports(everything, observed, keep, check_ports)
        former = former_components(self.state.load().provisioned, self.profile, self.catalogue)
        secrets = self.state.secrets(secret_names(everything, self.profile, self.catalogue, former), keep)
        desired = resolve(self.id, everything, self.profile, self.catalogue, self.images, ports, secrets, former)
        services = {name: desired.services[name] for name in selected}
        images = (self.images[BASE], *(service.image for service in services.values()))
        return desired, replace(desired, services=services, images=images), observed

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
            if keep and (record.ports != {**record.ports, **ports} or record.profile != self.profile.name):
                record.ports.update(ports)
                self.state.save(replace(record, profile=self.profile.name))
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

    def _volumes(self, observed: Observed, names: Collection[str]) -> list[str]:
        if not names:
            return [*observed.volumes, *self.engine.leftover_volumes(self.id)]
        return [volume for volume, service in observed.volumes.items() if service in names]

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
        parts: dict[str, str] = {}
        context = Context(
            engine=self.engine,
            desired=desired,
            containers={name: container.id for name, container in observed.containers.items()},
            network=next(iter(observed.networks), ""),
            timeout=self._timeout,
            catalogue=self.catalogue,
            images=self.images,
            stop_seconds={name: s.options.stop_grace_period for name, s in self.catalogue.items()},
            provisioned=parts.__setitem__,
            cancelled=threading.Event(),
        )
        # Known before they are made: what a killed devenv leaves can then be found, made again or dropped.
        self._remember({op.target: "" for op in plan.operations if op.action == "provision"})
        try:
            return execute(plan, context, self._report)
        finally:
            self._remember(parts)
            self._forget([op.target for op in plan.operations if op.action == "drop" and op.target in parts])

    def _remember(self, parts: Mapping[str, str]) -> None:
        """What components have of services, by pair, with the digest of what they have or nothing."""
        record = self.state.load()
        if record.provisioned != (known := {**record.provisioned, **parts}):
            self.state.save(replace(record, provisioned=known))

    def _forget(self, pairs: Collection[str]) -> None:
        record = self.state.load()
        kept = {pair: digest for pair, digest in record.provisioned.items() if pair not in pairs}
        if kept != record.provisioned:
            self.state.save(replace(record, provisioned=kept))

    def _write(self, files: Mapping[str, str]) -> list[Path]:
        record = self.state.load()
        before = {*record.files, *wiring.known_files(self.catalogue)}
        if not before >= files.keys():
            # Known before they are written: what a killed devenv leaves is then ours to remove.
            self.state.save(replace(record, files=sorted({*record.files, *files})))
        written = wiring.write(self.project, self.folder, files, before)
        if (record := self.state.load()).files != sorted(files):
            self.state.save(replace(record, files=sorted(files)))
        return written

    # ---- components ----------------------------------------------------------------------------------------------

    def _there(self, components: Collection[str]) -> Desired:
        """What is there by now, as it should be. Raises ConfigError if that is nothing, or if no such component is."""
        self._load()
        for component in components:
            if component not in self.profile.components:
                known = ", ".join(self.profile.components) or "none"
                raise ConfigError(
                    f"cannot find component {component!r} (in {self.profile.source}); there are: {known}",
                    hint=f"add it to devenv.yaml, 'components: {{{component}: {{}}}}', and run 'devenv up'",
                )
        desired, _selected, observed = self._desired((), keep=False, check_ports=False)
        services = {name: service for name, service in desired.services.items() if name in observed.containers}
        if not services:
            raise ConfigError(f"cannot tell any endpoint: nothing of {self.id} is there", hint="run 'devenv up' first")
        record = self.state.load()
        for component in components:
            parts = [service.components[component] for service in services.values() if service.provisioner]
            if missing := [part.provider for part in parts if part.pair not in record.provisioned]:
                raise ConfigError(f"cannot use component {component!r}: {missing[0]} has no part for it", "'devenv up'")
        return replace(desired, services=services)

    def _note_former(self, selected: Desired, plan: Plan) -> None:
        record = self.state.load()
        dropped = {op.target for op in plan.operations if op.action == "drop"}
        parts = [part for service in selected.services.values() for part in service.former.values()]
        kept = {part.component for part in parts if part.pair in record.provisioned and part.pair not in dropped}
        if kept:
            names = " ".join(sorted(kept))
            self._report.note(f"not in devenv.yaml any more, their data is kept: {names} ('devenv up --drop' drops it)")

    # ---- the project's own files -----------------------------------------------------------------------------

    def _listed(self, desired: Desired, component: str = "") -> list[Job]:
        """What devenv.yaml wants merged, for one component or for all."""
        choices = [choice for choice in desired.components.values() if component in ("", choice.name)]
        return [Job(self.project / file, choice.name, True) for choice in choices for file in choice.wire]

    def _kept_current(self, desired: Desired) -> list[Job]:
        """What `up` merges: what is listed, and what somebody had merged by hand."""
        jobs = {job.path.resolve(): job for job in self._listed(desired)}
        for wired in self._wired():
            if not wired.listed and (not wired.component or wired.component in desired.components):
                jobs.setdefault(wired.path, Job(wired.path, wired.component, False))
        return list(jobs.values())

    def _merge(self, job: Job, texts: Mapping[str, str], write: bool) -> Change:
        source = wiring.overlay_name(job.component) if job.component else wiring.CLOUDS
        if source not in texts:
            raise ConfigError(f"cannot wire {job.path}: no service has anything for it", hint="'devenv up' first")
        from devenv import merge

        owner = merge.Owner(self.id, job.component)
        return merge.wire(job.path, self.project, owner, texts[source], job.listed, job.listed, write)

    def _unmerge(self, path: Path, write: bool = True) -> Change:
        from devenv import merge

        return merge.unwire(path, self.project, self.id, write)

    def _wired(self) -> list[Wired]:
        """The files with something merged into them. What merges is loaded only where there are any: 10 ms."""
        if not wired_record().exists():
            return []
        from devenv import merge

        return merge.wired(self.id)

    def _rewire(self, jobs: Sequence[Job], texts: Mapping[str, str]) -> list[Path]:
        """Merge what is wanted and restore what is not any more; returns the files that changed."""
        changes = [self._merge(job, texts, write=True) for job in jobs]
        wanted = {job.path.resolve() for job in jobs}
        changes += [self._unmerge(wired.path) for wired in self._wired() if wired.path not in wanted]
        self._tell(changes)
        return [change.path for change in changes if change.changed]

    def _restore_files(self) -> None:
        """Undo all merges. What cannot be undone stays on record for `unwire`, and keeps nothing from going down."""
        try:
            for wired in self._wired():
                try:
                    self._tell([self._unmerge(wired.path)])
                except ConfigError as error:
                    self._report.note(f"{error} ({error.hint})")
        except ConfigError as error:
            self._report.note(f"{error} ({error.hint})")

    def _tell(self, changes: Sequence[Change]) -> None:
        for change in changes:
            for note in change.notes:
                self._report.note(f"{change.path}: {note}")
