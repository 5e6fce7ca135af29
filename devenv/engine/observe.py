"""Ask the engine about itself, about environments and about single containers."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from devenv.engine.connection import Connection, asking, own_container
from devenv.engine.http import decoded, unless_gone
from devenv.engine.images import images
from devenv.engine.ownership import Listed, carries, name_of, split, trusted
from devenv.engine.protocol import About, ContainerState
from devenv.errors import ConfigError, DevenvError
from devenv.model import (
    LABEL_CONFIG_HASH,
    LABEL_CONFIG_PARTS,
    LABEL_ENVIRONMENT,
    LABEL_PORTS,
    LABEL_SERVICE,
    Observed,
    ObservedContainer,
)

# Engine 29 keeps images in containerd's store, which may be on another file system than the engine's own folder.
_CONTAINERD = Path("/var/lib/containerd")
# Podman's name of a state -> Docker's, for a container that ended before anybody asked it to.
_STATES = {"stopped": "exited"}


# ---- the engine itself -------------------------------------------------------------------------------------------


def about(connection: Connection) -> About:
    """Ask the engine what it is and what it runs on: two requests."""
    with asking("ask the engine about itself"):
        before = datetime.now(UTC)
        info = dict(connection.client.ask("GET", "/info"))
        now = before + (datetime.now(UTC) - before) / 2
        version = dict(connection.client.ask("GET", "/version"))
    options = str(info.get("SecurityOptions"))
    rootless = "rootless" in options
    podman = "podman" in str(version.get("Components")).lower()
    # Engines differ: an odd answer counts as unknown.
    root, memory = info.get("DockerRootDir"), info.get("MemTotal")
    folders = [Path(root if root and isinstance(root, str) else "/var/lib/docker")]
    if "io.containerd.snapshotter" in str(info.get("DriverStatus")):
        folders.append(_CONTAINERD)
    # Docker Desktop and others answer from a virtual machine.
    here = (
        connection.url.startswith("unix:")
        and info.get("OperatingSystem") != "Docker Desktop"
        and info.get("KernelVersion") == platform.release()
    )
    return About(
        name="rootless " * rootless + ("Podman" if podman else "Docker Engine"),
        version=str(version.get("Version", "?")),
        api=str(version.get("ApiVersion", "0.0")),
        architecture=str(info.get("Architecture", "")),
        memory=memory if isinstance(memory, int) else 0,
        ahead=_ahead(info.get("SystemTime"), now),
        daemon=not rootless and not podman,
        here=here,
        # Rootless Docker has a network of its own, rootless Podman the user's. With user namespaces, Docker lends no
        # container its own.
        loopback=here and (podman or not (rootless or "userns" in options)),
        folders=tuple(folder for folder in folders if folder == folders[0] or folder.exists()),
    )


def _ahead(said: object, now: datetime) -> float | None:
    """Return how many seconds a clock is ahead, None if it says no time, or one without a zone."""
    try:
        return (datetime.fromisoformat(str(said)) - now).total_seconds()
    except (ValueError, TypeError):
        return None


def check_reach(connection: Connection) -> None:
    """Raise ConfigError in a container that is not on the network of the engine's host."""
    if not (own := own_container()):
        return
    try:
        network = str(inspect(connection, own)["HostConfig"]["NetworkMode"])
    except DevenvError:
        # The engine does not know the container: another engine, or a virtual machine, runs it.
        return
    if network not in ("", "host") and not network.startswith("container:"):
        raise ConfigError(
            f"cannot reach services from container {own}: they answer on 127.0.0.1 of its host",
            f"start the container with '--network host' instead of network {network!r}",
        )


# ---- environments ------------------------------------------------------------------------------------------------


def observe(connection: Connection, environment: str, owner: str) -> Observed:
    """Return everything that carries the environment's label, and every image: four requests."""
    listed = _listed(connection, _label(environment))
    return _observed(environment, listed, owner, images(connection))


def environments(connection: Connection, owners: Mapping[str, str]) -> dict[str, Observed]:
    """Return what every environment has, by its id, without images: three requests."""
    found: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    listed = _listed(connection, {"label": LABEL_ENVIRONMENT})
    for kind, objects in listed.items():
        for one in objects:
            found.setdefault(one["Labels"][LABEL_ENVIRONMENT], {kind: [] for kind in listed})[kind].append(one)
    return {one: _observed(one, its, owners.get(one, ""), {}) for one, its in found.items()}


def _listed(connection: Connection, filters: Mapping[str, str]) -> Listed:
    client = connection.client
    with asking("list containers, networks and volumes"):
        return {
            "container": client.ask("GET", "/containers/json", {"all": True, "filters": filters}),
            "network": client.ask("GET", "/networks", {"filters": filters}),
            "volume": _volumes(connection, filters),
        }


def _observed(environment: str, listed: Listed, owner: str, images: Mapping[str, str]) -> Observed:
    owner = owner or trusted(environment, listed)
    ours, strangers = split(environment, listed, owner)
    containers: dict[str, ObservedContainer] = {}
    extra = []
    ids = {network["Name"]: network["Id"] for network in ours["network"]}
    for container in sorted((_container(c, ids) for c in ours["container"]), key=lambda c: not c.running):
        if container.service in containers:
            extra.append(container)
        else:
            containers[container.service] = container
    return Observed(
        containers=containers,
        networks=tuple(network["Id"] for network in ours["network"]),
        # The volume of a container's files comes and goes with the container.
        volumes={v["Name"]: v["Labels"][LABEL_SERVICE] for v in ours["volume"] if LABEL_SERVICE in v["Labels"]},
        images=images,
        extra=tuple(extra),
        owner=owner,
        strangers=strangers,
    )


def _container(listed: Mapping[str, Any], networks: Mapping[str, str]) -> ObservedContainer:
    """Read one entry of the engine's container list. A label that devenv did not write counts as empty.

    `networks` maps names to ids: Podman before 5.4 says the name where Docker says the id.
    """
    labels = listed["Labels"]

    def decoded(label: str) -> dict[str, Any]:
        try:
            value = json.loads(labels.get(label, "{}"))
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}

    exited = re.match(r"Exited \((\d+)\)", listed.get("Status", ""))
    return ObservedContainer(
        id=listed["Id"],
        name=name_of(listed),
        service=labels.get(LABEL_SERVICE, ""),
        state=_STATES.get(listed["State"], listed["State"]),
        image=listed["Image"],
        config_hash=labels.get(LABEL_CONFIG_HASH, ""),
        parts=decoded(LABEL_CONFIG_PARTS),
        ports={int(inside): host for inside, host in decoded(LABEL_PORTS).items() if _is_port(inside, host)},
        exit_code=int(exited[1]) if exited else None,
        networks=tuple(
            networks.get(n["NetworkID"], n["NetworkID"])
            # Podman 5.8 says null for a container that somebody took off its network.
            for n in (listed["NetworkSettings"]["Networks"] or {}).values()
            if n["NetworkID"]
        ),
    )


def _is_port(inside: str, host: object) -> bool:
    return inside.isascii() and inside.isdigit() and isinstance(host, int)


def leftover_volumes(connection: Connection, environment: str, owner: str) -> tuple[str, ...]:
    """Return the environment's volumes of files that no container uses: somebody removed their containers."""
    with asking("list volumes"):
        found = _volumes(connection, {**_label(environment), "dangling": "true"})
    return tuple(v["Name"] for v in found if LABEL_SERVICE not in v["Labels"] and carries(v, owner))


def with_networks(connection: Connection) -> set[str]:
    """Return the ids of all environments that have a network."""
    with asking("list networks"):
        found = connection.client.ask("GET", "/networks", {"filters": {"label": LABEL_ENVIRONMENT}})
    return {network["Labels"][LABEL_ENVIRONMENT] for network in found}


def belongings(connection: Connection, environment: str) -> dict[str, Any]:
    """Return the engine's version, and the environment's networks and volumes, as the engine lists them."""
    filters, client = _label(environment), connection.client
    with asking("list networks and volumes"):
        return {
            "version": client.ask("GET", "/version"),
            "networks": client.ask("GET", "/networks", {"filters": filters}),
            "volumes": _volumes(connection, filters),
        }


def events(connection: Connection, environment: str) -> list[dict[str, Any]]:
    """Return what happened to the environment's containers, as far back as the engine remembers."""
    with asking("ask for the engine's events"):
        query: dict[str, object] = {"since": 1, "filters": _label(environment), **_until_now(connection)}
        told = b"".join(connection.client.stream("GET", "/events", query))
        return [decoded(line) for line in told.splitlines() if line.strip()]


def _until_now(connection: Connection) -> dict[str, object]:
    """Return the query that ends the list of events with those that happened by now."""
    if connection.client.podman:
        # Podman would cut an end down to full seconds, but can stop after the events that it has.
        return {"stream": False}
    # By the engine's own clock: if the end were in its future, the engine would go on until then.
    now = datetime.fromisoformat(connection.client.ask("GET", "/info")["SystemTime"]).timestamp()
    return {"until": f"{now:.6f}"}


# ---- single containers -------------------------------------------------------------------------------------------


def inspect(connection: Connection, container: str) -> dict[str, Any]:
    """Return all that the engine knows of a container."""
    with asking(f"inspect container {container}"):
        return dict(connection.client.ask("GET", f"/containers/{container}/json"))


def state(connection: Connection, container: str) -> ContainerState:
    """Return how a container is doing."""
    found = inspect(connection, container)["State"]
    status = _STATES.get(found["Status"], found["Status"])
    return ContainerState(status, int(found.get("ExitCode") or 0), bool(found.get("OOMKilled")))


def memory(connection: Connection, container: str) -> int | None:
    """Return how many bytes of memory a running container uses, without what the kernel can drop from its cache."""
    with asking(f"ask for the memory of container {container}"), unless_gone():
        stats = connection.client.ask("GET", f"/containers/{container}/stats", {"stream": False, "one-shot": True})
        # Without an answer, or without figures, it has just ended.
        found = (stats or {}).get("memory_stats") or {}
        more = found.get("stats") or {}
        # The kernel's two versions of control groups name it differently.
        cache = more.get("total_inactive_file", more.get("inactive_file", 0))
        return max(0, found["usage"] - cache) if found.get("usage") else None
    return None


def volume_sizes(connection: Connection) -> dict[str, int]:
    """Return the size of every volume in bytes. The engine walks through all of them for that."""
    with asking("measure volumes"):
        told = connection.client.ask("GET", "/system/df", {"type": "volume", "verbose": True})
    # From version 1.52 of the API on, only a verbose answer has volumes, and has them elsewhere.
    volumes = told.get("Volumes") or (told.get("VolumeUsage") or {}).get("Items") or ()
    sizes = {volume["Name"]: (volume.get("UsageData") or {}).get("Size", -1) for volume in volumes}
    return {name: size for name, size in sizes.items() if size >= 0}


def publisher(connection: Connection, port: int) -> str:
    """Return the running container that publishes the host port, in words; empty without one."""
    with asking("list containers"):
        for listed in connection.client.ask("GET", "/containers/json"):
            if any(published.get("PublicPort") == port for published in listed["Ports"]):
                return f"container {name_of(listed)}"
    return ""


def _volumes(connection: Connection, filters: Mapping[str, str]) -> list[dict[str, Any]]:
    return list(connection.client.ask("GET", "/volumes", {"filters": filters})["Volumes"] or [])


def _label(environment: str) -> dict[str, str]:
    return {"label": f"{LABEL_ENVIRONMENT}={environment}"}
