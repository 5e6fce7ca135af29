"""An environment stays on the engine that has it, whatever other engine devenv finds meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fake_engine import FakeEngine

from devenv.errors import ConfigError
from devenv.images.references import images_for
from devenv.lifecycle import down
from devenv.lifecycle.environment import Environment
from devenv.model import Observed, Profile, Report
from devenv.spec.catalogue import load_catalogue

DOCKER, PODMAN = "unix:///nowhere/docker.sock", "unix:///nowhere/podman.sock"
CHANGES: dict[str, Callable[[Environment], object]] = {
    "up": lambda environment: environment.up(use_golden=False),
    "reset": lambda environment: environment.reset(),
    "down": lambda environment: environment.down(),
    "down --volumes": lambda environment: environment.down(volumes=True),
    "down --id": lambda environment: down.by_id(environment.id, (), True, Report()),
}


def engine_at(url: str, named: bool = False) -> FakeEngine:
    images = images_for(Profile("", {}), load_catalogue()).values()
    engine = FakeEngine(Observed(images={image.reference: "id" for image in images}))
    engine.url, engine.named = url, named
    return engine


@pytest.fixture
def use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeEngine], None]:
    """Bring etcd up on Docker; return what makes devenv find another engine."""
    (tmp_path / "devenv.yaml").write_text("profile: coordination\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("devenv.services.readiness.load_probe", lambda _: lambda target: None)

    def used(engine: FakeEngine) -> None:
        monkeypatch.setattr("devenv.lifecycle.seat.connect", lambda: engine)

    used(engine_at(DOCKER))
    Environment().up(use_golden=False)
    return used


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_an_engine_that_devenv_found_instead_is_refused_before_anything_changes(
    change: Callable[[Environment], object], use: Callable[[FakeEngine], None]
) -> None:
    use(engine := engine_at(PODMAN))
    with pytest.raises(
        ConfigError, match=f"the engine at {DOCKER} has it, and devenv found that at {PODMAN}"
    ) as caught:
        change(Environment())
    assert f"DOCKER_HOST={PODMAN}" in caught.value.hint
    assert {*engine.calls} == {"observe"} and Environment().state.load().engine == DOCKER


def test_an_engine_that_the_user_names_gets_the_environment(use: Callable[[FakeEngine], None]) -> None:
    use(engine_at(PODMAN, named=True))
    Environment().up(use_golden=False)
    use(engine_at(PODMAN))
    assert Environment().up(use_golden=False).services
    use(engine_at(DOCKER))
    with pytest.raises(ConfigError, match=f"the engine at {PODMAN} has it"):
        Environment().up(use_golden=False)


def test_an_engine_that_has_the_environment_is_the_same_by_another_name(
    use: Callable[[FakeEngine], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Environment().engine
    monkeypatch.setattr(engine, "url", "tcp://127.0.0.1:2375", raising=False)
    assert Environment().up(use_golden=False).services


def test_a_socket_is_the_same_by_each_of_its_paths(use: Callable[[FakeEngine], None], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "var").symlink_to("run")
    use(engine_at(f"unix://{tmp_path}/run/docker.sock", named=True))
    Environment().up(use_golden=False)
    use(engine_at(f"unix://{tmp_path}/var/docker.sock"))
    assert Environment().down(volumes=True)


def test_an_environment_that_is_gone_may_begin_anywhere(use: Callable[[FakeEngine], None]) -> None:
    Environment().down(volumes=True)
    use(engine_at(PODMAN))
    assert Environment().up(use_golden=False).services
