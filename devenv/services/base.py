"""What a component gets inside the running services: database, vhost, key prefix, service user.

A provisioner is a subclass of Provisioner, found by name among the entry points of the group
"devenv.provisioners", so that another package can bring one. It says in `_make` and `_remove` what to do for one
component, maybe in `_empty` what a reset does and in `_settle` what a snapshot needs, and raises Refused with the
reason where the service does not let it.

One instance serves one service during one run, and up to 32 threads at once, each with another component.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from devenv.errors import ServiceFailed
from devenv.services import lookup as plugins
from devenv.services.probe import Target

GROUP = "devenv.provisioners"


@dataclass(frozen=True)
class Component:
    """Who gets something: its name in devenv.yaml, and per service what it is called there, its password, …"""

    name: str
    settings: Mapping[str, str] = field(repr=False)


class Refused(Exception):
    """Raised inside a provisioner: the service's reason, of which one line is told, and what to do about it."""

    def __init__(self, reason: object, hint: str = "") -> None:
        super().__init__(reason)
        self.hint = hint


class Provisioner:
    """Makes and removes what components get in one service. All of it may be done again at any time."""

    service = ""  # As in `devenv logs SERVICE`.
    what = ""
    # Dropping costs the service so much that nothing is dropped one by one from a service that goes anyway.
    slow_to_drop = False

    def __init__(self, target: Target) -> None:
        """`target.settings` holds the administrator's credentials."""
        self.target = target

    def prepare(self) -> None:
        """Bring the service itself into shape, once before any component. Raises ServiceFailed."""

    def ensure(self, component: Component) -> None:
        """Make what is missing and mend what differs. Raises ServiceFailed."""
        with self._explained(f"cannot make {self.what} for component {component.name}", component):
            self._make(component)

    def drop(self, component: Component) -> None:
        """Remove what `ensure` made; what is not there counts as removed. Raises ServiceFailed."""
        with self._explained(f"cannot drop {self.what} of component {component.name}", component):
            self._remove(component)

    def empty(self, initial: bytes) -> None:
        """Make a service that runs what it was right after its first start; for those with a setting `initial`.

        `initial` is what the file holds that this setting names. Raises ServiceFailed.
        """
        with self._explained(f"cannot empty {self.service}"):
            self._empty(initial)

    def settle(self) -> None:
        """Have on disk all that was answered; for those with a setting `settle`, which are late with it.

        Raises ServiceFailed.
        """
        with self._explained(f"cannot settle {self.service}"):
            self._settle()

    def close(self) -> None:
        """Close the connections that it keeps."""

    # These two are not abstract: who overrides `ensure` and `drop` as a whole needs neither.

    def _make(self, component: Component) -> None:
        """What a subclass has to say: how a component's part is made, and mended."""
        raise NotImplementedError

    def _remove(self, component: Component) -> None:
        """What a subclass has to say: how all of it goes."""
        raise NotImplementedError

    def _empty(self, initial: bytes) -> None:
        raise Refused("its provisioner does not know how")

    def _settle(self) -> None:
        raise Refused("its provisioner does not know how")

    @contextmanager
    def _explained(self, cannot: str, component: Component | None = None) -> Iterator[None]:
        try:
            yield
        except (Refused, ValueError) as error:
            line = (str(error).strip().splitlines() or ["no reason given"])[0]
            # Servers quote what they were sent.
            for settings in (self.target.settings, component.settings if component else {}):
                line = line.replace(settings.get("password") or "\0", "***")
            where, hint = f"{self.target.host}:{self.target.port}", getattr(error, "hint", "")
            hint = hint or f"'devenv logs {self.service}' shows its side"
            raise ServiceFailed(f"{cannot} at {where}: {line[:200]}", hint) from None


def load_provisioner(kind: str) -> type[Provisioner]:
    """The provisioner of that name. Raises ConfigError if no installed package brings it."""
    provisioner: type[Provisioner] = plugins.find(GROUP, kind, "a provisioner").load()
    return provisioner
