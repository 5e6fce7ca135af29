"""Desired and observed in, ordered operations out. Pure: no engine, no clock, no files.

base image -> build/pull image -> create -> start -> ready -> keep (the golden state)
         network, fill volume ---^         empty ----^
ready <provider> -> provision <provider>/<component> -> ready <service>
                    drop <provider>/<component>
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from graphlib import TopologicalSorter

from devenv.model import (
    HEALTHY,
    Desired,
    DesiredService,
    Observed,
    ObservedContainer,
    Operation,
    Plan,
)
from devenv.spec.desired import providers

# What the engine calls a container that can be started as it is. "created" is not among them: devenv may have
# been ended between creating a container and copying its files.
_STARTABLE = ("exited", "paused")


def make_plan(
    desired: Desired,
    observed: Observed,
    provisioned: Mapping[str, str] | None = None,
    drop: Collection[str] = (),
    unfinished: Collection[str] = (),
    renew: Mapping[str, str] | None = None,
    in_place: bool = True,
    as_it_is: Collection[str] = (),
) -> Plan:
    """The operations that turn `observed` into `desired`, each with its cause.

    `provisioned` holds the "provider/component" pairs that are known to be in place, with the digest of each; the
    name of a provider alone stands for what it had to be prepared with. The parts of those former components
    that are to `drop` go. What the first start of an `unfinished` service left is removed before it is started anew:
    half of what a server writes then can keep it from ever working. The services of `renew` lose their data, each for
    a cause; those that can be emptied while they run are, if `in_place`. Containers of services that are taken
    `as_it_is` stay, whatever differs.
    """
    provisioned, renew = provisioned or {}, renew or {}
    emptied_running = {n: cause for n, cause in renew.items() if in_place and _can_be_emptied(n, desired, observed)}
    renew = {name: cause for name, cause in renew.items() if name not in emptied_running}
    network = [] if observed.networks else [Operation("create network", desired.network, "no network")]
    made = [name for name in desired.services if name not in as_it_is]
    stale = {name: cause for name in made if (cause := _stale(name, desired, observed))}
    stale.update(renew)
    _spread(stale, desired, observed, renew)
    emptied = _emptied(desired, observed, stale, renew, unfinished)
    kept = set(observed.volumes) - emptied.keys()
    needed = {pair for service in desired.services.values() for pair in service.needs}
    others = {part.pair for service in desired.services.values() for part in service.components.values()} - needed
    operations = _image_operations(desired, observed, stale) + network
    # Before anything else of its service: it may have the name or the port that the service is to get.
    operations += [
        Operation(
            "remove", container.name, f"second container of {container.service}", (), container.id, container.service
        )
        for container in observed.extra
        if container.service in desired.services
    ]
    operations += [Operation("empty", name, cause) for name, cause in emptied_running.items()]
    for service in desired.services.values():
        operations += _service_operations(service, desired, observed, stale, operations, emptied)
        operations += _prepare_operations(service, stale, provisioned)
        operations += _provision_operations(service, desired, stale, provisioned, operations, needed.__contains__)
    # The parts of the project's own components come last: no golden state may hold any of them.
    operations += _keep_operations(desired, stale, kept)
    for service in desired.services.values():
        operations += _provision_operations(service, desired, stale, provisioned, operations, others.__contains__)
        operations += _drop_operations(service, desired, provisioned, operations, drop)
    return Plan(tuple(operations))


def plan_images(desired: Desired, observed: Observed) -> Plan:
    """Only what makes the images be there."""
    return Plan(tuple(_image_operations(desired, observed, dict.fromkeys(desired.services, ""))))


def plan_start(desired: Desired, observed: Observed) -> Plan:
    """Start containers that exist, as they are, and wait for them."""
    operations: list[Operation] = []
    for service in desired.services.values():
        container = observed.containers[service.name]
        if not container.running:
            operations.append(_start(service, container.id, _down_cause(container), operations))
        operations.append(_ready(service, operations))
    return Plan(tuple(operations))


def plan_restart(desired: Desired, observed: Observed) -> Plan:
    """Stop and start containers that exist, and wait for them. A service stops after its dependents did."""
    operations: list[Operation] = []
    cause = "restart asked for"
    for service in reversed(list(desired.services.values())):
        container = observed.containers[service.name]
        if container.running:
            dependents = [f"stop {other.name}" for other in desired.services.values() if service.name in other.depends]
            operations.append(_operation("stop", service.name, cause, dependents, operations, container.id))
    for service in desired.services.values():
        operations.append(_start(service, observed.containers[service.name].id, cause, operations))
        operations.append(_ready(service, operations))
    return Plan(tuple(operations))


def plan_empty(desired: Desired, component: str) -> Plan:
    """Take a component's part of each service away and give it a new one."""
    operations: list[Operation] = []
    for service in desired.services.values():
        if part := service.components.get(component):
            operations.append(_ready(service, ()))
            operations.append(Operation("drop", part.pair, "reset asked for", (f"ready {service.name}",)))
            operations.append(Operation("provision", part.pair, "reset asked for", (f"drop {part.pair}",)))
    return Plan(tuple(operations))


def describe(plan: Plan) -> list[str]:
    """One line per operation, for people and for tests."""
    return [f"{op.key}: {op.cause}" if op.cause else op.key for op in plan.operations]


# ---- why a container cannot stay --------------------------------------------------------------------------


def _stale(name: str, desired: Desired, observed: Observed) -> str:
    """Why the service's container has to be made (anew), or an empty string."""
    service, container = desired.services[name], observed.containers.get(name)
    if container is None:
        return "no container"
    if container.config_hash != service.config_hash:
        return changes(container.parts, service.parts)
    if not observed.networks or (container.networks and not set(container.networks) & set(observed.networks)):
        return "its network was removed"
    if not container.running and container.state not in _STARTABLE:
        return f"container is {container.state}"
    return ""


def _can_be_emptied(name: str, desired: Desired, observed: Observed) -> bool:
    """Whether the service can get rid of its data by itself: it runs as it should, needs nobody, gets no other data."""
    service, container = desired.services[name], observed.containers.get(name)
    works = container is not None and container.state == "running" and not _stale(name, desired, observed)
    alone = not service.depends and not any(volume in desired.sources for volume in service.volumes)
    return works and alone and "initial" in service.provisioner


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """Which inputs differ, by name: "image changed, config file my.cnf changed"."""
    words = []
    for part in sorted({*before, *after}):
        if part not in after:
            words.append(f"{part} removed")
        elif part not in before:
            words.append(f"{part} added")
        elif before[part] != after[part]:
            words.append(f"{part} changed")
    return ", ".join(words) or "made by another version of devenv"


def _emptied(
    desired: Desired,
    observed: Observed,
    stale: Mapping[str, str],
    renew: Mapping[str, str],
    unfinished: Collection[str],
) -> dict[str, str]:
    """The volumes that are there and are to be made anew, with their cause."""
    causes = dict(renew)
    for name in unfinished:
        container = observed.containers.get(name)
        # A server that runs may have got through its first start without devenv to see.
        if name in stale and not (container and container.running):
            causes.setdefault(name, "the first start was not finished")
    return {
        volume: causes[name]
        for name, service in desired.services.items()
        for volume in service.volumes
        if name in causes and volume in observed.volumes
    }


def _spread(stale: dict[str, str], desired: Desired, observed: Observed, renew: Collection[str]) -> None:
    """What depends on a recreated service is recreated with it. Services come after what they need."""
    for service in desired.services.values():
        for need in service.depends:
            if need in stale and (need in renew or not set(desired.services[need].volumes) <= set(observed.volumes)):
                stale.setdefault(service.name, f"{need} lost its data")
            elif need in stale and need in observed.containers:
                stale.setdefault(service.name, f"{need} is recreated")


def _down_cause(container: ObservedContainer) -> str:
    if container.exit_code is not None:
        return f"container exited {container.exit_code}"
    return f"container is {container.state}"


# ---- operations --------------------------------------------------------------------------------------------


def _operation(
    action: str,
    target: str,
    cause: str,
    after: Iterable[str],
    known: Iterable[Operation],
    subject: str = "",
    service: str = "",
) -> Operation:
    """An operation that waits for those of `after` that are part of the plan at all."""
    keys = {op.key for op in known}
    return Operation(action, target, cause, tuple(key for key in after if key in keys), subject, service)


def _image_operations(desired: Desired, observed: Observed, wanted: Mapping[str, str]) -> list[Operation]:
    missing = [
        image
        for image in desired.images
        if image.reference not in observed.images and (image.service in wanted or image.how == "base")
    ]
    if not any(image.how == "build" for image in missing):
        missing = [image for image in missing if image.how != "base"]
    operations: list[Operation] = []
    for image in missing:
        action = "pull image" if image.how == "pull" else "build image"
        after = ["build image base", f"fetch wheels {image.service}"] if image.how == "build" else []
        if image.wheels:
            operations.append(Operation("fetch wheels", image.service, "image missing"))
        operations.append(
            _operation(action, image.service or "base", "image missing", after, operations, image.reference)
        )
    return operations


def _service_operations(
    service: DesiredService,
    desired: Desired,
    observed: Observed,
    stale: Mapping[str, str],
    known: Iterable[Operation],
    emptied: Mapping[str, str],
) -> list[Operation]:
    container = observed.containers.get(service.name)
    operations = list(known)
    already = len(operations)

    def add(action: str, target: str, cause: str, after: Iterable[str], subject: str = "") -> None:
        operations.append(_operation(action, target, cause, after, operations, subject, service.name))

    cause = stale.get(service.name, "")
    gone = [container, *(extra for extra in observed.extra if extra.service == service.name)]
    removed = [f"remove {old.name}" for old in gone if old is not None]
    # What works goes on working until its successor can be made.
    images = [f"build image {service.name}", f"pull image {service.name}"]
    renewed = any(volume in emptied for volume in service.volumes)
    if cause and container is not None:
        # Nothing is worth a slow goodbye when the data goes, too.
        if container.alive and not renewed:
            add("stop", service.name, cause, images, container.id)
        add("remove", container.name, cause, [*images, f"stop {service.name}"], container.id)
    if cause:
        for volume in service.volumes:
            if volume in emptied:
                add("remove volume", volume, emptied[volume], removed, volume)
            source = desired.sources.get(volume)
            if source and (volume in emptied or volume not in observed.volumes):
                add("fill", volume, source.cause, [f"remove volume {volume}"], source.image)
        network = [op.key for op in operations if op.action == "create network"]
        volumes = [f"{action} {volume}" for volume in service.volumes for action in ("remove volume", "fill")]
        add("create", service.name, cause, [*images, *network, *removed, *volumes])
    if cause:
        operations.append(_start(service, "", cause, operations))
    elif container is not None and not container.running:
        operations.append(_start(service, container.id, _down_cause(container), operations))
    operations.append(_ready(service, operations))
    return operations[already:]


def _anew(service: DesiredService, stale: Mapping[str, str]) -> str:
    return f"{service.name} is made anew" if service.name in stale else ""


def _prepare_operations(
    service: DesiredService, stale: Mapping[str, str], provisioned: Mapping[str, str]
) -> Iterator[Operation]:
    """What a service needs once, before any component can have a part of it."""
    anew, before = _anew(service, stale), provisioned.get(service.name)
    if (service.provisioner.get("prepare") or before) and (anew or before != service.prepared):
        yield Operation("prepare", service.name, anew or "its settings changed", (f"ready {service.name}",))


def _provision_operations(
    service: DesiredService,
    desired: Desired,
    stale: Mapping[str, str],
    provisioned: Mapping[str, str],
    known: Iterable[Operation],
    chosen: Callable[[str], bool],
) -> list[Operation]:
    """What gives components their parts of a service that works: those whose pair is `chosen`."""
    anew, known = _anew(service, stale), tuple(known)
    operations = []
    for part in service.components.values():
        there = provisioned.get(part.pair)
        cause = (anew or "its settings changed") if there else "new"
        if chosen(part.pair) and (anew or there != part.digest):
            operations.append(_operation("provision", part.pair, cause, _usable(service, desired), known))
    return operations


def _drop_operations(
    service: DesiredService,
    desired: Desired,
    provisioned: Mapping[str, str],
    known: Iterable[Operation],
    drop: Collection[str],
) -> list[Operation]:
    """What takes the parts of former components away."""
    known, cause = tuple(known), "not in devenv.yaml any more"
    gone = [part.pair for name, part in service.former.items() if name in drop and part.pair in provisioned]
    return [_operation("drop", pair, cause, _usable(service, desired), known) for pair in gone]


def _usable(service: DesiredService, desired: Desired) -> list[str]:
    # What a component has of it may lie in the data of those that it needs, of which nothing is kept with it, either.
    kept = [f"keep {name}" for name in (service.name, *sorted(providers(service.name, desired)))]
    return [f"ready {service.name}", f"prepare {service.name}", *kept]


def _keep_operations(desired: Desired, stale: Mapping[str, str], kept: Collection[str]) -> Iterator[Operation]:
    """What keeps the state of services right after their first start, with what others of this plan made in it.

    Nothing is kept of a service in which one that was there before may have written something else.
    """
    for service in desired.services.values():
        users = [name for name in desired.services if service.name in providers(name, desired)]
        fresh = not any(volume in kept or volume in desired.sources for volume in service.golden)
        if desired.keep and service.golden and fresh and {service.name, *users} <= stale.keys():
            after = tuple(f"ready {name}" for name in (service.name, *users))
            yield Operation("keep", service.name, "for the next environment", after)


def _start(service: DesiredService, container: str, cause: str, known: Iterable[Operation]) -> Operation:
    healthy = [name for name, condition in service.depends.items() if condition == HEALTHY]
    provisions = [f"provision {pair}" for pair in service.needs if pair.partition("/")[0] in healthy]
    after = [f"create {service.name}", f"stop {service.name}", *(f"ready {name}" for name in healthy), *provisions]
    return _operation("start", service.name, cause, after, known, container)


def _ready(service: DesiredService, known: Iterable[Operation]) -> Operation:
    known = tuple(known)
    provisions = [f"provision {pair}" for pair in service.needs]
    # What runs already is looked at all at once; only what is being started is worth waiting for.
    starting = {op.target for op in known if op.action == "start"}
    needs = [f"ready {name}" for name in service.depends if name in starting]
    begun = [f"start {service.name}", f"empty {service.name}"]
    return _operation("ready", service.name, "", [*begun, *needs, *provisions], known)


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
