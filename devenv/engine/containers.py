"""The container engine: all that devenv asks of it.

Every method is one thing asked of the engine, by id or by a name that holds the environment's id. Failures
come out as errors of devenv: NoEngine where nothing answers, ServiceFailed where the engine says no.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, Literal

from devenv.engine.connection import Connection, asking, open_connection, unless_gone, unless_taken
from devenv.engine.http import TIMEOUT, Refused
from devenv.engine.images import Images
from devenv.engine.looks import Looks, never_started
from devenv.engine.ownership import filler, name_of, split, trusted
from devenv.engine.tar import pack
from devenv.errors import AddressPoolExhausted, LimitRefused, NotOurs, PortTaken
from devenv.model import (
    LABEL_CONFIG_HASH,
    LABEL_CONFIG_PARTS,
    LABEL_ENVIRONMENT,
    LABEL_PORTS,
    LABEL_SERVICE,
    DesiredService,
    Observed,
    ObservedContainer,
)
from devenv.ports import HOST

# Where a service's files go: a volume of its own, since a read-only root file system takes no copies.
CONFIG_FOLDER = "/etc/devenv"
# In each data volume, the one folder that any user may write to: the user's id differs between images.
DATA_FOLDER = "data"
# How Docker and Podman begin to say that they have no addresses left for another network.
_NO_ADDRESSES = ("address pool", "free subnet")
_OCI_RUNTIME = re.compile(r"\bOCI (runtime|permission)\b")
# The engine says nothing while it copies what may be gigabytes, in seconds.
_COPY_TIMEOUT = 1800.0
# How many of the last lines of a log.
Tail = int | Literal["all"]
# Of the environment that something is made for: its own, and its token.
Labels = Mapping[str, str]


def connect() -> Engine:
    """The engine, connected to. Raises NoEngine, naming the endpoint, when nothing answers there."""
    return Engine(open_connection())


class Engine(Images, Looks):
    """One container engine. Thread-safe."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.url = connection.url
        self._no_ulimit = threading.Event()

    # ---- what it is, what it has ------------------------------------------------------------------------

    @property
    def local(self) -> bool:
        """Whether the engine publishes its ports on this very host."""
        return self.url.startswith(("unix:", "http+docker:", "npipe:", "tcp://127.", "tcp://localhost"))

    def observe(self, environment: str, owner: str) -> Observed:
        """Everything that carries the environment's label, and every image there is: four calls.

        What is not ours by the token `owner` is a stranger; without one, a token is taken over (see ownership.py).
        """
        label = {"label": f"{LABEL_ENVIRONMENT}={environment}"}
        with asking("list containers, networks and volumes"):
            listed = {
                "container": self._client.ask("GET", "/containers/json", {"all": True, "filters": label}),
                "network": self._client.ask("GET", "/networks", {"filters": label}),
                "volume": self._volumes(label),
            }
        owner = owner or trusted(environment, listed)
        ours, strangers = split(environment, listed, owner)
        containers: dict[str, ObservedContainer] = {}
        extra = []
        ids = {network["Name"]: network["Id"] for network in ours["network"]}
        for container in sorted((_observed(c, ids) for c in ours["container"]), key=lambda c: not c.running):
            if container.service in containers:
                extra.append(container)
            else:
                containers[container.service] = container
        return Observed(
            containers=containers,
            networks=tuple(network["Id"] for network in ours["network"]),
            # The folder of files that a container has of its own comes and goes with it.
            volumes={v["Name"]: v["Labels"][LABEL_SERVICE] for v in ours["volume"] if LABEL_SERVICE in v["Labels"]},
            images=self.images(),
            extra=tuple(extra),
            owner=owner,
            strangers=strangers,
        )

    # ---- networks and volumes ----------------------------------------------------------------------------

    def create_network(self, name: str, labels: Labels) -> str:
        """Create a network; returns its id. Raises NotOurs if another one has the name, AddressPoolExhausted."""
        with asking(f"create network {name}"), unless_taken(name):
            # No address range of our own: explicit IPAM has been seen to take 15 s.
            wanted = {"Name": name, "Driver": "bridge", "CheckDuplicate": True, "Labels": dict(labels)}
            try:
                return str(self._client.ask("POST", "/networks/create", body=wanted)["Id"])
            except Refused as error:
                if any(words in str(error) for words in _NO_ADDRESSES):
                    raise AddressPoolExhausted(
                        f"cannot create network {name}: {error}",
                        hint="'docker network prune' frees addresses of unused networks",
                    ) from error
                # The engine goes on with what a killed devenv asked for.
                if error.status != 409 or not (late := self.carrying(f"/networks/{name}", labels)):
                    raise
                return late

    def remove_network(self, network: str) -> None:
        with asking(f"remove network {network}"), unless_gone():
            self._client.ask("DELETE", f"/networks/{network}")

    def ensure_volume(self, name: str, labels: Labels, service: str) -> None:
        """Create a volume, or find the one of that name. Raises NotOurs if it carries other labels."""
        wanted = {"Name": name, "Labels": {**labels, LABEL_SERVICE: service}}
        with asking(f"create volume {name}"):
            volume = self._client.ask("POST", "/volumes/create", body=wanted)
        if not labels.items() <= (volume.get("Labels") or {}).items():
            raise NotOurs(
                f"cannot use volume {name}: it exists and does not carry the labels of this environment",
                hint=f"look at 'docker volume inspect {name}'; rename or remove it yourself",
            )

    def fill_volume(self, volume: str, image: str, folder: str, labels: Labels, service: str) -> None:
        """Create a volume that holds what the image has in `folder`.

        The engine itself copies that when a container is created, which never runs. Raises NotOurs if the volume, or
        the container's name, is another's; ServiceFailed if the image is not there.
        """
        self.ensure_volume(volume, labels, service)
        wanted = never_started(image, {**labels, LABEL_SERVICE: service}, [_mount(folder, volume)])
        with asking(f"fill volume {volume}"):
            container = self._created(filler(volume), labels, wanted, _COPY_TIMEOUT)
            try:
                if self._client.podman:
                    self._copy_up(container)
            finally:
                self.remove(container)

    def _copy_up(self, container: str) -> None:
        """Have Podman copy into the volumes of a container, which it does at a start: that fails, as it has no program.

        Raises Refused if it fails before: the volumes would stay empty.
        """
        try:
            self._client.ask("POST", f"/containers/{container}/start", timeout=_COPY_TIMEOUT)
        except Refused as error:
            # How it begins to speak of its OCI runtime, which is asked once all is mounted.
            if not _OCI_RUNTIME.search(str(error)):
                raise

    def remove_volume(self, name: str) -> None:
        with asking(f"remove volume {name}"), unless_gone():
            self._client.ask("DELETE", f"/volumes/{name}")

    # ---- containers ---------------------------------------------------------------------------------------

    def create(self, service: DesiredService, labels: Labels, network: str) -> str:
        """Create the service's container with its files and volumes in place; not started. Returns its id.

        `network` is an id: names of networks are not unique. Raises NotOurs if another container has the name.
        """
        for volume in service.volumes:
            self.ensure_volume(volume, labels, service.name)
        container = self._create(service, labels, network)
        with asking(f"copy files into container {service.container}"):
            if service.files:
                # Readable by all: the server's user differs between images, and is alone in there.
                files = {target.removeprefix(f"{CONFIG_FOLDER}/"): data for target, data in service.files.items()}
                self._copy(container, CONFIG_FOLDER, pack(files))
            for target in service.volumes.values():
                # What is in the image or in the volume by now need not be copied, which takes as long as all the rest.
                if not self.has(container, f"{target}/{DATA_FOLDER}"):
                    self._copy(container, target, pack({}, folders=[DATA_FOLDER]))
        return container

    def _create(self, service: DesiredService, labels: Labels, network: str) -> str:
        wanted = _wanted(service, labels, network, limits=not self._no_ulimit.is_set())
        with asking(f"create container {service.container}"):
            return self._created(service.container, labels, wanted)

    def _created(self, name: str, labels: Labels, wanted: Mapping[str, Any], timeout: float = TIMEOUT) -> str:
        """The id of a container that is created. Raises NotOurs if another's has the name."""
        query = {"name": name}
        with unless_taken(name):
            try:
                return str(self._client.ask("POST", "/containers/create", query, wanted, timeout)["Id"])
            except Refused as error:
                # The engine goes on with what a killed devenv asked for.
                if error.status != 409 or not (late := self.carrying(f"/containers/{name}/json", labels)):
                    raise
                self.remove(late)
            return str(self._client.ask("POST", "/containers/create", query, wanted, timeout)["Id"])

    def _copy(self, container: str, folder: str, archive: IO[bytes]) -> None:
        self._client.ask("PUT", f"/containers/{container}/archive", {"path": folder}, archive.read())

    def start(self, container: str, name: str) -> None:
        """Start a container, or let a paused one go on.

        Raises PortTaken; LimitRefused if the engine may not set its limit on open files: containers that are created
        from then on ask for no such limit.
        """
        with asking(f"start {name}", f"'devenv logs {name}' may show more; 'devenv up' tries again"):
            try:
                self._client.ask("POST", f"/containers/{container}/start")
            except Refused as error:
                if "rlimit" in str(error):
                    self._no_ulimit.set()
                    raise LimitRefused(
                        f"cannot start {name}: the engine may not set limits on open files", "'devenv doctor' says more"
                    ) from error
                if "port is already allocated" in str(error) or "address already in use" in str(error):
                    raise PortTaken(
                        f"cannot publish a port of {name}: {error}",
                        hint="end what has the port, or pin another one under 'services' in devenv.yaml",
                    ) from error
                if not self._is_paused(container, error):
                    raise
                self._client.ask("POST", f"/containers/{container}/unpause")

    def pause(self, container: str) -> None:
        """Have a container do nothing at all for a while, so that its data stand still."""
        with asking(f"pause container {container}"):
            self._client.ask("POST", f"/containers/{container}/pause")

    def unpause(self, container: str) -> None:
        with asking(f"let container {container} go on"), unless_gone():
            self._client.ask("POST", f"/containers/{container}/unpause")

    def stop(self, container: str, seconds: int) -> None:
        """Ask a container to end by itself; after `seconds` the engine ends it."""
        with asking(f"stop container {container}"), unless_gone():
            try:
                self._stop(container, seconds)
            except Refused as error:
                # Docker lets it go on by itself.
                if not self._is_paused(container, error):
                    raise
                self.unpause(container)
                self._stop(container, seconds)

    def _stop(self, container: str, seconds: int) -> None:
        self._client.ask("POST", f"/containers/{container}/stop", {"t": seconds}, timeout=TIMEOUT + seconds)

    def _is_paused(self, container: str, error: Refused) -> bool:
        """Whether that is why something was refused, which Docker says and Podman does not."""
        return "paused container" in str(error) or (
            error.status != 404 and self._client.podman and self.state(container)["Status"] == "paused"
        )

    def logs(self, container: str, tail: Tail = "all", since: float = 0, timestamps: bool = False) -> list[str]:
        """The lines that a container logged, from a time on (in seconds since 1970) if one is given."""
        with asking(f"read the logs of container {container}"):
            query: dict[str, str | int] = {"stdout": True, "stderr": True, "tail": tail, "timestamps": timestamps}
            query |= {"since": f"{since:.6f}"} if since else {}
            framed = b"".join(self._client.stream("GET", f"/containers/{container}/logs", query))
        return _unframed(framed).decode(errors="replace").splitlines()

    def follow(self, container: str, tail: Tail = "all") -> Iterator[str]:
        """The lines of a container's log as they come, until it ends."""
        with asking(f"follow the logs of container {container}"):
            pending = b""
            for chunk in self._connection.sdk.follow(container, tail):
                *lines, pending = (pending + chunk).split(b"\n")
                yield from (line.decode(errors="replace") for line in lines)
            if pending:
                yield pending.decode(errors="replace")

    def execute(self, container: str, command: Sequence[str], tty: bool) -> tuple[str, Any]:
        """Start a command in a container with its input attached: the exec's id and the raw socket."""
        with asking(f"run {command[0]} in container {container}"):
            return self._connection.sdk.execute(container, command, tty)

    def resize(self, run: str, rows: int, columns: int) -> None:
        with asking("resize a terminal"):
            self._client.ask("POST", f"/exec/{run}/resize", {"h": rows, "w": columns})

    def exit_code(self, run: str) -> int:
        with asking("ask for an exit code"):
            code = self._client.ask("GET", f"/exec/{run}/json")["ExitCode"]
        return int(code or 0)


def _wanted(service: DesiredService, labels: Labels, network: str, limits: bool) -> dict[str, Any]:
    """What the engine is told to create for a service; without `limits`, it chooses how many files may be open."""
    options = service.options
    mounts = [_mount(target, volume) for volume, target in service.volumes.items()]
    if service.files:
        mounts.append({**_mount(CONFIG_FOLDER), "VolumeOptions": {"Labels": dict(labels)}})
    nofile = {"Name": "nofile", "Soft": options.nofile, "Hard": options.nofile}
    host = {
        "NetworkMode": network,
        "PortBindings": {
            f"{inside}/tcp": [{"HostIp": HOST, "HostPort": str(outside)}] for inside, outside in service.ports.items()
        },
        "Mounts": mounts,
        "Tmpfs": dict.fromkeys(options.tmpfs, "mode=1777"),
        "ReadonlyRootfs": options.read_only,
        "Init": options.init,
        "CapDrop": options.cap_drop,
        "SecurityOpt": options.security_opt,
        "Ulimits": [nofile] if options.nofile and limits else [],
        "PidsLimit": options.pids_limit,
        "Memory": options.mem_limit,
        "ShmSize": options.shm_size,
        # The log of a service that runs for weeks must not fill the disk.
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "2"}},
    }
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
        "HostConfig": _set(host),
        "NetworkingConfig": {"EndpointsConfig": {network: {"Aliases": [service.name]}}},
        # The official images ask for health checks that nothing here reads.
        "Healthcheck": {"Test": ["NONE"]},
    }
    return _set(container)


def _set(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Without those that are left to the engine or the image."""
    return {key: value for key, value in settings.items() if value}


def _mount(target: str, volume: str = "") -> dict[str, Any]:
    """A volume's place in a container; an anonymous one's without `volume`."""
    return _set({"Type": "volume", "Source": volume, "Target": target})


def _unframed(log: bytes) -> bytes:
    """What was logged. The engine sends frames: a byte for the output, three unused, four for the length, the text."""
    texts, start = [], 0
    while len(log) >= start + 8:
        end = start + 8 + int.from_bytes(log[start + 4 : start + 8], "big")
        texts.append(log[start + 8 : end])
        start = end
    return b"".join(texts)


def _observed(listed: Mapping[str, Any], networks: Mapping[str, str]) -> ObservedContainer:
    """One entry of the engine's container list. A label that is no JSON counts as empty: it only means drift.

    `networks` are ids by name: Podman before 5.4 names them where Docker has ids.
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
        state=listed["State"],
        image=listed["Image"],
        config_hash=labels.get(LABEL_CONFIG_HASH, ""),
        parts=decoded(LABEL_CONFIG_PARTS),
        ports={int(inside): int(host) for inside, host in decoded(LABEL_PORTS).items()},
        exit_code=int(exited[1]) if exited else None,
        networks=tuple(
            networks.get(n["NetworkID"], n["NetworkID"])
            for n in listed["NetworkSettings"]["Networks"].values()
            if n["NetworkID"]
        ),
    )
