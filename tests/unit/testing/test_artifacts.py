"""Artifacts of an environment: without secrets, whether or not anything answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeEngine

from devenv.errors import ConfigError, ServiceFailed
from devenv.lifecycle.environment import Environment
from devenv.model import Observed, ObservedContainer
from devenv.testing import write_artifacts

# The time of the log lines that a test put there.
STAMP = "1970-01-01T00:00:00+00:00"


class Telling(FakeEngine):
    """An engine that reports what a test gave it."""

    inspected: dict[str, Any]

    def inspect(self, container: str) -> dict[str, Any]:
        self._call("inspect", container)
        return {**self.inspected, "Id": container}

    def belongings(self, environment: str) -> dict[str, Any]:
        return {"version": {"Version": "1"}, "networks": [{"Name": environment}], "volumes": []}

    def events(self, _: str) -> list[dict[str, Any]]:
        return [{"Action": "start"}]


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    (folder := tmp_path / "project").mkdir()
    (folder / "devenv.yaml").write_text("profile: coordination\n")
    return Environment(folder)


def with_engine(environment: Environment) -> Telling:
    there = ObservedContainer("c1", "devenv-id-etcd", "etcd", "exited", exit_code=1)
    engine = Telling(Observed({"etcd": there}))
    engine.inspected = {"Config": {"Env": ["HOME=/x", "TOKEN=t0ken"], "Labels": None}, "State": {"ExitCode": 1}}
    environment._world.seat._connected = engine  # type: ignore[assignment]
    return engine


def test_files_are_for_their_owners_eyes_and_replace_those_of_before(
    environment: Environment, tmp_path: Path, no_umask: None
) -> None:
    with_engine(environment)
    folder = tmp_path / "some" / "artifacts"
    first = write_artifacts(environment, folder)
    (folder / "etcd.log").write_text("of before")
    assert write_artifacts(environment, folder) == first == sorted(folder.iterdir())
    assert [path.name for path in first] == ["engine.json", "etcd.log", "events.json", "inspect.json", "status.json"]
    assert (folder / "etcd.log").read_text() == f"{STAMP} first line\n{STAMP} last line\n"
    assert {path.stat().st_mode & 0o777 for path in (folder, folder.parent)} == {0o700}
    assert {path.stat().st_mode & 0o777 for path in first} == {0o600}
    status = json.loads((folder / "status.json").read_text())
    assert status["services"]["etcd"]["state"] == "failed" and status["environment"]["id"] == environment.id


def test_secrets_values_of_variables_and_foreign_labels_are_hidden(environment: Environment, tmp_path: Path) -> None:
    engine = with_engine(environment)
    secret, other = environment.state.secrets(["etcd.password", "etcd.password_of_more"]).values()
    engine.log = [f"login with {secret} and {other}"]
    engine.inspected["Config"]["Labels"] = {"io.devenv.service": "etcd", "org.example": "t0ken"}
    engine.inspected["Args"] = [f"--password={secret}"]
    files = write_artifacts(environment, tmp_path)
    everything = "".join(path.read_text() for path in files)
    assert not [word for word in (secret, other, "t0ken", "/x") if word in everything]
    assert (tmp_path / "etcd.log").read_text() == f"{STAMP} login with *** and ***\n"
    config = json.loads((tmp_path / "inspect.json").read_text())[0]["Config"]
    assert config == {"Env": ["HOME=***", "TOKEN=***"], "Labels": {"io.devenv.service": "etcd", "org.example": "***"}}


def test_where_no_engine_answers_every_file_says_so(environment: Environment, tmp_path: Path) -> None:
    write_artifacts(environment, tmp_path / "artifacts")
    cannot = "cannot reach a container engine"
    assert (tmp_path / "artifacts" / "etcd.log").read_text().startswith(cannot)
    for name in ("status", "inspect", "engine", "events"):
        assert json.loads((tmp_path / "artifacts" / f"{name}.json").read_text())["error"].startswith(cannot)


def test_what_cannot_be_asked_of_one_service_costs_nothing_else(environment: Environment, tmp_path: Path) -> None:
    engine = with_engine(environment)

    def gone() -> None:
        raise ServiceFailed("cannot read the logs of container c1: gone")

    engine.on["logs c1"] = engine.on["inspect c1"] = gone
    write_artifacts(environment, tmp_path)
    assert (tmp_path / "etcd.log").read_text() == "cannot read the logs of container c1: gone\n"
    assert "error" in json.loads((tmp_path / "inspect.json").read_text())
    assert json.loads((tmp_path / "events.json").read_text()) == [{"Action": "start"}]


def test_what_is_not_understood_costs_one_file_only(environment: Environment, tmp_path: Path) -> None:
    with_engine(environment).inspected = {"no": "Config"}
    write_artifacts(environment, tmp_path)
    assert "cannot understand" in json.loads((tmp_path / "inspect.json").read_text())["error"]
    assert (tmp_path / "etcd.log").read_text() == f"{STAMP} first line\n{STAMP} last line\n"


def test_a_missing_service_has_a_line_in_place_of_its_log(environment: Environment, tmp_path: Path) -> None:
    with_engine(environment).observed = Observed()
    write_artifacts(environment, tmp_path)
    assert (tmp_path / "etcd.log").read_text() == "cannot read the log: the service has no container\n"


def test_a_broken_project_still_has_the_logs_of_its_containers(environment: Environment, tmp_path: Path) -> None:
    with_engine(environment)
    (environment.project / "devenv.yaml").write_text("profile: [")
    write_artifacts(environment, tmp_path)
    assert (tmp_path / "etcd.log").read_text() == f"{STAMP} first line\n{STAMP} last line\n"
    assert "devenv.yaml" in json.loads((tmp_path / "status.json").read_text())["error"]


def test_a_place_that_cannot_be_written_is_a_clear_error(environment: Environment, tmp_path: Path) -> None:
    with_engine(environment)
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match="cannot write artifacts to"):
            write_artifacts(environment, path)


def test_an_error_that_is_no_devenvs_is_not_hidden(environment: Environment, tmp_path: Path) -> None:
    engine = with_engine(environment)

    def interrupted() -> None:
        raise KeyboardInterrupt

    engine.on["logs c1"] = interrupted
    with pytest.raises(KeyboardInterrupt):
        write_artifacts(environment, tmp_path)
