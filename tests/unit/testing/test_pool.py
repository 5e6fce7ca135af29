"""Components made in advance: whose they are, and what becomes of one that failed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from devenv.errors import ServiceFailed
from devenv.model import Desired
from devenv.testing.pool import AHEAD, Made, Pool


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


@pytest.fixture
def failing(tmp_path: Path) -> Iterator[Scripted]:
    """Make a pool whose components in advance all failed: something blocked sockets while they were made."""
    pool = Scripted(tmp_path, [RuntimeError("blocked")] * AHEAD)
    pool.fill()
    yield pool
    pool.close()


def test_what_failed_in_advance_is_made_again_for_the_test_that_asks(failing: Scripted) -> None:
    assert failing.take().name == f"test-{AHEAD + 1}"
    failing.close()
    assert "test-1" in failing.dropped and f"test-{AHEAD + 1}" not in failing.dropped


def test_what_fails_again_for_the_test_that_asks_is_its_error(failing: Scripted) -> None:
    failing._errors.append(ServiceFailed("cannot create the vhost"))
    with pytest.raises(ServiceFailed, match="cannot create the vhost"):
        failing.take()
    failing.close()
    assert f"test-{AHEAD + 1}" in failing.dropped


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
