"""How tests are spread over processes: `pytest --numprocesses N --dist loadfile`."""

from __future__ import annotations

import signal
from typing import Any

import pytest

# All others keep the tests of a file in one process, for what they share. These share what is named before a comma.
_APART = ("test_example.py", "test_faults.py", "test_pytest_plugin.py", "chaos/test_sample.py")


def pytest_configure() -> None:
    """Tests send signals that a job in the background of a script ignores, or one under nohup."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return nodeid.partition(", ")[0] if file.endswith(_APART) else file

    return Scheduling(config, log) if config.getoption("dist") == "loadfile" else None
