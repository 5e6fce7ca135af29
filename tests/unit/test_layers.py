"""How the packages of devenv may use each other, and what they may know."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

from devenv.store.files import create_file

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "devenv"
# Modules by their path below devenv/, without the ending: "lifecycle/up".
MODULES = {str(path.relative_to(PACKAGE).with_suffix("")): path for path in sorted(PACKAGE.rglob("*.py"))}
SERVICES = re.compile(r"mysql|mariadb|postgres|rabbit|etcd|keystone", re.IGNORECASE)
# These may know a service by name: modules that speak its protocol, and the table of those modules. So may the
# commented devenv.yaml that `init` writes.
MAY_NAME_SERVICES = {
    f"services/{name}" for name in ("mysql", "mariadb", "postgresql", "rabbitmq", "etcd", "keystone", "lookup")
}
HELP_TEXTS = {("profile", "TEMPLATE")}
# These write files that are not devenv's own, with the user's umask: a job's report, devenv.yaml, an export.
FOR_OTHERS = {"testing/ci", "cli/project", "wiring/export"}
# The top level of a clone; a new name there is a decision.
TOP = {"compose", "devenv", "docs", "profiles", "tests"} | {
    *("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md", "pyproject.toml")
}
SLOW = {"docker", "rich", "requests", "yaml", "voluptuous", "pymysql", "pg8000", "amqp", "websockets"}


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """Return all syntax nodes of the file."""
    return tuple(ast.walk(ast.parse(path.read_text())))


def imports(path: Path) -> Iterator[str]:
    """Yield the top-level name of every module imported anywhere in the file."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]


def loads(path: Path) -> Iterator[str]:
    """Yield what the file imports as soon as somebody imports it: module by module, with the names from each."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def code_words(path: Path) -> Iterator[tuple[str, int]]:
    """Yield identifiers and strings of a file, except texts that only people read."""
    prose = set()
    for node in nodes(path):
        if isinstance(node, ast.Expr):
            prose.add(node.value)
        if isinstance(node, ast.keyword) and node.arg in ("help", "hint", "msg"):
            prose.add(node.value)
        if isinstance(node, ast.Assign) and (path.stem, getattr(node.targets[0], "id", "")) in HELP_TEXTS:
            prose.add(node.value)
    for node in nodes(path):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in prose:
            yield node.value, node.lineno
        for word in ("id", "name", "attr", "arg"):
            if isinstance(getattr(node, word, None), str):
                yield getattr(node, word), getattr(node, "lineno", 0)


def test_imports_run_one_way(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    # It would turn off the loggers of devenv for all tests that follow.
    monkeypatch.setattr("importlinter.cli._configure_logging", lambda _verbose: None)
    # lint_imports prints the chain of imports that breaks the rule.
    assert lint_imports(str(ROOT / "pyproject.toml"), no_cache=True) == EXIT_STATUS_SUCCESS, capsys.readouterr().out


def test_every_package_says_in_a_sentence_what_it_is_for() -> None:
    for folder in (path for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"):
        first = (ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or "").partition("\n")[0]
        assert first.endswith("."), folder


def test_one_module_imports_docker() -> None:
    assert {module for module, path in MODULES.items() if "docker" in imports(path)} == {"engine/sdk"}


def test_only_who_uses_a_cluster_loads_its_engine_and_websockets() -> None:
    """A function imports them; nothing loads them with itself but parts of them, and the doctor of clusters."""
    theirs = r"devenv\.engine\.kubernetes\b|devenv\.cli\.cluster_doctor\b|websockets\b"
    for module, path in MODULES.items():
        if not module.startswith("engine/kubernetes/") and module != "cli/cluster_doctor":
            assert not [name for name in loads(path) if re.match(theirs, name)], module
        assert not [name for name in loads(path) if name.startswith("websockets")], module


@pytest.mark.parametrize("module", sorted(set(MODULES) - MAY_NAME_SERVICES))
def test_no_service_is_known_by_name(module: str) -> None:
    found = [f"{module}.py:{line}: {word}" for word, line in code_words(MODULES[module]) if SERVICES.search(word)]
    assert not found


@pytest.mark.parametrize("module", sorted(set(MODULES) - FOR_OTHERS))
def test_whatever_makes_a_file_or_a_folder_says_that_it_is_for_its_owner_alone(module: str) -> None:
    assert inspect.signature(create_file).parameters["mode"].default == 0o600
    for node in nodes(MODULES[module]):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "create_file":
            assert len(node.args) == 2 and not node.keywords, ast.unparse(node)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            call, name = ast.unparse(node), node.func.attr
            assert name not in ("write_text", "write_bytes", "makedirs"), call
            assert not re.search(r"\.open\('[wax]", call), call
            if "O_CREAT" in call and name == "open":
                assert call.endswith((f", {0o600})", ", mode, dir_fd=parent)")), call
            if name in ("mkdir", "touch") and not call.startswith("golden."):
                assert f"mode={0o700 if name == 'mkdir' else 0o600}" in call and "parents=" not in call, call


def test_the_top_level_is_what_it_was_decided_to_be() -> None:
    kept = subprocess.run(["git", "ls-files", "-z"], cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    assert {path.partition("/")[0] for path in kept.stdout.split("\0") if path[:1] not in ("", ".")} == TOP


@pytest.mark.parametrize(
    "program",
    [
        "import devenv.cli.main",
        "import devenv.cli.main as c; c.main(['--help'])",
        "import devenv.cli.main as c; c.main(['up', '-h'])",
    ],
)
def test_help_loads_no_slow_library(program: str) -> None:
    code = f"import sys, atexit; atexit.register(lambda: print('loaded', *sys.modules)); {program}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.splitlines()[-1].split()
    assert "devenv.cli.main" in loaded
    assert not SLOW & set(loaded)
