"""Record what happens to services while devenv carries out a plan.

devenv saves notes on services immediately: after a kill a moment later, the record must say what a service has by then.
It saves notes on parts when the plan ends; until then the record calls them unknown.
"""

from __future__ import annotations

from collections.abc import Mapping

from devenv.model import Action, Catalogue, Desired, Observed, Operation, Plan
from devenv.names import Pair
from devenv.spec.desired import providers
from devenv.store.state import Notes, State

# In place of a digest: devenv began to prepare a service, and does not know whether that ended.
BEGUN = "begun"
# The record of a target while the plan runs: after a kill, the next devenv knows of the work and repeats it.
_UNKNOWN: Mapping[Action, str] = {"provision": "", "log in": "", "drop": "", "prepare": BEGUN, "release": BEGUN}


class Journal:
    """Receives what was done to services, and records nothing. Several threads call its methods.

    It is for plans that leave the environment as it is.
    """

    def begin(self) -> None: ...
    def created(self, service: str) -> None:
        """Note that the service's container and data are in place, and were never started."""

    def ready(self, service: str) -> None:
        """Note that the service works."""

    def provisioned(self, target: str, digest: str) -> None:
        """Note that a part ("mysql/nova") or a preparation ("mysql") is in place; without a digest, that it is gone."""

    def ours(self, target: str) -> bool:
        """Return whether a part or a preparation of an attached service is devenv's by what is known."""
        return True

    def begun(self, target: str) -> None:
        """Note, before it is there, that devenv makes a part of an attached service, or prepares it."""

    def undone(self, pair: str) -> None:
        """Note that nothing is left of a part."""

    def end(self) -> None: ...


class RecordJournal(Journal):
    """Updates the environment's record, for a caller that holds its lock."""

    def __init__(
        self,
        state: State,
        plan: Plan,
        desired: Desired,
        observed: Observed,
        catalogue: Catalogue,
    ) -> None:
        self._state, self._notes = state, Notes(state)
        self._plan, self._desired, self._catalogue = plan, desired, catalogue
        self._emptied = {op.target for op in plan.operations if op.action == "empty"}
        self._to_create = {op.target for op in plan.operations if op.action == "create"}
        self._first_starts = [
            name for name in self._to_create if not set(desired.services[name].volumes) <= set(observed.volumes)
        ]
        self._parts: dict[str, str] = {}
        self._ready: set[str] = set()
        self._created: set[str] = set()

    def begin(self) -> None:
        # The record must call nothing in an attached service devenv's before devenv has seen that it is nobody's.
        sure = [op for op in self._plan.operations if op.action not in ("provision", "prepare") or self._sure(op)]
        self._notes.parts({op.target: _UNKNOWN[op.action] for op in sure if op.action in _UNKNOWN})
        self._notes.starts(self._first_starts, ())

    def created(self, service: str) -> None:
        self._created.add(service)
        self._notes.starts((), [service] if self._catalogue[service].resumes else ())
        self._notes.made(service)
        self._note_renewed()

    def ready(self, service: str) -> None:
        self._ready.add(service)
        self._notes.starts((), [service])
        self._note_renewed()

    def provisioned(self, target: str, digest: str) -> None:
        self._parts[target] = digest

    def _sure(self, operation: Operation) -> bool:
        service = self._desired.services[operation.service or operation.target]
        return not service.attached or self.ours(operation.target)

    def ours(self, target: str) -> bool:
        return target in self._state.load().provisioned

    def begun(self, target: str) -> None:
        self._notes.parts({target: "" if Pair.parse(target).component else BEGUN})

    def undone(self, pair: str) -> None:
        self._notes.no_parts([pair])

    def end(self) -> None:
        self._notes.renewed({*self._emptied, *self._to_create} & self._ready)
        self._notes.parts(self._parts)
        drops = [op.target for op in self._plan.operations if op.action in ("drop", "release")]
        self._notes.no_parts([target for target in drops if self._parts.get(target) == ""])

    def _note_renewed(self) -> None:
        # Until the services that use a service are recreated as well, they miss their data in it.
        left = self._to_create - self._created
        missed = set[str]().union(*(providers(name, self._desired) for name in left))
        self._notes.renewed(({*self._state.load().renewed, *self._emptied} & self._ready) - missed)
