"""Bring services up: read, look, plan, carry out, write configs; after a failure, try what may still be done.

`devenv up`, runs, tests, and all that gives services other data use `bring_up`. Its caller holds the lock of the
environment.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from devenv.engine.protocol import Capability
from devenv.errors import AddressPoolExhausted, ConfigError, DevenvError, PortTaken
from devenv.images import golden, snapshot
from devenv.images.references import check_image, check_used
from devenv.lifecycle import orphans, sharing
from devenv.lifecycle.attached import check_attached, keep_attached
from devenv.lifecycle.execute import carry_out
from devenv.lifecycle.journal import BEGUN
from devenv.lifecycle.picture import Definitions, Picture
from devenv.lifecycle.plan import Terms, make_plan, plan_images
from devenv.lifecycle.world import World
from devenv.model import Desired, Observed, Plan, Report, Result, Timing
from devenv.names import Pair
from devenv.services.lookup import check_packages
from devenv.spec.components import needed_components
from devenv.store.registry import network_holders
from devenv.wiring.contents import wired_files
from devenv.wiring.project_files import Merges

# The capabilities that golden states and snapshots need.
KEEPING = frozenset({Capability.KEEP_DATA, Capability.PAUSE})


@dataclass(frozen=True)
class Renewal:
    """Services that lose their data, each with the snapshot that it gets instead, or an empty string.

    `provisioned` are the parts of components in that snapshot.
    """

    services: Mapping[str, str]
    provisioned: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Wish:
    """The request to a run: services (all of the profile, if none is named), and how they get their data.

    With `drop`, components that are not in devenv.yaml any more lose their parts. Without `golden`, devenv uses and
    keeps no golden state. Services of `keep_running` stay as they are, whatever differs.
    """

    names: Sequence[str] = ()
    drop: bool = False
    golden: bool = True
    keep_running: Collection[str] = ()
    renewal: Renewal | None = None


@dataclass(frozen=True)
class Allowance:
    """The ways that one run may still try. Each failure that it can work around takes one away.

    It may start from `golden` states, clear services `in_place`, `look_again` once if something changed meanwhile, and
    choose other `ports` this many times, except those to `avoid`. `renewal` is not on record yet.
    """

    golden: bool = True
    in_place: bool = True
    look_again: bool = True
    ports: int = 2
    avoid: frozenset[int] = frozenset()
    renewal: Renewal | None = None


@dataclass(frozen=True)
class Files:
    """The files for programs: the texts of wired files, and the merges into the project's own files.

    `changing` are the project's own files that will change.
    """

    texts: Mapping[str, str]
    merges: Merges
    changing: Sequence[Path] = ()


def bring_up(world: World, defined: Definitions, wish: Wish, report: Report) -> Result:
    """Bring services up and return when they work. Raise a failure that devenv cannot work around."""
    world.engine.check_reach()
    orphans.adopt(world, defined.catalogue)
    may = Allowance(renewal=wish.renewal)
    while True:
        picture = read(world, defined, wish, may)
        files = preflight(world, picture)
        announce(world, picture, may)
        plan = plan_up(world, picture, wish, may)
        try:
            timings = carry_out(world, plan, picture, report)
        except DevenvError as error:
            explain(world, error)
            if (less := recover(world, picture, plan, may, error)) is None:
                # The other components work and need their files, even if devenv cannot create one.
                if only_components(picture, error):
                    write_configs(world, picture, files)
                raise
            may = less
        else:
            return finish(world, picture, plan, timings, files)


# ---- before anything is done ---------------------------------------------------------------------------------


def read(world: World, defined: Definitions, wish: Wish, may: Allowance) -> Picture:
    """Return the desired and the observed state, with the secrets of the data that services will get."""
    renewing = {**world.state.load().renewing, **(may.renewal.services if may.renewal else {})}
    for name in sorted({*renewing.values()} - {""}):
        world.state.restore_secrets(snapshot.load(world.state, name).own_secrets)
    return world.claim(world.with_lent(defined), wish.names, may.avoid)


def preflight(world: World, picture: Picture) -> Files:
    """Render what devenv will write and merge.

    Raise ConfigError, before anything is done, if another engine has the environment, or devenv cannot use a file or a
    template, or lacks a package for a service; NotOurs if a stranger has a name that devenv needs.
    """
    for service in picture.wanted.services.values():
        check_packages(service.probe["kind"], service.provisioner.get("kind", ""))
    check_attached(world.state, picture)
    world.seat.check(picture.observed)
    sharing.check_within(picture.record, world.engine.inside)
    world.engine.check_names(picture.everything, picture.observed)
    texts = wired_files(picture.everything, picture.defined.catalogue)
    world.written.check(texts)
    merges = world.files.choose(picture.everything, texts)
    return Files(texts, merges, world.files.check(merges, texts))


def announce(world: World, picture: Picture, may: Allowance) -> None:
    """Record which services lose their data, and tell the user what to know before anything is done."""
    note, wanted = world.report.note, picture.wanted.services
    for role, name in picture.defined.roles.items():
        if picture.record.roles.get(role) == name and may == Allowance():
            note(f"the {role} is {name}, since it was asked for by name; 'devenv up' with another name chooses that")
    world.keep_roles(picture.defined)
    world.seat.keep()
    keep_attached(world.state, picture)
    if may.renewal:
        note_renewal(world, may.renewal)
    elif may == Allowance() and (left := picture.record.renewing.keys() & wanted):
        note(f"finishing what was interrupted: {', '.join(sorted(left))} get their data again")
    if not (world.engine.local or world.engine.inside) and picture.observed.forwarded is None:
        ways = "forward them, or have 'DEVENV_TUNNEL=ssh://USER@HOST devenv up' do it"
        note(f"the ports are on 127.0.0.1 of the engine's host ({world.engine.url}): {ways}")
    # A run's services go by themselves.
    known = {*picture.defined.profile.services, *wanted, *picture.record.borrowed}
    if others := sorted(picture.observed.containers.keys() - known):
        there = " ".join(others)
        note(f"{there} is not in the profile; remove it with 'devenv down {there}'")


def note_renewal(world: World, renewal: Renewal) -> None:
    """Record a renewal before anything is done: if it is interrupted, the next `up` finishes it."""
    record, services = world.state.load(), renewal.services
    others = {pair: d for pair, d in record.provisioned.items() if Pair.parse(pair).service not in services}
    saved = {pair: d for pair, d in renewal.provisioned.items() if Pair.parse(pair).service in services}
    world.state.amend(
        renewing={**record.renewing, **services},
        renewed=[name for name in record.renewed if name not in services],
        provisioned={**others, **saved},
    )


def plan_up(world: World, picture: Picture, wish: Wish, may: Allowance) -> Plan:
    """Plan what the picture wants. Raise ConfigError if a service that stays as it is has other settings."""
    record = world.state.load()
    desired = with_sources(world, picture, wish, may)
    renew = {
        name: f"restoring snapshot {source}" if source else "reset"
        for name, source in record.renewing.items()
        if name in desired.services
    }
    unwanted = orphans.former if wish.drop else orphans.left_behind
    terms = Terms(
        record.provisioned,
        unwanted(world.state, picture.defined),
        record.unfinished,
        renew,
        may.in_place,
        wish.keep_running,
        gets_images(world),
    )
    plan = make_plan(desired, picture.observed, terms)
    for name in [op.target for op in plan.operations if op.action == "prepare" and op.target in wish.keep_running]:
        # An interrupted preparation, which devenv repeats, began with these settings.
        if name not in renew and record.provisioned.get(name) != BEGUN:
            raise ConfigError(
                f"cannot use {name} as it runs: as far as is known, it has other settings",
                f"'devenv up {name}' makes it what {world.file.name} says; or ask for the same",
            )
    if gets_images(world):
        check_used(world.engine, plan, desired, picture.observed.images)
    return plan


def gets_images(world: World) -> bool:
    """Return whether devenv gets images for the engine, which else gets them itself."""
    return world.engine.can >= {Capability.BUILD, Capability.PULL}


def with_sources(world: World, picture: Picture, wish: Wish, may: Allowance) -> Desired:
    """Return the wanted state with the sources of new volumes: a snapshot to restore, else golden states."""
    defined, observed, desired = picture.defined, picture.observed, picture.wanted
    renewing = world.state.load().renewing
    for name in sorted({name for name in renewing.values() if name}):
        saved = snapshot.load(world.state, name)
        services = [service for service, source in renewing.items() if source == name]
        snapshot.check(saved, defined.images, observed.images, defined.profile.services)
        desired = replace(desired, sources={**desired.sources, **snapshot.sources(saved, services)})
    if wish.golden and world.engine.can >= KEEPING:
        return golden.with_golden(desired, defined.catalogue, observed, may.golden)
    if wish.golden and may.golden and Capability.FILL in world.engine.can:
        return golden.with_pushed(desired, defined.catalogue, world.engine, defined.own.image_registry)
    return desired


# ---- after a failure -----------------------------------------------------------------------------------------


def recover(world: World, picture: Picture, plan: Plan, may: Allowance, error: DevenvError) -> Allowance | None:
    """Clean up after a failed way and return the ways that are left; None if no other way can help."""
    note = world.report.note
    # The renewal is on record by now.
    less = replace(may, renewal=None)
    if bad := golden.blamed(plan, picture.wanted, error):
        throw_away(world, bad, error)
        return replace(less, golden=False)
    if failed := not_cleared(plan, error):
        note(f"could not clear {', '.join(failed)} ({error.message}); recreating")
        return replace(less, in_place=False)
    if may.look_again and (changed := changed_under_it(world, plan, picture.observed)):
        note(f"{', '.join(changed)} did not stay as it was found ({error.message}): looking again")
        return replace(less, look_again=False)
    pinned = {port for choice in picture.defined.profile.services.values() for port in choice.ports.values()}
    if isinstance(error, PortTaken) and may.ports and (lost := give_back(world, picture.record.ports) - pinned):
        note(f"{error}: taking another one")
        return replace(less, ports=may.ports - 1, avoid=may.avoid | lost)
    return None


def throw_away(world: World, bad: Mapping[str, str], error: DevenvError) -> None:
    """Throw away golden states from which services do not start; devenv then recreates these services."""
    world.report.note(f"no start from the golden state of {', '.join(bad)} ({error.message}): starting without it")
    for image in bad.values():
        golden.throw_away(world.engine, image)
    note_renewal(world, Renewal(dict.fromkeys(bad, "")))


def not_cleared(plan: Plan, error: DevenvError) -> list[str]:
    """Return the services that cleared their data while they ran, and failed at that or afterwards."""
    cleared = [op.target for op in plan.operations if op.action == "empty"]
    failed = {op.target for op in error.operations if op.action in ("empty", "ready")}
    return [name for name in cleared if name in failed]


def changed_under_it(world: World, plan: Plan, before: Observed) -> list[str]:
    """Return what the plan relied on and is gone: the engine completes a stop that a killed devenv asked for."""
    touched = {op.target for op in plan.operations if op.action in ("stop", "create", "start")}
    relied = [name for name, c in before.containers.items() if c.running and name not in touched]
    try:
        now = world.observe()
    except DevenvError:
        return []
    ended = [name for name in relied if not now.runs(name)]
    return ended + (["the network"] if set(before.networks) - set(now.networks) else [])


def give_back(world: World, before: Mapping[str, int]) -> frozenset[int]:
    """Forget the ports that the record did not have `before`, and return them. The environment keeps the others."""
    record = world.state.load()
    world.state.save(replace(record, ports={key: port for key, port in record.ports.items() if key in before}))
    return frozenset(port for key, port in record.ports.items() if key not in before)


def explain(world: World, error: DevenvError) -> None:
    """Add to an error which other environments hold the addresses that this one lacks."""
    if isinstance(error, AddressPoolExhausted):
        error.detail = (*error.detail, *network_holders(world.engine.with_networks() - {world.id}))


def only_components(picture: Picture, error: DevenvError) -> bool:
    """Return whether only parts of the project's own components failed."""
    needed = needed_components(picture.defined.catalogue)
    return bool(error.operations) and all(op.component and op.component not in needed for op in error.operations)


# ---- afterwards ----------------------------------------------------------------------------------------------


def finish(world: World, picture: Picture, plan: Plan, timings: Sequence[Timing], files: Files) -> Result:
    """Write configs, and forget and remove what nobody needs any more."""
    if gets_images(world):
        golden.touch(op.subject for op in plan.operations if op.golden)
    written, restored = write_configs(world, picture, files)
    left_behind = orphans.left_behind(world.state, picture.defined)
    orphans.forget(world.state, left_behind)
    for component in world.state.left_behind() & picture.defined.listed:
        world.state.kept(component)
    if kept := sorted(orphans.former(world.state, picture.defined) - left_behind):
        names, file = " ".join(kept), world.file.name
        world.report.note(f"kept the data of {names}, which {file} no longer lists; 'devenv up --drop' drops it")
    snapshot.remove_leftovers(world.state, world.engine, picture.observed.images)
    services = picture.everything.services.values()
    components = [name for name in picture.everything.components if any(name in s.components for s in services)]
    return Result(plan, picture.wanted.services, timings, written, restored, components)


def write_configs(world: World, picture: Picture, files: Files) -> tuple[list[Path], list[Path]]:
    """Write the files for programs; return those that devenv wrote or merged into, and those that it restored."""
    given, texts = world.given(picture.everything), files.texts
    if given != picture.everything:
        texts = wired_files(given, picture.defined.catalogue)
    written = world.written.write(texts, picture.defined.catalogue)
    merged, restored = world.files.apply(files.merges, texts)
    return [*written, *merged], restored


# ---- images alone --------------------------------------------------------------------------------------------


def build_images(world: World, names: Sequence[str]) -> Result:
    """Build or pull every image of the services that the engine does not have."""
    defined = world.define(names)
    world.check_trust(defined.own)
    picture = world.look(defined, names)
    for image in picture.wanted.images:
        if image.how != "pull" and image.reference in picture.observed.images:
            check_image(world.engine, image.reference)
    plan = plan_images(picture.wanted, picture.observed)
    return Result(plan, picture.wanted.services, carry_out(world, plan, picture, remember=False))
