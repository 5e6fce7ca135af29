"""Tell how much time has passed, whatever a test does to the clock."""

from __future__ import annotations

import time


def now() -> float:
    """Return seconds, as `time.monotonic` does, also in a test that froze that: a wait of its process must end, too."""
    return time.clock_gettime(time.CLOCK_MONOTONIC)
