"""What things may be called, and how the same name is spelled elsewhere.

A name becomes part of names on the engine, of paths, URLs, SQL, and what a shell is told. There is nothing to escape in
it, and nothing that looks like an option or leads out of a folder.
"""

from __future__ import annotations

import re

from devenv.errors import ConfigError

# Of services, profiles, environments, snapshots.
NAME = re.compile(r"[a-z][a-z0-9-]{0,30}\Z")
NAME_RULE = "lower-case letters, digits and dashes, a letter first, at most 31"
# It becomes the name of databases, users, vhosts and files. MySQL allows its users 32 characters.
COMPONENT = re.compile(r"[a-z][a-z0-9_-]{0,30}\Z")
COMPONENT_RULE = "lower-case letters, digits, - and _, a letter first, at most 31"
_OURS = "localhost/devenv/"
# An image, in Docker's own grammar, shortened: [host[:port]/]path[:tag][@digest].
IMAGE = re.compile(r"[a-zA-Z0-9][\w.-]*(?::\d+)?(?:/[\w.-]+)*(?::[\w.-]+)?(?:@sha256:[0-9a-f]{64})?\Z", flags=re.ASCII)


def check_name(name: str, what: str) -> str:
    """The name itself. Raises ConfigError unless it can be used as what it is to be."""
    if not NAME.match(name):
        raise ConfigError(f"cannot use {name!r} as the name of {what}", hint=NAME_RULE)
    return name


def check_component(name: str) -> str:
    """The name itself. Raises ConfigError unless a component can have it."""
    if not COMPONENT.match(name):
        raise ConfigError(f"cannot name a component {name!r}", hint=COMPONENT_RULE)
    return name


def identifier(component: str) -> str:
    """A component's name where a dash would have to be quoted, as in SQL."""
    return component.replace("-", "_")


def familiar(reference: str) -> str:
    """An image's reference as people write it: without the registry and the namespaces that engines add."""
    for implied in ("docker.io/library/", "index.docker.io/library/", "docker.io/", "index.docker.io/"):
        if reference.startswith(implied):
            return reference.removeprefix(implied)
    # podman's namespace for what was made on the host. Of others' images it is part of the name.
    return reference.removeprefix("localhost/") if reference.startswith(_OURS) else reference
