"""Push the images that devenv built to a registry, under devenv's own names and tags, for pods of a cluster to pull.

A pod copies a golden state with the programs of an image. So devenv puts each state, which is data alone, into an image
of its service: one layer more than the image that the node needs anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from devenv.engine.protocol import DATA_FOLDER, FIRST_DATA, Capability, Engine
from devenv.engine.tar import pack
from devenv.errors import ConfigError
from devenv.images import golden as golden_states
from devenv.images.references import check_data, check_image
from devenv.model import LABEL_ENVIRONMENT, LABEL_SERVICE, SHARED, Catalogue, Desired, DesiredService
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
    states = make_for_pods(engine, desired, catalogue, note) if golden else []
    try:
        for reference in (*wanted, *states):
            note(f"pushing {registry}/{reference}")
            engine.push(reference, f"{registry}/{reference}", _ignored)
    finally:
        for reference in states:
            if reference not in there:
                engine.remove_image(reference)
    pushed = Pushed(*(tuple(f"{registry}/{reference}" for reference in some) for some in (wanted, states)))
    golden_states.try_again(pushed.golden)
    return pushed


def make_for_pods(engine: Engine, desired: Desired, catalogue: Catalogue, note: Callable[[str], None]) -> list[str]:
    """Make the images from which pods copy golden states, as far as the engine has these; return their names.

    Raise NotOurs if another image has one of devenv's names.
    """
    there = engine.images()
    states, names = golden_states.references(desired, catalogue, there), golden_states.for_pods(desired, catalogue)
    if not names.keys() <= {volume for volume, state in states.items() if state in there}:
        note("not every golden state is there yet: 'devenv up' makes those that are missing")
    made = []
    for service in desired.services.values():
        for volume in service.golden:
            if (state := states.get(volume)) in there and state:
                check_data(engine, state, service.name, SHARED)
                _make_for_pods(engine, service, volume, (there[service.image.reference], there[state]), names[volume])
                made.append(names[volume])
    golden_states.try_again(made)
    return made


def _make_for_pods(engine: Engine, service: DesiredService, volume: str, ids: tuple[str, str], name: str) -> None:
    """Build an image of a service and a golden state of it, by their ids."""
    image, state = ids
    data, user = f"{golden_states.folder_in(service.volumes[volume])}/{DATA_FOLDER}", service.user_id
    lines = [f"FROM {state} AS state", f"FROM {image}", f"COPY --from=state --chown={user}:{user} {data} {FIRST_DATA}/"]
    labels = {LABEL_ENVIRONMENT: SHARED, LABEL_SERVICE: service.name}
    engine.build(name, pack({"Dockerfile": "\n".join([*lines, ""]).encode()}), {}, labels, _ignored)


def _ignored(_: str) -> None:
    """Receive what the engine says of each layer or step, many times a second."""


def _check_registry(registry: str) -> None:
    if not registry:
        raise ConfigError(
            "cannot push images: no registry is named", f"name it: 'devenv images push {REGISTRY_RULE.split()[-1]}'"
        )
    if not REGISTRY.match(registry):
        raise ConfigError(f"cannot push images to {registry!r}: it is no registry", f"write it as {REGISTRY_RULE}")
