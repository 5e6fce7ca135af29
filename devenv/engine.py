"""The container engine: with connection.py the only module that imports docker.

Every method is one thing asked of the engine, by id or by a name that holds the environment's id. Failures
come out as errors of devenv: NoEngine where nothing answers, ServiceFailed where the engine says no.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal

import docker
import docker.errors
from docker.types import LogConfig, Mount, Ulimit

from devenv.archive import pack
from devenv.connection import asking, open_client, unless_gone, unless_taken
from devenv.errors import NotOurs, PortTaken, ServiceFailed
from devenv.model import (
    LABEL_CONFIG_HASH,
    LABEL_CONFIG_PARTS,
    LABEL_ENVIRONMENT,
    LABEL_PORTS,
    LABEL_SERVICE,
    SHARED,
    DesiredService,
    Observed,
    ObservedContainer,
    familiar,
)
from devenv.ports import HOST

# Where a service's files go: a volume of its own, since a read-only root file system takes no copies.
CONFIG_FOLDER = "/etc/devenv"
# In each data volume, the one folder that any user may write to: the user's id differs between images.
DATA_FOLDER = "data"
_BUILD_TIMEOUT = 1800
# How many of the last lines of a log.
Tail = int | Literal["all"]


def connect() -> Engine:
    """The engine, connected to. Raises NoEngine, naming the endpoint, when nothing answers there."""
    return Engine(*open_client())


class Engine:
    """One container engine. Thread-safe."""

    def __init__(self, client: docker.APIClient, url: str) -> None:
        self._client = client
        self.url = url
        self._no_ulimit = threading.Event()

    # ---- what it is, what it has ------------------------------------------------------------------------

    @property
    def local(self) -> bool:
        """Whether the engine publishes its ports on this very host."""
        return self.url.startswith(("unix:", "http+docker:", "npipe:", "tcp://127.", "tcp://localhost"))

    def info(self) -> dict[str, Any]:
        with asking("ask the engine about itself"):
            return dict(self._client.info())

    def version(self) -> dict[str, Any]:
        with asking("ask for the engine's version"):
            return dict(self._client.version())

    def images(self) -> dict[str, str]:
        """The id of every image by each reference (tag or digest) that the engine can run without a pull."""
        with asking("list images"):
            listed = self._client.images()
        return {
            familiar(name): image["Id"]
            for image in listed
            for key in ("RepoTags", "RepoDigests")
            for name in image.get(key) or ()
        }

    def has_image(self, reference: str) -> bool:
        return reference in self.images()

    def devenv_images(self) -> list[dict[str, Any]]:
        """All images that devenv built: their tags, size in bytes, labels and time of creation."""
        with asking("list images"):
            return list(self._client.images(filters={"label": f"{LABEL_ENVIRONMENT}={SHARED}"}))

    def image_sizes(self) -> dict[str, int]:
        """The size in bytes of every image by tag."""
        with asking("list images"):
            return {familiar(tag): int(i["Size"]) for i in self._client.images() for tag in i.get("RepoTags") or ()}

    def observe(self, environment: str) -> Observed:
        """Everything that carries the environment's label, and every image there is: four calls."""
        label = {"label": f"{LABEL_ENVIRONMENT}={environment}"}
        with asking("list containers, networks and volumes"):
            found = [_observed(c) for c in self._client.containers(all=True, filters=label)]
            networks = tuple(n["Id"] for n in self._client.networks(filters=label))
            volumes = self._volumes(label)
        containers: dict[str, ObservedContainer] = {}
        extra = []
        for container in sorted(found, key=lambda c: not c.running):
            if container.service in containers:
                extra.append(container)
            else:
                containers[container.service] = container
        return Observed(
            containers=containers,
            networks=networks,
            # The folder of files that a container has of its own comes and goes with it.
            volumes={v["Name"]: v["Labels"][LABEL_SERVICE] for v in volumes if LABEL_SERVICE in v["Labels"]},
            images=self.images(),
            extra=tuple(extra),
        )

    def leftover_volumes(self, environment: str) -> tuple[str, ...]:
        """Volumes of the environment that no container uses: containers were removed by other means."""
        with asking("list volumes"):
            found = self._volumes({"label": f"{LABEL_ENVIRONMENT}={environment}", "dangling": "true"})
        return tuple(v["Name"] for v in found if LABEL_SERVICE not in v["Labels"])

    def _volumes(self, filters: Mapping[str, str]) -> list[dict[str, Any]]:
        return list(self._client.volumes(filters=dict(filters))["Volumes"] or [])

    def publisher(self, port: int) -> str:
        """The running container that publishes the host port, in words; empty if none does."""
        with asking("list containers"):
            for listed in self._client.containers():
                if any(published.get("PublicPort") == port for published in listed["Ports"]):
                    return f"container {listed['Names'][0].lstrip('/')}"
        return ""

    def state(self, container: str) -> dict[str, Any]:
        """The engine's own State of a container: Status, ExitCode, OOMKilled, …"""
        with asking(f"inspect container {container}"):
            return dict(self._client.inspect_container(container)["State"])

    # ---- images -----------------------------------------------------------------------------------------

    def pull(self, reference: str, progress: Callable[[str], None]) -> None:
        """Pull an image by its full reference: with a tag or a digest."""
        name, _, tag = (reference, "", "") if "@" in reference else reference.rpartition(":")
        hint = "check the name and the network, or build it under that name"
        with asking(f"pull image {reference}", hint):
            for line in self._client.pull(name, tag=tag or None, stream=True, decode=True):
                if "error" in line:
                    raise ServiceFailed(f"cannot pull image {reference}: {line['error']}", hint)
                progress(str(line.get("status", "")))

    def build(
        self,
        tag: str,
        context: IO[bytes],
        arguments: Mapping[str, str],
        labels: Mapping[str, str],
        progress: Callable[[str], None],
    ) -> None:
        """Build an image from a tar stream. Raises ServiceFailed with the last lines of the failing step."""
        lines: list[str] = []
        with asking(f"build image {tag}"):
            stream = self._client.build(
                fileobj=context,
                custom_context=True,
                tag=tag,
                buildargs=dict(arguments),
                labels=dict(labels),
                rm=True,
                forcerm=True,
                decode=True,
                timeout=_BUILD_TIMEOUT,
            )
            step = "its first step"
            for message in stream:
                text = re.sub(r"\x1b\[[0-9;]*m", "", message.get("stream", "")).strip()
                if re.match(r"step \d", text, re.IGNORECASE):
                    step, lines = text, []
                progress(text.partition("\n")[0])
                lines.extend(text.splitlines())
                if "error" in message:
                    raise ServiceFailed(
                        f"cannot build image {tag}: {step} failed: {message['error']}".splitlines()[0],
                        hint="the last lines of that step are above; 'devenv images build' tries again",
                        detail=lines[-20:],
                    )

    def import_image(self, tag: str, tarball: Path, labels: Mapping[str, str]) -> None:
        """Make an image of one layer out of a root file system."""
        name, _, version = tag.rpartition(":")
        changes = [f'LABEL {key}="{value}"' for key, value in labels.items()]
        with asking(f"import image {tag}"), tarball.open("rb") as stream:
            self._client.import_image_from_data(stream, repository=name, tag=version, changes=changes)

    def import_data(self, tag: str, stream: Iterable[bytes], labels: Mapping[str, str]) -> None:
        """Make an image of one layer that holds what a tar stream does; it is there whole or not at all."""
        name, _, version = tag.rpartition(":")
        changes = [f'LABEL {key}="{value}"' for key, value in labels.items()]
        with asking(f"keep data as {tag}"):
            # The stubs know bytes only; what is sent is any stream.
            answer = self._client.import_image_from_data(stream, repository=name, tag=version, changes=changes)
        if "error" in (said := json.loads(str(answer).splitlines()[-1])):
            raise ServiceFailed(f"cannot keep data as {tag}: {said['error']}")

    def remove_image(self, reference: str) -> bool:
        """Remove an image by tag or id; False if a container or another image still needs it."""
        with asking(f"remove image {reference}"):
            try:
                self._client.remove_image(reference)
            except docker.errors.APIError as error:
                if error.status_code not in (404, 409):
                    raise
                return False
        return True

    # ---- networks and volumes ----------------------------------------------------------------------------

    def create_network(self, name: str, environment: str) -> str:
        """Create a network; returns its id. Raises NotOurs if another one has the name."""
        labels = {LABEL_ENVIRONMENT: environment}
        with (
            asking(f"create network {name}", "'docker network prune' frees addresses of unused networks"),
            unless_taken(name),
        ):
            # No address range of our own: explicit IPAM has been seen to take 15 s.
            return str(self._client.create_network(name, driver="bridge", labels=labels, check_duplicate=True)["Id"])

    def remove_network(self, network: str) -> None:
        with asking(f"remove network {network}"), unless_gone():
            self._client.remove_network(network)

    def ensure_volume(self, name: str, environment: str, service: str) -> None:
        """Create a volume, or find the one of that name. Raises NotOurs if it carries other labels."""
        labels = {LABEL_ENVIRONMENT: environment, LABEL_SERVICE: service}
        with asking(f"create volume {name}"):
            volume = self._client.create_volume(name, labels=labels)
        if (volume.get("Labels") or {}).get(LABEL_ENVIRONMENT) != environment:
            raise NotOurs(
                f"cannot use volume {name}: it exists and does not carry the labels of this environment",
                hint=f"look at 'docker volume inspect {name}'; rename or remove it yourself",
            )

    def fill_volume(self, volume: str, image: str, folder: str, environment: str, service: str) -> None:
        """Create a volume that holds what the image has in `folder`.

        The engine itself copies that when a container is created, which is never started. Raises NotOurs if the
        volume is another's; ServiceFailed if the image is not there.
        """
        self.ensure_volume(volume, environment, service)
        labels = {LABEL_ENVIRONMENT: environment, LABEL_SERVICE: service}
        host = self._client.create_host_config(mounts=[Mount(folder, volume)], network_mode="none")
        with asking(f"fill volume {volume}"):
            # It needs a command to be created.
            container = self._client.create_container(image, command=["none"], labels=labels, host_config=host)
        self.remove(container["Id"])

    def remove_volume(self, name: str) -> None:
        with asking(f"remove volume {name}"), unless_gone():
            self._client.remove_volume(name)

    # ---- containers ---------------------------------------------------------------------------------------

    def create(self, service: DesiredService, environment: str, network: str) -> str:
        """Create the service's container with its files and volumes in place; not started. Returns its id.

        `network` is an id: names of networks are not unique. Raises NotOurs if another container has the name.
        """
        for volume in service.volumes:
            self.ensure_volume(volume, environment, service.name)
        container = self._create(service, environment, network)
        with asking(f"copy files into container {service.container}"):
            if service.files:
                # Readable by all: the server's user differs between images, and is alone in there.
                files = {target.removeprefix(f"{CONFIG_FOLDER}/"): data for target, data in service.files.items()}
                self._client.put_archive(container, CONFIG_FOLDER, pack(files).getvalue())
            for target in service.volumes.values():
                self._client.put_archive(container, target, pack({}, folders=[DATA_FOLDER]).getvalue())
        return container

    def _create(self, service: DesiredService, environment: str, network: str) -> str:
        options = service.options
        labels = {
            LABEL_ENVIRONMENT: environment,
            LABEL_SERVICE: service.name,
            LABEL_CONFIG_HASH: service.config_hash,
            LABEL_CONFIG_PARTS: json.dumps(dict(service.parts), sort_keys=True),
            LABEL_PORTS: json.dumps({str(inside): host for inside, host in service.ports.items()}),
        }
        mounts = [Mount(target, volume) for volume, target in service.volumes.items()]
        if service.files:
            mounts.append(Mount(CONFIG_FOLDER, None, labels={LABEL_ENVIRONMENT: environment}))
        ulimits = []
        if options.nofile and not self._no_ulimit.is_set():
            ulimits.append(Ulimit(name="nofile", soft=options.nofile, hard=options.nofile))
        host_config = self._client.create_host_config(
            network_mode=network,
            port_bindings={inside: (HOST, host) for inside, host in service.ports.items()},
            mounts=mounts,
            tmpfs={target: "mode=1777" for target in options.tmpfs},
            read_only=options.read_only,
            init=options.init or None,
            cap_drop=list(options.cap_drop) or None,
            security_opt=list(options.security_opt) or None,
            ulimits=ulimits,
            pids_limit=options.pids_limit or None,
            mem_limit=options.mem_limit or None,
            shm_size=options.shm_size or None,
            # The log of a service that runs for weeks must not fill the disk.
            log_config=LogConfig(type="json-file", config={"max-size": "10m", "max-file": "2"}),
        )
        aliases = {network: self._client.create_endpoint_config(aliases=[service.name])}
        with asking(f"create container {service.container}"), unless_taken(service.container):
            created = self._client.create_container(
                service.image.reference,
                name=service.container,
                hostname=options.hostname or None,
                user=options.user or None,
                working_dir=options.working_dir or None,
                entrypoint=list(options.entrypoint) or None,
                command=list(options.command) or None,
                environment=dict(options.environment),
                ports=list(service.ports),
                labels=labels,
                stop_signal=options.stop_signal or None,
                host_config=host_config,
                # The stubs take the mapping of networks for one of them.
                networking_config=self._client.create_networking_config(aliases),  # type: ignore[arg-type]
                # The official images ask for health checks that nothing here reads.
                healthcheck={"test": ["NONE"]},
            )
        return str(created["Id"])

    def start(self, container: str, name: str) -> bool:
        """Start a container, or let a paused one go on; False if the engine may not set its limit on open files.

        Containers that are created from then on ask for no such limit.
        """
        with asking(f"start {name}", f"'devenv logs {name}' may show more; 'devenv up' tries again"):
            try:
                self._client.start(container)
            except docker.errors.APIError as error:
                if "rlimit" in str(error):
                    self._no_ulimit.set()
                    return False
                if "port is already allocated" in str(error) or "address already in use" in str(error):
                    raise PortTaken(
                        f"cannot publish a port of {name}: {error.explanation}",
                        hint="end what has the port, or pin another one under 'services' in devenv.yaml",
                    ) from error
                if "paused container" not in str(error):
                    raise
                self._client.unpause(container)
        return True

    def pause(self, container: str) -> None:
        """Have a container do nothing at all for a while, so that its data stand still."""
        with asking(f"pause container {container}"):
            self._client.pause(container)

    def unpause(self, container: str) -> None:
        with asking(f"let container {container} go on"), unless_gone():
            self._client.unpause(container)

    def read_folder(self, container: str, folder: str) -> Iterator[bytes]:
        """A tar stream of a folder of a container, running or not; its entries begin with the folder's last name."""
        with asking(f"read {folder} of container {container}"):
            yield from self._client.get_archive(container, folder)[0]

    def stop(self, container: str, seconds: int) -> None:
        """Ask a container to end by itself; after `seconds` the engine ends it."""
        with asking(f"stop container {container}"), unless_gone():
            self._client.stop(container, timeout=seconds)

    def remove(self, container: str) -> None:
        """Remove a container, running or not, with its anonymous volumes. Its named volumes stay."""
        with asking(f"remove container {container}"), unless_gone():
            self._client.remove_container(container, v=True, force=True)

    def logs(self, container: str, tail: Tail = "all") -> list[str]:
        with asking(f"read the logs of container {container}"):
            raw = self._client.logs(container, tail=tail)
        return bytes(raw).decode(errors="replace").splitlines()

    def follow(self, container: str, tail: Tail = "all") -> Iterator[str]:
        """The lines of a container's log as they come, until it ends."""
        with asking(f"follow the logs of container {container}"):
            pending = b""
            for chunk in self._client.logs(container, stream=True, follow=True, tail=tail):
                *lines, pending = (pending + chunk).split(b"\n")
                yield from (line.decode(errors="replace") for line in lines)
            if pending:
                yield pending.decode(errors="replace")

    def execute(self, container: str, command: Sequence[str], tty: bool) -> tuple[str, Any]:
        """Start a command in a container with its input attached: the exec's id and the raw socket."""
        with asking(f"run {command[0]} in container {container}"):
            run = self._client.exec_create(container, list(command), stdin=True, tty=tty)["Id"]
            socket = self._client.exec_start(run, tty=tty, socket=True)
        return run, getattr(socket, "_sock", socket)

    def resize(self, run: str, rows: int, columns: int) -> None:
        with asking("resize a terminal"):
            self._client.exec_resize(run, height=rows, width=columns)

    def exit_code(self, run: str) -> int:
        with asking("ask for an exit code"):
            code = self._client.exec_inspect(run)["ExitCode"]
        return int(code or 0)


def _observed(listed: Mapping[str, Any]) -> ObservedContainer:
    """One entry of the engine's container list. A label that is no JSON counts as empty: it only means drift."""
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
        name=listed["Names"][0].lstrip("/"),
        service=labels.get(LABEL_SERVICE, ""),
        state=listed["State"],
        image=listed["Image"],
        config_hash=labels.get(LABEL_CONFIG_HASH, ""),
        parts=decoded(LABEL_CONFIG_PARTS),
        ports={int(inside): int(host) for inside, host in decoded(LABEL_PORTS).items()},
        exit_code=int(exited[1]) if exited else None,
        networks=tuple(n["NetworkID"] for n in listed["NetworkSettings"]["Networks"].values() if n["NetworkID"]),
    )
