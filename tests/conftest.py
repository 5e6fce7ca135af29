"""Which tests share an environment, and therefore a process; the images and services that they share."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.integration.project import Project

# Tests that ask for one of these fixtures run in one process, since each process would make its own; all others run
# wherever there is room: `pytest --numprocesses N --dist loadgroup`.
SHARED = ("running", "guarded", "canary", "figures", "queue", "engine", "place", "kills")


def pytest_configure() -> None:
    """Tests send signals that a job in the background of a script ignores, or one under nohup."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for name in SHARED:
            if name in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.xdist_group(_group(item, name)))
                break


def _group(item: pytest.Item, fixture: str) -> str:
    """The cases of a scenario of the chaos share a place; other scenarios have another one."""
    call = getattr(item, "callspec", None)
    return f"{fixture} {call.params[fixture]}" if call and fixture in call.params else fixture


@pytest.fixture(scope="session")
def images() -> Iterator[None]:
    """Images are built once for all tests, under no test's time limit; and no test takes another's ports."""
    from tests.integration.project import build_images, ports_held

    build_images()
    with ports_held():
        yield


@pytest.fixture(scope="session")
def running(images: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """All four services up. A test may add components to devenv.yaml and take them out again."""
    from tests.integration.project import new_project, remove

    shared = new_project(tmp_path_factory.mktemp("shared"), "running")
    shared.devenv("up")
    yield shared
    remove(shared)
