"""Standard streams that the caller has closed, or that nobody can write to, do not change what a command does."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from devenv.cli import streams

DEVENV = [sys.executable, "-m", "devenv"]
# Reports a step as `up` does, and prints a result.
WORK = [
    sys.executable,
    "-c",
    """
import sys
from devenv.cli.streams import guard
guard()
from devenv.cli.progress import reporter
report = reporter(sys.stderr)
report.note("step")
print("done", flush=True)
report.note("step")
""",
]


@contextmanager
def full() -> Iterator[int]:
    """Open a file on a disk without room."""
    with Path("/dev/full").open("wb", buffering=0) as stream:
        yield stream.fileno()


@contextmanager
def left() -> Iterator[int]:
    """Open a pipe whose reader has gone."""
    read, write = os.pipe()
    os.close(read)
    yield write
    os.close(write)


@contextmanager
def gone() -> Iterator[int]:
    """Open a terminal that was closed."""
    leader, follower = pty.openpty()
    os.close(leader)
    yield follower
    os.close(follower)


UNREADABLE = pytest.mark.parametrize("opened", [full, left, gone], ids=lambda opened: opened.__name__)
Opened = Callable[[], "contextmanager[int]"]


def closed(numbers: str, command: list[str], output: Path) -> subprocess.CompletedProcess[str]:
    """Run a command with these standard streams closed; those that are open write to a file."""
    redirects = " ".join(f"{number}>&-" if number in numbers else f"{number}>>'{output}'" for number in "012")
    return subprocess.run(["sh", "-c", f'exec "$@" {redirects}', "sh", *command], check=False)


@pytest.mark.parametrize("numbers", ["0", "1", "2", "012"])
def test_a_command_does_the_same_with_closed_streams(numbers: str, tmp_path: Path) -> None:
    # It would ask an engine, and there is none.
    assert closed(numbers, [*DEVENV, "plan"], tmp_path / "output").returncode == 4
    assert closed(numbers, [*DEVENV, "snapshot", "list"], tmp_path / "output").returncode == 0


def test_no_socket_and_no_program_gets_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    code = f"""
import socket, subprocess
from devenv.cli.streams import guard
guard()
with socket.socket() as one:
    assert one.fileno() > 2
    # In parentheses: only they have another output, and $$ is the shell around them.
    script = "(for n in 0 1 2; do readlink /proc/$$/fd/$n; done >found)"
    subprocess.run(["sh", "-c", script], cwd={str(tmp_path)!r}, check=True)
"""
    assert closed("012", [sys.executable, "-c", code], tmp_path / "output").returncode == 0
    assert (tmp_path / "found").read_text().split() == ["/dev/null"] * 3


@UNREADABLE
def test_progress_that_nobody_can_read_is_lost_and_the_work_goes_on(opened: Opened) -> None:
    with opened() as stream:
        done = subprocess.run(WORK, stdout=subprocess.PIPE, stderr=stream, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n")


@UNREADABLE
def test_an_error_that_nobody_can_read_keeps_its_exit_code(opened: Opened) -> None:
    with opened() as stream:
        assert subprocess.run([*DEVENV, "help", "xyzzy"], stderr=stream, check=False).returncode == 2


@pytest.mark.parametrize("opened", [left, gone])
@pytest.mark.parametrize(
    "arguments", ["--help", "--version", "images list --help", "help", "help wiring", "snapshot list"]
)
def test_who_has_read_enough_makes_nothing_fail(arguments: str, opened: Opened) -> None:
    with opened() as stream:
        command = [*DEVENV, *arguments.split()]
        done = subprocess.run(command, stdout=stream, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_completion_for_a_shell_that_has_gone_makes_nothing_fail() -> None:
    code = "import sys; sys.argv[0] = 'devenv'; from devenv.__main__ import main; main()"
    with left() as stream:
        environ = {**os.environ, "_DEVENV_COMPLETE": "bash_source"}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=environ, stdout=stream, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", ["--help", "help wiring"])
def test_a_result_that_cannot_be_written_is_one_clear_line(arguments: str) -> None:
    with full() as stream:
        command = [*DEVENV, *arguments.split()]
        done = subprocess.run(command, stdout=stream, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["cannot write the output", "hint"]


def test_a_pipe_that_another_process_has_set_not_to_block_gets_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    taken = []
    monkeypatch.setattr("select.select", lambda *_: taken.append(os.read(read, 1 << 20)))
    with (
        os.fdopen(write, "wb", buffering=0) as whole,
        streams._text(streams._Output(write, "w", closefd=False), None) as text,
    ):
        filled = fill(whole)
        text.write("the rest")
    with os.fdopen(read, "rb") as pipe:
        assert b"".join([*taken, pipe.read()]) == filled + b"the rest"
    assert len(taken) == 1


def fill(pipe: io.RawIOBase) -> bytes:
    """Write to a pipe that does not block until it takes no more; return what it holds."""
    held = b""
    while count := pipe.write(b"x" * 4096):
        held += b"x" * count
    return held


def test_what_ctrl_c_interrupts_is_not_written_twice(tmp_path: Path) -> None:
    class Interrupted(streams._Error):
        """Interrupts, once, after the write and before anybody knows of it."""

        signals = iter([KeyboardInterrupt])

        def write(self, data: Any, /) -> int:
            written = super().write(data)
            for signal in self.signals:
                raise signal
            return written

    with (tmp_path / "log").open("w") as log:
        stream = streams._text(Interrupted(log.fileno(), "w", closefd=False), log)
        with pytest.raises(KeyboardInterrupt):
            print("waiting", file=stream, flush=True)
        print("interrupted", file=stream, flush=True)
    assert (tmp_path / "log").read_text() == "waiting\ninterrupted\n"
