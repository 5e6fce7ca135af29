"""Networks and volumes: create them under the environment's labels, fill and remove them."""

from __future__ import annotations

from devenv.engine import containers
from devenv.engine.connection import Connection, asking, made_late, says_taken, unless_gone, unless_taken
from devenv.engine.http import Refused
from devenv.engine.ownership import filler
from devenv.engine.protocol import Labels
from devenv.errors import AddressPoolExhausted, NotOurs
from devenv.model import LABEL_SERVICE

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
            containers.remove(connection, container)


def remove_volume(connection: Connection, name: str) -> None:
    """Remove a volume and its data, unless it is gone."""
    with asking(f"remove volume {name}"), unless_gone():
        connection.client.ask("DELETE", f"/volumes/{name}")
