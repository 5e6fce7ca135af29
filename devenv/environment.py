"""The library's face: one environment of one project, and what can be done with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from devenv import wiring
from devenv.engine import Tail
from devenv.errors import ConfigError, PortTaken
from devenv.images import BASE, images_for, stale_images
from devenv.model import (
    Desired,
    ImageStatus,
    Observed,
    ObservedContainer,
    Operation,
    Plan,
    Profile,
    Result,
    ServiceStatus,
)
from devenv.plan import make_plan, plan_down, plan_images, plan_restart, plan_start, plan_stop
from devenv.resolve import select
from devenv.status import status_of
from devenv.steps import Job, Steps

if TYPE_CHECKING:
    from devenv.merge import Change

# How often another port is tried when somebody was quicker.
_PORT_ATTEMPTS = 3


class Environment(Steps):
    """A set of base services for one project folder and one name.

        with_defaults = Environment()
        with_defaults.up()
        print(with_defaults.env()["DEVENV_MYSQL_URL"])

    `project` is any folder inside the project (the working directory, if not given); `profile` overrides what
    devenv.yaml picks. Nothing is touched before a method is called; each raises an error of devenv.errors.
    """

    # ---- up and down -----------------------------------------------------------------------------------------

    def up(self, names: Sequence[str] = (), drop: bool = False) -> Result:
        """Start the services (all of the profile, if none is named) and what they need; return when they work.

        Components get their parts of them. With `drop`, those that are not in devenv.yaml any more lose theirs.
        """
        self._load()
        select(self.profile, self.catalogue, names)
        wiring.check(self.project, self.folder)
        with self._changing():
            attempts = _PORT_ATTEMPTS
            while True:
                before = self.state.load().ports
                try:
                    return self._up(names, drop)
                except PortTaken as error:
                    attempts -= 1
                    # Ports that were this environment's before stay its own; those chosen a moment ago can be others.
                    if not attempts or not self._give_back(before):
                        raise
                    self._report.note(f"{error}: taking another one")

    def _up(self, names: Sequence[str], drop: bool) -> Result:
        desired, selected, observed = self._desired(names)
        files = wiring.wired_files(desired, self.catalogue)
        jobs = self._kept_current(desired)
        for job in jobs:
            self._merge(job, files, write=False)
        if not self.engine.local:
            self._report.note(f"the ports are on 127.0.0.1 of the engine's host ({self.engine.url}): forward them")
        if others := sorted(set(observed.containers) - set(self.profile.services) - set(selected.services)):
            there = " ".join(others)
            self._report.note(f"still there, but not in the profile: {there} ('devenv down {there}' removes)")
        plan = make_plan(selected, observed, self.state.load().provisioned, drop)
        self._note_former(selected, plan)
        timings = self._execute(plan, selected, observed)
        written = [*self._write(files), *self._rewire(jobs, files)]
        return Result(plan, selected.services, timings, written)

    def plan(self, names: Sequence[str] = (), drop: bool = False) -> Plan:
        """What `up` would do now. Changes nothing."""
        self._load()
        _desired, selected, observed = self._desired(names, keep=False)
        return make_plan(selected, observed, self.state.load().provisioned, drop)

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
            record = self.state.load()
            if volumes and not names:
                self._restore_files()
                wiring.remove(self.project, self.folder, {*wiring.known_files(self.catalogue), *record.files})
                self.state.forget()
            elif volumes:
                kept = {p: digest for p, digest in record.provisioned.items() if p.partition("/")[0] not in names}
                self.state.save(replace(record, provisioned=kept))
        return Result(plan, {}, timings)

    # ---- looking ---------------------------------------------------------------------------------------------

    def status(self, names: Sequence[str] = ()) -> dict[str, ServiceStatus]:
        """The named services; without names all of the profile and whatever else of the environment is there."""
        self._load()
        desired, selected, observed = self._desired(names, keep=False, check_ports=False)
        services = {name: selected.services[name] for name in names} if names else desired.services
        with ThreadPoolExecutor(max(1, len(services))) as pool:
            statuses = pool.map(lambda service: status_of(service, observed, self.engine), services.values())
            return dict(zip(services, statuses, strict=True))

    def env(self, component: str = "") -> dict[str, str]:
        """The flat map of the services that are there: DEVENV_<SERVICE>_HOST, …, and OS_* for identity.

        It is the administrator's, or the component's own with the options of its overlay for oslo.config, too.
        """
        present = self._there([component] if component else ())
        if not component:
            return wiring.flat_map(present.services)
        overlay = wiring.wired_files(present, self.catalogue)[wiring.overlay_name(component)]
        return wiring.component_map(present.services, component, overlay)

    def export(self, kind: str) -> str:
        """The environment in another tool's words. Raises ConfigError for a tool that devenv does not know."""
        if kind not in wiring.exports():
            raise ConfigError(f"cannot export for {kind!r}", hint="there are: " + ", ".join(wiring.exports()))
        return wiring.exported(kind, self._there(()).services, self.catalogue)

    # ---- the project's own files -----------------------------------------------------------------------------

    def wire(
        self, component: str = "", files: Sequence[Path] = (), clouds: Path | None = None, write: bool = True
    ) -> list[Change]:
        """Merge components' options into the project's own files; returns what changes there.

        `files` stand for those that devenv.yaml lists; without `component` it is those of all. `clouds` is a
        clouds.yaml to merge all clouds into. Without `write` nothing is changed. `up` keeps these files current.
        """
        present = self._there([component] if component else ())
        listed = self._listed(present, component)
        known = {job.path.resolve() for job in listed}
        jobs = [Job(path, component, path.resolve() in known) for path in files]
        if not jobs and not clouds and not (jobs := listed):
            raise ConfigError("cannot tell which file to wire: devenv.yaml lists none", "name a component and a file")
        jobs += [Job(clouds, "", False)] if clouds else []
        texts = wiring.wired_files(present, self.catalogue)
        with self._changing() if write else nullcontext():
            changes = [self._merge(job, texts, write) for job in jobs]
        self._tell(changes)
        return changes

    def unwire(
        self, component: str = "", files: Sequence[Path] = (), clouds: Path | None = None, write: bool = True
    ) -> list[Change]:
        """Restore what the project's own files held before; all of them, unless some are named."""
        named = [*files, *([clouds] if clouds else ())]
        paths = named or [w.path for w in self._wired() if component in ("", w.component)]
        with self._changing() if write else nullcontext():
            changes = [self._unmerge(path, write) for path in paths]
        self._tell(changes)
        return changes

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

    # ---- the steps -------------------------------------------------------------------------------------------

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
