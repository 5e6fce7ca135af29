"""Fetch the source archive of a suite, and install it with its test requirements into a virtual environment of its own.

Both are kept in .suites/, so the next run takes no time for them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.integration.debian import unpacked
from tests.suites.inventory import Suite

ROOM = Path(__file__).parents[2] / ".suites"
# The versions with which the counts of docs/suites.md were reached.
CONSTRAINTS = Path(__file__).with_name("constraints.txt")
_TAIL_LINES = 15


class Unprepared(Exception):
    """A suite cannot be fetched or installed."""


@dataclass(frozen=True)
class Prepared:
    """Where a suite lies, and the folder of its programs."""

    source: Path
    programs: Path


def prepare(suite: Suite, room: Path = ROOM) -> Prepared:
    """Return the suite, ready to run. Raises Unprepared."""
    folder = room / suite.name
    ready = Prepared(folder / suite.name, folder / "venv" / "bin")
    mark, wanted = folder / "installed", _fingerprint(suite)
    if not mark.exists() or mark.read_text(encoding="utf-8") != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _fetch(suite, folder)
        _install(suite, folder, ready)
        mark.write_text(wanted, encoding="utf-8")
    return ready


def _fingerprint(suite: Suite) -> str:
    about = (suite.package, suite.version, *suite.extras, *suite.headers, sys.version)
    versions = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    return "\n".join([*about, *(line for line in versions if not line.startswith("#"))])


def _fetch(suite: Suite, folder: Path) -> None:
    pip = (sys.executable, "-m", "pip")
    wanted = f"{suite.package}=={suite.version}"
    with tempfile.TemporaryDirectory(dir=folder) as name:
        download = ("download", "--no-deps", "--no-binary", suite.package, "--dest", name, wanted)
        _run([*pip, *download], folder, {}, f"cannot fetch the suite of {wanted}")
        with tarfile.open(next(Path(name).glob("*.tar.gz"))) as archive:
            archive.extractall(name, filter="data")
        next(path for path in Path(name).iterdir() if path.is_dir()).rename(folder / suite.name)


def _install(suite: Suite, folder: Path, ready: Prepared) -> None:
    cannot = f"cannot install the suite of {suite.name}"
    _run([sys.executable, "-m", "venv", str(folder / "venv")], folder, {}, cannot)
    extras = f"[{','.join(suite.extras)}]" if suite.extras else ""
    what = ("--editable", f".{extras}", "--requirement", "test-requirements.txt", "--constraint", str(CONSTRAINTS))
    _run([str(ready.programs / "pip"), "install", *what], ready.source, _flags(suite, folder), cannot)


def _flags(suite: Suite, folder: Path) -> dict[str, str]:
    """Return the variables with which a compiler finds headers that the host may not have."""
    place = folder / "debian"
    place.mkdir()
    root = unpacked(place, "download", *suite.headers) if suite.headers else None
    if not root:
        return {}
    libraries = next((root / "usr/lib").glob("*-linux-gnu"))
    return {"CFLAGS": f"-I{root}/usr/include", "LDFLAGS": f"-L{libraries} -Wl,-rpath,{libraries}"}


def _run(command: Sequence[str], folder: Path, more: Mapping[str, str], cannot: str) -> None:
    done = subprocess.run(command, cwd=folder, env={**os.environ, **more}, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-_TAIL_LINES:])
        raise Unprepared(f"{cannot}:\n{tail}")
