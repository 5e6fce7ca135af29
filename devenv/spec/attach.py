"""Understand the URLs of servers that somebody else runs: `attach` in devenv.yaml, DEVENV_ATTACH_* of the caller. Pure.

A service's Compose file says under `x-devenv: attach:` which schemes its URL may have, and what templates become of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import Any
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlsplit

from devenv.errors import ConfigError
from devenv.model import Attachment

# Variables of the caller that attach services: DEVENV_ATTACH_MYSQL, DEVENV_ATTACH_RABBITMQ_MANAGEMENT.
VARIABLE = "DEVENV_ATTACH_"
ATTACH, USER, PASSWORD = "attach", "user", "password"
# The setting that says where the others come from, for errors.
SOURCE = "source"
# A value of devenv.yaml that a variable of the caller replaces, all of it: a part would send it where the file says.
_REFERENCE = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}\Z")
# What files can hold in quotes of any kind, and drivers in URLs. No control character, no space, no quote.
_PLAIN = re.compile(r"""[!#%&()*+,\-./0-9:;<=>?@A-Z\[\]^_a-z{|}~]*\Z""")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?\Z")
# The one parameter of a URL that changes nothing: devenv names the same.
_HARMLESS = {"charset"}


def from_variables(environ: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return the settings of services that the caller's variables attach, by service."""
    found: dict[str, dict[str, str]] = {}
    for variable, value in sorted(environ.items()):
        if not variable.startswith(VARIABLE) or not value:
            continue
        name, key = variable.removeprefix(VARIABLE).lower(), ATTACH
        for option in ("management", USER, PASSWORD):
            if name.endswith(f"_{option}"):
                name, key = name.removesuffix(f"_{option}"), option
        found.setdefault(name.replace("_", "-"), {})[key] = value
    return found


def variable_of(name: str, settings: Mapping[str, str]) -> str:
    """Return the caller's variable that attaches this service by these settings; "" if a file does."""
    if not settings.get(SOURCE, "").startswith(VARIABLE):
        return ""
    option = "" if ATTACH in settings else next(f"_{key}" for key in settings if key != SOURCE)
    return VARIABLE + f"{name}{option}".upper().replace("-", "_")


def filled(settings: Mapping[str, str], environ: Mapping[str, str], where: str) -> dict[str, str]:
    """Return the settings with the caller's variables in place of `${env:NAME}`. Raise ConfigError for a missing one.

    `where` names the settings in the error.
    """
    values = {}
    for key, value in settings.items():
        if variable := _REFERENCE.match(value):
            if not (value := environ.get(variable[1], "")):
                raise ConfigError(
                    f"cannot attach {where}: {key} is ${{env:{variable[1]}}}, and this variable is not set",
                    f"set {variable[1]}, or remove {key!r}",
                )
        elif "${env:" in value:
            raise ConfigError(
                f"cannot attach {where}: {key} holds ${{env:…}} and other text beside it",
                "let the variable hold all of the value",
            )
        values[key] = value
    return values


def foreign(settings: Mapping[str, str]) -> list[str]:
    """Return the addresses in these settings, as a file has them, that are not on this host's loopback."""
    urls = [value for key, value in settings.items() if key not in (USER, PASSWORD) and not _REFERENCE.match(value)]
    return [address for url in urls if (address := _foreign_address(url))]


def _foreign_address(url: str) -> str:
    try:
        split = urlsplit(url)
        host, port = split.hostname or "", split.port
    except ValueError:
        return "(no address)"
    return "" if is_loopback(host) else f"{host}:{port}" if port else host or "(no address)"


def is_loopback(host: str) -> bool:
    """Return whether a host is this one's loopback address."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def attachment(name: str, rules: Mapping[str, Any], settings: Mapping[str, str]) -> Attachment:
    """Return what the settings of an attached service say, by the rules of its Compose file.

    Raise ConfigError, which shows no password, for a URL that devenv cannot use.
    """
    where = f"{name} (by {settings.get(SOURCE, 'the record')})"
    if ATTACH not in settings:
        raise ConfigError(
            f"cannot attach {where}: no URL", f"give 'attach', or {VARIABLE}{name.upper().replace('-', '_')}"
        )
    url = _split(where, ATTACH, settings[ATTACH], rules["schemes"])
    login = _login(where, url, settings, rules)
    words = {f"attach.{key}": value for key, value in login.items()}
    userinfo = ":".join(quote(value, safe="") for value in login.values())
    words["attach.login"] = f"{userinfo}@" if login[USER] else ""
    path = unquote(url.path.removeprefix("/")) or rules.get("path", "")
    if not _PLAIN.match(path):
        raise _unusable(where, ATTACH, "the path in it has a character that devenv cannot write")
    words |= {"attach.path": path, "attach.url_path": quote(path.rstrip("/") or path, safe="/")}
    places = {rules["endpoint"]: _place(url, rules["schemes"])}
    for key, other in rules.get("others", {}).items():
        more = settings.get(key) or f"{next(iter(other['schemes']))}://{url.hostname}:{other['port']}"
        split = _split(where, key, more, other["schemes"])
        places[key] = _place(split, other["schemes"])
        words[f"attach.{key}"] = quote(unquote(split.path.rstrip("/")), safe="/")
    host, port = places[rules["endpoint"]]
    shown = f"{url.scheme}://{host}:{port}/{words['attach.url_path'].lstrip('/')}"
    return Attachment(places, words, shown.rstrip("/"), dict(settings))


def _split(where: str, key: str, url: str, schemes: Mapping[str, int]) -> SplitResult:
    """Take a URL apart. Raise ConfigError if devenv cannot use it."""
    expected = f"{next(iter(schemes))}://USER:PASSWORD@HOST:PORT"
    try:
        split = urlsplit(url)
        host, _ = split.hostname, split.port
    except ValueError:
        raise _unusable(where, key, f"it is no URL such as {expected}") from None
    if split.scheme not in schemes:
        shown = f"its scheme is {split.scheme}" if "://" in url and split.scheme else "it has no scheme"
        raise _unusable(where, key, f"{shown}, and devenv knows {' and '.join(schemes)}: it uses no TLS there")
    if not host or not _HOST.match(host):
        raise _unusable(where, key, f"it has no host name or IPv4 address, as in {expected}")
    if unknown := sorted({*parse_qs(split.query, keep_blank_values=True)} - _HARMLESS) or split.fragment:
        raise _unusable(where, key, f"devenv cannot use {' and '.join(unknown)} in it" if split.query else "it has a #")
    return split


def _login(where: str, url: SplitResult, settings: Mapping[str, str], rules: Mapping[str, Any]) -> dict[str, str]:
    found = {
        USER: settings.get(USER) or unquote(url.username or ""),
        PASSWORD: settings.get(PASSWORD) or unquote(url.password or ""),
    }
    if rules.get("login", "required") == "required" and not found[USER]:
        raise _unusable(where, ATTACH, "it has no login of an administrator, who creates what components get")
    for key, value in found.items():
        if not _PLAIN.match(value):
            raise _unusable(where, key, "it has a character that not every file can hold: a quote, a $, a space …")
    return found


def _place(url: SplitResult, schemes: Mapping[str, int]) -> tuple[str, int]:
    return url.hostname or "", url.port or schemes[url.scheme]


def _unusable(where: str, key: str, why: str) -> ConfigError:
    return ConfigError(f"cannot attach {where}: cannot use {key}: {why}", "'devenv help attach' shows URLs that work")


def laid_over(rules: Mapping[str, Any], found: Attachment) -> Iterable[Mapping[str, Any]]:
    """Return what an attachment lays over a service's `x-devenv`, in order."""
    parts = ("outputs", "environment", "component", "probe", "provisioner", "wire", "citest")
    endpoints = {key: {"url": url} for key, url in rules["urls"].items()}
    yield {"endpoints": endpoints, **{key: rules[key] for key in parts if key in rules}}
    if found.words[f"attach.{USER}"]:
        yield rules.get("logged_in", {})
