"""The engine in memory keeps what every engine promises, so other tests may rely on it."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from fake_engine import FakeEngine

import devenv
from devenv.engine.docker import Docker
from devenv.engine.kubernetes.kubernetes import Kubernetes
from devenv.engine.protocol import Engine
from devenv.model import Observed
from tests.contract import *  # noqa: F403 - the tests
from tests.contract import ECHO, PROGRAMS

PACKAGE = Path(devenv.__file__).parent


@pytest.fixture
def image() -> str:
    return "devenv/base:1"


@pytest.fixture
def subject(image: str) -> FakeEngine:
    engine = FakeEngine()
    engine.observed = Observed(images={image: "id of the base"})
    engine.programs = {program.script: program for program in PROGRAMS}
    engine.commands[ECHO] = lambda given: (given, b"failed\n", 5)
    return engine


@pytest.mark.parametrize("kind", [FakeEngine, Docker, Kubernetes])
def test_each_engine_has_every_verb_with_the_same_parameters(kind: type) -> None:
    for name, verb in vars(Engine).items():
        if not name.startswith("_"):
            assert hasattr(kind, name), name
            if inspect.isfunction(verb):
                wanted, found = inspect.signature(verb), inspect.signature(getattr(kind, name))
                assert found.parameters.keys() == wanted.parameters.keys(), name


# Callers may import these from the engine's package: what chooses an engine and connects to it, the one for services
# that need none, the verbs, words that all engines share, what a pod is, and the processes of this host that forward
# ports: they may outlive the engine.
CHOICE = {"connect", "DOCKER", "KUBERNETES", "KINDS", "kind_of", "asked_for", "asked_place"}
DOORS = {*CHOICE, "nothing", "forward", "protocol", "ownership", "image_names", "pod", "tar", "install"}
# They look below the verbs: they say why an engine does not answer.
DOCTORS = {"doctor.py": {"connection", "proxies"}, "cluster_doctor.py": {"http", "kubernetes"}}


def test_callers_know_an_engine_by_its_verbs_alone() -> None:
    for path in sorted(PACKAGE.rglob("*.py")):
        known = {*re.findall(r"(?:from|import) devenv\.engine\.(\w+)", path.read_text())}
        known |= {
            name.split()[0]
            for names in re.findall(r"from devenv\.engine import (.+)", path.read_text())
            for name in names.split(", ")
        }
        assert path.is_relative_to(PACKAGE / "engine") or known <= DOORS | DOCTORS.get(path.name, set()), path
