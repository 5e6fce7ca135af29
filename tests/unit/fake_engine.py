"""An engine in memory, which keeps what every engine promises (tests/contract.py). Written by hand, no mock."""

from __future__ import annotations

import hashlib
import io
import json
import re
import socket
import tarfile
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from builders import inspected
from fake_central import FakeCentral, Place

from devenv.engine.ownership import check_names, filler, split, trusted
from devenv.engine.protocol import DATA_FOLDER, About, Capability, ContainerState, Labels, Tail
from devenv.engine.streams import Frames
from devenv.errors import NotOurs, NotReady, PortTaken, ServiceFailed
from devenv.model import (
    LABEL_CONFIG_HASH,
    LABEL_ENVIRONMENT,
    LABEL_SERVICE,
    SHARED,
    Desired,
    DesiredService,
    Observed,
    ObservedContainer,
    Operation,
    Plan,
    Report,
)
from devenv.services.base import Target

# Files by path without a leading slash; None is a folder.
Files = dict[str, bytes | None]
# A program or a command inside: takes its input; returns standard output, standard error and exit code.
Command = Callable[[bytes], tuple[bytes, bytes, int]]
# Nobody listens at this registry, so no image comes from it.
NOWHERE = "127.0.0.1:9/"


_CREATED = ContainerState("created")


@dataclass
class Image:
    id: str
    labels: Mapping[str, str]
    files: Files = field(default_factory=dict)


@dataclass
class Container:
    """A container that was created here. `mounts` maps the path of each volume to its name."""

    id: str
    name: str
    labels: Mapping[str, str]
    image: str
    service: DesiredService | None = None
    network: str = ""
    files: Files = field(default_factory=dict)
    mounts: Mapping[str, str] = field(default_factory=dict)
    state: ContainerState = _CREATED
    log: list[tuple[float, str]] = field(default_factory=list)

    @property
    def ports(self) -> Mapping[int, int]:
        return self.service.ports if self.service else {}

    @property
    def alive(self) -> bool:
        return self.state.status in ("running", "paused")


@dataclass
class Volume:
    labels: Mapping[str, str]
    files: Files = field(default_factory=dict)


@dataclass
class Network:
    id: str
    labels: Mapping[str, str]


class FakeEngine:
    """Keeps what is created, and records every call as "action target"; `on` holds what else happens at a call.

    Objects that a test puts into `observed` belong to any environment. Their containers say `log` and hold bytes that
    are no archive. A service is ready while `answers` is empty; else each check gives the next one, and the last stays.
    """

    local = True
    # Whether its ports have to be forwarded.
    elsewhere = False
    url = "fake://"
    named = False
    inside = False
    can = frozenset(Capability) - {Capability.FILL}

    def __init__(self, observed: Observed | None = None) -> None:
        self.calls: list[str] = []
        self.on: dict[str, Callable[[], Any]] = {}
        self.answers: list[str] = []
        # States that replace the known state of a container.
        self.states: dict[str, ContainerState] = {}
        self.log = ["first line", "last line"]
        self.observed = observed or Observed()
        # The network that each service was created on.
        self.networks: dict[str, str] = {}
        # The ports that are forwarded, by environment.
        self.ways: dict[str, set[int]] = {}
        # What hosts have in common, by environment.
        self.places: dict[str, Place] = {}
        self.imported: dict[str, bytes] = {}
        # Answers about images that devenv did not make.
        self.inspected: dict[str, dict[str, Any]] = {}
        self.leftovers: tuple[str, ...] = ()
        # Programs of containers by their script (see Program in tests/contract.py), and commands inside by their words.
        self.programs: dict[str, Any] = {}
        self.commands: dict[tuple[str, ...], Command] = {}
        self._images: dict[str, Image] = {}
        self._containers: dict[str, Container] = {}
        self._volumes: dict[str, Volume] = {}
        self._networks: dict[str, Network] = {}
        self._happened: list[tuple[Labels, str]] = []
        self._used: list[str] = []
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)

    def _call(self, action: str, target: str = "") -> Any:
        key = f"{action} {target}".strip()
        with self._lock:
            self.calls.append(key)
        return self.on[key]() if key in self.on else None

    # ---- look ----------------------------------------------------------------------------------------------------

    def about(self) -> About:
        return About("an engine in memory", "1", "1.0")

    def check_reach(self) -> None: ...

    def check_names(self, desired: Desired, observed: Observed) -> None:
        check_names(desired, observed)

    def observe(self, environment: str, owner: str) -> Observed:
        self._call("observe")
        with self._lock:
            listed = {
                "container": [self._listed(c.name, c.labels, Id=c.id) for c in self._containers.values()],
                "network": [self._listed(name, n.labels, Id=n.id) for name, n in self._networks.items()],
                "volume": [self._listed(name, volume.labels) for name, volume in self._volumes.items()],
            }
            listed = {
                kind: [one for one in all_of if one["Labels"].get(LABEL_ENVIRONMENT) == environment]
                for kind, all_of in listed.items()
            }
            owner = owner or self.observed.owner or trusted(environment, listed)
            ours, strangers = split(environment, listed, owner)
            made = [self._observed(self._containers[one["Id"]]) for one in ours["container"]]
            found: dict[str, ObservedContainer] = {}
            extra = []
            for one in sorted((*self.observed.containers.values(), *made), key=lambda c: not c.running):
                if one.service in found:
                    extra.append(one)
                else:
                    found[one.service] = one
            volumes = {one["Name"]: one["Labels"][LABEL_SERVICE] for one in ours["volume"]}
            return Observed(
                containers=found,
                networks=(*self.observed.networks, *(one["Id"] for one in ours["network"])),
                volumes={**self.observed.volumes, **volumes},
                images=self.images(),
                extra=(*self.observed.extra, *extra),
                owner=owner,
                strangers=(*self.observed.strangers, *strangers),
                forwarded=self.forwarded(environment),
            )

    def environments(self, owners: Mapping[str, str]) -> dict[str, Observed]:
        made = (*self._containers.values(), *self._networks.values(), *self._volumes.values())
        ids = {one.labels[LABEL_ENVIRONMENT] for one in made}
        return {one: replace(self.observe(one, owners.get(one, "")), images={}) for one in ids}

    def _listed(self, name: str, labels: Labels, **more: Any) -> dict[str, Any]:
        """Return an object as engines list it."""
        return {"Name": name, "Labels": labels, **more}

    def _observed(self, container: Container) -> ObservedContainer:
        state, service = container.state, container.service
        return ObservedContainer(
            id=container.id,
            name=container.name,
            service=container.labels.get(LABEL_SERVICE, ""),
            state=state.status,
            image=container.image,
            config_hash=container.labels.get(LABEL_CONFIG_HASH, ""),
            parts=dict(service.parts) if service else {},
            ports=dict(container.ports),
            exit_code=state.exit_code if state.status == "exited" else None,
            # Docker reports the network only after a start.
            networks=() if state.status == "created" else (container.network,),
        )

    def host_name(self, container: str, service: str) -> str:
        return service

    def state(self, container: str) -> ContainerState:
        self._call("state", container)
        if container in self.states:
            return self.states[container]
        if made := self._containers.get(container):
            return made.state
        found = self._put_there(container) or self._refuse(f"inspect container {container}: no such container")
        return ContainerState(found.state, found.exit_code or 0)

    def memory(self, container: str) -> int | None:
        return 1024**2 if self._status(container) == "running" else None

    def volume_sizes(self) -> dict[str, int]:
        return {name: sum(len(one or b"") for one in held.files.values()) for name, held in self._volumes.items()}

    def publisher(self, port: int) -> str:
        with self._lock:
            running = [c for c in self._containers.values() if c.alive and port in c.ports.values()]
        return f"container {running[0].name}" if running else ""

    def central(self, environment: str, note: Path, lost: Callable[[], None]) -> FakeCentral:
        return FakeCentral(self.places.setdefault(environment, Place()))

    def forward(self, desired: Desired) -> None:
        self._call("forward", "ports")
        self.ways[desired.environment] = {port for one in desired.services.values() for port in one.ports.values()}

    def forwarded(self, environment: str) -> frozenset[int] | None:
        return frozenset(self.ways.get(environment, ())) if self.elsewhere else None

    def end_forward(self, environment: str) -> None:
        self._call("end forward")
        self.ways.pop(environment, None)

    def with_networks(self) -> set[str]:
        return {network.labels[LABEL_ENVIRONMENT] for network in self._networks.values()}

    def leftover_volumes(self, environment: str, owner: str) -> tuple[str, ...]:
        return self.leftovers

    def inspect(self, container: str) -> dict[str, Any]:
        state = self.state(container)
        labels = self._containers[container].labels if container in self._containers else {}
        return {"Id": container, "Config": {"Env": [], "Labels": dict(labels)}, "State": {"Status": state.status}}

    def belongings(self, environment: str) -> dict[str, Any]:
        found = {"networks": self._networks, "volumes": self._volumes}
        return {
            "version": {"Version": "1"},
            **{
                kind: [
                    {"Name": name, "Labels": dict(one.labels)}
                    for name, one in all_of.items()  # type: ignore[attr-defined]
                    if one.labels.get(LABEL_ENVIRONMENT) == environment
                ]
                for kind, all_of in found.items()
            },
        }

    def events(self, environment: str) -> list[dict[str, Any]]:
        return [{"Action": what} for labels, what in self._happened if labels.get(LABEL_ENVIRONMENT) == environment]

    # ---- networks and volumes ------------------------------------------------------------------------------------

    def create_network(self, name: str, labels: Labels) -> str:
        self._call("create network", name)
        with self._lock:
            if name in self._networks and not labels.items() <= self._networks[name].labels.items():
                raise NotOurs(f"cannot create {name}: something that is not this environment's has the name")
            return self._networks.setdefault(name, Network(f"id-of-{name}", dict(labels))).id

    def remove_network(self, network: str) -> None:
        self._call("remove network", network)
        with self._lock:
            self._networks = {name: one for name, one in self._networks.items() if one.id != network}
            left = tuple(one for one in self.observed.networks if one != network)
            self.observed = replace(self.observed, networks=left)

    def remove_volume(self, name: str) -> None:
        self._call("remove volume", name)
        with self._lock:
            users = [c for c in self._containers.values() if name in c.mounts.values()]
            if any(c.state.status != "created" for c in users):
                self._refuse(f"remove volume {name}: a container uses it")
            for late in users:
                del self._containers[late.id]
            self._volumes.pop(name, None)
            left = {one: service for one, service in self.observed.volumes.items() if one != name}
            self.observed = replace(self.observed, volumes=left)

    def fill_volume(self, volume: str, image: str, folder: str, labels: Labels, service: str) -> None:
        self._call("fill", f"{volume} from {folder} of {image}")
        with self._lock:
            if image not in self.images():
                self._refuse(f"fill volume {volume}: no such image: {image}")
            self._ensure_volume(volume, labels, service)
            self._free_name(filler(volume), labels)
            held = self._images[image].files if image in self._images else {}
            self._volumes[volume].files = _below(held, folder)

    def _ensure_volume(self, name: str, labels: Labels, service: str) -> None:
        if name in self.observed.volumes:
            return
        volume = self._volumes.setdefault(name, Volume({**labels, LABEL_SERVICE: service}))
        if not labels.items() <= volume.labels.items():
            raise NotOurs(f"cannot use volume {name}: it does not carry the labels of this environment")

    # ---- containers ----------------------------------------------------------------------------------------------

    def create(self, service: DesiredService, labels: Labels, network: str) -> str:
        self.networks[service.name] = network
        identity = self._call("create", service.name)
        with self._lock:
            if network not in (*self.observed.networks, *(one.id for one in self._networks.values())):
                self._refuse(f"create container {service.container}: no such network: {network}")
            if service.image.reference not in self.images():
                self._refuse(f"create container {service.container}: no such image: {service.image.reference}")
            for volume in service.volumes:
                self._ensure_volume(volume, labels, service.name)
            self._free_name(service.container, labels)
            own = {**labels, LABEL_SERVICE: service.name, LABEL_CONFIG_HASH: service.config_hash}
            mounts = {target.lstrip("/"): volume for volume, target in service.volumes.items()}
            files: Files = {path.lstrip("/"): content for path, content in service.files.items()}
            made = Container(
                identity or self._new_id(service.name),
                service.container,
                own,
                service.image.reference,
                service,
                network,
                files,
                mounts,
            )
            for volume in set(mounts.values()) & self._volumes.keys():
                self._volumes[volume].files.setdefault(DATA_FOLDER, None)
            self._containers[made.id] = made
            self._happen(made, "create")
        return made.id

    def _new_id(self, name: str) -> str:
        self._used.append(name)
        count = self._used.count(name)
        return f"new-{name}" if count == 1 else f"new-{name}-{count}"

    def _free_name(self, name: str, labels: Labels) -> None:
        """Make room for a container: remove what a killed devenv left."""
        for one in [c for c in self._containers.values() if c.name == name]:
            if not labels.items() <= one.labels.items():
                raise NotOurs(f"cannot create {name}: something that is not this environment's has the name")
            del self._containers[one.id]

    def start(self, container: str, name: str) -> None:
        self._call("start", container)
        with self._lock:
            if container not in self._containers:
                self._become(container, "running", f"start {name}")
                return
            made = self._containers[container]
            if made.state.status == "running":
                return
            busy = {port for c in self._containers.values() if c.alive and c is not made for port in c.ports.values()}
            if taken := busy & {*made.ports.values()}:
                raise PortTaken(f"cannot publish a port of {name}: {min(taken)} is taken")
            was, made.state = made.state, ContainerState("running")
            self._happen(made, "start")
            if was.status != "paused":
                self._run(made)

    def _run(self, container: Container) -> None:
        """Do what the container's program does immediately."""
        script = container.service.options.command[-1:] if container.service else ()
        if not (program := self.programs.get("".join(script))):
            return
        for path, content in program.writes.items():
            self._view(container, write=(path.lstrip("/"), content))
        container.log += [(time.time(), line) for line in program.lines]
        if program.code is not None:
            container.state = ContainerState("exited", program.code)
            self._happen(container, "die")

    def stop(self, container: str, seconds: int) -> None:
        self._call("stop", f"{container} {seconds}")
        with self._lock, suppress(ServiceFailed):
            if container not in self._containers:
                self._become(container, "exited", "")
            elif (made := self._containers[container]).alive:
                made.state = ContainerState("exited")
                self._happen(made, "die")

    def remove(self, container: str) -> None:
        self._call("remove", container)
        with self._lock:
            if made := self._containers.pop(container, None):
                self._happen(made, "destroy")
            there = {name: one for name, one in self.observed.containers.items() if one.id != container}
            extra = tuple(one for one in self.observed.extra if one.id != container)
            self.observed = replace(self.observed, containers=there, extra=extra)

    def pause(self, container: str) -> None:
        self._call("pause", container)
        with self._lock:
            if self._status(container) != "running":
                self._refuse(f"pause container {container}: it does not run")
            self._become(container, "paused", f"pause container {container}")

    def unpause(self, container: str) -> None:
        self._call("unpause", container)
        with self._lock:
            if (status := self._status(container)) not in ("paused", ""):
                self._refuse(f"let container {container} go on: it is not paused")
            if status:
                self._become(container, "running", f"let container {container} go on")

    def _status(self, container: str) -> str:
        """Return the container's status, or nothing if it does not exist."""
        if container in self.states:
            return self.states[container].status
        found = self._containers.get(container)
        return found.state.status if found else getattr(self._put_there(container), "state", "")

    def _become(self, container: str, status: str, what: str) -> None:
        if container in self._containers:
            self._containers[container].state = ContainerState(status)
        elif self._put_there(container) or container in self.states:
            code = 0 if status == "exited" else None

            def changed(one: ObservedContainer) -> ObservedContainer:
                return replace(one, state=status, exit_code=code) if one.id == container else one

            there = {name: changed(one) for name, one in self.observed.containers.items()}
            self.observed = replace(self.observed, containers=there, extra=tuple(map(changed, self.observed.extra)))
            if container in self.states:
                self.states[container] = ContainerState(status)
        else:
            self._refuse(f"{what}: no such container")

    def _put_there(self, container: str) -> ObservedContainer | None:
        """Return the container that a test put into `observed`."""
        everything = (*self.observed.containers.values(), *self.observed.extra)
        return next((one for one in everything if one.id == container), None)

    def _happen(self, container: Container, what: str) -> None:
        self._happened.append((container.labels, what))
        self._changed.notify_all()

    def _refuse(self, what: str) -> Any:
        raise ServiceFailed(f"cannot {what}")

    # ---- what containers hold and say ----------------------------------------------------------------------------

    def logs(self, container: str, tail: Tail = "all", since: float = 0, timestamps: bool = False) -> list[str]:
        self._call("logs", container)
        lines = [
            f"{datetime.fromtimestamp(at, UTC).isoformat()} {line}" if timestamps else line
            for at, line in self._log(container)
            if at >= since
        ]
        return lines if tail == "all" else lines[-tail:] if tail else []

    def _log(self, container: str) -> list[tuple[float, str]]:
        if made := self._containers.get(container):
            return made.log
        if not self._status(container):
            self._refuse(f"read the logs of container {container}: no such container")
        return [(0.0, line) for line in self.log]

    def follow(self, container: str, tail: Tail = "all") -> Iterator[str]:
        told = self.logs(container, tail)
        yield from told
        # A program writes its complete log when it starts.
        with self._changed:
            self._changed.wait_for(lambda: self._status(container) != "running")

    def execute(
        self, container: str, command: Sequence[str], tty: bool, environment: Mapping[str, str] | None = None
    ) -> FakeSession:
        self._call("execute", f"{' '.join(command)} in {container}")
        if self._status(container) != "running":
            self._refuse(f"run {command[0]} in container {container}: it does not run")
        names = {c.labels[LABEL_SERVICE] for c in self._containers.values() if c.state.status == "running"}
        if command[0] == "printenv":
            known = {"PATH": "/usr/bin", **(environment or {})}
            return FakeSession(lambda _: (f"{known[command[1]]}\n".encode(), b"", 0))
        if command[0] == "getent":
            return FakeSession(lambda _: (b"", b"", 0 if command[-1] in names else 2))
        missing: Command = lambda _: (b"", f"{command[0]}: not found\n".encode(), 127)  # noqa: E731
        return FakeSession(self.commands.get(tuple(command), missing))

    def read_folder(self, container: str, folder: str) -> Generator[bytes, None, None]:
        self._call("read", f"{folder} of {container}")
        if container not in self._containers:
            yield from (b"one", b"two")
            return
        files = _below(self._view(self._containers[container]), folder)
        name = folder.rstrip("/").rpartition("/")[2]
        yield _archive({name: None, **{f"{name}/{path}": content for path, content in files.items()}})

    def has(self, container: str, path: str) -> bool:
        wanted = path.strip("/")
        files = self._view(self._containers[container]) if container in self._containers else {}
        return any(f"{name}/".startswith(f"{wanted}/") for name in files)

    def _view(self, container: Container, write: tuple[str, bytes] | None = None) -> Files:
        """Return all files of a container, with its volumes in their places; `write` puts a file there."""
        made = self._images.get(container.image)
        seen: Files = {**(made.files if made else {}), **container.files}
        for target, name in container.mounts.items():
            held = self._volumes[name].files if name in self._volumes else {}
            if write and write[0].startswith(f"{target}/"):
                held[write[0].removeprefix(f"{target}/")] = write[1]
            seen |= {f"{target}/{path}": content for path, content in held.items()}
        return seen

    @contextmanager
    def unstarted(self, image: str) -> Iterator[str]:
        self._call("look into", image)
        by_id = {one.id: reference for reference, one in self._images.items()}
        with self._lock:
            identity = self._new_id("reader")
            self._containers[identity] = Container(identity, identity, {}, by_id.get(image, image))
        try:
            yield identity
        finally:
            self.remove(identity)

    # ---- images --------------------------------------------------------------------------------------------------

    def images(self) -> dict[str, str]:
        return {**self.observed.images, **{reference: image.id for reference, image in self._images.items()}}

    def inspect_image(self, reference: str) -> dict[str, Any]:
        for name, image in self._images.items():
            if reference in (name, image.id):
                layers = {"Layers": [image.id]}
                return inspected(name, dict(image.labels), Id=image.id, Size=_size(image), RootFS=layers)
        if reference in self.inspected:
            return self.inspected[reference]
        if reference not in {*self.observed.images, *self.observed.images.values()}:
            self._refuse(f"inspect image {reference}: no such image")
        return inspected(reference)

    def devenv_images(self) -> list[dict[str, Any]]:
        made = [
            {"Id": image.id, "RepoTags": [tag], "Size": _size(image), "Labels": image.labels, "Created": 1}
            for tag, image in self._images.items()
            if image.labels.get(LABEL_ENVIRONMENT) == SHARED
        ]
        return [{"RepoTags": [tag], "Size": 100, "Created": 1, "Id": "id"} for tag in self.observed.images] + made

    def image_sizes(self) -> dict[str, int]:
        return {**dict.fromkeys(self.observed.images, 1), **{tag: _size(image) for tag, image in self._images.items()}}

    def pull(self, reference: str, progress: Callable[[str], None]) -> None:
        progress(f"pulling {reference}")
        self._call("pull", reference)
        if reference.startswith(NOWHERE):
            self._refuse(f"pull image {reference}: connection refused")
        self._have(reference)

    def _have(self, reference: str) -> None:
        with self._lock:
            self.observed = replace(self.observed, images={**self.observed.images, reference: f"id of {reference}"})

    def build(
        self,
        tag: str,
        context: IO[bytes],
        arguments: Mapping[str, str],
        labels: Mapping[str, str],
        progress: Callable[[str], None],
    ) -> None:
        self._call("build", tag)
        dockerfile = (_files(context.read())["Dockerfile"] or b"").decode()
        for line in dockerfile.splitlines():
            if line.startswith("FROM ") and line.removeprefix("FROM ") not in self.images():
                self._refuse(f"build image {tag}: no such image")
            if line.startswith("RUN "):
                said = re.findall(r"echo (\w+)", line)
                for word in said:
                    progress(word)
                if re.search(r"exit [1-9]", line):
                    raise ServiceFailed(f"cannot build image {tag}: {line} failed", detail=said)
        self._keep(tag, dockerfile.encode(), labels, {})

    def import_image(self, tag: str, tarball: Path, labels: Mapping[str, str]) -> None:
        content = tarball.read_bytes()
        self._call("import", tag)
        self._keep(tag, content, labels, _files(content))

    def import_data(self, tag: str, stream: Iterable[bytes], labels: Mapping[str, str]) -> None:
        content = b"".join(stream)
        self._call("import", tag)
        self.imported[tag] = content
        self._keep(tag, content, labels, _files(content))

    def _keep(self, tag: str, content: bytes, labels: Mapping[str, str], files: Files) -> None:
        with self._lock:
            digest = hashlib.sha256(json.dumps([tag, dict(labels)]).encode() + content).hexdigest()
            self._images[tag] = Image(f"sha256:{digest}", dict(labels), files)

    def save_images(self, references: Sequence[str]) -> Generator[bytes, None, None]:
        for reference in references:
            if reference not in self._images:
                self._refuse(f"save images: no such image: {reference}")
        self._archives = {**getattr(self, "_archives", {}), **{tag: self._images[tag] for tag in references}}
        yield json.dumps([*references]).encode()

    def push(self, reference: str, address: str, progress: Callable[[str], None]) -> None:
        self._call("push", f"{reference} as {address}")

    def load_images(self, stream: Iterable[bytes]) -> None:
        for reference in json.loads(b"".join(stream)):
            self._images[reference] = self._archives[reference]

    def remove_image(self, reference: str) -> bool:
        self._call("remove image", reference)
        with self._lock:
            if any(c.image == reference for c in self._containers.values()):
                return False
            known = reference in self.images()
            self._images.pop(reference, None)
            left = {name: identity for name, identity in self.observed.images.items() if name != reference}
            self.observed = replace(self.observed, images=left)
            return known

    # ---- the service itself --------------------------------------------------------------------------------------

    def check(self, target: Target) -> None:
        """Probe a service."""
        self._call("check", str(target.port))
        if self.answers:
            raise NotReady(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])


def frame(data: bytes, output: int = 1) -> bytes:
    """Write data as an engine sends it, for one of the outputs."""
    return bytes([output, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


class FakeSession:
    """A command in a thread, at the other end of a socket; it writes frames as an engine does."""

    def __init__(self, command: Command) -> None:
        self.stream, self._inside = socket.socketpair()
        self._frames, self._command, self._code = Frames(), command, 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with self._inside as inside:
            given = b""
            while data := inside.recv(65536):
                given += data
            out, error, self._code = self._command(given)
            for number, said in ((1, out), (2, error)):
                inside.sendall(frame(said, number))

    def output(self, data: bytes) -> list[tuple[int, bytes]]:
        return self._frames.feed(data)

    def resize(self, rows: int, columns: int) -> None: ...

    def exit_code(self) -> int:
        self._thread.join()
        return self._code


def _size(image: Image) -> int:
    return 1 + sum(len(content or b"") for content in image.files.values())


def _files(archive: bytes) -> Files:
    """Return the files of an archive; none if it is no archive."""
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
            members = [(entry.name.strip("/"), tar.extractfile(entry) if entry.isreg() else None) for entry in tar]
            return {name: content.read() if content else None for name, content in members}
    except tarfile.TarError:
        return {}


def _archive(files: Files) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            if content is None:
                entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name.endswith(f"/{DATA_FOLDER}") else 0o755
            else:
                entry.size, entry.mode = len(content), 0o444
            tar.addfile(entry, io.BytesIO(content or b""))
    return buffer.getvalue()


def _below(files: Files, folder: str) -> Files:
    """Return the files in a folder, by their path inside it."""
    prefix = f"{folder.strip('/')}/"
    return {path.removeprefix(prefix): content for path, content in files.items() if path.startswith(prefix)}


class Recorder(Report):
    """A report that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def begin(self, plan: Plan) -> None:
        self.told.append(f"begin {len(plan.operations)}")

    def started(self, operation: Operation) -> None:
        self.told.append(f"started {operation.key}")

    def progress(self, operation: Operation, text: str) -> None:
        self.told.append(f"progress {operation.key}: {text}")

    def finished(self, operation: Operation, seconds: float) -> None:
        self.told.append(f"finished {operation.key}")

    def failed(self, operation: Operation, seconds: float, reason: str) -> None:
        self.told.append(f"failed {operation.key}: {reason}")

    def note(self, text: str) -> None:
        self.told.append(f"note {text}")

    def end(self) -> None:
        self.told.append("end")
