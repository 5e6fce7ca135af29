"""The face of devenv.testing: a few names, each loaded when something asks for it."""

from __future__ import annotations

import subprocess
import sys

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
