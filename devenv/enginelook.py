"""What the engine tells of an environment to somebody who has to find out what went wrong."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from devenv.connection import asking
from devenv.enginehttp import Client, Refused, decoded
from devenv.errors import DevenvError
from devenv.model import LABEL_ENVIRONMENT


class Looks:
    """What can be looked at on one container engine. Thread-safe."""

    _client: Client

    def info(self) -> dict[str, Any]:
        with asking("ask the engine about itself"):
            return dict(self._client.ask("GET", "/info"))

    def version(self) -> dict[str, Any]:
        with asking("ask for the engine's version"):
            return dict(self._client.ask("GET", "/version"))

    def inspect(self, container: str) -> dict[str, Any]:
        """All that the engine knows of a container."""
        with asking(f"inspect container {container}"):
            return dict(self._client.ask("GET", f"/containers/{container}/json"))

    def network_of(self, container: str) -> str:
        """How a container is on the network: "host", "bridge", a network's name; nothing if there is none such."""
        try:
            return str(self.inspect(container)["HostConfig"]["NetworkMode"])
        except DevenvError:
            return ""

    def carrying(self, path: str, labels: Mapping[str, str]) -> str:
        """The id of the network or container that is found there, if it carries these labels; else nothing."""
        try:
            found = self._client.ask("GET", path)
        except Refused:
            return ""
        return str(found["Id"]) if labels.items() <= (found.get("Config", found)["Labels"] or {}).items() else ""

    def belongings(self, environment: str) -> dict[str, list[dict[str, Any]]]:
        """The environment's networks and volumes, as the engine lists them."""
        with asking("list networks and volumes"):
            query = {"filters": _label(environment)}
            volumes = self._client.ask("GET", "/volumes", query)["Volumes"]
            return {"networks": list(self._client.ask("GET", "/networks", query)), "volumes": list(volumes or ())}

    def with_networks(self) -> set[str]:
        """The environments that have a network."""
        with asking("list networks"):
            found = self._client.ask("GET", "/networks", {"filters": {"label": LABEL_ENVIRONMENT}})
        return {network["Labels"][LABEL_ENVIRONMENT] for network in found}

    def events(self, environment: str) -> list[dict[str, Any]]:
        """What happened to the environment's containers, as far back as the engine remembers."""
        # By the engine's own clock: were the end in its future, it would go on until then.
        now = datetime.fromisoformat(self.info()["SystemTime"]).timestamp()
        query = {"since": 1, "until": f"{now:.6f}", "filters": _label(environment)}
        with asking("ask for the engine's events"):
            told = b"".join(self._client.stream("GET", "/events", query))
            return [decoded(line) for line in told.splitlines() if line.strip()]


def _label(environment: str) -> Mapping[str, str]:
    return {"label": f"{LABEL_ENVIRONMENT}={environment}"}
