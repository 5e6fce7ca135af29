"""Which proxies a build gets, and how it reaches one on the loopback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from devenv.engine.protocol import About
from devenv.engine.proxies import BuildProxies, for_builds

FAR, NEAR = "http://user:s3cret@proxy.example:3128", "http://user:s3cret@127.0.0.1:3128"
LOCAL, REMOTE = About("Docker Engine", "1", "1.41"), About("rootless Docker Engine", "1", "1.41", loopback=False)


def chosen(about: About = LOCAL, **settings: str) -> BuildProxies:
    """Return the proxies of a build where these variables are set."""
    with pytest.MonkeyPatch.context() as patched:
        for name, value in settings.items():
            patched.setenv(name, value)
        return for_builds("unix:///x", lambda: about)


def never() -> About:
    raise AssertionError("asked the engine")


def test_without_a_proxy_builds_get_none_and_the_engine_is_not_asked() -> None:
    assert for_builds("unix:///x", never) == BuildProxies({}, False, "")


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY"])
def test_a_proxy_goes_by_both_names(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, FAR)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,.local")
    proxies = for_builds("unix:///x", never)
    exceptions = dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1,.local")
    assert proxies.arguments == {"http_proxy": FAR, "HTTP_PROXY": FAR, **exceptions}
    assert (proxies.host_network, proxies.left_out) == (False, "")


def test_a_proxy_for_everything_is_one_for_each_scheme_without_its_own() -> None:
    found = chosen(ALL_PROXY="socks5h://proxy:1080", https_proxy=FAR).arguments
    assert found["http_proxy"] == "socks5h://proxy:1080" and found["https_proxy"] == FAR
    assert "all_proxy" not in {name.lower() for name in found}


def test_an_empty_variable_is_none() -> None:
    assert chosen(http_proxy="", HTTP_PROXY="", https_proxy="").arguments == {}


@pytest.mark.parametrize(
    "proxy",
    [
        NEAR,
        "127.0.0.1:3128",
        "127.0.0.1",
        "http://127.1:3128",
        "http://127.8.9.10:3128/",
        "http://localhost:3128",
        "LOCALHOST:3128",
        "http://localhost.:3128",
        "http://px.localhost:3128",
        "http://[::1]:3128",
        "http://[::ffff:127.0.0.1]:3128",
        "http://0.0.0.0:3128",
        "socks5://localhost:1080",
    ],
)
def test_a_proxy_on_the_loopback_needs_the_hosts_network_or_is_left_out(proxy: str) -> None:
    near = chosen(http_proxy=proxy, no_proxy="local")
    assert near.host_network and near.arguments["http_proxy"] == proxy and not near.left_out
    far = chosen(REMOTE, http_proxy=proxy, https_proxy=FAR, no_proxy="local")
    assert set(far.arguments) == {"https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY"} and not far.host_network
    where = "rootless Docker Engine at unix:///x"
    assert far.left_out == f"http_proxy left out: a build on {where} cannot reach a proxy on this machine's loopback"


@pytest.mark.parametrize(
    "proxy", [FAR, "http://172.17.0.1:3128", "localhost.example:1", "http://[fe80::1]:1", "http://[", "x", "http://"]
)
def test_any_other_proxy_is_handed_on_as_it_is(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    assert for_builds("unix:///x", never).arguments["http_proxy"] == proxy


def test_all_variables_that_are_left_out_are_named() -> None:
    assert chosen(REMOTE, ALL_PROXY=NEAR).left_out.startswith("http_proxy, https_proxy, ftp_proxy left out: ")


# ---- the docker command line's own proxies -----------------------------------------------------------------------


def docker_says(own_world: Path, proxies: Any) -> None:
    (own_world / "docker").mkdir(parents=True)
    (own_world / "docker/config.json").write_text(json.dumps({"proxies": proxies}))


def test_what_docker_gives_to_builds_is_used_where_the_environment_says_nothing(own_world: Path) -> None:
    both = {"httpProxy": NEAR, "httpsProxy": NEAR, "noProxy": "local"}
    docker_says(own_world, {"default": both, "tcp://other": {"httpProxy": "other"}})
    found = chosen(https_proxy=FAR)
    assert found.host_network
    assert {name: found.arguments[name] for name in ("http_proxy", "https_proxy", "no_proxy")} == {
        "http_proxy": NEAR,
        "https_proxy": FAR,
        "no_proxy": "local",
    }


def test_an_engine_may_have_proxies_of_its_own(own_world: Path) -> None:
    docker_says(own_world, {"default": {"httpProxy": NEAR}, "unix:///x": {"allProxy": FAR}})
    assert chosen().arguments["http_proxy"] == FAR


@pytest.mark.parametrize("proxies", [None, [], "x", {"default": "x"}, {"default": {"httpProxy": 3}}, {"default": None}])
def test_settings_of_another_type_name_no_proxy(own_world: Path, proxies: Any) -> None:
    docker_says(own_world, proxies)
    assert chosen() == BuildProxies()
