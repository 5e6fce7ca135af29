"""Requests and errors of provisioners, with a small server that answers like etcd, RabbitMQ or Keystone."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any

import pytest

from devenv.errors import ConfigError, NotOurs, ServiceFailed, Unreachable
from devenv.services.base import Component, Provisioner, Target
from devenv.services.etcd import Etcd
from devenv.services.keystone import Keystone
from devenv.services.lookup import load_provisioner
from devenv.services.rabbitmq import RabbitMQ

ROOT = "the-administrator's-password"
OWN = "the-component's-password"
Answer = tuple[int, Any]


@dataclass
class Server:
    """Keeps each request as "METHOD /path", and answers with what `reply` returns."""

    port: int = 0
    reply: Callable[[str, Any], Answer] = lambda asked, body: (200, {})
    asked: list[str] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def target(self, path: str = "", **settings: str) -> Target:
        login = {"user": "admin", "password": ROOT, "project": "admin", "auth": "true"}
        return Target("127.0.0.1", self.port, f"http://127.0.0.1:{self.port}{path}", login | settings, "the-service")


@pytest.fixture
def server() -> Iterator[Server]:
    fake = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Headers and body go in two packets, and the client would confirm the first one only after 40 ms.
        disable_nagle_algorithm = True

        def answer(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with fake.lock:
                asked, body = f"{self.command} {self.path}", json.loads(sent or "null")
                fake.asked.append(asked)
                fake.bodies.append(body)
                fake.tokens.append(self.headers.get("Authorization") or self.headers.get("X-Auth-Token") or "")
                status, answer = fake.reply(asked, body)
            data = b"" if status == 204 else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("X-Subject-Token", "a-token")
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = answer

        def log_message(self, *_: object) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        block_on_close = False
        request_queue_size = 64

    with Quiet(("127.0.0.1", 0), Handler) as http:
        fake.port = http.server_port
        threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
        yield fake
        http.shutdown()


def component(name: str = "nova", **settings: str) -> Component:
    usual = {"user": name, "password": OWN, "vhost": name, "prefix": f"/{name}/", "project": "service"}
    catalog = {"roles": "service", "region": "R", "catalog_type": "", "catalog_name": "", "catalog_url": ""}
    return Component(name, usual | catalog | settings)


def test_an_unknown_kind_is_told_with_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match="cannot find a provisioner of kind 'redis'") as error:
        load_provisioner("redis")
    assert "etcd, keystone" in error.value.hint and "rabbitmq" in error.value.hint


def test_a_component_shows_no_password() -> None:
    assert OWN not in repr(component())


REFUSALS = [
    (RabbitMQ, {"error": "bad_request", "reason": f"no {OWN} nor {ROOT}"}),
    (Etcd, {"code": 3, "message": f"no {OWN} nor {ROOT}"}),
    (Keystone, {"error": {"code": 400, "message": f"no {OWN} nor {ROOT}", "title": "Bad Request"}}),
]


@pytest.mark.parametrize(("kind", "body"), REFUSALS)
def test_a_refusal_is_one_line_without_passwords(server: Server, kind: type[Provisioner], body: object) -> None:
    server.reply = lambda asked, _: (400, body)
    with pytest.raises(ServiceFailed) as error:
        kind(server.target()).ensure(component())
    where = f"of component nova at 127.0.0.1:{server.port}"
    assert error.value.message == f"cannot create {kind.what} {where}: HTTP 400: no *** nor ***"
    assert "'devenv logs the-service'" in error.value.hint
    with pytest.raises(ServiceFailed, match=f"cannot remove {kind.what} of component nova"):
        kind(server.target()).drop(component())


@pytest.mark.parametrize("kind", [RabbitMQ, Etcd, Keystone])
@pytest.mark.parametrize("status", [401, 403])
def test_a_login_with_too_few_rights_on_an_attached_server_is_told_which_it_needs(
    server: Server, kind: type[Provisioner], status: int
) -> None:
    server.reply = lambda asked, _: (status, {"message": "you may not"})
    with pytest.raises(ServiceFailed, match=f"HTTP {status}: you may not") as error:
        kind(replace(server.target(), attached=True)).ensure(component())
    assert error.value.hint == f"the login for the-service, from devenv.yaml or DEVENV_ATTACH_*, needs {kind.needs}"


def test_a_short_password_garbles_no_reason(server: Server) -> None:
    server.reply = lambda asked, _: (400, {"message": "user 'half' may not, by h"})
    with pytest.raises(ServiceFailed, match=r"user 'half' may not, by \*\*\*$"):
        RabbitMQ(server.target(user="half", password="h")).drop(component())


def test_no_log_of_an_attached_server_is_hinted_at(server: Server) -> None:
    server.reply = lambda asked, _: (400, {"message": "not now"})
    with pytest.raises(ServiceFailed) as error:
        Etcd(replace(server.target(), attached=True)).drop(component())
    assert error.value.hint == "somebody else runs the-service, so only they can see its log"


@pytest.mark.parametrize(("words", "full"), [("errno: 28 - No space left on device", True), ("not now", False)])
def test_a_server_that_says_that_its_disk_is_full_is_understood(server: Server, words: str, full: bool) -> None:
    server.reply = lambda asked, _: (400, {"error": "bad_request", "reason": words})
    with pytest.raises(ServiceFailed) as error:
        RabbitMQ(server.target()).ensure(component())
    assert error.value.disk_full == full


@pytest.mark.parametrize("kind", [RabbitMQ, Etcd, Keystone])
def test_nobody_listening_is_told_as_such(kind: type[Provisioner]) -> None:
    nobody = Target("127.0.0.1", 1, "http://127.0.0.1:1", {"user": "u", "password": ROOT, "project": "p", "auth": ""})
    with pytest.raises(ServiceFailed, match=r"at 127.0.0.1:1: connection refused"):
        kind(nobody).drop(component())


@pytest.mark.parametrize("kind", ["rabbitmq", "etcd", "keystone", "mysql", "postgresql"])
def test_an_attached_server_that_does_not_answer_is_unreachable_whatever_was_to_be_done(kind: str) -> None:
    login = {"user": "u", "password": ROOT, "project": "p", "auth": "", "database": "d"}
    nobody = Target("127.0.0.1", 1, "http://127.0.0.1:1", login, "the-service", attached=True)
    with pytest.raises(Unreachable, match=r"^cannot reach the-service at 127.0.0.1:1: ") as error:
        load_provisioner(kind)(nobody).drop(component(database="nova"))
    assert error.value.hint == "repeat this when the-service answers"


@pytest.mark.parametrize("kind", ["mysql", "mariadb"])
def test_mysql_is_told_in_one_line_too(kind: str) -> None:
    nobody = Target("127.0.0.1", 1, "", {"user": "u", "password": ROOT})
    with pytest.raises(ServiceFailed, match=r"cannot create the database of component nova at 127.0.0.1:1: Can't conn"):
        load_provisioner(kind)(nobody).ensure(component(database="nova"))


def test_postgresql_is_told_in_one_line_too() -> None:
    nobody = Target("127.0.0.1", 1, "", {"user": "u", "password": ROOT, "database": "d"})
    with pytest.raises(
        ServiceFailed, match=r"cannot remove the database of component nova at .*:1: connection refused$"
    ):
        load_provisioner("postgresql")(nobody).drop(component(database="nova"))


def test_a_proxy_of_the_user_is_passed_by(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    RabbitMQ(server.target()).drop(component())
    assert server.asked == ["DELETE /api/vhosts/nova", "DELETE /api/users/nova"]


# RabbitMQ


def test_rabbitmq_names_are_quoted_and_what_is_gone_counts_as_dropped(server: Server) -> None:
    server.reply = lambda asked, _: (404, {"error": "Object Not Found", "reason": "Not Found"})
    RabbitMQ(server.target()).drop(component(vhost="/", user="a/b"))
    assert server.asked == ["DELETE /api/vhosts/%2F", "DELETE /api/users/a%2Fb"]


def test_an_emptied_rabbitmq_has_what_its_file_of_definitions_says_and_nothing_else(server: Server) -> None:
    there = {
        "GET /api/vhosts": [{"name": "/"}, {"name": "mine"}],
        "GET /api/users": [{"name": "admin"}, {"name": "nova"}],
        "GET /api/user-limits": [{"user": "admin", "value": {"max-connections": 0}}],
        "GET /api/global-parameters": [{"name": "internal_cluster_id"}, {"name": "cluster_tags"}, {"name": "own"}],
    }
    server.reply = lambda asked, _: (200, there.get(asked, {}))
    RabbitMQ(server.target()).empty(b'{"vhosts": [{"name": "first"}]}')
    assert [asked for asked in server.asked if not asked.startswith("GET")] == [
        "DELETE /api/vhosts/%2F",
        "DELETE /api/vhosts/mine",
        "DELETE /api/users/nova",
        "DELETE /api/user-limits/admin/max-connections",
        "DELETE /api/global-parameters/own",
        "POST /api/definitions",
    ]
    assert server.bodies[-1] == {"vhosts": [{"name": "first"}]}


def test_what_cannot_be_emptied_says_so_in_one_line(server: Server) -> None:
    server.reply = lambda asked, _: (500, {"reason": f"no {ROOT}"})
    with pytest.raises(ServiceFailed, match=r"cannot clear the-service at 127.0.0.1:\d+: HTTP 500: no \*\*\*"):
        RabbitMQ(server.target()).empty(b"{}")


def test_a_rabbitmq_settles_by_one_more_queue_and_a_change_that_changes_nothing(server: Server) -> None:
    target = server.target(vhost="/")
    RabbitMQ(target).settle()
    made, dropped, changed = server.asked
    assert made.startswith("PUT /api/queues/%2F/devenv.settle.") and dropped == made.replace("PUT", "DELETE")
    assert server.bodies[0]["durable"] and server.bodies[0]["arguments"]["x-queue-type"] == "quorum"
    assert (changed, server.bodies[2]) == ("PUT /api/users/admin", {"password": ROOT, "tags": "administrator"})
    server.reply = lambda asked, _: (500, {"reason": "not now"})
    with pytest.raises(ServiceFailed, match=r"cannot flush the-service to disk at .*: HTTP 500: not now"):
        RabbitMQ(target).settle()


def test_a_rabbitmq_user_loses_its_former_vhost(server: Server) -> None:
    answers = {"GET /api/users/nova/permissions": [{"vhost": "old"}, {"vhost": "nova"}], "GET /api/vhosts/nova": {}}
    server.reply = lambda asked, _: (200, answers[asked]) if asked in answers else (204, None)
    RabbitMQ(server.target()).ensure(component())
    assert [asked for asked in server.asked if "DELETE" in asked] == ["DELETE /api/permissions/old/nova"]


@pytest.mark.parametrize(("status", "kept"), [(412, ""), (201, "another's")])
def test_a_rabbitmq_vhost_that_somebody_made_meanwhile_is_left_as_it_is(server: Server, status: int, kept: str) -> None:
    # To clients that create it at the same time, RabbitMQ answers 201 and keeps the first description.
    server.reply = lambda asked, _: (status, {}) if asked.startswith("PUT") else (200, {"description": kept})
    with pytest.raises(NotOurs, match="somebody else has made a vhost of that name meanwhile"):
        RabbitMQ(server.target()).ensure(replace(component(), new=True))
    assert {*server.asked} <= {"PUT /api/vhosts/nova", "GET /api/vhosts/nova"}


def test_a_rabbitmq_vhost_that_was_left_standing_still_is_started(server: Server) -> None:
    answers = {
        "GET /api/vhosts/nova": (200, {"cluster_state": {"rabbit@one": "stopped", "rabbit@two": "running"}}),
        "PUT /api/users/nova": (201, None),
    }
    server.reply = lambda asked, _: answers.get(asked, (204, None))
    RabbitMQ(server.target()).ensure(component())
    assert [asked for asked in server.asked if "POST" in asked] == ["POST /api/vhosts/nova/start/rabbit%40one"]


# etcd


@pytest.mark.parametrize(("prefix", "end"), [("/nova/", b"/nova0"), ("/a\u00ff", b"/a\xc3\xc0"), ("z", b"{")])
def test_an_etcd_prefix_ends_before_the_next_key(server: Server, prefix: str, end: bytes) -> None:
    Etcd(server.target(auth="false")).drop(component(prefix=prefix))
    key, range_end = (base64.b64decode(server.bodies[0][name]) for name in ("key", "range_end"))
    assert (key, range_end) == (prefix.encode(), end)
    assert key <= prefix.encode() + b"\xff" < range_end
    assert not key <= b"/nova2/x" < range_end or prefix != "/nova/"


@pytest.mark.parametrize("auth", ["true", "false"])
def test_no_prefix_is_not_every_key(server: Server, auth: str) -> None:
    server.reply = lambda asked, _: (200, {"token": "t"})
    for act in ("ensure", "drop"):
        with pytest.raises(ServiceFailed, match="an empty prefix means every key"):
            getattr(Etcd(server.target(auth=auth)), act)(component(prefix=""))
    assert not [asked for asked in server.asked if "authenticate" not in asked]


def test_etcd_without_authentication_is_asked_nothing_for_a_component(server: Server) -> None:
    Etcd(server.target(auth="false")).ensure(component())
    assert not server.asked


def test_etcd_without_authentication_needs_to_be_told_no_user(server: Server) -> None:
    bare = Component("nova", {"prefix": "/nova/"})
    provisioner = Etcd(server.target(auth="false"))
    provisioner.ensure(bare)
    provisioner.drop(bare)
    assert server.asked == ["POST /v3/kv/deleterange"]


def test_etcd_is_prepared_with_one_request_if_there_is_nothing_to_do(server: Server) -> None:
    server.reply = lambda asked, _: (400, {"code": 9, "message": "etcdserver: authentication is not enabled"})
    Etcd(server.target(auth="false")).prepare()
    server.reply = lambda asked, _: (200, {"token": "t"})
    Etcd(server.target(auth="true")).prepare()
    assert server.asked == ["POST /v3/auth/authenticate"] * 2


def test_etcd_with_another_root_password_cannot_be_prepared(server: Server) -> None:
    server.reply = lambda asked, _: (400, {"code": 3, "message": "etcdserver: authentication failed, invalid user"})
    with pytest.raises(
        ServiceFailed, match=r"cannot prepare etcd at .*: HTTP 400: etcdserver: authentication failed"
    ) as raised:
        Etcd(server.target()).prepare()
    assert "devenv reset etcd" in raised.value.hint


def test_the_password_of_an_etcd_user_is_set_only_if_it_does_not_work(server: Server) -> None:
    works = [True]

    def reply(asked: str, body: Any) -> Answer:
        if asked.endswith("/add"):
            return 400, {"code": 9, "message": "etcdserver: name already exists"}
        if asked.endswith("/authenticate") and body["name"] == "nova" and not works[0]:
            return 400, {"code": 3, "message": "etcdserver: authentication failed, invalid user ID or password"}
        return 200, {"token": "t"}

    server.reply = reply
    for works[0] in (True, False):
        Etcd(server.target()).ensure(component())
        assert ("POST /v3/auth/user/changepw" in server.asked) is not works[0]


def test_etcd_is_asked_again_when_another_thread_changed_a_user(server: Server) -> None:
    refusals = iter([400, 400])

    def reply(asked: str, _: Any) -> Answer:
        status = next(refusals, 200) if asked.endswith("role/grant") else 200
        return status, {"token": "t", "message": "etcdserver: revision of auth store is old"}

    server.reply = reply
    Etcd(server.target()).ensure(component())
    assert server.asked.count("POST /v3/auth/role/grant") == 3


def test_etcd_that_goes_on_refusing_is_believed(server: Server) -> None:
    server.reply = lambda asked, _: (
        400 if asked.endswith("user/add") else 200,
        {"token": "t", "message": "etcdserver: revision of auth store is old"},
    )
    with pytest.raises(ServiceFailed, match="revision of auth store is old"):
        Etcd(server.target()).ensure(component())


def test_etcd_that_forgot_who_logged_in_is_told_once_more_by_all_threads_together(server: Server) -> None:
    logins = count(1)
    valid = "t1"

    def reply(asked: str, body: Any) -> Answer:
        if asked.endswith("/authenticate") and body["name"] == "root":
            return 200, {"token": f"t{next(logins)}"}
        known = server.tokens[-1] == valid or asked.endswith("/authenticate")
        return (200, {}) if known else (401, {"code": 16, "message": "etcdserver: invalid auth token"})

    server.reply = reply
    work = Etcd(server.target())
    work.ensure(component())
    valid = "t2"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: work.ensure(component(f"c{number}")), range(8)))
    work.drop(component())
    work.close()
    assert next(logins) == 3


# Keystone


def keystone(asked: str, body: Any) -> Answer:
    """Answer like a Keystone that has what every component needs, and the user `old` with wrong roles."""
    method, _, path = asked.partition("?")[0].partition(" ")
    if method == "POST":
        (kind,) = body
        return 201, {kind: {**body[kind], "id": f"{kind}-{body[kind].get('name', '')}"}}
    if method != "GET":
        return 204, None
    role = "http://x/v3/projects/service-id/users/old-id/roles/admin-id"
    lists = {
        "/v3/users": [{"name": "old", "id": "old-id", "domain_id": "default"}],
        "/v3/roles": [{"name": name, "id": f"{name}-id", "domain_id": None} for name in ("service", "reader", "admin")],
        "/v3/projects": [{"name": "service", "id": "service-id", "domain_id": "default"}],
        "/v3/services": [{"name": "keystone", "id": "k", "type": "identity"}],
        "/v3/role_assignments": [{"links": {"assignment": role}}],
    }
    return 200, {path.rpartition("/")[2]: lists[path]}


def test_a_fresh_keystone_user_costs_three_changes(server: Server) -> None:
    server.reply = keystone
    Keystone(server.target("/v3")).ensure(component())
    assert [asked for asked in server.asked if not asked.startswith("GET")] == [
        "POST /v3/auth/tokens?nocatalog",
        "POST /v3/users",
        "PUT /v3/projects/service-id/users/user-nova/roles/service-id",
        "PUT /v3/system/users/user-nova/roles/reader-id",
    ]


@pytest.mark.parametrize(("shared", "lacks"), [("service", False), ("other", True)])
def test_a_look_at_what_a_keystone_lacks_changes_nothing(server: Server, shared: str, lacks: bool) -> None:
    server.reply = keystone
    found = Keystone(server.target("/v3", token="t", shared_project=shared, shared_role="service"))
    assert found.lacks() == lacks
    assert all(asked.startswith("GET") for asked in server.asked)


def conflict(asked: str, body: Any) -> Answer:
    """Answer like a Keystone in which somebody else has just made what is to be made."""
    return (409, {"error": {"message": "Conflict"}}) if asked.split()[0] == "POST" else keystone(asked, body)


@pytest.mark.parametrize("user", ["nova", "old"])
def test_a_keystone_user_that_somebody_made_meanwhile_is_left_as_it_is(server: Server, user: str) -> None:
    server.reply = conflict
    new = replace(component(user=user), new=True)
    with pytest.raises(NotOurs, match=r"somebody else has made an account of that name meanwhile\Z"):
        Keystone(server.target("/v3", token="t")).ensure(new)
    assert {asked.split()[0] for asked in server.asked} <= {"GET", "POST"}


def test_a_project_that_another_environment_made_meanwhile_is_as_good(server: Server) -> None:
    server.reply = conflict
    Keystone(server.target("/v3", token="t", shared_project="other")).prepare()
    assert [asked for asked in server.asked if asked.startswith("POST")] == ["POST /v3/projects"]


def test_a_known_keystone_user_keeps_its_password_and_loses_other_roles(server: Server) -> None:
    server.reply = keystone
    Keystone(server.target("/v3")).ensure(component("old"))
    changes = [asked for asked in server.asked if not asked.startswith(("GET", "POST /v3/auth"))]
    assert changes == [
        "PUT /v3/projects/service-id/users/old-id/roles/service-id",
        "PUT /v3/system/users/old-id/roles/reader-id",
        "DELETE /v3/projects/service-id/users/old-id/roles/admin-id",
    ]


def test_the_password_of_a_keystone_user_is_set_only_if_it_does_not_work(server: Server) -> None:
    def reply(asked: str, body: Any) -> Answer:
        refused = "auth/tokens" in asked and "old" in json.dumps(body)
        return (401, {"error": {"message": "no"}}) if refused else keystone(asked, body)

    server.reply = reply
    Keystone(server.target("/v3")).ensure(component("old"))
    assert "PATCH /v3/users/old-id" in server.asked


def test_a_catalog_entry_has_three_endpoints_and_goes_with_its_component(server: Server) -> None:
    server.reply = keystone
    work = Keystone(server.target("/v3"))
    entry = {"catalog_type": "compute", "catalog_name": "nova", "catalog_url": "http://x:8774"}
    work.ensure(component(**entry))
    made = [body["endpoint"] for body in server.bodies if body and "endpoint" in body]
    assert sorted(one["interface"] for one in made) == ["admin", "internal", "public"]
    assert {(one["url"], one["region_id"], one["service_id"]) for one in made} == {
        ("http://x:8774", "R", "service-nova")
    }
    work.drop(component(**entry))
    assert server.asked[-2:] == ["DELETE /v3/services/service-nova", "DELETE /v3/users/user-nova"]


@pytest.mark.parametrize(
    ("settings", "reason"), [({"roles": "x"}, "no role 'x'"), ({"project": "y"}, "no project 'y'")]
)
def test_what_keystone_does_not_have_is_named(server: Server, settings: dict[str, str], reason: str) -> None:
    server.reply = keystone
    with pytest.raises(ServiceFailed, match=f"Keystone has {reason}"):
        Keystone(server.target("/v3")).ensure(component(**settings))


def test_many_threads_share_one_token_and_one_look(server: Server) -> None:
    server.reply = keystone
    work = Keystone(server.target("/v3"))
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(lambda number: work.ensure(component(f"c{number}")), range(64)))
    work.close()
    once = ["POST /v3/auth/tokens?nocatalog", *(f"GET /v3/{kind}" for kind in ("users", "roles", "projects"))]
    assert [server.asked.count(asked) for asked in once] == [1, 1, 1, 1]
    assert server.asked.count("POST /v3/users") == 64
    assert {token for asked, token in zip(server.asked, server.tokens, strict=True) if "auth" not in asked} == {
        "a-token"
    }


# ---- Keystone's own token for this ---------------------------------------------------------------------------------


def test_a_token_of_the_servers_own_spares_the_login(server: Server) -> None:
    server.reply = lambda asked, body: (200, {"users": [], "services": []})
    Keystone(server.target("/v3", token="its own")).drop(component())
    assert set(server.tokens) == {"its own"} and "POST /v3/auth/tokens" not in str(server.asked)


def test_a_token_that_the_server_does_not_know_is_followed_by_a_login(server: Server) -> None:
    def reply(asked: str, body: Any) -> Answer:
        if "/auth/tokens" in asked:
            return 201, {"token": {}}
        known = server.tokens[-1] != "of another release"
        return (200, {"users": [], "services": []}) if known else (401, {"error": {"message": "no"}})

    server.reply = reply
    Keystone(server.target("/v3", token="of another release")).drop(component())
    assert [asked.split("?")[0] for asked in server.asked] == [
        "GET /v3/services",
        "POST /v3/auth/tokens",
        "GET /v3/services",
        "GET /v3/users",
    ]
