"""What devenv has read at one time, as frozen values: the content of the files, and what the engine has beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from devenv.images.references import BASE
from devenv.model import Catalogue, ComponentChoice, Desired, Image, Observed, Profile
from devenv.spec.desired import select
from devenv.store.record import Record


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


def pictured(
    defined: Definitions, selected: Sequence[str], everything: Desired, observed: Observed, record: Record
) -> Picture:
    """Return the picture in which the `selected` services, and the images that they need, are wanted."""
    everything = replace(everything, owner=observed.owner)
    services = {name: everything.services[name] for name in selected}
    images = (defined.images[BASE], *(service.image for service in services.values() if not service.attached))
    return Picture(defined, everything, replace(everything, services=services, images=images), observed, record)
