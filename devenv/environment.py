"""The library's face: one environment of one project, and what can be done with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from devenv import wiring
from devenv.components import needed_components
from devenv.engine import Tail
from devenv.errors import ConfigError, DevenvError, PortTaken
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
from devenv.profile import load_profile
from devenv.projectfiles import Job, Merges
from devenv.resolve import select
from devenv.status import status_of
from devenv.steps import Steps

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
        merges = self._preflight(desired)[0]
        if not self.engine.local:
            self._report.note(f"the ports are on 127.0.0.1 of the engine's host ({self.engine.url}): forward them")
        if others := sorted(set(observed.containers) - set(self.profile.services) - set(selected.services)):
            there = " ".join(others)
            self._report.note(f"still there, but not in the profile: {there} ('devenv down {there}' removes)")
        plan = self._plan(selected, observed, drop)
        try:
            timings = self._execute(plan, selected, observed)
        except DevenvError as error:
            # The others work: one component that cannot be made is no reason to leave them without their files.
            if error.operations and all(self._of_a_component(operation) for operation in error.operations):
                self._tell_programs(desired, merges)
            raise
        written, restored = self._tell_programs(desired, merges)
        self._note_former()
        components = [
            name for name in desired.components if any(name in s.components for s in desired.services.values())
        ]
        return Result(plan, selected.services, timings, written, restored, components)

    def plan(self, names: Sequence[str] = (), drop: bool = False) -> Plan:
        """What `up` would do now. Changes nothing."""
        self._load()
        desired, selected, observed = self._desired(names, keep=False)
        files = self._preflight(desired)[1]
        return replace(self._plan(selected, observed, drop), files=tuple(files))

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
                wiring.remove(self.project, self.folder, {*wiring.known_files(self.catalogue), *record.files})
                self.state.forget()
                # Last: what cannot be restored stays on record for `unwire`, and keeps nothing from going down.
                for change in self._files.restore_all(wired.path for wired in self._files.wired()):
                    if change.changed:
                        self._report.note(f"restored {change.path}")
            elif volumes:
                kept = {p: digest for p, digest in record.provisioned.items() if p.partition("/")[0] not in names}
                unfinished = [name for name in record.unfinished if name not in names]
                self.state.save(replace(record, provisioned=kept, unfinished=unfinished))
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

    # ---- the project's own files -----------------------------------------------------------------------------

    def wire(
        self, component: str = "", files: Sequence[Path] = (), clouds: Path | None = None, write: bool = True
    ) -> list[Change]:
        """Merge components' options into the project's own files; returns what changes there.

        `files` stand for those that devenv.yaml lists; without `component` it is those of all. `clouds` is a
        clouds.yaml to merge all clouds into. Without `write` nothing is changed. `up` keeps these files current.
        """
        present = self._there([component] if component else ())
        listed = self._files.listed(present, component)
        known = {job.path.resolve() for job in listed}
        jobs = [Job(path, component, path.resolve() in known) for path in files]
        if not jobs and not clouds and not (jobs := listed):
            raise ConfigError("cannot tell which file to wire: devenv.yaml lists none", "name a component and a file")
        jobs += [Job(clouds, "", False)] if clouds else []
        texts = wiring.wired_files(present, self.catalogue)
        with self._changing() if write else nullcontext():
            changes = [self._files.merge(job, texts, write) for job in jobs]
        self._files.tell(changes)
        return changes

    def unwire(
        self, component: str = "", files: Sequence[Path] = (), clouds: Path | None = None, write: bool = True
    ) -> list[Change]:
        """Restore what the project's own files held before; all of them, unless some are named."""
        wired = self._files.wired()
        if component and files:
            for other in wired:
                if other.component != component and other.path in [path.resolve() for path in files]:
                    whose = repr(other.component) if other.component else "--clouds"
                    raise ConfigError(
                        f"cannot unwire {other.path} for {component!r}: it is for {whose}", "name that one"
                    )
        paths = [*files, *([clouds] if clouds else ())] or [w.path for w in wired if component in ("", w.component)]
        if not paths and component and component not in load_profile(self.project, self._profile_name).components:
            raise ConfigError(
                f"cannot unwire {component!r}: there is no such component, and no file has anything of it",
                hint="'devenv unwire COMPONENT FILE'; 'devenv unwire' alone restores all files",
            )
        with self._changing() if write else nullcontext():
            return self._files.restore_all(paths, write)

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

    def _plan(self, selected: Desired, observed: Observed, drop: bool) -> Plan:
        record = self.state.load()
        return make_plan(selected, observed, record.provisioned, drop, record.unfinished)

    def _preflight(self, desired: Desired) -> tuple[Merges, list[Path]]:
        """What to merge into files of the project's, and those that would change.

        Raises ConfigError before anything is done if there is a file or a template that cannot be used.
        """
        texts = wiring.wired_files(desired, self.catalogue)
        merges = self._files.choose(desired, texts)
        return merges, self._files.check(merges, texts)

    def _tell_programs(self, desired: Desired, merges: Merges) -> tuple[list[Path], list[Path]]:
        """Write what the services offer; returns the files that were written or merged into, and those restored."""
        texts = wiring.wired_files(self._given(desired), self.catalogue)
        written = self._write(texts)
        merged, restored = self._files.apply(merges, texts)
        return [*written, *merged], restored

    def _of_a_component(self, operation: str) -> bool:
        action, _, target = operation.partition(" ")
        return action in ("provision", "drop") and target.partition("/")[2] not in needed_components(self.catalogue)

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
