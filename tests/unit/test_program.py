"""A program of the user's: its exit code, its variables and its signals."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from devenv.program import CannotRun, run_program


@pytest.mark.parametrize(("code", "expected"), [("exit 0", 0), ("exit 9", 9), ("kill -KILL $$", 128 + signal.SIGKILL)])
def test_the_exit_code_is_the_programs(code: str, expected: int) -> None:
    assert run_program(["sh", "-c", code], {}) == expected


def test_variables_are_added_to_those_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", "1")
    assert run_program(["sh", "-c", 'test "$MINE$THEIRS" = 12'], {"THEIRS": "2"}) == 0


def test_what_is_no_program_is_told_as_a_shell_would(tmp_path: Path) -> None:
    with pytest.raises(CannotRun, match="cannot run no-such-program: No such file") as missing:
        run_program(["no-such-program"], {})
    (tmp_path / "plain").write_text("")
    with pytest.raises(CannotRun, match="Permission denied") as plain:
        run_program([str(tmp_path / "plain")], {})
    assert (missing.value.exit_code, plain.value.exit_code) == (127, 126)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT])
def test_signals_go_to_the_program_and_not_to_devenv(number: signal.Signals) -> None:
    inner = f"""
import signal
signal.signal({number.value}, lambda *_: exit(4))
print("begun", flush=True)
signal.pause()
"""
    outer = f"""
import sys
from devenv.program import run_program
sys.exit(run_program([sys.executable, "-c", {inner!r}], {{}}))
"""
    # In a session of its own it has no terminal, whose Ctrl-C would reach the program by itself.
    command = [sys.executable, "-c", outer]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as run:
        assert run.stdout and run.stdout.readline() == "begun\n"
        run.send_signal(number)
        assert run.wait() == 4


def test_handlers_are_afterwards_what_they_were() -> None:
    before = signal.getsignal(signal.SIGTERM)
    run_program(["true"], {})
    assert signal.getsignal(signal.SIGTERM) == before
