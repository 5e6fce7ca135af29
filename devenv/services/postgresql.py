"""PostgreSQL: log in and run a statement; create a database and a role for each component."""

from __future__ import annotations

import secrets
import select
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from devenv.errors import NotReady
from devenv.services import base
from devenv.services.base import ANSWER_SECONDS, CONNECT_SECONDS, Component, Provisioner, Refused, Target

if TYPE_CHECKING:
    import psycopg2

# Less than ANSWER_SECONDS, so that PostgreSQL itself can say that another program holds a lock. It logs statements that
# fail, unless told otherwise, and passwords are among them.
_OPTIONS = "-c lock_timeout=10s -c log_min_error_statement=panic"

_ROLE = "SELECT 1 FROM pg_roles WHERE rolname = %(role)s"
# A component's database, and others that its role owns.
_DATABASES = "SELECT datname FROM pg_database WHERE datname = %(database)s OR pg_get_userbyid(datdba) = %(role)s"
# The databases in which a role owns something or has rights.
_ELSEWHERE = """
SELECT DISTINCT datname FROM pg_shdepend JOIN pg_database ON pg_database.oid = dbid
WHERE refclassid = 'pg_authid'::regclass AND refobjid = (SELECT oid FROM pg_roles WHERE rolname = %(role)s)
"""
# What a role has elsewhere, as the statements that take it away: membership in others, rights on other databases.
_TO_REVOKE = """
SELECT format('REVOKE %%I FROM %%I', parent.rolname, role.rolname)
FROM pg_roles role JOIN pg_auth_members ON member = role.oid JOIN pg_roles parent ON parent.oid = roleid
WHERE role.rolname = %(role)s
UNION SELECT format('REVOKE ALL ON DATABASE %%I FROM %%I', datname, rolname)
FROM pg_database, aclexplode(datacl) JOIN pg_roles ON pg_roles.oid = grantee
WHERE rolname = %(role)s AND datname <> %(database)s
"""
# The limit of connections to a database that a killed server has not finished dropping. Nobody can use it any more.
_INVALID = -2
# Copying the files takes the server 44 ms. Its default, to write all of them to its log, takes 71.
_COPIED = "TEMPLATE template0 STRATEGY file_copy"
# PostgreSQL's defaults, spelled out for a role that somebody has changed.
_ORDINARY = "NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS CONNECTION LIMIT -1 VALID UNTIL 'infinity'"


def check(target: Target) -> None:
    """Log in over TCP as the application user and run a statement in its database."""
    import psycopg2

    try:
        with connected(target, base.PROBE_CONNECT_SECONDS, base.PROBE_ANSWER_SECONDS) as session:
            session.execute("SELECT current_database()")
    except (psycopg2.Error, OSError) as error:
        raise NotReady(_reason(error)) from error


class PostgreSQL(Provisioner):
    """Create a `database`, and a `user` with a `password` that owns it and can do nothing elsewhere.

    With `rights: all`, the user can do everything everywhere.
    """

    what = "the database"

    def _make(self, component: Component) -> None:
        names = {"role": component.settings["user"], "database": component.settings["database"]}
        role, database = _quoted(names["role"]), _quoted(names["database"])
        rights = "SUPERUSER" if component.settings.get("rights") == "all" else _ORDINARY
        with self._session() as session:
            known = session.execute(_ROLE, names)
            password = session.literal(component.settings["password"])
            session.execute(f"{'ALTER' if known else 'CREATE'} ROLE {role} LOGIN {rights} PASSWORD {password}")
            for (statement,) in session.execute(_TO_REVOKE, names) if known else ():
                session.execute(statement)
            found = session.execute("SELECT datconnlimit FROM pg_database WHERE datname = %(database)s", names)
            if found == [(_INVALID,)]:
                session.execute(f"DROP DATABASE {database}")
            if found in ([], [(_INVALID,)]):
                session.execute(f"CREATE DATABASE {database} OWNER {role} {_COPIED}")
            else:
                session.execute(f"ALTER DATABASE {database} OWNER TO {role}")
                session.execute(f"ALTER DATABASE {database} WITH ALLOW_CONNECTIONS true CONNECTION LIMIT -1")
            # Others may connect to every new database.
            session.execute(f"REVOKE ALL ON DATABASE {database} FROM PUBLIC")

    def _remove(self, component: Component) -> None:
        names = {"role": component.settings["user"], "database": component.settings["database"]}
        role = _quoted(names["role"])
        with self._session() as session:
            for (database,) in session.execute(_DATABASES, names):
                # This ends connections that a program forgot to close.
                session.execute(f"DROP DATABASE IF EXISTS {_quoted(database)} WITH (FORCE)")
            if not session.execute(_ROLE, names):
                return
            for (database,) in session.execute(_ELSEWHERE, names):
                with self._session({"database": database}) as other:
                    other.execute(f"DROP OWNED BY {role}")
            session.execute(f"DROP OWNED BY {role}")
            session.execute(f"DROP ROLE IF EXISTS {role}")

    def _found(self, component: Component) -> str:
        names = {"role": component.settings["user"], "database": component.settings["database"]}
        with self._session() as session:
            if session.execute(_ROLE, names):
                return "an account"
            if not session.execute("SELECT 1 FROM pg_database WHERE datname = %(database)s", names):
                return ""
        with self._session({"database": names["database"]}) as session:
            ((tables,),) = session.execute(
                "SELECT count(*) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
            )
        return f"a database with {tables} tables"

    def _try_out(self, component: Component) -> None:
        name = _quoted(f"{component.settings['database']}_{secrets.token_hex(4)}")
        with self._session({**component.settings, "database": "postgres"}) as session:
            session.execute(f"CREATE DATABASE {name} {_COPIED}")
            session.execute(f"DROP DATABASE {name}")

    @contextmanager
    def _session(self, login: Mapping[str, str] | None = None) -> Iterator[Session]:
        """Open a new connection: as the administrator and to its database, unless `login` says otherwise.

        It takes 5 ms, so threads share nothing.
        """
        import psycopg2

        target = replace(self.target, settings={**self.target.settings, **(login or {})})
        try:
            with connected(target, CONNECT_SECONDS, ANSWER_SECONDS) as session:
                yield session
        except (psycopg2.Error, OSError) as error:
            raise Refused(_reason(error)) from error


class Session:
    """A connection that ends the wait for an answer; libpq's blocking calls wait for a stopped server forever."""

    def __init__(self, connection: psycopg2.extensions.connection, seconds: float) -> None:
        self._connection, self._seconds = connection, seconds

    def execute(self, statement: str, values: dict[str, str] | None = None) -> list[tuple[Any, ...]]:
        """Run a statement in a transaction of its own; return its rows. Raise psycopg2.Error or TimeoutError.

        Only with `values` does `%` have a meaning in it.
        """
        with self._connection.cursor() as cursor:
            cursor.execute(statement, values)
            _wait(self._connection, self._seconds)
            return cursor.fetchall() if cursor.description else []

    def literal(self, text: str) -> str:
        """Return a text as it stands in a statement."""
        with self._connection.cursor() as cursor:
            return cursor.mogrify("%s", [text]).decode()


@contextmanager
def connected(target: Target, connect_seconds: float, answer_seconds: float) -> Iterator[Session]:
    """Log in with the target's settings."""
    import psycopg2

    settings = target.settings
    connection = psycopg2.connect(
        host=target.host,
        port=target.port,
        user=settings["user"],
        password=settings["password"],
        dbname=settings["database"],
        options=_OPTIONS,
        # On the loopback address. libpq would ask for both first.
        sslmode="disable",
        gssencmode="disable",
        async_=True,
    )
    try:
        _wait(connection, connect_seconds)
        yield Session(connection, answer_seconds)
    finally:
        connection.close()


def _wait(connection: psycopg2.extensions.connection, seconds: float) -> None:
    """Wait until the connection has done what it was asked for. Raise psycopg2.Error or TimeoutError."""
    from psycopg2.extensions import POLL_OK, POLL_WRITE

    deadline = time.monotonic() + seconds
    while (state := connection.poll()) != POLL_OK:
        # select() ends at 1024 files.
        ready = select.poll()
        ready.register(connection.fileno(), select.POLLOUT if state == POLL_WRITE else select.POLLIN)
        if not ready.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError("no answer in time")


def _reason(error: Exception) -> str:
    """Return the server's own words, or why there are none."""
    if primary := getattr(getattr(error, "diag", None), "message_primary", None):
        detail = getattr(error, "diag").message_detail  # noqa: B009  mypy knows no `diag` of an OSError
        return base.first_line(f"{primary} ({detail.splitlines()[0]})" if detail else primary)
    text = str(error)
    if said := text.partition("FATAL:")[2]:
        return base.first_line(said)
    return base.no_login(ConnectionRefusedError() if "Connection refused" in text else error)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
