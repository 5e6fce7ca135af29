"""The engine that is Docker, or Podman, which speaks the same API."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, NoReturn

from devenv.clock import now
from devenv.engine import containers, images, observe, ownership, proxies, streams, volumes
from devenv.engine.connection import Connection
from devenv.engine.protocol import About, Capability, ContainerState, Labels, Session, Tail
from devenv.errors import LimitRefused, PortTaken, Unsupported
from devenv.model import Desired, DesiredService, Observed
from devenv.store.places import forward_folder

# The URL of an engine begins with one of these if its ports are on this host.
_LOCAL = ("unix:", "http+docker:", "npipe:", "tcp://127.", "tcp://localhost")
# Podman 4 holds the ports of a start that failed until it happens to collect its garbage, mostly within two seconds.
_HELD_SECONDS = 15.0


class Docker:
    """One engine of that kind. `Engine` says what each verb means; the modules called here carry it out."""

    # It copies data into a volume itself, when devenv says so.
    can = frozenset(Capability) - {Capability.FILL}
    # A container beside the services has to be on the network of the engine's host: see `check_reach`.
    inside = False

    def __init__(self, connection: Connection) -> None:
        self._at = connection
        # The limits that the engine refused to set. Threads only add to it.
        self._refused: set[str] = set()

    @property
    def url(self) -> str:
        return self._at.url

    @property
    def named(self) -> bool:
        return self._at.named

    @property
    def local(self) -> bool:
        return self._at.url.startswith(_LOCAL)

    # ---- look ----------------------------------------------------------------------------------------------------

    def about(self) -> About:
        return observe.about(self._at)

    def check_reach(self) -> None:
        observe.check_reach(self._at)

    def observe(self, environment: str, owner: str) -> Observed:
        found = observe.observe(self._at, environment, owner)
        return replace(found, forwarded=self.forwarded(environment)) if self._way else found

    def environments(self, owners: Mapping[str, str]) -> dict[str, Observed]:
        return observe.environments(self._at, owners)

    def check_names(self, desired: Desired, observed: Observed) -> None:
        ownership.check_names(desired, observed)

    def host_name(self, container: str, service: str) -> str:
        return service

    def state(self, container: str) -> ContainerState:
        return observe.state(self._at, container)

    def memory(self, container: str) -> int | None:
        return observe.memory(self._at, container)

    def volume_sizes(self) -> dict[str, int]:
        return observe.volume_sizes(self._at)

    def publisher(self, port: int) -> str:
        return observe.publisher(self._at, port)

    def central(self, environment: str, note: Path, lost: Callable[[], None]) -> NoReturn:
        raise Unsupported(f"cannot share {environment} between hosts: {self.url} keeps no record and no lock for them")

    def with_networks(self) -> set[str]:
        return observe.with_networks(self._at)

    def leftover_volumes(self, environment: str, owner: str) -> tuple[str, ...]:
        return observe.leftover_volumes(self._at, environment, owner)

    def inspect(self, container: str) -> dict[str, Any]:
        return observe.inspect(self._at, container)

    def belongings(self, environment: str) -> dict[str, Any]:
        return observe.belongings(self._at, environment)

    def events(self, environment: str) -> list[dict[str, Any]]:
        return observe.events(self._at, environment)

    # ---- ports of an engine elsewhere ----------------------------------------------------------------------------

    def forward(self, desired: Desired) -> None:
        if self._way:
            # Imported here, as below: an engine on this host needs none of it.
            from devenv.engine import forward

            ports = {port: f"127.0.0.1:{port}" for one in desired.services.values() for port in one.ports.values()}
            forward.open_for(desired.environment, forward.Way(*self._way), ports)

    def forwarded(self, environment: str) -> frozenset[int] | None:
        if not self._way:
            return None
        from devenv.engine import forward

        return forward.forwarded(forward_folder(environment))

    def end_forward(self, environment: str) -> None:
        if not self.local:
            from devenv.engine import forward

            forward.end(forward_folder(environment))

    @property
    def _way(self) -> tuple[str, dict[str, str]] | None:
        """Return the kind and the settings of the way to the engine's ports; None if devenv opens none."""
        url = os.environ.get("DEVENV_TUNNEL") or self.url
        return ("ssh", {"url": url}) if url.startswith("ssh:") and not self.local else None

    # ---- networks and volumes ------------------------------------------------------------------------------------

    def create_network(self, name: str, labels: Labels) -> str:
        return volumes.create_network(self._at, name, labels)

    def remove_network(self, network: str) -> None:
        volumes.remove_network(self._at, network)

    def fill_volume(self, volume: str, image: str, folder: str, labels: Labels, service: str) -> None:
        volumes.fill_volume(self._at, volume, image, folder, labels, service)

    def remove_volume(self, name: str) -> None:
        volumes.remove_volume(self._at, name)

    # ---- containers ----------------------------------------------------------------------------------------------

    def create(self, service: DesiredService, labels: Labels, network: str) -> str:
        for volume in service.volumes:
            volumes.ensure_volume(self._at, volume, labels, service.name)
        return containers.create(self._at, service, labels, network, frozenset(self._refused))

    def start(self, container: str, name: str) -> None:
        # A start that it refused for a limit is one that failed.
        until = now() + _HELD_SECONDS if self._at.client.podman and self._refused else 0
        while True:
            try:
                return containers.start(self._at, container, name)
            except LimitRefused as error:
                self._refused.add(error.limit)
                raise
            except PortTaken:
                if now() > until:
                    raise
            time.sleep(containers.LOOK_SECONDS)

    def pause(self, container: str) -> None:
        containers.pause(self._at, container)

    def unpause(self, container: str) -> None:
        containers.unpause(self._at, container)

    def stop(self, container: str, seconds: int) -> None:
        containers.stop(self._at, container, seconds)

    def remove(self, container: str) -> None:
        containers.remove(self._at, container)

    def has(self, container: str, path: str) -> bool:
        return containers.has(self._at, container, path)

    def read_folder(self, container: str, folder: str) -> Generator[bytes, None, None]:
        return containers.read_folder(self._at, container, folder)

    def logs(self, container: str, tail: Tail = "all", since: float = 0, timestamps: bool = False) -> list[str]:
        return streams.logs(self._at, container, tail, since, timestamps)

    def follow(self, container: str, tail: Tail = "all") -> Iterator[str]:
        return streams.follow(self._at, container, tail)

    def execute(
        self, container: str, command: Sequence[str], tty: bool, environment: Mapping[str, str] | None = None
    ) -> Session:
        return streams.execute(self._at, container, command, tty, environment)

    # ---- images --------------------------------------------------------------------------------------------------

    def images(self) -> dict[str, str]:
        return images.images(self._at)

    def devenv_images(self) -> list[dict[str, Any]]:
        return images.devenv_images(self._at)

    def image_sizes(self) -> dict[str, int]:
        return images.image_sizes(self._at)

    def inspect_image(self, reference: str) -> dict[str, Any]:
        return images.inspect_image(self._at, reference)

    def pull(self, reference: str, progress: Callable[[str], None]) -> None:
        images.pull(self._at, reference, progress)

    def build(
        self,
        tag: str,
        context: IO[bytes],
        arguments: Mapping[str, str],
        labels: Mapping[str, str],
        progress: Callable[[str], None],
    ) -> None:
        chosen = proxies.for_builds(self.url, self.about)
        images.build(self._at, tag, context, arguments, labels, progress, chosen)

    def import_image(self, tag: str, tarball: Path, labels: Mapping[str, str]) -> None:
        images.import_image(self._at, tag, tarball, labels)

    def import_data(self, tag: str, stream: Iterable[bytes], labels: Mapping[str, str]) -> None:
        images.import_data(self._at, tag, stream, labels)

    def save_images(self, references: Sequence[str]) -> Generator[bytes, None, None]:
        return images.save_images(self._at, references)

    def load_images(self, stream: Iterable[bytes]) -> None:
        images.load_images(self._at, stream)

    def push(self, reference: str, address: str, progress: Callable[[str], None]) -> None:
        images.push(self._at, reference, address, progress)

    def unstarted(self, image: str) -> AbstractContextManager[str]:
        return images.unstarted(self._at, image)

    def remove_image(self, reference: str) -> bool:
        return images.remove_image(self._at, reference)
