"""Say which tests share an environment, and therefore a process; prepare the images and services that they share."""

from __future__ import annotations

import json
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.integration.project import Ports, Project

# Other modules import its tests, and their assertions are to say what they saw.
pytest.register_assert_rewrite("tests.contract")

# Tests that ask for one of these fixtures run in one process, since each process would make its own; all others run
# wherever there is room: `pytest --numprocesses N --dist loadgroup`.
SHARED = (
    "running",
    "guarded",
    "canary",
    "figures",
    "queue",
    "engine",
    "place",
    "kills",
    "golden",
    "server",
    "on_postgresql",
    "newer_base",
    "lending",
    "cluster",
    "outside",
)
_GROUPS = pytest.StashKey[Path]()


def pytest_configure() -> None:
    """Stop ignoring signals that tests send: a job in the background of a script ignores them, or one under nohup."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, handler)


# Only a worker knows a test's fixtures, and only the controller spreads tests: it reads what each worker writes. The
# mark xdist_group, which is for that, changes ids of tests, which pytest 9 does not allow any more.


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    if _GROUPS not in node.config.stash:
        node.config.stash[_GROUPS] = Path(tempfile.mkdtemp(prefix="devenv-groups-")) / "groups.json"
    node.workerinput["groups"] = str(node.config.stash[_GROUPS])


def pytest_unconfigure(config: pytest.Config) -> None:
    if _GROUPS in config.stash:
        shutil.rmtree(config.stash[_GROUPS].parent)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if worker := getattr(config, "workerinput", None):
        written = Path(f"{worker['groups']}.{worker['workerid']}")
        written.write_text(json.dumps({item.nodeid: group for item in items if (group := _group(item))}))
        written.replace(worker["groups"])


def _group(item: pytest.Item) -> str:
    """Return the shared fixture that the test asks for; a scenario of the chaos has a place of its own.

    One Podman runs at a time: root's all have their name server's files in one folder of /run, and only the first
    one's serves them.
    """
    fixtures, call = getattr(item, "fixturenames", ()), getattr(item, "callspec", None)
    if "podman" in (*fixtures, *(call.params.values() if call else ())):
        return "podman"
    fixture = next((name for name in SHARED if name in fixtures), "")
    return f"{fixture} {call.params[fixture]}" if call and fixture in call.params else fixture


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadGroupScheduling

    class Scheduling(LoadGroupScheduling):
        @cached_property
        def groups(self) -> dict[str, str]:
            return dict(json.loads(config.stash[_GROUPS].read_text()))

        def _split_scope(self, nodeid: str) -> str:
            return self.groups.get(nodeid, nodeid)

    return Scheduling(config, log) if config.getoption("dist") == "loadgroup" else None


@pytest.fixture(scope="session")
def images() -> Iterator[Ports]:
    """Build images once for all tests, under no test's time limit. Hold ports, so no test takes another's."""
    from tests.integration.project import Ports, build_images

    build_images()
    with closing(Ports()) as ports:
        ports.hold()
        yield ports


@pytest.fixture(scope="session")
def running(images: Ports, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """Bring all four services up. A test may add components to devenv.yaml and take them out again."""
    from tests.integration.project import new_project, remove

    shared = new_project(tmp_path_factory.mktemp("shared"), "running")
    shared.devenv("up")
    yield shared
    remove(shared)
