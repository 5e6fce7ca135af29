"""Reach the API of the cluster in whose pod this process runs, with the service account that the kubelet gave it."""

from __future__ import annotations

import os
import ssl
from functools import cached_property
from http.client import HTTPConnection, HTTPSConnection

from devenv.engine.kubernetes.login import ACCOUNT
from devenv.errors import NoEngine


class ServiceAccount:
    """The way to the API from inside. Thread-safe."""

    @property
    def host(self) -> str:
        return os.environ["KUBERNETES_SERVICE_HOST"]

    @property
    def port(self) -> int:
        return int(os.environ.get("KUBERNETES_SERVICE_PORT", "443"))

    @property
    def headers(self) -> dict[str, str]:
        """Return the login. The kubelet writes a new token every hour or so: read it each time. Raise NoEngine."""
        try:
            return {"Authorization": f"Bearer {(ACCOUNT / 'token').read_text().strip()}"}
        except OSError as error:
            raise NoEngine(
                f"cannot read the token of this pod's service account: {error.strerror}",
                hint="leave automountServiceAccountToken on in the pod, and let this user read the token",
            ) from error

    @cached_property
    def tls(self) -> ssl.SSLContext:
        """Return what trusts the cluster's own certificate authority."""
        return ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))

    def connection(self, timeout: float) -> HTTPConnection:
        """Return an open connection to the API. Raise OSError if nothing answers."""
        connection = HTTPSConnection(self.host, self.port, timeout=timeout, context=self.tls)
        connection.connect()
        return connection

    def close(self) -> None:
        """Do nothing: no process has to end."""
