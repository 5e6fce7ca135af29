"""Bring the ports of an environment's pods to this host: open a way into a pod for each connection.

devenv's forwarder listens, and calls this for each connection that it accepts. The pod is found at that moment, so a
pod that was replaced, or a way that broke, costs the connections that it had and no new one.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from devenv.engine.http import Refused
from devenv.engine.kubernetes.connection import RIGHTS_HINT, Cluster, asking
from devenv.engine.kubernetes.login import find_login
from devenv.engine.kubernetes.rights import FORWARD, lacking
from devenv.engine.kubernetes.websocket import V4, connected, unless_closed
from devenv.engine.supervisor import Closed
from devenv.errors import DevenvError
from devenv.model import LABEL_ENVIRONMENT, LABEL_SERVICE

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

# Seconds to find a pod. The forwarder tries again.
_LOOK_SECONDS = 10.0
# The protocol cannot say that the client sends no more. The service may go on answering; after so many seconds without
# a word from it, its connection ends: the client may just be gone.
_LINGER_SECONDS = 5.0
_DATA, _ERROR = 0, 1
# Each channel begins with the number of the port, in two bytes.
_HEAD = 2


def settings(cluster: Cluster, environment: str) -> dict[str, str]:
    """Return what a forwarder needs to reach the pods of an environment: the settings of a `Way`."""
    return {
        "context": cluster.context,
        "namespace": cluster.namespace,
        "environment": environment,
        "kubeconfig": os.environ.get("KUBECONFIG", ""),
    }


class Dialler:
    """Opens connections to services of one environment. Lives in the process of the forwarder alone."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        if settings["kubeconfig"]:
            # kubectl reads it. The forwarder may have been started where it was another one.
            os.environ["KUBECONFIG"] = settings["kubeconfig"]
        self._settings = settings
        self._environment = settings["environment"]
        self._cluster: Cluster | None = None
        self._works = False

    async def open(self, suspect: bool) -> None:
        """Make sure that the cluster answers and lets this user forward ports, unless it did so at the last dial."""
        if suspect or not self._works:
            await asyncio.to_thread(self._check)
            self._works = True

    async def dial(self, destination: str) -> PortStream:
        """Open a connection to "SERVICE:PORT".

        Raises ConnectionRefusedError if no pod of the service runs, another OSError if the cluster cannot be reached.
        """
        service, _, port = destination.rpartition(":")
        cluster = self._reached()
        try:
            pod = await asyncio.to_thread(self._pod_of, service)
            return PortStream(await connected(cluster, cluster.path("pods", pod, "portforward"), {"ports": port}, [V4]))
        except ConnectionRefusedError:
            raise
        except (Refused, DevenvError, OSError) as error:
            self._works = False
            raise ConnectionError(f"cannot reach {destination}: {error}") from error

    async def close(self) -> None:
        """End what runs for the connection to the cluster."""
        if self._cluster:
            await asyncio.to_thread(self._cluster.close)

    def _reached(self) -> Cluster:
        """Return the cluster. Raise Closed if there is no such login."""
        if not self._cluster:
            try:
                self._cluster = Cluster(find_login(self._settings["context"], self._settings["namespace"]))
            except DevenvError as error:
                raise Closed(error.message, error.hint) from error
        return self._cluster

    def _check(self) -> None:
        """Raise Closed, with what to do, if a person has to mend something."""
        cluster = self._reached()
        try:
            with asking(cluster, "reach the services"):
                missing = [f"{right.verb} {right.resource}" for right in lacking(cluster, FORWARD)]
        except DevenvError as error:
            raise Closed(error.message, error.hint) from error
        if missing:
            words = f"this login may not {' and '.join(missing)} in namespace {cluster.namespace}"
            raise Closed(words, RIGHTS_HINT)

    def _pod_of(self, service: str) -> str:
        """Return the pod that serves now: a running one, if possible a ready one, the newest of these."""
        selector = f"{LABEL_ENVIRONMENT}={self._environment},{LABEL_SERVICE}={service}"
        query = {"labelSelector": selector}
        cluster = self._reached()
        found = cluster.ask("GET", cluster.path("pods"), query, timeout=_LOOK_SECONDS, patience=0)
        running = [pod for pod in found["items"] if _runs(pod)]
        if not running:
            raise ConnectionRefusedError(f"no pod of {service} runs")
        best = max(running, key=lambda pod: (_is_ready(pod), pod["metadata"]["creationTimestamp"]))
        return str(best["metadata"]["name"])


def _runs(pod: Mapping[str, Any]) -> bool:
    return pod["status"].get("phase") == "Running" and not pod["metadata"].get("deletionTimestamp")


def _is_ready(pod: Mapping[str, Any]) -> bool:
    conditions = pod["status"].get("conditions") or ()
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


class PortStream:
    """One connection to a port of a pod."""

    def __init__(self, channels: ClientConnection) -> None:
        self._channels = channels
        self._begun: set[int] = set()
        self._heard = asyncio.get_running_loop().time()
        self._lingering: asyncio.Task[None] | None = None

    async def read(self) -> bytes:
        """Return what the service sends next, nothing at its end. Raises OSError if nothing listens at the port."""
        with unless_closed():
            while True:
                message = await self._channels.recv()
                channel, data = message[0], bytes(message[1:])  # type: ignore[arg-type]  # never text
                if channel not in self._begun:
                    self._begun.add(int(channel))
                    data = data[_HEAD:]
                if data and channel == _ERROR:
                    # Nothing listens at the port, say.
                    raise ConnectionResetError(data.decode(errors="replace"))
                if data and channel == _DATA:
                    self._heard = asyncio.get_running_loop().time()
                    return data
        return b""

    async def write(self, data: bytes) -> None:
        """Send to the service. Raises OSError if the connection is over."""
        from websockets.exceptions import ConnectionClosed

        try:
            await self._channels.send(bytes([_DATA]) + data)
        except ConnectionClosed as error:
            raise ConnectionResetError("the cluster closed the connection") from error

    async def end(self) -> None:
        """Send nothing more. The connection ends once the service is silent, too."""
        self._lingering = asyncio.ensure_future(self._close_when_silent())

    async def close(self) -> None:
        """Close the connection."""
        if self._lingering:
            self._lingering.cancel()
        await self._channels.close()

    async def _close_when_silent(self) -> None:
        loop = asyncio.get_running_loop()
        while (silent := loop.time() - self._heard) < _LINGER_SECONDS:
            await asyncio.sleep(_LINGER_SECONDS - silent)
        with suppress(OSError):
            await self._channels.close()
