"""Build model objects with values for all that a test is not about, and service folders on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from devenv.images.references import LABEL_CONTENT, content_of, images_for
from devenv.model import (
    ComponentChoice,
    ContainerOptions,
    Desired,
    DesiredService,
    Endpoint,
    Image,
    Observed,
    ObservedContainer,
    Operation,
    Profile,
    Provision,
    ServiceChoice,
)
from devenv.names import Pair
from devenv.spec.catalogue import load_catalogue
from devenv.spec.desired import Inputs, resolve, secret_names

BASE = Image("devenv/base:1", "base")
NETWORK = "n" * 64
# Stands in for random secrets; tests can find it in any output.
SECRET = "S3cret-S3cret_S3cret"


# YAML in C reads and writes the same, ten times as fast as `yaml.safe_load` and `yaml.safe_dump`.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def read_yaml(text: str) -> Any:
    """Return what a YAML library reads from the text."""
    return yaml.load(text, _LOADER)


# ---- on disk -------------------------------------------------------------------------------------------------


def compose_data(name: str = "web", role: str = "", port: int = 80) -> dict[str, Any]:
    """Return the data of a correct compose.yaml with a bit of everything."""
    return {
        "services": {
            name: {
                "image": f"example/{name}",
                "user": "nobody",
                "read_only": True,
                "cap_drop": ["ALL"],
                "security_opt": ["no-new-privileges:true"],
                "pids_limit": 99,
                "entrypoint": ["run"],
                "configs": [{"source": "main", "target": "/etc/devenv/main.conf"}],
                "volumes": ["data:/data"],
                "ports": [f"127.0.0.1::{port}"],
                "mem_limit": "512m",
                "stop_grace_period": "1m30s",
            }
        },
        "configs": {"main": {"file": "./main.conf"}},
        "volumes": {"data": {}},
        "x-devenv": {
            "role": role or f"{name}-role",
            "secrets": ["password"],
            "endpoints": {"http": {"port": port, "url": "http://u:$${secret.password}@$${host}:$${port}"}},
            "probe": {"kind": "fake", "endpoint": "http"},
            "provisioner": {"kind": "fake", "endpoint": "http"},
            "component": {"outputs": {"USER": "$${component.name}", "PASSWORD": "$${component.password}"}},
        },
    }


def write_service(folder: Path, data: Mapping[str, Any], name: str = "web") -> Path:
    """Write a service folder as a person would; return its compose.yaml."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "main.conf").write_text("listen = ${endpoint.http.port}\n")
    path = folder / name / "compose.yaml"
    path.write_text(yaml.dump(dict(data), Dumper=_DUMPER, sort_keys=False))
    return path


def line_of(path: Path, text: str) -> int:
    """Return the number of the only line that holds the text."""
    (number,) = (n for n, line in enumerate(path.read_text().splitlines(), 1) if text in line)
    return number


# ---- desired -------------------------------------------------------------------------------------------------


# Read it once: nobody changes it.
_shipped_catalogue = cache(load_catalogue)


def shipped(
    names: tuple[str, ...] = ("mysql", "keystone", "rabbitmq", "etcd"), components: tuple[str, ...] = ()
) -> Desired:
    """Return the shipped services with their own ports and known secrets."""
    catalogue = _shipped_catalogue()
    chosen = {name: ComponentChoice(name) for name in components}
    profile = Profile("base", {name: ServiceChoice() for name in names}, components=chosen)
    ports = {f"{name}/{key}": e.port for name in names for key, e in catalogue[name].endpoints.items()}
    secrets = dict.fromkeys(secret_names(names, profile, catalogue), SECRET)
    return resolve(names, Inputs("env-1", profile, catalogue, images_for(profile, catalogue), ports, secrets))


DIGEST = "1"


def service(name: str = "mysql", build: bool = False, version: str = "1", **more: Any) -> DesiredService:
    image = Image(f"devenv/{name}:1", "build" if build else "pull", name)
    return DesiredService(
        **{
            "name": name,
            "role": f"{name}-role",
            "image": image,
            "container": f"devenv-env-{name}",
            "options": ContainerOptions(),
            "config_hash": f"{name}-{version}",
            "parts": {"image": "1", "file my.cnf": version},
            "endpoints": {"main": Endpoint("127.0.0.1", 1, "http://127.0.0.1:1")},
            "probe": {"kind": "fake", "endpoint": "main"},
            **more,
        }
    )


def inspected(reference: str, labels: Mapping[str, str] | None = None, **more: Any) -> dict[str, Any]:
    """Return what the engine says of an image; without `labels`, of one that devenv made."""
    image = {"Id": f"id of {reference}", "Size": 1, "RootFS": {"Layers": ["sha256:1"]}, "Config": {}, **more}
    content = {LABEL_CONTENT: content_of(reference, image)}
    return {**image, "Config": {**image["Config"], "Labels": content if labels is None else labels}}


def consumer(name: str = "keystone", of: str = "mysql", condition: str = "service_started", **more: Any) -> Any:
    """Make a service that is a component of another one."""
    return service(name, depends={of: condition}, needs=(f"{of}/{name}",), **more)


def part(pair: str, digest: str = DIGEST) -> Provision:
    """Make what a component gets from a service, by the pair of their names."""
    provider, _, component = pair.partition("/")
    return Provision(provider, component, {"password": SECRET}, digest)


def desired(*services: DesiredService) -> Desired:
    """Return the services, each with a part for every other one that needs it."""
    needed = [part(pair) for s in services for pair in s.needs]
    giving = [replace(s, components={**s.components, **_parts_of(s.name, needed)}) for s in services]
    return Desired("env", "devenv-env", {s.name: s for s in giving}, (BASE, *(s.image for s in services)))


def _parts_of(provider: str, parts: list[Provision]) -> dict[str, Provision]:
    return {one.component: one for one in parts if one.provider == provider}


# ---- observed ------------------------------------------------------------------------------------------------


def container(of: DesiredService, state: str = "running", **more: Any) -> ObservedContainer:
    fields: dict[str, Any] = {"config_hash": of.config_hash, "parts": of.parts, "networks": (NETWORK,), **more}
    return ObservedContainer(
        **{"id": f"id-{of.name}", "name": of.container, "service": of.name, "state": state} | fields
    )


def converged(target: Desired) -> Observed:
    """Return what `observe` finds after `up`."""
    return Observed(
        containers={name: container(s) for name, s in target.services.items()},
        networks=(NETWORK,),
        volumes={volume: name for name, s in target.services.items() for volume in s.volumes},
        images={image.reference: f"id of {image.reference}" for image in target.images},
    )


def with_containers(observed: Observed, *containers: ObservedContainer) -> Observed:
    return replace(observed, containers={**observed.containers, **{c.service: c for c in containers}})


def operation(key: str, cause: str = "", after: tuple[str, ...] = (), **more: Any) -> Operation:
    """Make an operation from "action target", with the service and the component that the target names."""
    action, _, target = key.rpartition(" ")
    pair = Pair.parse(target)
    return Operation(action, target, cause, after, **{"service": pair.service, "component": pair.component, **more})
