"""Keep golden states: the data of services right after their first start, as images named by what made them.

devenv fills a new volume from the golden state of the same content, if there is one. The service itself then sets what
is secret or differs between environments, before it answers. On a cluster, pods copy it from images that somebody has
pushed or loaded (push.py makes them).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, fields, replace
from pathlib import Path
from threading import Event
from typing import Any

from devenv.engine.protocol import Capability, Engine
from devenv.errors import DevenvError, NoEngine, NotOurs
from devenv.images.references import POD_REPOSITORY
from devenv.model import (
    LABEL_ENVIRONMENT,
    LABEL_SERVICE,
    SHARED,
    Catalogue,
    Desired,
    DesiredService,
    Observed,
    Plan,
    ServiceDefinition,
    Source,
)
from devenv.names import Names
from devenv.spec.components import digest
from devenv.spec.desired import providers
from devenv.store.files import make_private
from devenv.store.locks import held
from devenv.store.places import cache_folder

REPOSITORY = "devenv/golden"
CAUSE = "golden state"
# For so many seconds, devenv does not try again an image from which a pod could not start.
_REFUSED_SECONDS = 24 * 3600
# How much of the engine's disk all golden states may take, in bytes: about ten sets of four services.
LIMIT = 1_000_000_000
# Raise it when the same content makes other data, e.g. because a provisioner changed.
_FORMAT = 1
# Fields that say where a definition is, not what is in it.
_PLACES = ("folder", "wire")

Progress = Callable[[str], None]


# ---- which one ------------------------------------------------------------------------------------------------


def with_golden(desired: Desired, catalogue: Catalogue, observed: Observed, use: bool) -> Desired:
    """Return `desired` with existing golden states as sources, if `use`, and with `keep` for missing ones."""
    found = references(desired, catalogue, observed.images)
    sources = {}
    for service in desired.services.values():
        if use and service.golden and all(found.get(volume) in observed.images for volume in service.golden):
            sources.update({volume: Source(found[volume], CAUSE, golden=True) for volume in service.golden})
    return replace(desired, sources={**sources, **desired.sources}, keep=True)


def references(desired: Desired, catalogue: Catalogue, images: Mapping[str, str]) -> dict[str, str]:
    """Return the image that holds, or would hold, the golden state of each volume that has one.

    Its name has a hash of all that makes the content: the service and those that need it, each with its definition, the
    files of its folder and its image's id (`images` maps references to ids). This leaves out a service if one of these
    images is missing.
    """
    found = {}
    for name, service in desired.services.items():
        involved = [name, *sorted(other for other in desired.services if name in providers(other, desired))]
        ids = [images.get(desired.services[one].image.reference) for one in involved]
        if service.golden and None not in ids:
            content = digest([_FORMAT, ids, [content_of(catalogue[one]) for one in involved]])
            short = Names(desired.environment).short
            found.update({v: f"{REPOSITORY}:{name}-{short(name, v)}-{content}" for v in service.golden})
    return found


def for_pods(desired: Desired, catalogue: Catalogue) -> dict[str, str]:
    """Return the image from which a pod copies the golden state of each volume that has one.

    Its name is the same wherever devenv computes it: no cluster says the ids of images, so references stand for them.
    """
    images = [service.image.reference for service in desired.services.values() if not service.attached]
    found = references(desired, catalogue, dict(zip(images, images, strict=True)))
    return {volume: f"{POD_REPOSITORY}:{state.rpartition(':')[2]}" for volume, state in found.items()}


def with_pushed(desired: Desired, catalogue: Catalogue, engine: Engine, registry: str) -> Desired:
    """Return `desired` with golden states that pods can copy as sources.

    Nobody can ask a registry for its nodes, so devenv tries each state there, and remembers which of them no pod could
    start from (`throw_away`). Without a registry, it takes those that each node has.
    """
    wanted = for_pods(desired, catalogue)
    if registry:
        wanted = {volume: f"{registry}/{image}" for volume, image in wanted.items()}
    elif wanted:
        there = {tag for image in engine.devenv_images() for tag in image["RepoTags"]}
        wanted = {volume: image for volume, image in wanted.items() if image in there}
    usable = {volume: Source(image, CAUSE, golden=True) for volume, image in wanted.items() if not _refused(image)}
    whole = [service.golden for service in desired.services.values() if usable.keys() >= {*service.golden}]
    return replace(desired, sources={**{v: usable[v] for volumes in whole for v in volumes}, **desired.sources})


def content_of(definition: ServiceDefinition) -> dict[str, Any]:
    """Return all that defines a service, except where it is on this machine."""
    content = {field.name: getattr(definition, field.name) for field in fields(definition)}
    content["files"] = [(file.target, file.source.read_text()) for file in definition.files]
    return {key: repr(value) for key, value in content.items() if key not in _PLACES}


# ---- keep and throw away ---------------------------------------------------------------------------------------


def keep(
    engine: Engine,
    container: str,
    service: DesiredService,
    images: Mapping[str, str],
    progress: Progress,
    over: Event | None = None,
) -> None:
    """Keep the volumes of a running container as `images`, by volume. Raise Cancelled if `over` comes first.

    The container pauses meanwhile, so the images hold what a killed server would leave, at one instant.
    """
    with held(cache_folder() / f"golden-{service.name}.lock", progress, over):
        # Another environment with this content may have been first.
        if engine.images().keys() >= {*images.values()}:
            return
        engine.pause(container)
        try:
            for volume, image in images.items():
                labels = {LABEL_ENVIRONMENT: SHARED, LABEL_SERVICE: service.name}
                with closing(engine.read_folder(container, service.volumes[volume])) as stream:
                    engine.import_data(image, watched(stream, progress), labels)
        finally:
            engine.unpause(container)
    touch(images.values())
    collect(engine)


def watched(stream: Iterable[bytes], progress: Progress) -> Iterator[bytes]:
    """Yield the stream and report its size so far to `progress`, which may raise to end it."""
    size = 0
    for chunk in stream:
        size += len(chunk)
        progress(f"{size / 1e6:.0f} MB")
        yield chunk


def folder_in(target: str) -> str:
    """Return the folder of an image that holds the content of a container's folder `target`."""
    return f"/{target.rstrip('/').rpartition('/')[2]}"


def blamed(plan: Plan, desired: Desired, error: DevenvError) -> dict[str, str]:
    """Return the services whose golden state may be why the plan failed, each with its image.

    devenv filled them from it. The fill failed; or the service, or one that needs it, did not become ready; or another
    service did not get its part of it.
    """
    # On a full disk, no other state would fit either.
    if isinstance(error, NoEngine | NotOurs) or error.disk_full:
        return {}
    filled = {op.target: op.subject for op in plan.operations if op.golden}
    used = {name: filled[v] for name, s in desired.services.items() for v in s.volumes if v in filled}
    failed: set[str] = set()
    for operation in error.operations:
        if operation.action == "fill":
            failed.add(operation.service)
        elif operation.action == "ready":
            failed |= {operation.target, *providers(operation.target, desired)}
        elif operation.action == "provision" and any(operation.target in s.needs for s in desired.services.values()):
            failed.add(operation.service)
    return {name: image for name, image in used.items() if name in failed}


# ---- those that pods cannot start from ---------------------------------------------------------------------------


def throw_away(engine: Engine, image: str) -> None:
    """Do not use a golden state again from which a service did not start: remove it, or remember that for a day."""
    if Capability.FILL in engine.can:
        make_private(_refusal(image).parent)
        _refusal(image).touch(mode=0o600)
    else:
        engine.remove_image(image)


def try_again(images: Iterable[str]) -> None:
    """Forget that pods could not start from these images: they were made again."""
    for image in images:
        _refusal(image).unlink(missing_ok=True)


def _refused(image: str) -> bool:
    try:
        return time.time() - _refusal(image).stat().st_mtime < _REFUSED_SECONDS
    except OSError:
        return False


def _refusal(image: str) -> Path:
    return cache_folder() / "golden" / f"refused-{digest(image)}"


# ---- how much of the disk ----------------------------------------------------------------------------------------


def touch(images: Iterable[str]) -> None:
    """Remember that golden states were used just now. If that fails, `collect` only removes them sooner."""
    for image in images:
        try:
            marker = _marker(image)
            make_private(marker.parent)
            marker.touch(mode=0o600)
        except (OSError, DevenvError):
            continue


@dataclass(frozen=True)
class Golden:
    """A golden state on the engine: its size in bytes, and its last use in seconds since 1970."""

    image: str
    size: int
    used: float


def listed(engine: Engine) -> list[Golden]:
    """Return the golden states on the engine, the most recently used first."""
    found = []
    for image in engine.devenv_images():
        for tag in image.get("RepoTags") or ():
            if tag.startswith(f"{REPOSITORY}:"):
                found.append(Golden(tag, int(image["Size"]), _used(tag, float(image["Created"]))))
    return sorted(found, key=lambda golden: golden.used, reverse=True)


def collect(engine: Engine, limit: int = LIMIT) -> list[Golden]:
    """Remove the golden states unused for longest until the rest take at most `limit` bytes; return the removed."""
    removed, size = [], 0
    for golden in listed(engine):
        size += golden.size
        if size > limit and engine.remove_image(golden.image):
            _marker(golden.image).unlink(missing_ok=True)
            removed.append(golden)
    return removed


def _marker(image: str) -> Path:
    return cache_folder() / "golden" / image.rpartition(":")[2]


def _used(image: str, created: float) -> float:
    try:
        return _marker(image).stat().st_mtime
    except OSError:
        return created
