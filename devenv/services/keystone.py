"""Keystone: get a token and follow its catalog; create a service user and a catalog entry for each component."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from devenv.errors import Hopeless, NotReady
from devenv.names import hint_for
from devenv.services.base import Component, Refused, Taken, Target, first_line
from devenv.services.http import HttpProvisioner, request

_SHARED_MARK = "made by devenv for its components"
_EXISTS = "HTTP 409"
_MARK = "devenv component {}"  # Describes devenv's entries in Keystone's catalog.


def check(target: Target) -> None:
    """Get a token, and check that the identity URL of its catalog answers from here."""
    settings = target.settings
    domain = {"id": "default"}
    user = {"name": settings["user"], "password": settings["password"], "domain": domain}
    body = {
        "auth": {
            "identity": {"methods": ["password"], "password": {"user": user}},
            "scope": {"project": {"name": settings["project"], "domain": domain}},
        }
    }
    answer = request("POST", f"{target.url}/auth/tokens", body)
    if answer.status != 201:
        denied = answer.status in (401, 403)
        raise (Hopeless if denied else NotReady)(f"no token: {first_line(answer.reason)}")
    if target.attached:  # Its catalog may have addresses for others than this host.
        return
    catalog = json.loads(answer.text)["token"].get("catalog", [])
    urls = [
        endpoint["url"]
        for service in catalog
        if service["type"] == "identity"
        for endpoint in service["endpoints"]
        if endpoint["interface"] == "public"
    ]
    if not urls:
        raise NotReady("the catalog has no public identity endpoint")
    found = request("GET", urls[0])
    if found.status != 200:
        raise NotReady(f"the catalog's identity URL {urls[0]} answers HTTP {found.status}")


class Keystone(HttpProvisioner):
    """Create a user with roles on a project and reader on the system, and an entry in the catalog.

    The component's settings are `user`, `password`, `project`, `roles` (with commas between), `region`, and
    `catalog_type`, `catalog_name`, `catalog_url`, which are empty for no entry. After each change of roles or of the
    catalog, Keystone computes both again for the next token that it checks. So devenv changes nothing that is right
    already, and sets roles last.

    The target's settings are `user`, `password`, `project`, and `token`, Keystone's `admin_token`. Keystone spends two
    thirds of the time on checking the administrator's own tokens and does not check this one. devenv does not use it if
    it is empty or Keystone refuses it.
    """

    what = "the service user"
    needs = "the role admin on the project admin"
    slow_to_drop = True  # 24 queries, 40 ms of its one processor; creating one takes 20.

    def prepare(self) -> None:
        """Create what components share and devenv's own Keystone has from the start: a project and a role.

        The target's settings `shared_project` and `shared_role` name both.
        """
        with self._explained("cannot prepare keystone"):
            for kind, one in self._missing():
                try:
                    self._create(kind, {**one, "description": _SHARED_MARK})
                except Refused as error:
                    if _EXISTS not in str(error):
                        raise
                    # Another environment was faster. Its project or role is as good.
                    with self._lock:
                        self._known.pop(f"{kind}s")

    def _lacks(self) -> bool:
        return bool(self._missing())

    def _missing(self) -> list[tuple[str, dict[str, str]]]:
        shared = [
            (kind, {"name": name, **({"domain_id": "default"} if kind == "project" else {})})
            for kind, name in self._shared().items()
        ]
        return [(kind, one) for kind, one in shared if not self._find(f"{kind}s", **one)]

    def _release(self) -> None:
        for kind, name in self._shared().items():
            query = "scope.project.id" if kind == "project" else "role.id"
            for one in self._find(f"{kind}s", name=name, description=_SHARED_MARK):
                if not self._keystone("GET", f"/role_assignments?{query}={one['id']}").json()["role_assignments"]:
                    self._delete(kind, one)

    def _shared(self) -> dict[str, str]:
        settings = self.target.settings
        return {kind: name for kind in ("project", "role") if (name := settings.get(f"shared_{kind}", ""))}

    def _found(self, component: Component) -> str:
        if self._find("users", name=component.settings["user"], domain_id="default"):
            return "an account"
        return "a service" if self._find("services", description=_MARK.format(component.name)) else ""

    def _make(self, component: Component) -> None:
        settings = component.settings
        known = self._find("users", name=settings["user"], domain_id="default")
        user = {"name": settings["user"], "password": settings["password"], "domain_id": "default", "enabled": True}
        if known and component.new:
            raise Taken("an account")
        user_id = known[0]["id"] if known else self._create_user(user, component.new)
        # Only where the password differs: a change revokes the user's tokens.
        if known and not self._login(settings, accept="HTTP 401").ok:
            self._keystone("PATCH", f"/users/{user_id}", {"user": user})
        if known or settings["catalog_type"]:
            self._publish(component)
        self._grant(user_id, settings, fresh=not known)

    def _create_user(self, user: Mapping[str, object], new: bool) -> str:
        try:
            return self._create("user", user)
        except Refused as error:
            if new and _EXISTS in str(error):
                raise Taken("an account") from error
            raise

    def _grant(self, user: str, settings: Mapping[str, str], fresh: bool) -> None:
        """Give the user exactly these roles on the project."""
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
        """Create the catalog entry, or recreate it if it differs.

        All its interfaces have one URL: middleware asks for the internal one.
        """
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
        # Keystone removes a service's endpoints with it. The user goes last: without one, `ensure` looks for no entry.
        for service in self._find("services", description=_MARK.format(component.name)):
            self._delete("service", service)
        for user in self._find("users", name=component.settings["user"], domain_id="default"):
            self._delete("user", user)

    def _find(self, kind: str, **wanted: str | None) -> list[dict[str, Any]]:
        with self._lock:  # Other threads create and delete some.
            listed = list(self._once(kind, lambda: self._keystone("GET", f"/{kind}").json()[kind]))
        return [one for one in listed if one.items() >= wanted.items()]

    def _id(self, kind: str, name: str) -> str:
        for one in self._find(kind + "s", name=name, domain_id="default" if kind == "project" else None):
            return str(one["id"])
        known = [one["name"] for one in self._find(kind + "s")]
        hint = f"{hint_for(name, known, 'Keystone has')}; correct '{kind}s' in devenv.yaml"
        raise Refused(f"Keystone has no {kind} {name!r}", hint)

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
