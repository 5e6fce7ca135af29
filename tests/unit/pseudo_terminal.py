"""Run something on a terminal of its own."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any


def on_terminal(act: Callable[[Any], None], columns: int = 80) -> str:
    """Return everything that `act` writes to a terminal of that width."""
    leader, follower = os.openpty()
    seen: list[bytes] = []

    def read() -> None:
        try:
            while chunk := os.read(leader, 65536):
                seen.append(chunk)
        except OSError:  # the other end is closed
            return

    reader = threading.Thread(target=read)
    reader.start()
    os.environ["COLUMNS"] = str(columns)
    with os.fdopen(follower, "w", encoding="utf-8") as stream:
        act(stream)
    reader.join(20)
    os.close(leader)
    return b"".join(seen).decode()
