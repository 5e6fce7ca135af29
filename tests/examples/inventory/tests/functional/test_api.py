"""All of it: Keystone's tokens, HTTP, RPC and the database."""

import pytest
from keystoneauth1.adapter import Adapter

from inventory.api import ApiService

pytestmark = pytest.mark.devenv(services=["mysql", "rabbitmq", "etcd", "keystone"])


def test_whom_keystone_knows_is_let_in(http: Adapter) -> None:
    answer = http.get("/v1/workers")
    assert (answer.status_code, answer.json()) == (200, {"workers": ["a-worker"]})


@pytest.mark.parametrize("headers", [{}, {"X-Auth-Token": "forged"}], ids=["no token", "a forged token"])
def test_nobody_else_is_let_in(devenv_module_component, api: ApiService, http: Adapter, headers: dict) -> None:
    answer = http.get("/v1/items", headers=headers, authenticated=False)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == f'Keystone uri="{devenv_module_component.env["OS_AUTH_URL"]}"'


def test_an_item_is_made_and_taken(http: Adapter) -> None:
    made = http.post("/v1/items", json={"name": "nut", "count": 5})
    assert (made.status_code, made.json()) == (201, {"name": "nut", "count": 5})
    taken = http.post("/v1/items/nut/take", json={"count": 4})
    assert (taken.status_code, taken.json()) == (200, {"name": "nut", "count": 1})
    assert http.get("/v1/items/nut").json() == {"name": "nut", "count": 1}
    assert {"name": "nut", "count": 1} in http.get("/v1/items").json()["items"]


def test_what_cannot_be_is_refused_in_words(http: Adapter) -> None:
    assert http.post("/v1/items", json={"name": "bolt", "count": 1}).status_code == 201
    again = http.post("/v1/items", json={"name": "bolt", "count": 1})
    assert (again.status_code, again.json()) == (409, {"error": "there is an item bolt already"})
    more = http.post("/v1/items/bolt/take", json={"count": 2})
    assert (more.status_code, more.json()) == (409, {"error": "there are 1 of bolt, not 2"})
    assert http.post("/v1/items/screw/take", json={"count": 1}).status_code == 404
    assert http.post("/v1/items", json={"name": "bolt"}).status_code == 400
    assert http.get("/v1/elsewhere").status_code == 404
