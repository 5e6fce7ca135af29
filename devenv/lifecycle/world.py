"""Hold the environment's place, state and engine; read the files and observe the engine.

A `World` is what every use of an environment works with. Each reading is a frozen value: `Definitions` hold the content
of the files, a `Picture` holds the desired and the observed state.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from devenv.engine import KUBERNETES, asked_for, connect, kind_of
from devenv.engine.nothing import NOTHING
from devenv.engine.protocol import Engine
from devenv.errors import Cancelled, ConfigError, DevenvError, NoEngine, NotOurs, Unsupported
from devenv.images.references import BASE, images_for
from devenv.model import (
    Catalogue,
    ComponentChoice,
    Desired,
    Image,
    Observed,
    ObservedContainer,
    Profile,
    ProjectFile,
    Report,
    ServiceChoice,
)
from devenv.names import Names, Pair, check_name, hint_for, user_name
from devenv.ports import holder
from devenv.spec import trust
from devenv.spec.attach import from_variables
from devenv.spec.catalogue import load_catalogue
from devenv.spec.components import CITEST, check_components, former_components, needed_components
from devenv.spec.desired import Inputs, check_reach, resolve, secret_names, select, with_roles
from devenv.spec.ports import Taken, choose_ports, usual_ports
from devenv.spec.profile import load_profile, project_file
from devenv.store.files import real_path
from devenv.store.record import NO_TUNNEL, Record
from devenv.store.registry import all_records, ports_locked
from devenv.store.state import Notes, State, new_token, user_of
from devenv.wiring import contents, folder
from devenv.wiring.project_files import Place, ProjectFiles

# What the record has beside the settings of an attached service: its URL without the login.
SHOWN = "shown"

if TYPE_CHECKING:
    from devenv.lifecycle.timing import Run, Watch


@dataclass(frozen=True)
class Choice:
    """The caller's own choices, in place of those in devenv.yaml.

    `profile` replaces its profile; `settings` override its settings of services. `ask` decides whether devenv may run
    images that it names and the user has not allowed. `file` is another file than devenv.yaml, and `output` another
    folder for written files than .devenv/. `engine` is a kind of engine, `context` and `namespace` those of a cluster.
    """

    profile: str = ""
    settings: Mapping[str, Any] | None = None
    ask: Callable[[ProjectFile], bool] | None = None
    file: str = ""
    output: Path | None = None
    engine: str = ""
    context: str = ""
    namespace: str = ""


@dataclass(frozen=True)
class Definitions:
    """The content of the files, read at one time.

    `own` is the profile with the project's choices; `lent` are the names of components that runs have for a while, and
    `citest` the services in which runs have the account for test suites; `images` are by service, with the base among
    them. `roles` are those of `own` that no file says.
    """

    own: Profile
    catalogue: Catalogue
    images: Mapping[str, Image] = field(default_factory=dict)
    lent: frozenset[str] = frozenset()
    citest: frozenset[str] = frozenset()
    roles: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def profile(self) -> Profile:
        """Return the profile with the lent components in it."""
        lent = {name: ComponentChoice(name) for name in sorted(self.lent - self.listed)}
        return replace(self.own, components={**self.own.components, **lent})

    @property
    def listed(self) -> frozenset[str]:
        """Return the components of devenv.yaml."""
        return frozenset(self.own.components)

    def select(self, names: Sequence[str] = ()) -> list[str]:
        """Return the named services (all of the profile, if none is named) and those that they need, needs first."""
        return select(self.profile, self.catalogue, names)

    def ran(self, names: Sequence[str] = ()) -> list[str]:
        """Return those of the services of `select` that devenv runs itself."""
        return [name for name in self.select(names) if not self.catalogue[name].attachment]

    @property
    def attached(self) -> frozenset[str]:
        """Return the services that somebody else runs."""
        return frozenset(name for name, service in self.catalogue.items() if service.attachment)


@dataclass(frozen=True)
class Picture:
    """The desired and the observed state, at one look.

    `everything` has all services that are wanted or exist, `wanted` those to act on; `record` is the environment's
    record before the look.
    """

    defined: Definitions
    everything: Desired
    wanted: Desired
    observed: Observed
    record: Record


class World:
    """One environment of one project: its place, its engine, and what devenv saw last. Creating one does nothing."""

    def __init__(
        self,
        project: Path,
        state: State,
        name: str = "default",
        report: Report | None = None,
        choice: Choice = Choice(),
        timeout: float = 180.0,
    ) -> None:
        """`timeout` is how long one service may take to become ready, in seconds."""
        self.name = check_name(name, "an environment")
        self.project, self.state, self.timeout = project, state, timeout
        self.report = report or Report()
        self.choice = choice
        self._moves = False
        # The objects that carried the environment's label and were not its own, at the last look.
        self.strangers: tuple[str, ...] = ()
        # The last `up` and its times, once its plan has begun.
        self.latest: Run | None = None
        self._catalogue: Catalogue | None = None
        # Whether somebody else runs all that is asked for. Until `define` knows, the record says it.
        self._only_attached: bool | None = None
        self._over, self._running = threading.Event(), threading.Event()

    @property
    def id(self) -> str:
        return self.state.id

    @property
    def engine(self) -> Engine:
        """Connect to the engine at first use, and return it. Raise NoEngine.

        Where somebody else runs every service, and no engine has anything of the environment, devenv asks none.
        """
        if self._only_attached is None:
            self._only_attached = self.state.without_engine() or self._never_here()
        return NOTHING if self._only_attached else self._connected

    def _never_here(self) -> bool:
        """Return whether the caller attaches services, nothing is on record, and no engine answers: nothing is there.

        A CI's job takes down what a run before it has removed already.
        """
        if self.state.load().owner or not from_variables(os.environ):
            return False
        try:
            return not self._connected
        except NoEngine:
            return True

    @cached_property
    def _connected(self) -> Engine:
        kind = self.kind()
        known, choice = self.state.load().engine, self.choice
        return connect(kind, known, choice.context, choice.namespace) if kind == KUBERNETES else connect()

    def kind(self) -> str:
        """Return the kind of engine that the user asks for, else the record's, else devenv.yaml's, else none."""
        known = self.state.load().engine
        if kind := asked_for(self.choice.engine) or kind_of(known):
            return kind
        # Without a record, `down` with a broken devenv.yaml looks where it always looked.
        with suppress(ConfigError):
            return self.profile().engine
        return ""

    # ---- where its files are ---------------------------------------------------------------------------------

    @property
    def folder(self) -> Path:
        """Return the folder of the files for programs: where they are, or where `up` will write them."""
        return self._chosen_folder if self._moves else self._recorded_folder()

    @property
    def files(self) -> ProjectFiles:
        """Return the project's own files that devenv merges into."""
        place = Place(self.project, self.folder, read_only=self.folder != self.usual_folder)
        return ProjectFiles(place, self.id, self.name == "default", self.report.note)

    @contextmanager
    def moving(self) -> Iterator[None]:
        """Let the files go to the folder that the caller chose. Only `up` does; others leave them where they are."""
        self._moves = True
        try:
            yield
        finally:
            self._moves = False

    @property
    def usual_folder(self) -> Path:
        return folder.folder_of(self.project, self.name)

    @property
    def _chosen_folder(self) -> Path:
        return folder.folder_of(self.project, self.name, self.choice.output)

    def _recorded_folder(self) -> Path:
        """Return where the environment's files are, or would be."""
        record = self.state.load()
        if not record.files:
            return self._chosen_folder
        return Path(record.folder) if record.folder else self.usual_folder

    def _stays(self) -> bool:
        """Return whether the files are in the folder where they should be, whatever it is called."""
        recorded = self._recorded_folder()
        with suppress(OSError):
            return recorded.samefile(self.folder)
        return real_path(recorded) == real_path(self.folder)

    # ---- the lock, and the end -------------------------------------------------------------------------------

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the environment's lock. Raise Cancelled after `cancel`."""
        with self.state.locked(self.report.note, self._over):
            yield

    def cancel(self) -> None:
        """End what is running, as an interrupt would, and begin nothing after it. Call this from another thread."""
        self._over.set()
        self._running.set()

    def begin(self) -> threading.Event:
        """Return the event that ends the next plan. Raise Cancelled after `cancel`."""
        self._running = threading.Event()
        if self._over.is_set():
            raise Cancelled
        return self._running

    @contextmanager
    def timed(self, watch: Watch) -> Iterator[None]:
        """Save what the watch sees, even if the body fails."""
        watch.phase("plan")
        try:
            yield
        finally:
            if run := watch.run():
                self.latest = run
                # An `up` does not fail because devenv cannot write its timing.
                with suppress(DevenvError):
                    self.state.save_timing(asdict(run))

    # ---- what was asked for ----------------------------------------------------------------------------------

    def profile(self) -> Profile:
        """Read the profile with the project's choices."""
        return load_profile(self.project, self.choice.profile, settings=self.choice.settings, file=self.choice.file)

    @property
    def file(self) -> Path:
        """Return where the project's own file is, or would be."""
        return self.project / project_file(self.choice.file)

    def define(self, names: Sequence[str] = (), join: bool = True, known: bool = False) -> Definitions:
        """Read the definitions from the files. Raise ConfigError.

        Services of `names` that the profile does not have `join` those of the same role, or fill it in their place (see
        `with_roles`). Services that are attached by the record are attached here, too, if those are `known` and the
        caller's variables do not say so any more.
        """
        own = self.profile()
        attached = {name: choice.attach for name, choice in own.services.items() if choice.attach}
        attached = {**(self.state.attachments() if known else {}), **attached}
        catalogue = load_catalogue(
            switches={name: choice.switches for name, choice in own.services.items()},
            asked_by=own.source,
            everywhere={"durable": own.durable},
            plugins={name: choice.plugins for name, choice in own.services.items()},
            attached=attached,
        )
        self._catalogue = catalogue
        filled = with_roles(own, catalogue, names, self.state.load().roles, join)
        roles = {role: name for role, name in filled.roles.items() if role not in own.roles}
        defined = self.with_lent(Definitions(filled, catalogue, roles=roles))
        check_components(defined.profile, catalogue)
        # Services that run need an engine, once somebody asks for them: `prepared` does.
        begun = self.state.without_engine()
        self._only_attached = bool(attached) and not self.state.load().engine and (begun or not defined.ran(names))
        return replace(defined, images=images_for(filled, catalogue))

    @property
    def catalogue(self) -> Catalogue:
        """Return the services as `define` read them last; as devenv ships them, if it has not."""
        return self._catalogue or load_catalogue()

    def keep_roles(self, defined: Definitions) -> None:
        """Remember, before anything changes, which services fill roles: the next command finds them there."""
        if defined.roles != self.state.load().roles:
            self.state.amend(roles=defined.roles)

    def with_lent(self, defined: Definitions) -> Definitions:
        """Read again which components are lent: runs may have begun and ended during a wait for the lock."""
        held = self._held()
        citest = self.state.load().citest if CITEST in held else ()
        return replace(defined, lent=frozenset(held - {CITEST}), citest=frozenset(citest))

    def prepared(self, names: Sequence[str], join: bool = True) -> Definitions:
        """Read the definitions as `define` does; check what `up` needs before it asks the engine. Raise ConfigError."""
        defined = self.define(names, join)
        self._only_attached = self._only_attached and not defined.ran(names)
        folder.check(self.project, self.folder, self._top)
        self._check_alone()
        self._check_kind(defined.own)
        self.check_trust(defined.own)
        return defined

    def check_trust(self, profile: Profile) -> None:
        """Raise ConfigError if devenv.yaml names an image, an address or an engine that the user has not allowed.

        The engine counts unless the user names it, too, or the environment is there already.
        """
        file = profile.file
        if file and file.engine and (asked_for(self.choice.engine) or self.state.load().engine):
            file = replace(file, engine="")
        trust.check(file, self.choice.ask, self.report.note)

    def _check_kind(self, profile: Profile) -> None:
        """Raise ConfigError if another kind of engine is asked for than the one that has the environment.

        A user who names the very engine, by a context or DOCKER_HOST, may leave one that is gone for good.
        """
        known, asked = self.state.load().engine, asked_for(self.choice.engine)
        wanted = asked or profile.engine
        if known and wanted and kind_of(known) != wanted and not (asked and self.engine.named):
            source = "" if asked else f" of {self.file}"
            raise ConfigError(
                f"cannot use engine {wanted}{source}: the engine at {known} has environment {self.id}",
                hint="'devenv down --volumes' removes the environment there, with its data; or go on there with "
                f"'devenv --engine {kind_of(known)} …'",
            )

    def check_addresses(self, profile: Profile) -> None:
        """Raise ConfigError if devenv.yaml names an address, where devenv would log in, that the user has not allowed.

        This is for commands that run no image.
        """
        if profile.file and profile.file.addresses:
            self.check_trust(profile)

    @property
    def _top(self) -> Path:
        return folder.top_of(self.folder, self.name)

    def _check_alone(self) -> None:
        """Raise ConfigError if another environment has its files in the folder that the caller chose."""
        for other in all_records() if self.choice.output else ():
            if str(self.folder) in (other.folder, other.left_folder) and other.id != self.id:
                raise ConfigError(
                    f"cannot write to {self.folder}: environment {other.id} of {other.project} has its files there",
                    hint="name another folder",
                )

    # ---- what is there, and what should be -------------------------------------------------------------------

    def observe(self, removing: bool = False) -> Observed:
        """Return what the engine has of the environment. Report objects that only carry its label, each once.

        Raise NotOurs, before anything changes, if it belongs to another user, who alone has its passwords. Root needs
        none of them for `removing` it.
        """
        known = self.state.load().owner
        observed = replace(self.engine.observe(self.id, known), attached=frozenset(self.state.attachments()))
        self._check_user("" if known else observed.owner, removing)
        if self.state.load().tunnel == NO_TUNNEL:
            observed = replace(observed, forwarded=None)
        if new := [stranger for stranger in observed.strangers if stranger not in self.strangers]:
            self.report.note(f"left alone, labelled as this environment's and not made by it: {', '.join(new)}")
        self.strangers = observed.strangers
        return observed

    def _check_user(self, token: str, removing: bool) -> None:
        user = user_of(token)
        if user is None or user == os.geteuid():
            return
        if removing and os.geteuid() == 0:
            self.report.note(f"environment {self.id} belongs to {user_name(user)}; root may take it down")
            return
        raise NotOurs(
            f"cannot use environment {self.id}: it belongs to {user_name(user)}, who brought it up in this folder",
            hint="let that user run the same, or have an environment of your own: 'devenv --env NAME up'; "
            "'devenv help troubleshooting' says how to remove one whose user is gone",
        )

    def keep_tunnel(self, wanted: bool | None) -> None:
        """Remember whether devenv forwards the ports of an engine elsewhere, unless `wanted` is None."""
        if wanted is None or wanted == (self.state.load().tunnel != NO_TUNNEL):
            return
        self.state.amend(tunnel="" if wanted else NO_TUNNEL)
        if not wanted:
            self.engine.end_forward(self.id)

    def check_engine(self, observed: Observed) -> None:
        """Raise ConfigError if another engine has this environment, and nobody chose the one in use.

        devenv may find another engine while the first one is stopped. There, `up` would begin with new data, and
        `down --volumes` would forget the passwords of data that stays. An engine that has a part of it is the same one
        by another name: behind a proxy, for one.
        """
        there, here = self.state.load().engine, self.engine.url
        has = observed.containers or observed.volumes or observed.networks
        if there and not has and not self.engine.named and _real(there) != _real(here):
            hint = f"start that engine; or choose this one: 'DOCKER_HOST={here} devenv …'"
            if KUBERNETES in (kind_of(there), kind_of(here)):
                hint = f"'devenv --engine {kind_of(there)} …' uses it there, 'down --volumes' removes it with its data"
            raise ConfigError(
                f"cannot use environment {self.id} here: the engine at {there} has it, and devenv found that at {here}",
                hint,
            )

    def keep_engine(self) -> None:
        """Remember, before anything changes, which engine has the environment."""
        if self.state.load().engine != self.engine.url:
            self.state.amend(engine=self.engine.url)

    def look(self, defined: Definitions, names: Sequence[str] = (), check_ports: bool = False) -> Picture:
        """Return the desired and the observed state. Record nothing.

        With `check_ports`, raise NotOurs if another program has a pinned or remembered port by now.
        """
        selected = defined.select(names)
        record, observed = self.state.load(), replace(self.observe(), attached=defined.attached)
        everything = self._everything(defined, selected, observed)
        ports = self._ports(everything, defined, observed, check_ports)
        desired = self._resolved(defined, everything, ports, False, self.engine.inside, self._hosts(everything))
        return _pictured(defined, selected, desired, observed, record)

    def claim(self, defined: Definitions, names: Sequence[str] = (), avoid: Collection[int] = ()) -> Picture:
        """Look, and record the token, new ports and secrets before anything on the engine carries them.

        `avoid` are ports that another program took first. Raise NotOurs as `look` does.
        """
        selected = defined.select(names)
        record, observed = self.state.load(), replace(self.observe(), attached=defined.attached)
        if not observed.owner:
            observed = replace(observed, owner=new_token())
        everything = self._everything(defined, selected, observed)
        with ports_locked(self.report.note):
            ports = self._ports(everything, defined, observed, check=True, avoid=avoid)
            self._keep_ports(defined.profile, ports, observed.owner)
        desired = self._resolved(defined, everything, ports, True, self.engine.inside, self._hosts(everything))
        return _pictured(defined, selected, desired, observed, record)

    def on_paper(self, defined: Definitions, inside: bool = False) -> Desired:
        """Return the desired state of all of the profile without an engine; keep ports and secrets as `up` does.

        With `inside`, programs are on the network of the services, which then need no ports of this host.
        """
        selected = defined.select()
        if inside:
            with self.changing():
                ports = usual_ports(selected, defined.catalogue)
                return self._resolved(defined, selected, ports, keep=True, inside=True)
        with self.changing(), ports_locked(self.report.note):
            ports = self._chosen(selected, defined, Observed(), check=False)
            self._keep_ports(defined.profile, ports, "")
            desired = self._resolved(defined, selected, ports, keep=True)
            check_reach(desired)
            return desired

    def check_ports(self, picture: Picture) -> None:
        """Raise NotOurs, naming the holder, if another program has a port that the wanted services keep."""
        names = [*picture.wanted.services]
        # Containers that exist keep their ports, whatever is pinned by now.
        unpinned = replace(picture.defined.own, services=dict.fromkeys(names, ServiceChoice()))
        self._ports(names, replace(picture.defined, own=unpinned), picture.observed, check=True)

    def _everything(self, defined: Definitions, selected: list[str], observed: Observed) -> list[str]:
        """Return the selected services, and others that have a container, with the needs of both."""
        present = [name for name in observed.containers if name in defined.catalogue and name not in selected]
        if not present:
            return selected
        wanted = [*present, *selected]
        more = {name: ServiceChoice() for name in wanted if name not in defined.profile.services}
        widened = replace(defined.profile, services={**defined.profile.services, **more})
        return select(widened, defined.catalogue, wanted)

    def _hosts(self, names: Sequence[str]) -> dict[str, str]:
        """Return the names by which services find each other on the engine."""
        called = Names(self.id)
        return {name: self.engine.host_name(called.container(name), name) for name in names}

    def _resolved(
        self,
        defined: Definitions,
        names: Sequence[str],
        ports: Mapping[str, int],
        keep: bool,
        inside: bool = False,
        hosts: Mapping[str, str] = MappingProxyType({}),
    ) -> Desired:
        """Resolve these services, and save new secrets if `keep`."""
        profile, catalogue = defined.profile, defined.catalogue
        former = former_components(self.state.load().provisioned, profile, catalogue)
        secrets = self.state.secrets(secret_names(names, profile, catalogue, former), keep)
        images, citest = defined.images, defined.citest
        given = Inputs(self.id, profile, catalogue, images, ports, secrets, former, citest, inside, hosts)
        return resolve(names, given)

    def _ports(
        self,
        names: Sequence[str],
        defined: Definitions,
        observed: Observed,
        check: bool,
        avoid: Collection[int] = (),
    ) -> dict[str, int]:
        """Return the ports at which programs here reach services: beside them, those of their containers."""
        if self.engine.inside:
            return usual_ports(names, defined.catalogue)
        return self._chosen(names, defined, observed, check, avoid)

    def _chosen(
        self,
        names: Sequence[str],
        defined: Definitions,
        observed: Observed,
        check: bool,
        avoid: Collection[int] = (),
    ) -> dict[str, int]:
        lost = Record("", "", "", ports={str(port): port for port in avoid})
        # Unless devenv forwards them, a remote engine's ports are not this host's: others may have the same numbers.
        check = check and (self.engine.local or observed.forwarded is not None)
        taken = Taken(observed, self.state.load(), [*all_records(), lost], self._holder)
        return choose_ports(names, defined.profile, defined.catalogue, taken, check)

    def _keep_ports(self, profile: Profile, ports: Mapping[str, int], owner: str) -> None:
        def kept(record: Record) -> Record:
            ours = {**record.ports, **ports}
            return replace(record, profile=profile.name, ports=ours, owner=record.owner or owner)

        self.state.change(kept)

    def _holder(self, port: int) -> str:
        return (self.engine.publisher(port) if self.engine.local else "") or holder(port)

    # ---- what is there of it ---------------------------------------------------------------------------------

    def bare(self, removing: bool = False) -> Picture:
        """Look without reading the project's files: a user with a broken devenv.yaml can still stop what runs."""
        record, observed = self.state.load(), self.observe(removing)
        nothing = Desired(self.id, Names(self.id).network, {})
        return Picture(Definitions(Profile("", {}), load_catalogue()), nothing, nothing, observed, record)

    def asked_for(self, picture: Picture) -> set[str]:
        """Return the services that have a container or data, and those of a profile that somebody chose.

        The profile that devenv takes by itself counts only as long as nothing exists.
        """
        existing = picture.observed.services
        chosen = picture.defined.own.file or self.choice.profile
        return existing | ({*picture.wanted.services} if chosen or not existing else set())

    def existing(self, defined: Definitions, names: Sequence[str]) -> Picture:
        """Look; want the services that have a container or are attached: those of `names`, or all.

        Raise ConfigError if one of `names` has none, or no service has one.
        """
        picture = self.look(defined)
        attached = {name for name in picture.wanted.services if name in picture.observed.attached}
        ran = [name for name in names if name not in attached]
        # Without a container of any, the error says so; where some are attached, these are there.
        asked = ran or (not names and (picture.observed.containers or not attached))
        found = {one.service for one in self.containers(picture.observed, ran)} if asked else set()
        found |= attached
        services = {name: service for name, service in picture.everything.services.items() if name in found}
        return replace(picture, wanted=replace(picture.everything, services=services))

    def containers(self, observed: Observed, names: Sequence[str]) -> list[ObservedContainer]:
        """Return the containers of these services, or all.

        Raise ConfigError if one is missing, or all are, and Unsupported for a service that is attached.
        """
        refuse_attached(observed, names)
        for name in names:
            if name not in observed.containers:
                known = name in self.catalogue
                meant = "" if known else f"{hint_for(name, observed.containers, 'it has')}; "
                create = f"'devenv up {name}' creates it" if known else "'devenv up' creates them"
                raise ConfigError(f"cannot find a container of {name!r} in {self.id}", hint=meant + create)
        if not observed.containers:
            refuse_attached(observed, sorted(observed.attached))
            raise ConfigError(f"cannot find a container of {self.id}", hint="'devenv up' creates them")
        return [observed.containers[name] for name in names or observed.containers]

    def there(self, defined: Definitions, components: Collection[str] = ()) -> Picture:
        """Look; want the services that have a container or are attached.

        Raise ConfigError if none is there, or a component is missing.
        """
        for component in components:
            if component not in defined.profile.components:
                raise _no_component(component, defined.profile)
        picture = self.look(defined)
        there = {*picture.observed.containers, *picture.observed.attached}
        services = {name: service for name, service in picture.everything.services.items() if name in there}
        if not services:
            raise ConfigError(f"cannot use environment {self.id}: it has no services", hint="run 'devenv up' first")
        given = self.given(replace(picture.everything, services=services))
        for component in components:
            if not any(component in service.components for service in given.services.values()):
                raise ConfigError(f"cannot use component {component!r}: no service has a part for it", "'devenv up'")
        return replace(picture, wanted=given)

    def given(self, desired: Desired) -> Desired:
        """Return `desired` with only those parts of components that are in place by the record."""
        provisioned = self.state.load().provisioned
        services = {
            name: replace(s, components={c: part for c, part in s.components.items() if provisioned.get(part.pair)})
            for name, s in desired.services.items()
        }
        return replace(desired, services=services)

    def note_works(self, services: Collection[str]) -> None:
        """Record that services work with their new data, if the devenv that started them did not see it."""
        record = self.state.load()
        if not {*record.unfinished, *record.renewed} & {*services}:
            return
        with self.state.locked_if_free() as ours:
            if ours:  # else the devenv that holds the lock sees it
                notes = Notes(self.state)
                notes.starts((), [*services])
                notes.renewed({*self.state.load().renewed} & {*services})

    # ---- services that somebody else runs --------------------------------------------------------------------

    def check_attached(self, picture: Picture) -> None:
        """Raise ConfigError if a wanted service is another server's now, and devenv has something in the former one.

        The record of what components have would be about the wrong server: devenv could overwrite what others have.
        """
        check_reach(picture.wanted)
        before, provisioned = self.state.attachments(), self.state.load().provisioned
        there = {*picture.observed.containers, *picture.observed.volumes.values()}
        for name, service in picture.wanted.services.items():
            was = before.get(name, {}).get(SHOWN, "")
            parts = [pair for pair in provisioned if Pair.parse(pair).service == name]
            if was == service.attached or not (parts or (service.attached and name in there)):
                continue
            wanted = f"attach {name} at {service.attached}" if service.attached else f"run {name}"
            has = f"attached at {was}" if was else "in a container of devenv's"
            raise ConfigError(
                f"cannot {wanted}: this environment has it {has}",
                f"'devenv down --volumes {name}' removes what devenv made there; 'devenv --env NAME' is another one",
            )

    def keep_attached(self, picture: Picture) -> None:
        """Remember, before anything is made there, where services are attached: `down` finds it without any file."""
        before, now = self.state.attachments(), dict[str, dict[str, str]]()
        for name, service in picture.wanted.services.items():
            if found := picture.defined.catalogue[name].attachment:
                now[name] = {**found.settings, SHOWN: service.attached}
        others = {name: settings for name, settings in before.items() if name not in picture.wanted.services}
        if {**others, **now} != before:
            self.state.attach({**others, **now})

    def made_there(self, names: Collection[str] = ()) -> Definitions:
        """Return the definitions of services that are attached by the record (all, if none is named)."""
        known = {name: s for name, s in self.state.attachments().items() if not names or name in names}
        catalogue = load_catalogue(attached=known)
        return Definitions(Profile("", dict.fromkeys(known, ServiceChoice())), catalogue)

    def in_attached(self, names: Collection[str] = ()) -> Desired:
        """Return services that are attached by the record, with the parts that components may have of them."""
        if not self.state.attachments():  # Most environments have none, and their `down` reads nothing more.
            return Desired(self.id, Names(self.id).network, {})
        defined = self.made_there(names)
        services = list(defined.own.services)
        pairs = [Pair.parse(pair) for pair in self.state.load().provisioned]
        former = sorted({pair.component for pair in pairs if pair.service in services} - {""})
        secrets = self.state.secrets(secret_names(services, defined.own, defined.catalogue, former), keep=False)
        return resolve(services, Inputs(self.id, defined.own, defined.catalogue, {}, {}, secrets, former))

    # ---- components that somebody had ------------------------------------------------------------------------

    def adopt(self, catalogue: Catalogue) -> None:
        """Put the test components of ended processes on record: they are left behind, too."""
        if not (names := self.state.abandoned()):
            return
        observed, record = self.observe(), self.state.load()
        services = [name for name, s in catalogue.items() if name in observed.services and s.provisioner]
        pairs = {str(Pair(service, name)): "" for service in services for name in names}
        self.state.save(replace(record, provisioned={**pairs, **record.provisioned}))
        self.state.adopt()

    def former(self, defined: Definitions) -> set[str]:
        """Return the components that have a part of some service and that nobody asks for any more."""
        provisioned = self.state.load().provisioned
        return {*former_components(provisioned, defined.profile, defined.catalogue)} - self._held()

    def left_behind(self, defined: Definitions) -> set[str]:
        """Return the components that killed runs had, except those of devenv.yaml and of services."""
        # A snapshot may have the account for test suites, and no file says that a run had it.
        pairs = [Pair.parse(pair) for pair in self.state.load().provisioned]
        restored = {pair.component for pair in pairs if pair.component == CITEST} - self._held()
        return (self.state.left_behind() | restored) - defined.listed - needed_components(defined.catalogue)

    def _held(self) -> set[str]:
        """Return the components that runs have right now."""
        return {name for name, held in self.state.lendings().items() if held}

    def forget_lent(self, components: Collection[str]) -> None:
        """Forget that these components were lent, except those that still have a part of a service."""
        still_there = {Pair.parse(pair).component for pair in self.state.load().provisioned}
        for component in {*components} - still_there:
            self.state.returned(component)

    # ---- what programs read ----------------------------------------------------------------------------------

    def write(self, files: Mapping[str, str], catalogue: Catalogue) -> list[Path]:
        """Write these files to the folder and remove devenv's other files; return those that changed.

        If the folder changes, the old files stay until the new ones are on disk.
        """
        self._remove_left()
        self.check_files(files)
        if not self._stays():
            return self._move(files, catalogue)
        before = self._own_files(catalogue)
        # On record before devenv writes them: it can then remove what a killed devenv leaves.
        self.state.amend(files=sorted({*self.state.load().files, *files}), folder=self._place)
        written = folder.write(self.project, self.folder, files, before, self._top)
        self.state.amend(files=sorted(files))
        return written

    def _move(self, files: Mapping[str, str], catalogue: Catalogue) -> list[Path]:
        """Write these files to another folder, and remove those in the old one, or the new ones if that fails."""
        old = {"left_folder": str(self._recorded_folder()), "left_files": sorted(self._own_files(catalogue))}
        # As in `write`: at any moment, the record has every file that devenv may have written.
        self.state.amend(left_folder=str(self.folder), left_files=sorted(files))
        try:
            written = folder.write(self.project, self.folder, files, _known_files(self._top, catalogue), self._top)
            self.state.amend(files=sorted(files), folder=self._place, **old)
        finally:
            self._remove_left()
        return written

    @property
    def _place(self) -> str:
        """Return the folder as the record has it."""
        return "" if self.folder == self.usual_folder else str(self.folder)

    def check_files(self, names: Collection[str]) -> None:
        """Raise ConfigError if a file of another program has a name that devenv is going to write."""
        record = self.state.load()
        ours = record.files if self._stays() else ()
        left = record.left_files if record.left_folder == str(self.folder) else ()
        folder.check_files(self.folder, self._top, names, {*ours, *left})

    def remove_files(self, catalogue: Catalogue, but: Path | None = None) -> None:
        """Remove the files that devenv has written for the environment, except those in the folder `but`."""
        self._remove_left(but)
        if (place := self._recorded_folder()) != but:
            folder.remove(self.project, place, self._own_files(catalogue), folder.top_of(place, self.name))
        self.state.amend(files=[], folder="")

    def _remove_left(self, but: Path | None = None) -> None:
        """Remove what a move of the files, perhaps a killed one, left in the other folder."""
        record = self.state.load()
        if record.left_folder and (place := Path(record.left_folder)) != but:
            folder.remove(self.project, place, record.left_files, folder.top_of(place, self.name))
        self.state.amend(left_folder="", left_files=[])

    def _own_files(self, catalogue: Catalogue) -> set[str]:
        """Return the names of the files that are devenv's: those on record, and all that it knows where it left a mark.

        The record may have been lost.
        """
        top = folder.top_of(self._recorded_folder(), self.name)
        return {*self.state.load().files, *_known_files(top, catalogue)}


def _known_files(top: Path, catalogue: Catalogue) -> Collection[str]:
    """Return the names of all files that devenv knows, if it left a mark in the folder."""
    return contents.known_files(catalogue) if folder.is_marked(top) else ()


def refuse_attached(observed: Observed, names: Collection[str]) -> None:
    """Raise Unsupported if one of these services is attached: devenv has no container or data of it."""
    if theirs := [name for name in names if name in observed.attached]:
        raise Unsupported(
            f"cannot do this with {', '.join(theirs)}: somebody else runs it, and devenv has no container of it",
            "ask who runs it; 'devenv status' shows where it is",
        )


def _pictured(
    defined: Definitions, selected: Sequence[str], everything: Desired, observed: Observed, record: Record
) -> Picture:
    everything = replace(everything, owner=observed.owner)
    services = {name: everything.services[name] for name in selected}
    images = (defined.images[BASE], *(service.image for service in services.values() if not service.attached))
    return Picture(defined, everything, replace(everything, services=services, images=images), observed, record)


def _real(url: str) -> str:
    """Return an engine's URL in one way: a socket has several paths where /var/run is a link."""
    scheme, _, place = url.partition("://")
    return f"{scheme}://{os.path.realpath(place)}" if scheme == "unix" else url


def needs(catalogue: Catalogue) -> dict[str, list[str]]:
    """Return, by service, the services that it may be connected to: all that fill a role which it requires."""
    return {
        name: [other.name for other in catalogue.values() if any(other.role == r.role for r in service.requires)]
        for name, service in catalogue.items()
    }


def _no_component(component: str, profile: Profile) -> ConfigError:
    known = hint_for(component, profile.components, "devenv.yaml has")
    file = "." in component or "/" in component
    add = f"{known}; add others there, 'components: {{{component}: {{}}}}', and run 'devenv up'"
    return ConfigError(
        f"cannot find component {component!r} in devenv.yaml",
        hint="name a component before the file, or --clouds before a clouds.yaml" if file else add,
    )
