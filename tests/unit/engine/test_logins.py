"""The user's logins for registries: in config.json, or with helpers that may fail in any way."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from devenv.engine import docker_config, logins
from devenv.engine.logins import Login, login_for, registry_of

HUB = "https://index.docker.io/v1/"
NAMED = {"username": "u", "password": "p"}
IN_FILE = {"auth": base64.b64encode(b"u:p").decode()}


@pytest.fixture
def folder(own_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of docker's settings; helpers are programs in it."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def configure(folder: Path, **settings: Any) -> None:
    (folder / "config.json").write_text(json.dumps(settings))


def helper(folder: Path, script: str, name: str = "h") -> None:
    program = folder / f"docker-credential-{name}"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def found(image: str) -> Any:
    """Return the login that goes with a pull of this image, as the engine reads it."""
    login = login_for(image, lambda _: None)
    assert not (login.headers and login.fault)
    return json.loads(base64.urlsafe_b64decode(login.headers["X-Registry-Auth"])) if login.headers else login.fault


@pytest.mark.parametrize(
    ("image", "registry"),
    [
        ("mysql:8", "docker.io"),
        ("debian/mysql:8", "docker.io"),
        ("docker.io/library/mysql:8", "docker.io"),
        ("quay.io/a/b:1", "quay.io"),
        ("localhost/a:1", "localhost"),
        ("r:5000/a:1", "r:5000"),
        ("mysql@sha256:1", "docker.io"),
    ],
)
def test_the_registry_is_that_of_the_reference(image: str, registry: str) -> None:
    assert registry_of(image) == registry


# ---- logins that are there ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", [HUB, "docker.io", "index.docker.io"])
def test_a_login_in_the_file_is_found_by_each_name_of_dockers_own_registry(folder: Path, server: str) -> None:
    configure(folder, auths={"other.io": {"auth": "eDp5"}, server: IN_FILE})
    assert found("mysql:8") == {**NAMED, "serveraddress": HUB}


@pytest.mark.parametrize("server", ["r:5000", "https://r:5000", "http://r:5000/v2/"])
def test_a_login_in_the_file_is_found_by_its_host(folder: Path, server: str) -> None:
    configure(folder, auths={server: IN_FILE})
    assert found("r:5000/a:1") == {**NAMED, "serveraddress": "r:5000"}
    assert found("mysql:8") == ""


@pytest.mark.parametrize(
    ("entry", "keys"),
    [
        ({"identitytoken": "t", "auth": "eDp5"}, {"identitytoken": "t"}),
        (NAMED, NAMED),
        ({"auth": base64.b64encode(b"u:p:q").decode()}, {"username": "u", "password": "p:q"}),
    ],
)
def test_a_login_may_be_a_token_or_in_two_fields(folder: Path, entry: Any, keys: dict[str, str]) -> None:
    configure(folder, auths={"r:5000": entry})
    assert found("r:5000/a:1") == {**keys, "serveraddress": "r:5000"}


def test_a_helper_is_asked_for_one_server_and_that_of_a_registry_goes_first(folder: Path) -> None:
    said: list[str] = []
    for name in ("all", "one"):
        script = f'read server; echo \'{{"Username": "\'{name}-$1-$server\'", "Secret": "p"}}\''
        helper(folder, script, name)
    configure(folder, credsStore="all", credHelpers={"r:5000": "one"})
    assert found("r:5000/a:1")["username"] == "one-get-r:5000"
    assert found("mysql:8")["username"] == f"all-get-{HUB}"
    login_for("mysql:8", said.append)
    assert said == ["asking docker-credential-all for a login"]


def test_a_helper_may_give_a_token(folder: Path) -> None:
    helper(folder, """echo '{"ServerURL": "r", "Username": "<token>", "Secret": "t"}'""")
    configure(folder, credsStore="h")
    assert found("r:5000/a:1") == {"identitytoken": "t", "serveraddress": "r:5000"}


# ---- those that are not ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "script", ["echo credentials not found in native keychain; exit 1", """echo '{"Username": "", "Secret": ""}'"""]
)
def test_a_helper_that_has_no_login_is_no_fault(folder: Path, script: str) -> None:
    helper(folder, script)
    configure(folder, credsStore="h")
    assert found("mysql:8") == ""
    configure(folder, credsStore="h", auths={HUB: IN_FILE})
    assert found("mysql:8")["username"] == "u"


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        ("echo pass not initialised; exit 1", "fails (exit code 1: pass not initialised)"),
        ("echo no bus >&2; exit 3", "fails (exit code 3: no bus)"),
        ("exit 1", "fails (exit code 1)"),
        ("kill -9 $$", "fails (exit code -9)"),
        ("echo secret", "gives an answer that is no login"),
        ("true", "gives an answer that is no login"),
        ("echo '[1]'", "gives an answer that is no login"),
        ("""echo '{"Username": "u"}'""", "gives an answer that is no login"),
        ("printf '\\377'", "gives an answer that is no login"),
    ],
)
def test_a_helper_that_fails_is_named_and_keeps_no_other_login_from_use(folder: Path, script: str, fault: str) -> None:
    helper(folder, script)
    configure(folder, credsStore="h")
    assert found("mysql:8") == f"docker-credential-h {fault}"
    configure(folder, credHelpers={"docker.io": "h"})
    assert found("mysql:8") == f"docker-credential-h {fault}"
    assert found("r:5000/a:1") == ""
    configure(folder, credsStore="h", auths={HUB: IN_FILE})
    assert found("mysql:8")["username"] == "u"


def test_a_helper_that_is_not_installed_or_does_not_start_is_named(folder: Path) -> None:
    configure(folder, credsStore="h")
    assert found("mysql:8") == "docker-credential-h is not installed"
    helper(folder, "")
    (folder / "docker-credential-h").write_text("#!/nonexistent\n")
    assert found("mysql:8") == "docker-credential-h does not start (No such file or directory)"


def test_a_helper_that_hangs_is_not_waited_for_without_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logins, "_HELPER_SECONDS", 0.1)
    helper(folder, "exec sleep 60")
    configure(folder, credsStore="h")
    assert found("mysql:8") == "docker-credential-h does not answer in 0.1 s"


@pytest.mark.parametrize("entry", [{"auth": "dTp"}, {"auth": 3}, {"auth": base64.b64encode(b"\xff\xff").decode()}])
def test_a_garbled_login_is_told(folder: Path, entry: Any) -> None:
    configure(folder, auths={"r:5000": entry})
    assert found("r:5000/a:1") == "the login for r:5000 in docker's config.json is garbled"


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"credsStore": "", "credHelpers": None, "auths": None},
        {"credsStore": 3, "credHelpers": [1], "auths": "x"},
        {"credsStore": ["h"], "credHelpers": {"docker.io": ""}, "auths": {"docker.io": "x", "a": None}},
        {"auths": {"docker.io": {}}},
    ],
)
def test_settings_of_another_type_hold_no_login(folder: Path, settings: dict[str, Any]) -> None:
    configure(folder, **settings)
    assert login_for("mysql:8", lambda _: None) == Login({})


@pytest.mark.parametrize(
    ("content", "fault"),
    [(b"{", "is not JSON"), (b"\xff", "is not JSON"), (b"", "is not JSON"), (b"[1]", "is no mapping")],
)
def test_a_file_that_is_no_settings_is_named(folder: Path, content: bytes, fault: str) -> None:
    (folder / "config.json").write_bytes(content)
    assert found("mysql:8") == f"{folder}/config.json {fault}"
    assert docker_config.current_context() == "default"


def test_a_file_that_cannot_be_read_is_named(folder: Path) -> None:
    (folder / "config.json").mkdir()
    assert found("mysql:8") == f"{folder}/config.json cannot be read (Is a directory)"


@pytest.mark.parametrize("where", ["/nonexistent", "/dev/null", None])
def test_without_a_file_there_is_no_login_and_no_fault(monkeypatch: pytest.MonkeyPatch, where: str | None) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    if where:
        monkeypatch.setenv("DOCKER_CONFIG", where)
    else:
        monkeypatch.delenv("DOCKER_CONFIG")
    assert login_for("mysql:8", lambda _: None) == Login({})
