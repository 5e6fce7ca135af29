"""Find probes and provisioners by name: devenv's own, and those that other installed packages bring."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from devenv.errors import ConfigError
from devenv.names import hint_for

if TYPE_CHECKING:
    from devenv.services.base import Check, Provisioner

PROBES = "devenv.probes"
PROVISIONERS = "devenv.provisioners"
# A test keeps these equal to pyproject.toml's entry points. Reading those takes longer than a probe.
OWN = {
    PROBES: {
        "mysql": "devenv.services.mysql:check",
        "mariadb": "devenv.services.mariadb:check",
        "postgresql": "devenv.services.postgresql:check",
        "amqp": "devenv.services.rabbitmq:check",
        "etcd": "devenv.services.etcd:check",
        "keystone": "devenv.services.keystone:check",
    },
    PROVISIONERS: {
        "mysql": "devenv.services.mysql:MySQL",
        "mariadb": "devenv.services.mariadb:MariaDB",
        "postgresql": "devenv.services.postgresql:PostgreSQL",
        "rabbitmq": "devenv.services.rabbitmq:RabbitMQ",
        "etcd": "devenv.services.etcd:Etcd",
        "keystone": "devenv.services.keystone:Keystone",
    },
}
# The package that a kind needs and an installed devenv may lack, if it was installed without its extra.
NEEDS = {"postgresql": "pg8000"}


def check_packages(*kinds: str) -> None:
    """Raise ConfigError if probes and provisioners of these kinds lack a package. It loads none."""
    for kind in NEEDS.keys() & kinds:
        from importlib.util import find_spec

        package = NEEDS[kind]
        if find_spec(package) is None:
            reason = f"the Python package {package} is not installed"
            raise ConfigError(f"cannot use {kind}: {reason}", f"install it beside devenv: pip install {package}")


@cache
def load_probe(kind: str) -> Check:
    """Return the probe of that name. Raise ConfigError if no installed package brings it, or it lacks another one."""
    check: Check = _load(PROBES, kind, "a probe")
    return check


def load_provisioner(kind: str) -> type[Provisioner]:
    """Return the provisioner of that name. Raise ConfigError as `load_probe` does."""
    provisioner: type[Provisioner] = _load(PROVISIONERS, kind, "a provisioner")
    return provisioner


def _load(group: str, kind: str, what: str) -> Any:
    if address := OWN[group].get(kind):
        from importlib import import_module

        check_packages(kind)
        module, _, name = address.partition(":")
        return getattr(import_module(module), name)
    # Importing it takes as long as a probe.
    from importlib.metadata import entry_points

    found = entry_points(group=group)
    if kind not in found.names:
        hint = hint_for(kind, found.names, "installed packages bring")
        raise ConfigError(f"cannot find {what} of kind {kind!r}", hint)
    return found[kind].load()
