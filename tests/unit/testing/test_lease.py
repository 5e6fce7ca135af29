"""How a process of a test run remembers services that it could not have."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from types import ModuleType
from typing import Any, cast

import pytest
from builders import operation

from devenv.errors import ConfigError, DevenvError, NoEngine, ServiceFailed
from devenv.lifecycle.environment import Environment
from devenv.lifecycle.loans import Borrowed
from devenv.model import Desired
from devenv.testing.lease import Lease, Leases, LentComponent
from devenv.testing.pool import Made, Pool

NEEDS = {"mysql": ["mysql"], "keystone": ["mysql", "keystone"], "etcd": ["etcd"], "rabbitmq": ["rabbitmq"]}


class Broken:
    """An environment that cannot bring up mysql; it knows how often it was asked."""

    def __init__(self, error: DevenvError, folder: Path) -> None:
        self.asked: list[tuple[str, ...]] = []
        self._error, self._folder = error, folder

    @contextmanager
    def shared(self) -> Iterator[Path]:
        yield self._folder

    def databases(self, names: Sequence[str], citest: bool, required: bool) -> list[str]:
        return []

    def selected(self, names: Sequence[str]) -> list[str]:
        return [need for name in names for need in NEEDS[name]]

    def borrow(self, names: Sequence[str]) -> Borrowed:
        self.asked.append(tuple(names))
        if not names or "mysql" in self.selected(names):
            raise self._error
        return Borrowed(Desired("x", "x", cast(Any, dict.fromkeys(names))), {})


def failed(services: Sequence[str]) -> ServiceFailed:
    error = ServiceFailed("cannot pull image mysql:0")
    error.operations = [operation(f"pull image {name}", service=name) for name in services]
    return error


def asked(error: DevenvError, folder: Path, *requests: Sequence[str]) -> tuple[list[str], list[tuple[str, ...]]]:
    """Return what became of each request, and what the lease asked the environment for."""
    environment = Broken(error, folder)
    lease = Lease(cast(Environment, environment))
    told = []
    for request in requests:
        try:
            lease._desired(request)
            told.append("")
        except DevenvError as found:
            told.append(found.message)
    return told, environment.asked


def test_a_service_that_failed_once_is_not_tried_again_and_the_others_are(tmp_path: Path) -> None:
    error = failed(["mysql"])
    told, tried = asked(error, tmp_path, ["mysql"], ["mysql"], ["keystone"], [], ["etcd"])
    assert told == [error.message] * 4 + [""]
    assert tried == [("mysql",), ("etcd",)]


@pytest.mark.parametrize("error", [failed([""]), NoEngine("cannot reach a container engine")])
def test_without_what_all_need_nothing_is_tried_again(error: DevenvError, tmp_path: Path) -> None:
    told, tried = asked(error, tmp_path, ["mysql"], ["etcd"], [])
    assert told == [error.message] * 3
    assert tried == [("mysql",)]


def test_a_request_that_is_wrong_blames_no_service(tmp_path: Path) -> None:
    told, tried = asked(DevenvError("cannot find it"), tmp_path, ["mysql"], ["etcd"])
    assert told == ["cannot find it", ""] and tried == [("mysql",), ("etcd",)]


def test_services_that_were_borrowed_together_are_not_asked_for_again_one_by_one(tmp_path: Path) -> None:
    environment = Broken(DevenvError("unused"), tmp_path)
    lease = Lease(cast(Environment, environment))
    both = lease._desired(["etcd", "rabbitmq"])
    assert [*lease._desired(["rabbitmq"]).services] == ["rabbitmq"]
    assert [*lease._desired(["rabbitmq", "etcd"]).services] == ["rabbitmq", "etcd"]
    assert [*both.services] == ["etcd", "rabbitmq"] and environment.asked == [("etcd", "rabbitmq")]


class Works(Broken):
    """An environment whose services all work."""

    def going(self, _catalogue: object) -> list[str]:
        return []

    def borrow(self, names: Sequence[str]) -> Borrowed:
        return Borrowed(Desired("x", "x", {}), {})


def test_a_marked_test_begins_when_the_first_components_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, made = Event(), list[str]()

    class Slow(Pool):
        def wait(self) -> None:
            asked.wait(10)
            made.append("a component")

    monkeypatch.setattr("devenv.testing.lease.Pool", Slow)
    lease = Lease(cast(Environment, Works(NoEngine("none", "start it"), tmp_path)))
    lease.begin([], [[]])
    threading.Timer(0.05, asked.set).start()
    lease.services()
    assert made


def test_whatever_fails_in_the_background_is_logged_and_raised_for_the_test_that_asks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Blocked(Works):
        def borrow(self, names: Sequence[str]) -> Borrowed:
            raise RuntimeError("a test must not open sockets")

    lease = Lease(cast(Environment, Blocked(NoEngine("none", "start it"), tmp_path)))
    # pytest fails a test for an exception in a thread.
    with caplog.at_level("DEBUG", "devenv"):
        lease.begin(["etcd"])
        with pytest.raises(RuntimeError, match="must not open sockets"):
            lease.services(["etcd"])
    assert "in the background failed" in caplog.text and "must not open sockets" in caplog.text


@pytest.mark.parametrize(
    ("module", "raised", "words"),
    [
        (None, ConfigError, "cannot load options: oslo.config is not installed"),
        (ModuleType("oslo_config"), ImportError, "cannot import name 'cfg'"),
    ],
    ids=["missing", "damaged"],
)
def test_only_an_oslo_config_that_is_missing_is_told_as_missing(
    module: ModuleType | None, raised: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "devenv.testing.options", raising=False)
    monkeypatch.delattr("devenv.testing.options", raising=False)
    monkeypatch.delitem(sys.modules, "oslo_config.cfg", raising=False)
    monkeypatch.setitem(sys.modules, "oslo_config", cast(ModuleType, module))
    made = Made("x", Desired("x", "x", {}), Path(), {})
    with pytest.raises(raised, match=words):
        _ = LentComponent(cast(Lease, None), made, cast(Pool, None)).conf


# ---- another owner -------------------------------------------------------------------------------------------------


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return how leases were ended."""
    told: list[str] = []
    monkeypatch.setattr(Lease, "close", lambda _: told.append("closed"))
    monkeypatch.setattr(Lease, "leave", lambda _: told.append("left"))
    return told


def test_a_forked_child_begins_with_no_lease_and_ends_none_of_its_parents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: list[str]
) -> None:
    leases = Leases()
    of_parent = leases.get(tmp_path)
    monkeypatch.setattr("os.getpid", lambda: 1)
    assert not leases.projects
    leases.close()
    leases.leave()
    assert ended == []
    assert leases.get(tmp_path) is not of_parent and leases.projects == {tmp_path}
    leases.close()
    assert ended == ["closed"]


def test_a_lease_from_before_green_threads_is_left_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: list[str]
) -> None:
    leases = Leases()
    before = leases.get(tmp_path)
    monkeypatch.setattr(threading, "Lock", threading.RLock)
    after = leases.get(tmp_path)
    # A component of before may still be in use: its lease goes on until the run ends.
    assert after is not before and leases.get(tmp_path) is after and ended == []
    leases.close()
    assert ended == ["closed", "left"]
