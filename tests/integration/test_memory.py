"""A long run of tests takes no more memory than a short one."""

from __future__ import annotations

import subprocess
import sys

import pytest
from project import Project

# Prints the memory of its process (RSS, in kB) after 200, 400, … and 1200 components.
CODE = """
import os, sys, time
from pathlib import Path
from devenv.lifecycle.environment import Environment
from devenv.testing.lease import Lease

def memory():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1000

lease, pools = Lease(Environment(Path.cwd())), Path(sys.argv[1])
try:
    for _ in range(6):
        for _ in range(200):
            component = lease.component()
            component.env
            component.give_back()
        assert [*pools.rglob("*.conf")]
        # They go behind the tests' back: what is still to be dropped is noted there.
        while len([*pools.rglob("*.conf")]) > 10:
            time.sleep(0.01)  # Who drops them needs this process's time.
        print(memory())
finally:
    lease.close()
"""


@pytest.mark.long
def test_components_that_come_and_go_leave_no_memory_taken(project: Project) -> None:
    project.configure("profile: coordination\n")
    project.devenv("up")
    pools = project.state / "environments" / project.id / "pools"
    command = [sys.executable, "-c", CODE, str(pools)]
    done = subprocess.run(command, cwd=project.folder, env=project.environ, capture_output=True, text=True, check=True)
    first, *later = map(int, done.stdout.split())
    # One kB for each later component would be 1000 kB. Python takes memory from the system in steps of up to 400 kB.
    assert len(later) == 5 and max(later) - first < 1000, done.stdout
