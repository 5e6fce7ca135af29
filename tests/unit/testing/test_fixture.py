"""What a process that has imported the fixture does when it ends, without an engine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# A process that forks a child and uses no service.
FORKS = """
import os, sys
from pathlib import Path
{before}
from devenv.testing import DevenvFixture, fixture
fixture._LEASES.leave = lambda: print("left")
{after}
if not os.fork():
    os._exit(0)
os.wait()
"""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", ""),
        ("", "os.environ['DEVENV_FILE'] = 'nosuch.yaml'"),
        ("Path.cwd().rmdir()", ""),
        ("", "Path.cwd().rmdir()"),
    ],
    ids=["an empty folder", "a file that is not there", "a folder deleted before", "a folder deleted after"],
)
def test_a_process_that_has_forked_leaves_wherever_it_is(before: str, after: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", FORKS.format(before=before, after=after)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("left\n", "", 0)
