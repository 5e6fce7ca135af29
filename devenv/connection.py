"""How devenv reaches the container engine, and how the engine's failures become devenv's.

Beside engine.py the only module that imports docker.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import docker.errors
import requests
import urllib3.exceptions
from docker.context import ContextAPI
from docker.context.config import get_current_context_name
from docker.utils import kwargs_from_env

from devenv.errors import NoEngine, NotOurs, ServiceFailed

# A single engine call. Only a wedged engine takes longer; builds have their own.
_TIMEOUT = 120
_HINT = "run 'devenv doctor' to see what is missing, 'devenv doctor --fix' to mend it"


def endpoint_in_use() -> tuple[str, str]:
    """The engine's URL and where it was found: DOCKER_HOST, a context, rootless, podman or default."""
    if host := os.environ.get("DOCKER_HOST"):
        return host, "DOCKER_HOST"
    try:
        chosen = os.environ.get("DOCKER_CONTEXT") or get_current_context_name()
        known = ContextAPI.get_context(chosen)
    except Exception as error:  # the library raises bare exceptions for files that it cannot read
        raise NoEngine(
            f"cannot read the docker contexts: {_reason(error)}", "'docker context ls' shows them"
        ) from error
    if known is None:
        # The docker command line refuses, too: another engine than the one that was meant would be a surprise.
        raise NoEngine(f"cannot find docker context {chosen!r}", hint="'docker context ls' shows those there are")
    arguments = ContextAPI.kwargs_from_context(environment=os.environ)
    if url := arguments.get("base_url"):
        name = os.environ.get("DOCKER_CONTEXT") or ContextAPI.get_current_context().Name
        if name != "default":
            return str(url), f"context {name}"
    runtime = os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")
    candidates = (
        ("/var/run/docker.sock", "default"),
        (f"{runtime}/docker.sock", "rootless"),
        (f"{runtime}/podman/podman.sock", "podman"),
        ("/run/podman/podman.sock", "podman"),
    )
    for path, origin in candidates:
        if Path(path).is_socket():
            return f"unix://{path}", origin
    return "unix:///var/run/docker.sock", "default"


def open_client() -> tuple[docker.APIClient, str]:
    """A client of the engine that the docker command line would use, else of a rootless or podman socket; its URL.

    Raises NoEngine, naming the endpoint, when nothing answers there.
    """
    url, origin = endpoint_in_use()
    arguments: dict[str, Any] = {"base_url": url}
    try:
        if origin == "DOCKER_HOST":
            arguments = dict(kwargs_from_env())
        elif origin.startswith("context"):
            arguments = dict(ContextAPI.kwargs_from_context(environment=os.environ))
        client = docker.APIClient(version="auto", timeout=_TIMEOUT, use_ssh_client=url.startswith("ssh:"), **arguments)
    except (docker.errors.DockerException, requests.RequestException, OSError) as error:
        raise NoEngine(f"cannot reach a container engine at {url} ({origin}): {_reason(error)}", _HINT) from error
    # A proxy from the environment must not come between us and the engine.
    client.trust_env = False
    # The stubs leave out where the client keeps what it read of ~/.docker/config.json.
    _forget_missing_helpers(client._auth_configs)  # type: ignore[attr-defined]
    return client, url


def _forget_missing_helpers(credentials: dict[str, Any]) -> None:
    """Configured credential helpers that are not installed would fail every build and pull, of public images, too."""
    if (store := credentials.get("credsStore")) and not shutil.which(f"docker-credential-{store}"):
        del credentials["credsStore"]
    for registry, helper in list((credentials.get("credHelpers") or {}).items()):
        if not shutil.which(f"docker-credential-{helper}"):
            del credentials["credHelpers"][registry]


def _reason(error: Exception) -> str:
    """The short human core of an error: docker and requests wrap it several times."""
    text = str(error)
    for pattern, reason in (
        ("FileNotFoundError", "no such socket"),
        ("PermissionError", "permission denied"),
        ("Permission denied", "permission denied"),
        ("ConnectionRefusedError", "connection refused"),
        ("Connection refused", "connection refused"),
        ("timed out", "timed out"),
    ):
        if pattern in text:
            return reason
    return text.splitlines()[0][:200] if text else type(error).__name__


@contextmanager
def asking(what: str, hint: str = "") -> Iterator[None]:
    """Turn any failure of the engine while it is asked to do `what` into one of ours."""
    try:
        yield
    except docker.errors.APIError as error:
        raise ServiceFailed(f"cannot {what}: {error.explanation or error}", hint) from error
    except docker.errors.DockerException as error:
        raise ServiceFailed(f"cannot {what}: {_reason(error)}", hint) from error
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise NoEngine(f"cannot {what}: the engine does not answer ({_reason(error)})", _HINT) from error


@contextmanager
def unless_gone() -> Iterator[None]:
    """What somebody else removed in the meantime is as gone as if we had done it."""
    try:
        yield
    except docker.errors.NotFound:
        return
    except docker.errors.APIError as error:
        if "is already in progress" not in str(error):
            raise


@contextmanager
def unless_taken(name: str) -> Iterator[None]:
    """Creating something whose name is in use means that somebody else made it: ours would have been seen."""
    try:
        yield
    except docker.errors.APIError as error:
        if error.status_code != 409:
            raise
        raise NotOurs(
            f"cannot create {name}: something that does not carry the labels of this environment has the name",
            hint=f"look at 'docker inspect {name}'; rename or remove it yourself",
        ) from error
