"""The real docker compose, version 2: the one that is here, else Debian's."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import debian

# Debian 12's own is version 1.
SUITE = "trixie"


def find(folder: Path) -> list[str]:
    """The command: named for the bench, the plugin, the program, or one put into the folder; else empty."""
    named = os.environ.get("DEVENV_BENCH_COMPOSE")
    for command in [[named]] if named else [["docker", "compose"], ["docker-compose"]]:
        if shutil.which(command[0]) and _is_version_2(command):
            return command
    return [] if named else fetched(folder)


def _is_version_2(command: list[str]) -> bool:
    done = subprocess.run([*command, "version", "--short"], capture_output=True, text=True, check=False)
    return done.returncode == 0 and done.stdout.lstrip("v") >= "2"


def fetched(folder: Path) -> list[str]:
    """Debian's; empty where that cannot be had."""
    unpacked = debian.unpacked(folder, "download", "docker-compose", suite=SUITE)
    return [str(unpacked / "usr/libexec/docker/cli-plugins/docker-compose")] if unpacked else []
