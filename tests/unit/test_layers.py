"""How the modules of devenv may use each other, and what they may know."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "devenv"
MODULES = {path.stem: path for path in sorted(PACKAGE.glob("*.py"))}
# From the top: a module imports only from rooms further down.
ROOMS = (
    {"__main__"},
    {"cli", "pytest_plugin", "fixture"},
    {"cli_data", "cli_images", "cli_run"},
    {"command"},
    {"ci"},
    {"terminal", "artifacts"},
    {"report", "trace"},
    {"lease", "gone"},
    {"__init__"},
    {"environment"},
    {"lending"},
    {"bringup", "imagecache", "inventory"},
    {"steps", "status"},
    {"projectfiles", "timing", "export"},
    {"doctor", "execute", "wiring", "merge", "snapshot", "composefile"},
    {"provisioners", "imagebuild", "pool"},
    {"resolve", "images", "provision", "readiness"},
    {"golden"},
    {"profile", "probe", "host", "components", "trust", "notes"},
    {"catalogue", "elsewhere"},
    {"state", "plan", "plandown", "engine", "document"},
    {"engineimages", "enginelook"},
    {"connection", "ports", "yamltext"},
    {"enginesdk", "ownership"},
    {"archive", "program", "template", "initext", "userfile", "plugins", "enginehttp", "imagetar", "joblog", "locks"},
    {"results", "record", "sbom"},
    {"model", "names"},
    {"errors"},
)
ROOM = {module: number for number, room in enumerate(ROOMS) for module in room}
SERVICES = re.compile(r"mysql|rabbit|etcd|keystone", re.IGNORECASE)
# Who may know a service by name: what speaks its protocol. And the commented devenv.yaml that `init` writes.
MAY_NAME_SERVICES = {"probe", "provisioners"}
HELP_TEXTS = {("profile", "TEMPLATE")}
# Who makes what is not devenv's own, as the user's umask says: a job's report, devenv.yaml, an export.
FOR_OTHERS = {"ci", "cli", "export"}
# What a clone shows first; a new one is a decision.
TOP = {"compose", "devenv", "docs", "profiles", "tests"} | {
    *("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md", "pyproject.toml")
}
SLOW = {"docker", "rich", "requests", "yaml", "voluptuous", "pymysql", "amqp"}


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every module imported anywhere in the file, with its line."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "devenv":
            yield from ((f"devenv.{a.name}" if a.name in MODULES else "devenv", node.lineno) for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", node.lineno


def code_words(path: Path) -> Iterator[tuple[str, int]]:
    """Identifiers and strings of a file, but for what only people read."""
    tree = ast.parse(path.read_text())
    prose = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            prose.add(node.value)
        if isinstance(node, ast.keyword) and node.arg in ("help", "hint", "msg"):
            prose.add(node.value)
        if isinstance(node, ast.Assign) and (path.stem, getattr(node.targets[0], "id", "")) in HELP_TEXTS:
            prose.add(node.value)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in prose:
            yield node.value, node.lineno
        for word in ("id", "name", "attr", "arg"):
            if isinstance(getattr(node, word, None), str):
                yield getattr(node, word), getattr(node, "lineno", 0)


def test_every_module_has_a_room() -> None:
    assert set(MODULES) <= set(ROOM)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module: str) -> None:
    wrong = [
        f"{module}.py:{line} imports {name}"
        for name, line in imports(MODULES[module])
        if name.startswith("devenv.") and ROOM[name.split(".")[1]] <= ROOM[module]
    ]
    assert not wrong


def test_one_module_imports_docker() -> None:
    users = {m for m, path in MODULES.items() for name, _ in imports(path) if name.partition(".")[0] == "docker"}
    assert users == {"enginesdk"}


@pytest.mark.parametrize("module", sorted(set(MODULES) - MAY_NAME_SERVICES))
def test_no_service_is_known_by_name(module: str) -> None:
    found = [f"{module}.py:{line}: {word}" for word, line in code_words(MODULES[module]) if SERVICES.search(word)]
    assert not found


@pytest.mark.parametrize("module", sorted(set(MODULES) - FOR_OTHERS))
def test_whatever_makes_a_file_or_a_folder_says_that_it_is_for_its_owner_alone(module: str) -> None:
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            call, name = ast.unparse(node), node.func.attr
            assert name not in ("write_text", "write_bytes", "makedirs"), call
            assert not re.search(r"\.open\('[wax]", call), call
            if "O_CREAT" in call and name == "open":
                assert call.endswith(f", {0o600})"), call
            if name in ("mkdir", "touch") and not call.startswith("golden."):
                assert f"mode={0o700 if name == 'mkdir' else 0o600}" in call and "parents=" not in call, call


def test_the_top_level_is_what_it_was_decided_to_be() -> None:
    kept = subprocess.run(["git", "ls-files", "-z"], cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    assert {path.partition("/")[0] for path in kept.stdout.split("\0") if path[:1] not in ("", ".")} == TOP


@pytest.mark.parametrize("module", MODULES)
def test_a_file_fits_a_sitting(module: str) -> None:
    assert len(MODULES[module].read_text().splitlines()) <= 400


@pytest.mark.parametrize(
    "program",
    ["import devenv.cli", "import devenv.cli as c; c.main(['--help'])", "import devenv.cli as c; c.main(['up', '-h'])"],
)
def test_help_loads_no_slow_library(program: str) -> None:
    code = f"import sys, atexit; atexit.register(lambda: print('loaded', *sys.modules)); {program}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.splitlines()[-1].split()
    assert "devenv.cli" in loaded
    assert not SLOW & set(loaded)
