"""Find the real docker compose, version 2: the one on this machine, else Debian's."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import debian

# Debian 12 itself packages version 1.
SUITE = "trixie"


def find(folder: Path) -> list[str]:
    """Return the command that DEVENV_BENCH_COMPOSE names, else plugin, program or Debian's; empty if it is missing."""
    named = os.environ.get("DEVENV_BENCH_COMPOSE")
    for command in [[named]] if named else [["docker", "compose"], ["docker-compose"]]:
        if shutil.which(command[0]) and _is_version_2(command):
            return command
    return [] if named else fetched(folder)


def _is_version_2(command: list[str]) -> bool:
    done = subprocess.run([*command, "version", "--short"], capture_output=True, text=True, check=False)
    return done.returncode == 0 and done.stdout.lstrip("v") >= "2"


def fetched(folder: Path) -> list[str]:
    """Return Debian's command, unpacked below `folder`; empty if it cannot be downloaded."""
    unpacked = debian.unpacked(folder, "download", "docker-compose", suite=SUITE)
    return [str(unpacked / "usr/libexec/docker/cli-plugins/docker-compose")] if unpacked else []
