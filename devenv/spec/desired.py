"""Profile, catalogue and what is remembered in; what should be on the engine out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from devenv.errors import ConfigError, NotOurs
from devenv.model import (
    ComponentChoice,
    ContainerOptions,
    Desired,
    DesiredService,
    Image,
    Observed,
    Profile,
    Provision,
    ServiceChoice,
    ServiceDefinition,
)
from devenv.ports import HOST, free_port, is_free
from devenv.spec.components import OWN, digest, endpoint_views, password_names, provision, same_place
from devenv.spec.template import render, render_file
from devenv.store.record import Record

# Raise it when containers are made in another way from the same inputs.
_FORMAT = 1

Catalogue = Mapping[str, ServiceDefinition]


# ---- which services ----------------------------------------------------------------------------------------


def select(profile: Profile, catalogue: Catalogue, names: Sequence[str] = ()) -> list[str]:
    """The services to act on, each after all that it needs: `names` and their needs, else the whole profile.

    Raises ConfigError for an unknown service, a role that nothing fills, or services that need each other.
    """
    for name in [*profile.services, *names]:
        if name not in catalogue:
            raise ConfigError(
                f"cannot find service {name!r} (asked for by {profile.source if name in profile.services else 'you'})",
                hint="there are: " + ", ".join(sorted(catalogue)),
            )
    for name in names:
        if name not in profile.services:
            raise ConfigError(
                f"cannot use service {name!r}: profile {profile.name!r} does not have it",
                hint=f"it has {', '.join(profile.services)}; add it under 'services' in devenv.yaml",
            )
    ordered: list[str] = []

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            circle = " -> ".join([*path[path.index(name) :], name])
            raise ConfigError(f"cannot order the services: they need each other ({circle})", "mend 'requires'")
        if name in ordered:
            return
        for need in catalogue[name].requires:
            visit(provider_of(need.role, name, profile, catalogue), (*path, name))
        ordered.append(name)

    for name in names or profile.services:
        visit(name, ())
    return ordered


def provider_of(role: str, needed_by: str, profile: Profile, catalogue: Catalogue) -> str:
    """The one service of the profile that fills the role; where there is none, the one of the catalogue."""
    chosen = [name for name in profile.services if name in catalogue and catalogue[name].role == role]
    known = [name for name, service in catalogue.items() if service.role == role]
    candidates = chosen or [name for name in known if name not in profile.left_out]
    if not candidates and known:
        raise ConfigError(
            f"cannot leave out {known[0]!r} (in {profile.source}): {needed_by} needs it",
            hint=f"leave {needed_by} out, too, or drop '{known[0]}: false'",
        )
    if len(candidates) != 1:
        found = f"more than one service does: {', '.join(candidates)}" if candidates else "no service does"
        raise ConfigError(
            f"cannot fill the role {role!r} that {needed_by} needs: {found}",
            hint="name one service of that role under 'services' in devenv.yaml",
        )
    return candidates[0]


def secret_names(
    names: Sequence[str], profile: Profile, catalogue: Catalogue, former: Collection[str] = ()
) -> list[str]:
    """The secrets that these services need: their own, and one per component that has a part of them."""
    found = [f"{name}.{secret}" for name in names for secret in catalogue[name].secrets]
    for name in names:
        for need in catalogue[name].requires:
            found.append(f"{provider_of(need.role, name, profile, catalogue)}/{need.component}")
    giving = [name for name in names if catalogue[name].provisioner]
    return found + password_names(giving, [*profile.components, *former])


# ---- which ports -------------------------------------------------------------------------------------------


def choose_ports(
    names: Iterable[str],
    profile: Profile,
    catalogue: Catalogue,
    observed: Observed,
    record: Record,
    others: Iterable[Record],
    holder: Callable[[int], str],
    check: bool = True,
) -> dict[str, int]:
    """The host port of each "service/endpoint".

    A pinned port is taken as it is, then the remembered one, then the well-known one if it is free, then any
    free one. Raises NotOurs, naming the holder, when a pinned or remembered port is somebody else's by now; without
    `check` these are not tried, which is for looking only.
    """
    # A "created" container may be starting right now, for a devenv that was killed.
    holding = [c for c in (*observed.containers.values(), *observed.extra) if c.alive or c.state == "created"]
    ours = {port for container in holding for port in container.ports.values()}
    pins = _pins(names, profile)
    taken = {port for other in others if other.id != record.id for port in other.ports.values()}
    ports: dict[str, int] = {}
    for name in names:
        pinned = profile.services.get(name, ServiceChoice()).ports
        _check_pins(name, pinned, catalogue[name], profile)
        for endpoint, definition in catalogue[name].endpoints.items():
            key = f"{name}/{endpoint}"
            published = observed.containers[name].ports.get(definition.port) if name in observed.containers else None
            fixed = pinned.get(endpoint) or record.ports.get(key) or published
            if fixed and pins.get(fixed, key) != key:
                fixed = None  # another service pins it now
            if fixed:
                if check and fixed not in ours and not is_free(fixed):
                    raise _taken(fixed, name, endpoint, endpoint in pinned, holder(fixed))
                ports[key] = fixed
            else:
                avoid = taken | pins.keys() | set(ports.values()) | set(record.ports.values())
                known = definition.port
                ports[key] = known if known not in avoid and is_free(known) else free_port(avoid)
    return ports


def _pins(names: Iterable[str], profile: Profile) -> dict[int, str]:
    """Who pins which port. Raises ConfigError if two do."""
    pins: dict[int, str] = {}
    for name in names:
        for endpoint, port in profile.services.get(name, ServiceChoice()).ports.items():
            key = f"{name}/{endpoint}"
            if pins.setdefault(port, key) != key:
                raise ConfigError(
                    f"cannot pin port {port} for both {pins[port]} and {key} (in {profile.source})", "pin another one"
                )
    return pins


def _check_pins(name: str, pinned: Mapping[str, int], service: ServiceDefinition, profile: Profile) -> None:
    for endpoint in pinned:
        if endpoint not in service.endpoints:
            raise ConfigError(
                f"cannot pin a port of {name}: it has no endpoint {endpoint!r} (in {profile.source})",
                hint="it has: " + ", ".join(service.endpoints),
            )


def _taken(port: int, name: str, endpoint: str, pinned: bool, holder: str) -> NotOurs:
    why = "pinned in devenv.yaml" if pinned else "given to this environment before"
    other = "pin another one" if pinned else "pin another one in devenv.yaml"
    return NotOurs(
        f"cannot publish {name} ({endpoint}) on 127.0.0.1:{port} ({why}): {holder} has it",
        hint=f"end that, or {other}: 'services: {{{name}: {{ports: {{{endpoint}: PORT}}}}}}'",
    )


# ---- what exactly ------------------------------------------------------------------------------------------


def resolve(
    environment: str,
    names: Sequence[str],
    profile: Profile,
    catalogue: Catalogue,
    images: Mapping[str, Image],
    ports: Mapping[str, int],
    secrets: Mapping[str, str],
    former: Collection[str] = (),
    inside: bool = False,
) -> Desired:
    """The desired state of these services, every template filled in. Raises ConfigError for unknown values.

    `former` are components that had a part of some service and are not in the profile any more. With `inside`, who
    uses the services runs among their containers and calls them by their names.
    """
    services: dict[str, DesiredService] = {}
    needed = _needed(names, profile, catalogue)
    known = _Known(environment, profile, catalogue, images, ports, secrets, former, needed, inside)
    for name in names:
        services[name] = _service(catalogue[name], known, services)
    return Desired(
        environment=environment,
        network=f"devenv-{environment}",
        services=services,
        images=tuple(service.image for service in services.values()),
        components=profile.components,
    )


@dataclass(frozen=True)
class _Known:
    """All that every service is resolved from. `needed` are components by the service that they need a part of."""

    environment: str
    profile: Profile
    catalogue: Catalogue
    images: Mapping[str, Image]
    ports: Mapping[str, int]
    secrets: Mapping[str, str]
    former: Collection[str]
    needed: Mapping[str, Collection[str]]
    inside: bool = False


def _needed(names: Iterable[str], profile: Profile, catalogue: Catalogue) -> dict[str, list[str]]:
    needed: dict[str, list[str]] = {}
    for name in names:
        for need in catalogue[name].requires:
            needed.setdefault(provider_of(need.role, name, profile, catalogue), []).append(need.component)
    return needed


def _service(definition: ServiceDefinition, known: _Known, before: Mapping[str, DesiredService]) -> DesiredService:
    name, environment = definition.name, known.environment
    values = {f"secret.{secret}": known.secrets[f"{name}.{secret}"] for secret in definition.secrets}
    values["environment"] = environment
    source = str(definition.folder / "compose.yaml")
    ports = {key: known.ports[f"{name}/{key}"] for key in definition.endpoints}
    host = name if known.inside else HOST
    endpoints = endpoint_views(definition, ports, values, {}, host)
    depends: dict[str, str] = {}
    needs = []
    for need in definition.requires:
        provider = before[provider_of(need.role, name, known.profile, known.catalogue)]
        depends[provider.name] = need.condition
        if need.component not in provider.components:
            raise ConfigError(
                f"cannot give {name} a part of {provider.name}: it has no provisioner",
                hint=f"add one to {known.catalogue[provider.name].folder / 'compose.yaml'}",
            )
        part = provider.components[need.component]
        needs.append(part.pair)
        values |= _required(need.role, part)

    def filled(templates: Mapping[str, str]) -> dict[str, str]:
        return {key: render(text, values, source) for key, text in templates.items()}

    def parts_for(choices: Iterable[ComponentChoice]) -> dict[str, Provision]:
        return {
            choice.name: provision(definition, values, ports, choice, known.secrets[f"{name}/{choice.name}"], host)
            for choice in (choices if definition.provisioner else ())
        }

    values |= {f"output.{key}": value for key, value in filled(definition.outputs).items()}
    values |= {f"setting.{key}": value for key, value in filled(definition.settings).items()}
    files = {file.target: render_file(file.source, values).encode() for file in definition.files}
    published = {endpoint.port: ports[key] for key, endpoint in definition.endpoints.items()}
    volumes = {f"devenv-{environment}-{name}-{volume}": target for volume, target in definition.volumes}
    image = known.images[name]
    parts = _parts(image, definition.options, files, published, volumes)
    needed = [ComponentChoice(component) for component in known.needed.get(name, ())]
    given = parts_for([*needed, *known.profile.components.values()])
    former = parts_for(ComponentChoice(component) for component in known.former)
    return DesiredService(
        name=name,
        role=definition.role,
        image=image,
        container=f"devenv-{environment}-{name}",
        options=definition.options,
        config_hash=digest(parts),
        parts=parts,
        files=files,
        volumes=volumes,
        ports=published,
        endpoints=endpoints,
        depends=depends,
        values=values,
        outputs=filled(definition.outputs),
        environment=filled(definition.environment),
        probe=filled(definition.probe),
        provisioner=filled(definition.provisioner),
        prepared=digest(filled(definition.provisioner)),
        components=given,
        former={
            name: part for name, part in former.items() if not any(same_place(part, one) for one in given.values())
        },
        own=provision(definition, values, ports, ComponentChoice(OWN), values.get("secret.password", ""), host),
        needs=tuple(needs),
        golden=tuple(f"devenv-{environment}-{name}-{volume}" for volume in definition.golden),
    )


def _required(role: str, part: Provision) -> dict[str, str]:
    """How a service reaches what it needs: over the container network, as a component of the provider."""
    network = {key: part.values[f"network.{next(iter(part.endpoints))}.{key}"] for key in ("host", "port", "url")}
    return {f"{role}.{key}": value for key, value in {**network, **part.settings}.items()}


def _parts(
    image: Image,
    options: ContainerOptions,
    files: Mapping[str, bytes],
    ports: Mapping[int, int],
    volumes: Mapping[str, str],
) -> dict[str, str]:
    """A short hash of each input of a container, under the name that a cause gives it."""
    defaults = asdict(ContainerOptions())
    parts: dict[str, Any] = {"image": image.reference, "devenv": _FORMAT}
    parts |= {"ports": sorted(ports.items()), "volumes": sorted(volumes.items())}
    parts |= {key: value for key, value in asdict(options).items() if value != defaults[key]}
    hashed = {key: digest(value) for key, value in parts.items()}
    hashed |= {f"file {target.rpartition('/')[2]}": hashlib.sha256(c).hexdigest()[:16] for target, c in files.items()}
    return hashed


def providers(name: str, desired: Desired) -> set[str]:
    """All services that one needs, directly or through others."""
    direct = desired.services[name].depends
    return {*direct}.union(*(providers(need, desired) for need in direct))
