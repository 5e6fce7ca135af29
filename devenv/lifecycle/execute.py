"""Walk a plan: run every operation as soon as those before it are done, as many at the same time as are ready.

A failed operation stops what waits for it and nothing else. The plan decides; this file carries out.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from graphlib import TopologicalSorter

from devenv.engine.ownership import labels_of
from devenv.engine.protocol import Capability, Engine
from devenv.errors import Cancelled, DevenvError, LimitRefused, NotOurs, PortTaken, ServiceFailed, Unreachable
from devenv.images import golden
from devenv.images.references import check_image
from devenv.lifecycle.journal import Journal, RecordJournal
from devenv.lifecycle.picture import Picture
from devenv.lifecycle.world import World
from devenv.model import (
    LABEL_ENVIRONMENT,
    LABEL_SERVICE,
    Action,
    Catalogue,
    Desired,
    DesiredService,
    Image,
    Operation,
    Plan,
    Report,
    Timing,
)
from devenv.services.base import Component, Provisioner
from devenv.services.readiness import Patience, provisioner_of, wait_until_ready

# Seconds that a service may take to start from its golden state, ten times the usual. Then devenv starts it without.
_GOLDEN_SECONDS = 60
# Seconds that a service may take after it cleared its data. A healthy one answers immediately; devenv recreates others.
_EMPTIED_SECONDS = 10
# A plan is as wide as its services, plus builds. Threads that wait cost next to nothing.
_THREADS = 32
# Docker's own grace period, for a container whose service is in no catalogue.
_STOP_SECONDS = 10
# How many components get their parts of one service at the same time: more would only wait inside it, and hold threads.
_AT_ONCE = 6


@dataclass
class Context:
    """The values that the operations of a plan share.

    `containers` maps services to container ids and grows; `network` is the network's id, once it exists. `everything`
    has the services that are not to be acted on, too. `timeout` is how long one service may take to become ready, in
    seconds. `note` gets texts for the user. `hopeful` are shorter
    limits, in seconds, for services that took a short way to their data: if it fails, devenv takes a longer one.
    """

    engine: Engine
    desired: Desired
    containers: dict[str, str]
    network: str = ""
    everything: Desired | None = None
    catalogue: Catalogue = field(default_factory=dict)
    images: Mapping[str, Image] = field(default_factory=dict)
    timeout: float = 180.0
    journal: Journal = field(default_factory=Journal)
    note: Callable[[str], None] = lambda text: None
    cancelled: threading.Event = field(default_factory=threading.Event)
    hopeful: dict[str, float] = field(default_factory=dict)
    provisioners: dict[str, Provisioner] = field(default_factory=dict)
    opening: threading.Lock = field(default_factory=threading.Lock)


def carry_out(
    world: World, plan: Plan, picture: Picture, report: Report | None = None, remember: bool = True
) -> list[Timing]:
    """Carry out a plan for what the picture wants. With `remember`, record the outcome; the caller holds the lock.

    A plan that leaves the environment as it is needs no lock and no record. Raise what `execute` raises.
    """
    desired, observed, defined = picture.wanted, picture.observed, picture.defined
    journal = RecordJournal(world.state, plan, desired, observed, defined.catalogue) if remember else Journal()
    context = Context(
        engine=world.engine,
        desired=desired,
        containers={name: container.id for name, container in observed.containers.items()},
        network=next(iter(observed.networks), ""),
        everything=picture.everything,
        catalogue=defined.catalogue,
        images=defined.images,
        timeout=world.timeout,
        journal=journal,
        note=world.report.note,
        cancelled=world.begin(),
    )
    journal.begin()
    try:
        return execute(plan, context, report or world.report)
    finally:
        journal.end()


def execute(plan: Plan, context: Context, report: Report) -> list[Timing]:
    """Run the plan; return when each operation ran.

    Raise the first failure, with the others in its detail. Raise KeyboardInterrupt after a clean end when the user
    interrupts; a second interrupt ends the process immediately.
    """
    run = _Run(plan, context, report)
    report.begin(plan)
    try:
        run.all()
    finally:
        report.end()
        for provisioner in context.provisioners.values():
            provisioner.close()
    run.raise_failures()
    return run.timings


class _Run:
    """One execution of one plan."""

    def __init__(self, plan: Plan, context: Context, report: Report) -> None:
        self._operations = {operation.key: operation for operation in plan.operations}
        self._context, self._report = context, report
        self._failures: dict[str, BaseException] = {}
        # Attached servers that do not answer, by service, as the first operation saw it.
        self._unreachable: dict[str, Unreachable] = {}
        self._began = time.monotonic()
        self._interrupted = False
        self.timings: list[Timing] = []

    def all(self) -> None:
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="devenv") as pool:
            try:
                self._walk(pool)
            except BaseException as error:
                if self._interrupted and isinstance(error, KeyboardInterrupt):
                    self._report.end()
                    os._exit(130)
                # An interrupt outside of the wait: running operations must not go on for minutes.
                self._context.cancelled.set()
                raise

    def _walk(self, pool: ThreadPoolExecutor) -> None:
        """Run each operation after those that it waits for. An operation that waits for a failed one never runs."""
        order = TopologicalSorter({key: operation.after for key, operation in self._operations.items()})
        order.prepare()
        ready: list[Operation] = []
        running: dict[Future[None], Operation] = {}
        left = dict(self._operations)
        while True:
            ready += [self._operations[key] for key in order.get_ready()]
            for operation in list(ready):
                if self._may_start(operation, running.values()):
                    ready.remove(operation)
                    running[pool.submit(self._one, operation)] = operation
            if not running:
                break
            for future in self._first_of(running):
                operation = running.pop(future)
                if error := future.exception():
                    self._failures[operation.key] = error
                else:
                    order.done(operation.key)
                    del left[operation.key]
        for key in left:
            self._failures.setdefault(key, Cancelled())

    def _may_start(self, operation: Operation, running: Iterable[Operation]) -> bool:
        if self._context.cancelled.is_set():
            return False
        beside = sum(1 for op in running if op.component and op.service == operation.service)
        return not operation.component or beside < _AT_ONCE

    def _first_of(self, running: Mapping[Future[None], Operation]) -> set[Future[None]]:
        try:
            return wait(running, return_when=FIRST_COMPLETED).done
        except KeyboardInterrupt:
            if self._interrupted:
                raise
            self._interrupted = True
            self._context.cancelled.set()
            self._report.note("interrupted: finishing what has begun (Ctrl-C again stops immediately)")
            return set()

    def _one(self, operation: Operation) -> None:
        began = time.monotonic()
        self._report.started(operation)
        try:
            _ACTIONS[operation.action](operation, self._context, self._teller(operation))
        except BaseException as error:
            reason = "interrupted" if isinstance(error, Cancelled) else str(error)
            if isinstance(error, Unreachable):
                first = self._unreachable.setdefault(_service_of(operation), error)
                reason = reason if first is error else ""
            self._report.failed(operation, time.monotonic() - began, reason)
            raise
        ended = time.monotonic()
        self.timings.append(Timing(operation, began - self._began, ended - self._began))
        self._report.finished(operation, ended - began)

    def _teller(self, operation: Operation) -> Callable[[str], None]:
        def tell(text: str) -> None:
            if self._context.cancelled.is_set():
                raise Cancelled
            self._report.progress(operation, text)

        return tell

    def raise_failures(self) -> None:
        if self._interrupted:
            raise KeyboardInterrupt
        failed = {key: self._failures[key] for key in self._operations if key in self._failures}
        errors = {key: error for key, error in failed.items() if not isinstance(error, Cancelled)}
        if not errors:
            if failed:  # another thread cancelled it
                raise Cancelled
            return
        first, *others = self._told(errors)
        if isinstance(first, DevenvError):
            first.operations = tuple(self._operations[key] for key in errors)
            first.detail = (*first.detail, *(f"also: {error}" for error in others))
            first.disk_full = any(isinstance(error, DevenvError) and error.disk_full for error in errors.values())
        raise first

    def _told(self, errors: Mapping[str, BaseException]) -> list[BaseException]:
        """Return the errors; for a server that does not answer one, with all that was left undone there."""
        undone: dict[str, list[Operation]] = {}
        told: dict[BaseException, None] = {}
        for key, error in errors.items():
            if isinstance(error, Unreachable):
                service = _service_of(self._operations[key])
                undone.setdefault(service, []).append(self._operations[key])
                error = self._unreachable[service]
            told[error] = None
        for service, operations in undone.items():
            first = self._unreachable[service]
            first.message += f"; left undone there: {_listed(operations)}"
            first.args = (first.message,)
        return [*told]


def _service_of(operation: Operation) -> str:
    return operation.service or operation.target


def _listed(operations: Sequence[Operation]) -> str:
    """Return actions with what they act on: "drop nova, glance; release"."""
    targets: dict[Action, list[str]] = {}
    for operation in operations:
        targets.setdefault(operation.action, []).append(operation.component)
    return "; ".join(f"{action} {', '.join(names)}".strip() for action, names in targets.items())


# ---- what each action does ---------------------------------------------------------------------------------

Tell = Callable[[str], None]


def _fetch_wheels(operation: Operation, context: Context, tell: Tell) -> None:
    # Imported here, as below: hardly any `up` builds images.
    from devenv.images.build import fetch_wheels

    fetch_wheels(context.engine, context.catalogue[operation.target], tell)


def _build_image(operation: Operation, context: Context, tell: Tell) -> None:
    from devenv.images.build import build_image, build_lock, make_base

    # Another project's devenv may be building the same image: then use that one.
    with build_lock(operation.subject, tell, context.cancelled):
        if operation.subject in context.engine.images():
            check_image(context.engine, operation.subject)
            return
        if operation.target == "base":
            make_base(context.engine, operation.subject, tell)
        else:
            base = context.images["base"].reference
            build_image(context.engine, context.catalogue[operation.target], operation.subject, base, tell)


def _pull_image(operation: Operation, context: Context, tell: Tell) -> None:
    context.engine.pull(operation.subject, tell)


def _create_network(operation: Operation, context: Context, _: Tell) -> None:
    context.network = context.engine.create_network(operation.target, labels_of(context.desired))


def _forward(_: Operation, context: Context, __: Tell) -> None:
    context.engine.forward(context.everything or context.desired)


def _fill(operation: Operation, context: Context, _: Tell) -> None:
    volume, service = operation.target, context.desired.services[operation.service]
    folder = golden.folder_in(service.volumes[volume])
    # Nobody knows how long a node takes to get the image.
    if operation.golden and Capability.KEEP_DATA in context.engine.can:
        context.hopeful[service.name] = _GOLDEN_SECONDS
    context.engine.fill_volume(volume, operation.subject, folder, labels_of(context.desired), service.name)


def _keep(operation: Operation, context: Context, tell: Tell) -> None:
    service = context.desired.services[operation.target]
    try:
        golden.keep(
            context.engine,
            context.containers[service.name],
            service,
            _golden_images(service, context),
            tell,
            context.cancelled,
        )
    except DevenvError as error:
        # The service works all the same; only the next environment's first start is slow.
        context.note(f"could not keep the golden state of {service.name}: {error}")


def _golden_images(service: DesiredService, context: Context) -> dict[str, str]:
    """Return the images for a golden state, by volume. Their names depend on the images that this plan has built."""
    found = golden.references(context.desired, context.catalogue, context.engine.images())
    return {volume: found[volume] for volume in service.golden}


def _save(operation: Operation, context: Context, tell: Tell) -> None:
    service = context.desired.services[operation.service]
    labels = {LABEL_ENVIRONMENT: context.desired.environment, LABEL_SERVICE: service.name}
    with closing(
        context.engine.read_folder(context.containers[service.name], service.volumes[operation.target])
    ) as stream:
        context.engine.import_data(operation.subject, golden.watched(stream, tell), labels)


def _create(operation: Operation, context: Context, _: Tell) -> None:
    service = context.desired.services[operation.target]
    context.containers[service.name] = context.engine.create(service, labels_of(context.desired), context.network)
    context.journal.created(service.name)


def _start(operation: Operation, context: Context, tell: Tell) -> None:
    service, refused = operation.target, set[str]()
    while True:
        try:
            return context.engine.start(context.containers[service], service)
        except PortTaken:
            if not operation.subject:  # created for this start: it would keep the port
                context.engine.remove(context.containers[service])
            raise
        except LimitRefused as error:
            if error.limit in refused:
                raise
            refused.add(error.limit)
            # A new container asks for no such limit, so it has the engine's own.
            context.engine.remove(context.containers[service])
            _create(operation, context, tell)


def _stop(operation: Operation, context: Context, _: Tell) -> None:
    definition = context.catalogue.get(operation.service)
    seconds = definition.options.stop_grace_period if definition else _STOP_SECONDS
    context.engine.stop(operation.subject, seconds)


def _remove(operation: Operation, context: Context, _: Tell) -> None:
    context.engine.remove(operation.subject)


def _remove_network(operation: Operation, context: Context, _: Tell) -> None:
    context.engine.remove_network(operation.subject)


def _remove_volume(operation: Operation, context: Context, _: Tell) -> None:
    context.engine.remove_volume(operation.subject)


def _prepare(operation: Operation, context: Context, _: Tell) -> None:
    service = context.desired.services[operation.target]
    provisioner = _provisioner(service, context)
    # A login that is refused here has made nothing, and could not release it either.
    if service.attached and not context.journal.ours(service.name) and provisioner.lacks():
        context.journal.begun(service.name)
    provisioner.prepare()
    context.journal.provisioned(service.name, service.prepared)


def _empty(operation: Operation, context: Context, _: Tell) -> None:
    service = context.desired.services[operation.target]
    _provisioner(service, context).empty(service.files[service.provisioner["initial"]])
    context.hopeful[service.name] = _EMPTIED_SECONDS


def _settle(operation: Operation, context: Context, _: Tell) -> None:
    _provisioner(context.desired.services[operation.target], context).settle()


def _provision(operation: Operation, context: Context, _: Tell) -> None:
    service = context.desired.services[operation.service]
    part = service.components[operation.component]
    provisioner, component = _provisioner(service, context), Component(part.component, part.settings)
    if service.attached and not context.journal.ours(part.pair):
        _make_new(provisioner, component, part.pair, context)
    else:
        provisioner.ensure(component)
    context.journal.provisioned(part.pair, part.digest)


def _make_new(provisioner: Provisioner, component: Component, pair: str, context: Context) -> None:
    """Give a component its part of an attached service, unless somebody else has something of that name there.

    Leave nothing there if that fails: the server may let devenv begin, and not end.
    """
    if found := provisioner.found(component):
        target = provisioner.target
        where = f"{target.service} ({target.host}:{target.port})"
        raise NotOurs(
            f"cannot create {provisioner.what} of component {component.name} in {where}: "
            f"it has {found} of that name that devenv did not make",
            "another environment may use that: remove it there if nobody does, or give the component another name",
        )
    context.journal.begun(pair)
    try:
        provisioner.ensure(replace(component, new=True))
    except NotOurs:
        # What is there belongs to whoever was faster.
        context.journal.undone(pair)
        raise
    except DevenvError:
        with suppress(DevenvError):
            provisioner.drop(component)
        with suppress(DevenvError):
            if not provisioner.found(component):
                context.journal.undone(pair)
        raise


def _log_in(operation: Operation, context: Context, _: Tell) -> None:
    service = context.desired.services[operation.service]
    part = service.components[operation.component]
    try:
        _provisioner(service, context).log_in(Component(part.component, part.settings))
    except ServiceFailed as error:
        # The service works all the same, and the record calls the part unknown: the next `up` completes it.
        context.note(f"{error.message}: 'devenv up' completes what is missing")
    else:
        context.journal.provisioned(part.pair, part.digest)


def _drop(operation: Operation, context: Context, _: Tell) -> None:
    service = context.desired.services[operation.service]
    part = {**service.components, **service.former}[operation.component]
    _provisioner(service, context).drop(Component(part.component, part.settings))
    context.journal.provisioned(part.pair, "")


def _release(operation: Operation, context: Context, _: Tell) -> None:
    _provisioner(context.desired.services[operation.target], context).release()
    context.journal.provisioned(operation.target, "")


def _provisioner(service: DesiredService, context: Context) -> Provisioner:
    """Return the one provisioner of the service in this run: it keeps connections and logins for all components."""
    with context.opening:
        if service.name not in context.provisioners:
            context.provisioners[service.name] = provisioner_of(service)
        return context.provisioners[service.name]


def _ready(operation: Operation, context: Context, tell: Tell) -> None:
    service = context.desired.services[operation.target]
    seconds = min(context.timeout, context.hopeful.get(service.name, context.timeout))
    patience = Patience(seconds, context.cancelled)
    wait_until_ready(service, context.containers.get(service.name, ""), context.engine, patience, tell)
    context.journal.ready(service.name)


_ACTIONS: Mapping[Action, Callable[[Operation, Context, Tell], None]] = {
    "fetch wheels": _fetch_wheels,
    "build image": _build_image,
    "pull image": _pull_image,
    "create network": _create_network,
    "forward": _forward,
    "fill": _fill,
    "keep": _keep,
    "save": _save,
    "create": _create,
    "start": _start,
    "stop": _stop,
    "remove": _remove,
    "remove network": _remove_network,
    "remove volume": _remove_volume,
    "empty": _empty,
    "settle": _settle,
    "prepare": _prepare,
    "provision": _provision,
    "log in": _log_in,
    "drop": _drop,
    "release": _release,
    "ready": _ready,
}
