"""Compute what a component gets of a service: its names and password, and where it finds the service. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from devenv.errors import ConfigError
from devenv.model import Catalogue, ComponentChoice, Endpoint, Profile, Provision, ServiceDefinition
from devenv.names import Pair, identifier
from devenv.ports import HOST
from devenv.spec.template import render

# The environment's administrator is a component, too. Each service creates it itself, with the secret `password`.
OWN = "devenv"
# The component that OpenStack's own test suites use. No project can have one of that name.
CITEST = f"{OWN}-citest"
# The account that they expect: with all rights, and with a name that is also its password and its database. See
# `tools/test-setup.sh` in nova, keystone and others.
ACCOUNT = "openstack_citest"


@dataclass(frozen=True)
class Placed:
    """A service and where it is: its host port by endpoint, and the host that programs reach it under.

    Other services call it `network`; without that, by its own name.
    """

    definition: ServiceDefinition
    ports: Mapping[str, int]
    host: str = HOST
    network: str = ""

    def filled(self, templates: Mapping[str, str], values: Mapping[str, str]) -> dict[str, str]:
        """Fill in templates of the service's Compose file. Raise ConfigError for an unknown value."""
        source = str(self.definition.folder / "compose.yaml")
        return {key: render(text, values, source) for key, text in templates.items()}

    def endpoints(
        self, values: Mapping[str, str], urls: Mapping[str, str] | None = None
    ) -> tuple[dict[str, Endpoint], dict[str, str]]:
        """Return the host view of each endpoint, and both views as values: endpoint.NAME.* and network.NAME.*.

        `urls` holds templates to use instead of the endpoints' own.
        """
        known, found, endpoints = dict(values), dict[str, str](), dict[str, Endpoint]()
        for key, endpoint in self.definition.endpoints.items():
            views = self._views(key)
            for view, (host, port) in views.items():
                template = {"url": (urls or {}).get(key, endpoint.url)}
                words = {"host": host, "port": str(port)}
                words |= self.filled(template, {**known, **words})
                found |= {f"{view}.{key}.{word}": value for word, value in words.items()}
                known |= found
            endpoints[key] = Endpoint(*views["endpoint"], found[f"endpoint.{key}.url"])
        return endpoints, found

    def _views(self, key: str) -> dict[str, tuple[str, int]]:
        """Return where programs on the host and in containers find an endpoint: the same for an attached service."""
        if found := self.definition.attachment:
            return dict.fromkeys(("endpoint", "network"), found.places[key])
        inside = self.definition.endpoints[key].port
        return {"endpoint": (self.host, self.ports[key]), "network": (self.network or self.definition.name, inside)}


def provision(placed: Placed, values: Mapping[str, str], choice: ComponentChoice, password: str) -> Provision:
    """Return the component's part of a service; `values` are the service's own, for templates.

    Raise ConfigError for a template that names an unknown value.
    """
    definition = placed.definition.component
    own = {**values, **_words(choice, password)}
    outputs = placed.filled(definition.outputs, own)
    own |= {f"output.{key}": value for key, value in outputs.items()}
    endpoints, words = placed.endpoints(own, definition.urls)
    own |= words
    settings = {key.lower(): value for key, value in outputs.items()} | placed.filled(definition.settings, own)
    return Provision(
        provider=placed.definition.name,
        component=choice.name,
        settings=settings,
        digest=digest(settings),
        endpoints=endpoints,
        outputs=outputs,
        environment=placed.filled(definition.environment, own),
        values=own,
    )


def administrators(part: Provision, service: Mapping[str, str], outputs: Mapping[str, str]) -> Provision:
    """Return the administrator's own part of an attached service: the login that devenv was given, not one of its own.

    `service` are the service's values, and `outputs` its outputs.
    """
    return replace(part, outputs={**part.outputs, **outputs}, values={**part.values, **service})


def citest_part(placed: Placed, values: Mapping[str, str]) -> Provision:
    """Return the part of a service that OpenStack's own test suites use; its value `citest.url` is the URL for them."""
    part = provision(placed, values, ComponentChoice(ACCOUNT), ACCOUNT)
    url = placed.filled({"citest.url": placed.definition.citest}, part.values)
    settings = {**part.settings, "rights": "all"}
    digested = digest(settings)
    return replace(part, component=CITEST, settings=settings, digest=digested, values={**part.values, **url})


def _words(choice: ComponentChoice, password: str) -> dict[str, str]:
    catalog = {f"catalog.{key}": choice.catalog.get(key, "") for key in ("type", "name", "url")}
    return {
        "component.name": choice.name,
        "component.identifier": identifier(choice.name),
        "component.password": password,
        "component.roles": ",".join(("service", *choice.roles)),
        **catalog,
    }


def check_components(profile: Profile, catalogue: Catalogue) -> None:
    """Raise ConfigError if a component's name, or its place in the service catalog, is taken."""
    roles = {service.role: service.name for service in catalogue.values()}
    for name, choice in profile.components.items():
        check_free(name, catalogue, f" (in {profile.source})")
        if owner := roles.get(choice.catalog.get("type", "")):
            what = f"{name!r} as {choice.catalog['type']!r} (in {profile.source})"
            raise ConfigError(f"cannot list component {what} in the catalog: that is {owner}", "choose another type")


def check_free(name: str, catalogue: Catalogue, where: str = "") -> None:
    """Raise ConfigError if a component's name is taken: by a service, by one that needs it, or by devenv."""
    taken = {need.component: f"{service.name} has it" for service in catalogue.values() for need in service.requires}
    for service in catalogue.values():
        taken |= dict.fromkeys(service.component.reserved, f"{service.name} keeps it for itself")
    why = taken.get(name) or taken.get(identifier(name))
    if name.replace("_", "-").partition("-")[0] == OWN:
        why = "devenv keeps names that begin with it for itself"
    if identifier(name) == ACCOUNT:
        why = "'devenv run --citest' lends an account of that name"
    if why:
        raise ConfigError(f"cannot name a component {name!r}{where}: {why}", "choose another name")


def same_place(one: Provision, other: Provision) -> bool:
    """Return whether both have one name in the service, as `a-b` and `a_b` in SQL: removing one removes the other."""
    names = [{key: value for key, value in part.outputs.items() if key != "PASSWORD"} for part in (one, other)]
    return names[0] == names[1]


def needed_components(catalogue: Catalogue) -> set[str]:
    """Return the services that are components of others, by the names that they have there."""
    return {need.component for service in catalogue.values() for need in service.requires}


def former_components(provisioned: Iterable[str], profile: Profile, catalogue: Catalogue) -> list[str]:
    """Return the components that have a part of some service, by the record, and are not in the profile any more."""
    names = {Pair.parse(pair).component for pair in provisioned}
    return sorted(names - {""} - needed_components(catalogue) - profile.components.keys())


def password_names(services: Iterable[str], components: Collection[str]) -> list[str]:
    """Return the names under which devenv keeps these components' passwords, one for each of the services."""
    return [str(Pair(service, component)) for service in services for component in components]


def digest(value: Any) -> str:
    """Return a short name for a content."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def endpoints_of(endpoints: Mapping[str, Endpoint]) -> dict[str, dict[str, str | int]]:
    """Return endpoints as devenv prints and writes them."""
    return {key: {"host": e.host, "port": e.port, "url": e.url} for key, e in endpoints.items()}
