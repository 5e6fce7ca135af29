"""What a component gets inside a running service: for now, a database and a user of its own.

A provisioner is a function `ensure(target, component)`; it is idempotent. Provisioners are found by name among
the entry points of the group "devenv.provisioners", so that another package can bring one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import entry_points

from devenv.errors import ConfigError, ServiceFailed
from devenv.probe import Target

GROUP = "devenv.provisioners"


@dataclass(frozen=True)
class Component:
    """Who gets something: `name` becomes the name of its database and user alike."""

    name: str
    password: str = field(repr=False)


Ensure = Callable[[Target, Component], None]


def load_provisioner(kind: str) -> Ensure:
    """The provisioner of that name. Raises ConfigError if no installed package brings it."""
    found = entry_points(group=GROUP)
    if kind not in found.names:
        raise ConfigError(f"cannot find a provisioner {kind!r}", hint="there are: " + ", ".join(sorted(found.names)))
    ensure: Ensure = found[kind].load()
    return ensure


def ensure_mysql(target: Target, component: Component) -> None:
    """A database of the component's name and a user that may do everything in it and nothing elsewhere."""
    import pymysql

    # The name comes from a service definition, checked against catalogue.NAME; the dash is all that needs quoting.
    database = f"`{component.name}`"
    try:
        with (
            pymysql.connect(
                host=target.host,
                port=target.port,
                user=target.settings["user"],
                password=target.settings["password"],
            ) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(f"CREATE DATABASE IF NOT EXISTS {database} CHARACTER SET utf8mb4")
            cursor.execute("CREATE USER IF NOT EXISTS %s@'%%' IDENTIFIED BY %s", (component.name, component.password))
            cursor.execute("ALTER USER %s@'%%' IDENTIFIED BY %s", (component.name, component.password))
            cursor.execute(f"GRANT ALL PRIVILEGES ON {database}.* TO %s@'%%'", (component.name,))
    except pymysql.MySQLError as error:
        raise ServiceFailed(
            f"cannot make database {component.name} at {target.host}:{target.port}: {error.args[-1]}",
            hint="'devenv logs mysql' shows the server's side",
        ) from error
