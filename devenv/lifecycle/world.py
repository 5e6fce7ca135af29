"""Hold the environment's place, state and engine; read the files and observe the engine.

A `World` is what every use of an environment works with. Each reading is a frozen value: `Definitions` hold the content
of the files, a `Picture` holds the desired and the observed state.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from devenv.engine.protocol import Engine
from devenv.errors import Cancelled, ConfigError, DevenvError, NoEngine, NotOurs, ServiceFailed
from devenv.images.references import images_for
from devenv.lifecycle import sharing
from devenv.lifecycle.attached import refuse_attached
from devenv.lifecycle.picture import Definitions, Picture, pictured
from devenv.lifecycle.seat import Seat
from devenv.model import (
    Catalogue,
    Desired,
    Observed,
    ObservedContainer,
    Profile,
    ProjectFile,
    Report,
    ServiceChoice,
)
from devenv.names import Names, check_name, hint_for, user_name
from devenv.ports import holder
from devenv.spec import trust
from devenv.spec.catalogue import load_catalogue
from devenv.spec.components import CITEST, check_components, former_components
from devenv.spec.desired import Inputs, check_reach, resolve, secret_names, select, with_roles
from devenv.spec.ports import Taken, choose_ports, usual_ports
from devenv.spec.profile import load_profile, project_file
from devenv.store.places import HOLDER
from devenv.store.record import NO_TUNNEL, Record
from devenv.store.registry import all_records, ports_locked
from devenv.store.state import Notes, State, new_token, user_of
from devenv.wiring.project_files import Place, ProjectFiles
from devenv.wiring.written import Written

if TYPE_CHECKING:
    from devenv.lifecycle.timing import Run, Watch


@dataclass(frozen=True)
class Choice:
    """The caller's own choices, in place of those in devenv.yaml.

    `profile` replaces its profile; `settings` override its settings of services. `ask` decides whether devenv may run
    images that it names and the user has not allowed. `file` is another file than devenv.yaml, and `output` another
    folder for written files than .devenv/. `engine` is a kind of engine, `context` and `namespace` those of a cluster.
    `shared` is the name under which hosts share the environment.
    """

    profile: str = ""
    settings: Mapping[str, Any] | None = None
    ask: Callable[[ProjectFile], bool] | None = None
    file: str = ""
    output: Path | None = None
    engine: str = ""
    context: str = ""
    namespace: str = ""
    shared: str = ""


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
        self.written = Written(project, name, state, choice.output)
        self.seat = Seat(state, choice.engine, choice.context, choice.namespace, self.profile, self.file)
        # The objects that carried the environment's label and were not its own, at the last look.
        self.strangers: tuple[str, ...] = ()
        # The last `up` and its times, once its plan has begun.
        self.latest: Run | None = None
        self._catalogue: Catalogue | None = None
        self._over, self._running = threading.Event(), threading.Event()

    @property
    def id(self) -> str:
        return self.state.id

    @property
    def engine(self) -> Engine:
        """Connect to the engine at first use, and return it. Raise NoEngine."""
        return self.seat.engine

    @property
    def files(self) -> ProjectFiles:
        """Return the project's own files that devenv merges into."""
        place = Place(self.project, self.written.folder, self.written.folder != self.written.usual_folder)
        return ProjectFiles(place, self.id, self.name == "default", self.report.note)

    # ---- the lock, and the end -------------------------------------------------------------------------------

    @contextmanager
    def changing(self, make: bool = False, here: bool = False) -> Iterator[None]:
        """Hold the environment's lock, between hosts that share it, too. Raise Cancelled after `cancel`.

        `make` begins a shared environment that does not exist. What changes only `here` does not look for one.
        """
        if not here:
            self._meet()
        with self.state.locked(self.report.note, self._over, make):
            yield

    def _meet(self) -> None:
        """Find the place of what hosts have in common, if they share the environment."""
        self._check_shared()
        if self.state.shared and not self.state.central:
            note = self.state.folder / HOLDER
            self.state.central = self.engine.central(self.id, note, lambda: self._running.set())

    def _check_shared(self) -> None:
        if self.state.shared:
            sharing.check(self.state, self.seat.kind(), self.project)

    def _look_there(self, profile: Profile) -> None:
        """Read what hosts have in common, for a look. Without the cluster, what this host knows has to do.

        devenv looks for nothing that only a file names which the user has not allowed.
        """
        self._check_shared()
        file = self._to_trust(profile)
        if self.state.shared and not (file and file.shared and not trust.trusted(file)):
            with suppress(NoEngine, ServiceFailed):
                self._meet()
                self.state.look(self.report.note)

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
        self._look_there(own)
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
        self.seat.settle(attaches=bool(attached), runs=not attached or bool(defined.ran(names)))
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
        held = self.state.held_now()
        citest = self.state.load().citest if CITEST in held else ()
        return replace(defined, lent=frozenset(held - {CITEST}), citest=frozenset(citest))

    def prepared(self, names: Sequence[str], join: bool = True) -> Definitions:
        """Read the definitions as `define` does; check what `up` needs before it asks the engine. Raise ConfigError."""
        if self.state.shared:  # What hosts have in common belongs to the definitions.
            self._check_shared()
            self.check_trust(self.profile())
        defined = self.define(names, join)
        if defined.attached:  # Else devenv needs an engine anyway.
            self.seat.ask_for(runs=bool(defined.ran(names)))
        self.written.check_place()
        self.seat.check_kind(defined.own.engine)
        self.check_trust(defined.own)
        return defined

    def check_trust(self, profile: Profile) -> None:
        """Raise ConfigError if devenv.yaml names what the user has not allowed (see spec/trust.py).

        The engine counts unless the user names it, too, or the environment is there already; so does a shared one.
        """
        trust.check(self._to_trust(profile), self.choice.ask, self.report.note)

    def _to_trust(self, profile: Profile) -> ProjectFile | None:
        """Return the project's own file, without what the user has named, too."""
        file = profile.file
        if file and file.engine and self.seat.known:
            file = replace(file, engine="")
        if file and file.shared and (self.choice.shared or self.state.load().engine):
            file = replace(file, shared="")
        return file

    def check_addresses(self, profile: Profile) -> None:
        """Raise ConfigError if devenv.yaml names an address, where devenv would log in, that the user has not allowed.

        This is for commands that run no image.
        """
        if profile.file and profile.file.addresses:
            self.check_trust(profile)

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

    def look(self, defined: Definitions, names: Sequence[str] = (), check_ports: bool = False) -> Picture:
        """Return the desired and the observed state. Record nothing.

        With `check_ports`, raise NotOurs if another program has a pinned or remembered port by now.
        """
        selected = defined.select(names)
        record, observed = self.state.load(), replace(self.observe(), attached=defined.attached)
        everything = self._everything(defined, selected, observed)
        ports = self._ports(everything, defined, observed, check_ports, inside=self.engine.inside)
        desired = self._resolved(defined, everything, ports, False, self.engine.inside, self._hosts(everything))
        return pictured(defined, selected, desired, observed, record)

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
            ports = self._ports(everything, defined, observed, True, avoid, self.engine.inside)
            self._keep_ports(defined.profile, ports, observed.owner)
        desired = self._resolved(defined, everything, ports, True, self.engine.inside, self._hosts(everything))
        return pictured(defined, selected, desired, observed, record)

    def on_paper(self, defined: Definitions, inside: bool = False) -> Desired:
        """Return the desired state of all of the profile without an engine; keep ports and secrets as `up` does.

        With `inside`, programs are on the network of the services, which then need no ports of this host.
        """
        selected = defined.select()
        if inside:
            with self.changing(here=True):
                ports = usual_ports(selected, defined.catalogue)
                return self._resolved(defined, selected, ports, keep=True, inside=True)
        with self.changing(here=True), ports_locked(self.report.note):
            ports = self._ports(selected, defined, Observed())
            self._keep_ports(defined.profile, ports, "")
            desired = self._resolved(defined, selected, ports, keep=True)
            check_reach(desired)
            return desired

    def check_ports(self, picture: Picture) -> None:
        """Raise NotOurs, naming the holder, if another program has a port that the wanted services keep."""
        names = [*picture.wanted.services]
        # Containers that exist keep their ports, whatever is pinned by now.
        unpinned = replace(picture.defined.own, services=dict.fromkeys(names, ServiceChoice()))
        self._ports(names, replace(picture.defined, own=unpinned), picture.observed, True, inside=self.engine.inside)

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
        check: bool = False,
        avoid: Collection[int] = (),
        inside: bool = False,
    ) -> dict[str, int]:
        """Return the ports at which programs reach services: for those `inside`, the containers' own.

        With `check`, raise NotOurs if another program has a pinned or remembered port by now; `avoid` are lost, too.
        """
        if inside:
            return usual_ports(names, defined.catalogue)
        lost = Record("", "", "", ports={str(port): port for port in avoid})
        # Unless devenv forwards them, a remote engine's ports are not this host's: others may have the same numbers.
        check = check and (self.engine.local or observed.forwarded is not None)
        taken = Taken(observed, self.state.load(), [*all_records(), lost], self._holder)
        return choose_ports(names, defined.profile, defined.catalogue, taken, check)

    def _keep_ports(self, profile: Profile, ports: Mapping[str, int], owner: str) -> None:
        def kept(record: Record) -> Record:
            ours = {**record.ports, **ports}
            common = replace(record, profile=profile.name, ports=ours, owner=record.owner or owner)
            # On paper, nobody joins, and no engine is asked.
            return sharing.joined(common, profile.components, self.engine.inside) if owner else common

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
        refuse_attached(names, observed.attached)
        for name in names:
            if name not in observed.containers:
                known = name in self.catalogue
                meant = "" if known else f"{hint_for(name, observed.containers, 'it has')}; "
                create = f"'devenv up {name}' creates it" if known else "'devenv up' creates them"
                raise ConfigError(f"cannot find a container of {name!r} in {self.id}", hint=meant + create)
        if not observed.containers:
            refuse_attached(sorted(observed.attached), observed.attached)
            raise ConfigError(f"cannot find a container of {self.id}", hint="'devenv up' creates them")
        return [observed.containers[name] for name in names or observed.containers]

    def there(self, defined: Definitions, components: Collection[str] = (), network: bool = False) -> Picture:
        """Look; want the services that have a container or are attached.

        With `network`, they are in the view of programs in containers beside them. Raise ConfigError if none is there,
        or a component is missing.
        """
        for component in components:
            if component not in defined.profile.components:
                raise _no_component(component, defined.profile)
        picture = self.look(defined)
        if network:
            picture = replace(picture, everything=self._beside(defined, [*picture.everything.services]))
        there = {*picture.observed.containers, *picture.observed.attached}
        services = {name: service for name, service in picture.everything.services.items() if name in there}
        if not services:
            raise ConfigError(f"cannot use environment {self.id}: it has no services", hint="run 'devenv up' first")
        given = self.given(replace(picture.everything, services=services))
        for component in components:
            if not any(component in service.components for service in given.services.values()):
                raise ConfigError(f"cannot use component {component!r}: no service has a part for it", "'devenv up'")
        return replace(picture, wanted=given)

    def _beside(self, defined: Definitions, names: Sequence[str]) -> Desired:
        """Return services as programs on their container network reach them: by name, at the containers' own ports."""
        ports = usual_ports(names, defined.catalogue)
        return self._resolved(defined, names, ports, keep=False, inside=True, hosts=self._hosts(names))

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


def _no_component(component: str, profile: Profile) -> ConfigError:
    known = hint_for(component, profile.components, "devenv.yaml has")
    file = "." in component or "/" in component
    add = f"{known}; add others there, 'components: {{{component}: {{}}}}', and run 'devenv up'"
    return ConfigError(
        f"cannot find component {component!r} in devenv.yaml",
        hint="name a component before the file, or --clouds before a clouds.yaml" if file else add,
    )
