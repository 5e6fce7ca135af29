"""A program of the user's: its exit code, its variables and its signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from devenv.testing import program
from devenv.testing.program import CannotRun, OutOfTime, run_group, run_program


@pytest.mark.parametrize(("code", "expected"), [("exit 0", 0), ("exit 9", 9), ("kill -KILL $$", 128 + signal.SIGKILL)])
def test_the_exit_code_is_the_programs(code: str, expected: int) -> None:
    assert run_program(["sh", "-c", code], {}) == expected


def test_variables_are_added_to_those_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", "1")
    assert run_program(["sh", "-c", 'test "$MINE$THEIRS" = 12'], {"THEIRS": "2"}) == 0


def test_variables_that_others_replace_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", "1")
    script = 'test -z "${MINE+there}"'
    assert run_program(["sh", "-c", script], {}, ["MINE", "NOT_THERE"]) == 0
    assert run_group(["sh", "-c", script], {}, ["MINE"]) == 0


def test_what_is_no_program_is_told_as_a_shell_would(tmp_path: Path) -> None:
    with pytest.raises(CannotRun, match="cannot run no-such-program: No such file") as missing:
        run_program(["no-such-program"], {})
    (tmp_path / "plain").write_text("")
    with pytest.raises(CannotRun, match="Permission denied") as plain:
        run_program([str(tmp_path / "plain")], {})
    assert plain.value.hint == "check its name; if it is there, check its permissions and its first line"
    assert (missing.value.exit_code, plain.value.exit_code) == (127, 126)


# ---- in a group of its own -------------------------------------------------------------------------------------------


def test_a_program_that_ends_in_time_is_left_alone() -> None:
    assert run_group(["sh", "-c", "exit 9"], {}, limit=60) == 9
    with pytest.raises(CannotRun):
        run_group(["no-such-program"], {}, limit=60)


# A program that writes its child's process id once both run. A shell would not hear SIGTERM while it waits.
FAMILY = """
import os, signal, subprocess, sys
signal.signal(signal.SIGTERM, {handler})
child = subprocess.Popen([sys.executable, "-c", {child!r}], stdout=subprocess.PIPE)
child.stdout.readline()
open({pipe!r}, "w").write(str(child.pid))
signal.pause()
"""
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('begun', flush=True); signal.pause()"
MEEK = "import signal; print('begun', flush=True); signal.pause()"


@pytest.mark.parametrize(("handler", "child"), [("signal.SIG_DFL", MEEK), ("signal.SIG_IGN", STUBBORN)])
def test_a_program_whose_time_is_over_is_ended_with_all_that_it_started(
    handler: str, child: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(pipe := tmp_path / "child")
    children, wait = [], subprocess.Popen.wait

    def begun(process: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        """Start the time limit when both have begun, however busy the machine is."""
        if timeout:
            children.append(pipe.read_text())
        return wait(process, timeout)

    monkeypatch.setattr(program, "_GRACE_SECONDS", 0.1)
    monkeypatch.setattr(subprocess.Popen, "wait", begun)
    code = FAMILY.format(handler=handler, child=child, pipe=str(pipe))
    with pytest.raises(OutOfTime, match=r"cannot finish .* within 0.1 s: devenv ended it") as error:
        pytest.fail(f"it ended by itself, with {run_group([sys.executable, '-c', code], {}, limit=0.1)}")
    assert error.value.exit_code == 124
    while _runs(children[0]):
        time.sleep(0.01)  # The kernel takes its time.


def _runs(pid: str) -> bool:
    """Return whether a process runs. Without an init to collect it, a dead one stays listed as a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_go_to_all_of_the_group(number: signal.Signals) -> None:
    inner = f"""
import signal
signal.signal({number.value}, lambda *_: None)
# A handler would not run if the signal came right before a blocking call.
signal.pthread_sigmask(signal.SIG_BLOCK, [{number.value}])
print("begun", flush=True)
exit(4 if signal.sigwait([{number.value}]) == {number.value} else 3)
"""
    outer = f"""
import sys
from devenv.testing.program import run_group
shell = ["sh", "-c", 'trap "wait; exit 5" {number.value}; "$@" & wait', "sh"]
sys.exit(run_group([*shell, sys.executable, "-c", {inner!r}], {{}}))
"""
    command = [sys.executable, "-c", outer]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as run:
        assert run.stdout and run.stdout.readline() == "begun\n"
        run.send_signal(number)
        assert run.wait() == 5
        # The output ends once no process has it open, so the inner program is gone, too.
        assert run.stdout.read() == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    "code", [f"import sys, subprocess; subprocess.run([sys.executable, '-c', {STUBBORN!r}])", STUBBORN]
)
def test_what_does_not_hear_that_it_is_to_end_is_ended_all_the_same(number: signal.Signals, code: str) -> None:
    stubborn = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n{code}"
    outer = f"""
import sys
from devenv.testing import program
program._GRACE_SECONDS = 0.1
sys.exit(program.run_group([sys.executable, "-c", {stubborn!r}], {{}}))
"""
    command = [sys.executable, "-c", outer]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as run:
        assert run.stdout and run.stdout.readline() == "begun\n"
        run.send_signal(number)
        assert run.wait() > 128
        assert run.stdout.read() == ""


def test_a_signal_that_asks_for_something_else_ends_nothing() -> None:
    inner = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
print("begun", flush=True)
print("heard" if signal.sigwait([signal.SIGUSR1]) == signal.SIGUSR1 else "something else", flush=True)
exit(int(input()))
"""
    outer = f"""
import sys
from devenv.testing import program
program._GRACE_SECONDS = 0
sys.exit(program.run_group([sys.executable, "-c", {inner!r}], {{}}))
"""
    command, pipe = [sys.executable, "-c", outer], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, start_new_session=True) as run:
        assert run.stdout and run.stdout.readline() == "begun\n"
        run.send_signal(signal.SIGUSR1)
        assert run.stdout.readline() == "heard\n"
        run.communicate("4\n")
        assert run.returncode == 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT, signal.SIGQUIT])
def test_signals_go_to_the_program_and_not_to_devenv(number: signal.Signals) -> None:
    inner = f"""
import signal
signal.signal({number.value}, lambda *_: None)
# A handler would not run if the signal came right before a blocking call.
signal.pthread_sigmask(signal.SIG_BLOCK, [{number.value}])
print("begun", flush=True)
exit(4 if signal.sigwait([{number.value}]) == {number.value} else 3)
"""
    outer = f"""
import signal, sys
from devenv.testing.program import run_program
# A shell's job in the background, which may run this test, ignores some.
signal.signal({number.value}, signal.SIG_DFL)
sys.exit(run_program([sys.executable, "-c", {inner!r}], {{}}))
"""
    # A new session has no terminal; a terminal's Ctrl-C would reach the program by itself.
    command = [sys.executable, "-c", outer]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as run:
        assert run.stdout and run.stdout.readline() == "begun\n"
        run.send_signal(number)
        assert run.wait() == 4


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("run", ["run_program", "run_group"])
def test_what_is_ignored_stays_so_for_the_program_too(number: signal.Signals, run: str) -> None:
    inner = f"import signal; exit(signal.getsignal({number.value}) is not signal.SIG_IGN)"
    outer = f"""
import signal, sys
from devenv.testing import program
signal.signal({number.value}, signal.SIG_IGN)
sys.exit(program.{run}([sys.executable, "-c", {inner!r}], {{}}))
"""
    assert subprocess.run([sys.executable, "-c", outer], check=False, start_new_session=True).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_a_key_reaches_the_program_once_since_the_terminal_sends_it(number: signal.Signals) -> None:
    sent: list[int] = []
    with program._signals_held(in_foreground=True) as received:
        received.to(sent.append)
        signal.raise_signal(number)
        signal.raise_signal(signal.SIGTERM)
    assert sent == [signal.SIGTERM]


def test_handlers_are_afterwards_what_they_were() -> None:
    before = signal.getsignal(signal.SIGTERM)
    run_program(["true"], {})
    assert signal.getsignal(signal.SIGTERM) == before
