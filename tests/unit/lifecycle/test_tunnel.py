"""What commands do about the ports of an engine elsewhere; the engine is in memory, and its ports are made up."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from fake_engine import FakeEngine, Recorder

from devenv.cli.doctor import check_tunnels
from devenv.cli.main import main
from devenv.engine import forward
from devenv.engine.docker import Docker
from devenv.errors import NoEngine
from devenv.lifecycle import tunnels
from devenv.lifecycle.environment import Environment
from devenv.lifecycle.listing import list_environments
from devenv.model import Observed
from devenv.ports import free_port
from devenv.store.files import read_json
from devenv.store.places import forward_folder


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """Enter a project with one service, on an engine elsewhere that has its image."""
    engine = FakeEngine()
    engine.elsewhere, engine.local, engine.named = True, False, True
    monkeypatch.setattr("devenv.lifecycle.seat.connect", lambda: engine)
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


# ---- tunnels of all environments: a real process, with a way that a file closes --------------------------------------

DIALLER = """
from pathlib import Path

from devenv.engine.supervisor import Closed


class Dialler:
    def __init__(self, settings):
        self.closed = Path(settings["closed"])

    async def open(self, suspect):
        if self.closed.exists():
            raise Closed("the host is away")

    async def close(self):
        pass
"""


@pytest.fixture
def tunnel(engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Environment]:
    """Bring an environment up, in a folder of its own, whose tunnel is a process; the file `closed` closes its way."""
    (tmp_path / "closing_dialler.py").write_text(DIALLER)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setattr("devenv.lifecycle.listing.connect", lambda: engine)
    (project := tmp_path / "project").mkdir()
    shutil.move(tmp_path / "devenv.yaml", project)
    environment = Environment(project)
    environment.up(["etcd"])
    way = forward.Way("closing_dialler:Dialler", {"closed": str(tmp_path / "closed")})
    forward.open_for(environment.id, way, {free_port(()): "etcd"})
    yield environment
    forward.end(forward_folder(environment.id))


def until_it_leads_nowhere(environment: Environment) -> None:
    (environment.project.parent / "closed").touch()
    while not forward.fault(forward_folder(environment.id)):
        time.sleep(0.05)


def test_a_tunnel_that_leads_somewhere_stays(tunnel: Environment) -> None:
    assert tunnels.end_useless() == [] and forward.runs(forward_folder(tunnel.id))
    (check,) = check_tunnels()
    assert (check.status, check.detail) == ("ok", "1 to engines elsewhere")
    (listed,) = list_environments()
    assert not listed.tunnel


def test_gc_ends_a_tunnel_to_a_host_that_is_away_even_if_no_engine_answers(
    tunnel: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    until_it_leads_nowhere(tunnel)
    (check,) = check_tunnels()
    assert check.status == "warn" and f"{tunnel.id} (the host is away)" in check.detail and "devenv gc" in check.hint

    def away() -> None:
        raise NoEngine("cannot reach it", "is it up?")

    monkeypatch.setattr("devenv.lifecycle.seat.connect", away)
    with pytest.raises(NoEngine) as raised:
        Environment(tunnel.project).down()
    assert raised.value.hint.startswith(
        f"is it up?; {tunnel.id} stays there as it is, and its tunnel here: 'devenv gc'"
    )
    done = CliRunner().invoke(main, ["--project", str(tunnel.project), "gc"])
    assert done.exit_code == 4 and f"ended the tunnel of {tunnel.id}: the host is away" in done.stderr
    assert not forward_folder(tunnel.id).exists() and check_tunnels() == []


def test_gc_ends_the_tunnel_of_an_environment_whose_folder_is_gone(tunnel: Environment) -> None:
    shutil.rmtree(tunnel.project)
    (ended,) = tunnels.end_useless()
    assert ended.environment == tunnel.id and "was moved or deleted" in ended.reason
    assert not forward_folder(tunnel.id).exists()


def test_a_tunnel_that_somebody_killed_is_told_by_ls_and_doctor_and_left_to_wait(
    tunnel: Environment, engine: FakeEngine
) -> None:
    folder = forward_folder(tunnel.id)
    os.kill(read_json(folder / "process.json")["pid"], signal.SIGKILL)
    while forward.runs(folder):
        time.sleep(0.05)
    engine.ways.clear()
    (listed,) = list_environments()
    (check,) = check_tunnels()
    assert listed.tunnel == "no process forwards them" and "devenv wait" in check.hint
    assert tunnels.end_useless() == [] and folder.exists()


def test_without_a_tunnel_nobody_asks_for_one(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.elsewhere, engine.local = False, True
    monkeypatch.setattr("devenv.lifecycle.listing.connect", lambda: engine)
    environment = Environment()
    environment.up()
    monkeypatch.setattr(forward, "_asked", None)
    (listed,) = list_environments()
    assert not listed.tunnel and check_tunnels() == []
