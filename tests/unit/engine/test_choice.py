"""Which engine devenv uses: the one that the user asks for, the one on record, the one of devenv.yaml."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fake_engine import FakeEngine

from devenv.cli.main import main
from devenv.engine import asked_for
from devenv.errors import ConfigError, NoEngine
from devenv.images.references import images_for
from devenv.lifecycle import listing, seat
from devenv.lifecycle.environment import Environment
from devenv.model import Observed, Profile
from devenv.spec.catalogue import load_catalogue

CLUSTER, DOCKER = "kubernetes://here/team", "unix:///nowhere/docker.sock"


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Return what devenv asks for when it connects: nothing for Docker. Stands in for both engines."""
    images = images_for(Profile("", {}), load_catalogue()).values()
    calls: list[tuple[str, ...]] = []

    def connect(*choice: str) -> FakeEngine:
        calls.append(choice)
        engine = FakeEngine(Observed(images={image.reference: "id" for image in images}))
        engine.url, engine.named = (CLUSTER if choice else DOCKER), False
        return engine

    monkeypatch.setattr(seat, "connect", connect)
    monkeypatch.setattr(listing, "connect", connect)
    monkeypatch.setattr("devenv.services.readiness.load_probe", lambda _: lambda target: None)
    monkeypatch.chdir(tmp_path)
    return calls


def project(text: str = "") -> Environment:
    Path("devenv.yaml").write_text(f"profile: coordination\n{text}")
    return Environment()


def test_docker_is_the_engine_if_nobody_says_anything(asked: list[tuple[str, ...]]) -> None:
    project().up(use_golden=False)
    assert asked == [()] and Environment().engine_kind == "docker"


@pytest.mark.parametrize("source", ["option", "variable"])
def test_who_asks_for_a_cluster_says_where_it_is(
    source: str, asked: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    project()
    if source == "option":
        Environment(engine="kubernetes", context="here", namespace="team").observe()
        assert asked == [("kubernetes", "", "here", "team")]
    else:
        monkeypatch.setenv("DEVENV_ENGINE", "kubernetes")
        Environment().observe()
        assert asked == [("kubernetes", "", "", "")]


def test_the_options_of_the_command_line_reach_the_engine(asked: list[tuple[str, ...]]) -> None:
    project()
    where = ["--engine", "kubernetes", "--context", "there", "--namespace", "mine"]
    assert CliRunner().invoke(main, [*where, "status"]).exit_code == 0
    assert {*asked} == {("kubernetes", "", "there", "mine")}


def test_a_record_says_where_the_environment_is_without_devenv_yaml(asked: list[tuple[str, ...]]) -> None:
    project()
    Environment(engine="kubernetes").up(use_golden=False)
    Path("devenv.yaml").write_text("{")
    asked.clear()
    Environment().down()
    assert asked == [("kubernetes", CLUSTER, "", "")]


def test_devenv_yaml_chooses_a_cluster_once_the_user_trusts_it(asked: list[tuple[str, ...]]) -> None:
    environment = project("engine: kubernetes\n")
    with pytest.raises(
        ConfigError, match=r"cannot use engine kubernetes of .*: you have not trusted the file yet"
    ) as e:
        environment.up(use_golden=False)
    assert e.value.message.startswith("cannot use engine kubernetes of ")
    assert not asked and "devenv trust" in e.value.hint and "--engine kubernetes" in e.value.hint
    Environment().trust()
    Environment().up(use_golden=False)
    assert asked == [("kubernetes", "", "", "")]


def test_a_cluster_that_the_user_names_needs_no_trust_in_devenv_yaml(asked: list[tuple[str, ...]]) -> None:
    project("engine: kubernetes\n")
    Environment(engine="kubernetes").up(use_golden=False)
    assert asked == [("kubernetes", "", "", "")]


@pytest.mark.parametrize("text", ["context: mine\n", "namespace: mine\n", "engine: {context: mine}\n", "engine: k3s\n"])
def test_devenv_yaml_names_no_cluster(text: str, asked: list[tuple[str, ...]]) -> None:
    with pytest.raises(ConfigError):
        project(text).up()
    assert not asked


def test_docker_in_devenv_yaml_needs_no_trust(asked: list[tuple[str, ...]]) -> None:
    project("engine: docker\n").up(use_golden=False)
    assert asked == [()]


def test_devenv_yaml_cannot_move_an_environment_to_another_kind_of_engine(asked: list[tuple[str, ...]]) -> None:
    project().up(use_golden=False)
    environment = project("engine: kubernetes\n")
    with pytest.raises(ConfigError, match=f"cannot use engine kubernetes of .*: the engine at {DOCKER} has") as caught:
        environment.up(use_golden=False)
    assert "down --volumes" in caught.value.hint and "--engine docker" in caught.value.hint
    asked.clear()
    Environment(engine="docker").up(use_golden=False)
    assert asked == [()]


@pytest.mark.parametrize("act", [Environment.up, Environment.down])
def test_an_option_does_not_move_an_environment_either(
    act: Callable[[Environment], object], asked: list[tuple[str, ...]]
) -> None:
    project().up(use_golden=False)
    with pytest.raises(ConfigError, match=f"the engine at {DOCKER} has") as caught:
        act(Environment(engine="kubernetes"))
    assert "--engine docker" in caught.value.hint
    assert Environment().engine_kind == "docker"


def test_an_unknown_kind_is_refused_and_podman_is_dockers(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="cannot use engine 'podman'") as caught:
        asked_for("podman")
    assert caught.value.hint == "docker stands for Podman, too"
    monkeypatch.setenv("DEVENV_ENGINE", "kubernets")
    with pytest.raises(ConfigError, match="from DEVENV_ENGINE") as caught:
        asked_for()
    assert "kubernetes" in caught.value.hint


def test_ls_lists_the_clusters_on_record_beside_this_hosts_engine(asked: list[tuple[str, ...]]) -> None:
    project()
    Environment(engine="kubernetes").up(use_golden=False)
    asked.clear()
    result = CliRunner().invoke(main, ["ls", "--format", "json"])
    assert result.exit_code == 0, result.output
    assert asked == [(), ("kubernetes", CLUSTER)] and isinstance(json.loads(result.stdout), list)


def test_an_engine_that_does_not_answer_hides_no_other_one(
    asked: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    project()
    Environment(engine="kubernetes").up(use_golden=False)
    whole, notes = listing.connect, list[str]()

    def connect(*choice: Any) -> FakeEngine:
        if choice:
            raise NoEngine("cannot use the cluster: it is gone")
        return whole()  # type: ignore[return-value]

    monkeypatch.setattr(listing, "connect", connect)
    assert [engine.url for engine in listing.engines(notes.append)] == [DOCKER]
    assert notes == ["cannot use the cluster: it is gone; what it has is left out"]
