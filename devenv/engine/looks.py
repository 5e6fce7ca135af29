"""What can be looked at on the engine: what it tells of an environment, and the files in containers."""

from __future__ import annotations

import secrets
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from devenv.engine.connection import asking, unless_gone
from devenv.engine.http import Client, Refused, decoded
from devenv.engine.ownership import carries, name_of
from devenv.engine.tar import Torn, in_folder, read_ahead
from devenv.errors import DevenvError, ServiceFailed
from devenv.model import LABEL_ENVIRONMENT, LABEL_SERVICE

# For a container that is never started, should somebody start it.
_NOBODY = "65534:65534"
_CONFINED = {
    "ReadonlyRootfs": True,
    "CapDrop": ["ALL"],
    "SecurityOpt": ["no-new-privileges:true"],
    "PidsLimit": 1,
    "Memory": 16 << 20,
}
# In place of an environment, on a container that an image is read through, and what its name begins with; in seconds,
# longer than anybody reads one.
_READING, _READER = "reading", "devenv-reading-"
_READING_SECONDS = 600


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

    def leftover_volumes(self, environment: str, owner: str) -> tuple[str, ...]:
        """Volumes of the environment that no container uses: containers were removed by other means."""
        with asking("list volumes"):
            found = self._volumes({"label": f"{LABEL_ENVIRONMENT}={environment}", "dangling": "true"})
        return tuple(v["Name"] for v in found if LABEL_SERVICE not in v["Labels"] and carries(v, owner))

    def _volumes(self, filters: Mapping[str, str]) -> list[dict[str, Any]]:
        return list(self._client.ask("GET", "/volumes", {"filters": filters})["Volumes"] or [])

    def publisher(self, port: int) -> str:
        """The running container that publishes the host port, in words; empty if none does."""
        with asking("list containers"):
            for listed in self._client.ask("GET", "/containers/json"):
                if any(published.get("PublicPort") == port for published in listed["Ports"]):
                    return f"container {name_of(listed)}"
        return ""

    def state(self, container: str) -> dict[str, Any]:
        """The engine's own State of a container: Status, ExitCode, OOMKilled, …"""
        return dict(self.inspect(container)["State"])

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

    # ---- files -------------------------------------------------------------------------------------------------

    @contextmanager
    def unstarted(self, image: str) -> Iterator[str]:
        """A container of an image to read files of; it is never started, and gone afterwards.

        What somebody who was killed left of that kind goes, too.
        """
        with asking(f"look into image {image}"):
            query = {"all": True, "filters": _label(_READING)}
            for left in self._client.ask("GET", "/containers/json", query):
                old = left["State"] == "created" and time.time() - left["Created"] > _READING_SECONDS
                if old and name_of(left).startswith(_READER):
                    self.remove(left["Id"])
            wanted, name = never_started(image, {LABEL_ENVIRONMENT: _READING}), _READER + secrets.token_hex(8)
            container = str(self._client.ask("POST", "/containers/create", {"name": name}, wanted)["Id"])
        try:
            yield container
        finally:
            self.remove(container)

    def remove(self, container: str) -> None:
        """Remove a container, running or not, with its anonymous volumes. Its named volumes stay."""
        with asking(f"remove container {container}"), unless_gone():
            try:
                self._client.ask("DELETE", f"/containers/{container}", {"v": True, "force": True})
            except Refused as error:
                # Until whoever began it is through, the container has its name and its ports.
                if "is already in progress" not in str(error):
                    raise
                gone = self._client.ask("POST", f"/containers/{container}/wait", {"condition": "removed"})
                if why := (gone.get("Error") or {}).get("Message"):
                    raise Refused(error.status, why) from error

    def has(self, container: str, path: str) -> bool:
        """Whether a container, running or not, has a file or folder."""
        with asking(f"look for {path} in container {container}"):
            try:
                self._client.ask("HEAD", f"/containers/{container}/archive", {"path": path})
            except Refused:
                return False  # whatever the reason: copying then fails with it, or works
        return True

    def read_folder(self, container: str, folder: str) -> Generator[bytes, None, None]:
        """A tar stream of a folder of a container, running or not; its entries begin with the folder's last name.

        Close it: until then the engine lets nobody do anything to the container.
        """
        with asking(f"read {folder} of container {container}"):
            stream = self._client.stream("GET", f"/containers/{container}/archive", {"path": folder})
            if self._client.podman:
                # It leaves the name of a volume's folder out unless the container runs.
                stream = in_folder(folder.rpartition("/")[2], stream)
            try:
                yield from read_ahead(stream)
            except Torn as error:
                raise ServiceFailed(f"cannot read {folder} of container {container}: {error}", "try again") from error


def never_started(image: str, labels: Mapping[str, str], mounts: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """A container to create that only gives or takes files."""
    host = {"Mounts": mounts, "NetworkMode": "none", **_CONFINED}
    # It needs a command to be created.
    return {"Image": image, "Cmd": ["none"], "User": _NOBODY, "Labels": labels, "HostConfig": host}


def _label(environment: str) -> Mapping[str, str]:
    return {"label": f"{LABEL_ENVIRONMENT}={environment}"}
