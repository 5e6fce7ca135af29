"""Measure the same profile and the same tests in every place where services run: engines here and elsewhere, attached.

A place that this machine cannot have is reported, with the reason.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from tests.bench.measure import DOWN_VOLUMES, FIRST_UP, GOLDEN_UP, SECOND_UP, have_golden
from tests.bench.others import Missing
from tests.bench.process import Done, Failed, run, undisturbed
from tests.bench.samples import Samples, Tell, operations, ran
from tests.bench.sides import Devenv
from tests.clusters.cluster import BIN, BUILD, built, running, until

TESTS = "40 tests"
STEPS = (FIRST_UP, GOLDEN_UP, SECOND_UP, TESTS, DOWN_VOLUMES)
_SUITE = Path(__file__).with_name("places_suite.py")
_PROCESSES = 4
_ROOT = Path(__file__).parents[1]
_OTHER_ENGINE = str(_ROOT / "engines" / "other-engine")
_PODMAN = "podman-5.4"
# In MB, of that host's disk: room for the images of all services, their golden states and their data.
_DISK = 4000
_NAMESPACE = "devenv-bench"
# Nobody listens there: what needs an engine fails.
_NO_ENGINE = {"DOCKER_HOST": "unix:///nowhere/docker.sock"}


@dataclass(frozen=True)
class Place:
    """Where services run: its name, the variables that lead devenv there, and the command that runs others there."""

    name: str
    variables: Mapping[str, str] = field(default_factory=dict)
    through: tuple[str, ...] = ()


@dataclass(frozen=True)
class Images:
    """The images of all services: their references on this host's engine, and a file with all of them."""

    references: Sequence[str]
    archive: Path


@dataclass(frozen=True)
class Times:
    """The median seconds of each step that was measured in a place."""

    place: str
    seconds: Mapping[str, float]


# Makes a place in a folder of its own, and removes it afterwards.
Opener = Callable[[Path, Images], AbstractContextManager[Place]]


def measure_places(
    side: Devenv, references: Sequence[str], rounds: int, samples: Samples, tell: Tell
) -> tuple[list[Times], list[Missing]]:
    """Measure one place after the other. `side` has the images, which `references` name, on this host's engine."""
    images = Images(references, side.folder / "images.tar")
    side.run("images", "save", str(images.archive))
    times, missing = [], []
    for name, opener in _OPENERS.items():
        tell(f"  {name}")
        (folder := side.folder / name.replace(" ", "-")).mkdir()
        try:
            with _opened(opener, folder, images) as place:
                _measure(Devenv(folder, variables=place.variables, through=place.through), place, rounds, samples, tell)
                medians = {step: samples.median(step, place.name) for step in STEPS}
                times.append(Times(place.name, {step: found for step, found in medians.items() if found is not None}))
        # What a helper of tests lacks, it skips the test for; what fails there is an assertion.
        except (Failed, AssertionError, OSError, pytest.skip.Exception, pytest.fail.Exception) as error:
            missing.append(Missing(name, _reason(error)))
            tell(f"  {name}: not measured: {error}")
    images.archive.unlink()
    return times, missing


def _reason(error: BaseException) -> str:
    """Return the program's own line for the failure, which may have a hint below it; else the last line."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return next((line for line in reversed(lines) if line.startswith("cannot ")), lines[-1])


@contextmanager
def _opened(opener: Opener, folder: Path, images: Images) -> Iterator[Place]:
    """Lend a place. Nothing interrupts its end: it has engines, networks and disks of its own."""
    with ExitStack() as stack:
        try:
            yield stack.enter_context(opener(folder, images))
        finally:
            with undisturbed():
                stack.close()


def _measure(side: Devenv, place: Place, rounds: int, samples: Samples, tell: Tell) -> None:
    def note(step: str, done: Done) -> None:
        samples.add(step, place.name, done.seconds)
        tell(f"  {place.name:<18} {step:<14} {done.seconds:6.2f} s")

    try:
        have_golden(side)
        for _ in range(rounds):
            note(FIRST_UP, side.first_up())
            note(SECOND_UP, side.up())
            note(TESTS, side.tests(_SUITE, _PROCESSES))
            note(DOWN_VOLUMES, side.down(volumes=True))
            # Where devenv keeps no golden state, this is a first `up` again.
            if ran(operations(golden := side.up()), "fill"):
                note(GOLDEN_UP, golden)
            side.down(volumes=True)
    finally:
        with undisturbed(), suppress(Failed):
            side.down(volumes=True)


# ---- places ---------------------------------------------------------------------------------------------------------


@contextmanager
def _docker(_: Path, __: Images) -> Iterator[Place]:
    yield Place("Docker")


@contextmanager
def _podman(folder: Path, images: Images) -> Iterator[Place]:
    version = run([_OTHER_ENGINE, "start", _PODMAN], {}).output.split()[0]
    try:
        place = Place(f"Podman {version}", through=(_OTHER_ENGINE, "run", _PODMAN))
        _load(folder, place, images)
        yield place
    finally:
        run([_OTHER_ENGINE, "stop", _PODMAN], {})


@contextmanager
def _ssh(folder: Path, images: Images) -> Iterator[Place]:
    # These helpers of tests find each other by their bare names.
    sys.path.append(str(_ROOT / "integration"))
    from ssh_host import ssh_host

    with ssh_host(folder, _DISK) as host:
        place = Place("Docker over ssh", host.environ)
        _load(folder, place, images)
        yield place


@contextmanager
def _attached(folder: Path, _: Images) -> Iterator[Place]:
    """Let another environment be the servers that somebody else runs."""
    server = Devenv(folder / "owner", "server")
    try:
        server.up()
        told = yaml.safe_load(server.run("export", "compose").output)["x-devenv-attach"]
        yield Place("attached", {**_NO_ENGINE, **told})
    finally:
        server.down(volumes=True)


@contextmanager
def _kubernetes(folder: Path, images: Images) -> Iterator[Place]:
    if not built():
        raise Failed(BUILD)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    with running(folder / "cluster", port) as cluster:
        version = json.loads(cluster.kubectl("get", "--raw=/version"))["gitVersion"].partition("+")[0]
        cluster.kubectl("create", "namespace", _NAMESPACE)
        states = _golden_for_pods(Devenv(folder / "here"))
        cluster.load([*images.references, *states])
        # Nodes tell of new images after a while.
        until(lambda: all(state in json.dumps(cluster.get("nodes")) for state in states))
        variables = {
            "KUBECONFIG": str(cluster.kubeconfig),
            "DEVENV_ENGINE": "kubernetes",
            "DEVENV_KUBE_NAMESPACE": _NAMESPACE,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        }
        yield Place(f"Kubernetes {version.lstrip('v')}", variables)


def _golden_for_pods(here: Devenv) -> list[str]:
    """Return images of this host's engine from which pods copy golden states."""
    try:
        here.up()
        return list(json.loads(here.run("images", "build", "--golden", "--format", "json").output)["golden"])
    finally:
        here.down(volumes=True)


def _load(folder: Path, place: Place, images: Images) -> None:
    Devenv(folder, variables=place.variables, through=place.through).run("images", "load", str(images.archive))


_OPENERS: Mapping[str, Opener] = {
    "Docker": _docker,
    "Podman": _podman,
    "Docker over ssh": _ssh,
    "attached": _attached,
    "Kubernetes": _kubernetes,
}
