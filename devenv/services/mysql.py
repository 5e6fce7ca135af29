"""MySQL: log in and run a statement; create a database and a user for each component."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
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

# The names of databases that show whether an account works.
_TRIED = re.compile(r"devenv_tries_[0-9a-f]{8}")
# The server's number for that (ER_CON_COUNT_ERROR). The administrator gets it, too, while the server still counts a
# client that it has just refused.
_TOO_MANY_CONNECTIONS = 1040
# Access denied to a user, also to a database or to one that the server knows by its socket alone (ER_*_DENIED_*).
_DENIED = (1044, 1045, 1698)
# The same for a statement: on a table, a column, another's connection, an account or all of the server.
_DENIED_STATEMENT = (*_DENIED, 1095, 1142, 1143, 1227, 1410)
# A statement about accounts fails (ER_CANNOT_USER): the one to create exists.
_CANNOT_USER = 1396
# The numbers that clients give to lost connections.
_LOST = range(2000, 3000)
# Less than ANSWER_SECONDS, so that MySQL itself can say that another program holds a table open.
_LOCK_SECONDS = 10


def check(target: Target) -> None:
    """Log in over TCP as the application user, and ask in its database whether components can log in and write.

    The administrator still can where they cannot: it has one connection more, and `read_only` does not hold for it.
    """
    import pymysql

    settings = target.settings
    try:
        with (
            pymysql.connect(
                host=target.host,
                port=target.port,
                user=settings["user"],
                password=settings["password"],
                database=settings["database"] or None,
                connect_timeout=int(base.PROBE_CONNECT_SECONDS),
                read_timeout=base.PROBE_ANSWER_SECONDS,
                write_timeout=base.PROBE_ANSWER_SECONDS,
                # On the loopback address. TLS takes eighteen times as long as all the rest of the probe.
                ssl_disabled=True,
            ) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute("SELECT DATABASE(), @@GLOBAL.read_only, @@GLOBAL.max_connections, VERSION()")
            ((_, read_only, most, version),) = cursor.fetchall()
            cursor.execute("SHOW GLOBAL STATUS LIKE 'Threads_connected'")
            ((_, connected),) = cursor.fetchall()
    except pymysql.MySQLError as error:
        number, words = error.args if len(error.args) == 2 else (0, error)
        if number == _TOO_MANY_CONNECTIONS:
            raise NotReady("takes no more clients: all connections are in use") from error
        if number in _DENIED:
            raise Hopeless(base.first_line(words)) from error
        # The server's own words, if it has said any.
        raise NotReady(base.no_login(error.__context__) if number in _LOST else base.first_line(words)) from error
    except OSError as error:
        raise NotReady(base.no_login(error)) from error
    base.check_version(version, target)
    if read_only not in (0, "OFF"):  # a word from MariaDB 12 on
        user = target.settings["user"]
        raise NotReady(f"takes no writes: read_only is on; 'SET GLOBAL read_only = OFF' as {user} ends that")
    if int(connected) > most:
        raise NotReady(f"takes no more clients: all {most} connections are in use")


class MySQL(Provisioner):
    """Create a `database`, and a `user` with a `password` that can do everything in it and nothing elsewhere.

    With `rights: all`, the user can do everything everywhere.
    """

    what = "the database"
    needs = "all rights, also to give them: GRANT ALL ON *.* TO … WITH GRANT OPTION"

    def _make(self, component: Component) -> None:
        if component.settings.get("rights") == "all":
            self._make_powerful(component)
        else:
            self._make_confined(component)
        self._log_in(component)

    def _make_powerful(self, component: Component) -> None:
        with self._cursor() as cursor:
            user, password = (cursor.connection.escape(component.settings[key]) for key in ("user", "password"))
            # Its password never changes. Setting it again would make the server ask clients for a full login.
            _create_user(cursor, f"{user}@'%' IDENTIFIED BY {password}", component.new)
            cursor.execute(f"CREATE DATABASE IF NOT EXISTS {_quoted(component.settings['database'])}")
            cursor.execute(f"GRANT ALL PRIVILEGES ON *.* TO {user}@'%' WITH GRANT OPTION")

    def _make_confined(self, component: Component) -> None:
        database = _quoted(component.settings["database"])
        # In a grant, and nowhere else, the name is a pattern: `a_b` would match `axb`, too.
        pattern = re.sub(r"([\\_%])", r"\\\1", database)
        with self._cursor() as cursor:
            user = cursor.connection.escape(component.settings["user"]) + "@'%'"
            identified = "IDENTIFIED BY " + cursor.connection.escape(component.settings["password"])
            _create_user(cursor, f"{user} {identified}", component.new)
            if cursor.warning_count:  # It existed already. Connections stay open over this.
                cursor.execute(f"ALTER USER {user} {identified} ACCOUNT UNLOCK")
                cursor.execute(f"SHOW GRANTS FOR {user}")
                grants = [row for (row,) in cursor.fetchall() if not row.startswith("GRANT USAGE ON *.*")]
                if any(f" ON {pattern}.* " not in row for row in grants):
                    cursor.execute(f"REVOKE ALL PRIVILEGES, GRANT OPTION FROM {user}")
            cursor.execute(f"CREATE DATABASE IF NOT EXISTS {database} CHARACTER SET utf8mb4")
            cursor.execute(f"GRANT ALL PRIVILEGES ON {pattern}.* TO {user}")

    def _log_in(self, component: Component) -> None:
        """Prove the password once, for clients that cannot.

        Until the server has seen it, it asks for the password encrypted with its key, and PyMySQL before 1.2 needs the
        package cryptography for that. The server forgets it at each start, and when an account is changed.
        """
        with self._cursor(component.settings):
            pass

    def _remove(self, component: Component) -> None:
        import pymysql

        user = component.settings["user"]
        with self._cursor() as cursor:
            cursor.execute(f"DROP USER IF EXISTS {cursor.connection.escape(user)}@'%'")
            # MySQL does not drop a database while a transaction that a program forgot to end uses it.
            cursor.execute("SHOW PROCESSLIST")
            for number in [row[0] for row in cursor.fetchall() if row[1] == user]:
                with suppress(pymysql.OperationalError):  # It ended by itself.
                    cursor.execute(f"KILL {number}")
            cursor.execute(f"DROP DATABASE IF EXISTS {_quoted(component.settings['database'])}")
            if component.settings.get("rights") == "all":
                # What a killed devenv left of `_try_out`.
                cursor.execute("SHOW DATABASES")
                left = [name for (name,) in cursor.fetchall() if _TRIED.fullmatch(name)]
                for name in left:
                    cursor.execute(f"DROP DATABASE IF EXISTS {_quoted(name)}")

    def _found(self, component: Component) -> str:
        with self._cursor() as cursor:
            cursor.execute("SELECT 1 FROM mysql.user WHERE User = %s", [component.settings["user"]])
            if cursor.fetchall():
                return "an account"
            cursor.execute(
                "SELECT COUNT(TABLE_NAME) FROM information_schema.SCHEMATA "
                "LEFT JOIN information_schema.TABLES ON TABLE_SCHEMA = SCHEMA_NAME WHERE SCHEMA_NAME = %s "
                "GROUP BY SCHEMA_NAME",
                [component.settings["database"]],
            )
            return "".join(f"a database with {tables} tables" for (tables,) in cursor.fetchall())

    def _try_out(self, component: Component) -> None:
        name = _quoted(f"devenv_tries_{secrets.token_hex(4)}")
        with self._cursor(component.settings) as cursor:
            cursor.execute(f"CREATE DATABASE {name}")
            cursor.execute(f"DROP DATABASE {name}")

    @contextmanager
    def _cursor(self, login: Mapping[str, str] | None = None) -> Iterator[Any]:
        """Open a new connection, as the administrator if no `login` is given.

        It takes 2 ms, so threads share nothing.
        """
        import pymysql

        administrator = login is None
        login = login or self.target.settings
        try:
            with (
                pymysql.connect(
                    host=self.target.host,
                    port=self.target.port,
                    user=login["user"],
                    password=login["password"],
                    connect_timeout=CONNECT_SECONDS,
                    read_timeout=ANSWER_SECONDS,
                    write_timeout=ANSWER_SECONDS,
                    init_command=f"SET SESSION lock_wait_timeout = {_LOCK_SECONDS}",
                    ssl_disabled=True,  # On the loopback address. TLS takes 34 ms.
                ) as connection,
                connection.cursor() as cursor,
            ):
                yield cursor
        except (pymysql.MySQLError, OSError) as error:
            number = error.args[0] if error.args else 0
            denied = administrator and number in _DENIED_STATEMENT
            lost = isinstance(error, OSError) or number in _LOST
            kind = Denied if denied else NoAnswer if lost else Refused
            raise kind(error.args[-1] if error.args else error) from error


def _create_user(cursor: Any, account: str, new: bool) -> None:
    """Create an account. If it exists, the cursor then has a warning; raise Taken for a new one.

    The server lets one client alone create an account, so the account tells whose the database is.
    """
    import pymysql

    try:
        cursor.execute(f"CREATE USER {'' if new else 'IF NOT EXISTS '}{account}")
    except pymysql.MySQLError as error:
        if new and error.args[0] == _CANNOT_USER:
            raise Taken("an account") from error
        raise


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"
