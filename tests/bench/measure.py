"""Measure in rounds: take the same steps on each side in turn, and keep every duration."""

from __future__ import annotations

from collections.abc import Sequence

from tests.bench.engine import Engine
from tests.bench.process import Done, Failed
from tests.bench.readiness import up_watched
from tests.bench.samples import Samples, Tell, operations, ran
from tests.bench.sides import OTHER_DATABASES, SERVICES, Devenv, Side

HELP_RUNS, STATUS_RUNS = 20, 5
COMPONENT_RUNS, MANY = 5, 100
ONE_COMPONENT, MANY_COMPONENTS = "component, all four roles", f"{MANY} components"
FIRST_UP, SECOND_UP, GOLDEN_UP, KEPT_UP = "first up", "up again", "up, golden", "up, data kept"
ENGINE_DOWN = "removed by the engine"
STATUS, IMPORTS = "status", "imports alone"
STOP, START, DOWN, DOWN_VOLUMES, RESET = "stop", "start", "down", "down --volumes", "reset"


def on(database: str) -> str:
    """Return the name for the golden start of all four roles with another database than MySQL."""
    return f"up, golden, on {database}"


def alone(service: str) -> str:
    """Return the name for the golden start of one service with what it needs."""
    return f"up {service}, golden"


# ---- rounds of both sides ------------------------------------------------------------------------------------------


def measure_rounds(sides: Sequence[Side], rounds: int, engine: Engine, samples: Samples, tell: Tell) -> None:
    """Run all rounds. The side that goes first changes from round to round."""
    for number in range(rounds):
        tell(f"round {number + 1} of {rounds}")
        for side in sides if number % 2 == 0 else reversed(sides):
            if isinstance(side, Devenv):
                side.forget_golden(engine)
            _common_steps(side, samples, engine, tell)
            if isinstance(side, Devenv):
                _golden_steps(side, samples, engine, tell)


def _common_steps(side: Side, samples: Samples, engine: Engine, tell: Tell) -> None:
    """Measure what both sides can do. devenv's first `up` finds no golden state, and keeps one."""
    first = side.up()
    if isinstance(side, Devenv) and ran(operations(first), "fill"):
        raise Failed("cannot measure a first up: golden states were there all the same")
    samples.note(FIRST_UP, side.name, first, tell)
    samples.note(SECOND_UP, side.name, side.up(), tell)
    _look(side, samples, engine, tell)
    samples.note(STOP, side.name, side.stop(), tell)
    samples.note(START, side.name, side.start(), tell)
    samples.note(DOWN, side.name, side.down(), tell)
    samples.note(KEPT_UP, side.name, side.up(), tell)
    samples.note(DOWN_VOLUMES, side.name, side.down(volumes=True), tell)


def _golden_steps(side: Devenv, samples: Samples, engine: Engine, tell: Tell) -> None:
    """Measure what needs the golden state of the first `up`."""
    done = _golden(up_watched(side, engine, samples, tell))
    if not ran(operations(done), "fill"):
        raise Failed("cannot measure a golden up: devenv did not start from golden states")
    samples.note(GOLDEN_UP, side.name, done, tell)
    samples.note(RESET, side.name, side.reset(), tell)
    samples.note(DOWN_VOLUMES, side.name, side.down(volumes=True), tell)


def _golden(done: Done) -> Done:
    """Check that a golden start kept nothing: all that services keep was there. Some keep nothing at all."""
    if ran(operations(done), "keep"):
        raise Failed("cannot measure a golden up: devenv kept golden states, so they were not there before")
    return done


def _look(side: Side, samples: Samples, engine: Engine, tell: Tell) -> None:
    """Measure memory, and times of commands, while everything runs."""
    megabytes = engine.memory(side.label).rss
    samples.add("memory", side.name, megabytes)
    tell(f"  {side.name:<8} {'memory':<24} {megabytes:6.0f} MB")
    if isinstance(side, Devenv):
        for _ in range(STATUS_RUNS):
            samples.add(STATUS, side.name, side.status().seconds * 1000)
            samples.add(IMPORTS, side.name, side.imports().seconds * 1000)


# ---- devenv alone --------------------------------------------------------------------------------------------------


def measure_alone(side: Devenv, rounds: int, engine: Engine, samples: Samples, tell: Tell) -> None:
    """Measure the golden start of each service with what it needs, and in turn that of all four.

    Also measure it for all four with other databases, and how long the engine alone takes to remove the four.
    """
    choices: dict[str, tuple[str, ...]] = {GOLDEN_UP: (), **{alone(service): (service,) for service in SERVICES}}
    choices |= {on(database): (database, *SERVICES[1:]) for database in OTHER_DATABASES}
    for services in choices.values():
        have_golden(side, *services)
    for _ in range(rounds):
        for name, services in choices.items():
            done = _golden(side.up(*services))
            samples.note(name, side.name, done, tell)
            if not services:
                samples.add(ENGINE_DOWN, side.name, seconds := engine.remove_at_once(side.label))
                tell(f"  {side.name:<8} {ENGINE_DOWN:<24} {seconds:6.2f} s")
            side.down(volumes=True)


def have_golden(side: Devenv, *services: str) -> None:
    """Create golden states of these services together: a state also depends on the services that need it."""
    side.up(*services)
    side.down(volumes=True)


def measure_components(side: Devenv, samples: Samples, tell: Tell) -> None:
    """Measure how long running services take to give components their parts, all four roles together."""
    side.components([])
    for number in range(COMPONENT_RUNS):
        # One more each time: a drop beside it would count, too.
        done = side.components([f"one{i}" for i in range(number + 1)])
        samples.add(ONE_COMPONENT, side.name, _provisioning(done) * 1000)
    tell(f"  {side.name:<8} {'component':<24} {samples.median(ONE_COMPONENT, side.name):6.0f} ms")
    side.components([])
    samples.add(MANY_COMPONENTS, side.name, _provisioning(side.components([f"c{i}" for i in range(MANY)])))
    tell(f"  {side.name:<8} {MANY_COMPONENTS:<24} {samples.median(MANY_COMPONENTS, side.name):6.2f} s")
    side.down(volumes=True)
    side.without_components()


def _provisioning(done: Done) -> float:
    """Return the seconds from the first begin to the last end, without those in which no provisioning ran."""
    spans = [(op["began"], op["ended"]) for op in operations(done) if op["action"] == "provision"]
    total, reached = 0.0, 0.0
    for began, ended in sorted(spans):
        total += max(0.0, ended - max(began, reached))
        reached = max(reached, ended)
    return total


def measure_help(side: Devenv, samples: Samples, tell: Tell) -> None:
    """Measure `devenv --help` while nothing else runs; the first run only warms the disk's cache."""
    side.help()
    for _ in range(HELP_RUNS):
        samples.add("--help", side.name, side.help().seconds * 1000)
    tell(f"  {side.name:<8} {'--help':<24} {samples.median('--help', side.name):6.0f} ms")
