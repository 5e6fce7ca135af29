"""The library's face: one environment of one project, and what can be done with it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from devenv import wiring
from devenv.catalogue import load_catalogue
from devenv.engine import Engine, Tail, connect
from devenv.errors import ConfigError, NotReady
from devenv.execute import Context, Report, execute, target_of
from devenv.images import BASE, images_for, stale_images
from devenv.model import (
    Desired,
    DesiredService,
    Image,
    ImageStatus,
    Observed,
    ObservedContainer,
    Operation,
    Plan,
    Profile,
    Result,
    ServiceChoice,
    ServiceDefinition,
    ServiceStatus,
    Timing,
)
from devenv.plan import make_plan, plan_down, plan_images, plan_restart, plan_start, plan_stop
from devenv.ports import holder
from devenv.probe import load_probe
from devenv.profile import existing_folder, find_project, load_profile
from devenv.resolve import check_name, choose_ports, resolve, secret_names, select
from devenv.state import State, all_records, ports_locked

# What a container's end is called when somebody asked for it: by SIGTERM's and SIGKILL's numbers, or success.
_STOPPED = (0, 137, 143)


class Environment:
    """A set of base services for one project folder and one name.

        with_defaults = Environment()
        with_defaults.up()
        print(with_defaults.env()["DEVENV_MYSQL_URL"])

    `project` is any folder inside the project (the working directory, if not given); `profile` overrides what
    devenv.yaml picks. Nothing is touched before a method is called; each raises an error of devenv.errors.
    """

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
        self._recording = threading.Lock()
        self.catalogue: dict[str, ServiceDefinition] = {}
        self.images: dict[str, Image] = {}

    # ---- up and down -----------------------------------------------------------------------------------------

    def up(self, names: Sequence[str] = ()) -> Result:
        """Start the services (all of the profile, if none is named) and what they need; return when they work."""
        self._load()
        select(self.profile, self.catalogue, names)
        wiring.check(self.project, self.folder)
        with self._changing():
            desired, selected, observed = self._desired(names)
            if not self.engine.local:
                self._report.note(f"the ports are on 127.0.0.1 of the engine's host ({self.engine.url}): forward them")
            if others := sorted(set(observed.containers) - set(self.profile.services) - set(selected.services)):
                there = " ".join(others)
                self._report.note(f"still there, but not in the profile: {there} ('devenv down {there}' removes)")
            plan = make_plan(selected, observed, self.state.load().provisioned)
            timings = self._execute(plan, selected, observed)
            written = self._write(desired)
        return Result(plan, selected.services, timings, written)

    def plan(self, names: Sequence[str] = ()) -> Plan:
        """What `up` would do now. Changes nothing."""
        self._load()
        _desired, selected, observed = self._desired(names, keep=False)
        return make_plan(selected, observed, self.state.load().provisioned)

    def build_images(self, names: Sequence[str] = ()) -> Result:
        """Have every image of the services on the engine."""
        self._load()
        _desired, selected, observed = self._desired(names, keep=False, check_ports=False)
        plan = plan_images(selected, observed)
        return Result(plan, selected.services, self._execute(plan, selected, observed))

    def start(self, names: Sequence[str] = ()) -> Result:
        """Start containers that exist, as they are; return when their services work."""
        return self._existing(names, plan_start)

    def restart(self, names: Sequence[str] = ()) -> Result:
        """Stop and start containers that exist; return when their services work."""
        return self._existing(names, plan_restart)

    def wait(self, names: Sequence[str] = ()) -> Result:
        """Wait until services that were started work."""

        def ready(desired: Desired, _: Observed) -> Plan:
            return Plan(tuple(Operation("ready", name) for name in desired.services))

        # It changes nothing, so it keeps nobody from changing something.
        return self._existing(names, ready, nullcontext())

    def stop(self, names: Sequence[str] = ()) -> Result:
        """Stop containers and keep them, their data and their ports. What is not there counts as stopped."""
        with self._changing():
            observed = self.engine.observe(self.id)
            plan = plan_stop(self._present(observed, names), self._needs())
            return Result(plan, {}, self._execute(plan, self._nothing(), observed))

    def down(self, names: Sequence[str] = (), volumes: bool = False) -> Result:
        """Remove containers, and with `volumes` their data, too.

        For a whole environment also its network; and with `volumes` its secrets and written files.
        """
        with self._changing():
            observed = self.engine.observe(self.id)
            plan = plan_down(
                self._present(observed, names),
                self._needs(),
                () if names else observed.networks,
                self._volumes(observed, names) if volumes else (),
                gently=not volumes,
            )
            timings = self._execute(plan, self._nothing(), observed)
            if volumes and not names:
                self.state.forget()
                wiring.remove(self.project, self.folder, wiring.known_files(self.catalogue))
            elif volumes:
                record = self.state.load()
                kept = [pair for pair in record.provisioned if pair.partition("/")[0] not in names]
                self.state.save(replace(record, provisioned=kept))
        return Result(plan, {}, timings)

    # ---- looking ---------------------------------------------------------------------------------------------

    def status(self, names: Sequence[str] = ()) -> dict[str, ServiceStatus]:
        """The named services; without names all of the profile and whatever else of the environment is there."""
        self._load()
        desired, selected, observed = self._desired(names, keep=False, check_ports=False)
        services = {name: selected.services[name] for name in names} if names else desired.services
        with ThreadPoolExecutor(max(1, len(services))) as pool:
            statuses = pool.map(lambda service: self._status(service, observed), services.values())
            return dict(zip(services, statuses, strict=True))

    def env(self) -> dict[str, str]:
        """The flat map of the services that are there: DEVENV_<SERVICE>_HOST, …, and OS_* for identity."""
        self._load()
        desired, _selected, observed = self._desired((), keep=False, check_ports=False)
        present = [service for name, service in desired.services.items() if name in observed.containers]
        if not present:
            raise ConfigError(f"cannot tell any endpoint: nothing of {self.id} is there", hint="run 'devenv up' first")
        return wiring.flat_map(present)

    def container(self, name: str) -> ObservedContainer:
        """The running container of a service. Raises ConfigError if there is none."""
        found = self._containers(self.engine.observe(self.id), [name])[0]
        if not found.running:
            raise ConfigError(f"cannot use {name}: its container is {found.state}", hint=f"'devenv start {name}'")
        return found

    def containers(self, names: Sequence[str] = ()) -> dict[str, str]:
        """The containers' ids by service. Raises ConfigError if one of `names`, or any at all, is missing."""
        found = self._containers(self.engine.observe(self.id), names)
        if not found:
            raise ConfigError(f"cannot find a container of {self.id}", hint="'devenv up' makes them")
        return {container.service: container.id for container in found}

    def logs(self, name: str, tail: Tail = "all") -> list[str]:
        """The lines that a service logged, the last `tail` of them if a number is given."""
        return self.engine.logs(self.containers([name])[name], tail)

    # ---- images ----------------------------------------------------------------------------------------------

    def list_images(self) -> list[ImageStatus]:
        """The image of each service of the profile, the base first."""
        self._load()
        sizes = self.engine.image_sizes()
        return [
            ImageStatus(name, self.images[name].reference, sizes.get(self.images[name].reference))
            for name in (BASE, *self.profile.services)
        ]

    def prune_images(self) -> list[str]:
        """Remove images that devenv built and that nothing asks for any more; returns what was removed."""
        self._load()
        removed = []
        # Another project may name an image of its own for a service and still want the one that is built for others.
        wanted = {*images_for(Profile("", {}), self.catalogue).values(), *self.images.values()}
        for reference in stale_images(self.engine, wanted):
            if self.engine.remove_image(reference):
                removed.append(reference)
        return removed

    def image_references(self) -> dict[str, str]:
        """The image that each service of the profile runs, and the base of those that are built."""
        self._load()
        return {name: self.images[name].reference for name in (BASE, *self.profile.services)}

    def usual_ports(self) -> dict[int, str]:
        """The ports that the profile's services have when nobody else has them, with who wants each.

        Without those that this environment has already.
        """
        self._load()
        ours = self.state.load().ports.values()
        services = {name: self.catalogue[name] for name in self.profile.services if name in self.catalogue}
        wanted = [(e.port, f"{name} ({key})") for name, s in services.items() for key, e in s.endpoints.items()]
        return {port: who for port, who in wanted if port not in ours}

    @property
    def engine(self) -> Engine:
        """The engine, connected to at first use. Raises NoEngine."""
        if self._engine is None:
            self._engine = connect()
        return self._engine

    # ---- the steps -------------------------------------------------------------------------------------------

    def _load(self) -> None:
        self.catalogue = load_catalogue()
        self.profile = load_profile(self.project, self._profile_name)
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
        secrets = self.state.secrets(secret_names(everything, self.profile, self.catalogue), keep)
        desired = resolve(self.id, everything, self.profile, self.catalogue, self.images, ports, secrets)
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
                names, self.profile, self.catalogue, observed, record, all_records(), self._holder, check
            )
            if keep and (record.ports != {**record.ports, **ports} or record.profile != self.profile.name):
                record.ports.update(ports)
                self.state.save(replace(record, profile=self.profile.name))
        return ports

    def _holder(self, port: int) -> str:
        return self.engine.publisher(port) or holder(port)

    def _existing(
        self,
        names: Sequence[str],
        make: Callable[[Desired, Observed], Plan],
        lock: AbstractContextManager[None] | None = None,
    ) -> Result:
        self._load()
        with lock or self._changing():
            wanted = self.containers(names)
            desired, _selected, observed = self._desired((), keep=False, check_ports=False)
            there = {name: desired.services[name] for name in desired.services if name in wanted}
            selected = replace(desired, services=there)
            plan = make(selected, observed)
            return Result(plan, selected.services, self._execute(plan, selected, observed))

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

    def _execute(self, plan: Plan, desired: Desired, observed: Observed) -> list[Timing]:
        context = Context(
            engine=self.engine,
            desired=desired,
            containers={name: container.id for name, container in observed.containers.items()},
            network=next(iter(observed.networks), ""),
            timeout=self._timeout,
            catalogue=self.catalogue,
            images=self.images,
            stop_seconds={name: s.options.stop_grace_period for name, s in self.catalogue.items()},
            provisioned=self._remember_provisioned,
            cancelled=threading.Event(),
        )
        return execute(plan, context, self._report)

    def _remember_provisioned(self, pair: str) -> None:
        with self._recording:
            record = self.state.load()
            if pair not in record.provisioned:
                self.state.save(replace(record, provisioned=[*record.provisioned, pair]))

    def _write(self, desired: Desired) -> list[Path]:
        files = wiring.wired_files(desired.services, self.catalogue)
        return wiring.write(self.project, self.folder, files, wiring.known_files(self.catalogue))

    def _status(self, service: DesiredService, observed: Observed) -> ServiceStatus:
        container = observed.containers.get(service.name)
        state, reason = self._state_of(service, observed)
        return ServiceStatus(
            role=service.role,
            state=state,
            image=container.image if container else service.image.reference,
            container=container.name if container else "",
            endpoints=wiring.endpoints_of(service.endpoints),
            reason=reason,
        )

    def _state_of(self, service: DesiredService, observed: Observed) -> tuple[str, str]:
        container = observed.containers.get(service.name)
        if container is None:
            return "absent", "no container"
        if container.running:
            try:
                load_probe(service.probe["kind"])(target_of(service))
            except NotReady as error:
                idle = [name for name in service.depends if not _runs(observed, name)]
                return "starting", f"needs {', '.join(idle)}, which does not run" if idle else str(error)
            return "ready", ""
        if container.exit_code is None:
            return "stopped", f"container is {container.state}"
        if self.engine.state(container.id).get("OOMKilled"):
            return "failed", f"exited {container.exit_code}, killed for want of memory"
        return "stopped" if container.exit_code in _STOPPED else "failed", f"exited {container.exit_code}"


def _runs(observed: Observed, service: str) -> bool:
    return service in observed.containers and observed.containers[service].running
