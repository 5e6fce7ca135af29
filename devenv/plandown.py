"""How what is there is stopped and removed: plans that need nothing but what the engine has. Pure, as plan.py is."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from graphlib import TopologicalSorter

from devenv.model import ObservedContainer, Operation, Plan


def plan_stop(
    containers: Sequence[ObservedContainer], needs: Mapping[str, Collection[str]], cause: str = "stop asked for"
) -> Plan:
    """Stop what runs, a service after those that need it (`needs`): a server waits for clients that hold on to it."""
    stops: dict[str, ObservedContainer] = {}
    for container in (c for c in containers if c.alive):
        # The second container of a service goes by its own name.
        stops[container.name if container.service in stops else container.service] = container
    waits = {
        target: sorted(t for t, other in stops.items() if container.service in needs.get(other.service, ()))
        for target, container in stops.items()
    }
    return Plan(
        tuple(
            Operation("stop", target, cause, tuple(f"stop {first}" for first in waits[target]), stops[target].id)
            for target in TopologicalSorter(waits).static_order()
        )
    )


def plan_down(
    containers: Sequence[ObservedContainer],
    needs: Mapping[str, Collection[str]],
    networks: Iterable[str],
    volumes: Mapping[str, str],
    gently: bool = True,
) -> Plan:
    """Remove containers, then networks and volumes (by name, with their service).

    Unless `gently`, since the data goes too, nothing is stopped.
    """
    cause = "down asked for"
    operations = list(plan_stop(containers, needs, cause).operations) if gently else []
    removed: dict[str, str] = {}
    for container in containers:
        stop = tuple(op.key for op in operations if op.subject == container.id)
        remove = Operation("remove", container.name, cause, stop, container.id, container.service)
        operations.append(remove)
        removed[remove.key] = container.service
    operations += [Operation("remove network", n[:12], cause, tuple(removed), subject=n) for n in networks]
    for volume, service in volumes.items():
        after = tuple(key for key, whose in removed.items() if whose == service)
        operations.append(Operation("remove volume", volume, cause, after, volume, service))
    return Plan(tuple(operations))
