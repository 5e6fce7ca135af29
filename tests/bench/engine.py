"""What the bench asks the engine itself: memory, sizes of images, and what was left behind."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from typing import Any

import docker
import docker.errors

from tests.bench.process import Failed

_SAMPLES, _PAUSE = 5, 0.3


class Engine:
    """The engine that both sides use."""

    def __init__(self) -> None:
        try:
            self._client = docker.from_env(version="auto", timeout=120)
        except docker.errors.DockerException as error:
            raise Failed("cannot reach the engine: 'devenv doctor' says why") from error

    def version(self) -> str:
        return str(self._client.version()["Version"])

    def memory(self, label: str) -> float:
        """Resident megabytes of all processes in the containers with that label.

        The smallest of some samples: in between, health checks run in there, too. Pages that two processes
        of one container share count twice, so this errs upwards.
        """
        samples = []
        for _ in range(_SAMPLES):
            samples.append(sum(self._resident(container) for container in self._containers(label)))
            time.sleep(_PAUSE)
        return min(samples) / 1e6

    def _resident(self, container: Any) -> int:
        listed = container.top(ps_args="-eo pid,rss")
        column = listed["Titles"].index("RSS")
        return sum(int(process[column]) * 1024 for process in listed["Processes"] or ())

    def size(self, base: str, references: Iterable[str]) -> float:
        """Megabytes that the images take together, the base that they share counted once."""
        shared = self._client.images.get(base).attrs
        layers, total = shared["RootFS"]["Layers"], shared["Size"]
        for reference in references:
            image = self._client.images.get(reference).attrs
            on_base = image["RootFS"]["Layers"][: len(layers)] == layers
            total += image["Size"] - (shared["Size"] if on_base else 0)
        return float(total) / 1e6

    def sweep(self, label: str) -> list[str]:
        """Remove whatever still carries the label; returns what that was."""
        found = self._containers(label, stopped=True)
        left = [f"container {container.name}" for container in found]
        for container in found:
            with contextlib.suppress(docker.errors.APIError):
                container.remove(v=True, force=True)
        for network in self._client.networks.list(filters={"label": label}):
            left.append(f"network {network.name}")
            with contextlib.suppress(docker.errors.APIError):
                network.remove()
        for volume in self._client.volumes.list(filters={"label": label}):
            left.append(f"volume {volume.name}")
            with contextlib.suppress(docker.errors.APIError):
                volume.remove(force=True)
        return left

    def _containers(self, label: str, stopped: bool = False) -> list[Any]:
        return list(self._client.containers.list(all=stopped, filters={"label": label}))
