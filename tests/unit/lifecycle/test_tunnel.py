"""What commands do about the ports of an engine elsewhere; the engine is in memory, and its ports are made up."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_engine import FakeEngine, Recorder

from devenv.engine.docker import Docker
from devenv.lifecycle.environment import Environment
from devenv.model import Observed


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """Enter a project with one service, on an engine elsewhere that has its image."""
    engine = FakeEngine()
    engine.elsewhere, engine.local, engine.named = True, False, True
    monkeypatch.setattr("devenv.lifecycle.world.connect", lambda: engine)
    monkeypatch.setattr("devenv.services.readiness.load_probe", lambda _: engine.check)
    (tmp_path / "devenv.yaml").write_text("profile: coordination\n")
    monkeypatch.chdir(tmp_path)
    engine.observed = Observed(images=dict.fromkeys(Environment().image_references().values(), "id"))
    return engine


def planned(environment: Environment) -> list[str]:
    return [op.key for op in environment.plan().operations if op.action == "forward"]


def test_ports_are_forwarded_until_the_last_service_ends(engine: FakeEngine) -> None:
    environment = Environment()
    environment.up()
    (ports,) = engine.ways.values()
    assert ports == set(environment.state.load().ports.values())
    assert not planned(environment)
    for end in (environment.stop, environment.down):
        end()
        assert not engine.ways
        environment.up()
        assert engine.ways


def test_status_says_that_the_way_is_closed_and_wait_opens_it(engine: FakeEngine) -> None:
    environment = Environment()
    environment.up()
    engine.ways.clear()
    engine.answers = ["connection refused"]
    (status,) = environment.status().values()
    assert (status.state, status.reason) == ("starting", "the way to its ports is closed: 'devenv wait' opens it")
    assert planned(environment) == ["forward ports"]
    engine.answers = []
    environment.wait()
    assert engine.ways


def test_no_tunnel_is_remembered_until_somebody_wants_one(engine: FakeEngine) -> None:
    report = Recorder()
    environment = Environment(report=report)
    environment.up()
    environment.up(tunnel=False)
    assert not engine.ways and not planned(environment)
    assert any("forward them" in told for told in report.told)
    environment.up()
    assert not engine.ways
    environment.up(tunnel=True)
    assert engine.ways


@pytest.mark.parametrize(
    ("url", "variable", "way"),
    [
        ("ssh://host", "", "ssh://host"),
        ("ssh://host", "no", None),
        ("ssh://host", "ssh://gate", "ssh://gate"),
        ("tcp://host:2376", "", None),
        ("tcp://host:2376", "ssh://host", "ssh://host"),
        ("unix:///run/docker.sock", "ssh://host", None),
    ],
)
def test_the_way_is_the_engines_own_or_the_named_one(
    url: str, variable: str, way: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEVENV_TUNNEL", variable)
    connection: Any = SimpleNamespace(url=url)
    assert Docker(connection)._way == (("ssh", {"url": way}) if way else None)


def test_an_engine_here_needs_no_forwarder(monkeypatch: pytest.MonkeyPatch) -> None:
    connection: Any = SimpleNamespace(url="unix:///run/docker.sock")
    # Not even a look into a folder.
    monkeypatch.setattr("devenv.engine.docker.forward_folder", None)
    assert Docker(connection).forwarded("any") is None
    Docker(connection).end_forward("any")
