"""List all environments that the engines have, beside what this user's records say of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from devenv.engine import DOCKER, KUBERNETES, asked_for, connect, kind_of
from devenv.engine.nothing import NOTHING
from devenv.engine.protocol import Engine
from devenv.errors import NoEngine, ServiceFailed
from devenv.model import Observed
from devenv.store import registry
from devenv.store.places import forward_folder
from devenv.store.record import NO_TUNNEL, Record
from devenv.store.state import State

_MOST_REQUESTS = 64
# The state of a service that somebody else runs. Whether it is ready, `devenv status` asks.
ATTACHED = "attached"


@dataclass(frozen=True)
class Listed:
    """One environment: what the engine has of it, and its record. Without a record, this user did not make it.

    `gone` says that its project folder was moved or deleted, `used` that a run uses it now. `leftover` are services
    that a killed run left. `memory` (in use) and `disk` (of data) are bytes by service, None where nobody measured.
    `engine` is the URL of the engine that has it; `tunnel` says why its ports do not reach this host, if they should.
    """

    id: str
    observed: Observed
    record: Record | None = None
    gone: bool = False
    used: bool = False
    leftover: tuple[str, ...] = ()
    memory: Mapping[str, int | None] = field(default_factory=dict)
    disk: Mapping[str, int | None] = field(default_factory=dict)
    engine: str = ""
    tunnel: str = ""

    @property
    def services(self) -> dict[str, str]:
        """Return the state of each service's container; "down" with data alone, "attached" if somebody else runs it."""
        states = {name: container.state for name, container in self.observed.containers.items()}
        attached = dict.fromkeys(self.observed.attached, ATTACHED)
        return dict(sorted({**dict.fromkeys(self.observed.services, "down"), **attached, **states}.items()))

    @property
    def state(self) -> str:
        """Return the state that all containers have, "partly" if they differ, "down" if there are none.

        It is "leftover" if a killed run left all of them, "attached" if somebody else runs all services.
        """
        if self.observed.attached and self.observed.attached == self.services.keys():
            return ATTACHED
        containers = self.observed.containers
        if containers and containers.keys() <= {*self.leftover}:
            return "leftover"
        states = {container.state for container in containers.values()} or {"down"}
        state = states.pop() if len(states) == 1 else "partly"
        return "stopped" if state == "exited" else state


def engines(note: Callable[[str], None], kind: str = "", context: str = "", namespace: str = "") -> list[Engine]:
    """Return the engine of this host and every cluster on record; the one of a `kind` if that is asked for.

    `note` gets a text for each one that does not answer. Raise NoEngine if none does.
    """
    if asked := asked_for(kind):
        return [connect(asked, "", context, namespace) if asked == KUBERNETES else connect()]
    known = {record.engine for record in registry.all_records()}
    clusters = sorted(url for url in known if kind_of(url) == KUBERNETES)
    found, failures = [], list[NoEngine]()
    for url in ("", *clusters):
        try:
            found.append(connect(KUBERNETES, url) if url else connect())
        except NoEngine as error:
            failures.append(error)
            # Who only uses clusters need not have an engine here.
            if url or any(kind_of(one) == DOCKER for one in known):
                note(f"{error.message}; what it has is left out")
    if not found:
        raise failures[-1]
    return found


def list_environments(
    usage: bool = False,
    note: Callable[[str], None] = lambda _: None,
    kind: str = "",
    context: str = "",
    namespace: str = "",
) -> list[Listed]:
    """Return every environment with a container, volume, network or attached service; those without a record come last.

    The engines are those of `engines`; environments of attached services alone need none. With `usage`, also measure
    memory and disk. This asks for no service's readiness, and changes nothing.
    """
    attached = [] if asked_for(kind) else _attached()
    try:
        asked = engines(note, kind, context, namespace)
    except NoEngine as error:
        if not attached:
            raise
        note(f"{error.message}; what it has is left out")
        asked = []
    listed = [one for engine in asked for one in _listed_by(engine, usage)]
    there = {one.id for one in listed}
    listed = [_with_attached(one, attached) for one in listed] + [one for one in attached if one.id not in there]
    return sorted(listed, key=lambda one: (not one.record, one.record.project if one.record else "", one.id))


def _attached() -> list[Listed]:
    """Return the environments that use servers of somebody else, with nothing but these, by this user's records."""
    gone = {record.id for record in registry.gone()}
    found = []
    for record in registry.all_records():
        if names := State(Path(record.project), record.name, record.id).attachments():
            observed = Observed(attached=frozenset(names))
            found.append(_described(NOTHING, record.id, observed, record, record.id in gone))
    return found


def _with_attached(one: Listed, attached: Iterable[Listed]) -> Listed:
    names = frozenset[str]().union(*(other.observed.attached for other in attached if other.id == one.id))
    return replace(one, observed=replace(one.observed, attached=names))


def _listed_by(engine: Engine, usage: bool) -> list[Listed]:
    records = {record.id: record for record in registry.all_records()}
    found = engine.environments({record.id: record.owner for record in records.values() if record.owner})
    gone = {record.id for record in registry.gone()}
    # Without the token of any devenv, an object only carries the label: it makes no environment.
    made = {identity: observed for identity, observed in found.items() if observed.owner or identity in records}
    listed = [
        _described(engine, identity, observed, records.get(identity), identity in gone)
        for identity, observed in made.items()
    ]
    return _measured(engine, listed) if usage else listed


def _described(engine: Engine, identity: str, observed: Observed, record: Record | None, gone: bool) -> Listed:
    if record is None:
        return Listed(identity, observed, engine=engine.url)
    used = State(Path(record.project), record.name, identity).used()
    left = () if used else tuple(name for name in record.borrowed if name in observed.services)
    fault = _tunnel_fault(engine, record, observed)
    return Listed(identity, observed, record, gone, used, left, engine=engine.url, tunnel=fault)


def _tunnel_fault(engine: Engine, record: Record, observed: Observed) -> str:
    """Return why ports of running services do not reach this host; empty if they do, or the user wants no tunnel."""
    published = {port for one in observed.containers.values() if one.running for port in one.ports.values()}
    there = engine.forwarded(record.id) if published and record.tunnel != NO_TUNNEL else None
    if there is None or there >= published:
        return ""
    from devenv.engine import forward

    return forward.fault(forward_folder(record.id)) or "it forwards other ports"


def _measured(engine: Engine, listed: list[Listed]) -> list[Listed]:
    """Ask for all sizes at the same time: an engine may take a second for the memory of each container."""
    running = [c.id for one in listed for c in one.observed.containers.values() if c.running]

    def memory_of(container: str) -> int | None:
        # One container that hangs, for which the engine answers too late, leaves the others their figures.
        with suppress(ServiceFailed, NoEngine):
            return engine.memory(container)
        return None

    sizes: dict[str, int] = {}
    with ThreadPoolExecutor(min(len(running) + 1, _MOST_REQUESTS)) as pool:
        volumes = pool.submit(engine.volume_sizes)
        memory = dict(zip(running, pool.map(memory_of, running), strict=True))
        # Docker before 23 measures for one at a time, and refuses others meanwhile. Millions of files take minutes.
        with suppress(ServiceFailed, NoEngine):
            sizes = volumes.result()
    return [_sized(one, memory, sizes) for one in listed]


def _sized(one: Listed, memory: Mapping[str, int | None], sizes: Mapping[str, int]) -> Listed:
    used = {name: memory[c.id] for name, c in one.observed.containers.items() if c.running}
    disk: dict[str, int | None] = {}
    for volume, service in one.observed.volumes.items():
        disk[service] = (disk.get(service) or 0) + sizes[volume] if volume in sizes else disk.get(service)
    return replace(one, memory=used, disk=disk)
