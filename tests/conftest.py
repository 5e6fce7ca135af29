"""How tests are spread over processes: `pytest --numprocesses N --dist loadgroup`."""

from __future__ import annotations

import pytest


def pytest_itemcollected(item: pytest.Item) -> None:
    """Tests of one file run in one process, for what they share; a file may say that they share less."""
    if not item.get_closest_marker("xdist_group"):
        item.add_marker(pytest.mark.xdist_group(item.path.stem))
