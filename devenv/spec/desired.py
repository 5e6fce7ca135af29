"""Choose the services to run, and compute exactly what should be on the engine. Pure: no engine, no files written."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from devenv.errors import ConfigError
from devenv.model import (
    Catalogue,
    ComponentChoice,
    ContainerOptions,
    Desired,
    DesiredService,
    Image,
    Profile,
    Provision,
    ServiceChoice,
    ServiceDefinition,
)
from devenv.names import Names, hint_for
from devenv.ports import HOST
from devenv.spec.attach import is_loopback, variable_of
from devenv.spec.components import (
    CITEST,
    OWN,
    Placed,
    administrators,
    citest_part,
    digest,
    password_names,
    provision,
    same_place,
)
from devenv.spec.ports import port_key
from devenv.spec.template import render_file

# Raise it when devenv creates containers in another way from the same inputs.
_FORMAT = 1


# ---- which services ----------------------------------------------------------------------------------------


def with_roles(
    profile: Profile,
    catalogue: Catalogue,
    names: Sequence[str] = (),
    before: Mapping[str, str] | None = None,
    join: bool = False,
) -> Profile:
    """Return the profile with the services that fill roles in it, in place of the shipped profile's.

    The profile's own `roles` say which do; else one of `names` that the profile does not have; else `before` does, as
    remembered. If `names` has the service that fills a role as well, or with `join`, the other one joins it. Raise
    ConfigError if `roles` names an unknown service, or one of another role.
    """
    _check_roles(profile, catalogue)
    known = {name: service.role for name, service in catalogue.items()}
    usable = known.keys() - profile.left_out
    chosen = {role: name for role, name in {**(before or {}), **profile.roles}.items() if name in usable}
    filled = _filled(profile, known, chosen)
    roles = {known[name] for name in filled.services if name in known}
    roles |= {need.role for name in filled.services if name in known for need in catalogue[name].requires}
    new = [name for name in names if name not in filled.services and name in usable and known[name] in roles]
    settled = {*profile.roles, *(known[name] for name in names if name in filled.services and name in known)}
    moved = {known[name]: name for name in reversed(new) if not join and known[name] not in settled}
    filled = _filled(profile, known, {**chosen, **moved})
    return replace(filled, services={**dict.fromkeys(new, ServiceChoice()), **filled.services})


def _check_roles(profile: Profile, catalogue: Catalogue) -> None:
    for role, name in profile.roles.items():
        if name in profile.left_out:
            raise ConfigError(
                f"cannot use {name!r} as {role} (in {profile.source}): it is left out", "remove one of both"
            )
        if name in catalogue and catalogue[name].role == role:
            continue
        fitting = [other for other, service in catalogue.items() if service.role == role]
        reason = f"its role is {catalogue[name].role}" if name in catalogue else "there is no such service"
        raise ConfigError(
            f"cannot use {name!r} as {role} (in {profile.source}): {reason}", hint_for(name, fitting, "devenv has")
        )


def _filled(profile: Profile, known: Mapping[str, str], roles: Mapping[str, str]) -> Profile:
    """Return the profile with these services in their roles; `known` has the role of each service."""
    services: dict[str, ServiceChoice] = {}
    for name, choice in profile.services.items():
        instead = roles.get(known.get(name, ""), name)
        services.setdefault(instead, profile.services.get(instead, ServiceChoice()))
        if name in profile.named:
            services[name] = choice
    return replace(profile, services=services, roles=roles)


def select(profile: Profile, catalogue: Catalogue, names: Sequence[str] = ()) -> list[str]:
    """Return the services to act on, each after all that it needs: `names` and their needs, else all of the profile.

    Raise ConfigError for an unknown service, a role that no service fills, or services that need each other.
    """
    for name in [*profile.services, *names]:
        if name not in catalogue:
            variable = variable_of(name, profile.services[name].attach) if name in profile.services else ""
            where = f" (in {profile.source})" if name in profile.services else ""
            where = f" (by {variable})" if variable else where
            raise ConfigError(f"cannot find service {name!r}{where}", hint_for(name, catalogue, "devenv has"))
    for name in names:
        if name not in profile.services:
            raise ConfigError(
                f"cannot use service {name!r}: profile {profile.name!r} does not have it",
                hint=f"{hint_for(name, profile.services, 'it has')}; add others under 'services' in devenv.yaml",
            )
    ordered: list[str] = []

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            circle = " -> ".join([*path[path.index(name) :], name])
            raise ConfigError(f"cannot order the services: they need each other ({circle})", "correct 'requires'")
        if name in ordered:
            return
        for need in catalogue[name].requires:
            visit(provider_of(need.role, name, profile, catalogue), (*path, name))
        ordered.append(name)

    for name in names or profile.services:
        visit(name, ())
    return ordered


def provider_of(role: str, needed_by: str, profile: Profile, catalogue: Catalogue) -> str:
    """Return the service that fills the role: as the profile says, else the profile's only or default one.

    If the profile has none, it is the catalogue's only or default one.
    """
    if role in profile.roles:
        return profile.roles[role]
    chosen = [name for name in profile.services if name in catalogue and catalogue[name].role == role]
    known = [name for name, service in catalogue.items() if service.role == role]
    candidates = chosen or [name for name in known if name not in profile.left_out]
    candidates = [name for name in candidates if catalogue[name].default] or candidates
    if not candidates and known:
        raise ConfigError(
            f"cannot leave out {known[0]!r} (in {profile.source}): {needed_by} needs it",
            hint=f"leave {needed_by} out, too, or remove '{known[0]}: false'",
        )
    if len(candidates) != 1:
        found = f"more than one service does: {', '.join(candidates)}" if candidates else "no service does"
        raise ConfigError(
            f"cannot fill the role {role!r} that {needed_by} needs: {found}",
            hint=f"'{role}: {candidates[0]}' in devenv.yaml chooses one" if candidates else "add one under 'services'",
        )
    return candidates[0]


def secret_names(
    names: Sequence[str], profile: Profile, catalogue: Catalogue, former: Collection[str] = ()
) -> list[str]:
    """Return the names of the secrets that these services need: their own, and one per component that has a part."""
    found = [f"{name}.{secret}" for name in names for secret in catalogue[name].secrets]
    for name in names:
        for need in catalogue[name].requires:
            found += password_names([provider_of(need.role, name, profile, catalogue)], [need.component])
    giving = [name for name in names if catalogue[name].provisioner]
    return found + password_names(giving, [*profile.components, *former])


# ---- what exactly ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inputs:
    """The inputs from which devenv computes the desired state of an environment.

    `images` are by service, `ports` by "service/endpoint", `secrets` by the names of `secret_names`. `former` are
    components that have a part of some service and are not in the profile any more. `citest` are the services with the
    account for OpenStack's own test suites. With `inside`, programs use the services from a container beside them and
    call them by their names. `hosts` are the names, by service, under which other services find it, if the engine gives
    it another one than its own.
    """

    environment: str
    profile: Profile
    catalogue: Catalogue
    images: Mapping[str, Image]
    ports: Mapping[str, int]
    secrets: Mapping[str, str]
    former: Collection[str] = ()
    citest: Collection[str] = ()
    inside: bool = False
    hosts: Mapping[str, str] = field(default_factory=dict)

    def provider(self, role: str, needed_by: str) -> str:
        """Return the service that fills a role for another one."""
        return provider_of(role, needed_by, self.profile, self.catalogue)

    def password(self, service: str, component: str) -> str:
        """Return a component's password in a service."""
        return self.secrets[password_names([service], [component])[0]]


def resolve(names: Sequence[str], inputs: Inputs) -> Desired:
    """Return the desired state of these services, every template filled in. Raise ConfigError for unknown values."""
    users: dict[str, list[ComponentChoice]] = {}
    for name in names:
        for need in inputs.catalogue[name].requires:
            users.setdefault(inputs.provider(need.role, name), []).append(ComponentChoice(need.component))
    services: dict[str, DesiredService] = {}
    for name in names:
        needs = _needs(inputs.catalogue[name], inputs, services)
        services[name] = _service(inputs, needs, [*users.get(name, ()), *inputs.profile.components.values()])
    return Desired(
        environment=inputs.environment,
        network=Names(inputs.environment).network,
        services=services,
        images=tuple(service.image for service in services.values() if not service.attached),
        components=inputs.profile.components,
        roles={inputs.catalogue[name].role: _first_of_role(name, names, inputs) for name in names},
    )


def _first_of_role(name: str, names: Sequence[str], inputs: Inputs) -> str:
    """Return which of these services fills the role of one: as the profile says, else a default, else the first."""
    role = inputs.catalogue[name].role
    same = [other for other in names if inputs.catalogue[other].role == role]
    chosen = inputs.profile.roles.get(role)
    defaults = [other for other in same if inputs.catalogue[other].default]
    return chosen if chosen in same else (defaults or same)[0]


@dataclass(frozen=True)
class _Needs:
    """A service's needs from others: the conditions to wait for, its parts ("mysql/keystone"), values for templates."""

    definition: ServiceDefinition
    depends: dict[str, str] = field(default_factory=dict)
    parts: list[str] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)


def _needs(definition: ServiceDefinition, inputs: Inputs, before: Mapping[str, DesiredService]) -> _Needs:
    needs = _Needs(definition)
    for need in definition.requires:
        provider = before[inputs.provider(need.role, definition.name)]
        if need.component not in provider.components:
            raise ConfigError(
                f"cannot give {definition.name} a part of {provider.name}: it has no provisioner",
                hint=f"add one to {inputs.catalogue[provider.name].folder / 'compose.yaml'}",
            )
        part = provider.components[need.component]
        needs.depends[provider.name] = need.condition
        needs.parts.append(part.pair)
        # Over the container network, as a component of the provider.
        where = {key: part.values[f"network.{next(iter(part.endpoints))}.{key}"] for key in ("host", "port", "url")}
        needs.values.update({f"{need.role}.{key}": value for key, value in {**where, **part.settings}.items()})
    return needs


def _service(inputs: Inputs, needs: _Needs, components: Iterable[ComponentChoice]) -> DesiredService:
    """Return the service with all that programs and components get of it."""
    definition, name, found = needs.definition, needs.definition.name, needs.definition.attachment
    ports = {} if found else {key: inputs.ports[port_key(name, key)] for key in definition.endpoints}
    network = inputs.hosts.get(name, name)
    placed = Placed(definition, ports, network if inputs.inside else HOST, network)
    values = {f"secret.{secret}": inputs.secrets[f"{name}.{secret}"] for secret in definition.secrets}
    values |= {"environment": inputs.environment, **(found.words if found else {})}
    endpoints, words = placed.endpoints(values)
    values |= words | needs.values
    outputs = placed.filled(definition.outputs, values)
    values |= {f"output.{key}": value for key, value in outputs.items()}
    values |= {f"setting.{key}": value for key, value in placed.filled(definition.settings, values).items()}
    provisioner = placed.filled(definition.provisioner, values)
    environment = placed.filled(definition.environment, values)

    def parts_for(choices: Iterable[ComponentChoice]) -> dict[str, Provision]:
        one = {choice.name: choice for choice in (choices if definition.provisioner else ())}
        return {key: provision(placed, values, choice, inputs.password(name, key)) for key, choice in one.items()}

    given, former = parts_for(components), parts_for(ComponentChoice(component) for component in inputs.former)
    if definition.citest and CITEST in former:
        former[CITEST] = citest_part(placed, values)
    if name in inputs.citest:
        given[CITEST] = citest_part(placed, values)
    own = provision(placed, values, ComponentChoice(OWN), values.get("secret.password", ""))
    if found:
        own = replace(own, environment=environment, endpoints=endpoints)
        own = administrators(own, values, outputs)
    return replace(
        _attached(definition, found.shown) if found else _container(placed, inputs, values),
        endpoints=endpoints,
        depends=needs.depends,
        values=values,
        outputs=outputs,
        environment=environment,
        probe=placed.filled(definition.probe, values),
        provisioner=provisioner,
        prepared=digest(provisioner),
        components=given,
        former={key: part for key, part in former.items() if not any(same_place(part, one) for one in given.values())},
        own=own,
        needs=tuple(needs.parts),
    )


def _attached(definition: ServiceDefinition, shown: str) -> DesiredService:
    """Return a service that the engine has nothing of: somebody else runs it."""
    image = Image("", "attached", definition.name)
    return DesiredService(definition.name, definition.role, image, "", ContainerOptions(), "", {}, attached=shown)


def _container(placed: Placed, inputs: Inputs, values: Mapping[str, str]) -> DesiredService:
    """Return the service with all that the engine gets."""
    definition, called = placed.definition, Names(inputs.environment)
    name, image = definition.name, inputs.images[definition.name]
    files = {file.target: render_file(file.source, values).encode() for file in definition.files}
    published = {endpoint.port: placed.ports[key] for key, endpoint in definition.endpoints.items()}
    volumes = {called.volume(name, short): target for short, target in definition.volumes}
    choice = inputs.profile.services.get(name, ServiceChoice())
    durable = choice.switches.get("durable", inputs.profile.durable)
    parts = _parts(image, definition.options, files, published, volumes)
    parts |= {"durable": digest(True)} if durable else {}
    return DesiredService(
        name=name,
        role=definition.role,
        image=image,
        container=called.container(name),
        options=definition.options,
        config_hash=digest(parts),
        parts=parts,
        files=files,
        volumes=volumes,
        ports=published,
        golden=tuple(called.volume(name, short) for short in definition.golden),
        durable=durable,
        uid=definition.uid,
    )


def _parts(
    image: Image,
    options: ContainerOptions,
    files: Mapping[str, bytes],
    ports: Mapping[int, int],
    volumes: Mapping[str, str],
) -> dict[str, str]:
    """Return a short hash of each input of a container, under the name that a cause gives it."""
    defaults = asdict(ContainerOptions())
    parts: dict[str, Any] = {"image": image.reference, "devenv": _FORMAT}
    # Pods get the image from there; one that could not is made again once this is right.
    parts |= {"image registry": [image.registry, *image.pull_secrets]} if image.registry or image.pull_secrets else {}
    parts |= {"ports": sorted(ports.items()), "volumes": sorted(volumes.items())}
    parts |= {key: value for key, value in asdict(options).items() if value != defaults[key]}
    hashed = {key: digest(value) for key, value in parts.items()}
    hashed |= {f"file {target.rpartition('/')[2]}": hashlib.sha256(c).hexdigest()[:16] for target, c in files.items()}
    return hashed


def check_reach(desired: Desired) -> None:
    """Raise ConfigError if a container is to use an attached service that only this host's own programs reach."""
    for service in desired.services.values():
        for provider in () if service.attached else [desired.services[name] for name in service.depends]:
            host = next(iter(provider.endpoints.values())).host
            if provider.attached and is_loopback(host):
                raise ConfigError(
                    f"cannot run {service.name} on {provider.attached}: in a container, {host} is the container itself",
                    f"attach {service.name}, too, or leave it out; or attach {provider.name} by an address that "
                    "containers reach, such as this host's",
                )


def providers(name: str, desired: Desired) -> set[str]:
    """Return all services that one needs, directly or through others."""
    direct = desired.services[name].depends
    return {*direct}.union(*(providers(need, desired) for need in direct))


def needs(catalogue: Catalogue) -> dict[str, list[str]]:
    """Return, by service, the services that it may be connected to: all that fill a role which it requires."""
    return {
        name: [other.name for other in catalogue.values() if any(other.role == r.role for r in service.requires)]
        for name, service in catalogue.items()
    }
