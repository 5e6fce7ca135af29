"""How devenv reaches the container engine, and how the engine's failures become devenv's.

Beside engine.py the only module that imports docker.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import docker.errors
import requests
from docker.context import ContextAPI
from docker.context.config import get_current_context_name
from docker.utils import kwargs_from_env

from devenv.errors import NoEngine, ServiceFailed

# A single engine call. Only a wedged engine takes longer; builds have their own.
_TIMEOUT = 120
_HINT = "run 'devenv doctor' to see what is missing, 'devenv doctor --fix' to mend it"


def endpoint_in_use() -> tuple[str, str]:
    """The engine's URL and where it was found: DOCKER_HOST, a context, rootless, podman or default."""
    if host := os.environ.get("DOCKER_HOST"):
        return host, "DOCKER_HOST"
    chosen = os.environ.get("DOCKER_CONTEXT") or get_current_context_name()
    if ContextAPI.get_context(chosen) is None:
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
    return client, url


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
    except docker.errors.BuildError as error:
        raise ServiceFailed(f"cannot {what}: {error}", hint) from error
    except (requests.RequestException, docker.errors.DockerException) as error:
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
