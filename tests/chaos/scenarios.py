"""Define what runs while a request goes wrong, and which data may be there afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from devenv.lifecycle.environment import Environment
from tests.chaos.checks import put_marks
from tests.chaos.files import OWN_FILE
from tests.chaos.proxy import FAULTS

_TWO = "profile: database\nservices: {etcd: {}}\ncomponents: [nova]\n"
_ETCD = "profile: coordination\ncomponents: [nova]\n"
_GUARDED = "profile: database\nservices: {etcd: {auth: true}}\ncomponents: [nova]\n"
_ALL = "components: [nova]\n"
_DRIFTED = "profile: database\nservices: {etcd: {durable: true}}\ncomponents: [nova]\n"
# A second component, and the first one's options in one of the user's files.
_MORE = f"profile: database\nservices: {{etcd: {{}}}}\ncomponents: {{nova: {{wire: [{OWN_FILE}]}}, cinder: {{}}}}\n"
# The words in the data: from before, and from after a snapshot.
KEPT, LATER = "kept", "later"
# A suite whose test has a component of its own.
SUITE = """
import pytest

@pytest.mark.devenv(services={services})
def test_a_component(devenv_component):
    assert devenv_component.env["ETCD_PREFIX"]
"""


def _hold_data(environment: Environment) -> None:
    put_marks(environment.project, KEPT)
    for snapshot in environment.snapshots():
        environment.remove_snapshot(snapshot.name)


def _hold_other_data_than_saved(environment: Environment) -> None:
    """Have data with other passwords than those of the snapshot, which stays for all cases."""
    if not environment.snapshots():
        put_marks(environment.project, KEPT)
        environment.save(KEPT)
        environment.down(volumes=True)
        environment.up()
    put_marks(environment.project, LATER)


@dataclass(frozen=True)
class Scenario:
    """A command of devenv, or a run of the test suite if `arguments` is empty, during which a request fails.

    Before it, the environment is up as `before` says, unless that is empty, and `prepare` gave it its data. Then
    devenv.yaml becomes `during`. devenv's command `mended_by` mends what is left afterwards. Then these `services` run,
    and all their data are one of the words of `after`, or of `after_success` if the first command succeeded. Without
    words, nobody promises anything. If the command `empties`, nothing is there once it succeeded.
    """

    name: str
    # How many requests it has at least: devenv asks more often for the state of a service that takes longer.
    requests: int
    arguments: tuple[str, ...]
    during: str = _TWO
    before: str = _TWO
    prepare: Callable[[Environment], None] = _hold_data
    mended_by: tuple[str, ...] = ("up",)
    services: tuple[str, ...] = ("etcd", "mysql")
    after: tuple[str, ...] = (KEPT,)
    after_success: tuple[str, ...] = (KEPT,)
    empties: bool = False
    faults: tuple[str, ...] = tuple(FAULTS)

    @property
    def wires(self) -> bool:
        """Return whether devenv's options are to be in the user's file in the end."""
        return OWN_FILE in self.during


_NEW = {"before": "", "after": ("",), "after_success": ("",)}
_ALL_FOUR = ("etcd", "keystone", "mysql", "rabbitmq")

SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("up", 22, ("up",), **_NEW),
        Scenario("second up", 6, ("up",)),
        Scenario("up after drift", 12, ("up",), _DRIFTED),
        Scenario("down", 10, ("down",)),
        Scenario("down --volumes", 11, ("down", "--volumes"), after=(), after_success=("",), empties=True),
        Scenario("snapshot save", 17, ("snapshot", "save", "now")),
        Scenario(
            "snapshot restore",
            30,
            ("snapshot", "restore", KEPT),
            _GUARDED,
            before=_GUARDED,
            prepare=_hold_other_data_than_saved,
            after=(KEPT, LATER),
        ),
        Scenario(
            "reset",
            24,
            ("reset",),
            _GUARDED,
            before=_GUARDED,
            after=(KEPT, ""),
            after_success=("",),
        ),
        Scenario("ensure", 6, ("up",), _MORE),
        Scenario("drop", 6, ("up", "--drop"), before=_MORE),
        Scenario("pytest session", 28, (), _ETCD, services=("etcd",), empties=True, **_NEW),
        Scenario("pytest session where all runs", 12, (), mended_by=("gc",)),
        # With more services, only what two do not stand for: a kill at each request and, where data goes, an error.
        Scenario("up of all four", 40, ("up",), _ALL, services=_ALL_FOUR, faults=("kill",), **_NEW),
        Scenario(
            "reset of all four",
            30,
            ("reset",),
            _ALL,
            before=_ALL,
            services=_ALL_FOUR,
            after=(KEPT, ""),
            after_success=("",),
            faults=("kill", "error"),
        ),
    )
}
