"""Containers: create them for services, start, stop and remove them, and copy their files in and out."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import suppress
from typing import IO, Any

from devenv.clock import now
from devenv.engine.connection import Connection, asking, made_late, says_taken, unless_taken
from devenv.engine.http import TIMEOUT, Refused, unless_gone
from devenv.engine.protocol import CONFIG_FOLDER, DATA_FOLDER, Labels
from devenv.engine.tar import Torn, in_folder, pack, read_ahead
from devenv.errors import LimitRefused, PortTaken, ServiceFailed
from devenv.model import (
    LABEL_CONFIG_HASH,
    LABEL_CONFIG_PARTS,
    LABEL_PORTS,
    LABEL_SERVICE,
    DesiredService,
)
from devenv.ports import HOST

# Seconds. The engine says nothing while it copies, and the data may be gigabytes.
COPY_TIMEOUT = 1800.0
# For how many seconds devenv waits for the engine to finish a container that a killed devenv asked for, and how often
# it looks. Copying a folder into a volume takes that long, and until then Docker 20.10 lists the container but cannot
# find it, and Docker 28 does not list it.
LATE_SECONDS, LOOK_SECONDS = TIMEOUT, 0.1
# The limits that an engine may have no right to set, in words, and how it says so. A rootless engine's user may have no
# control groups with these files.
OPEN_FILES, MEMORY = "open files", "memory and processes"
_REFUSED = {OPEN_FILES: re.compile("rlimit"), MEMORY: re.compile(r"\b(memory|pids)\.\w+\b.*: no such file", re.I)}
_OCI_RUNTIME = re.compile(r"\bOCI (runtime|permission)\b")
_PORT_TAKEN = ("port is already allocated", "address already in use")
# The user of a container that devenv never starts, in case somebody else does.
_NOBODY = "65534:65534"
_CONFINED = {
    "ReadonlyRootfs": True,
    "CapDrop": ["ALL"],
    "SecurityOpt": ["no-new-privileges:true"],
    "PidsLimit": 1,
    "Memory": 16 << 20,
}


# ---- create ------------------------------------------------------------------------------------------------------


def create(
    connection: Connection, service: DesiredService, labels: Labels, network: str, without: Collection[str] = ()
) -> str:
    """Create the service's container with its files in place and its volumes mounted, and return its id.

    `network` is an id: names of networks are not unique. The engine chooses the limits that are named in `without`:
    OPEN_FILES, MEMORY. Raises NotOurs if another container has the name.
    """
    with asking(f"create container {service.container}"):
        container = created(connection, service.container, labels, _wanted(service, labels, network, without))
    with asking(f"copy files into container {service.container}"):
        if service.files:
            # Readable by all: the server's user differs between images, and is alone in there.
            files = {target.removeprefix(f"{CONFIG_FOLDER}/"): data for target, data in service.files.items()}
            _copy(connection, container, CONFIG_FOLDER, pack(files))
        for target in service.volumes.values():
            # Copying what the image or the volume already has would take as long as all the rest.
            if not has(connection, container, f"{target}/{DATA_FOLDER}"):
                _copy(connection, container, target, pack({}, folders=[DATA_FOLDER]))
    return container


def created(
    connection: Connection, name: str, labels: Labels, wanted: Mapping[str, Any], timeout: float = TIMEOUT
) -> str:
    """Create a container, in place of one that a killed devenv asked for. Return its id.

    Raises NotOurs if another one has the name.
    """
    until = now() + LATE_SECONDS
    with unless_taken(name):
        while True:
            try:
                return str(connection.client.ask("POST", "/containers/create", {"name": name}, wanted, timeout)["Id"])
            except Refused as error:
                late = made_late(connection, f"/containers/{name}/json", labels) if says_taken(error) else ""
                if late == "" or now() > until:
                    raise
            if late:
                discard(connection, late)
            else:
                time.sleep(LOOK_SECONDS)


def never_started(image: str, labels: Mapping[str, str], mounts: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """Return the settings of a container that only gives or takes files."""
    host = {"Mounts": mounts, "NetworkMode": "none", **_CONFINED}
    # The engine creates no container without a command.
    return {"Image": image, "Cmd": ["none"], "User": _NOBODY, "Labels": labels, "HostConfig": host}


def _wanted(service: DesiredService, labels: Labels, network: str, without: Collection[str]) -> dict[str, Any]:
    """Return the settings of a service's container, except the limits in `without`."""
    options = service.options
    container = {
        "Image": service.image.reference,
        "Hostname": options.hostname,
        "User": options.user,
        "WorkingDir": options.working_dir,
        "Entrypoint": options.entrypoint,
        "Cmd": options.command,
        "Env": [f"{name}={value}" for name, value in options.environment],
        "ExposedPorts": {f"{inside}/tcp": {} for inside in service.ports},
        "Labels": {
            **labels,
            LABEL_SERVICE: service.name,
            LABEL_CONFIG_HASH: service.config_hash,
            LABEL_CONFIG_PARTS: json.dumps(dict(service.parts), sort_keys=True),
            LABEL_PORTS: json.dumps({str(inside): host for inside, host in service.ports.items()}),
        },
        "StopSignal": options.stop_signal,
        "HostConfig": only_set({"NetworkMode": network, **_host_settings(service, labels, without)}),
        "NetworkingConfig": {"EndpointsConfig": {network: {"Aliases": [service.name]}}},
        # The official images ask for health checks that nothing here reads.
        "Healthcheck": {"Test": ["NONE"]},
    }
    return only_set(container)


def _host_settings(service: DesiredService, labels: Labels, without: Collection[str]) -> dict[str, Any]:
    """Return what a container gets of its host: ports, volumes, rights and limits."""
    options = service.options
    mounts = [mount(target, volume) for volume, target in service.volumes.items()]
    if service.files:
        mounts.append({**mount(CONFIG_FOLDER), "VolumeOptions": {"Labels": dict(labels)}})
    nofile = {"Name": "nofile", "Soft": options.nofile, "Hard": options.nofile}
    return {
        "PortBindings": {
            f"{inside}/tcp": [{"HostIp": HOST, "HostPort": str(outside)}] for inside, outside in service.ports.items()
        },
        "Mounts": mounts,
        "Tmpfs": dict.fromkeys(options.tmpfs, "mode=1777"),
        "ReadonlyRootfs": options.read_only,
        "Init": options.init,
        "CapDrop": options.cap_drop,
        "SecurityOpt": options.security_opt,
        "Ulimits": [nofile] if options.nofile and OPEN_FILES not in without else [],
        "PidsLimit": 0 if MEMORY in without else options.pids_limit,
        "Memory": 0 if MEMORY in without else options.mem_limit,
        "ShmSize": options.shm_size,
        # The log of a service that runs for weeks must not fill the disk.
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "2"}},
    }


def only_set(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that have a value; the engine or the image decides the others."""
    return {key: value for key, value in settings.items() if value}


def mount(target: str, volume: str = "") -> dict[str, Any]:
    """Return a volume's place in a container; without `volume`, the container gets one of its own."""
    return only_set({"Type": "volume", "Source": volume, "Target": target})


# ---- start, stop, remove -----------------------------------------------------------------------------------------


def start(connection: Connection, container: str, name: str) -> None:
    """Start a container, or let a paused one go on. Raises PortTaken, and LimitRefused for one of its limits."""
    with asking(f"start {name}", f"'devenv logs {name}' may show more; 'devenv up' tries again"):
        try:
            connection.client.ask("POST", f"/containers/{container}/start")
        except Refused as error:
            if limit := next((limit for limit, words in _REFUSED.items() if words.search(str(error))), ""):
                raise LimitRefused(
                    f"cannot start {name}: the engine may not set limits on {limit}", "'devenv doctor' says more", limit
                ) from error
            if any(words in str(error) for words in _PORT_TAKEN):
                raise PortTaken(
                    f"cannot publish a port of {name}: {error}",
                    hint="end what has the port, or pin another one under 'services' in devenv.yaml",
                ) from error
            if not _is_paused(connection, container, error):
                raise
            connection.client.ask("POST", f"/containers/{container}/unpause")


def copy_up(connection: Connection, container: str) -> None:
    """Start a container so that Podman copies into its volumes.

    The start then fails, as the container has no program. Raises Refused if it fails before: the volumes are empty.
    """
    try:
        connection.client.ask("POST", f"/containers/{container}/start", timeout=COPY_TIMEOUT)
    except Refused as error:
        # Podman reports its OCI runtime in these words, and asks it only when all is mounted.
        if not _OCI_RUNTIME.search(str(error)):
            raise


def pause(connection: Connection, container: str) -> None:
    """Freeze all processes of a container, so that its data do not change."""
    with asking(f"pause container {container}"):
        connection.client.ask("POST", f"/containers/{container}/pause")


def unpause(connection: Connection, container: str) -> None:
    """Let a paused container go on, unless it is gone."""
    with asking(f"let container {container} go on"), unless_gone():
        connection.client.ask("POST", f"/containers/{container}/unpause")


def stop(connection: Connection, container: str, seconds: int) -> None:
    """Ask a container to end by itself; after `seconds` the engine kills it."""
    with asking(f"stop container {container}"), unless_gone():
        try:
            _stop(connection, container, seconds)
        except Refused as error:
            # Docker itself lets a paused one go on.
            if not _is_paused(connection, container, error):
                raise
            unpause(connection, container)
            _stop(connection, container, seconds)


def _stop(connection: Connection, container: str, seconds: int) -> None:
    connection.client.ask("POST", f"/containers/{container}/stop", {"t": seconds}, timeout=TIMEOUT + seconds)


def _is_paused(connection: Connection, container: str, error: Refused) -> bool:
    """Return whether the engine refused because the container is paused. Docker says so, Podman does not."""
    if "paused container" in str(error) or error.status == 404 or not connection.client.podman:
        return "paused container" in str(error)
    return bool(connection.client.ask("GET", f"/containers/{container}/json")["State"]["Status"] == "paused")


def remove(connection: Connection, container: str) -> None:
    """Remove a container, running or not, with its anonymous volumes. Its named volumes stay."""
    if connection.client.podman:
        with asking(f"kill container {container}"):
            _kill(connection, container)
    discard(connection, container)


def discard(connection: Connection, container: str) -> None:
    """Remove a container that does not run, as `remove` does."""
    with asking(f"remove container {container}"), unless_gone():
        try:
            connection.client.ask("DELETE", f"/containers/{container}", {"v": True, "force": True})
        except Refused as error:
            # The container keeps its name and its ports until the removal that another program began is over.
            if "is already in progress" not in str(error):
                raise
            gone = connection.client.ask("POST", f"/containers/{container}/wait", {"condition": "removed"})
            if why := (gone.get("Error") or {}).get("Message"):
                raise Refused(error.status, why) from error


def _kill(connection: Connection, container: str) -> None:
    """Kill a container that runs, as Docker does before a removal. Podman would let it end by itself first.

    MySQL takes three seconds for that.
    """
    # Whatever the reason: mostly, it does not run. The removal says more.
    with suppress(Refused):
        connection.client.ask("POST", f"/containers/{container}/kill", {"signal": "KILL"})


# ---- files -------------------------------------------------------------------------------------------------------


def _copy(connection: Connection, container: str, folder: str, archive: IO[bytes]) -> None:
    connection.client.ask("PUT", f"/containers/{container}/archive", {"path": folder}, archive.read())


def has(connection: Connection, container: str, path: str) -> bool:
    """Return whether a container, running or not, has a file or folder."""
    with asking(f"look for {path} in container {container}"):
        try:
            connection.client.ask("HEAD", f"/containers/{container}/archive", {"path": path})
        except Refused:
            return False  # whatever the reason: copying then fails with it, or works
    return True


def read_folder(connection: Connection, container: str, folder: str) -> Generator[bytes, None, None]:
    """Yield a folder of a container, running or not, as a tar stream whose entries begin with the folder's last name.

    Close the generator: until then the engine locks the container.
    """
    with asking(f"read {folder} of container {container}"):
        stream = connection.client.stream("GET", f"/containers/{container}/archive", {"path": folder})
        if connection.client.podman:
            # Podman leaves out the name of a volume's folder unless the container runs.
            stream = in_folder(folder.rpartition("/")[2], stream)
        try:
            yield from read_ahead(stream)
        except Torn as error:
            raise ServiceFailed(f"cannot read {folder} of container {container}: {error}", "try again") from error
