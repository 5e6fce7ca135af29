"""Build and check a release: `python -m tests.dist [--tag vX.Y.Z]`, which `make dist` runs.

dist/ gets a source archive and a wheel only if all checks pass. Both are the same bytes for whoever builds this commit.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

TOP = Path(__file__).parents[1]
# The folders that the wheel brings, and where it has them.
FOLDERS = {
    "devenv/": "devenv/",
    "compose/": "devenv/compose/",
    "profiles/": "devenv/profiles/",
    "docs/": "devenv/docs/",
}
# The name of the last version and the day of its release.
_HEADING = re.compile(r"^## (\S+)(?: - (\d{4}-\d\d-\d\d))?$", re.MULTILINE)


def said(*command: str) -> str:
    """Return what a command prints in this checkout."""
    return subprocess.run(command, cwd=TOP, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def build(source: Path, folder: Path, *kinds: str, umask: int = 0o022) -> list[Path]:
    """Build below `folder`, by default a source archive and from that the wheel. Return the wheel first."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH") or said("git", "log", "-1", "--format=%ct")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", *kinds, "--outdir", str(folder), str(source)],
        env={**os.environ, "SOURCE_DATE_EPOCH": epoch},
        check=True,
        stdout=subprocess.DEVNULL,
        umask=umask,
    )
    return sorted(folder.glob("openstack_devenv-*"), key=lambda path: path.suffix != ".whl")


def tracked() -> set[str]:
    """Return the files that belong to this checkout."""
    return {path for path in said("git", "ls-files", "-z").split("\0") if path and (TOP / path).exists()}


def wheel_problems(names: Sequence[str], files: set[str]) -> list[str]:
    """Compare what a wheel holds, beside its own description, with the folders that it has to bring."""
    wanted = {
        place + path.removeprefix(top) for path in files for top, place in FOLDERS.items() if path.startswith(top)
    }
    return _differences("the wheel", {name for name in names if ".dist-info/" not in name}, wanted)


def archive_problems(names: Sequence[str], files: set[str]) -> list[str]:
    """Compare what a source archive holds with the checkout, whose hidden folders are about its CIs."""
    held = {name.partition("/")[2] for name in names} - {"PKG-INFO"}
    return _differences("the source archive", held, {path for path in files if "/" not in path or path[0] != "."})


def _differences(what: str, held: set[str], wanted: set[str]) -> list[str]:
    lacking, beside = sorted(wanted - held), sorted(held - wanted)
    return [*(f"{what} lacks {name}" for name in lacking), *(f"{what} holds {name}" for name in beside)]


def version_problems(version: str, changelog: str, tag: str) -> list[str]:
    """Return why this is no release `tag` of that version; without a tag, why it cannot become one."""
    (newest, day), *_ = _HEADING.findall(changelog)
    if not tag:
        known = newest in ("Unreleased", version)
        return [] if known else [f"CHANGELOG.md begins with {newest}, and devenv.__version__ is {version}"]
    found = [] if tag == f"v{version}" else [f"the tag is {tag}, and devenv.__version__ is {version}"]
    if (newest, bool(day)) != (version, True):
        found.append(f"CHANGELOG.md begins with '## {newest}', not with '## {version} - ' and the day")
    if changed := said("git", "status", "--porcelain"):
        found.append(f"this checkout is not what was committed: {changed.splitlines()[0]}, …")
    return found


def problems(archive: Path, wheel: Path, tag: str) -> list[str]:
    """Return what is wrong with a source archive and a wheel of this checkout."""
    with tarfile.open(archive) as tar, tempfile.TemporaryDirectory() as name:
        names = [member.name for member in tar.getmembers() if member.isfile()]
        tar.extractall(name, filter="data")
        (unpacked,) = Path(name).iterdir()
        # Another place, another user's umask; and the wheel straight from the checkout.
        (archive_again,) = build(unpacked, Path(name) / "archive", "--sdist", umask=0o077)
        (wheel_again,) = build(TOP, Path(name) / "wheel", "--wheel", umask=0o077)
        differs = [
            f"{one.name} is not the same if it is built again"
            for one, again in ((archive, archive_again), (wheel, wheel_again))
            if one.read_bytes() != again.read_bytes()
        ]
    with zipfile.ZipFile(wheel) as zipped:
        found = wheel_problems(zipped.namelist(), tracked())
    rendered = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", archive, wheel], check=False)
    return [
        *(found + archive_problems(names, tracked()) + differs),
        *version_problems(wheel.name.split("-")[1], (TOP / "CHANGELOG.md").read_text(), tag),
        *(["an index would not show the description"] if rendered.returncode else []),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Build and check; return 1 and leave dist/ as it is if something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.dist", description=__doc__)
    parser.add_argument("--tag", default="", metavar="vX.Y.Z", help="this is the release of that name")
    parser.add_argument("--output", type=Path, default=TOP / "dist", metavar="DIR")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="devenv-dist-") as name:
        wheel, archive = build(TOP, Path(name))
        if found := problems(archive, wheel, options.tag):
            print("\n".join(["cannot release this:", *found]), file=sys.stderr)
            return 1
        shutil.rmtree(options.output, ignore_errors=True)
        shutil.copytree(name, options.output)
    for path in sorted(options.output.iterdir()):
        print(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
