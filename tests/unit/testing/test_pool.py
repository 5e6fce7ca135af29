"""Components made in advance: whose they are, and what becomes of one that failed."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from devenv.model import Desired
from devenv.testing.pool import Made, Pool


class Scripted(Pool):
    """A pool that creates nothing. `errors` are the outcomes of its first components; later ones succeed."""

    def __init__(self, folder: Path, errors: list[Exception] | None = None) -> None:
        numbers = count(1)
        super().__init__(Desired("x", "x", {}), {}, lambda: folder / f"test-{next(numbers)}.conf")
        self._errors = errors or []
        self.dropped: list[str] = []

    def _begin(self) -> Made:
        future = Future[None]()
        if self._errors:
            future.set_exception(self._errors.pop(0))
        else:
            future.set_result(None)
        return replace(super()._begin(), begun=(future,))

    def _drop(self, note: Path, *_: object) -> None:
        self.dropped.append(note.stem)


@pytest.mark.parametrize("what", ["another process", "another library's locks"])
def test_a_component_of_another_owner_is_not_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    pool = Scripted(tmp_path)
    made = pool.take()
    with monkeypatch.context() as patch:
        if what == "another process":
            patch.setattr("os.getpid", lambda: 1)
        else:
            patch.setattr(threading, "Lock", threading.RLock)
        pool.give_back(made)
    pool.close()
    assert made.name not in pool.dropped
