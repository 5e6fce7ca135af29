"""The library's face: one environment of one project, and what can be done with it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from devenv.engine.containers import Tail
from devenv.errors import Cancelled, ConfigError, DevenvError
from devenv.images import golden, snapshot
from devenv.images.bundle import Caching
from devenv.images.inventory import Inventory
from devenv.images.references import BASE, check_image
from devenv.lifecycle.loans import Lending
from devenv.lifecycle.plan import plan_empty, plan_images, plan_restart, plan_start, plan_stop
from devenv.lifecycle.timing import Run, Watch, understood
from devenv.lifecycle.up import Renewal
from devenv.model import (
    Desired,
    Observed,
    ObservedContainer,
    Operation,
    Plan,
    Result,
)
from devenv.names import check_name
from devenv.services.readiness import ServiceStatus, status_of
from devenv.spec.desired import select
from devenv.spec.profile import load_profile
from devenv.store.files import real_path
from devenv.wiring import export, folder as wiring
from devenv.wiring.project_files import Job

if TYPE_CHECKING:
    from devenv.images.golden import Golden
    from devenv.images.snapshot import Snapshot
    from devenv.wiring.merge import Change


class Environment(Lending, Caching, Inventory):
    """A set of base services for one project folder and one name.

        with_defaults = Environment()
        with_defaults.up()
        print(with_defaults.env()["DEVENV_MYSQL_URL"])

    `project` is any folder inside the project (the working directory, if not given); `profile` overrides what
    devenv.yaml picks, `settings` what it says of services. Of images that devenv.yaml itself names and its user has
    not allowed, none is run, unless `ask` says yes. Nothing is touched before a method is called; each raises an error
    of devenv.errors.
    """

    # ---- up and down -----------------------------------------------------------------------------------------

    def up(
        self, names: Sequence[str] = (), drop: bool = False, use_golden: bool = True, began: float | None = None
    ) -> Result:
        """Start the services (all of the profile, if none is named) and what they need; return when they work.

        Components get their parts of them. With `drop`, those that are not in devenv.yaml any more lose theirs. What is
        new starts from the state that an earlier first start left, if there is one and `use_golden`; else it is kept.
        `timing` counts from `began` (by time.monotonic()), if that was before.
        """
        watch = Watch(self.id, self._report, began)
        self._prepare(names)
        watch.phase("wait for another devenv")
        with self._changing(), self._noting(watch):
            self._keep(select(self.profile, self.catalogue, names))
            return self._bring_up(names, drop, use_golden=use_golden)

    def plan(self, names: Sequence[str] = (), drop: bool = False) -> Plan:
        """What `up` would do now. Changes nothing."""
        self._load()
        desired, selected, observed = self._desired(names, keep=False)
        selected = self._with_sources(selected, observed)
        files = self._preflight(desired, observed)[1]
        return replace(self._plan(selected, observed, drop), files=tuple(files))

    def build_images(self, names: Sequence[str] = ()) -> Result:
        """Have every image of the services on the engine."""
        self._load()
        self._check_trust()
        _desired, selected, observed = self._desired(names, keep=False, check_ports=False)
        for image in selected.images:
            if image.how != "pull" and image.reference in observed.images:
                check_image(self.engine, image.reference)
        plan = plan_images(selected, observed)
        return Result(plan, selected.services, self._execute_beside(plan, selected, observed))

    def start(self, names: Sequence[str] = ()) -> Result:
        """Start containers that exist, as they are; return when their services work."""
        return self._existing(names, plan_start)

    def restart(self, names: Sequence[str] = ()) -> Result:
        """Stop and start containers that exist; return when their services work."""
        return self._existing(names, plan_restart)

    def wait(self, names: Sequence[str] = ()) -> Result:
        """Wait until services that were started work."""
        self._load()
        selected, observed = self._made(names)
        plan = Plan(tuple(Operation("ready", name) for name in selected.services))
        # It changes nothing, so it keeps nobody from changing something.
        timings = self._execute_beside(plan, selected, observed)
        self._note_works(selected.services)
        return Result(plan, selected.services, timings)

    def _note_works(self, services: Collection[str]) -> None:
        """Remember that a start on new data was got through that whoever began it did not see end."""

        def leave_it(_: str) -> None:
            raise Cancelled  # Who has the environment now sees it.

        record = self.state.load()
        if {*record.unfinished, *record.renewed} & {*services}:
            with suppress(Cancelled), self.state.locked(leave_it):
                self._notes.starts((), [*services])
                self._notes.renewed({*self.state.load().renewed} & {*services})

    def stop(self, names: Sequence[str] = ()) -> Result:
        """Stop containers and keep them, their data and their ports. What is not there counts as stopped."""
        with self._changing():
            observed = self.observe()
            plan = plan_stop(self._present(observed, names), self._needs())
            return Result(plan, {}, self._execute(plan, self._nothing(), observed))

    def down(self, names: Sequence[str] = (), volumes: bool = False) -> Result:
        """Remove containers, and with `volumes` their data, too.

        For a whole environment also its network; and with `volumes` its secrets and written files.
        """
        with self._changing():
            return self._take_down(names, volumes)

    # ---- data ------------------------------------------------------------------------------------------------

    def reset(self, names: Sequence[str] = (), component: str = "") -> Result:
        """Make the data of services what it was right after their first `up`; all of the profile, if none is named.

        Ports and secrets stay. With `component`, only its own part of each service is emptied.
        """
        if component:
            return self._empty(component)
        self._prepare(names)
        services = select(self.profile, self.catalogue, names) if names else self.profile.services
        if names and (more := [name for name in services if name not in names]):
            raise ConfigError(
                f"cannot reset {', '.join(names)} alone: data is in {', '.join(more)}, too, with that of others",
                f"'devenv reset {' '.join(services)}' empties all of these",
            )
        with self._changing():
            self._keep(services)
            return self._bring_up(names, renewal=Renewal(dict.fromkeys(services, "")))

    def _empty(self, component: str) -> Result:
        with self._changing():
            present = self._there([component])
            observed = self.observe()
            plan = plan_empty(present, component)
            return Result(plan, present.services, self._execute(plan, present, observed))

    def save(self, name: str) -> Snapshot:
        """Save the data of all services under a name. They stand still while that is done.

        Raises ConfigError if the name is taken or a service was never started.
        """
        check_name(name, "a snapshot")
        self._load()
        with self._changing():
            snapshot.check_free(self.state, name)
            present, observed = self._there(()), self.observe()
            plan, services = snapshot.plan_save(present, observed)
            # Known before they are made: what a killed devenv leaves of them is then ours to remove.
            images = [operation.subject for operation in plan.operations]
            self.state.amend(saving=[*self.state.load().saving, *images])
            try:
                self._settle(present, observed)  # the last thing before they stand still
                with snapshot.standing_still(self.engine, list(observed.containers.values())):
                    self._execute(plan, present, observed)
                saved = snapshot.write(self.state, name, services, self.engine)
                # Else each later `up` would look into all snapshots for whose these are.
                self.state.amend(saving=[image for image in self.state.load().saving if image not in images])
                return saved
            finally:
                self._remove_leftovers(self.engine.images())

    def _settle(self, present: Desired, observed: Observed) -> None:
        try:
            self._execute(snapshot.plan_settle(present, observed), present, observed)
        except DevenvError as error:
            self._report.note(f"{error.message}: what it was told in the last two seconds may be missing")

    def restore(self, name: str) -> Result:
        """Give all services the data of a snapshot, and return when they work. What they hold now is lost.

        Raises ConfigError, with the reason, if the data was made by another version of a service.
        """
        self._prepare(())
        with self._changing():
            saved = snapshot.load(self.state, name)
            desired, _selected, observed = self._desired((), keep=False)
            snapshot.check(saved, self.images, observed.images, self.profile.services)
            self._preflight(desired, observed)  # while the secrets are those of the data
            # On record first: secrets and data change hands together, or an `up` completes it.
            self._renew(renewal := Renewal(dict.fromkeys(saved.services, name), saved.provisioned))
            self._keep(saved.services)
            return self._bring_up((), renewal=renewal)

    def snapshots(self) -> list[Snapshot]:
        """The environment's snapshots, the newest first."""
        return snapshot.load_all(self.state)

    def remove_snapshot(self, name: str) -> None:
        """Forget a snapshot and remove its data."""
        with self._changing():
            saved = snapshot.load(self.state, name)
            if name in self.state.load().renewing.values():
                raise ConfigError(
                    f"cannot remove snapshot {name!r}: it is being restored",
                    "'devenv up' finishes that, 'devenv reset' drops it",
                )
            snapshot.remove(self.state, self.engine, saved)

    def collect(self, limit: int = golden.LIMIT) -> list[Golden]:
        """Remove what killed runs left here, and the golden states that were not used for longest.

        The golden states that stay take no more than `limit` bytes.
        """
        self.clear()
        with self._changing():
            self._remove_leftovers(self.engine.images())
        return golden.collect(self.engine, limit)

    # ---- looking ---------------------------------------------------------------------------------------------

    def status(self, names: Sequence[str] = ()) -> dict[str, ServiceStatus]:
        """The named services; without names all of the profile and whatever else of the environment is there."""
        self._load()
        desired, selected, observed = self._desired(names, keep=False, check_ports=False)
        services = {name: selected.services[name] for name in names} if names else desired.services
        with ThreadPoolExecutor(max(1, len(services))) as pool:
            found = pool.map(lambda service: status_of(service, observed, self.engine), services.values())
            statuses = dict(zip(services, found, strict=True))
        self._note_works([name for name, status in statuses.items() if status.state == "ready"])
        return statuses

    def timing(self) -> Run:
        """What the last `up` did and when, also if it failed. Raises ConfigError if none is on record."""
        if run := self.last_run():
            return run
        raise ConfigError(f"cannot show timings: no 'up' of {self.id} is on record", hint="run 'devenv up' first")

    def last_run(self) -> Run | None:
        """The same, or nothing."""
        return self.latest or understood(self.state.load_timing())

    def env(self, component: str = "") -> dict[str, str]:
        """The flat map of the services that are there: DEVENV_<SERVICE>_HOST, …, and OS_* for identity.

        It is the administrator's, or the component's own with the options of its overlay for oslo.config, too.
        """
        present = self._there([component] if component else ())
        if not component:
            return wiring.flat_map(present.services)
        overlay = wiring.wired_files(present, self.catalogue)[wiring.overlay_name(component)]
        return wiring.component_map(present.services, component, overlay)

    def run_variables(self, component: str) -> dict[str, str]:
        """What a program finds in its environment that runs as the component: all of `env`, and names of convention."""
        overlay = self.folder / wiring.overlay_name(component)
        return wiring.run_variables(self._there([component]), component, overlay, self.catalogue)[0]

    def export(self, tool: str, component: str = "") -> dict[str, str]:
        """The environment in another tool's words, by the file's name, which is empty if there is only one.

        A CI has a login for `component`, else the first one's of devenv.yaml. Only devstack needs an engine. Raises
        ConfigError for a tool that devenv does not know.
        """
        export.check_tool(tool)
        if tool == export.PRESENT:
            return export.exported(self._there(()), self.catalogue)
        self._load()
        components = {name: choice for name, choice in self.profile.components.items() if name in self._listed}
        self.profile = replace(self.profile, components=components)
        if tool == export.COMPOSE:
            return export.composed(self._on_paper(), self.catalogue)
        project = self.id.rpartition("-")[0]
        return export.for_jobs(tool, project, component, self.profile, self.catalogue, self.images)

    def container(self, name: str) -> ObservedContainer:
        """The running container of a service. Raises ConfigError if there is none."""
        found = self._containers(self.observe(), [name])[0]
        if not found.running:
            raise ConfigError(f"cannot use {name}: its container is {found.state}", hint=f"'devenv start {name}'")
        return found

    def containers(self, names: Sequence[str] = ()) -> dict[str, str]:
        """The containers' ids by service. Raises ConfigError if one of `names`, or any at all, is missing."""
        found = self._containers(self.observe(), names)
        if not found:
            raise ConfigError(f"cannot find a container of {self.id}", hint="'devenv up' makes them")
        return {container.service: container.id for container in found}

    def logs(self, name: str, tail: Tail = "all", since: float = 0) -> list[str]:
        """The lines that a service logged since then; the last `tail` of them if a number is given."""
        return self.engine.logs(self.containers([name])[name], tail, since)

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
        known = {real_path(job.path) for job in listed}
        jobs = [Job(path, component, real_path(path) in known) for path in files]
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
                if other.component != component and other.path in map(real_path, files):
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

    def image_references(self) -> dict[str, str]:
        """The image of each service of the profile and of those that they need, and the base of what is built."""
        self._load()
        return {name: self.images[name].reference for name in (BASE, *select(self.profile, self.catalogue))}

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

    def _existing(self, names: Sequence[str], make: Callable[[Desired, Observed], Plan]) -> Result:
        self._load()
        self._check_trust()
        with self._changing():
            selected, observed = self._made(names)
            self._keep(selected.services)
            plan = make(selected, observed)
            return Result(plan, selected.services, self._execute(plan, selected, observed))

    def _made(self, names: Sequence[str]) -> tuple[Desired, Observed]:
        """The services that have a container, and what is there. Raises ConfigError if one of `names` has none."""
        wanted = self.containers(names)
        desired, _selected, observed = self._desired((), keep=False, check_ports=False)
        there = {name: desired.services[name] for name in desired.services if name in wanted}
        return replace(desired, services=there), observed
