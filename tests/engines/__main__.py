"""Run devenv's tests on every engine that people have: `python -m tests.engines [ENGINE…]`.

tests/engines/other-engine starts each engine. It gets the images of this host's own engine, and is removed after its
tests.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from devenv.engine.connection import Connection
from devenv.engine.docker import Docker
from devenv.spec.catalogue import load_catalogue
from tests.engines import page
from tests.engines.page import Outcome, Row

_SCRIPT = str(Path(__file__).with_name("other-engine"))
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
_FOLDER = Path(os.environ.get("OTHER_ENGINES") or _CACHE / "devenv-test-engines")
_INTERRUPTED = 130
# What runs on each engine: the name of a column, and the module of its tests.
_AREAS = {
    "contract": "test_engines",
    "lifecycle, logs, exec": "test_lifecycle",
    "snapshots": "test_snapshot",
    "golden states": "test_golden",
    "runs": "test_run",
    "ls, gc": "test_gone",
    "images": "test_images",
}
_BUILD = "a build"
# The images of the host's engine.
_ARCHIVE = "images.tar"
# What other-engine needs of the host.
_PROGRAMS = ("mmdebstrap", "ip", "nsenter", "unshare", "curl")
# What `make test-long` runs, in less than five minutes: the contract, and a story of all services, on the engines that
# differ most.
_FAST_ENGINES = ("docker-28-containerd", "podman-5.8")
_FAST = (
    "test_engines.py",
    "test_lifecycle.py::test_wait_and_logs_and_exec_reach_the_running_services",
    "test_lifecycle.py::test_exec_on_a_terminal_is_a_terminal_inside",
    "test_lifecycle.py::test_following_logs_merges_services_until_they_end",
    "test_snapshot.py::test_all_services_are_saved_together_and_restored_together",
)
# So many engines run side by side: one runs tests while another starts, gets its images, builds or ends.
_SIDE_BY_SIDE = 2
# Together as in `make test`: the tests wait more than they work.
_PROCESSES = max(1, int(os.environ.get("PROCESSES", "4")) // _SIDE_BY_SIDE)
_SPREAD = ("--numprocesses", str(_PROCESSES), "--dist", "loadgroup")
# Not those that take long, nor those whose outcome is the same on any engine.
_CHOSEN = ("-m", "not long and not anywhere")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tests on each engine, show the table, write what was asked for; return 1 if anything failed."""
    names = subprocess.run([_SCRIPT, "names"], stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    options = _parse(names, arguments)
    if lacks := missing():
        _tell(f"cannot start other engines: {lacks}")
        # As in the tests of other parts: a CI has what is needed, or somebody has to hear of it.
        return 1 if options.page or options.engines or os.environ.get("CI") else 0
    chosen = options.engines or (_FAST_ENGINES if options.fast else names)
    areas = [*_AREAS, _BUILD]

    def keep(row: Row) -> None:
        if options.page:
            page.write(options.page, [row], areas, names)

    try:
        rows = asyncio.run(_on_each(chosen, options.fast, keep))
    except (KeyboardInterrupt, asyncio.CancelledError):
        _tell("interrupted")
        return _INTERRUPTED
    except subprocess.CalledProcessError as error:
        _tell(f"cannot save the images of this host's engine: {_last_line(error)}")
        return 1
    print(page.table(rows, areas))
    if options.junitxml:
        options.junitxml.write_text(page.as_junit(rows), encoding="utf-8")
    failed = [f"{row.name}: {row.fault}" for row in rows if row.fault]
    failed += [f"{row.name}: {test}" for row in rows for done in row.outcomes.values() for test in done.failed]
    for line in failed:
        _tell(line)
    return 1 if failed else 0


async def _on_each(names: Sequence[str], fast: bool, keep: Callable[[Row], None]) -> list[Row]:
    """Return what became of the tests on each engine; `keep` gets each as soon as it is known."""
    if task := asyncio.current_task():
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    free = asyncio.Semaphore(_SIDE_BY_SIDE)
    with tempfile.TemporaryDirectory(prefix="devenv-engines-") as temporary:
        folder = Path(temporary)
        await _save(folder / _ARCHIVE)

        async def one(name: str) -> Row:
            async with free:
                row = await _on(name, fast, folder)
            keep(row)
            return row

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(name)) for name in names]
        return [task.result() for task in tasks]


async def _on(name: str, fast: bool, folder: Path) -> Row:
    """Return what became of the tests on an engine, which gets its images from the archive in `folder`."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    outcomes: dict[str, Outcome] = {}
    try:
        async with _started(name) as version:
            _tell(f"{name}: {version}")
            await _ran(*_inside(name), "-m", "devenv", "images", "load", str(folder / _ARCHIVE))
            tests = _FAST if fast else [f"{module}.py" for module in _AREAS.values()]
            outcomes |= await _tested(name, folder / f"{name}.xml", _AREAS, *tests, *_CHOSEN, *_SPREAD)
            if not fast:
                build = ("test_engines.py", "-k", "built_of_packages")
                outcomes |= await _tested(name, folder / f"{name}-build.xml", {_BUILD: "test_engines"}, *build)
            return Row(name, version, outcomes, today)
    except subprocess.CalledProcessError as error:
        _tell(f"{name}: {(fault := _last_line(error))}")
        return Row(name, "", outcomes, today, fault)


async def _tested(name: str, report: Path, areas: Mapping[str, str], *tests: str) -> dict[str, Outcome]:
    """Run tests where they find the engine; return the outcome of each area."""
    files = [f"tests/integration/{one}" if ".py" in one else one for one in tests]
    options = ("-q", "--timeout", "600", "--junitxml", str(report))
    told = await _ran(*_inside(name), "-m", "pytest", *options, *files, check=False)
    outcomes = page.read_report(report, areas)
    for area, outcome in outcomes.items():
        _tell(f"{name}: {area}: {outcome}")
    if any(outcome.failed for outcome in outcomes.values()):
        _tell(told)
    return outcomes


@asynccontextmanager
async def _started(name: str) -> AsyncIterator[str]:
    """Start an engine; lend its version in its own words, and end it afterwards."""
    try:
        await _ran(_SCRIPT, "start", name)
    except asyncio.CancelledError:
        await _ran(_SCRIPT, "stop", name)
        raise
    # One that does not start removes what it began, and leaves one that runs already for somebody else.
    try:
        yield _version(name)
    finally:
        await _ran(_SCRIPT, "stop", name)


def _version(name: str) -> str:
    connection = Connection(f"unix://{_FOLDER / name}/sock/engine.sock", "DOCKER_HOST")
    about = Docker(connection).about()
    store = " with containerd's store" * ("containerd" in str(connection.client.ask("GET", "/info")["DriverStatus"]))
    return f"{about.name} {about.version}, API {about.api}{store}"


def missing() -> str:
    """Return why this host cannot have other engines; empty if it can."""
    programs = ", ".join(f"no {name}" for name in _PROGRAMS if not shutil.which(name))
    return programs if os.geteuid() == 0 else "only root may"


async def _save(archive: Path) -> None:
    """Write the images of all services into a file, from the host's own engine; build those that are missing."""
    for verb, file in (("build", ()), ("save", (str(archive),))):
        await _ran(sys.executable, "-m", "devenv", "images", verb, *file, *load_catalogue())


def _inside(name: str) -> tuple[str, ...]:
    """Return the command that runs Python where it finds the engine."""
    return (_SCRIPT, "run", name, sys.executable)


async def _ran(*command: str, check: bool = True) -> str:
    """Run a program, and return what it printed; end it if this is cancelled. Raises CalledProcessError."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    try:
        told, reported = (text.decode(errors="replace") for text in await process.communicate())
    except asyncio.CancelledError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    if check and process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, told, reported)
    return told


def _last_line(error: subprocess.CalledProcessError) -> str:
    """Return the last thing that a program said before it failed."""
    return str(error.stderr.strip() or error).splitlines()[-1]


def _parse(names: Sequence[str], arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.engines", description=__doc__)
    parser.add_argument("engines", nargs="*", metavar="ENGINE", help=f"all without one: {', '.join(names)}")
    parser.add_argument("--fast", action="store_true", help="what takes less than five minutes")
    parser.add_argument("--page", type=Path, help="write the results into the table of this page")
    parser.add_argument("--junitxml", type=Path, help="write the numbers of tests into this file")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.engines if name not in names]:
        parser.error(f"there is no engine {', '.join(unknown)}")
    return options


def _tell(line: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
