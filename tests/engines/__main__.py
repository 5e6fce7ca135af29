"""Run devenv's tests on every engine that people have: `python -m tests.engines [ENGINE…]`.

Each engine is started by tests/engines/other-engine, one after the other, gets the images of this host's own engine,
and is removed after its tests.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
# As in `make test`: the tests wait more than they work.
_SPREAD = ("--numprocesses", os.environ.get("PROCESSES", "4"), "--dist", "loadgroup")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tests on each engine, show the table, write what was asked for; return 1 if anything failed."""
    names = _script("names").split()
    options = _parse(names, arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if missing := _missing():
        _tell(f"cannot start other engines: {missing}")
        # As in the tests of other parts: a CI has what is needed, or somebody has to hear of it.
        return 1 if options.page or options.engines or os.environ.get("CI") else 0
    chosen = options.engines or (_FAST_ENGINES if options.fast else names)
    areas = [*_AREAS, _BUILD]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="devenv-engines-") as folder:
        archive = Path(folder) / "images.tar"
        _save(archive)
        try:
            for name in chosen:
                rows.append(_on(name, options.fast, archive, Path(folder)))
                if options.page:
                    page.write(options.page, rows, areas, names)
        except KeyboardInterrupt:
            _tell("interrupted")
            return _INTERRUPTED
    print(page.table(rows, areas))
    if options.junitxml:
        options.junitxml.write_text(page.as_junit(rows), encoding="utf-8")
    failed = [f"{row.name}: {row.fault}" for row in rows if row.fault]
    failed += [f"{row.name}: {test}" for row in rows for done in row.outcomes.values() for test in done.failed]
    for line in failed:
        _tell(line)
    return 1 if failed else 0


def _on(name: str, fast: bool, archive: Path, folder: Path) -> Row:
    """Return what became of the tests on an engine."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    outcomes: dict[str, Outcome] = {}
    try:
        with _started(name) as version:
            _tell(f"{name}: {version}")
            _run(name, "-m", "devenv", "images", "load", str(archive))
            tests = _FAST if fast else [f"{module}.py" for module in _AREAS.values()]
            outcomes |= _tested(name, folder / f"{name}.xml", _AREAS, *tests, "-m", "not long", *_SPREAD)
            if not fast:
                build = ("test_engines.py", "-k", "built_of_packages")
                outcomes |= _tested(name, folder / f"{name}-build.xml", {_BUILD: "test_engines"}, *build)
            return Row(name, version, outcomes, today)
    except subprocess.CalledProcessError as error:
        fault = (error.stderr or str(error)).strip().splitlines()[-1]
        _tell(f"{name}: {fault}")
        return Row(name, "", outcomes, today, fault)


def _tested(name: str, report: Path, areas: Mapping[str, str], *tests: str) -> dict[str, Outcome]:
    """Run tests where they find the engine; return the outcome of each area."""
    files = [f"tests/integration/{one}" if ".py" in one else one for one in tests]
    told = _run(name, "-m", "pytest", "-q", "--timeout", "600", "--junitxml", str(report), *files, check=False)
    outcomes = page.read_report(report, areas)
    for area, outcome in outcomes.items():
        _tell(f"  {area}: {outcome}")
    if any(outcome.failed for outcome in outcomes.values()):
        _tell(told)
    return outcomes


@contextmanager
def _started(name: str) -> Iterator[str]:
    """Start an engine; lend its version in its own words, and end it afterwards."""
    try:
        _script("start", name)
        yield _version(name)
    finally:
        _script("stop", name)


def _version(name: str) -> str:
    connection = Connection(f"unix://{_FOLDER / name}/sock/engine.sock", "DOCKER_HOST")
    about = Docker(connection).about()
    store = " with containerd's store" * ("containerd" in str(connection.client.ask("GET", "/info")["DriverStatus"]))
    return f"{about.name} {about.version}, API {about.api}{store}"


def _missing() -> str:
    """Return why this host cannot have other engines; empty if it can."""
    programs = ", ".join(f"no {name}" for name in _PROGRAMS if not shutil.which(name))
    return programs if os.geteuid() == 0 else "only root may"


def _save(archive: Path) -> None:
    """Write the images of all services into a file, from the host's own engine; build those that are missing."""
    for verb, file in (("build", ()), ("save", (str(archive),))):
        command = [sys.executable, "-m", "devenv", "images", verb, *file, *load_catalogue()]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _run(name: str, *arguments: str, check: bool = True) -> str:
    """Run Python where it finds the engine; return what it printed."""
    done = subprocess.run(
        [_SCRIPT, "run", name, sys.executable, *arguments], capture_output=True, text=True, check=check
    )
    return done.stdout


def _script(*arguments: str) -> str:
    return subprocess.run([_SCRIPT, *arguments], stdout=subprocess.PIPE, text=True, check=True).stdout


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
