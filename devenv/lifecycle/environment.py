"""The library's public class: one environment of one project, and all that it can do.

A method imports the steps that it takes, so `status` and `env`, which take none, start faster.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from devenv.engine.protocol import Engine, Tail
from devenv.errors import ConfigError, Unsupported
from devenv.images.references import BASE
from devenv.lifecycle.attached import refuse_attached, refuse_data
from devenv.lifecycle.picture import Definitions
from devenv.lifecycle.world import Choice, World
from devenv.model import (
    Catalogue,
    Desired,
    DesiredService,
    Image,
    Observed,
    ObservedContainer,
    Page,
    Plan,
    ProjectFile,
    Report,
    Result,
)
from devenv.names import check_name, hint_for
from devenv.services.readiness import ServiceStatus, status_of
from devenv.spec import trust
from devenv.spec.components import ACCOUNT
from devenv.spec.profile import existing_folder, find_project, project_file, shared_name
from devenv.spec.template import render
from devenv.store.places import named_by
from devenv.store.registry import all_records
from devenv.store.state import State
from devenv.wiring import contents

if TYPE_CHECKING:
    from devenv.images.bundle import Archive
    from devenv.images.golden import Golden
    from devenv.images.inventory import ImageStatus
    from devenv.images.push import Pushed
    from devenv.images.snapshot import Snapshot
    from devenv.lifecycle.loans import Borrowed
    from devenv.lifecycle.timing import Run
    from devenv.wiring.merge import Change
    from devenv.wiring.pifpaf import Pifpaf


class Statuses(dict[str, ServiceStatus]):
    """The status of each service by its name. Somebody asked for the services in `wanted`."""

    def __init__(self, statuses: Mapping[str, ServiceStatus], wanted: Collection[str]) -> None:
        super().__init__(statuses)
        self.wanted = [name for name in statuses if name in wanted]


class Environment:
    """A set of base services for one project folder and one name.

        with_defaults = Environment()
        with_defaults.up()
        print(with_defaults.env()["DEVENV_MYSQL_URL"])

    `project` is any folder inside the project (the working directory, if not given). `profile` replaces the profile of
    devenv.yaml; `settings` override its settings of services. devenv does not run an image that devenv.yaml names and
    the user has not allowed, unless `ask` says yes. `file` is another file than devenv.yaml, from the project's folder
    on, and `output_dir` another folder than .devenv/ to which `up` writes files. `engine` is docker or kubernetes,
    `context` and `namespace` say where in a kubeconfig. `shared` is the name under which hosts share the environment.
    Creating an object touches nothing; methods raise errors of devenv.errors.
    """

    def __init__(
        self,
        project: Path | str | None = None,
        name: str = "default",
        profile: str = "",
        report: Report | None = None,
        wait_timeout: float = 180.0,
        settings: Mapping[str, Any] | None = None,
        ask: Callable[[ProjectFile], bool] | None = None,
        file: str = "",
        output_dir: Path | str | None = None,
        engine: str = "",
        context: str = "",
        namespace: str = "",
        shared: str = "",
    ) -> None:
        """`wait_timeout` is how long one service may take to become ready, in seconds. All thirteen are public API.

        DEVENV_FILE, DEVENV_OUTPUT_DIR, DEVENV_ENGINE, DEVENV_KUBE_CONTEXT, DEVENV_KUBE_NAMESPACE and DEVENV_SHARED
        stand for the last six if these are not given.
        """
        chosen = output_dir or named_by("DEVENV_OUTPUT_DIR")
        output = Path(chosen).resolve() if chosen else None
        found = find_project(existing_folder(Path(project or ".")), file, wired=not output)
        shared = shared or os.environ.get("DEVENV_SHARED", "")
        choice = Choice(profile, settings, ask, project_file(file), output, engine, context, namespace, shared)
        state = State(found, name, shared=_shared_as(found, name, choice))
        self._world = World(found, state, name, report, choice, wait_timeout)
        self.name, self.project, self.state = name, found, self._world.state
        self.id, self.file = self._world.id, self._world.file

    def sibling(self, name: str, report: Report | None = None) -> Environment:
        """Return another environment of the project, which the same file describes."""
        choice = self._world.choice
        return Environment(
            *(self.project, name),
            report=report,
            file=choice.file,
            output_dir=choice.output,
            engine=choice.engine,
            context=choice.context,
            namespace=choice.namespace,
            shared=choice.shared,
        )

    # ---- what it works with ----------------------------------------------------------------------------------

    @property
    def folder(self) -> Path:
        """Return the folder of the files for programs: where they are, or where `up` will write them."""
        return self._world.written.folder

    @property
    def engine(self) -> Engine:
        """Connect to the engine at first use, and return it. Raise NoEngine."""
        return self._world.engine

    @property
    def engine_kind(self) -> str:
        """Return the kind of engine that the environment is on, or would be: docker, kubernetes; "" if nobody says."""
        return self._world.seat.kind()

    @property
    def latest(self) -> Run | None:
        """Return what this object's last `up` did and when, once its plan has begun."""
        return self._world.latest

    @property
    def strangers(self) -> tuple[str, ...]:
        """Return the objects that carried the environment's label and were not its own, at the last look."""
        return self._world.strangers

    def observe(self) -> Observed:
        """Return what the engine has of the environment."""
        return self._world.observe()

    def cancel(self) -> None:
        """End what is running, as an interrupt would, and begin nothing after it. Call this from another thread.

        The interrupted method raises Cancelled.
        """
        self._world.cancel()

    # ---- up and down -----------------------------------------------------------------------------------------

    def up(
        self,
        names: Sequence[str] = (),
        drop: bool = False,
        use_golden: bool = True,
        began: float | None = None,
        tunnel: bool | None = None,
    ) -> Result:
        """Start the services (all of the profile, if none is named) and what they need; return when they work.

        Components get their parts of them. With `drop`, those that are not in devenv.yaml any more lose theirs. With
        `use_golden`, new services start from the state that an earlier first start left; if none is there, devenv keeps
        their own. `timing` counts from `began` (by time.monotonic()), if that was before. `tunnel` says whether devenv
        forwards the ports of an engine elsewhere to this host, from now on; None, that it stays so.
        """
        from devenv.lifecycle import loans
        from devenv.lifecycle.timing import Watch
        from devenv.lifecycle.up import Wish, bring_up

        world = self._world
        watch = Watch(self.id, world.report, began)
        with world.written.moving():
            defined = world.prepared(names, join=False)
            watch.phase("wait for another devenv")
            with world.changing(make=True), world.timed(watch):
                world.seat.keep_tunnel(tunnel)
                loans.clear_accounts(world)
                loans.keep(world, defined.select(names))
                return bring_up(world, defined, Wish(names, drop, use_golden), watch)

    def plan(self, names: Sequence[str] = (), drop: bool = False) -> Plan:
        """Return what `up` would do now. Change nothing."""
        from devenv.lifecycle.up import Allowance, Wish, plan_up, preflight

        world = self._world
        picture = world.look(world.define(names, join=False), names, check_ports=True)
        with world.written.moving():
            files = preflight(world, picture)
        return replace(plan_up(world, picture, Wish(names, drop), Allowance()), files=tuple(files.changing))

    def build_images(self, names: Sequence[str] = ()) -> Result:
        """Build or pull every image of the services that the engine does not have."""
        from devenv.lifecycle import up

        return up.build_images(self._world, names)

    def start(self, names: Sequence[str] = ()) -> Result:
        """Start containers that exist, as they are; return when their services work."""
        from devenv.lifecycle import existing

        return existing.start(self._world, names)

    def restart(self, names: Sequence[str] = ()) -> Result:
        """Stop and start containers that exist; return when their services work."""
        from devenv.lifecycle import existing

        return existing.restart(self._world, names)

    def wait(self, names: Sequence[str] = ()) -> Result:
        """Wait until services that were started work."""
        from devenv.lifecycle import existing

        return existing.wait(self._world, names)

    def stop(self, names: Sequence[str] = ()) -> Result:
        """Stop containers and keep them, their data and their ports. Services without a container count as stopped."""
        from devenv.lifecycle import down

        with self._world.changing():
            return down.stop(self._world, names)

    def leave(self) -> None:
        """Remove what this host has of a shared environment: files, ports, record. Other hosts go on with theirs."""
        from devenv.lifecycle import down

        with self._world.changing(here=True):
            down.leave(self._world)

    def down(self, names: Sequence[str] = (), volumes: bool = False, abandon: bool = False) -> Result:
        """Remove containers, and with `volumes` their data. Drop what devenv made in attached services.

        Without `names`, also remove the network, and with `volumes` the secrets and written files. With `abandon`,
        leave everything in attached services and forget it.
        """
        from devenv.lifecycle import down

        with self._world.changing():
            return down.take_down(self._world, names, volumes, abandon)

    # ---- data ------------------------------------------------------------------------------------------------

    def reset(self, names: Sequence[str] = (), component: str = "") -> Result:
        """Give services (all of the profile, if none is named) the data that they had right after their first `up`.

        Ports and secrets stay. With `component`, empty only its part of each service.
        """
        from devenv.lifecycle import data

        return data.reset_component(self._world, component) if component else data.reset(self._world, names)

    def save(self, name: str) -> Snapshot:
        """Save the data of all services under a name. The services pause meanwhile.

        Raise ConfigError if the name is taken or a service was never started.
        """
        from devenv.lifecycle import data

        return data.save(self._world, name)

    def restore(self, name: str) -> Result:
        """Give all services the data of a snapshot, and return when they work. They lose their present data.

        Raise ConfigError, with the reason, if another version of a service made the data.
        """
        from devenv.lifecycle import data

        return data.restore(self._world, name)

    def snapshots(self) -> list[Snapshot]:
        """Return the environment's snapshots, the newest first."""
        from devenv.images import snapshot

        return snapshot.load_all(self.state)

    def remove_snapshot(self, name: str) -> None:
        """Forget a snapshot and remove its data."""
        from devenv.lifecycle import data

        data.remove_snapshot(self._world, name)

    def collect(self, limit: int | None = None) -> list[Golden]:
        """Remove what killed runs left here, and the golden states unused for longest; return these golden states.

        The golden states that stay take at most `limit` bytes; 1 GB without a limit.
        """
        from devenv.images import golden, snapshot
        from devenv.lifecycle import loans

        loans.clear(self._world)
        with self._world.changing():
            snapshot.remove_leftovers(self.state, self.engine, self.engine.images())
        return golden.collect(self.engine, golden.LIMIT if limit is None else limit)

    # ---- lent for a while ------------------------------------------------------------------------------------

    def lent(
        self, names: Sequence[str] = (), component: str = "", ending: Callable[[], None] | None = None
    ) -> AbstractContextManager[str]:
        """Have services work while the body runs (all of the profile, if none is named); yield a component's name.

        A component of devenv.yaml keeps what it has. devenv creates any other for the run, under the given name or a
        new one, and drops it afterwards. Raise ConfigError if another run has it. devenv calls `ending` before it
        removes anything, also if not all came up.
        """
        from devenv.lifecycle import loans

        return loans.lent(self._world, names, component, ending)

    def databases(self, names: Sequence[str] = (), citest: bool = True, required: bool = True) -> list[str]:
        """Return those of the services (all of the profile, if none is named) that get an account for test suites.

        Unless `citest` or devenv.yaml asks for it, none does. Raise ConfigError if `citest` asks, it is `required`, and
        no service can have one.
        """
        from devenv.lifecycle import citest as accounts

        # Most runs ask for none, and need no catalogue to know that.
        if not citest and not self._world.profile().citest:
            return []
        defined = self._world.define(names, join=False)
        found = accounts.databases(defined, names)
        if citest and required and not found:
            raise accounts.no_database(defined, names)
        if found and self.state.shared:
            raise Unsupported(
                f"cannot lend {ACCOUNT} in shared environment {self.state.shared}: all hosts would have one",
                "run the suite in an environment that no other host uses",
            )
        return found

    def citest(self, databases: Sequence[str], drop: bool = True) -> AbstractContextManager[dict[str, str]]:
        """Have an account for OpenStack's own test suites in `databases` that work; yield the variable for oslo.db.

        The variable keeps what a run around this one has named. The last run drops the account; without `drop`, it
        leaves that to `clear`. Raise NotOurs if a database has such an account that devenv did not create.
        """
        from devenv.lifecycle import citest as accounts

        before = os.environ.get(contents.ADMIN_CONNECTION, "")
        return accounts.lent(self._world, databases, drop, before) if databases else nullcontext({})

    def shared(self) -> AbstractContextManager[Path]:
        """Be a user of the services that `borrow` brings up; yield a folder to note components in.

        The services go on running afterwards: `clear` ends those that nobody uses any more.
        """
        from devenv.lifecycle import loans

        return loans.shared(self._world)

    def borrow(self, names: Sequence[str] = ()) -> Borrowed:
        """Bring services (all of the profile, if none is named) up, and return them to a `shared` user."""
        from devenv.lifecycle import loans

        return loans.borrow(self._world, names)

    def selected(self, names: Sequence[str] = ()) -> list[str]:
        """Return the named services (all of the profile, if none is named) and those that they need."""
        return self._world.define(names).select(names)

    def make_room(self) -> None:
        """Remove what killed runs left of the environment, all of it, if nobody uses it.

        Raise ConfigError if the environment has services that no run brought up.
        """
        from devenv.lifecycle import loans

        loans.make_room(self._world)

    def going(self, catalogue: Catalogue | None = None) -> set[str]:
        """Return the services that devenv removes, with their data, when the last run has ended.

        With the `catalogue` of what was borrowed, devenv reads no file again.
        """
        from devenv.lifecycle import loans

        return loans.going(self._world, catalogue or self._world.define().catalogue)

    def clear(self, others: bool = True) -> None:
        """Remove what killed runs left: the services that nobody uses, and their components in the others.

        Without `others`, components stay while somebody uses the services.
        """
        from devenv.lifecycle import loans

        loans.clear(self._world, others)

    # ---- looking ---------------------------------------------------------------------------------------------

    def status(self, names: Sequence[str] = ()) -> Statuses:
        """Return the status of the named services; of all in the profile and all that exist, if none is named."""
        world = self._world
        defined = world.define(names)
        world.check_addresses(defined.own)
        picture = world.look(defined, names)
        wanted = picture.wanted.services
        services = {name: wanted[name] for name in names} if names else picture.everything.services
        with ThreadPoolExecutor(max(1, len(services))) as pool:
            found = pool.map(lambda service: status_of(service, picture.observed, world.engine), services.values())
            statuses = dict(zip(services, found, strict=True))
        world.note_works([name for name, status in statuses.items() if status.state == "ready"])
        return Statuses(statuses, names or world.asked_for(picture))

    def timing(self) -> Run:
        """Return what the last `up` did and when, even if it failed. Raise ConfigError if none is on record."""
        if run := self.last_run():
            return run
        raise ConfigError(f"cannot show timings: no 'up' of {self.id} is on record", hint="run 'devenv up' first")

    def last_run(self) -> Run | None:
        """Return what the last `up` did and when, or None if none is on record."""
        from devenv.lifecycle.timing import understood

        return self.latest or understood(self.state.load_timing())

    def env(self, component: str = "", network: bool = False) -> dict[str, str]:
        """Return the flat map of the services that are there: DEVENV_<SERVICE>_HOST, …, and OS_* for identity.

        It is the administrator's; with `component`, that one's, and its overlay as variables for oslo.config. With
        `network`, it is for programs in containers on the services' network.
        """
        defined, present = self._present(component, network)
        if not component:
            return contents.flat_map(present.services)
        overlay = contents.wired_files(present, defined.catalogue)[contents.overlay_name(component)]
        return contents.component_map(present.services, component, overlay)

    def run_variables(
        self,
        component: str,
        names: Sequence[str] = (),
        administrator: Pifpaf | None = None,
        citest: bool = False,
    ) -> dict[str, str]:
        """Return the variables of a program that runs as the component: all of `env`, and well-known names.

        pifpaf's URL is that of the first service in `names`. With `administrator`, pifpaf's variables are the
        administrator's, under the names that it says. With that or with `citest` there are none for oslo.config.
        """
        overlay = self.folder / contents.overlay_name(component)
        defined, present = self._present(component)
        return contents.run_variables(present, component, overlay, defined.catalogue, names, administrator, citest)[0]

    def replaced(self, variables: Collection[str]) -> list[str]:
        """Return what a program must not inherit beside these variables: with OS_AUTH_URL, OS_CLOUD and others.

        It would talk to another cloud.
        """
        return contents.replaced(variables, self._world.catalogue)

    def export(self, tool: str, component: str = "", install: str = "") -> dict[str, str]:
        """Return the environment in another tool's format, by the file's name, which is empty if there is only one.

        A CI's job gives its command `component`, else the first of devenv.yaml, and installs devenv from `install`.
        Only devstack needs an engine. Raise ConfigError for a tool that devenv does not know, and if nobody says where
        a CI gets devenv.
        """
        from devenv.wiring import export
        from devenv.wiring.packages import packages_of

        export.check_tool(tool, install)
        if tool == export.PRESENT:
            defined, present = self._present("")
            _refuse_export(tool, present.services.keys() & defined.attached)
            return export.exported(present, defined.catalogue)
        defined = self._world.define()
        # Exports leave out what runs have for a while.
        defined = replace(defined, lent=frozenset(), citest=frozenset())
        if tool in export.WHOLE:
            _refuse_export(tool, [name for name in defined.select() if name in defined.attached])
            desired = self._world.on_paper(defined, inside=tool == export.KUBERNETES)
            return export.whole(tool, desired, defined.catalogue)
        name, packages = self.id.rpartition("-")[0], packages_of(self.project, tool, install)
        return export.for_jobs(tool, name, component, defined.own, defined.catalogue, defined.images, packages)

    def container(self, name: str) -> ObservedContainer:
        """Return the running container of a service. Raise ConfigError if it has none."""
        return _running(self._world.containers(self._seen(), [name])[0])

    def _seen(self) -> Observed:
        """Return what the engine has of the environment, and which services are attached by devenv.yaml."""
        defined = self._world.define()
        return replace(self.observe(), attached=defined.attached)

    def service(self, name: str) -> tuple[DesiredService, ObservedContainer]:
        """Return a service as the administrator sees it, and its running container. Raise ConfigError without one."""
        return self._service(self._world.define(), name)

    def page(self, name: str) -> Page:
        """Return the page of a service that runs. Raise ConfigError if it has none, or does not run."""
        defined = self._world.define()
        pages = {other: service.page for other, service in defined.catalogue.items() if service.page}
        if name not in pages:
            hint = hint_for(name, pages, "these have one")
            raise ConfigError(f"cannot open {name!r}: it is no service with a page", hint)
        service = self._usable(defined, name)
        url = render(pages[name], service.values, str(defined.catalogue[name].folder / "compose.yaml"))
        return Page(url, service.outputs.get("USER", ""), service.outputs.get("PASSWORD", ""))

    def _service(self, defined: Definitions, name: str) -> tuple[DesiredService, ObservedContainer]:
        refuse_attached([name], defined.attached)
        picture = self._world.existing(defined, [name])
        return picture.wanted.services[name], _running(picture.observed.containers[name])

    def _usable(self, defined: Definitions, name: str) -> DesiredService:
        """Return a service that somebody else runs, or that has a running container. Raise ConfigError otherwise."""
        if name not in defined.attached:
            return self._service(defined, name)[0]
        self._world.check_addresses(defined.own)
        return self._world.existing(defined, [name]).wanted.services[name]

    def check_usable(self, name: str) -> None:
        """Raise ConfigError unless somebody else runs the service, or it has a running container."""
        self._usable(self._world.define(), name)

    def containers(self, names: Sequence[str] = ()) -> dict[str, str]:
        """Return the containers' ids by service. Raise ConfigError if one of `names` has none, or no service has."""
        return {container.service: container.id for container in self._world.containers(self._seen(), names)}

    def logs(self, name: str, tail: Tail = "all", since: float = 0) -> list[str]:
        """Return the lines that a service logged from `since` on; the last `tail` of them if that is a number."""
        return self.engine.logs(self.containers([name])[name], tail, since)

    def _present(self, component: str, network: bool = False) -> tuple[Definitions, Desired]:
        picture = self._world.there(self._world.define(), [component] if component else (), network)
        return picture.defined, picture.wanted

    # ---- the project's own files -----------------------------------------------------------------------------

    def trust(self) -> ProjectFile | None:
        """Allow devenv.yaml, as it is now, to run the images that it names; return it, or None without one."""
        file = self._world.profile().file
        if file:
            trust.allow(file, self._world.report.note)
        return file

    def distrust(self) -> None:
        """Withdraw trust from devenv.yaml, whatever it holds. What runs goes on."""
        trust.revoke(self.file, self._world.report.note)

    def wire(
        self, component: str = "", files: Sequence[Path] = (), clouds: Path | None = None, write: bool = True
    ) -> list[Change]:
        """Merge components' options into the project's own files; return what changes there.

        `files` replace those that devenv.yaml lists for the `component`, or for all. `clouds` is a clouds.yaml to merge
        all clouds into. Without `write`, change nothing. `up` keeps these files current.
        """
        defined, present = self._present(component)
        jobs = self._world.files.jobs(present, component, files, clouds)
        texts = contents.wired_files(present, defined.catalogue)
        with self._world.changing() if write else nullcontext():
            changes = [self._world.files.merge(job, texts, write) for job in jobs]
        self._world.files.tell(changes)
        return changes

    def unwire(
        self, component: str = "", files: Sequence[Path] = (), clouds: Path | None = None, write: bool = True
    ) -> list[Change]:
        """Restore the project's own files to what they held before: all of them, unless some are named."""
        paths = self._world.files.merged(component, files, clouds)
        if not paths and component and component not in self._world.profile().components:
            raise ConfigError(
                f"cannot unwire {component!r}: there is no such component, and no file has anything of it",
                hint="'devenv unwire COMPONENT FILE'; 'devenv unwire' alone restores all files",
            )
        with self._world.changing(here=True) if write else nullcontext():
            return self._world.files.restore_all(paths, write)

    # ---- images ----------------------------------------------------------------------------------------------

    def image_references(self) -> dict[str, str]:
        """Return the image of each service of the profile and of those that they need, and the base image."""
        return {name: image.reference for name, image in self._images(self._world.define()).items()}

    def list_images(self) -> list[ImageStatus]:
        """Return the status of the base image and of the images of the profile's services and those that they need."""
        from devenv.images.inventory import list_images

        defined = self._world.define()
        return list_images(self.engine, self._images(defined), defined.catalogue)

    def sbom(self, names: Sequence[str] = ()) -> dict[str, Any]:
        """Return the packages in the images of these services (all of the profile, if none is named), as SPDX 2.3.

        Raise ConfigError if an image is missing, NotOurs if another image has the name of one that devenv built.
        """
        from devenv.images.inventory import sbom

        defined = self._world.define(names)
        return sbom(self.engine, [defined.images[name] for name in defined.ran(names)])

    def prune_images(self) -> list[str]:
        """Remove images that devenv built and that no definition asks for any more; return their references."""
        from devenv.images.inventory import prune_images

        defined = self._world.define()
        return prune_images(self.engine, defined.images, defined.catalogue)

    def cache_keys(self, names: Sequence[str] = ()) -> dict[str, str]:
        """Return the keys of a cache that holds `images` of these services, or `golden` states, too.

        All of the profile, if none is named. They are the same wherever the content is the same. This asks no engine.
        """
        from devenv.images.bundle import cache_keys

        defined = self._world.define(names, join=False)
        return cache_keys(self.id, defined.ran(names), defined.profile, defined.catalogue, defined.images)

    def save_images(self, target: Path | IO[bytes], names: Sequence[str] = ()) -> Archive:
        """Write the images of these services (all of the profile, if none is named) and their golden states.

        devenv writes a file completely or not at all. Raise ConfigError if an image is missing, or devenv cannot write.
        """
        from devenv.images.bundle import save_images

        world = self._world
        picture = world.look(world.define(names), names)
        there, catalogue = picture.observed.images, picture.defined.catalogue
        return save_images(world.engine, picture.wanted, there, catalogue, target, world.report.note)

    def push_images(self, registry: str = "", names: Sequence[str] = (), golden: bool = False) -> Pushed:
        """Push the images of these services (all of the profile, if none is named) to a registry, for pods to pull.

        Without `registry` it is the one in devenv.yaml. `golden` adds their golden states. The images are this host's
        engine's, wherever the environment is. Raise ConfigError if there is no such registry, or an image is missing.
        """
        from devenv.engine import connect
        from devenv.images.push import push_images

        defined, desired = self._on_paper(names, golden)
        if not registry:
            self._world.check_trust(defined.own)
        place = registry or defined.own.image_registry
        return push_images(connect(), desired, defined.catalogue, place, golden, self._world.report.note)

    def build_golden(self, names: Sequence[str] = ()) -> list[str]:
        """Build the images from which pods copy golden states of these services (all of the profile, if none is named).

        Return their names. The golden states are this host's engine's, wherever the environment is; one that is missing
        is left out. Raise Unsupported if somebody else runs one of `names`.
        """
        from devenv.engine import connect
        from devenv.images.push import make_for_pods

        defined, desired = self._on_paper(names, golden=True)
        return make_for_pods(connect(), desired, defined.catalogue, self._world.report.note)

    def _on_paper(self, names: Sequence[str], golden: bool) -> tuple[Definitions, Desired]:
        """Return the desired state without asking an engine; `golden` says whether it is for golden states."""
        from devenv.images.bundle import on_paper

        defined = self._world.define(names)
        if golden:
            refuse_data("keep a golden state of", names, defined.attached, "devenv keeps those of what it runs")
        selected = defined.select(names)
        return defined, on_paper(self.id, selected, defined.profile, defined.catalogue, defined.images)

    def load_images(self, archive: IO[bytes], name: str) -> Archive:
        """Load the images of a seekable archive, which errors call `name`.

        Raise ConfigError, and load nothing, if it is no archive, or has an image that is neither devenv's nor the
        profile's, or whose name another image has here.
        """
        from devenv.images.bundle import load_images

        defined = self._world.define()
        named = {image.reference for image in defined.images.values()}
        return load_images(self.engine, named, archive, name, lambda: self._world.check_trust(defined.own))

    def usual_ports(self) -> dict[int, str]:
        """Return the ports that the profile's services take if they are free, each with the endpoint that wants it.

        Leave out ports that this environment already has.
        """
        defined, ours = self._world.define(), self.state.load().ports.values()
        services = {name: defined.catalogue[name] for name in defined.profile.services if name in defined.catalogue}
        services = {name: service for name, service in services.items() if not service.attachment}
        wanted = [(e.port, f"{name} ({key})") for name, s in services.items() for key, e in s.endpoints.items()]
        return {port: who for port, who in wanted if port not in ours}

    def _images(self, defined: Definitions) -> dict[str, Image]:
        return {name: defined.images[name] for name in (BASE, *defined.ran())}


def _shared_as(project: Path, name: str, choice: Choice) -> str:
    """Return the name under which hosts share the environment: the caller's, else the file's, else the record's."""
    named = choice.shared or shared_name(project, choice.file)
    if named:
        return check_name(named, "a shared environment")
    known = (one for one in all_records() if one.shared and (one.project, one.name) == (str(project), name))
    return next((one.shared for one in known), "")


def _refuse_export(tool: str, attached: Collection[str]) -> None:
    """Raise Unsupported if a tool that is to run or to know all services itself would get an attached one."""
    if attached:
        names = ", ".join(sorted(attached))
        raise Unsupported(
            f"cannot export to {tool}: somebody else runs {names}",
            "export without 'attach' in devenv.yaml and without DEVENV_ATTACH_*",
        )


def _running(container: ObservedContainer) -> ObservedContainer:
    """Return the container. Raise ConfigError if it does not run."""
    if not container.running:
        name = container.service
        why = container.reason or f"its container is {container.state}"
        helps = "up" if container.state in ("waiting", "gone") else "start"
        raise ConfigError(f"cannot use {name}: {why}", hint=f"'devenv {helps} {name}'")
    return container
