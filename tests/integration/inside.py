"""Run devenv's command line in the test's own process as if in a new one: it takes a tenth of the time."""

from __future__ import annotations

import gc
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import _lru_cache_wrapper
from pathlib import Path
from typing import IO
from unittest import mock

from devenv.cli.main import main
from devenv.spec.catalogue import data_folder

REPOSITORY = Path(__file__).parents[2]
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_inside(arguments: Sequence[str], stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run one command of devenv's; return its exit code and all that it printed."""
    return run_program(lambda: main(args=[*arguments], prog_name="devenv"), ["devenv", *arguments], stdin)


def run_program(
    program: Callable[[], object], words: Sequence[str], stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a program that is called `words`; return its exit code and what it wrote, also to the descriptors."""
    assert threading.current_thread() is threading.main_thread(), "a thread needs a process: its folder is its own"
    with ExitStack() as stack:
        out, error = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(2))
        stack.enter_context(_as_at_the_start())
        stack.enter_context(_garbage_of_its_own())
        stack.enter_context(_warnings_as_usual())
        _forget()
        with _streams(stdin, out, error):
            code = _exit_code(program)
        told, reported = _text(out), _text(error)
    return subprocess.CompletedProcess([*words], code, told, reported)


@contextmanager
def _garbage_of_its_own() -> Iterator[None]:
    """Close what the command left open without a warning, as the end of a process does."""
    gc.freeze()
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
        gc.unfreeze()


@contextmanager
def _warnings_as_usual() -> Iterator[None]:
    """Print only the warnings that Python prints by default."""
    with warnings.catch_warnings():
        warnings.resetwarnings()
        for ignored in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", ignored)
        warnings.showwarning = _print_warning
        yield


def _print_warning(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object) -> None:
    print(warnings.formatwarning(message, category, filename, lineno), file=sys.stderr, end="")


def _forget() -> None:
    """Empty the caches of devenv's modules."""
    for name, module in list(sys.modules.items()):
        if name.startswith("devenv."):
            for one in vars(module).values():
                # A cache without a limit has a file's name as key, and the file may have changed; others have content.
                if isinstance(one, _lru_cache_wrapper) and one.cache_parameters()["maxsize"] is None:
                    one.cache_clear()


@contextmanager
def sources(checkout: Path) -> Iterator[None]:
    """Read compose/ and profiles/ from `checkout`, where a test may have changed files."""
    module = sys.modules[data_folder.__module__]
    assert module.__file__
    with mock.patch.object(module, "__file__", str(checkout / Path(module.__file__).relative_to(REPOSITORY))):
        yield


def _exit_code(program: Callable[[], object]) -> int:
    """Return the exit code that the process would have; print a traceback where Python would."""
    try:
        program()
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return ended.code or 0
        print(ended.code, file=sys.stderr)
        return 1
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def _text(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode(errors="surrogateescape").replace("\r\n", "\n")


@contextmanager
def surroundings(cwd: Path, environ: Mapping[str, str], umask: int) -> Iterator[None]:
    """Set the folder, the variables and the umask as for a new process; restore them afterwards."""
    folder, before = Path.cwd(), dict(os.environ)
    mask = os.umask(0)
    os.umask(mask if umask < 0 else umask)
    os.chdir(cwd)
    try:
        os.environ.clear()
        os.environ.update(environ)
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        os.chdir(folder)
        os.umask(mask)


@contextmanager
def _as_at_the_start() -> Iterator[None]:
    """Undo what a command changes in its process: signal handlers, garbage collection, logging."""
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    thresholds, log = gc.get_threshold(), logging.getLogger("devenv")
    level, logged = log.level, list(log.handlers)
    began = time.monotonic()
    try:
        with mock.patch("devenv.lifecycle.timing.process_began", lambda: began):
            yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        gc.set_threshold(*thresholds)
        log.setLevel(level)
        log.handlers[:] = logged


@contextmanager
def _streams(stdin: str, out: IO[bytes], error: IO[bytes]) -> Iterator[None]:
    """Redirect descriptors 0, 1 and 2, and Python's own names for them."""
    ends = os.pipe()
    writer = threading.Thread(target=_write, args=(ends[1], stdin.encode()), daemon=True)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    names = sys.stdin, sys.stdout, sys.stderr
    kept = [os.dup(number) for number in range(3)]
    try:
        for number, source in enumerate((ends[0], out.fileno(), error.fileno())):
            os.dup2(source, number)
        writer.start()
        with (
            open(0, encoding="utf-8", closefd=False) as sys.stdin,
            open(1, "w", encoding="utf-8", closefd=False) as sys.stdout,
            open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False) as sys.stderr,
        ):
            yield
    finally:
        sys.stdin, sys.stdout, sys.stderr = names
        os.close(ends[0])
        for number, descriptor in enumerate(kept):
            os.dup2(descriptor, number)
            os.close(descriptor)
        writer.join()


def _write(descriptor: int, data: bytes) -> None:
    """Write the data and close the descriptor; a command may ignore its input."""
    with open(descriptor, "wb", buffering=0) as stream:
        while data:
            try:
                data = data[stream.write(data) :]
            except BrokenPipeError:
                return
