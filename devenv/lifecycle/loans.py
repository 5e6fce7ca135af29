"""Lend services, and a component, to a run for as long as it lasts.

When the last run that uses the environment ends, devenv removes what runs brought up; what existed before stays as it
was. A killed run holds no lock any more: the next `up` or run, or `gc`, removes what it left.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from devenv.errors import ConfigError, DevenvError
from devenv.lifecycle import orphans
from devenv.lifecycle.down import take_down
from devenv.lifecycle.execute import carry_out
from devenv.lifecycle.picture import Definitions
from devenv.lifecycle.plan import drop, plan_stop
from devenv.lifecycle.timing import Watch
from devenv.lifecycle.up import Wish, bring_up
from devenv.lifecycle.world import World
from devenv.model import Catalogue, Desired, Observed, Plan, ServiceChoice
from devenv.names import Pair, check_component, identifier
from devenv.spec.components import CITEST, check_free
from devenv.spec.desired import needs
from devenv.wiring.contents import wired_files

# The part of a service that existed before a run brought it up, and exists again when the last run has ended.
_NOTHING, _DATA, _CONTAINER = "nothing", "data", "container"


@dataclass(frozen=True)
class Borrowed:
    """The desired state of services that work, and the catalogue that they come from."""

    desired: Desired
    catalogue: Catalogue


@contextmanager
def own_stack() -> Iterator[ExitStack]:
    """Yield a stack that ends with the body. A forked child that leaves the body ends nothing of its parent's."""
    process = os.getpid()
    with ExitStack() as stack:
        try:
            yield stack
        finally:
            if os.getpid() != process:
                stack.pop_all()


@contextmanager
def lent(
    world: World, names: Sequence[str] = (), component: str = "", ending: Callable[[], None] | None = None
) -> Iterator[str]:
    """Have services work while the body runs (all of the profile, if none is named); yield a component's name.

    A component of devenv.yaml keeps what it has. devenv creates any other for the run, under the given name or a new
    one, and drops it afterwards. Raise ConfigError if another run has it. devenv calls `ending` before it removes
    anything, also if not all came up.
    """
    watch = Watch(world.id, world.report)
    # Ask the user before taking the lock, so that nobody waits for it meanwhile.
    world.check_trust(world.profile())
    with own_stack() as stack:
        with world.changing(make=True):
            defined = world.define()
            name = component or f"run-{secrets.token_hex(4)}"
            # The stack ends in reverse order: the component goes, then the services if nobody else uses them.
            stack.callback(return_services, world)
            stack.enter_context(world.state.using())
            if name not in defined.listed:
                _check_free(world, defined, name)
                stack.enter_context(world.state.lent(check_component(name)))
                stack.callback(_end, world, name)
            if ending:
                stack.callback(ending)
            defined = _prepared(world, names)
            wish = _as_found(world, defined, names)
            with world.timed(watch):
                bring_up(world, defined, wish, watch)
        yield name


@contextmanager
def shared(world: World) -> Iterator[Path]:
    """Be a user of the services that `borrow` brings up; yield a folder to note components in.

    The services go on running afterwards: `clear` ends those that nobody uses any more.
    """
    with own_stack() as stack:
        with world.changing():
            # A project that devenv cannot read has no users.
            world.define()
            stack.enter_context(world.state.using())
            folder = stack.enter_context(world.state.pool())
        yield folder


def borrow(world: World, names: Sequence[str] = ()) -> Borrowed:
    """Bring services (all of the profile, if none is named) and their needs up, and return them to a `shared` user."""
    watch = Watch(world.id, world.report)
    watch.phase("wait for another devenv")
    with world.changing(make=True):
        defined = _prepared(world, names)
        wish = _as_found(world, defined, names)
        # If all services run already, do not record that nothing was done.
        missing = set(defined.select(names)) - {*wish.keep_running}
        with world.timed(watch) if missing else nullcontext():
            bring_up(world, defined, wish, watch if missing else world.report)
        picture = world.look(world.with_lent(defined), names)
    running = [name for name in picture.wanted.services if picture.observed.runs(name)]
    services = {name: picture.everything.services[name] for name in running}
    return Borrowed(replace(picture.everything, services=services), defined.catalogue)


def make_room(world: World) -> None:
    """Remove what killed runs left of the environment, all of it, if nobody uses it.

    Raise ConfigError if the environment has services that no run brought up.
    """
    with world.changing():
        if world.state.used():
            return
        observed, borrowed = world.observe(), world.state.load().borrowed
        if own := sorted(name for name in observed.services if borrowed.get(name) != _NOTHING):
            raise ConfigError(
                f"cannot begin afresh in environment {world.name!r}: it has {', '.join(own)}, and no run made it",
                f"'devenv --env {world.name} down --volumes' removes that; or name another environment",
            )
        if observed.services:
            take_down(world, (), volumes=True)


def going(world: World, catalogue: Catalogue) -> set[str]:
    """Return the services that devenv removes, with their data, when the last run has ended."""
    ending = {name for name, was in world.state.load().borrowed.items() if was == _NOTHING}
    # An attached service stays, so each part in it has to be dropped.
    ending -= {*world.state.attachments()}
    pairs = [Pair.parse(pair) for pair in world.state.load().provisioned]

    def holding(name: str) -> set[str]:
        """Return the services that have data of this one."""
        own = {need.component for need in catalogue[name].requires} if name in catalogue else set()
        return {pair.service for pair in pairs if pair.component in own}

    # Data that a service has in another one that stays, stays, too.
    while staying := {name for name in ending if not ending >= holding(name)}:
        ending -= staying
    return ending


def clear(world: World, others: bool = True) -> None:
    """Remove what killed runs left: the services that nobody uses, and their components in the others.

    Without `others`, components stay while somebody uses the services.
    """
    return_services(world)
    with world.changing():
        clear_accounts(world)
        if (world.state.lendings() or world.state.abandoned()) and (others or not world.state.used()):
            defined = world.define(known=True)
            orphans.adopt(world, defined.catalogue)
            _drop(world, defined, orphans.left_behind(world.state, defined))


# ---- services --------------------------------------------------------------------------------------------------


def _prepared(world: World, names: Sequence[str]) -> Definitions:
    """Read the definitions for a run. Its services fill no role in place of those that somebody else uses."""
    clear_accounts(world)
    defined = world.prepared(names, join=False)
    if defined.roles != world.state.load().roles and world.observe().services:
        return world.prepared(names)
    return defined


def _as_found(world: World, defined: Definitions, names: Sequence[str]) -> Wish:
    """Return a wish that leaves services that run as they are.

    Record what exists of the others, so that devenv knows after a kill what a run brought up. Raise ConfigError if a
    service that runs does not have its pinned ports.
    """
    observed, record = world.observe(), world.state.load()
    wanted = defined.select(names)
    # An attached service that is not on record yet is so for the run alone.
    running = [name for name in wanted if observed.runs(name)]
    for name in [name for name in running if name in observed.containers]:
        _check_pins(defined, name, observed.containers[name].ports)
    # Nobody sees whether runs of other hosts use a service that this one starts, so that stays.
    missing = [name for name in wanted if name not in running and name not in record.borrowed and not record.shared]
    if before := {name: _before(name, observed) for name in missing}:
        world.state.amend(borrowed={**record.borrowed, **before})
    return Wish(names, keep_running=running)


def _check_pins(defined: Definitions, service: str, published: Mapping[int, int]) -> None:
    """Raise ConfigError if a service that runs answers on other ports than those pinned for it."""
    pinned = defined.profile.services.get(service, ServiceChoice()).ports
    for endpoint, definition in defined.catalogue[service].endpoints.items():
        port, there = pinned.get(endpoint), published.get(definition.port)
        if port and there and port != there:
            raise ConfigError(
                f"cannot use {service} as it runs: it answers on port {there}, and {port} is pinned for it",
                f"'devenv up {service}' makes it what devenv.yaml says; or unpin the port",
            )


def keep(world: World, services: Collection[str]) -> None:
    """Make services the user's own from now on: no run takes them away."""
    borrowed = world.state.load().borrowed
    world.state.amend(borrowed={name: was for name, was in borrowed.items() if name not in services})


def return_services(world: World) -> None:
    """Return services to what they were before runs brought them up, if this was the last run."""
    if not world.state.load().borrowed:
        return
    with world.changing():
        borrowed = world.state.load().borrowed
        if world.state.used():
            return
        picture = world.bare()
        observed, catalogue = picture.observed, picture.defined.catalogue
        was: dict[str, list[str]] = {_NOTHING: [], _DATA: [], _CONTAINER: []}
        for name, what in borrowed.items():
            was[what].append(name)
        if observed.services <= {*was[_NOTHING]}:
            take_down(world, (), volumes=True)
            return
        stops = [container for container in observed.containers.values() if container.service in was[_CONTAINER]]
        carry_out(world, plan_stop(stops, needs(catalogue)), picture)
        for names, volumes in ((was[_NOTHING], True), (was[_DATA], False)):
            if names:
                take_down(world, names, volumes)
        if observed.containers.keys() <= {*was[_NOTHING], *was[_DATA]}:
            take_down(world, (), volumes=False)  # the network
        world.state.amend(borrowed={})


def _before(service: str, observed: Observed) -> str:
    if service in observed.containers:
        return _CONTAINER
    return _DATA if service in observed.volumes.values() else _NOTHING


# ---- components ------------------------------------------------------------------------------------------------


def _check_free(world: World, defined: Definitions, name: str) -> None:
    """Raise ConfigError if another component has the same name in a service: its data would go when the run ends.

    Also raise it for the name of a service: Keystone's database would go.
    """
    check_free(name, defined.catalogue)
    held = world.state.held_now() - {name}
    kept = orphans.former(world.state, defined) - orphans.left_behind(world.state, defined)
    kept |= orphans.of_others(world.state, defined)
    for other in sorted(defined.listed | held | kept):
        if identifier(other) == identifier(name):
            raise ConfigError(
                f"cannot make component {name!r} for a run: data of {other!r} would go with it",
                "choose another name" if other != name else "choose another name, or 'devenv up --drop' drops it",
            )


def clear_accounts(world: World) -> None:
    """Drop the account for test suites if runs had it and none has it now. The caller holds the lock."""
    if world.state.lendings().get(CITEST) is False:
        take_back(world, CITEST)


def _end(world: World, component: str) -> None:
    with world.changing():
        take_back(world, component)


def take_back(world: World, component: str) -> None:
    """Drop a component that was lent, unless devenv.yaml lists it meanwhile. The caller holds the lock."""
    try:
        defined = world.define(known=True)
    except DevenvError as error:
        world.report.note(f"{component} is not dropped ({error.message}): 'devenv gc' does it")
        return
    if component in defined.listed:
        world.state.kept(component)
    else:
        _drop(world, defined, {component})


def _drop(world: World, defined: Definitions, components: set[str]) -> None:
    """Drop components that devenv created for runs. The next `up` drops what devenv cannot drop now."""
    try:
        pairs = [pair for pair in world.state.load().provisioned if Pair.parse(pair).component in components]
        if pairs:
            picture = world.look(defined)
            services = picture.everything.services
            # Not only parts that are known to be in place: an interrupted `up` may have created more.
            parts = [
                part
                for name, service in services.items()
                for part in {**service.components, **service.former}.values()
                if part.pair in pairs and picture.observed.runs(name)
            ]
            plan = Plan(tuple(drop(part, "its run has ended") for part in parts))
            carry_out(world, plan, replace(picture, wanted=picture.everything))
        orphans.forget(world.state, components)
        if CITEST in components:
            world.state.amend(citest=[])
        if pairs and (picture.observed.containers or picture.observed.attached):
            world.written.write(wired_files(world.there(defined).wanted, defined.catalogue), defined.catalogue)
    except DevenvError as error:
        names = ", ".join(sorted(components))
        world.report.note(f"not all of {names} is dropped ({error.message}): 'devenv gc' does it")
