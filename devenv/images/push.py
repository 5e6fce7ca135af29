"""Push the images that devenv built to a registry, under devenv's own names and tags, for pods of a cluster to pull."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from devenv.engine.protocol import Capability, Engine
from devenv.errors import ConfigError
from devenv.images import golden as golden_states
from devenv.images.references import check_image
from devenv.model import Catalogue, Desired
from devenv.names import REGISTRY, REGISTRY_RULE


@dataclass(frozen=True)
class Pushed:
    """The addresses that images and golden states have in the registry."""

    images: tuple[str, ...]
    golden: tuple[str, ...]


def push_images(
    engine: Engine,
    desired: Desired,
    catalogue: Catalogue,
    registry: str,
    golden: bool,
    note: Callable[[str], None],
) -> Pushed:
    """Push the images of the desired services that devenv builds, and with `golden` their golden states.

    Images that devenv pulls are in a registry already. Raise ConfigError, and push nothing, for what is no registry or
    if an image is missing; NotOurs if another image has one of devenv's names.
    """
    _check_registry(registry)
    if Capability.PUSH not in engine.can:
        raise ConfigError(f"cannot push images: {engine.url} has none", "use the engine that built them")
    there = engine.images()
    wanted = sorted({image.reference for image in desired.images if image.how == "build"})
    if missing := [reference for reference in wanted if reference not in there]:
        raise ConfigError(f"cannot push images: {', '.join(missing)} not there", "run 'devenv images build' first")
    for reference in wanted:
        check_image(engine, reference)
    expected = golden_states.references(desired, catalogue, there).values() if golden else ()
    states = [reference for reference in expected if reference in there]
    if golden and len(states) < len(expected):
        note("not every golden state is there yet: 'devenv up' makes those that are missing")
    for reference in (*wanted, *states):
        note(f"pushing {registry}/{reference}")
        engine.push(reference, f"{registry}/{reference}", _ignored)
    return Pushed(*(tuple(f"{registry}/{reference}" for reference in some) for some in (wanted, states)))


def _ignored(_: str) -> None:
    """Receive what the engine says of each layer, many times a second."""


def _check_registry(registry: str) -> None:
    if not registry:
        raise ConfigError(
            "cannot push images: no registry is named", f"name it: 'devenv images push {REGISTRY_RULE.split()[-1]}'"
        )
    if not REGISTRY.match(registry):
        raise ConfigError(f"cannot push images to {registry!r}: it is no registry", f"write it as {REGISTRY_RULE}")
