"""PostgreSQL: log in and run a statement; create a database and a role for each component."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from typing import Any

from devenv.errors import Hopeless, NotReady
from devenv.services import base
from devenv.services.base import (
    ANSWER_SECONDS,
    CONNECT_SECONDS,
    Component,
    Denied,
    NoAnswer,
    Provisioner,
    Refused,
    Taken,
    Target,
)

# The wait for a lock is shorter than ANSWER_SECONDS, so that PostgreSQL itself can say that another program holds it.
# Statements that fail are not logged: passwords are among them.
_PARAMETERS = {"lock_timeout": "10s", "log_min_error_statement": "panic"}
# Executes a statement in a transaction of its own and returns its rows. Values stand for `:name` in it.
_Execute = Callable[..., list[list[Any]]]

_ROLE = "SELECT 1 FROM pg_roles WHERE rolname = :role"
# A component's database, and others that its role owns.
_DATABASES = "SELECT datname FROM pg_database WHERE datname = :database OR pg_get_userbyid(datdba) = :role"
# The databases in which a role owns something or has rights.
_ELSEWHERE = """
SELECT DISTINCT datname FROM pg_shdepend JOIN pg_database ON pg_database.oid = dbid
WHERE refclassid = CAST('pg_authid' AS regclass) AND refobjid = (SELECT oid FROM pg_roles WHERE rolname = :role)
"""
# What a role has elsewhere, as the statements that take it away: membership in others, rights on other databases.
_TO_REVOKE = """
SELECT format('REVOKE %I FROM %I', parent.rolname, role.rolname)
FROM pg_roles role JOIN pg_auth_members ON member = role.oid JOIN pg_roles parent ON parent.oid = roleid
WHERE role.rolname = :role
UNION SELECT format('REVOKE ALL ON DATABASE %I FROM %I', datname, rolname)
FROM pg_database, aclexplode(datacl) JOIN pg_roles ON pg_roles.oid = grantee
WHERE rolname = :role AND datname <> :database
"""
# Whether the server takes writes, how many connections others than the administrator can have, and how many there are.
_STATE = """
SELECT pg_is_in_recovery(), current_setting('default_transaction_read_only'),
    current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int,
    (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'), current_setting('server_version')
"""
# The beginning of the server's codes for a login that it does not accept.
_DENIED = "28"
# Its codes for a role that exists: already, or since a moment ago.
_EXISTS = ("42710", "23505")
# Its code for a statement that a login may not execute.
_NO_RIGHT = "42501"
# The limit of connections to a database that a killed server has not finished dropping. Nobody can use it any more.
_INVALID = -2
# Copying the files takes the server 44 ms. Its default, to write all of them to its log, takes 71.
_COPIED = "TEMPLATE template0 STRATEGY file_copy"
# PostgreSQL's defaults, spelled out for a role that somebody has changed.
_ORDINARY = "NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS CONNECTION LIMIT -1 VALID UNTIL 'infinity'"


def check(target: Target) -> None:
    """Log in over TCP as the application user, and ask in its database whether components can log in and write.

    Some connections are reserved for the administrator.
    """
    from pg8000.native import Error

    try:
        with connected(target, base.PROBE_CONNECT_SECONDS, base.PROBE_ANSWER_SECONDS) as execute:
            ((recovering, read_only, most, clients, version),) = execute(_STATE)
    except (Error, OSError) as error:
        denied = _code(error).startswith(_DENIED)
        raise (Hopeless if denied else NotReady)(_reason(error)) from error
    base.check_version(version, target)
    if recovering:
        raise NotReady("takes no writes: the server is in recovery or a standby")
    if read_only == "on":
        raise NotReady("takes no writes: default_transaction_read_only is on")
    if clients > most:
        raise NotReady(f"takes no more clients: all {most} connections that are not reserved are in use")


class PostgreSQL(Provisioner):
    """Create a `database`, and a `user` with a `password` that owns it and can do nothing elsewhere.

    With `rights: all`, the user can do everything everywhere.
    """

    what = "the database"
    needs = "a superuser's rights: ALTER ROLE … SUPERUSER"

    def _make(self, component: Component) -> None:
        from pg8000.native import Error

        names = {"role": component.settings["user"], "database": component.settings["database"]}
        role, database = _quoted(names["role"]), _quoted(names["database"])
        rights = "SUPERUSER" if component.settings.get("rights") == "all" else _ORDINARY
        with self._session() as execute:
            known = [] if component.new else execute(_ROLE, **names)
            # In these statements, no value can stand apart.
            password = _literal(component.settings["password"])
            try:
                execute(f"{'ALTER' if known else 'CREATE'} ROLE {role} LOGIN {rights} PASSWORD {password}")
            except Error as error:
                # One client alone can create a role, so the role tells whose the database is.
                if component.new and _code(error) in _EXISTS:
                    raise Taken("a role") from error
                raise
            for (statement,) in execute(_TO_REVOKE, **names) if known else ():
                execute(statement)
            found = execute("SELECT datconnlimit FROM pg_database WHERE datname = :database", **names)
            if found == [[_INVALID]]:
                execute(f"DROP DATABASE {database}")
            if found in ([], [[_INVALID]]):
                execute(f"CREATE DATABASE {database} OWNER {role} {_COPIED}")
            else:
                execute(f"ALTER DATABASE {database} OWNER TO {role}")
                execute(f"ALTER DATABASE {database} WITH ALLOW_CONNECTIONS true CONNECTION LIMIT -1")
            # Others may connect to every new database.
            execute(f"REVOKE ALL ON DATABASE {database} FROM PUBLIC")

    def _remove(self, component: Component) -> None:
        names = {"role": component.settings["user"], "database": component.settings["database"]}
        role = _quoted(names["role"])
        with self._session() as execute:
            for (database,) in execute(_DATABASES, **names):
                # This ends connections that a program forgot to close.
                execute(f"DROP DATABASE IF EXISTS {_quoted(database)} WITH (FORCE)")
            if not execute(_ROLE, **names):
                return
            for (database,) in execute(_ELSEWHERE, **names):
                with self._session({"database": database}) as there:
                    there(f"DROP OWNED BY {role}")
            execute(f"DROP OWNED BY {role}")
            execute(f"DROP ROLE IF EXISTS {role}")

    def _found(self, component: Component) -> str:
        names = {"role": component.settings["user"], "database": component.settings["database"]}
        with self._session() as execute:
            if execute(_ROLE, **names):
                return "an account"
            if not execute("SELECT 1 FROM pg_database WHERE datname = :database", **names):
                return ""
        with self._session({"database": names["database"]}) as execute:
            ((tables,),) = execute(
                "SELECT count(*) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
            )
        return f"a database with {tables} tables"

    def _try_out(self, component: Component) -> None:
        name = _quoted(f"{component.settings['database']}_{secrets.token_hex(4)}")
        with self._session({**component.settings, "database": "postgres"}) as execute:
            execute(f"CREATE DATABASE {name} {_COPIED}")
            execute(f"DROP DATABASE {name}")

    @contextmanager
    def _session(self, login: Mapping[str, str] | None = None) -> Iterator[_Execute]:
        """Open a new connection: as the administrator and to its database, unless `login` says otherwise.

        It takes 10 ms, so threads share nothing.
        """
        from pg8000.native import Error

        target = replace(self.target, settings={**self.target.settings, **(login or {})})
        try:
            with connected(target, CONNECT_SECONDS, ANSWER_SECONDS) as execute:
                yield execute
        except (Error, OSError) as error:
            denied = "user" not in (login or {}) and _code(error).startswith((_DENIED, _NO_RIGHT))
            raise (Denied if denied else Refused if _code(error) else NoAnswer)(_reason(error)) from error


@contextmanager
def connected(target: Target, connect_seconds: float, answer_seconds: float) -> Iterator[_Execute]:
    """Log in with the target's settings; yield what executes statements. Raise pg8000's Error or OSError.

    `answer_seconds` is the limit for each answer: a server that is stopped would never send one.
    """
    from pg8000.native import Connection, Error

    settings = target.settings
    with closing(socket.create_connection((target.host, target.port), connect_seconds)) as stream:
        connection = Connection(
            settings["user"],
            password=settings["password"],
            database=settings["database"],
            sock=stream,
            ssl_context=False,  # On the loopback address.
            startup_params=_PARAMETERS,
        )
        stream.settimeout(answer_seconds)
        try:
            yield connection.run
        finally:
            with suppress(Error, OSError):
                connection.close()


def _code(error: Exception) -> str:
    """Return the server's code for an error, if it comes from there."""
    said = error.args[0] if error.args else None
    return str(said.get("C", "")) if isinstance(said, dict) else ""


def _reason(error: Exception) -> str:
    """Return the server's own words, or why there are none."""
    said = error.args[0] if error.args else None
    if isinstance(said, dict):
        detail = said.get("D", "").partition("\n")[0]
        return base.first_line(f"{said['M']} ({detail})" if detail else said["M"])
    return base.no_login(error if isinstance(error, OSError) else error.__cause__)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    from pg8000.native import literal

    return str(literal(text))
