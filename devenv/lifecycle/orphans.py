"""Find the components that somebody had, and nobody asks for any more: those of ended runs, and former ones."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from devenv.lifecycle import sharing
from devenv.model import Catalogue
from devenv.names import Pair
from devenv.spec.components import CITEST, former_components, needed_components

if TYPE_CHECKING:
    from devenv.lifecycle.picture import Definitions
    from devenv.lifecycle.world import World
    from devenv.store.state import State


def adopt(world: World, catalogue: Catalogue) -> None:
    """Put the test components of ended processes on record: they are left behind, too."""
    if not (names := world.state.abandoned()):
        return
    observed, record = world.observe(), world.state.load()
    services = [name for name, s in catalogue.items() if name in observed.services and s.provisioner]
    pairs = {str(Pair(service, name)): "" for service in services for name in names}
    world.state.save(replace(record, provisioned={**pairs, **record.provisioned}))
    world.state.adopt()


def former(state: State, defined: Definitions) -> set[str]:
    """Return the components that have a part of some service and that nobody asks for any more.

    Of a shared environment, they are those of this host.
    """
    return sharing.own(state.load(), _unlisted(state, defined))


def of_others(state: State, defined: Definitions) -> set[str]:
    """Return the components of a shared environment that only other hosts have asked for."""
    unlisted = _unlisted(state, defined)
    return unlisted - sharing.own(state.load(), unlisted)


def _unlisted(state: State, defined: Definitions) -> set[str]:
    return {*former_components(state.load().provisioned, defined.profile, defined.catalogue)} - state.held_now()


def left_behind(state: State, defined: Definitions) -> set[str]:
    """Return the components that killed runs had, except those of devenv.yaml and of services."""
    # A snapshot may have the account for test suites, and no file says that a run had it.
    pairs = [Pair.parse(pair) for pair in state.load().provisioned]
    restored = {pair.component for pair in pairs if pair.component == CITEST} - state.held_now()
    return (state.left_behind() | restored) - defined.listed - needed_components(defined.catalogue)


def forget(state: State, components: Collection[str]) -> None:
    """Forget that these components were lent, except those that still have a part of a service."""
    still_there = {Pair.parse(pair).component for pair in state.load().provisioned}
    for component in {*components} - still_there:
        state.returned(component)
