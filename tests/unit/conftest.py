"""Unit tests have no engine, no network, and a state folder of their own."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Hypothesis keeps nothing between runs. The first example of a process pays for imports, so no deadline. A CI's run can
# be repeated: its examples are always the same. Generating takes a third of the time of all unit tests: everyday runs
# use few examples, `make test-long` four times Hypothesis's usual number.
for name, examples in (("everyday", 40), ("thorough", 400)):
    settings.register_profile(
        name, database=None, deadline=None, derandomize=bool(os.environ.get("CI")), max_examples=examples
    )
settings.load_profile("everyday")


OWN = ("DEVENV_FILE", "DEVENV_OUTPUT_DIR")


@pytest.fixture(autouse=True)
def own_world(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the test from reading or writing the user's files."""
    # mktemp would count the folders of all earlier tests.
    folder = tmp_path_factory.getbasetemp() / "worlds" / uuid.uuid4().hex
    for name in ("CI", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", *OWN):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("TERM", "xterm")
    # No test cuts the power. Tests of a failing disk replace this again.
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setenv("DEVENV_STATE_DIR", str(folder / "state"))
    monkeypatch.setenv("DEVENV_CACHE_DIR", str(folder / "cache"))
    monkeypatch.setenv("DOCKER_CONFIG", str(folder / "docker"))
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/engine.sock")
    # Pretend to be outside a container, wherever the tests run.
    monkeypatch.setattr("devenv.engine.observe.own_container", lambda: "")
    return folder


@pytest.fixture
def no_umask() -> Iterator[None]:
    """Set the most open umask that a user can have."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def owners(monkeypatch: pytest.MonkeyPatch) -> dict[Path, int]:
    """Return a dict for owners of paths; all other paths belong to this user, who is not root."""
    found: dict[Path, int] = {}
    lstat = Path.lstat

    def told(path: Path) -> os.stat_result:
        mode, *fields = lstat(path)
        fields[3] = found.get(path, 1000)
        return os.stat_result((mode, *fields))

    monkeypatch.setattr(Path, "lstat", told)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    return found
