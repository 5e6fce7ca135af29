"""Lend an environment to a test suite, a command or a CI job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from devenv.testing.artifacts import write_artifacts
    from devenv.testing.fixture import DevenvFixture, DevenvTestCase

__all__ = ["DevenvFixture", "DevenvTestCase", "write_artifacts"]


def __getattr__(name: str) -> Any:
    # Lazily: pytest loads this package wherever devenv is installed, and only the first two need `fixtures`.
    if name in ("DevenvFixture", "DevenvTestCase"):
        from devenv.testing import fixture

        return getattr(fixture, name)
    if name == "write_artifacts":
        from devenv.testing.artifacts import write_artifacts

        return write_artifacts
    raise AttributeError(f"module 'devenv.testing' has no attribute {name!r}")
