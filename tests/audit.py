"""Write docs/dependencies.md, and ask what is known against these packages: `python -m tests.audit`.

A test checks that the page is current.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from importlib.metadata import metadata, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

TOP = Path(__file__).parents[1]
PAGE = TOP / "docs" / "dependencies.md"
_REASON = re.compile(r"^\| ([\w-]+) \| (.+) \|$", re.MULTILINE)
_SECONDS = 300
_HEAD = """\
# Dependencies

These packages come with an installed devenv, under the licences that the packages themselves state. `make audit` writes
this page, and a test fails when it is not current. [CONTRIBUTING.md](../CONTRIBUTING.md) lists what development needs
besides.

| package | licence | why |
|---|---|---|
"""


def dependencies() -> dict[str, str]:
    """Return each package that an installed devenv needs, and the one that needs it: "" if devenv itself lists it."""
    found, todo = dict[str, str](), [("openstack-devenv", "")]
    while todo:
        name, above = todo.pop(0)
        for one in map(Requirement, requires(name) or ()):
            wanted = one.marker is None or one.marker.evaluate({"extra": ""})
            if wanted and _known(one.name) not in found:
                found[_known(one.name)] = above
                todo.append((one.name, _known(one.name)))
    return dict(sorted(found.items()))


def licence(name: str) -> str:
    """Return the licence as the package says: an SPDX expression, or else the words of its classifier."""
    said = metadata(name)
    classified = [one.rpartition(" :: ")[2] for one in said.get_all("Classifier", []) if one.startswith("License ::")]
    return str(said.get("License-Expression") or ", ".join(classified) or said.get("License") or "not said")


def reasons() -> dict[str, str]:
    """Return why devenv itself needs each package, from CONTRIBUTING.md."""
    text = (TOP / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("\n## Dependencies\n")[2]
    return {_known(name): why for name, why in _REASON.findall(text) if name != "package"}


def page() -> str:
    """Return the page, without versions: it is the same on every machine."""
    known = reasons()
    rows = [
        f"| {name} | {licence(name)} | {f'{above} needs it' if above else known[name]} |"
        for name, above in dependencies().items()
    ]
    return _HEAD + "\n".join(rows) + "\n"


def vulnerabilities() -> tuple[list[str], list[str]]:
    """Return what is known against the versions installed here, and the packages that nobody answered about."""
    names = list(dependencies())
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as pinned:
        pinned.writelines(f"{name}=={version(name)}\n" for name in names)
        pinned.flush()
        command = [sys.executable, "-m", "pip_audit", "--requirement", pinned.name, "--no-deps", "--disable-pip"]
        command += ["--format", "json", "--progress-spinner", "off"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
            answers = json.loads(done.stdout)["dependencies"]
        except (subprocess.TimeoutExpired, ValueError):  # pip-audit is not installed, or reaches no database.
            return [], names
    known = [
        f"{one['name']} {one['version']}: {found['id']}, mended in {', '.join(found['fix_versions']) or 'no version'}"
        for one in answers
        for found in one.get("vulns", ())
    ]
    return known, [one["name"] for one in answers if "skip_reason" in one]


def _known(name: str) -> str:
    return canonicalize_name(name)


def main() -> int:
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote docs/{PAGE.name}")
    known, unasked = vulnerabilities()
    if unasked:
        names = ", ".join(unasked) if len(unasked) < len(dependencies()) else "any package"
        print(
            f"cannot ask what is known against {names}: pip-audit is not there, or reaches no database", file=sys.stderr
        )
    elif not known:
        print("nothing is known against any package")
    for line in known:
        print(line)
    return 1 if known else 0


if __name__ == "__main__":
    sys.exit(main())
