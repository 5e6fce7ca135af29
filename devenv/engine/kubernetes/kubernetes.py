"""The engine that is a Kubernetes cluster: one namespace of it, through its own API."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, NoReturn

from devenv.engine import ownership
from devenv.engine.kubernetes import objects, observe, pods, runs, streams
from devenv.engine.kubernetes.central import ClusterCentral
from devenv.engine.kubernetes.connection import Cluster, asking
from devenv.engine.kubernetes.manifests import PodSettings
from devenv.engine.protocol import About, Capability, ContainerState, Labels, Session, Tail
from devenv.errors import ServiceFailed, Unsupported
from devenv.model import Desired, DesiredService, Observed
from devenv.store.places import forward_folder

# Seconds after which the cluster ends pods that a CI's job has made (CI is set): longer than jobs take.
_JOB_SECONDS = 6 * 3600
# Seconds between two looks at a container whose log begins with its program.
_LOOK_SECONDS = 0.1


class Kubernetes:
    """One namespace of a cluster. `Engine` says what each verb means; the modules called here carry it out.

    The nodes get their images themselves. Data that is not durable goes with its pod.
    """

    can = frozenset({Capability.FILL})
    local = False

    def __init__(self, cluster: Cluster, settings: PodSettings | None = None, named: bool = True) -> None:
        self._at = cluster
        # A job that is killed ends nothing.
        self._settings = settings or PodSettings(deadline=_JOB_SECONDS if os.environ.get("CI") else 0)
        self._named = named
        # The images with the first data of volumes, by volume, until `create` uses them.
        self._first: dict[str, str] = {}

    @property
    def named(self) -> bool:
        return self._named

    @property
    def inside(self) -> bool:
        return self._at.inside

    @property
    def url(self) -> str:
        return self._at.url

    # ---- look ----------------------------------------------------------------------------------------------------

    def about(self) -> About:
        return observe.about(self._at)

    def check_reach(self) -> None:
        """Do nothing: whoever reaches the cluster reaches its pods, too."""

    def observe(self, environment: str, owner: str) -> Observed:
        found = observe.observe(self._at, environment, owner)
        return replace(found, forwarded=self.forwarded(environment))

    def environments(self, owners: Mapping[str, str]) -> dict[str, Observed]:
        return observe.environments(self._at, owners)

    def check_names(self, desired: Desired, observed: Observed) -> None:
        ownership.check_names(desired, observed, f"kubectl -n {self._at.namespace} get all,configmap")

    def host_name(self, container: str, service: str) -> str:
        # Every pod of the cluster finds NAME.NAMESPACE; the services themselves do, too.
        return f"{container}{self._at.login.domain}"

    def state(self, container: str) -> ContainerState:
        return runs.state(self._at, container)

    def memory(self, container: str) -> int | None:
        return observe.memory(self._at, container)

    def volume_sizes(self) -> dict[str, int]:
        """Return nothing: the API does not say how full a volume is."""
        return {}

    def publisher(self, port: int) -> str:
        """Return nothing: a pod takes no port of a host."""
        return ""

    def with_networks(self) -> set[str]:
        return observe.with_networks(self._at)

    def leftover_volumes(self, environment: str, owner: str) -> tuple[str, ...]:
        """Return nothing: a Secret with files goes with its Service."""
        return ()

    def inspect(self, container: str) -> dict[str, Any]:
        return observe.inspect(self._at, container)

    def belongings(self, environment: str) -> dict[str, Any]:
        return observe.belongings(self._at, environment)

    def events(self, environment: str) -> list[dict[str, Any]]:
        return observe.events(self._at, environment)

    def central(self, environment: str, note: Path, lost: Callable[[], None]) -> ClusterCentral:
        return ClusterCentral(self._at, environment, note, lost)

    # ---- ports ---------------------------------------------------------------------------------------------------

    def forward(self, desired: Desired) -> None:
        if self.inside:
            return
        # Imported here, as below: in a pod of the cluster, nothing is forwarded.
        from devenv.engine import forward
        from devenv.engine.kubernetes.forward import settings

        ports = {
            outside: f"{service.name}:{inside}"
            for service in desired.services.values()
            for inside, outside in service.ports.items()
        }
        way = forward.Way("kubernetes", settings(self._at, desired.environment))
        forward.open_for(desired.environment, way, ports)

    def forwarded(self, environment: str) -> frozenset[int] | None:
        if self.inside:
            return None
        from devenv.engine import forward

        return forward.forwarded(forward_folder(environment))

    def end_forward(self, environment: str) -> None:
        if not self.inside:
            from devenv.engine import forward

            forward.end(forward_folder(environment))

    # ---- networks, volumes, containers ---------------------------------------------------------------------------

    def create_network(self, name: str, labels: Labels) -> str:
        return objects.create_network(self._at, name, labels)

    def remove_network(self, network: str) -> None:
        objects.remove_network(self._at, network)

    def remove_volume(self, name: str) -> None:
        objects.remove_volume(self._at, name)

    def create(self, service: DesiredService, labels: Labels, network: str) -> str:
        first = {volume: self._first.pop(volume) for volume in service.volumes if volume in self._first}
        return objects.create(self._at, service, labels, network, replace(self._settings, first_data=first))

    def start(self, container: str, name: str) -> None:
        runs.start(self._at, container, name)

    def stop(self, container: str, seconds: int) -> None:
        runs.stop(self._at, container, seconds)

    def remove(self, container: str) -> None:
        objects.remove(self._at, container)

    # ---- logs and commands ---------------------------------------------------------------------------------------

    def logs(self, container: str, tail: Tail = "all", since: float = 0, timestamps: bool = False) -> list[str]:
        if not self._has_log(container, f"read the logs of container {container}"):
            return []
        return streams.logs(self._at, runs.name_of(container), tail, since, timestamps)

    def follow(self, container: str, tail: Tail = "all") -> Iterator[str]:
        while self.state(container).status == pods.RUNNING:
            if self._has_begun(container):
                break
            time.sleep(_LOOK_SECONDS)
        if self._has_log(container, f"follow the logs of container {container}"):
            yield from streams.follow(self._at, runs.name_of(container), tail)

    def execute(
        self, container: str, command: Sequence[str], tty: bool, environment: Mapping[str, str] | None = None
    ) -> Session:
        return streams.execute(self._at, runs.name_of(container), command, tty, environment)

    def _has_log(self, container: str, what: str) -> bool:
        """Return whether a container has a pod, whose log can be read. Raise ServiceFailed if there is no container."""
        with asking(self._at, what):
            service = runs.known(self._at, container, what)
            return runs.own_pod(self._at, service) is not None

    def _has_begun(self, container: str) -> bool:
        with asking(self._at, f"look at container {container}"):
            pod = runs.pod_of(self._at, runs.name_of(container))
        return pod is not None and (pod.get("status") or {}).get("phase", "Pending") != "Pending"

    # ---- images: the nodes have them, or get them themselves -----------------------------------------------------

    def images(self) -> dict[str, str]:
        """Return nothing: a cluster does not say what its nodes have."""
        return {}

    def devenv_images(self) -> list[dict[str, Any]]:
        return observe.devenv_images(self._at)

    def image_sizes(self) -> dict[str, int]:
        return {}

    def inspect_image(self, reference: str) -> dict[str, Any]:
        raise ServiceFailed(f"cannot inspect image {reference}: a cluster does not say what its nodes have")

    def remove_image(self, reference: str) -> bool:
        return False

    def pull(self, reference: str, progress: Callable[[str], None]) -> None:
        self._cannot(f"pull image {reference}")

    def build(
        self,
        tag: str,
        context: IO[bytes],
        arguments: Mapping[str, str],
        labels: Mapping[str, str],
        progress: Callable[[str], None],
    ) -> None:
        self._cannot(f"build image {tag}")

    def import_image(self, tag: str, tarball: Path, labels: Mapping[str, str]) -> None:
        self._cannot(f"make image {tag}")

    def import_data(self, tag: str, stream: Iterable[bytes], labels: Mapping[str, str]) -> None:
        self._cannot(f"keep data as image {tag}")

    def save_images(self, references: Sequence[str]) -> Generator[bytes, None, None]:
        self._cannot("save images")

    def load_images(self, stream: Iterable[bytes]) -> None:
        self._cannot("load images")

    def push(self, reference: str, address: str, progress: Callable[[str], None]) -> None:
        self._cannot(f"push image {address}")

    def unstarted(self, image: str) -> AbstractContextManager[str]:
        self._cannot(f"look into image {image}")

    def has(self, container: str, path: str) -> bool:
        self._cannot(f"look for {path} in container {container}")

    # ---- what pods cannot do -------------------------------------------------------------------------------------

    def pause(self, container: str) -> None:
        self._cannot(f"pause container {container}")

    def unpause(self, container: str) -> None:
        """Do nothing: no container of this engine is paused."""

    def read_folder(self, container: str, folder: str) -> Generator[bytes, None, None]:
        self._cannot(f"read {folder} of container {container}")

    def fill_volume(self, volume: str, image: str, folder: str, labels: Labels, service: str) -> None:
        self._first[volume] = image

    def _cannot(self, what: str) -> NoReturn:
        raise Unsupported(f"cannot {what}: Kubernetes does not do that", "use Docker or Podman for it")
