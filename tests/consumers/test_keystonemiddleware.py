"""auth_token, configured by the overlay, lets in users that Keystone knows, and says who they are."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from keystoneauth1 import loading, service_token, session
from keystoneauth1.identity import v3
from oslo_config import cfg
from wired import Peer, Wired


@pytest.fixture(scope="module")
def app(wired: Wired) -> Iterator[Peer]:
    with wired.peer("protected_app.py", "--config-file", wired.overlay()) as peer:
        yield peer


@pytest.fixture(scope="module")
def member(wired: Wired) -> v3.Password:
    return v3.Password(**wired.clouds()["devenv"]["auth"])


@pytest.fixture(scope="module")
def service_user(wired: Wired) -> object:
    """Load the user that [service_user] of the overlay describes."""
    conf = cfg.ConfigOpts()
    loading.register_auth_conf_options(conf, "service_user")
    conf(["--config-file", str(wired.overlay())], default_config_files=[], default_config_dirs=[])
    return loading.load_auth_from_conf_options(conf, "service_user")


@pytest.fixture(scope="module")
def http() -> Iterator[session.Session]:
    shared = session.Session()
    yield shared
    shared.session.close()


def test_a_members_token_is_let_in_with_its_identity(app: Peer, member: v3.Password, http: session.Session) -> None:
    status, seen = app.ask("get", member.get_headers(http))
    assert status == 200
    assert seen["X-Identity-Status"] == "Confirmed"
    assert (seen["X-User-Name"], seen["X-Project-Name"]) == ("demo", "demo")
    assert "member" in seen["X-Roles"].split(",")
    assert "admin" not in seen["X-Roles"].split(",")


def test_a_forged_token_is_refused_with_the_way_to_keystone(app: Peer, variables: dict[str, str]) -> None:
    status, seen = app.ask("get", {"X-Auth-Token": "gAAAAABforged"})
    assert status == 401
    assert seen["WWW-Authenticate"] == f'Keystone uri="{variables["DEVENV_KEYSTONE_URL"]}"'


def test_no_token_is_refused(app: Peer) -> None:
    assert app.ask("get", {})[0] == 401


def test_a_service_vouches_for_a_member(
    app: Peer, member: v3.Password, service_user: object, http: session.Session
) -> None:
    both = service_token.ServiceTokenAuthWrapper(user_auth=member, service_auth=service_user)
    status, seen = app.ask("get", both.get_headers(http))
    assert status == 200
    assert (seen["X-User-Name"], seen["X-Service-User-Name"]) == ("demo", "nova")
    assert seen["X-Service-Identity-Status"] == "Confirmed"
    assert "service" in seen["X-Service-Roles"].split(",")


def test_a_member_cannot_vouch_for_itself(app: Peer, member: v3.Password, http: session.Session) -> None:
    """service_token_roles_required: a token without the role `service` is no service's token."""
    both = service_token.ServiceTokenAuthWrapper(user_auth=member, service_auth=member)
    assert app.ask("get", both.get_headers(http))[0] == 401
