"""The real docker compose, version 2: the one that is here, else Debian's."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

# Debian 12's own is version 1.
SUITE = "trixie"
KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


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
    """From the mirror that the host's apt uses, without touching what the host has; empty where that cannot be."""
    mirror = _mirror()
    if not mirror or not KEYS.is_file():
        return []
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "sources.list").write_text(f"deb [signed-by={KEYS}] {mirror} {SUITE} main\n")
    settings = {
        "Dir::Etc::SourceList": folder / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": folder / "lists",
        "Dir::Cache": folder / "cache",
        "Acquire::Check-Valid-Until": "false",  # A frozen mirror's Release file has expired.
        "APT::Sandbox::User": "",
    }
    apt = ["apt-get", "-qq", *(f"-o{key}={value}" for key, value in settings.items())]
    for command in ([*apt, "update"], [*apt, "download", "docker-compose"]):
        if subprocess.run(command, cwd=folder, check=False, capture_output=True).returncode:
            return []
    (package,) = folder.glob("docker-compose_*.deb")
    subprocess.run(["dpkg-deb", "--extract", package, folder / "unpacked"], check=True)
    return [str(folder / "unpacked/usr/libexec/docker/cli-plugins/docker-compose")]


def _mirror() -> str:
    if not shutil.which("apt-get"):
        return ""
    asked = ["apt-get", "indextargets", "--format", "$(ORIGIN) $(REPO_URI)", "Created-By: Packages"]
    lines = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.splitlines()
    mirrors = [uri for origin, _, uri in (line.partition(" ") for line in lines) if origin == "Debian"]
    return next((uri for uri in mirrors if "security" not in uri), "")
