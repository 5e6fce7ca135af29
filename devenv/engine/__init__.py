"""Talk to the container engine: the verbs of any engine, and how Docker, Podman and Kubernetes do them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from devenv.errors import ConfigError
from devenv.names import hint_for

if TYPE_CHECKING:
    from devenv.engine.protocol import Engine

# The kinds of engines; Docker's API is also Podman's.
DOCKER, KUBERNETES = "docker", "kubernetes"
KINDS = (DOCKER, KUBERNETES)


def connect(choice: str = "", known: str = "", context: str = "", namespace: str = "") -> Engine:
    """Connect to an engine of the kind `choice`, else to the one at the URL `known`, else as the docker command would.

    A Kubernetes cluster is that of `context` and `namespace`; without these, of DEVENV_KUBE_CONTEXT and
    DEVENV_KUBE_NAMESPACE, else of `known`, else of the kubeconfig. The docker command line alone knows where another
    engine is.

    Raises NoEngine, naming the endpoint, when nothing answers there; ConfigError for what nobody has.
    """
    # Imported here: whoever imports one room of this package needs no engine.
    if (choice or kind_of(known)) == KUBERNETES:
        from devenv.engine.kubernetes.connection import open_cluster
        from devenv.engine.kubernetes.kubernetes import Kubernetes

        place = asked_place(context, namespace)
        return Kubernetes(open_cluster(*place, known), named=any(place))
    from devenv.engine.connection import open_connection
    from devenv.engine.docker import Docker

    return Docker(open_connection())


def kind_of(url: str) -> str:
    """Return the kind of the engine at this URL, nothing without a URL."""
    return KUBERNETES if url.startswith(f"{KUBERNETES}://") else DOCKER if url else ""


def asked_place(context: str = "", namespace: str = "") -> tuple[str, str]:
    """Return the context and the namespace that the user asks for, by option or by variable; empty ones without."""
    place = ("DEVENV_KUBE_CONTEXT", context), ("DEVENV_KUBE_NAMESPACE", namespace)
    found = [given or os.environ.get(variable, "") for variable, given in place]
    return found[0], found[1]


def asked_for(option: str = "") -> str:
    """Return the kind of engine that the user asks for: by option, by DEVENV_ENGINE, or not at all.

    Raises ConfigError for another word.
    """
    named = option or os.environ.get("DEVENV_ENGINE", "")
    if named and named not in KINDS:
        source = "--engine" if option else "DEVENV_ENGINE"
        hint = "docker stands for Podman, too" if named == "podman" else hint_for(named, KINDS, "devenv has")
        raise ConfigError(f"cannot use engine {named!r} (from {source})", hint=hint)
    return named
