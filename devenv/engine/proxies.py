"""Choose the proxies for the steps of a build.

To a build's step, 127.0.0.1 is its own container. With a proxy on this machine's loopback, as cntlm and px are, devenv
builds over the network of the engine's host. Where that is no help, devenv leaves the proxy out.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from devenv.engine import docker_config
from devenv.engine.protocol import About

_SCHEMES = ("http", "https", "ftp")
_NO_PROXY = "no_proxy"


@dataclass(frozen=True)
class BuildProxies:
    """The proxies of a build.

    `arguments` are build arguments: the engine gives them to the steps and keeps them out of the image. With
    `host_network`, the steps need the network of the engine's host. `left_out` says which proxies devenv leaves out and
    why; it holds no proxy, which may have a password.
    """

    arguments: Mapping[str, str] = field(default_factory=dict)
    host_network: bool = False
    left_out: str = ""


def for_builds(url: str, about: Callable[[], About]) -> BuildProxies:
    """Return the proxies for builds on the engine at `url`. This asks what the engine is only if that matters."""
    found = _found(url)
    local = [name for name, proxy in found.items() if name != _NO_PROXY and _is_loopback(proxy)]
    if not local or (engine := about()).loopback:
        return BuildProxies(_in_both_cases(found), bool(local))
    names = ", ".join(local)
    left_out = f"{names} left out: a build on {engine.name} at {url} cannot reach a proxy on this machine's loopback"
    return BuildProxies(_in_both_cases({name: found[name] for name in found if name not in local}), False, left_out)


def _found(url: str) -> dict[str, str]:
    """Return the user's proxies by the lower case name of their variable: the environment's, else docker's own."""
    own = docker_config.proxies(url)

    def one(name: str) -> str:
        return os.environ.get(name) or os.environ.get(name.upper()) or own.get(name, "")

    # The package manager in a build does not know all_proxy.
    found = {f"{scheme}_proxy": one(f"{scheme}_proxy") or one("all_proxy") for scheme in _SCHEMES}
    found[_NO_PROXY] = one(_NO_PROXY)
    return {name: proxy for name, proxy in found.items() if proxy}


def _in_both_cases(proxies: Mapping[str, str]) -> dict[str, str]:
    """Return the proxies by both names of each: some programs read only one."""
    return {case: proxy for name, proxy in proxies.items() for case in (name, name.upper())}


def _is_loopback(proxy: str) -> bool:
    # Imported when needed: hardly any command builds.
    import ipaddress

    try:
        host = (urlsplit(proxy if "://" in proxy else f"//{proxy}").hostname or "").rstrip(".")
    except ValueError:
        return False
    if host in ("localhost", "localhost.localdomain") or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        try:
            # Short forms, such as 127.1.
            address = ipaddress.ip_address(socket.inet_aton(host))
        except OSError:
            return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified
