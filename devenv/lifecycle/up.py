"""How an environment is brought up: planned, executed, told to programs, and tried again where that helps."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from devenv.engine.connection import own_container
from devenv.engine.ownership import check_names
from devenv.errors import AddressPoolExhausted, ConfigError, DevenvError, PortTaken
from devenv.images import golden, snapshot
from devenv.images.references import check_used
from devenv.lifecycle.plan import make_plan
from devenv.lifecycle.timing import Run, Watch
from devenv.lifecycle.world import BEGUN, Steps
from devenv.model import Desired, Observed, Plan, ProjectFile, Result
from devenv.spec import trust
from devenv.spec.components import needed_components
from devenv.spec.desired import select
from devenv.spec.profile import PROJECT_FILE
from devenv.store.registry import network_holders
from devenv.wiring import folder as wiring
from devenv.wiring.project_files import Merges

# How often another port is tried when somebody was quicker.
_PORT_ATTEMPTS = 3


class _Otherwise(Exception):
    """A quick way did not work: what it left is gone, and it is not to be taken again."""


@dataclass(frozen=True)
class Renewal:
    """Services that are to lose their data, each with the snapshot that it gets instead, or nothing.

    `provisioned` is what components have in that snapshot.
    """

    services: Mapping[str, str]
    provisioned: Mapping[str, str] = field(default_factory=dict)


class BringUp(Steps):
    """An environment that can be brought up. The caller holds its lock, and has loaded it."""

    # Whether golden states are used and kept at all; whether this run may still begin with one, and empty in place.
    _golden, _use_golden, _in_place = True, True, True
    # Whether this run may look once more at what is there.
    _look_again = True
    # Services whose containers stay as they are, whatever differs.
    _as_it_is: Collection[str] = ()
    # What this object brought up last and when, once its plan was begun.
    latest: Run | None = None

    def trust(self) -> ProjectFile | None:
        """Allow devenv.yaml, as it stands now, to run the images that it names; returns it, if there is one."""
        self._load_profile()
        if self.profile.file:
            trust.allow(self.profile.file, self._report.note)
        return self.profile.file

    def _check_trust(self) -> None:
        """Raise ConfigError if devenv.yaml, as it was loaded, names an image that is not trusted."""
        trust.check(self.profile.file, self._ask, self._report.note)

    def distrust(self) -> None:
        """Allow devenv.yaml nothing any more, whatever it holds. What runs goes on."""
        trust.revoke(self.project / PROJECT_FILE, self._report.note)

    @contextmanager
    def _noting(self, watch: Watch) -> Iterator[None]:
        """Note what is done and when, and keep that on record whatever comes of it."""
        report, self._report = self._report, watch
        watch.phase("plan")
        try:
            yield
        finally:
            self._report = report
            if run := watch.run():
                self.latest = run
                # Nobody's `up` fails for want of it.
                with suppress(DevenvError):
                    self.state.save_timing(asdict(run))

    def _bring_up(
        self, names: Sequence[str], drop: bool = False, renewal: Renewal | None = None, use_golden: bool = True
    ) -> Result:
        self._golden, self._use_golden, self._in_place, self._look_again = use_golden, True, True, True
        attempts = _PORT_ATTEMPTS
        while True:
            before = self.state.load().ports
            try:
                return self._up(names, drop, renewal)
            except _Otherwise:
                # What is still to lose its data is on record.
                renewal = None
            except PortTaken as error:
                attempts -= 1
                # Ports that were this environment's before stay its own; those chosen a moment ago can be others.
                if not attempts or not self._give_back(before):
                    raise
                self._report.note(f"{error}: taking another one")

    def _up(self, names: Sequence[str], drop: bool, renewal: Renewal | None) -> Result:
        self._check_reach()
        self._look_at_lendings()
        self._adopt()
        self._take_secrets(renewal)
        desired, selected, observed = self._desired(names)
        merges = self._preflight(desired, observed)[0]
        if renewal:
            self._renew(renewal)
        elif self._use_golden and self._in_place and (left := self.state.load().renewing.keys() & selected.services):
            self._report.note(f"finishing what was interrupted: {', '.join(sorted(left))} get their data anew")
        selected = self._with_sources(selected, observed)
        if not self.engine.local:
            self._report.note(f"the ports are on 127.0.0.1 of the engine's host ({self.engine.url}): forward them")
        if others := sorted(set(observed.containers) - set(self.profile.services) - set(selected.services)):
            there = " ".join(others)
            self._report.note(f"still there, but not in the profile: {there} ('devenv down {there}' removes)")
        plan = self._plan(selected, observed, drop)
        try:
            timings = self._execute(plan, selected, observed)
        except DevenvError as error:
            if isinstance(error, AddressPoolExhausted):
                error.detail = (*error.detail, *network_holders(self.engine.with_networks() - {self.id}))
            if bad := golden.blamed(plan, selected, error):
                self._throw_away(bad, error)
                self._use_golden = False
                raise _Otherwise from error
            emptied = [op.target for op in plan.operations if op.action == "empty"]
            if failed := [name for name in emptied if {f"empty {name}", f"ready {name}"} & {*error.operations}]:
                self._report.note(f"emptying did not do ({error.message}): making {', '.join(failed)} anew")
                self._in_place = False
                raise _Otherwise from error
            if self._look_again and (gone := self._gone(plan, observed)):
                self._report.note(f"{', '.join(gone)} did not stay as it was found ({error.message}): looking again")
                self._look_again = False
                raise _Otherwise from error
            # The others work: one component that cannot be made is no reason to leave them without their files.
            if error.operations and all(self._of_a_component(operation) for operation in error.operations):
                self._tell_programs(desired, merges)
            raise
        golden.touch(op.subject for op in plan.operations if op.cause == golden.CAUSE)
        written, restored = self._tell_programs(desired, merges)
        self._forget_lent(self._left_behind())
        for component in self.state.left_behind() & self._listed:
            self.state.kept(component)
        self._note_former()
        self._remove_leftovers(observed.images)
        components = [
            name for name in desired.components if any(name in s.components for s in desired.services.values())
        ]
        return Result(plan, selected.services, timings, written, restored, components)

    def _gone(self, plan: Plan, before: Observed) -> list[str]:
        """What the plan relied on and has gone: the engine goes on with a stop that a killed devenv asked for."""
        touched = {op.target for op in plan.operations if op.action in ("stop", "create", "start")}
        relied = [name for name, c in before.containers.items() if c.running and name not in touched]
        try:
            now = self.observe()
        except DevenvError:
            return []
        ended = [name for name in relied if name not in now.containers or not now.containers[name].running]
        return ended + (["the network"] if set(before.networks) - set(now.networks) else [])

    def _check_reach(self) -> None:
        """Raise ConfigError in a container that is not on the network of the engine's host."""
        own = own_container()
        network = self.engine.network_of(own) if own else "host"
        if network not in ("", "host") and not network.startswith("container:"):
            raise ConfigError(
                f"cannot reach services from container {own}: they answer on 127.0.0.1 of its host",
                f"start it with '--network host' in place of network {network!r}",
            )

    def _of_a_component(self, operation: str) -> bool:
        action, _, target = operation.partition(" ")
        return action in ("provision", "drop") and target.partition("/")[2] not in needed_components(self.catalogue)

    def _prepare(self, names: Sequence[str]) -> None:
        """Load it and refuse, before anything is asked of the engine, what cannot be brought up."""
        self._load()
        select(self.profile, self.catalogue, names)
        wiring.check(self.project, self.folder)
        self._check_trust()

    # ---- planned -----------------------------------------------------------------------------------------------

    def _with_sources(self, desired: Desired, observed: Observed) -> Desired:
        """The same, with the data that new volumes begin with: of the snapshot that is being restored, else golden."""
        renewing = self.state.load().renewing
        for name in sorted({name for name in renewing.values() if name}):
            saved = snapshot.load(self.state, name)
            services = [service for service, source in renewing.items() if source == name]
            snapshot.check(saved, self.images, observed.images, self.profile.services)
            desired = replace(desired, sources={**desired.sources, **snapshot.sources(saved, services)})
        return golden.with_golden(desired, self.catalogue, observed, self._use_golden) if self._golden else desired

    def _plan(self, selected: Desired, observed: Observed, drop: bool) -> Plan:
        record = self.state.load()
        renew = {
            name: f"restoring snapshot {source}" if source else "reset"
            for name, source in record.renewing.items()
            if name in selected.services
        }
        dropped = self._former() if drop else self._left_behind()
        plan = make_plan(
            selected,
            observed,
            record.provisioned,
            dropped,
            record.unfinished,
            renew,
            self._in_place,
            self._as_it_is,
        )
        for name in [op.target for op in plan.operations if op.action == "prepare" and op.target in self._as_it_is]:
            # What is to be done again has begun with these settings.
            if name not in renew and record.provisioned.get(name) != BEGUN:
                raise ConfigError(
                    f"cannot use {name} as it runs: as far as is known, it has other settings",
                    f"'devenv up {name}' makes it what devenv.yaml says; or ask for the same",
                )
        check_used(self.engine, plan, selected, observed.images)
        return plan

    def _renew(self, renewal: Renewal) -> None:
        """Remember it before anything is done: one that is interrupted is finished by the next `up`."""
        record, services = self.state.load(), renewal.services
        others = {p: digest for p, digest in record.provisioned.items() if p.partition("/")[0] not in services}
        saved = {p: digest for p, digest in renewal.provisioned.items() if p.partition("/")[0] in services}
        self.state.amend(
            renewing={**record.renewing, **services},
            renewed=[name for name in record.renewed if name not in services],
            provisioned={**others, **saved},
        )

    def _take_secrets(self, renewal: Renewal | None) -> None:
        """Have the secrets of a snapshot that is being restored: those of the data that services are to get."""
        renewing = {**self.state.load().renewing, **(renewal.services if renewal else {})}
        for name in sorted({*renewing.values()} - {""}):
            self.state.restore_secrets(snapshot.load(self.state, name).own_secrets)

    def _throw_away(self, bad: Mapping[str, str], error: DevenvError) -> None:
        """Remove golden states from which services do not start, and have all that was made of them made anew."""
        names = ", ".join(bad)
        self._report.note(f"no start from the golden state of {names} ({error.message}): starting without it")
        for image in bad.values():
            self.engine.remove_image(image)
        self._renew(Renewal(dict.fromkeys(bad, "")))

    # ---- told to programs ------------------------------------------------------------------------------------

    def _preflight(self, desired: Desired, observed: Observed) -> tuple[Merges, list[Path]]:
        """What to merge into files of the project's, and those that would change.

        Raises ConfigError before anything is done if there is a file or a template that cannot be used; NotOurs if a
        stranger has a name that is needed.
        """
        check_names(desired, observed)
        texts = wiring.wired_files(desired, self.catalogue)
        merges = self._files.choose(desired, texts)
        return merges, self._files.check(merges, texts)

    def _tell_programs(self, desired: Desired, merges: Merges) -> tuple[list[Path], list[Path]]:
        """Write what the services offer; returns the files that were written or merged into, and those restored."""
        texts = wiring.wired_files(self._given(desired), self.catalogue)
        written = self._write(texts)
        merged, restored = self._files.apply(merges, texts)
        return [*written, *merged], restored

    # ---- components that somebody had -----------------------------------------------------------------------

    def _adopt(self) -> None:
        """Put components on record that were made for tests by processes that are gone: they are left behind, too."""
        if not (names := self.state.abandoned()):
            return
        observed, record = self.observe(), self.state.load()
        services = [name for name, s in self.catalogue.items() if name in observed.services and s.provisioner]
        pairs = {f"{service}/{name}": "" for service in services for name in names}
        self.state.save(replace(record, provisioned={**pairs, **record.provisioned}))
        self.state.adopt()

    def _forget_lent(self, components: Collection[str]) -> None:
        """Forget that these components were lent, those that have no part of any service any more."""
        still_there = {pair.partition("/")[2] for pair in self.state.load().provisioned}
        for component in {*components} - still_there:
            self.state.returned(component)

    def _note_former(self) -> None:
        if kept := sorted(self._former() - self._left_behind()):
            names = " ".join(kept)
            self._report.note(f"not in devenv.yaml any more, their data is kept: {names} ('devenv up --drop' drops it)")
