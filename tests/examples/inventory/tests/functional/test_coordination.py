"""Locks and members, by tooz in etcd."""

from collections.abc import Iterator

import pytest

from inventory.coordination import Coordination

pytestmark = pytest.mark.devenv(services=["etcd"])


@pytest.fixture
def pair(conf) -> Iterator[list[Coordination]]:
    coordinators = []
    for host in ("one", "two"):
        conf.set_override("host", host)
        coordinators.append(Coordination(conf))
    for coordinator in coordinators:
        coordinator.start()
    yield coordinators
    for coordinator in coordinators:
        coordinator.stop()


def test_a_lock_is_held_by_one_at_a_time(pair: list[Coordination]) -> None:
    first, second = (coordinator.lock("nut") for coordinator in pair)
    with first:
        assert not second.acquire(blocking=False)
    with second:
        assert not first.acquire(blocking=False)


def test_other_names_are_other_locks(pair: list[Coordination]) -> None:
    one, two = pair
    with one.lock("nut"), two.lock("bolt"):
        assert not one.lock("bolt").acquire(blocking=False)


def test_workers_see_each_other_come_and_go(pair: list[Coordination]) -> None:
    one, two = pair
    assert one.workers() == []
    one.join()
    two.join()
    assert one.workers() == two.workers() == ["one", "two"]
    two.stop()
    assert one.workers() == ["one"]
    two.start()
