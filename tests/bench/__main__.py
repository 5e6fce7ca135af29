"""Run the bench from end to end: `python -m tests.bench [--rounds N] [--only PART] [--output FOLDER]`."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import signal
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from tests.bench import machine, pages, plot
from tests.bench.engine import Engine
from tests.bench.measure import measure_alone, measure_components, measure_help, measure_rounds
from tests.bench.others import PYTHONS, Driver, Missing, Task, find, measure_peers
from tests.bench.places import Times, measure_places
from tests.bench.process import Failed, undisturbed
from tests.bench.rows import known, limits, make_table, other_rows
from tests.bench.samples import Samples
from tests.bench.scale import Point, measure_scale, siblings
from tests.bench.sides import COMPOSE_VARIABLE, Compose, Devenv, Side, find_compose
from tests.bench.snapshots import measure_snapshots
from tests.bench.suite import measure_suite

# In the order in which the bench measures them.
PARTS = ("rounds", "alone", "components", "suite", "snapshots", "scale", "others", "places", "help")
# These alone, into a folder with earlier pages, replace what those say of places.
PLACES = ("places",)
_DOCS = Path(__file__).resolve().parents[2] / "docs"
_INTERRUPTED = 130
# Eight environments together take half a minute: more rounds than these are not worth their time.
_MOST_SCALE_ROUNDS = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write, show. The bench reports a missed target and does not fail: a bench is not a test."""
    options = parse(arguments)
    _interruptible()
    try:
        if options.output and "scale" in options.parts:
            plot.check()
        with tempfile.TemporaryDirectory(prefix="devenv-bench-") as folder:
            report = _Bench(Path(folder), options.rounds, options.parts).run()
    except KeyboardInterrupt:
        _tell("interrupted; nothing was written")
        return _INTERRUPTED
    except Failed as error:
        _tell(str(error))
        return 1
    write = pages.write_places if options.parts == PLACES else pages.write
    for path in write(report, options.output) if options.output else ():
        _tell(f"wrote {path.name}")
    pages.show(report, Console(width=80, highlight=False))
    return 0


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options. `parts` is what to measure; `output` is where to write, None for a part without a folder."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="devenv against docker compose")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="how often each side runs (default: 3)")
    parser.add_argument(
        "--only",
        action="append",
        choices=PARTS,
        metavar="PART",
        help=f"measure this part only, and write nothing unless --output is given; repeatable: {', '.join(PARTS)}",
    )
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where to write (default: docs)")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds needs at least 1")
    options.parts = tuple(part for part in PARTS if not options.only or part in options.only)
    complete = options.parts == PARTS
    if not complete and options.parts != PLACES and options.output and options.output.resolve() == _DOCS:
        parser.error("--output docs needs all parts, or places alone")
    if complete:
        options.output = options.output or _DOCS
    return options


class _Bench:
    """One run of the bench, or of parts of it."""

    def __init__(self, folder: Path, rounds: int, parts: Collection[str]) -> None:
        self._rounds, self._parts = rounds, parts
        self._about, self._engine, self._devenv = machine.machine(), Engine(), Devenv(folder)
        self._program, self._compose_version = find_compose()
        self._samples = Samples()
        self._points: list[Point] = []
        self._tasks: list[Task] = []
        self._missing: list[Missing] = []
        self._places: list[Times] = []
        self._absent: list[Missing] = []
        self._token = f"{os.getpid()}"

    def run(self) -> pages.Report:
        if not self._program:
            _tell(f"no Compose v2 here, so no peer; {COMPOSE_VARIABLE} can name one")
        _tell("images")
        images = self._devenv.prepare()
        base = images.pop("base")
        sides: list[Side] = [self._devenv]
        if self._program:
            sides.append(Compose(self._program, images))
        environments = siblings(self._devenv) if "scale" in self._parts else []
        with _cleaned_up([*sides, *environments], self._engine, self._token):
            self._measure(sides, environments, images)
        return self._report(self._engine.size(base, images.values()))

    def _measure(self, sides: Sequence[Side], environments: Sequence[Devenv], images: Mapping[str, str]) -> None:
        devenv, samples, rounds = self._devenv, self._samples, self._rounds
        parts = {
            "rounds": lambda: measure_rounds(sides, rounds, self._engine, samples, _tell),
            "alone": lambda: measure_alone(devenv, rounds, self._engine, samples, _tell),
            "components": lambda: measure_components(devenv, samples, _tell),
            "suite": lambda: measure_suite(devenv, samples, _tell),
            "snapshots": lambda: measure_snapshots(devenv, rounds, self._engine, samples, _tell),
            "scale": lambda: self._measure_scale(environments),
            "others": lambda: self._measure_others(images),
            "places": lambda: self._measure_places(images),
            "help": lambda: measure_help(devenv, samples, _tell),
        }
        for name, part in parts.items():
            if name in self._parts:
                _tell(name)
                part()

    def _measure_scale(self, environments: Sequence[Devenv]) -> None:
        rounds = min(self._rounds, _MOST_SCALE_ROUNDS)
        self._points = measure_scale(environments, rounds, self._engine, _tell)

    def _measure_others(self, images: Mapping[str, str]) -> None:
        drivers = {peer: Driver(peer, images, self._token) for peer in PYTHONS}
        self._tasks, self._missing = find(drivers)
        self._missing += measure_peers(self._devenv, drivers, self._tasks, self._rounds, self._samples, _tell)

    def _measure_places(self, images: Mapping[str, str]) -> None:
        references = [*images.values()]
        self._places, self._absent = measure_places(self._devenv, references, self._rounds, self._samples, _tell)

    def _report(self, images_mb: float) -> pages.Report:
        devenv, samples = self._devenv, self._samples
        versions = {"devenv": devenv.version(), "python": sys.version.split()[0], "engine": self._engine.version()}
        if self._program:
            versions["docker compose"] = self._compose_version
        return pages.Report(
            date=datetime.datetime.now(datetime.UTC).date().isoformat(),
            machine=self._about,
            versions=versions,
            rounds=self._rounds,
            table=make_table(samples, images_mb, f"docker compose {self._compose_version}" if self._program else ""),
            profiles={what: run for what in list(samples.profiles) if (run := samples.typical(what))},
            known=known(samples),
            limits=limits(samples, int(self._about["cores"])),
            scale=self._points,
            others=other_rows(samples, self._tasks),
            missing=self._missing,
            places=self._places,
            absent=self._absent,
        )


@contextlib.contextmanager
def _cleaned_up(sides: Sequence[Side], engine: Engine, token: str) -> Iterator[None]:
    """Leave nothing on the engine, however the bench ends; further interrupts wait until that is done."""
    try:
        yield
    except BaseException:
        _tell("cleaning up")
        raise
    finally:
        with undisturbed():
            for side in sides:
                with contextlib.suppress(Failed):
                    side.down(volumes=True)
                _sweep(engine, side.label, side.name)
            _sweep(engine, f"devenv.bench={token}", "testcontainers")


def _sweep(engine: Engine, label: str, whose: str) -> None:
    for left in engine.sweep(label):
        _tell(f"removed {left}, which {whose} had left behind")


def _interruptible() -> None:
    """Let both signals raise KeyboardInterrupt, even where a shell started this with SIGINT ignored."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
