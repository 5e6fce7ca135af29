"""The cost of commands before they do anything: requests to the engine, and libraries. Neither may creep up."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import inspected
from fake_http_engine import Answer, Asked, HttpEngine, http_engine

from devenv.lifecycle.environment import Environment
from devenv.lifecycle.listing import list_environments
from devenv.model import LABEL_OWNER, LABEL_SERVICE

# Libraries that load slowly: each takes a tenth of a second, or a part of it.
SLOW = {
    "amqp",
    "cryptography",
    "docker",
    "importlib.metadata",
    "pymysql",
    "requests",
    "rich",
    "subprocess",
    "urllib3",
    "voluptuous",
    "websockets",
    "yaml",
}
# Modules of devenv that only some commands need.
SELDOM = {
    "devenv.cli.doctor",
    "devenv.engine.kubernetes",
    "devenv.engine.sdk",
    "devenv.engine.install",
    "devenv.images.build",
    "devenv.wiring.merge",
    "devenv.services.http",
}
READING = {"voluptuous", "yaml"}
OBSERVE = ["GET /containers/json", "GET /networks", "GET /volumes", "GET /images/json"]


class Kept:
    """Objects that were made on an engine; it lists them from then on."""

    def __init__(self, images: list[str]) -> None:
        self._images = [{"Id": f"id of {name}", "RepoTags": [name], "Size": 1} for name in images]
        self._containers: dict[str, dict[str, Any]] = {}
        self._networks: list[dict[str, Any]] = []
        self._volumes: list[dict[str, Any]] = []

    def answer(self, asked: Asked) -> Answer:
        method, _, path = asked.what.partition(" ")
        kind = path.split("/")[1]
        if path == "/containers/create":
            return 201, {"Id": self._created(asked)}
        if kind == "images" and path.endswith("/json") and path.count("/") > 2:
            return 200, inspected(path.removeprefix("/images/").removesuffix("/json"))
        if path.endswith("/create"):
            made = {**asked.json, "Id": f"id of {asked.json['Name']}"}
            (self._networks if kind == "networks" else self._volumes).append(made)
            return 201, made
        if method != "GET":
            return 204, b""
        lists = {
            "containers": list(self._containers.values()),
            "networks": self._networks,
            "volumes": {"Volumes": self._volumes},
            "images": self._images,
        }
        return 200, lists[kind]

    def _created(self, asked: Asked) -> str:
        wanted, (name,) = asked.json, asked.query["name"]
        networks = {name: {"NetworkID": name} for name in wanted["NetworkingConfig"]["EndpointsConfig"]}
        self._containers[name] = {
            "Id": f"id of {name}",
            "Names": [f"/{name}"],
            "Labels": wanted["Labels"],
            "State": "running",
            "Status": "Up",
            "Image": wanted["Image"],
            "NetworkSettings": {"Networks": networks},
        }
        return f"id of {name}"


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpEngine]:
    with http_engine() as fake:
        monkeypatch.setenv("DOCKER_HOST", fake.url)
        yield fake


@pytest.fixture
def environment(engine: HttpEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Environment]:
    """Return a function that opens one environment, in which all four services are up and work."""
    (tmp_path / "devenv.yaml").write_text("components: [nova]\n")
    engine.other = Kept(list(Environment(tmp_path).image_references().values())).answer
    monkeypatch.setattr("devenv.services.readiness.load_probe", lambda _: lambda target: None)
    monkeypatch.setattr("devenv.services.readiness.load_provisioner", lambda _: Provisioner)
    made_for = Environment(tmp_path)
    made = made_for.up(use_golden=False)
    assert len(made.services) == 4
    assert {asked.json["Labels"][LABEL_SERVICE] for asked in engine.asked if "containers/create" in asked.what} == set(
        made.services
    )
    created = [asked.json["Labels"] for asked in engine.asked if asked.what.endswith("/create")]
    assert {labels.get(LABEL_OWNER) for labels in created} == {made_for.state.load().owner}
    engine.asked.clear()
    engine.connections = 0
    return lambda: Environment(tmp_path)


class Provisioner:
    """A provisioner that finds everything in place."""

    def __init__(self, _: object) -> None: ...
    def prepare(self) -> None: ...
    def ensure(self, _: object) -> None: ...
    def close(self) -> None: ...


# ---- requests ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "act",
    [lambda e: e.up(), lambda e: e.plan(), lambda e: e.status(), lambda e: e.env(), lambda e: e.env("nova")],
    ids=["up", "plan", "status", "env", "env of a component"],
)
def test_one_look_at_the_engine_does(
    engine: HttpEngine, environment: Callable[[], Environment], act: Callable[[Environment], Any]
) -> None:
    act(environment())
    assert engine.whats == OBSERVE
    assert engine.connections == 1


def test_three_requests_list_all_environments(engine: HttpEngine, environment: Callable[[], Environment]) -> None:
    (found,) = list_environments()
    assert found.id == environment().id and len(found.services) == 4
    assert engine.whats == OBSERVE[:3]
    assert engine.connections == 1


def test_a_second_up_has_nothing_to_do(environment: Callable[[], Environment]) -> None:
    assert not environment().up().plan.changes


# ---- files -------------------------------------------------------------------------------------------------------


def test_what_variables_replace_is_known_without_another_look_at_the_files(
    environment: Callable[[], Environment], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = environment()
    variables = one.env("nova")
    monkeypatch.setattr("devenv.spec.catalogue._read", None)
    assert "OS_CLOUD" in one.replaced(variables)


# ---- libraries ---------------------------------------------------------------------------------------------------


def loaded(*arguments: str, folder: Path) -> set[str]:
    """Return the modules that the command has loaded when it ends."""
    code = f"""
import atexit, json, sys
atexit.register(lambda: print(json.dumps(list(sys.modules)), file=sys.stderr))
from devenv.cli.main import main
main({list(arguments)!r})
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["up", "--help"], ["snapshot", "--help"]])
def test_help_loads_nothing(arguments: list[str], tmp_path: Path) -> None:
    modules = loaded(*arguments, folder=tmp_path)
    assert not modules & {*SLOW, "http.client", "concurrent.futures", "devenv.lifecycle.environment", "devenv.model"}


@pytest.mark.parametrize("command", ["env", "plan", "status"])
def test_looking_loads_what_reads_files_and_nothing_else(
    command: str, environment: Callable[[], Environment], tmp_path: Path
) -> None:
    modules = loaded(command, folder=environment().project)
    # The probes of `status` find no service, but have to look.
    probes = {"amqp", "cryptography", "pymysql", "devenv.services.http"} if command == "status" else set()
    assert modules & SLOW <= READING | probes
    assert modules & SELDOM <= probes


def test_a_list_of_environments_loads_nothing_slow(environment: Callable[[], Environment]) -> None:
    assert not loaded("ls", folder=environment().project) & (SLOW | SELDOM)


@pytest.mark.parametrize("command", ["stop", "down"])
def test_ending_loads_what_reads_files_and_nothing_else(
    command: str, environment: Callable[[], Environment], tmp_path: Path
) -> None:
    assert loaded(command, folder=environment().project) & (SLOW | SELDOM) <= READING
