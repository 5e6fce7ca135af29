"""Save the data of all services of an environment at one instant, and restore them together.

    <state folder>/environments/<id>/snapshots/<name>.json    what it holds and what made it, 0600
    devenv/snapshot:<id>-<random>-<service>-<volume>          an image on the engine for each volume

A save puts its images on record first and writes the file last. Images on record that no file names are unfinished.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from devenv import __version__
from devenv.engine.protocol import Engine
from devenv.errors import ConfigError
from devenv.model import Desired, Image, Observed, ObservedContainer, Operation, Plan, Source
from devenv.names import Names, Pair, check_name, hint_for
from devenv.store.files import make_private, write_files
from devenv.store.state import State

REPOSITORY = "devenv/snapshot"
# Raise it when the file's format changes so that an older devenv, or this one, would misread it.
_FORMAT = 1


@dataclass(frozen=True)
class SavedService:
    """The image that a service ran, by reference and id, and the images that hold its volumes, by volume."""

    image: str
    image_id: str
    volumes: Mapping[str, str]


@dataclass(frozen=True)
class Snapshot:
    """One snapshot of one environment.

    `saved` is the time in seconds since 1970; `size` is in bytes. `provisioned` and `secrets` are the environment's at
    that time: nobody could use the data without them.
    """

    name: str
    environment: str
    saved: float
    devenv: str
    size: int
    services: Mapping[str, SavedService]
    provisioned: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    format: int = _FORMAT

    @property
    def images(self) -> list[str]:
        return [image for service in self.services.values() for image in service.volumes.values()]

    @property
    def own_secrets(self) -> dict[str, str]:
        """Return the secrets of its services. Other services keep their data, and with it their passwords."""
        whose = {name: Pair.parse(name).service.partition(".")[0] for name in self.secrets}
        return {name: secret for name, secret in self.secrets.items() if whose[name] in self.services}


# ---- what there is --------------------------------------------------------------------------------------------


def load(state: State, name: str) -> Snapshot:
    """Return the snapshot of that name. Raise ConfigError if it does not exist or devenv cannot read it."""
    path = _path(state, check_name(name, "a snapshot"))
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        found = hint_for(name, [one.name for one in load_all(state)], "snapshots of this environment")
        hint = f"{found}; 'devenv snapshot save NAME' creates one"
        raise ConfigError(f"cannot find snapshot {name!r} of {state.id}", hint) from None
    except (OSError, ValueError) as error:
        raise _unreadable(path, str(error)) from error
    if not isinstance(data, dict) or data.get("format") != _FORMAT:
        raise _unreadable(path, "another version of devenv wrote it")
    try:
        services = {key: SavedService(**value) for key, value in data.pop("services").items()}
        return Snapshot(services=services, **data)
    except (TypeError, AttributeError, KeyError) as error:
        raise _unreadable(path, "something else wrote to it") from error


def load_all(state: State) -> list[Snapshot]:
    """Return every snapshot of the environment that devenv can read, the newest first."""
    found = []
    for path in state.snapshots.glob("*.json"):
        try:
            found.append(load(state, path.stem))
        except ConfigError:
            continue
    return sorted(found, key=lambda snapshot: snapshot.saved, reverse=True)


def check_free(state: State, name: str) -> None:
    """Raise ConfigError if a snapshot has that name, even one that devenv cannot read."""
    if (path := _path(state, name)).exists():
        raise ConfigError(
            f"cannot save snapshot {name!r}: there is one of that name",
            f"'devenv snapshot rm {name}' first; if that cannot read it, remove {path}",
        )


# ---- save ------------------------------------------------------------------------------------------------------


def plan_save(desired: Desired, observed: Observed) -> tuple[Plan, dict[str, SavedService]]:
    """Plan to save every volume of the services; return the plan and where each volume will be.

    Raise ConfigError if a service has no container that was ever started.
    """
    token, operations, services = secrets.token_hex(4), [], {}
    for name, service in desired.services.items():
        container = observed.containers.get(name)
        if container is None or container.state == "created":
            raise ConfigError(f"cannot save {name}: it was not started", hint="'devenv up' starts it")
        saved = {}
        for volume in service.volumes:
            short = Names(desired.environment).short(name, volume)
            saved[short] = f"{REPOSITORY}:{desired.environment}-{token}-{name}-{short}"
            operations.append(Operation("save", volume, subject=saved[short], service=name))
        reference = service.image.reference
        services[name] = SavedService(reference, observed.images.get(reference, ""), saved)
    return Plan(tuple(operations)), services


def plan_settle(desired: Desired, observed: Observed) -> Plan:
    """Plan that services write delayed data to disk before they pause."""
    late = [name for name, service in desired.services.items() if service.provisioner.get("settle") == "true"]
    return Plan(tuple(Operation("settle", name) for name in late if observed.containers[name].running))


@contextmanager
def standing_still(engine: Engine, containers: Sequence[ObservedContainer]) -> Iterator[None]:
    """Pause those of the containers that run, at the same time. They go on afterwards, whatever happens."""
    running = [container.id for container in containers if container.running]
    with ThreadPoolExecutor(max(1, len(running))) as pool:
        try:
            list(pool.map(engine.pause, running))
            yield
        finally:
            for failed in [f for f in [pool.submit(_go_on, engine, one) for one in running] if f.exception()]:
                failed.result()


def _go_on(engine: Engine, container: str) -> None:
    if engine.state(container).status == "paused":
        engine.unpause(container)


def write(state: State, name: str, services: Mapping[str, SavedService], engine: Engine) -> Snapshot:
    """Write the file of a snapshot whose volumes are saved."""
    snapshot = Snapshot(
        name=name,
        environment=state.id,
        saved=time.time(),
        devenv=__version__,
        size=_size(engine, services),
        services=services,
        provisioned=state.load().provisioned,
        secrets=state.secrets(()),
    )
    path = _path(state, name)
    make_private(path.parent)
    write_files({path: (json.dumps(asdict(snapshot), indent=2) + "\n").encode()})
    return snapshot


def _size(engine: Engine, services: Mapping[str, SavedService]) -> int:
    sizes = engine.image_sizes()
    return sum(sizes.get(image, 0) for service in services.values() for image in service.volumes.values())


# ---- restore ------------------------------------------------------------------------------------------------------


def check(snapshot: Snapshot, images: Mapping[str, Image], there: Mapping[str, str], profile: Collection[str]) -> None:
    """Raise ConfigError, with the reason, if the services as they are now cannot use the snapshot's data.

    `images` are those that the services run; `there` maps all that the engine has to ids; `profile` names services.
    """
    cannot = f"cannot restore snapshot {snapshot.name!r}"
    for name, saved in snapshot.services.items():
        if name not in profile:
            raise ConfigError(f"{cannot}: it holds {name}, which the profile does not have", "add it to devenv.yaml")
        now = images[name]
        if now.reference != saved.image:
            raise ConfigError(
                f"{cannot}: {name} was {saved.image} then and is {now.reference} now",
                hint="data of one version need not work with another: go back to that version, or save a new one",
            )
        if now.how == "pull" and there.get(now.reference, saved.image_id) != saved.image_id:
            raise ConfigError(
                f"{cannot}: another image has the name {now.reference} now",
                hint=f"the data was made by {saved.image_id[:19]}: give that one the name, or save a new snapshot",
            )
        if lost := [image for image in saved.volumes.values() if image not in there]:
            raise ConfigError(
                f"{cannot}: the data of {name} is not on this engine any more ({lost[0]})",
                hint=f"'devenv snapshot rm {snapshot.name}' forgets it",
            )


def sources(snapshot: Snapshot, services: Collection[str]) -> dict[str, Source]:
    """Return the sources of these services' volumes, by volume."""
    return {
        Names(snapshot.environment).volume(name, volume): Source(image, f"snapshot {snapshot.name}")
        for name, saved in snapshot.services.items()
        for volume, image in saved.volumes.items()
        if name in services
    }


# ---- remove -------------------------------------------------------------------------------------------------------


def remove(state: State, engine: Engine, snapshot: Snapshot) -> None:
    """Forget a snapshot and remove its data. The file goes first, so no file names data that is gone.

    Images that the engine does not remove stay on record, like those of an interrupted save.
    """
    others = [image for image in state.load().saving if image not in snapshot.images]
    state.amend(saving=[*others, *snapshot.images])
    _path(state, snapshot.name).unlink(missing_ok=True)
    state.amend(saving=[*others, *(image for image in snapshot.images if not engine.remove_image(image))])


def leftovers(state: State, there: Collection[str]) -> list[str]:
    """Return the images of an interrupted save: those on record that no snapshot names.

    Return none if devenv cannot read a snapshot: nobody can tell which images are its own.
    """
    if not (saving := state.load().saving):
        return []
    snapshots = load_all(state)
    if len(snapshots) < len([*state.snapshots.glob("*.json")]):
        return []
    named = {image for snapshot in snapshots for image in snapshot.images}
    return [image for image in saving if image in there and image not in named]


def remove_leftovers(state: State, engine: Engine, there: Collection[str]) -> None:
    """Remove the images that an interrupted save left, if they are `there`."""
    if left := leftovers(state, there):
        state.amend(saving=[image for image in left if not engine.remove_image(image)])


def _path(state: State, name: str) -> Path:
    return state.snapshots / f"{name}.json"


def _unreadable(path: Path, why: str) -> ConfigError:
    return ConfigError(f"cannot read {path}: {why}", hint="remove the file if you do not need the snapshot")
