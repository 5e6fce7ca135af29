"""Probes and provisioners by name, from entry points: devenv's own, and those of any other installed package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from devenv.errors import ConfigError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

_PACKAGE = "openstack-devenv"


def find(group: str, kind: str, what: str) -> EntryPoint:
    """The entry point of that name. Raises ConfigError, saying `what` is not there, if no package brings it.

    devenv's own come first: reading what every installed package brings takes longer than a probe.
    """
    # Lazily: it takes as long to import as a probe takes.
    from importlib.metadata import EntryPoints, PackageNotFoundError, distribution, entry_points

    try:
        own = distribution(_PACKAGE).entry_points.select(group=group, name=kind)
    except PackageNotFoundError:
        own = EntryPoints()
    for entry_point in own:
        return entry_point
    found = entry_points(group=group)
    if kind not in found.names:
        known = ", ".join(sorted(found.names)) or "none: is devenv installed?"
        raise ConfigError(f"cannot find {what} {kind!r}", hint=f"there are: {known}")
    return found[kind]
