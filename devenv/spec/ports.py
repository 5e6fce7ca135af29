"""Choose the ports on 127.0.0.1 under which an environment publishes its services."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from devenv.errors import ConfigError, NotOurs
from devenv.model import Catalogue, Observed, Profile, ServiceChoice
from devenv.names import hint_for
from devenv.ports import free_port, is_free
from devenv.spec.profile import PROJECT_FILE
from devenv.store.record import Record


@dataclass(frozen=True)
class Taken:
    """The ports that are taken: by this environment's containers and its record, and by the records of `others`.

    `holder` says in words who listens on a port.
    """

    observed: Observed
    record: Record
    others: Sequence[Record]
    holder: Callable[[int], str]

    @property
    def published(self) -> set[int]:
        """Return the ports that this environment's containers publish, and those that devenv forwards to them."""
        # A "created" container may be starting right now, for a devenv that was killed.
        containers = (*self.observed.containers.values(), *self.observed.extra)
        holding = [one for one in containers if one.alive or one.state == "created"]
        published = {port for container in holding for port in container.ports.values()}
        return published | (self.observed.forwarded or frozenset())

    @property
    def promised(self) -> set[int]:
        """Return the ports that other environments keep for life."""
        return {port for other in self.others if other.id != self.record.id for port in other.ports.values()}

    def given(self, service: str, endpoint: str, inside: int) -> int | None:
        """Return the port that an endpoint had before; `inside` is its port in the container."""
        container = self.observed.containers.get(service)
        return self.record.ports.get(port_key(service, endpoint)) or (
            container.ports.get(inside) if container else None
        )


def port_key(service: str, endpoint: str) -> str:
    """Return the name under which an endpoint's port is chosen and remembered: "mysql/sql"."""
    return f"{service}/{endpoint}"


def usual_ports(names: Iterable[str], catalogue: Catalogue) -> dict[str, int]:
    """Return the well-known port of each endpoint of these services, by its key."""
    ran = [name for name in names if not catalogue[name].attachment]
    return {port_key(name, key): one.port for name in ran for key, one in catalogue[name].endpoints.items()}


def choose_ports(
    names: Iterable[str], profile: Profile, catalogue: Catalogue, taken: Taken, check: bool = True
) -> dict[str, int]:
    """Return the host port of each endpoint of these services, by its key.

    devenv takes a pinned port as it is, then the one that the endpoint had before, then the well-known one if it is
    free, then any free one. Raise NotOurs, naming the holder, when another program has a pinned or remembered port.
    Without `check` devenv does not try these, for commands that only look.
    """
    names = [name for name in names if not catalogue[name].attachment]
    pins = _pins(names, profile, catalogue)
    promised, published = taken.promised, taken.published
    ports: dict[str, int] = {}
    for name in names:
        pinned = _pinned(name, profile)
        for endpoint, definition in catalogue[name].endpoints.items():
            key = port_key(name, endpoint)
            fixed = pinned.get(endpoint) or taken.given(name, endpoint, definition.port)
            if fixed and pins.get(fixed, key) == key:
                if check and fixed not in published and not is_free(fixed):
                    file = Path(profile.source).name if profile.file else PROJECT_FILE
                    raise _lost(key, fixed, file, endpoint in pinned, taken.holder(fixed))
                ports[key] = fixed
            else:  # It had none, or another service pins it now.
                avoid = promised | pins.keys() | {*ports.values()} | {*taken.record.ports.values()}
                ports[key] = _any_port(definition.port, avoid)
    return ports


def _any_port(usual: int, avoid: Collection[int]) -> int:
    return usual if usual not in avoid and is_free(usual) else free_port(avoid)


def _pinned(name: str, profile: Profile) -> Mapping[str, int]:
    return profile.services.get(name, ServiceChoice()).ports


def _pins(names: Iterable[str], profile: Profile, catalogue: Catalogue) -> dict[int, str]:
    """Return the pinned ports, each with its endpoint's key. Raise ConfigError for an unknown endpoint or two pins."""
    pins: dict[int, str] = {}
    for name in names:
        for endpoint, port in _pinned(name, profile).items():
            if endpoint not in catalogue[name].endpoints:
                raise ConfigError(
                    f"cannot pin a port of {name}: it has no endpoint {endpoint!r} (in {profile.source})",
                    hint=hint_for(endpoint, catalogue[name].endpoints, "it has"),
                )
            key = port_key(name, endpoint)
            if pins.setdefault(port, key) != key:
                raise ConfigError(
                    f"cannot pin port {port} for both {pins[port]} and {key} (in {profile.source})", "pin another one"
                )
    return pins


def _lost(key: str, port: int, file: str, pinned: bool, holder: str) -> NotOurs:
    service, _, endpoint = key.partition("/")
    why = f"pinned in {file}" if pinned else "given to this environment before"
    other = "pin another one" if pinned else f"choose another one in {file} and run 'devenv up'"
    return NotOurs(
        f"cannot publish {service} ({endpoint}) on 127.0.0.1:{port} ({why}): {holder} has it",
        hint=f"stop that program, or {other}: 'services: {{{service}: {{ports: {{{endpoint}: PORT}}}}}}'",
    )
