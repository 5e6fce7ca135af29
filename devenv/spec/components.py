"""What a component gets of a service: its names and password there, and where it finds the service. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from devenv.errors import ConfigError
from devenv.model import ComponentChoice, Endpoint, Profile, Provision, ServiceDefinition
from devenv.names import identifier
from devenv.ports import HOST
from devenv.spec.template import render

# The environment's administrator is a component, too: made by each service itself, with the secret `password`.
OWN = "devenv"


def provision(
    definition: ServiceDefinition,
    values: Mapping[str, str],
    ports: Mapping[str, int],
    choice: ComponentChoice,
    password: str,
    host: str = HOST,
) -> Provision:
    """The component's part of a service.

    `values` are the service's own, for templates; `ports` its host ports by endpoint. Raises ConfigError for a
    template that names an unknown value.
    """
    source = str(definition.folder / "compose.yaml")
    own = {**values, **_words(choice, password)}

    def filled(templates: Mapping[str, str]) -> dict[str, str]:
        return {key: render(text, own, source) for key, text in templates.items()}

    outputs = filled(definition.component.outputs)
    own |= {f"output.{key}": value for key, value in outputs.items()}
    endpoints = endpoint_views(definition, ports, own, definition.component.urls, host)
    settings = {key.lower(): value for key, value in outputs.items()} | filled(definition.component.settings)
    return Provision(
        provider=definition.name,
        component=choice.name,
        settings=settings,
        digest=digest(settings),
        endpoints=endpoints,
        outputs=outputs,
        environment=filled(definition.component.environment),
        values=own,
    )


def endpoint_views(
    definition: ServiceDefinition,
    ports: Mapping[str, int],
    values: dict[str, str],
    urls: Mapping[str, str],
    host: str = HOST,
) -> dict[str, Endpoint]:
    """The host view of each endpoint; both views go into `values`, as endpoint.NAME.* and network.NAME.*.

    `urls` holds templates that stand for the endpoints' own.
    """
    source = str(definition.folder / "compose.yaml")
    endpoints = {}
    for key, endpoint in definition.endpoints.items():
        for view, where, port in (("endpoint", host, ports[key]), ("network", definition.name, endpoint.port)):
            url = render(urls.get(key, endpoint.url), {**values, "host": where, "port": str(port)}, source)
            found = {"host": where, "port": str(port), "url": url}
            values |= {f"{view}.{key}.{word}": value for word, value in found.items()}
            if view == "endpoint":
                endpoints[key] = Endpoint(where, port, url)
    return endpoints


def _words(choice: ComponentChoice, password: str) -> dict[str, str]:
    catalog = {f"catalog.{key}": choice.catalog.get(key, "") for key in ("type", "name", "url")}
    return {
        "component.name": choice.name,
        "component.identifier": identifier(choice.name),
        "component.password": password,
        "component.roles": ",".join(("service", *choice.roles)),
        **catalog,
    }


def check_components(profile: Profile, catalogue: Mapping[str, ServiceDefinition]) -> None:
    """Raise ConfigError if a component has a name, or a place in the service catalog, that is not to be had."""
    roles = {service.role: service.name for service in catalogue.values()}
    for name, choice in profile.components.items():
        check_free(name, catalogue, f" (in {profile.source})")
        if owner := roles.get(choice.catalog.get("type", "")):
            what = f"{name!r} as {choice.catalog['type']!r} (in {profile.source})"
            raise ConfigError(f"cannot list component {what} in the catalog: that is {owner}", "choose another type")


def check_free(name: str, catalogue: Mapping[str, ServiceDefinition], where: str = "") -> None:
    """Raise ConfigError if a component's name is taken: by a service, by one that needs it, or by devenv."""
    taken = {need.component: f"{service.name} has it" for service in catalogue.values() for need in service.requires}
    for service in catalogue.values():
        taken |= dict.fromkeys(service.component.reserved, f"{service.name} keeps it for itself")
    why = taken.get(name) or taken.get(identifier(name))
    if name.replace("_", "-").partition("-")[0] == OWN:
        why = "devenv keeps names that begin with it for itself"
    if why:
        raise ConfigError(f"cannot name a component {name!r}{where}: {why}", "choose another name")


def same_place(one: Provision, other: Provision) -> bool:
    """Whether both are called the same in the service, as `a-b` and `a_b` are in SQL: dropping one drops the other."""
    names = [{key: value for key, value in part.outputs.items() if key != "PASSWORD"} for part in (one, other)]
    return names[0] == names[1]


def needed_components(catalogue: Mapping[str, ServiceDefinition]) -> set[str]:
    """The services that are components of others, by the names that they have there."""
    return {need.component for service in catalogue.values() for need in service.requires}


def former_components(
    provisioned: Iterable[str], profile: Profile, catalogue: Mapping[str, ServiceDefinition]
) -> list[str]:
    """Who has a part of some service that nobody asks for any more, by the pairs that are known to be in place."""
    names = {component for _, slash, component in (pair.partition("/") for pair in provisioned) if slash}
    return sorted(names - needed_components(catalogue) - profile.components.keys())


def password_names(services: Iterable[str], components: Collection[str]) -> list[str]:
    """The names under which these components' passwords are kept, one for each of the services."""
    return [f"{service}/{component}" for service in services for component in components]


def digest(value: Any) -> str:
    """A short name for a content."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def endpoints_of(endpoints: Mapping[str, Endpoint]) -> dict[str, dict[str, str | int]]:
    """Endpoints as devenv prints and writes them."""
    return {key: {"host": e.host, "port": e.port, "url": e.url} for key, e in endpoints.items()}
