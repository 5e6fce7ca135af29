"""oslo.config, with the options of all libraries, reads each form in which devenv writes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from oslo_config import cfg
from wired import Peer, Wired

Options = dict[str, dict[str, list[str]]]


@pytest.fixture(scope="module")
def reader(wired: Wired) -> Iterator[Peer]:
    with wired.peer("read_options.py") as peer:
        yield peer


def written(overlay: Path) -> Options:
    """Read the file with oslo.config's own parser: no option has a type yet, and all may be repeated."""
    sections: Options = {}
    cfg.ConfigParser(str(overlay), sections).parse()
    return sections


def from_environment(wired: Wired, variables: dict[str, str]) -> dict[str, dict[str, object]]:
    with wired.peer("read_options.py", extra=variables) as peer:
        seen: dict[str, dict[str, object]] = peer.ask("read")
    return seen


@pytest.mark.parametrize("component", ["nova", "my-service"])
def test_every_option_of_an_overlay_is_one_that_a_library_has(wired: Wired, reader: Peer, component: str) -> None:
    overlay = wired.overlay(component)
    seen = reader.ask("read", "--config-file", str(overlay))
    for section, options in written(overlay).items():
        assert options.keys() <= seen[section].keys(), section


@pytest.mark.parametrize("component", ["nova", "my-service"])
def test_a_folder_says_the_same_as_a_file(wired: Wired, reader: Peer, component: str) -> None:
    by_file = reader.ask("read", "--config-file", str(wired.overlay(component)))
    assert reader.ask("read", "--config-dir", str(wired.folder / f"{component}.conf.d")) == by_file


@pytest.mark.parametrize(("option", "name"), [("--config-file", "nova.conf"), ("--config-dir", "nova.conf.d")])
def test_an_overlay_overrides_the_file_before_it_and_leaves_the_rest(
    wired: Wired, reader: Peer, variables: dict[str, str], tmp_path: Path, option: str, name: str
) -> None:
    own = tmp_path / "own.conf"
    own.write_text("[DEFAULT]\ntransport_url = fake://\n[database]\nconnection = sqlite://\nmax_retries = 3\n")
    seen = reader.ask("read", "--config-file", str(own), option, str(wired.folder / name))
    assert seen["database"]["connection"] == variables["DEVENV_MYSQL_URL"]
    assert seen["database"]["max_retries"] == 3
    assert seen["DEFAULT"]["transport_url"] == variables["DEVENV_RABBITMQ_URL"]


def test_a_merged_file_says_the_same_as_the_overlay_and_the_rest_as_before(wired: Wired, reader: Peer) -> None:
    own = wired.project.folder / "mine.conf"
    own.write_text("[DEFAULT]\nrpc_response_timeout = 7\n\n[database]\nconnection = sqlite://\nmax_retries = 3\n")
    alone = reader.ask("read", "--config-file", str(own), "--config-file", str(wired.overlay("nova")))
    wired.project.devenv("wire", "nova", "mine.conf")
    try:
        assert reader.ask("read", "--config-file", str(own)) == alone
        assert alone["database"]["max_retries"] == 3
    finally:
        wired.project.devenv("unwire", "nova", "mine.conf")


def test_an_overlay_says_what_devenv_env_says(wired: Wired, reader: Peer, variables: dict[str, str]) -> None:
    seen = reader.ask("read", "--config-file", str(wired.overlay()))
    assert seen["keystone_authtoken"]["auth_url"] == variables["DEVENV_KEYSTONE_URL"]
    assert seen["keystone_authtoken"]["username"] == variables["DEVENV_KEYSTONE_USER"] == "nova"
    assert seen["keystone_authtoken"]["password"] == variables["DEVENV_KEYSTONE_PASSWORD"]
    assert seen["coordination"]["backend_url"] == f"etcd3+{variables['DEVENV_ETCD_URL']}?api_version=v3"
    assert seen["cache"]["backend_argument"] == [
        f"host:{variables['DEVENV_ETCD_HOST']}",
        f"port:{variables['DEVENV_ETCD_PORT']}",
    ]


def test_a_program_sees_the_same_in_the_environment_as_in_the_overlay(
    wired: Wired, reader: Peer, variables: dict[str, str]
) -> None:
    by_file = reader.ask("read", "--config-file", str(wired.overlay()))
    seen = from_environment(wired, variables)
    given = [name for name in variables if name.startswith("OS_") and "__" in name]
    assert len(given) > 50
    for section, options in written(wired.overlay()).items():
        for option in options:
            if f"OS_{section}__{option}".upper() in given:
                assert seen[section][option] == by_file[section][option], f"[{section}] {option}"


def test_only_options_that_may_be_repeated_are_missing_in_the_environment(
    wired: Wired, variables: dict[str, str]
) -> None:
    missing = {
        section
        for section, options in written(wired.overlay()).items()
        if any(f"OS_{section}__{option}".upper() not in variables for option in options)
    }
    # `driver` in the second section may be repeated, but is there once, so the file does not show it.
    assert {"cache"} <= missing <= {"cache", "oslo_messaging_notifications"}


def test_oslo_config_takes_a_repeated_option_of_the_environment_to_pieces(
    wired: Wired, variables: dict[str, str]
) -> None:
    """This is why devenv leaves them out. Once this test fails, devenv can write them."""
    seen = from_environment(wired, {**variables, "OS_CACHE__BACKEND_ARGUMENT": "host:h"})
    assert seen["cache"]["backend_argument"] == list("host:h")
