"""Who gives components their parts: one provisioner for each of the shipped services."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from threading import RLock
from typing import Any
from urllib.parse import quote

from devenv.services.base import Component, Provisioner, Refused
from devenv.services.probe import Target

# On the loopback address a connection is there at once or never.
_CONNECT_SECONDS = 2
# 32 requests at once wait for each other, 40 ms each in Keystone's one process; a busy machine is ten times slower.
_ANSWER_SECONDS = 30
# Less, so that MySQL itself can say that somebody holds a table open.
_LOCK_SECONDS = 10
_THREADS = 32
_MARK = "devenv component {}"  # Describes what is ours in Keystone's catalog.
# etcd's messages say more than its codes.
_THERE = "already exists"
_DENIED = "authentication failed"
# What it says of a token when it was started anew, or had nothing to do for five minutes.
_FORGOTTEN = "invalid auth token"
# How often a request is made again whose login is older than the last change: other threads make one each.
_OLD_REVISIONS = 100


class MySQL(Provisioner):
    """A `database`, and a `user` with a `password` that may do everything in it and nothing elsewhere."""

    service = "mysql"
    what = "the database"

    def _make(self, component: Component) -> None:
        database = _quoted(component.settings["database"])
        # In a grant, and nowhere else, the name is a pattern: `a_b` would be `axb` too.
        pattern = re.sub(r"([\\_%])", r"\\\1", database)
        with self._cursor() as cursor:
            user = cursor.connection.escape(component.settings["user"]) + "@'%'"
            identified = "IDENTIFIED BY " + cursor.connection.escape(component.settings["password"])
            cursor.execute(f"CREATE DATABASE IF NOT EXISTS {database} CHARACTER SET utf8mb4")
            cursor.execute(f"CREATE USER IF NOT EXISTS {user} {identified}")
            if cursor.warning_count:  # It was there. Connections stay open over this.
                cursor.execute(f"ALTER USER {user} {identified} ACCOUNT UNLOCK")
                cursor.execute(f"SHOW GRANTS FOR {user}")
                grants = [row for (row,) in cursor.fetchall() if not row.startswith("GRANT USAGE ON *.*")]
                if any(f" ON {pattern}.* " not in row for row in grants):
                    cursor.execute(f"REVOKE ALL PRIVILEGES, GRANT OPTION FROM {user}")
            cursor.execute(f"GRANT ALL PRIVILEGES ON {pattern}.* TO {user}")

    def _remove(self, component: Component) -> None:
        import pymysql

        user = component.settings["user"]
        with self._cursor() as cursor:
            cursor.execute(f"DROP USER IF EXISTS {cursor.connection.escape(user)}@'%'")
            # A transaction that somebody forgot to end would keep the database from being dropped.
            cursor.execute("SHOW PROCESSLIST")
            for number in [row[0] for row in cursor.fetchall() if row[1] == user]:
                with suppress(pymysql.OperationalError):  # It ended by itself.
                    cursor.execute(f"KILL {number}")
            cursor.execute(f"DROP DATABASE IF EXISTS {_quoted(component.settings['database'])}")

    @contextmanager
    def _cursor(self) -> Iterator[Any]:
        """A cursor of a connection of its own, which takes 2 ms; so threads have nothing to share."""
        import pymysql

        try:
            with (
                pymysql.connect(
                    host=self.target.host,
                    port=self.target.port,
                    user=self.target.settings["user"],
                    password=self.target.settings["password"],
                    connect_timeout=_CONNECT_SECONDS,
                    read_timeout=_ANSWER_SECONDS,
                    write_timeout=_ANSWER_SECONDS,
                    init_command=f"SET SESSION lock_wait_timeout = {_LOCK_SECONDS}",
                    ssl_disabled=True,  # On the loopback address. TLS takes 34 ms.
                ) as connection,
                connection.cursor() as cursor,
            ):
                yield cursor
        except (pymysql.MySQLError, OSError) as error:
            raise Refused(error.args[-1] if error.args else error) from error


class _Http(Provisioner):
    """What the services with an HTTP interface have in common."""

    def __init__(self, target: Target) -> None:
        import requests

        super().__init__(target)
        self._session = requests.Session()
        # Neither a proxy nor a netrc of the user's may come between devenv and 127.0.0.1.
        self._session.trust_env = False
        self._session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=_THREADS))
        self._lock = RLock()
        self._known: dict[str, Any] = {}

    def close(self) -> None:
        self._session.close()

    def _once(self, key: str, read: Callable[[], Any]) -> Any:
        """What is asked of the service once in a run, by whoever needs it first."""
        with self._lock:
            return self._known[key] if key in self._known else self._known.setdefault(key, read())

    def _ask(self, method: str, path: str, body: object = None, accept: str = "", **more: Any) -> Any:
        """The answer. From status 400 on it raises Refused, unless `accept` is found in "HTTP <status>: <reason>"."""
        import requests

        timeout = (_CONNECT_SECONDS, _ANSWER_SECONDS)
        try:
            answer = self._session.request(method, self.target.url + path, json=body, timeout=timeout, **more)
        except requests.RequestException as error:
            refused = "refused" in str(error)
            raise Refused("connection refused" if refused else f"no answer ({type(error).__name__})") from error
        if not answer.ok:
            # Keystone and etcd give a message, RabbitMQ a reason.
            told = re.search(r'"(?:message|reason)": *"((?:[^"\\]|\\.)+)', answer.text)
            reason = f"HTTP {answer.status_code}: {told[1] if told else answer.text}"
            if not accept or accept not in reason:
                raise Refused(reason)
        return answer


class RabbitMQ(_Http):
    """A `vhost`, and a `user` with a `password` that may do everything in it and nothing elsewhere.

    Three requests take 20 ms, nearly all of it the vhost; the same as one file of definitions takes 30.
    """

    service = "rabbitmq"
    what = "the vhost"

    def _make(self, component: Component) -> None:
        user, vhost = (quote(component.settings[key], safe="") for key in ("user", "vhost"))
        if self._rabbit("PUT", f"/api/vhosts/{vhost}", {}).status_code != 201:  # It was there.
            self._start(vhost)
        # Without a tag: it may not use the management interface. Connections stay open over a new password.
        answer = self._rabbit("PUT", f"/api/users/{user}", {"password": component.settings["password"], "tags": ""})
        if answer.status_code != 201:  # It was there.
            for permission in self._rabbit("GET", f"/api/users/{user}/permissions").json():
                if permission["vhost"] != component.settings["vhost"]:
                    self._rabbit("DELETE", f"/api/permissions/{quote(permission['vhost'], safe='')}/{user}")
        self._rabbit("PUT", f"/api/permissions/{vhost}/{user}", {"configure": ".*", "write": ".*", "read": ".*"})

    def _start(self, vhost: str) -> None:
        """Start what stands still: for good, if whoever asked for it was killed meanwhile."""
        for node, state in self._rabbit("GET", f"/api/vhosts/{vhost}").json().get("cluster_state", {}).items():
            if state != "running":
                self._rabbit("POST", f"/api/vhosts/{vhost}/start/{quote(node, safe='')}")

    def _remove(self, component: Component) -> None:
        self._rabbit("DELETE", f"/api/vhosts/{quote(component.settings['vhost'], safe='')}")
        self._rabbit("DELETE", f"/api/users/{quote(component.settings['user'], safe='')}")

    def _empty(self, initial: bytes) -> None:
        # With a vhost go its queues, policies and connections.
        for vhost in self._rabbit("GET", "/api/vhosts").json():
            self._rabbit("DELETE", f"/api/vhosts/{quote(vhost['name'], safe='')}")
        for user in self._rabbit("GET", "/api/users").json():
            if user["name"] != self.target.settings["user"]:
                self._rabbit("DELETE", f"/api/users/{quote(user['name'], safe='')}")
        for limits in self._rabbit("GET", "/api/user-limits").json():
            for limit in limits["value"]:
                self._rabbit("DELETE", f"/api/user-limits/{quote(limits['user'], safe='')}/{limit}")
        for parameter in self._rabbit("GET", "/api/global-parameters").json():
            if not parameter["name"].startswith(("cluster_", "internal_")):
                self._rabbit("DELETE", f"/api/global-parameters/{quote(parameter['name'], safe='')}")
        self._rabbit("POST", "/api/definitions", json.loads(initial))

    def _settle(self) -> None:
        # A change that changes nothing: RabbitMQ syncs its log, with all that is in it, before it answers.
        user, password = self.target.settings["user"], self.target.settings["password"]
        self._rabbit("PUT", f"/api/users/{quote(user, safe='')}", {"password": password, "tags": "administrator"})

    def _rabbit(self, method: str, path: str, body: object = None) -> Any:
        login = (self.target.settings["user"], self.target.settings["password"])
        return self._ask(method, path, body, accept="HTTP 404" if method == "DELETE" else "", auth=login)


class Etcd(_Http):
    """Nothing but a `prefix` of keys; where the target's `auth` is "true", a `user` that reaches this prefix alone.

    It has a `password`, and a role that is called like it. The target's `password` is that of root.
    """

    service = "etcd"
    what = "the key prefix"

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._guarded = target.settings["auth"] == "true"
        self._root = {"name": "root", "password": target.settings["password"]}

    def prepare(self) -> None:
        with self._explained("cannot prepare etcd"):
            try:
                answer = self._etcd("auth/authenticate", self._root, accept="authentication is not enabled")
            except Refused as error:
                if _DENIED not in str(error):
                    raise
                # Only root could set another one.
                hint = "root has another password in its data than devenv knows: 'devenv reset etcd' makes these anew"
                raise Refused(error, hint) from error
            if answer.ok:
                token = self._known["token"] = answer.json()["token"]
                if not self._guarded:
                    self._etcd("auth/disable", {}, token)
            elif self._guarded:
                if not self._etcd("auth/user/add", self._root, accept=_THERE).ok:
                    self._etcd("auth/user/changepw", self._root)
                self._etcd("auth/role/add", {"name": "root"}, accept=_THERE)
                self._etcd("auth/user/grant", {"user": "root", "role": "root"})
                self._etcd("auth/enable", {})

    def _make(self, component: Component) -> None:
        wanted = {"permType": "READWRITE", **_range(component.settings["prefix"])}
        if not self._guarded:
            return
        name = component.settings["user"]
        user = {"name": name, "password": component.settings["password"]}
        made = self._as_root("auth/user/add", user, accept=_THERE).ok
        # A new password ends the user's sessions, so one that works is not set.
        if not made and not self._etcd("auth/authenticate", user, accept=_DENIED).ok:
            self._as_root("auth/user/changepw", user)
        if not self._as_root("auth/role/add", {"name": name}, accept=_THERE).ok:
            for found in self._as_root("auth/role/get", {"role": name}).json().get("perm", []):
                if found != wanted:
                    self._as_root("auth/role/revoke", {"role": name, **found})
        self._as_root("auth/role/grant", {"name": name, "perm": wanted})
        self._as_root("auth/user/grant", {"user": name, "role": name})

    def _remove(self, component: Component) -> None:
        self._as_root("kv/deleterange", _range(component.settings["prefix"]))
        if self._guarded:
            name = component.settings["user"]
            self._as_root("auth/user/delete", {"name": name}, accept="not found")
            self._as_root("auth/role/delete", {"role": name}, accept="not found")

    def _as_root(self, path: str, body: Mapping[str, object], accept: str = "") -> Any:
        """Nobody is root where there are no logins."""
        if not self._guarded:
            return self._etcd(path, body, accept=accept)
        token = self._token()
        try:
            return self._etcd(path, body, token, accept)
        except Refused as error:
            if _FORGOTTEN not in str(error):
                raise
        with self._lock:
            if self._known.get("token") == token:  # No other thread was faster.
                del self._known["token"]
        return self._etcd(path, body, self._token(), accept)

    def _token(self) -> str:
        return str(self._once("token", lambda: self._etcd("auth/authenticate", self._root).json()["token"]))

    def _etcd(
        self, path: str, body: Mapping[str, object], token: str = "", accept: str = "", attempts: int = _OLD_REVISIONS
    ) -> Any:
        try:
            return self._ask("POST", f"/v3/{path}", body, accept, headers={"Authorization": token} if token else {})
        except Refused as error:
            if not attempts or "revision of auth store is old" not in str(error):
                raise
        # Another thread changed a user or a role meanwhile.
        return self._etcd(path, body, token, accept, attempts - 1)


class Keystone(_Http):
    """A user with roles on a project and reader on the system, and an entry in the catalog.

    Of the component: `user`, `password`, `project`, `roles` (with commas between), `region`, and `catalog_type`,
    `catalog_name`, `catalog_url`, which are empty for no entry. Each change of roles or of the catalog makes
    Keystone compute both anew for the next token that it checks. So nothing is changed in vain, and roles come last.

    Of the target: `user`, `password`, `project`, and `token`, Keystone's `admin_token`: two thirds of the time go into
    checking a token of the administrator's, and this one needs no checking. Empty, or refused, it is not used.
    """

    service = "keystone"
    what = "the service user"
    slow_to_drop = True  # 24 queries, 40 ms of its one processor; making one takes 20.

    def _make(self, component: Component) -> None:
        settings = component.settings
        known = self._find("users", name=settings["user"], domain_id="default")
        user = {"name": settings["user"], "password": settings["password"], "domain_id": "default", "enabled": True}
        user_id = known[0]["id"] if known else self._create("user", user)
        # Not otherwise: it revokes the user's tokens.
        if known and not self._login(settings, accept="HTTP 401").ok:
            self._keystone("PATCH", f"/users/{user_id}", {"user": user})
        if known or settings["catalog_type"]:
            self._publish(component)
        self._grant(user_id, settings, fresh=not known)

    def _grant(self, user: str, settings: Mapping[str, str], fresh: bool) -> None:
        """Exactly these roles on the project."""
        project = f"/projects/{self._id('project', settings['project'])}/users/{user}/roles/"
        wanted = {project + self._id("role", name.strip()) for name in settings["roles"].split(",") if name.strip()}
        wanted.add(f"/system/users/{user}/roles/{self._id('role', 'reader')}")
        found = set()
        if not fresh:
            listed = self._keystone("GET", f"/role_assignments?user.id={user}").json()["role_assignments"]
            found = {one["links"]["assignment"].partition("/v3")[2] for one in listed}
        for path in sorted(wanted - found):
            self._keystone("PUT", path)
        for path in sorted(path for path in found - wanted if path.startswith(project)):
            self._keystone("DELETE", path, accept="HTTP 404")

    def _publish(self, component: Component) -> None:
        """Our entry: with one URL, as middleware asks for the internal one, and made anew if it differs in anything."""
        settings, mark, interfaces = component.settings, _MARK.format(component.name), ["admin", "internal", "public"]
        service = {"type": settings["catalog_type"], "name": settings["catalog_name"], "description": mark}
        endpoint = {"url": settings["catalog_url"], "region_id": settings["region"]}
        ours = self._find("services", description=mark)
        if len(ours) == 1 and ours[0].items() >= service.items():
            listed = self._keystone("GET", f"/endpoints?service_id={ours[0]['id']}").json()["endpoints"]
            if sorted(one["interface"] for one in listed if one.items() >= endpoint.items()) == interfaces:
                return
        for one in ours:
            self._delete("service", one)
        if service["type"]:
            endpoint["service_id"] = self._create("service", service)
            for interface in interfaces:
                self._create("endpoint", {**endpoint, "interface": interface})

    def _remove(self, component: Component) -> None:
        # Its endpoints go with a service. The user goes last, as without it `ensure` looks for nothing of ours.
        for service in self._find("services", description=_MARK.format(component.name)):
            self._delete("service", service)
        for user in self._find("users", name=component.settings["user"], domain_id="default"):
            self._delete("user", user)

    def _find(self, kind: str, **wanted: str | None) -> list[dict[str, Any]]:
        with self._lock:  # Other threads make and delete some.
            listed = list(self._once(kind, lambda: self._keystone("GET", f"/{kind}").json()[kind]))
        return [one for one in listed if one.items() >= wanted.items()]

    def _id(self, kind: str, name: str) -> str:
        for one in self._find(kind + "s", name=name, domain_id="default" if kind == "project" else None):
            return str(one["id"])
        known = ", ".join(sorted(one["name"] for one in self._find(kind + "s")))
        raise Refused(f"there is no {kind} {name!r}", f"there are: {known}; mend '{kind}s' in devenv.yaml")

    def _create(self, kind: str, body: Mapping[str, object]) -> str:
        made = self._keystone("POST", f"/{kind}s", {kind: body}).json()[kind]
        with self._lock:
            self._known.get(kind + "s", []).append(made)
        return str(made["id"])

    def _delete(self, kind: str, one: dict[str, Any]) -> None:
        self._keystone("DELETE", f"/{kind}s/{one['id']}", accept="HTTP 404")
        with self._lock:
            self._known[kind + "s"].remove(one)

    def _keystone(self, method: str, path: str, body: object = None, accept: str = "") -> Any:
        token = self._once("token", lambda: self.target.settings.get("token") or self._token())
        try:
            return self._ask(method, path, body, accept, headers={"X-Auth-Token": token})
        except Refused as error:
            if token != self.target.settings.get("token") or "HTTP 401" not in str(error):
                raise
        with self._lock:
            self._known["token"] = self._token()
        return self._ask(method, path, body, accept, headers={"X-Auth-Token": self._known["token"]})

    def _token(self) -> str:
        scope = {"project": {"name": self.target.settings["project"], "domain": {"id": "default"}}}
        return str(self._login(self.target.settings, scope=scope).headers["X-Subject-Token"])

    def _login(self, settings: Mapping[str, str], accept: str = "", **scope: object) -> Any:
        user = {"name": settings["user"], "password": settings["password"], "domain": {"id": "default"}}
        identity = {"methods": ["password"], "password": {"user": user}}
        return self._ask("POST", "/auth/tokens?nocatalog", {"auth": {"identity": identity, **scope}}, accept)


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def _range(prefix: str) -> dict[str, str]:
    """From the prefix to before the next key that begins otherwise, in base64. UTF-8 has no byte 255 to carry."""
    key = prefix.encode()
    if not key:
        raise Refused("an empty prefix would be every key")
    end = key[:-1] + bytes([key[-1] + 1])
    return {"key": base64.b64encode(key).decode(), "range_end": base64.b64encode(end).decode()}
