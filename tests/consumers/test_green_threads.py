"""Suites under eventlet and gevent, which replace threads, locks and sockets of the standard library."""

from __future__ import annotations

import pytest
from suites import outcome, pytest_process, write
from wired import Wired

PATCHES = {
    "eventlet": "import eventlet; eventlet.monkey_patch()",
    "gevent": "from gevent import monkey; monkey.patch_all()",
}
LIBRARIES = ["eventlet", pytest.param("gevent", marks=pytest.mark.long)]

# More tests than components in advance, while something else runs in a thread.
SUITE = """
import threading, time
from devenv import Environment

@pytest.fixture(scope="module", autouse=True)
def ticks():
    found, over = [], threading.Event()

    def tick():
        while not over.is_set():
            found.append(time.monotonic())
            time.sleep(0.001)  # Let the tests go on between two ticks.

    thread = threading.Thread(target=tick)
    thread.start()
    yield found
    over.set()
    thread.join()
    assert found

@pytest.mark.parametrize("number", range(6))
def test_component(devenv_component, number):
    assert devenv_component.env["DATABASE_URL"]
    if number == 0:
        LATE

def test_environment(devenv):
    assert {status.state for status in Environment().status().values()} == {"ready"}
    assert devenv.service("etcd").endpoint.port

def test_up_and_down():
    environment = Environment(name="green", profile="coordination")
    environment.up()
    try:
        assert environment.status()["etcd"].state == "ready"
    finally:
        environment.down(volumes=True)
"""


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("when", ["before devenv", "after the first component"])
def test_fixtures_probes_and_environments_work_in_green_threads(wired: Wired, library: str, when: str) -> None:
    early = when == "before devenv"
    folder = wired.project.folder
    write(wired.project, "conftest.py", PATCHES[library] if early else "")
    write(wired.project, "test_green.py", SUITE.replace("LATE", "pass" if early else PATCHES[library]))
    try:
        # eventlet warns when it is imported, and of locks that a late patch cannot replace.
        done = pytest_process(wired.project, "-W", "ignore", "--timeout=120", "test_green.py")
    finally:
        for name in ("conftest.py", "test_green.py"):
            (folder / name).unlink()
    outcome(done, passed=8)
    assert not [*(wired.project.state / "environments").glob("*/pools/*/*.conf")]
