"""Networks and volumes: create them under the environment's labels, fill and remove them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import NamedTuple

from devenv.clock import now
from devenv.engine import containers
from devenv.engine.connection import Connection, asking, made_late, says_taken, unless_taken
from devenv.engine.http import Refused, unless_gone
from devenv.engine.ownership import Listed, filler, split
from devenv.engine.protocol import Labels
from devenv.errors import AddressPoolExhausted, NotOurs
from devenv.model import LABEL_ENVIRONMENT, LABEL_OWNER, LABEL_SERVICE

# Docker and Podman use these words if they have no addresses left for another network.
_NO_ADDRESSES = ("address pool", "free subnet")


def create_network(connection: Connection, name: str, labels: Labels) -> str:
    """Create a network and return its id. Raises NotOurs if another one has the name, and AddressPoolExhausted."""
    # Ask for no address range: explicit IPAM has been seen to take 15 s.
    wanted = {"Name": name, "Driver": "bridge", "CheckDuplicate": True, "Labels": dict(labels)}
    with asking(f"create network {name}"), unless_taken(name):
        try:
            return str(connection.client.ask("POST", "/networks/create", body=wanted)["Id"])
        except Refused as error:
            if any(words in str(error) for words in _NO_ADDRESSES):
                raise AddressPoolExhausted(
                    f"cannot create network {name}: {error}",
                    hint="'docker network prune' frees addresses of unused networks",
                ) from error
            if not says_taken(error) or not (late := made_late(connection, f"/networks/{name}", labels)):
                raise
            return late


def remove_network(connection: Connection, network: str) -> None:
    """Remove a network by id, unless it is gone."""
    with asking(f"remove network {network}"), unless_gone():
        try:
            connection.client.ask("DELETE", f"/networks/{network}")
        except Refused as error:
            # Podman also counts containers that never started.
            if error.status == 404 or not _remove_late(connection, f"/networks/{network}", {"network": network}).late:
                raise
            connection.client.ask("DELETE", f"/networks/{network}")


def ensure_volume(connection: Connection, name: str, labels: Labels, service: str) -> None:
    """Create a volume, or find the one of that name. Raises NotOurs if it carries other labels."""
    wanted = {"Name": name, "Labels": {**labels, LABEL_SERVICE: service}}
    with asking(f"create volume {name}"):
        volume = connection.client.ask("POST", "/volumes/create", body=wanted)
    if not labels.items() <= (volume.get("Labels") or {}).items():
        raise NotOurs(
            f"cannot use volume {name}: it exists and is not of this environment",
            hint=f"see what it is with 'docker volume inspect {name}'; remove it yourself",
        )


def fill_volume(connection: Connection, volume: str, image: str, folder: str, labels: Labels, service: str) -> None:
    """Create a volume that holds what the image has in `folder`.

    The engine copies it when devenv creates a container, which never runs. Raises NotOurs if the volume, or the
    container's name, belongs to another; ServiceFailed if the image does not exist.
    """
    ensure_volume(connection, volume, labels, service)
    wanted = containers.never_started(image, {**labels, LABEL_SERVICE: service}, [containers.mount(folder, volume)])
    with asking(f"fill volume {volume}"):
        container = containers.created(connection, filler(volume), labels, wanted, containers.COPY_TIMEOUT)
        try:
            if connection.client.podman:
                containers.copy_up(connection, container)
        finally:
            containers.discard(connection, container)


def remove_volume(connection: Connection, name: str) -> None:
    """Remove a volume and its data, unless it is gone. Raises ServiceFailed if a container uses it.

    Containers that the engine made late for a killed devenv do not count: they go first.
    """
    until = now() + containers.LATE_SECONDS
    with asking(f"remove volume {name}"), unless_gone():
        while True:
            try:
                connection.client.ask("DELETE", f"/volumes/{name}")
                return
            except Refused as error:
                if error.status != 409 or now() > until:
                    raise
                if _remove_late(connection, f"/volumes/{name}", {"volume": name}).others:
                    raise
            time.sleep(containers.LOOK_SECONDS)


class _Users(NamedTuple):
    """The containers that use a volume or network: made late for a killed devenv, and all others."""

    late: list[str]
    others: list[str]


def _remove_late(connection: Connection, path: str, using: Mapping[str, str]) -> _Users:
    """Remove what the engine made late among the containers that use the volume or network at `path`.

    Such a container has the labels of the volume or network, a name that devenv gives, and never started.
    """
    client = connection.client
    labels = client.ask("GET", path).get("Labels") or {}
    found = client.ask("GET", "/containers/json", {"all": True, "filters": using})
    unused = [{**one, "Labels": one["Labels"] or {}} for one in found if one["State"] == "created"]
    listed: Listed = {"container": unused, "network": [], "volume": []}
    ours, _ = split(labels.get(LABEL_ENVIRONMENT, ""), listed, labels.get(LABEL_OWNER, ""))
    late = [str(container["Id"]) for container in ours["container"]]
    for container in late:
        containers.discard(connection, container)
    return _Users(late, [str(container["Id"]) for container in found if container["Id"] not in late])
