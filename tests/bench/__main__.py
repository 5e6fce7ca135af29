"""The bench from end to end: `python -m tests.bench [--rounds N] [--output FOLDER]`."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from tests.bench import machine, pages
from tests.bench.engine import Engine
from tests.bench.measure import Samples, measure, measure_components, measure_help
from tests.bench.process import Failed
from tests.bench.rows import make_rows
from tests.bench.sides import COMPOSE_VARIABLE, Compose, Devenv, Side, find_compose

_DOCS = Path(__file__).resolve().parents[2] / "docs"
_INTERRUPTED = 130


def main() -> int:
    """Measure, write, show. A missed target is said, and is no failure: a bench is not a test."""
    options = _options()
    _interruptible()
    try:
        with tempfile.TemporaryDirectory(prefix="devenv-bench-") as folder:
            report = _bench(Path(folder), options.rounds)
    except KeyboardInterrupt:
        _tell("interrupted; nothing was written")
        return _INTERRUPTED
    except Failed as error:
        _tell(str(error))
        return 1
    for path in pages.write(report, options.output):
        _tell(f"wrote {path.name}")
    pages.show(report, Console(width=80, highlight=False))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="devenv against docker compose")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="how often each side runs (default: 5)")
    parser.add_argument("--output", type=Path, default=_DOCS, metavar="FOLDER", help="where to write (default: docs)")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds needs at least 1")
    return options


def _bench(folder: Path, rounds: int) -> pages.Report:
    about, engine, devenv = machine.machine(), Engine(), Devenv(folder)
    program, compose_version = find_compose()
    if not program:
        _tell(f"no Compose v2 here, so no peer; {COMPOSE_VARIABLE} can name one")
    _tell("images")
    images = devenv.prepare()
    base = images.pop("base")
    sides: list[Side] = [devenv, *([Compose(program, images)] if program else [])]
    with _cleaned_up(sides, engine):
        samples = measure(sides, rounds, engine, _tell)
        measure_components(devenv, samples, _tell)
    measure_help(devenv, samples, _tell)
    peer = f"docker compose {compose_version}" if program else ""
    versions = {"devenv": devenv.version(), "python": sys.version.split()[0], "engine": engine.version()}
    if program:
        versions["docker compose"] = compose_version
    return _report(about, versions, rounds, samples, engine.size(base, images.values()), peer)


def _report(
    about: dict[str, str | int | float],
    versions: dict[str, str],
    rounds: int,
    samples: Samples,
    images_mb: float,
    peer: str,
) -> pages.Report:
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    rows = make_rows(samples, images_mb, peer)
    return pages.Report(date, about, versions, rounds, rows, samples.typical_start())


@contextlib.contextmanager
def _cleaned_up(sides: Sequence[Side], engine: Engine) -> Iterator[None]:
    """Leave nothing on the engine, however the bench ends; further interrupts wait until that is done."""
    try:
        yield
    except BaseException:
        _tell("cleaning up")
        raise
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        for side in sides:
            with contextlib.suppress(Failed):
                side.down(volumes=True)
            for left in engine.sweep(side.label):
                _tell(f"removed {left}, which {side.name} had left behind")
        _interruptible()


def _interruptible() -> None:
    """Let both signals raise KeyboardInterrupt, even where a shell started this with SIGINT ignored."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
