"""Run the command of a suite as a reader would, and fetch what became of each test."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.suites.inventory import Run
from tests.suites.prepare import Prepared
from tests.suites.results import Outcome, judge, read

# The slowest takes five minutes.
_LONGEST = 900
# Seconds that an interrupted `devenv run` gets to remove what it started.
_FAREWELL = 60
_TAIL_LINES = 15


def execute(run: Run, prepared: Prepared, no_server: Sequence[str], log: Path) -> Outcome:
    """Return what became of the tests; all that the command prints goes into `log`."""
    # stestr's own memory of runs: without it, a command that runs no test would show the tests of the run before.
    shutil.rmtree(prepared.source / ".stestr", ignore_errors=True)
    began = time.monotonic()
    with log.open("wb") as output:
        code = _run(run.command, prepared, output.fileno())
    seconds = time.monotonic() - began
    last = subprocess.run(
        ("stestr", "last", "--subunit"),
        cwd=prepared.source,
        env=_environment(prepared),
        capture_output=True,
        check=False,
    )
    # Without tests it prints a sentence.
    tests = read(last.stdout) if (prepared.source / ".stestr" / "0").exists() else []
    failed = any(test.status in ("fail", "inprogress") for test in tests)
    broken = "" if code == failed else f"the command ended with {code}:\n{_tail(log)}"
    return judge(run, tests, no_server, seconds, broken)


def _run(command: str, prepared: Prepared, output: int) -> int:
    """Return the exit code of the command."""
    process = subprocess.Popen(
        command,
        shell=True,
        cwd=prepared.source,
        env=_environment(prepared),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        # An interrupt at the terminal reaches it once, from below.
        start_new_session=True,
    )
    try:
        return process.wait(_LONGEST)
    except BaseException as error:
        _end(process)
        if isinstance(error, subprocess.TimeoutExpired):
            return process.returncode
        raise


def _end(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(_FAREWELL)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _environment(prepared: Prepared) -> dict[str, str]:
    """Return the variables that a reader has: the suite's programs, devenv, and nothing that oslo.config would read."""
    path = os.pathsep.join([str(prepared.programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    return {name: value for name, value in os.environ.items() if not name.startswith("OS_")} | {"PATH": path}


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-_TAIL_LINES:])
