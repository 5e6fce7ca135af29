"""etcd: ask whether it is ready; give each component a key prefix and, with logins, a user that reaches it alone."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

from devenv.errors import Hopeless, NotReady
from devenv.services import base
from devenv.services.base import Component, Refused, Taken, Target, first_line
from devenv.services.http import Answer, HttpProvisioner, request

# What etcd's alarms mean to who uses it.
_ALARMS = {
    "NOSPACE": "etcd refuses writes, because its data reached the quota",
    "CORRUPT": "etcd refuses everything, because its data is damaged",
}
# etcd's messages say more than its codes.
_EXISTS = "already exists"
_DENIED = "authentication failed"
# etcd's answer to a token after a restart, or after five minutes without a request.
_FORGOTTEN = "invalid auth token"
# How often devenv repeats a request whose login is older than the last change: every other thread may make one.
_OLD_REVISIONS = 100


def check(target: Target) -> None:
    """Ask for health: etcd has a leader, reads its latest data, and has no alarm, which would stop all writes.

    `/readyz` does not look at the alarm NOSPACE.
    """
    answer = request("GET", f"{target.url}/health")
    if answer.status != 200:
        raise NotReady(_reason(answer, target))
    if target.attached:
        _check_login(target)


def _check_login(target: Target) -> None:
    """Raise Hopeless if the server is too old, or does not let in the login that devenv was given, or asks for one."""
    found = request("GET", f"{target.url}/version")
    base.check_version(found.json().get("etcdserver", "") if found.ok else "0", target)
    settings = target.settings
    if settings["auth"] == "true":
        login = {"name": settings["user"], "password": settings["password"]}
        answer = request("POST", f"{target.url}/v3/auth/authenticate", login)
    else:
        # Anybody may read a key that nobody has, unless etcd asks for a login.
        answer = request("POST", f"{target.url}/v3/kv/range", {"key": "AA==", "keys_only": True})
    if not answer.ok:
        raise Hopeless(f"HTTP {answer.status}: {first_line(answer.reason.partition(': ')[2])}")


def _reason(answer: Answer, target: Target) -> str:
    alarm = next((name for name in _ALARMS if f"ALARM {name}" in answer.text), "")
    if not alarm:
        return f"HTTP {answer.status}: {first_line(answer.text)}"
    mend = "" if target.attached else f"; 'devenv reset {target.service}' starts with new data"
    return f"alarm {alarm}: {_ALARMS[alarm]}{mend}"


# The keys that say whose a prefix is: no component has such a prefix, since each begins with a slash.
_CLAIMS = "devenv/claims"


class Etcd(HttpProvisioner):
    """Use a `prefix` of keys, and create nothing for it unless the target's `auth` is "true".

    With `auth`, create a `user` with a `password` that reaches this prefix alone, and a role of the same name. The
    target's `password` is root's. With a secret `claim`, a key outside of the prefix says which environment has it, and
    no other one uses or removes its keys.
    """

    what = "the key prefix"
    needs = "root's rights"

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._guarded = target.settings["auth"] == "true"
        self._root = {"name": target.settings.get("root") or "root", "password": target.settings["password"]}

    def prepare(self) -> None:
        with self._explained("cannot prepare etcd"):
            try:
                answer = self._etcd("auth/authenticate", self._root, accept="authentication is not enabled")
            except Refused as error:
                if _DENIED not in str(error):
                    raise
                # Only root could set another password.
                hint = "devenv does not know root's password in this data; 'devenv reset etcd' recreates the data"
                raise Refused(error, hint) from error
            if answer.ok:
                token = self._known["token"] = answer.json()["token"]
                if not self._guarded:
                    self._etcd("auth/disable", {}, token)
            elif self._guarded:
                if not self._etcd("auth/user/add", self._root, accept=_EXISTS).ok:
                    self._etcd("auth/user/changepw", self._root)
                self._etcd("auth/role/add", {"name": "root"}, accept=_EXISTS)
                self._etcd("auth/user/grant", {"user": "root", "role": "root"})
                self._etcd("auth/enable", {})

    def _make(self, component: Component) -> None:
        wanted = {"permType": "READWRITE", **_range(component.settings["prefix"])}
        if "claim" in component.settings:
            self._claim(component)
        if not self._guarded:
            return
        name = component.settings["user"]
        user = {"name": name, "password": component.settings["password"]}
        made = self._as_root("auth/user/add", user, accept=_EXISTS).ok
        # A new password ends the user's sessions, so devenv does not set one that already works.
        if not made and not self._etcd("auth/authenticate", user, accept=_DENIED).ok:
            self._as_root("auth/user/changepw", user)
        if not self._as_root("auth/role/add", {"name": name}, accept=_EXISTS).ok:
            for found in self._as_root("auth/role/get", {"role": name}).json().get("perm", []):
                if found != wanted:
                    self._as_root("auth/role/revoke", {"role": name, **found})
        self._as_root("auth/role/grant", {"name": name, "perm": wanted})
        self._as_root("auth/user/grant", {"user": name, "role": name})

    def _claim(self, component: Component) -> None:
        """Say on a server that others use, too, that the prefix is this environment's. Raise Taken if it is not."""
        key, value = _claim_of(component)
        absent = {"key": key, "result": "EQUAL", "target": "CREATE", "create_revision": "0"}
        self._as_root("kv/txn", {"compare": [absent], "success": [{"request_put": {"key": key, "value": value}}]})
        if self._claimed(component) != value:
            raise Taken("a claim")

    def _claimed(self, component: Component) -> str:
        """Return the claim on the prefix, of whatever environment; nothing without one."""
        found = self._as_root("kv/range", {"key": _claim_of(component)[0]}).json().get("kvs")
        return str(found[0]["value"]) if found else ""

    def _remove(self, component: Component) -> None:
        claims = "claim" in component.settings
        if claims and self._claimed(component) != _claim_of(component)[1]:
            return
        self._as_root("kv/deleterange", _range(component.settings["prefix"]))
        if self._guarded:
            name = component.settings["user"]
            self._as_root("auth/user/delete", {"name": name}, accept="not found")
            self._as_root("auth/role/delete", {"role": name}, accept="not found")
        if claims:
            self._as_root("kv/deleterange", {"key": _claim_of(component)[0]})

    def _found(self, component: Component) -> str:
        keys = self._as_root("kv/range", {**_range(component.settings["prefix"]), "count_only": True}).json()
        if int(keys.get("count", 0)):
            return "keys"
        if "claim" in component.settings and self._claimed(component):
            return "another environment's prefix"
        if self._guarded:
            name = component.settings["user"]
            if self._as_root("auth/user/get", {"name": name}, accept="not found").ok:
                return "an account"
            if self._as_root("auth/role/get", {"role": name}, accept="not found").ok:
                return "a role"
        return ""

    def _as_root(self, path: str, body: Mapping[str, object], accept: str = "") -> Any:
        """Send a request as root, or without a login if etcd asks for none."""
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


def _claim_of(component: Component) -> tuple[str, str]:
    """Return the key and the value, in base64, by which an environment claims a component's prefix.

    The value is a hash: everybody who may read the server's keys sees it.
    """
    key = _CLAIMS + component.settings["prefix"]
    value = hashlib.sha256(component.settings["claim"].encode()).hexdigest()
    return base64.b64encode(key.encode()).decode(), base64.b64encode(value.encode()).decode()


def _range(prefix: str) -> dict[str, str]:
    """Return the range from the prefix to before the next key that begins differently, in base64.

    No carry can happen: UTF-8 has no byte 255.
    """
    key = prefix.encode()
    if not key:
        raise Refused("an empty prefix means every key")
    end = key[:-1] + bytes([key[-1] + 1])
    return {"key": base64.b64encode(key).decode(), "range_end": base64.b64encode(end).decode()}
