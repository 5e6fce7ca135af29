"""Find which cluster and which namespace devenv uses: as asked for, as the kubeconfig says, or those of its own pod."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from devenv.errors import ConfigError, NoEngine
from devenv.names import hint_for

SCHEME = "kubernetes://"
# Where the kubelet puts the login of a pod's service account.
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\Z")


@dataclass(frozen=True)
class Login:
    """A context of the kubeconfig and a namespace. `inside`, devenv runs in a pod of that cluster, and has no context.

    `origin` says where the choice is from, in words. `domain` is what a name of a Service needs at its end, in a pod of
    another namespace.
    """

    context: str
    namespace: str
    inside: bool = False
    origin: str = ""
    domain: str = ""

    @property
    def url(self) -> str:
        """Return kubernetes://CONTEXT/NAMESPACE. A context's name may hold anything, so it is quoted."""
        return f"{SCHEME}{quote(self.context, safe='')}/{self.namespace}"

    @property
    def arguments(self) -> list[str]:
        """Return kubectl's options for this cluster and namespace."""
        return [*([f"--context={self.context}"] if self.context else []), f"--namespace={self.namespace}"]

    @property
    def words(self) -> str:
        """Name the cluster for a person."""
        return "this pod's cluster" if self.inside else f"the cluster of context {self.context}"


def parts(url: str) -> tuple[str, str]:
    """Return the context and the namespace of such a URL; each may be empty."""
    context, _, namespace = url.removeprefix(SCHEME).partition("/")
    return unquote(context), namespace


def find_login(context: str = "", namespace: str = "") -> Login:
    """Return the login for this context and namespace; empty ones are those that kubectl would use.

    Without a kubeconfig, a pod's own service account is the login. Raises NoEngine if there is no login at all,
    ConfigError if the names are wrong.
    """
    if namespace and not _NAMESPACE.match(namespace):
        raise ConfigError(
            f"cannot use namespace {namespace!r}: that is no name of a namespace",
            hint="use up to 63 lower-case letters, digits and '-'",
        )
    if not context and _in_pod() and not any(path.exists() for path in _files()):
        own = _own_namespace()
        domain = f".{namespace}" if namespace not in ("", own) else ""
        return Login("", namespace or own, inside=True, origin="the pod's service account", domain=domain)
    config = _read()
    chosen = context or config.current
    if not chosen:
        raise NoEngine(
            f"cannot choose a cluster: {config.where} has no current context",
            hint=f"choose one with --context or 'kubectl config use-context'; {_known(config)}",
        )
    if chosen not in config.namespaces:
        raise ConfigError(
            f"cannot find context {chosen!r} in {config.where}", hint=hint_for(chosen, config.namespaces, "it has")
        )
    return Login(chosen, namespace or config.namespaces[chosen] or "default", origin=f"context {chosen}")


def _known(config: _Config) -> str:
    return f"it has: {', '.join(sorted(config.namespaces))}" if config.namespaces else "it has none"


# ---- a pod of the cluster ----------------------------------------------------------------------------------------


def _in_pod() -> bool:
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST")) and (ACCOUNT / "token").exists()


def _own_namespace() -> str:
    try:
        return (ACCOUNT / "namespace").read_text().strip() or "default"
    except OSError:
        return "default"


# ---- the kubeconfig ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Config:
    """The names in the kubeconfig files, merged as kubectl merges them: whoever says something first is right."""

    where: str
    current: str = ""
    namespaces: Mapping[str, str] = field(default_factory=dict)


def _files() -> list[Path]:
    """Return the files that kubectl would read; not all need to exist."""
    if named := os.environ.get("KUBECONFIG"):
        return [Path(name) for name in named.split(os.pathsep) if name]
    return [Path("~/.kube/config").expanduser()]


def _read() -> _Config:
    files = [path for path in _files() if path.exists()]
    if not files:
        source = "that KUBECONFIG names" if os.environ.get("KUBECONFIG") else "of this user"
        raise NoEngine(
            f"cannot find a cluster: there is no kubeconfig at {', '.join(map(str, _files()))} ({source})",
            hint="log in to a cluster as for kubectl, or name its kubeconfig in KUBECONFIG",
        )
    current, namespaces = "", dict[str, str]()
    for path in files:
        data = _content(path)
        current = current or str(data.get("current-context") or "")
        for entry in data.get("contexts") or ():
            settings = entry.get("context") or {}
            namespaces.setdefault(str(entry["name"]), str(settings.get("namespace") or ""))
    return _Config(", ".join(map(str, files)), current, namespaces)


def _content(path: Path) -> dict[str, Any]:
    """Return a kubeconfig's content. Raise NoEngine if nobody can read it as one."""
    import yaml

    try:
        # The loader in C takes a thirtieth of the time: certificates make a kubeconfig long.
        data = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(path.read_bytes()).get_single_data()
    except OSError as error:
        raise NoEngine(f"cannot read {path}: {error.strerror}", hint="make it readable for this user") from error
    except yaml.YAMLError as error:
        raise _no_kubeconfig(path) from error
    data = {} if data is None else data
    contexts = (data.get("contexts") or []) if isinstance(data, dict) else None
    if not isinstance(contexts, list) or not all(isinstance(one, dict) and "name" in one for one in contexts):
        raise _no_kubeconfig(path)
    return dict(data)


def _no_kubeconfig(path: Path) -> NoEngine:
    return NoEngine(f"cannot read {path}: it is no kubeconfig", hint="'kubectl config view' says what is wrong with it")
