"""A sample of the sweep, with a fixed seed: in each scenario, each fault at one request. All others: `make chaos`.

`make test` takes one case for each short scenario, and each fault in turn.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from queue import SimpleQueue

import pytest

from tests.chaos.case import Case, Place, places
from tests.chaos.proxy import FAULTS
from tests.chaos.scenarios import SCENARIOS

_SEED = 6
_CHOICE = random.Random(_SEED)
_SAMPLE = [
    Case(scenario.name, fault, _CHOICE.randint(1, scenario.requests))
    for scenario in SCENARIOS.values()
    for fault in scenario.faults
]
_SHORT = [scenario for scenario in SCENARIOS.values() if len(scenario.services) <= 2]
_SHORT_CASES = {
    (scenario.name, scenario.faults[number % len(scenario.faults)]) for number, scenario in enumerate(_SHORT)
}


@pytest.fixture(scope="module")
def free(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleQueue[Place]]:
    with places(tmp_path_factory.mktemp("chaos"), 1) as made:
        yield made


@pytest.fixture(scope="module")
def place(free: SimpleQueue[Place], request: pytest.FixtureRequest) -> Iterator[Place]:
    """Lend one place to all cases of a scenario: after the last of them, nothing is left."""
    here = free.get()
    yield here
    free.put(here)
    assert here.clear() == [], f"after the last case of {request.param}"


def test_each_fault_is_tried_in_each_scenario() -> None:
    assert len(_SAMPLE) >= 60
    assert {fault for _, fault in _SHORT_CASES} == {*FAULTS} and len(_SHORT_CASES) == len(SCENARIOS) - 2


# The cases of a scenario are for one process: those of a restore share a snapshot. See tests/conftest.py.
@pytest.mark.parametrize(
    ("place", "case"),
    [
        pytest.param(
            case.scenario,
            case,
            id=str(case),
            marks=() if (case.scenario, case.fault) in _SHORT_CASES else pytest.mark.long,
        )
        for case in _SAMPLE
    ],
    indirect=["place"],
)
def test_what_goes_wrong_at_any_request_is_survived(place: Place, case: Case) -> None:
    outcome = place.run(case)
    assert outcome.request, "there was no such request"
    assert not outcome.problems, "\n".join(outcome.problems)
