"""Ask the engine itself: memory, sizes of images, logs, and what a side left behind."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import docker
import docker.errors

from tests.bench.process import Failed

_SAMPLES, _PAUSE = 5, 0.3
_SERVICE_LABEL = "io.devenv.service"
# Images that the bench makes to see how long that takes.
_COPIES = "devenv-bench/copy"


@dataclass(frozen=True)
class Memory:
    """Megabytes: resident (RSS), and in proportion (PSS), where pages that many share count once for all of them.

    PSS is None unless the engine's processes are this system's, and the bench may look at them.
    """

    rss: float
    pss: float | None


class Engine:
    """The engine that both sides use."""

    def __init__(self) -> None:
        try:
            self._client = docker.from_env(version="auto", timeout=120)
        except docker.errors.DockerException as error:
            raise Failed("cannot reach the engine: 'devenv doctor' says why") from error

    def version(self) -> str:
        return str(self._client.version()["Version"])

    # ---- memory and sizes ------------------------------------------------------------------------------------

    def memory(self, *labels: str) -> Memory:
        """Return the memory of all processes in the containers with one of those labels.

        Take the smallest of some samples: at times, health checks run in there, too. Pages that two processes share
        count twice in RSS, so RSS errs upwards.
        """
        samples = []
        for _ in range(_SAMPLES):
            samples.append(self._memory(labels))
            time.sleep(_PAUSE)  # A health check is over by then.
        return min(samples, key=lambda memory: memory.rss)

    def _memory(self, labels: Iterable[str]) -> Memory:
        sizes: dict[int, int] = {}
        for container in (found for label in labels for found in self._containers(label)):
            listed = container.top(ps_args="-eo pid,rss")
            pid, rss = listed["Titles"].index("PID"), listed["Titles"].index("RSS")
            sizes |= {int(process[pid]): int(process[rss]) * 1024 for process in listed["Processes"] or ()}
        shares = [_proportional(process) for process in sizes]
        pss = sum(share for share in shares if share) / 1e6 if shares and None not in shares else None
        return Memory(sum(sizes.values()) / 1e6, pss)

    def size(self, base: str, references: Iterable[str]) -> float:
        """Return the megabytes that the images take together; count the base that they share once."""
        shared = self._client.images.get(base).attrs
        layers, total = shared["RootFS"]["Layers"], shared["Size"]
        for reference in references:
            image = self._client.images.get(reference).attrs
            on_base = image["RootFS"]["Layers"][: len(layers)] == layers
            total += image["Size"] - (shared["Size"] if on_base else 0)
        return float(total) / 1e6

    # ---- containers ------------------------------------------------------------------------------------------

    def logs(self, label: str) -> dict[str, list[str]]:
        """Return the lines that each service of an environment logged, each with the engine's time before it."""
        return {
            container.labels[_SERVICE_LABEL]: container.logs(timestamps=True).decode(errors="replace").splitlines()
            for container in self._containers(label)
        }

    def running(self, label: str) -> int:
        """Return how many containers of an environment run."""
        return len(self._containers(label))

    def published(self, label: str, service: str, port: int) -> int | None:
        """Return where a port of a service's container is, or will be, on this machine."""
        for container in self._containers(label, stopped=True):
            if container.labels.get(_SERVICE_LABEL) == service:
                bound = container.attrs["HostConfig"]["PortBindings"].get(f"{port}/tcp")
                return int(bound[0]["HostPort"]) if bound else None
        return None

    # ---- leaving nothing -------------------------------------------------------------------------------------

    def remove_images(self, repository: str) -> None:
        """Remove all images of that name."""
        for image in self._client.images.list(name=repository):
            for tag in image.tags:
                with contextlib.suppress(docker.errors.APIError):
                    self._client.images.remove(tag)

    def sweep(self, label: str) -> list[str]:
        """Remove everything that still carries the label; return what it was."""
        left: list[str] = []
        for container in self._containers(label, stopped=True):
            _remove(left, f"container {container.name}", partial(container.remove, v=True, force=True))
        for network in self._client.networks.list(filters={"label": label}):
            _remove(left, f"network {network.name}", network.remove)
        for volume in self._client.volumes.list(filters={"label": label}):
            _remove(left, f"volume {volume.name}", partial(volume.remove, force=True))
        for image in self._client.images.list(filters={"label": label}):
            _remove(left, f"image {image.short_id}", partial(self._client.images.remove, str(image.id), force=True))
        return left

    def volumes(self, *labels: str) -> set[str]:
        """Return the names of all volumes that the containers of these environments have, also of anonymous ones."""
        containers = (found for label in labels for found in self._containers(label, stopped=True))
        return {mount["Name"] for one in containers for mount in one.attrs["Mounts"] if mount["Type"] == "volume"}

    def remaining(self, name: str, volumes: Collection[str] = ()) -> list[str]:
        """Return what has this name, or one that begins with it and a dash, whatever its labels; and these volumes."""

        def is_meant(other: str) -> bool:
            return f"{other}-".startswith(f"{name}-")

        client = self._client
        # Containers of others come and go meanwhile.
        containers = client.containers.list(all=True, ignore_removed=True)
        found = [f"container {one.name}" for one in containers if is_meant(one.name)]
        found += [f"network {one.name}" for one in client.networks.list() if is_meant(one.name)]
        names = {one.name for one in client.volumes.list()}
        return found + [f"volume {one}" for one in sorted(names) if is_meant(one) or one in volumes]

    def remove_at_once(self, label: str) -> float:
        """Have the engine remove all of an environment, as much at a time as it allows; return the seconds."""
        containers, filters = self._containers(label, stopped=True), {"label": label}
        networks, volumes = self._client.networks.list(filters=filters), self._client.volumes.list(filters=filters)
        named = [volume for volume in volumes if _SERVICE_LABEL in (volume.attrs["Labels"] or {})]
        with ThreadPoolExecutor(len(containers) + 1) as pool:
            began = time.perf_counter()
            list(pool.map(lambda container: container.remove(v=True, force=True), containers))
            list(pool.map(lambda left: left.remove(), [*networks, *named]))
            return time.perf_counter() - began

    def copy_volumes(self, label: str) -> float:
        """Have the engine copy all volumes of an environment into images, side by side; return the seconds."""
        volumes = [
            (container, mount["Destination"])
            for container in self._containers(label)
            for mount in container.attrs["Mounts"]
            if mount["Type"] == "volume"
        ]

        def copy(number: int) -> None:
            container, folder = volumes[number]
            content, _ = container.get_archive(folder, chunk_size=1 << 20)
            self._client.api.import_image_from_stream(content, repository=_COPIES, tag=str(number))

        try:
            with ThreadPoolExecutor(len(volumes)) as pool:
                began = time.perf_counter()
                list(pool.map(copy, range(len(volumes))))
                return time.perf_counter() - began
        finally:
            self.remove_images(_COPIES)

    def _containers(self, label: str, stopped: bool = False) -> list[Any]:
        return list(self._client.containers.list(all=stopped, filters={"label": label}, ignore_removed=True))


def _remove(left: list[str], name: str, remove: Callable[[], Any]) -> None:
    left.append(name)
    with contextlib.suppress(docker.errors.APIError):
        remove()


def _proportional(process: int) -> int | None:
    """Return the bytes of a process, with its share of pages that others use, too; None if it cannot be read."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    sizes = [int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")]
    return sizes[0] if sizes else None
