"""Check names, convert them for SQL, and name what devenv creates on the engine.

A name becomes part of the names of engine objects, of paths, URLs, SQL and shell commands. Under these rules, no name
needs escaping, looks like an option or leads out of a folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from devenv.errors import ConfigError

# For services, profiles, environments and snapshots.
NAME = re.compile(r"[a-z][a-z0-9-]{0,30}\Z")
NAME_RULE = "at most 31 lower-case letters, digits and dashes, a letter first"
# A component's name becomes the name of databases, users, vhosts and files. MySQL allows its users 32 characters.
COMPONENT = re.compile(r"[a-z][a-z0-9_-]{0,30}\Z")
COMPONENT_RULE = "at most 31 lower-case letters, digits, - and _, a letter first"
# An image, in Docker's own grammar, shortened: [host[:port]/]path[:tag][@digest].
IMAGE = re.compile(r"[a-zA-Z0-9][\w.-]*(?::\d+)?(?:/[\w.-]+)*(?::[\w.-]+)?(?:@sha256:[0-9a-f]{64})?\Z", flags=re.ASCII)

# A registry, with a folder in it. A first part without a dot or a port would be a folder of Docker's own registry.
REGISTRY = re.compile(
    r"(?:localhost|[a-z0-9-]+(?:\.[a-z0-9-]+)+|[a-z0-9.-]+(?=:\d))(?::\d+)?(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*\Z"
)
REGISTRY_RULE = "HOST[:PORT][/FOLDER], like registry.example.org/team"


def check_name(name: str, what: str) -> str:
    """Return the name. Raise ConfigError unless `what` can have it."""
    if not NAME.match(name):
        raise ConfigError(f"cannot use {name!r} as the name of {what}", hint=f"use {NAME_RULE}")
    return name


def check_component(name: str) -> str:
    """Return the name. Raise ConfigError unless a component can have it."""
    if not COMPONENT.match(name):
        raise ConfigError(f"cannot name a component {name!r}", hint=f"use {COMPONENT_RULE}")
    return name


def user_name(uid: int) -> str:
    """Return what people call a user of this host: "user nova", or "user id 54321" if the system has no name."""
    import pwd

    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user id {uid}"


def identifier(component: str) -> str:
    """Return a component's name with `_` for each dash, which SQL, for one, would need in quotes."""
    return component.replace("-", "_")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return "did you mean 'mysql'?" if one of the known words is close to this one, else an empty string."""
    import difflib

    close = difflib.get_close_matches(word, sorted(known), n=1)
    return f"did you mean {close[0]!r}?" if close else ""


def hint_for(word: str, known: Iterable[str], lead: str) -> str:
    """Return the hint for a word that is not known: the closest known one, then `lead` and all of them."""
    known = sorted(known)
    return f"{did_you_mean(word, known)} {lead}: {', '.join(known) or 'none'}".lstrip()


def near_ones(word: str, known: Iterable[str]) -> list[str]:
    """Return those of many known words that this one is part of or close to; what all begin with does not count."""
    import difflib
    from os.path import commonprefix

    known = sorted(known)
    begin = commonprefix(known)  # noqa: RUF071, since these are words, not paths
    word, rest = word.removeprefix(begin), {one.removeprefix(begin): one for one in known}
    close = difflib.get_close_matches(word, rest, n=3)
    return [one for short, one in rest.items() if word in short or short in close]


@dataclass(frozen=True)
class Pair:
    """One component's part of one service. It prints as "mysql/nova".

    Without a component it stands for the service's own preparation and prints as "mysql".
    """

    service: str
    component: str = ""

    @classmethod
    def parse(cls, text: str) -> Pair:
        """Return the pair that prints as this text."""
        service, _, component = text.partition("/")
        return cls(service, component)

    def __str__(self) -> str:
        return f"{self.service}/{self.component}" if self.component else self.service


@dataclass(frozen=True)
class Names:
    """The names of an environment's objects on the engine."""

    environment: str

    @property
    def network(self) -> str:
        """Return the network's name; all other names begin with it."""
        return f"devenv-{self.environment}"

    def container(self, service: str) -> str:
        """Return the name of a service's container."""
        return f"{self.network}-{service}"

    def volume(self, service: str, short: str) -> str:
        """Return the name of the volume that the service calls `short`."""
        return f"{self.container(service)}-{short}"

    def short(self, service: str, volume: str) -> str:
        """Return what the service calls a volume of this name."""
        return volume.removeprefix(f"{self.container(service)}-")

    def belongs(self, name: str, service: str) -> bool:
        """Return whether a container or volume of this name can be the service's."""
        return f"{name}-".startswith(f"{self.container(service)}-")

    def service(self, name: str, services: Iterable[str]) -> str:
        """Return which of the services a container or volume of this name belongs to, or an empty string."""
        # One service's name may begin with another's.
        return max((service for service in services if self.belongs(name, service)), key=len, default="")
