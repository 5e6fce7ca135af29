"""Find the container engine, reach it, and turn its failures into devenv's errors."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from devenv.engine import docker_config
from devenv.engine.http import Client, HttpClient, Refused, Unreachable, speaks
from devenv.errors import NoEngine, NoSpace, NotOurs, ServiceFailed, tells_of_full_disk

if TYPE_CHECKING:
    from devenv.engine.sdk import Sdk

_HINT = "'devenv doctor' shows what is missing, 'devenv doctor --fix' fixes it"
_REFUSED_HINT = "'devenv doctor' checks the engine, and the engine's own log says more; then run the same again"
_DEFAULT_SOCKET = "/var/run/docker.sock"
_ROOTFUL_PODMAN = "/run/podman/podman.sock"
_TLS = re.compile(r"\[SSL(?:: \w+)?\] ([^(]+)")
_TLS_HINT = "ca.pem in DOCKER_CERT_PATH must have signed its certificate, and its own ca.pem cert.pem there"
# What `_reason` says of a socket that does not exist, and of one that this user may not open.
_ABSENT, _DENIED = "no such socket", "permission denied"
# Seconds until somebody at a socket has to let a client in.
_KNOCK_SECONDS = 5.0


# ---- where it is -------------------------------------------------------------------------------------------------


class _Socket(NamedTuple):
    """A place where an engine may listen, where that is known from, and why nothing answers there ("" if it does)."""

    path: str
    origin: str
    fault: str


def endpoint_in_use() -> tuple[str, str]:
    """Return the engine's URL and where devenv found it: DOCKER_HOST, a context, rootless, podman or default.

    If nobody named one, it is the first socket that lets this user in; without any, the first that exists.
    """
    if named := _named_endpoint():
        return named
    found: list[_Socket] = []
    for one in _sockets():
        if not one.fault:
            return f"unix://{one.path}", one.origin
        found.append(one)
    # Of a socket in a folder that this user may not enter, nobody knows whether it exists.
    one = next((one for one in found if _exists(one.path)), found[0])
    return f"unix://{one.path}", one.origin


def passed_over(url: str) -> list[str]:
    """Return the sockets that devenv tried in vain before or beside that one, each as "PATH (reason)"."""
    found: list[str] = []
    for one in () if _named_endpoint() else _sockets():
        if not one.fault:
            break
        if one.fault != _ABSENT and url != f"unix://{one.path}":
            found.append(f"{one.path} ({one.fault})")
    return found


def _named_endpoint() -> tuple[str, str] | None:
    """Return the engine that DOCKER_HOST or a docker context names: devenv never takes another one for it."""
    if host := os.environ.get("DOCKER_HOST"):
        return host, "DOCKER_HOST"
    if (context := docker_config.current_context()) != "default":
        return docker_config.endpoint_of(context) or f"unix://{_DEFAULT_SOCKET}", f"context {context}"
    return None


def _sockets() -> Iterator[_Socket]:
    """Yield the sockets of engines, those that the docker command line uses first."""
    own = f"/run/user/{os.getuid()}"
    # After `su` or `sudo -E`, the variable may be unset or name another user's folder.
    runtimes = dict.fromkeys((os.environ.get("XDG_RUNTIME_DIR") or own, own))
    places = [(_DEFAULT_SOCKET, "default")]
    places += [(f"{runtime}/docker.sock", "rootless") for runtime in runtimes]
    places += [(f"{runtime}/podman/podman.sock", "podman") for runtime in runtimes]
    for path, origin in (*places, (_ROOTFUL_PODMAN, "podman")):
        yield _Socket(path, origin, _fault(path))


def _fault(path: str) -> str:
    """Return why nobody lets this user in at a socket, "" if somebody does."""
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(_KNOCK_SECONDS)
            client.connect(path)
    except (FileNotFoundError, NotADirectoryError):
        return _ABSENT
    except OSError as error:
        return _reason(error)
    return ""


def _exists(path: str) -> bool:
    try:
        Path(path).stat()
    except OSError:
        return False
    return True


# ---- how it is reached -------------------------------------------------------------------------------------------


class Connection:
    """A way to the engine at `url`: `client` for plain requests, `sdk` for what only the docker library does."""

    client: Client

    def __init__(self, url: str, origin: str) -> None:
        self.url, self._origin = url, origin
        self.named = origin == "DOCKER_HOST" or origin.startswith("context ")
        self._version = "auto"
        if _plain(url, origin):
            self.client = plain = HttpClient(url)
            self._version = plain.version
        else:
            self.client = self.sdk

    @cached_property
    def sdk(self) -> Sdk:
        # Imported when needed: the import takes longer than most commands take.
        from devenv.engine.sdk import Sdk

        if not self.url.startswith("ssh:"):
            return Sdk(self.url, self._origin, self._version)
        from devenv.engine.ssh import Bridge

        self._bridge = Bridge(self.url)
        return Sdk(f"unix://{self._bridge.path}", "ssh", self._version)


def _plain(url: str, origin: str) -> bool:
    """Return whether devenv's own client will do: nothing asks for TLS. A context may, unless it names a socket."""
    if url.startswith(("unix:", "ssh:")):
        return speaks(url)
    tls = os.environ.get("DOCKER_TLS_VERIFY") or os.environ.get("DOCKER_CERT_PATH")
    return origin == "DOCKER_HOST" and not tls and speaks(url)


def open_connection() -> Connection:
    """Connect to the engine that the docker command line would use, else to one at a rootless or podman socket.

    Raises NoEngine, which names the endpoint, if nothing answers there.
    """
    url, origin = endpoint_in_use()
    try:
        return Connection(url, origin)
    except (Refused, OSError) as error:
        reason = _reason(error)
        hint = error.hint if isinstance(error, Unreachable) else _hint(url, reason)
        raise NoEngine(f"cannot reach a container engine at {url} ({origin}): {reason}", hint) from error


def _hint(url: str, reason: str) -> str:
    """Return what to do if nothing answers at that URL, and which other sockets devenv tried."""
    hint = _TLS_HINT if reason.startswith("TLS: ") else _HINT
    if reason == _DENIED and url == f"unix://{_DEFAULT_SOCKET}":
        from devenv.engine.install import Host, group_hint

        hint = group_hint(Host())
    others = passed_over(url)
    return f"{hint}; devenv also tried {', '.join(others)}" if others else hint


# ---- how it fails ------------------------------------------------------------------------------------------------


def _reason(error: Exception) -> str:
    """Return the cause of an error in few words: libraries wrap it several times."""
    text = str(error)
    if isinstance(error, Unreachable):
        return text
    if tls := _TLS.search(text):
        return f"TLS: {tls[1].strip()}"
    for pattern, reason in (
        ("FileNotFoundError", _ABSENT),
        ("No such file", _ABSENT),
        ("PermissionError", _DENIED),
        ("Permission denied", _DENIED),
        ("ConnectionRefusedError", "connection refused"),
        ("Connection refused", "connection refused"),
        ("timed out", "timed out"),
    ):
        if pattern in text:
            return reason
    return text.splitlines()[0][:200] if text else type(error).__name__


@contextmanager
def asking(what: str, hint: str = "") -> Iterator[None]:
    """Turn any failure of the engine while it does `what` into one of devenv's errors."""
    try:
        yield
    except Refused as error:
        raise failure(f"cannot {what}: {error}", hint or _REFUSED_HINT) from error
    except OSError as error:
        hint = error.hint if isinstance(error, Unreachable) else _HINT
        raise NoEngine(f"cannot {what}: the engine does not answer ({_reason(error)})", hint) from error


def failure(message: str, hint: str, detail: Sequence[str] = ()) -> ServiceFailed:
    """Return the error for a request that an engine refused or could not finish; the texts hold the engine's words."""
    kind = NoSpace if tells_of_full_disk("\n".join((message, *detail))) else ServiceFailed
    return kind(message, hint, detail)


def says_taken(error: Refused) -> bool:
    """Return whether the engine refused to create something because its name is in use."""
    # Docker answers with that status; Podman with 500, as for any failure.
    return error.status == 409 or bool(re.search(r"\balready (in use|used|exists)\b", str(error)))


@contextmanager
def unless_taken(name: str) -> Iterator[None]:
    """Raise NotOurs if the name of the new object is in use: devenv would have seen an object of its own."""
    try:
        yield
    except Refused as error:
        if not says_taken(error):
            raise
        raise NotOurs(
            f"cannot create {name}: something that is not of this environment has the name",
            hint=f"see what it is with 'docker inspect {name}'; rename or remove it yourself",
        ) from error


def made_late(connection: Connection, path: str, labels: Mapping[str, str]) -> str | None:
    """Return the id of the network or container at `path` if it carries these labels, "" if it carries others.

    The engine finishes what a killed devenv asked for. Then an object of this environment already has the name. Return
    None while the engine is still making it: it refuses the name then, and shows nobody whose it is.
    """
    try:
        found = connection.client.ask("GET", path)
    except Refused as error:
        return None if error.status == 404 else ""
    return str(found["Id"]) if labels.items() <= (found.get("Config", found)["Labels"] or {}).items() else ""


def own_container() -> str:
    """Return the container that this process runs in, as the engine may know it, or nothing."""
    inside = any(Path(mark).exists() for mark in ("/.dockerenv", "/run/.containerenv"))
    return socket.gethostname() if inside else ""
