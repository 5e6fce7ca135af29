"""How tests are spread over processes: `pytest --numprocesses N --dist loadgroup`."""

from __future__ import annotations

from collections.abc import Iterable

import pytest


# Before pytest-xdist looks at the marks.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    """Tests of one file run in one process, for what they share; a file may say that they share less."""
    for item in items:
        if not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
