"""The services' files are Compose files: the real docker compose accepts each."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from project import REPOSITORY

FILES = sorted((REPOSITORY / "compose").glob("*/compose.yaml"))


def compose() -> list[str]:
    """The docker compose that is here: named for the bench, the plugin, or Debian's program; empty if there is none."""
    if named := os.environ.get("DEVENV_BENCH_COMPOSE"):
        return [named]
    if shutil.which("docker") and subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0:
        return ["docker", "compose"]
    return [found] if (found := shutil.which("docker-compose")) else []


@pytest.mark.skipif(not compose(), reason="no docker compose here; DEVENV_BENCH_COMPOSE may name one")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_docker_compose_accepts_the_file(path) -> None:  # type: ignore[no-untyped-def]
    done = subprocess.run([*compose(), "-f", str(path), "config", "--quiet"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
