"""docs/reference.md says what the code says."""

from __future__ import annotations

from tests import reference


def test_the_page_is_current() -> None:
    assert reference.PAGE.read_text() == reference.page(), "run: python -m tests.reference"
