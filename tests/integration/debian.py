"""Unpack programs from the mirror that the host's apt uses, without touching what the host has."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def unpacked(folder: Path, *command: str, suite: str = "") -> Path | None:
    """Return a folder below `folder` with the content of packages that an apt-get command downloads; None if it fails.

    The packages come from the host's own suites, or from `suite`.
    """
    if not shutil.which("apt-get"):
        return None
    packages, result = folder / "cache/archives", folder / "unpacked"
    for path in (folder / "lists/partial", packages / "partial", result):
        path.mkdir(parents=True)
    settings = {
        "Dir::State::Lists": folder / "lists",
        "Dir::Cache": folder / "cache",
        "Acquire::Check-Valid-Until": "false",  # A frozen mirror's Release file has expired.
        "APT::Sandbox::User": "",
        "Debug::NoLocking": "true",  # Nothing is installed.
    }
    if suite:
        mirror = _mirror()
        if not mirror or not KEYS.is_file():
            return None
        (folder / "sources.list").write_text(f"deb [signed-by={KEYS}] {mirror} {suite} main\n")
        settings |= {"Dir::Etc::SourceList": folder / "sources.list", "Dir::Etc::SourceParts": "/dev/null"}
    apt = ["apt-get", "-qq", *(f"-o{key}={value}" for key, value in settings.items())]
    if not (_succeeds(folder, [*apt, "update"]) and _succeeds(packages, [*apt, *command])):
        return None
    for package in packages.glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", package, result], check=True)
    return result


def _succeeds(folder: Path, command: Sequence[str]) -> bool:
    return subprocess.run(command, cwd=folder, check=False, capture_output=True).returncode == 0


def _mirror() -> str:
    asked = ["apt-get", "indextargets", "--format", "$(ORIGIN) $(REPO_URI)", "Created-By: Packages"]
    lines = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.splitlines()
    mirrors = [uri for origin, _, uri in (line.partition(" ") for line in lines) if origin == "Debian"]
    return next((uri for uri in mirrors if "security" not in uri), "")
