"""Find the user's login for a registry where `docker login` keeps it: in config.json, or with a credential helper.

The docker library would do this, too. It stumbles over a helper that fails, waits for one that hangs, and asks helpers
about every registry before it builds an image.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from devenv.engine import docker_config

_HUB = "docker.io"
# What `docker login` and helpers call that registry.
_HUB_SERVER = "https://index.docker.io/v1/"
# Seconds that a helper may take: it may ask the user to unlock something.
_HELPER_SECONDS = 30
# With this user, the secret is a token.
_TOKEN_USER = "<token>"  # noqa: S105
# The words of a helper that works and has no login for a registry.
_NOT_FOUND = "credentials not found"

# What an engine takes: username and password, or identitytoken. Empty without a login.
Keys = Mapping[str, str]


class Login(NamedTuple):
    """The headers with which to pull, and why they hold no login although the settings promise one ("" otherwise)."""

    headers: Mapping[str, str]
    fault: str = ""


def login_for(image: str, progress: Callable[[str], None]) -> Login:
    """Return the user's login for the registry of an image."""
    settings, registry = docker_config.settings(), registry_of(image)
    server = _HUB_SERVER if registry == _HUB else registry
    helpers = settings.mapping("credHelpers")
    helper = helpers.get(server) or helpers.get(registry) or settings.text("credsStore")
    keys, fault = _ask(str(helper), server, progress) if helper else ({}, settings.fault)
    if not keys:
        keys, garbled = _stored(settings.mapping("auths"), registry)
        fault = fault or garbled
    if not keys:
        return Login({}, fault)
    content = json.dumps({**keys, "serveraddress": server}).encode()
    return Login({"X-Registry-Auth": base64.urlsafe_b64encode(content).decode()})


def registry_of(image: str) -> str:
    """Return the registry in an image's reference: a host, or Docker's own if it names none."""
    host, slash, _ = image.partition("/")
    return host if slash and ("." in host or ":" in host or host == "localhost") else _HUB


def _ask(helper: str, server: str, progress: Callable[[str], None]) -> tuple[Keys, str]:
    """Ask a credential helper. Return the login, if it has one, and why it could not say."""
    # Imported when needed: hardly any command pulls.
    import subprocess

    name = f"docker-credential-{helper}"
    if not (program := shutil.which(name)):
        return {}, f"{name} is not installed"
    progress(f"asking {name} for a login")
    try:
        done = subprocess.run(  # noqa: S603  the user's own settings name it
            [program, "get"], input=server, capture_output=True, encoding="utf-8", errors="replace",
            timeout=_HELPER_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {}, f"{name} does not answer in {_HELPER_SECONDS} s"
    except OSError as error:
        return {}, f"{name} does not start ({error.strerror})"
    if done.returncode:
        words = next(iter((done.stdout.strip() or done.stderr.strip()).splitlines()), "")[:200]
        failed = f"{name} fails (exit code {done.returncode}{': ' * bool(words)}{words})"
        return {}, "" if _NOT_FOUND in done.stdout else failed
    try:
        answer = json.loads(done.stdout)
        user, secret = str(answer["Username"]), str(answer["Secret"])
    except (ValueError, LookupError, TypeError):
        # Its output may hold a secret.
        return {}, f"{name} gives an answer that is no login"
    return _keys(user, secret), ""


def _stored(logins: Mapping[str, Any], registry: str) -> tuple[Keys, str]:
    """Return the login that config.json itself holds, if any, and whether it is garbled."""
    for server, entry in logins.items():
        if _host(server) != registry or not isinstance(entry, dict) or not entry:
            continue
        if token := entry.get("identitytoken"):
            return {"identitytoken": str(token)}, ""
        try:
            text = base64.b64decode(entry.get("auth") or "").decode()
        except (ValueError, TypeError):
            return {}, f"the login for {registry} in docker's config.json is garbled"
        user, _, password = text.rstrip("\0").partition(":")
        return _keys(user or str(entry.get("username", "")), password or str(entry.get("password", ""))), ""
    return {}, ""


def _keys(user: str, secret: str) -> Keys:
    if user == _TOKEN_USER:
        return {"identitytoken": secret}
    return {"username": user, "password": secret} if user or secret else {}


def _host(server: str) -> str:
    """Return the registry that config.json calls `server`: a host, or a URL in older files."""
    host = server.partition("://")[2] or server
    host = host.partition("/")[0]
    return _HUB if host == "index.docker.io" else host
