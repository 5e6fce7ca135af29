"""The face of devenv.testing: a few names, each loaded when something asks for it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from devenv import testing


@pytest.mark.parametrize("name", testing.__all__)
def test_each_name_of_the_face_is_there(name: str) -> None:
    assert getattr(testing, name).__name__ == name


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nosuch'"):
        _ = testing.nosuch


@pytest.mark.parametrize("module", ["devenv.testing", "devenv.testing.pytest_plugin"])
def test_the_face_loads_nothing_of_devenv_by_itself(module: str) -> None:
    code = f"import sys, {module}; print(*sorted(m for m in sys.modules if m.partition('.')[0] == 'devenv'))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {*loaded} <= {"devenv", "devenv.testing", module}


def test_a_place_that_cannot_be_used_fails_a_test_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEVENV_OUTPUT_DIR", "rel")
    (tmp_path / "test_it.py").write_text("def test_it(devenv_component): ...\n")
    command = [sys.executable, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout
    assert "1 error" in told and "(exit code 3 of devenv)" in told and "ConfigError" not in told, told
    assert re.search("^E? *cannot use DEVENV_OUTPUT_DIR=rel: the path is relative", told, flags=re.MULTILINE), told
