"""Plan the ordered operations that turn what is observed into what is desired. Pure: no engine, no clock, no files.

base image -> build/pull image -> create -> start -> ready -> keep (the golden state)
         network, fill volume ---^         empty ----^
         forward ports ----------^
ready <provider> -> provision <provider>/<component> -> ready <service>
                    log in <provider>/<component>
                    drop <provider>/<component>

Services that somebody else runs have no operations but ready, prepare, provision, log in, drop and release.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from graphlib import TopologicalSorter

from devenv.model import (
    HEALTHY,
    Action,
    Desired,
    DesiredService,
    Observed,
    ObservedContainer,
    Operation,
    Plan,
    Provision,
    key_of,
)
from devenv.names import Pair
from devenv.spec.desired import providers

# The states of a container that devenv can start as it is. "created" is not among them: a killed devenv may have
# created a container without copying its files.
_STARTABLE = ("exited", "paused")
# The target of "forward".
_PORTS = "ports"


@dataclass(frozen=True)
class Terms:
    """The inputs of a plan besides the desired and the observed state.

    `provisioned` holds the "provider/component" pairs that are in place, with the digest of each; the name of a
    provider alone stands for its preparation. `drop` names former components whose parts to remove. `unfinished`
    services began their first start and did not complete it: with half of its data, a server may never work, so devenv
    removes that data. `renew` names services that lose their data, each with a cause; those that can clear it while
    they run do so, if `in_place`. `keep_running` services stay as they are, whatever differs. Without
    `images`, the engine gets images by itself.
    """

    provisioned: Mapping[str, str] = field(default_factory=dict)
    drop: Collection[str] = ()
    unfinished: Collection[str] = ()
    renew: Mapping[str, str] = field(default_factory=dict)
    in_place: bool = True
    keep_running: Collection[str] = ()
    images: bool = True


def make_plan(desired: Desired, observed: Observed, terms: Terms | None = None) -> Plan:
    """Return the operations that turn `observed` into `desired`, each with its cause."""
    draft = _Draft(desired, observed, terms or Terms())
    draft.add_images(draft.stale)
    draft.add_network()
    draft.add_forward()
    # Before all else of its service: a second container may have the name or the port that the service needs.
    draft.add_second_containers()
    draft.add_clearing()
    needed = {pair for service in desired.services.values() for pair in service.needs}
    for service in desired.services.values():
        draft.add_service(service)
        draft.add_preparation(service)
        draft.add_parts(service, lambda part: part.pair in needed)
        draft.add_logins(service)
    # The parts of the project's own components come last: no golden state may hold any of them.
    draft.add_keeping()
    for service in desired.services.values():
        draft.add_parts(service, lambda part: part.pair not in needed)
        draft.add_drops(service)
    return draft.plan()


def plan_images(desired: Desired, observed: Observed) -> Plan:
    """Return only the operations that build or pull missing images."""
    draft = _Draft(desired, observed, Terms())
    draft.add_images(desired.services)
    return draft.plan()


def plan_start(desired: Desired, observed: Observed, provisioned: Mapping[str, str]) -> Plan:
    """Start containers that exist, as they are, and wait for them. `provisioned` is as in Terms."""
    draft = _Draft(desired, observed, Terms(provisioned))
    draft.add_forward()
    for service in desired.services.values():
        container = observed.containers.get(service.name)
        if container and not container.running:
            draft.add_start(service, container.id, _down_cause(container))
        draft.add_ready(service)
        draft.add_logins(service)
    return draft.plan()


def plan_restart(desired: Desired, observed: Observed, provisioned: Mapping[str, str]) -> Plan:
    """Stop and start containers that exist, and wait for them. A service stops after its dependents."""
    draft = _Draft(desired, observed, Terms(provisioned))
    cause = "restart asked for"
    for service in reversed(list(desired.services.values())):
        container = observed.containers.get(service.name)
        if container and container.running:
            dependents = [
                key_of("stop", other.name) for other in desired.services.values() if service.name in other.depends
            ]
            draft.add(Operation("stop", service.name, cause, subject=container.id), dependents)
    draft.add_forward()
    for service in desired.services.values():
        if not service.attached:
            draft.add_start(service, observed.containers[service.name].id, cause)
        draft.add_ready(service)
        draft.add_logins(service)
    return draft.plan()


def plan_empty(desired: Desired, component: str) -> Plan:
    """Drop a component's part of each service and provision it again."""
    draft = _Draft(desired, Observed(), Terms())
    cause = "reset asked for"
    for service in desired.services.values():
        if part := service.components.get(component):
            draft.add_ready(service)
            draft.add(drop(part, cause), (key_of("ready", service.name),))
            draft.add(provision(part, cause), (key_of("drop", part.pair),))
    return draft.plan()


def plan_wait(desired: Desired, observed: Observed) -> Plan:
    """Wait for services, and change nothing on the engine."""
    draft = _Draft(desired, observed, Terms())
    draft.add_forward()
    for service in desired.services.values():
        draft.add_ready(service)
    return draft.plan()


def plan_stop(
    containers: Sequence[ObservedContainer], needs: Mapping[str, Collection[str]], cause: str = "stop asked for"
) -> Plan:
    """Stop what runs, a service after those that need it (`needs`): a server waits until its clients disconnect."""
    stops: dict[str, ObservedContainer] = {}
    for container in (c for c in containers if c.alive):
        # The target of a second container of a service is its own name.
        stops[container.name if container.service in stops else container.service] = container
    waits = {
        target: sorted(t for t, other in stops.items() if container.service in needs.get(other.service, ()))
        for target, container in stops.items()
    }
    return Plan(
        tuple(
            Operation(
                "stop",
                target,
                cause,
                after=tuple(key_of("stop", first) for first in waits[target]),
                subject=stops[target].id,
                service=stops[target].service,
            )
            for target in TopologicalSorter(waits).static_order()
        )
    )


def _called(network: str) -> str:
    """Return a network's name, or so much of its id, of 64 digits, as others show."""
    return network[:12] if len(network) == 64 else network


def plan_down(
    containers: Sequence[ObservedContainer],
    needs: Mapping[str, Collection[str]],
    networks: Iterable[str],
    volumes: Mapping[str, str],
    gently: bool = True,
    attached: Desired | None = None,
    provisioned: Collection[str] = (),
) -> Plan:
    """Remove containers, then networks and volumes (by name, with their service).

    Unless `gently`, since the data goes too, stop nothing first. In services that are `attached`, which stay as they
    are, drop the parts that are `provisioned`.
    """
    cause = "down asked for"
    operations = list(plan_stop(containers, needs, cause).operations) if gently else []
    removed: dict[str, str] = {}
    for container in containers:
        stop = tuple(op.key for op in operations if op.subject == container.id)
        remove = Operation("remove", container.name, cause, stop, container.id, container.service)
        operations.append(remove)
        removed[remove.key] = container.service
    operations += [Operation("remove network", _called(n), cause, tuple(removed), subject=n) for n in networks]
    for volume, service in volumes.items():
        after = tuple(key for key, whose in removed.items() if whose == service)
        operations.append(Operation("remove volume", volume, cause, after, volume, service))
    if attached:
        operations += _clearances(attached, provisioned, tuple(removed))
    return Plan(tuple(operations))


def _clearances(attached: Desired, provisioned: Collection[str], after: tuple[str, ...]) -> Iterator[Operation]:
    """Yield what removes all that devenv made in attached services, `after` their users are gone."""
    for service in attached.services.values():
        parts = [part for part in service.former.values() if part.pair in provisioned]
        for part in parts:
            yield replace(drop(part, f"made in {service.attached}"), after=after)
        if service.name in provisioned:
            drops = tuple(key_of("drop", part.pair) for part in parts)
            yield Operation("release", service.name, "no component is left", (*after, *drops), service=service.name)


def drop(part: Provision, cause: str) -> Operation:
    """Return the operation that removes a component's part of a service."""
    return Operation("drop", part.pair, cause, service=part.provider, component=part.component)


def provision(part: Provision, cause: str) -> Operation:
    """Return the operation that creates a component's part of a service."""
    return Operation("provision", part.pair, cause, service=part.provider, component=part.component)


def describe(plan: Plan) -> list[str]:
    """Return one line per operation, for people and for tests."""
    return [f"{op.key}: {op.cause}" if op.cause else op.key for op in plan.operations]


# ---- why a container cannot stay --------------------------------------------------------------------------


def _stale(service: DesiredService, observed: Observed) -> str:
    """Return why devenv has to create or recreate the service's container, or an empty string."""
    container = observed.containers.get(service.name)
    if service.attached:
        return ""
    if container is None:
        return "no container"
    if container.config_hash != service.config_hash:
        return changes(container.parts, service.parts)
    if not observed.networks or (container.networks and not set(container.networks) & set(observed.networks)):
        return "its network was removed"
    if not container.alive and not {*service.volumes} <= {*observed.volumes}:
        return "its data is gone"
    if not container.running and container.state not in _STARTABLE:
        return container.reason or f"container is {container.state}"
    return ""


def _can_be_emptied(service: DesiredService, desired: Desired, observed: Observed) -> bool:
    """Return whether the service can clear its data itself: it runs as desired, needs no other, gets no other data."""
    container = observed.containers.get(service.name)
    works = container is not None and container.state == "running" and not _stale(service, observed)
    alone = not service.depends and not any(volume in desired.sources for volume in service.volumes)
    return works and alone and "initial" in service.provisioner


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """Name the inputs that differ: "file my.cnf changed, image changed"."""
    words = []
    for part in sorted({*before, *after}):
        if part not in after:
            words.append(f"{part} removed")
        elif part not in before:
            words.append(f"{part} added")
        elif before[part] != after[part]:
            words.append(f"{part} changed")
    return ", ".join(words) or "made by another version of devenv"


def _spread(stale: dict[str, str], desired: Desired, observed: Observed, renew: Collection[str]) -> None:
    """Recreate the services that depend on a recreated one, too. `desired` has them after those that they need."""
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


class _Draft:
    """A plan in the making: its inputs, and its operations so far.

    `stale` are the services whose container to create or recreate, each with the cause; `cleared` those that clear
    their data while they run; `emptied` the existing volumes to recreate.
    """

    def __init__(self, desired: Desired, observed: Observed, terms: Terms) -> None:
        self._desired, self._observed, self._terms = desired, observed, terms
        services = desired.services
        self.cleared = {
            name: cause
            for name, cause in terms.renew.items()
            if terms.in_place and _can_be_emptied(services[name], desired, observed)
        }
        renew = {name: cause for name, cause in terms.renew.items() if name not in self.cleared}
        self.stale = {
            name: cause
            for name, service in services.items()
            if name not in terms.keep_running and (cause := _stale(service, observed))
        } | renew
        _spread(self.stale, desired, observed, renew)
        self.emptied = self._emptied(renew)
        self._operations: dict[str, Operation] = {}

    def _emptied(self, renew: Mapping[str, str]) -> dict[str, str]:
        """Return the existing volumes to recreate, each with its cause."""
        causes = dict(renew)
        for name in self._terms.unfinished:
            # A server that runs may have completed its first start while no devenv watched.
            if name in self.stale and not self._observed.runs(name):
                causes.setdefault(name, "the first start was not finished")
        return {
            volume: causes[name]
            for name, service in self._desired.services.items()
            for volume in service.volumes
            if name in causes and volume in self._observed.volumes
        }

    def plan(self) -> Plan:
        return Plan(tuple(self._operations.values()))

    def add(self, operation: Operation, after: Iterable[str] = ()) -> None:
        """Add an operation. It waits for those of `after` (by key) that are in the plan."""
        waits = tuple(key for key in after if key in self._operations)
        service = operation.service or (operation.target if operation.target in self._desired.services else "")
        self._operations[operation.key] = replace(operation, after=waits, service=service)

    def add_images(self, wanted: Collection[str]) -> None:
        if not self._terms.images:
            return
        missing = [
            image
            for image in self._desired.images
            if image.reference not in self._observed.images and (image.service in wanted or image.how == "base")
        ]
        if not any(image.how == "build" for image in missing):
            missing = [image for image in missing if image.how != "base"]
        for image in missing:
            action: Action = "pull image" if image.how == "pull" else "build image"
            after = (
                [key_of("build image", "base"), key_of("fetch wheels", image.service)] if image.how == "build" else []
            )
            if image.wheels:
                self.add(Operation("fetch wheels", image.service, "image missing"))
            self.add(Operation(action, image.service or "base", "image missing", subject=image.reference), after)

    def add_network(self) -> None:
        if not self._observed.networks and any(not service.attached for service in self._desired.services.values()):
            self.add(Operation("create network", self._desired.network, "no network"))

    def add_forward(self) -> None:
        """Forward the ports of an engine elsewhere, before anything is created: another program may have one here."""
        if (there := self._observed.forwarded) is None:
            return
        if there < (ports := {port for one in self._desired.services.values() for port in one.ports.values()} | there):
            cause = f"{len(ports - there)} more" if there else "nothing forwards them"
            self.add(Operation("forward", _PORTS, cause))

    def add_second_containers(self) -> None:
        for container in self._observed.extra:
            if container.service in self._desired.services:
                cause = f"second container of {container.service}"
                self.add(Operation("remove", container.name, cause, (), container.id, container.service))

    def add_clearing(self) -> None:
        for name, cause in self.cleared.items():
            self.add(Operation("empty", name, cause))

    def add_service(self, service: DesiredService) -> None:
        """Recreate the container if it is stale, start it if it does not run, and wait for the service."""
        container = self._observed.containers.get(service.name)
        if cause := self.stale.get(service.name, ""):
            self._add_removal(service, cause)
            self._add_volumes(service)
            self._add_creation(service, cause)
            self.add_start(service, "", cause)
        elif container is not None and not container.running and not service.attached:
            self.add_start(service, container.id, _down_cause(container))
        self.add_ready(service)

    def _add_removal(self, service: DesiredService, cause: str) -> None:
        if (container := self._observed.containers.get(service.name)) is None:
            return
        # The old container goes on working until the image of the new one is there.
        images = _images(service)
        # A graceful stop is worth nothing when the data goes, too.
        if container.alive and not any(volume in self.emptied for volume in service.volumes):
            self.add(Operation("stop", service.name, cause, subject=container.id), images)
        remove = Operation("remove", container.name, cause, subject=container.id, service=service.name)
        self.add(remove, [*images, key_of("stop", service.name)])

    def _add_volumes(self, service: DesiredService) -> None:
        for volume in service.volumes:
            if cause := self.emptied.get(volume):
                remove = Operation("remove volume", volume, cause, subject=volume, service=service.name)
                self.add(remove, self._removed(service))
            source = self._desired.sources.get(volume)
            if source and (volume in self.emptied or volume not in self._observed.volumes):
                fill = Operation(
                    "fill", volume, source.cause, subject=source.image, service=service.name, golden=source.golden
                )
                self.add(fill, [key_of("remove volume", volume)])

    def _add_creation(self, service: DesiredService, cause: str) -> None:
        network = key_of("create network", self._desired.network)
        volumes = [key for v in service.volumes for key in (key_of("remove volume", v), key_of("fill", v))]
        after = [*_images(service), network, key_of("forward", _PORTS), *self._removed(service), *volumes]
        self.add(Operation("create", service.name, cause), after)

    def _removed(self, service: DesiredService) -> list[str]:
        """Return the keys of the operations that remove the service's containers."""
        old = self._observed.containers.get(service.name)
        gone = [old.name] if old else []
        gone += [container.name for container in self._observed.extra if container.service == service.name]
        return [key_of("remove", name) for name in gone]

    def add_start(self, service: DesiredService, container: str, cause: str) -> None:
        healthy = [name for name, condition in service.depends.items() if condition == HEALTHY]
        parts = [key_of("provision", pair) for pair in service.needs if Pair.parse(pair).service in healthy]
        after = [
            key_of("forward", _PORTS),
            key_of("create", service.name),
            key_of("stop", service.name),
            *(key_of("ready", name) for name in healthy),
            *parts,
        ]
        self.add(Operation("start", service.name, cause, subject=container), after)

    def add_ready(self, service: DesiredService) -> None:
        # Check running services all at the same time; wait only for those that this plan starts.
        needs = [key_of("ready", name) for name in service.depends if key_of("start", name) in self._operations]
        begun = [key_of("forward", _PORTS), key_of("start", service.name), key_of("empty", service.name)]
        self.add(
            Operation("ready", service.name), [*begun, *needs, *(key_of("provision", pair) for pair in service.needs)]
        )

    def _recreated(self, service: DesiredService) -> str:
        return f"{service.name} is recreated" if service.name in self.stale else ""

    def add_preparation(self, service: DesiredService) -> None:
        """Prepare a service once, before any component can have a part of it."""
        recreated, before = self._recreated(service), self._terms.provisioned.get(service.name)
        if (service.provisioner.get("prepare") or before) and (recreated or before != service.prepared):
            cause = recreated or ("new" if service.attached and not before else "its settings changed")
            self.add(Operation("prepare", service.name, cause), [key_of("ready", service.name)])

    def add_parts(self, service: DesiredService, chosen: Callable[[Provision], bool]) -> None:
        """Give components the `chosen` parts of a service that works."""
        recreated = self._recreated(service)
        for part in service.components.values():
            there = self._terms.provisioned.get(part.pair)
            cause = (recreated or "its settings changed") if there else "new"
            if chosen(part) and (recreated or there != part.digest):
                self.add(provision(part, cause), self._usable(service))

    def add_logins(self, service: DesiredService) -> None:
        """Log in as each component that keeps its part, if the service starts and forgets logins when it does.

        Nobody tells devenv when an attached one started.
        """
        starts = service.attached or key_of("start", service.name) in self._operations
        if service.provisioner.get("log_in") != "true" or not starts:
            return
        for part in service.components.values():
            if not self._recreated(service) and self._terms.provisioned.get(part.pair) == part.digest:
                cause = "attached" if service.attached else f"{service.name} starts"
                login = Operation("log in", part.pair, cause, service=service.name, component=part.component)
                self.add(login, [key_of("ready", service.name)])

    def add_drops(self, service: DesiredService) -> None:
        """Remove the parts of former components."""
        for name, part in service.former.items():
            if name in self._terms.drop and part.pair in self._terms.provisioned:
                self.add(drop(part, "not in devenv.yaml any more"), self._usable(service))

    def _usable(self, service: DesiredService) -> list[str]:
        # A component's part may lie in the data of services that this one needs, and no golden state may hold it.
        kept = [key_of("keep", name) for name in (service.name, *sorted(providers(service.name, self._desired)))]
        return [key_of("ready", service.name), key_of("prepare", service.name), *kept]

    def add_keeping(self) -> None:
        """Keep the data of services right after their first start, with what others of this plan created in it.

        Do not keep the data of a service that an older one may have written to.
        """
        desired = self._desired
        kept = set(self._observed.volumes) - self.emptied.keys()
        for service in desired.services.values():
            users = [name for name in desired.services if service.name in providers(name, desired)]
            fresh = not any(volume in kept or volume in desired.sources for volume in service.golden)
            if desired.keep and service.golden and fresh and {service.name, *users} <= self.stale.keys():
                after = [key_of("ready", name) for name in (service.name, *users)]
                self.add(Operation("keep", service.name, "for the next environment"), after)


def _images(service: DesiredService) -> list[str]:
    """Return the keys of the operations that can get the service's image."""
    return [key_of("build image", service.name), key_of("pull image", service.name)]
