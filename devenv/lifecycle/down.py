"""Stop and take down what an environment has, from anywhere and even if its project folder is gone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from devenv.engine import KUBERNETES, kind_of
from devenv.errors import ConfigError, DevenvError, NoEngine, NotOurs
from devenv.images import snapshot
from devenv.lifecycle.attached import attached_on_record, refuse_attached
from devenv.lifecycle.execute import carry_out
from devenv.lifecycle.listing import engines
from devenv.lifecycle.picture import Picture
from devenv.lifecycle.plan import plan_down, plan_stop
from devenv.lifecycle.world import World
from devenv.model import LABEL_ENVIRONMENT, Catalogue, Desired, Observed, ObservedContainer, Plan, Report, Result
from devenv.names import Pair, hint_for
from devenv.spec.catalogue import load_catalogue
from devenv.spec.desired import needs
from devenv.store import registry
from devenv.store.places import forward_folder
from devenv.store.record import Record
from devenv.store.state import Notes, State


def stop(world: World, names: Sequence[str]) -> Result:
    """Stop containers and keep them. Services without a container count as stopped. The caller holds the lock."""
    with _saying_what_stays(world):
        picture = world.bare()
    catalogue = picture.defined.catalogue
    refuse_attached(names, picture.observed.attached)
    if left := sorted(picture.observed.attached):
        world.report.note(f"left alone: {', '.join(left)}, which somebody else runs")
    stopping = present(picture.observed, names, catalogue)
    plan = plan_stop(stopping, needs(catalogue))
    timings = carry_out(world, plan, picture)
    _end_forward(world, picture.observed, stopping)
    return Result(plan, {}, timings)


def take_down(world: World, names: Sequence[str], volumes: bool, abandon: bool = False) -> Result:
    """Remove containers, and with `volumes` their data. Drop what devenv made in attached services.

    With `abandon`, leave that there and forget it: the server may be gone.

    Without `names`, also remove the network, and with `volumes` all else that the environment has. Root may do so for
    any user. The caller holds the lock.
    """
    with _saying_what_stays(world):
        picture = world.bare(removing=True)
    world.seat.check(picture.observed)
    observed, catalogue = picture.observed, picture.defined.catalogue
    removing = present(observed, names, catalogue)
    attached = attached_on_record(world.state, names)
    made = [] if abandon else [*picture.record.provisioned]
    plan = plan_down(
        removing,
        needs(catalogue),
        () if names else observed.networks,
        _volumes(world, observed, names) if volumes else {},
        gently=not volumes,
        attached=attached,
        provisioned=made,
    )
    try:
        timings = carry_out(world, plan, replace(picture, wanted=attached))
    except DevenvError as error:
        if any(op.action in ("drop", "release") for op in error.operations):
            error.hint = f"{error.hint}; if that server is gone for good: 'devenv down --abandon'"
        raise
    _end_forward(world, observed, removing)
    _tell_attached(world, plan, attached, abandon)
    if volumes and not names:
        _forget(world, picture)
    elif volumes:
        record = world.state.load()
        kept = {pair: d for pair, d in record.provisioned.items() if Pair.parse(pair).service not in names}
        unfinished = [name for name in record.unfinished if name not in names]
        roles = {role: name for role, name in record.roles.items() if name not in names}
        world.state.amend(provisioned=kept, unfinished=unfinished, roles=roles)
        Notes(world.state).renewed(names)
    return Result(plan, {}, timings)


@contextmanager
def _saying_what_stays(world: World) -> Iterator[None]:
    """Say in the hint, if an engine elsewhere cannot be reached, what stays there and here."""
    try:
        yield
    except NoEngine as error:
        if forward_folder(world.id).exists():
            error.hint += (
                f"; {world.id} stays there as it is, and its tunnel here: 'devenv gc' ends that, and 'devenv down' "
                "takes down the rest once the host is back"
            )
        raise


def leave(world: World) -> None:
    """Remove what this host has of a shared environment. Other hosts go on with theirs. The caller holds the lock.

    It takes no cluster. Raise ConfigError for an environment of this host alone.
    """
    if not world.state.shared:
        raise ConfigError(f"cannot leave {world.id}: no other host shares it", "'devenv down' takes it down")
    # Imported here: `down` needs no program of the host.
    from devenv.engine import forward

    forward.end(forward_folder(world.id))
    world.written.remove(load_catalogue(), but=None if world.project.is_dir() else world.written.usual_folder)
    world.state.leave()
    for change in world.files.restore_all(wired.path for wired in world.files.wired()):
        if change.changed:
            world.report.note(f"restored {change.path}")


def _end_forward(world: World, observed: Observed, ended: Sequence[ObservedContainer]) -> None:
    """End what forwards ports of an engine elsewhere, once no service runs any more."""
    left = {one.id for one in (*observed.containers.values(), *observed.extra) if one.alive} - {one.id for one in ended}
    if not left and not world.engine.local:
        world.engine.end_forward(world.id)


def _tell_attached(world: World, plan: Plan, attached: Desired, abandon: bool = False) -> None:
    """Tell what devenv has dropped in attached services, which go on as they are, and forget these."""
    record = world.state.load()
    for name, service in attached.services.items():
        left = [pair for pair in record.provisioned if Pair.parse(pair).service == name]
        if abandon and left:
            world.report.note(f"left in {name} at {service.attached}, and forgotten: {', '.join(left)}")
            Notes(world.state).no_parts(left)
            continue
        dropped = [op.component for op in plan.operations if op.action == "drop" and op.service == name]
        what = f"dropped {', '.join(dropped)}" if dropped else "nothing to drop"
        world.report.note(f"{name} at {service.attached} goes on: {what} there")
    others = {name: s for name, s in world.state.attachments().items() if name not in attached.services}
    if attached.services:
        world.state.attach(others)


def _forget(world: World, picture: Picture) -> None:
    """Remove the rest of an environment: leftover images, files, the record."""
    observed = picture.observed
    snapshot.remove_leftovers(world.state, world.engine, observed.images)
    world.written.remove(picture.defined.catalogue)
    # Without a token on record, the next `up` might take over a stranger's.
    world.state.forget(observed.owner if observed.strangers else "")
    # Last: a file that devenv cannot restore stays on record for `unwire`, and must not stop the rest.
    for change in world.files.restore_all(wired.path for wired in world.files.wired()):
        if change.changed:
            world.report.note(f"restored {change.path}")


def present(observed: Observed, names: Sequence[str], catalogue: Catalogue) -> list[ObservedContainer]:
    """Return the containers of these services, or all. Raise ConfigError for an unknown service."""
    for name in names:
        if name not in catalogue and name not in observed.containers:
            raise ConfigError(f"cannot find service {name!r}", hint_for(name, catalogue, "devenv has"))
    everything = (*observed.containers.values(), *observed.extra)
    return [container for container in everything if not names or container.service in names]


def _volumes(world: World, observed: Observed, names: Collection[str]) -> dict[str, str]:
    """Return the volumes of these services (without names, all that are there), each with its service."""
    if not names:
        return {**observed.volumes, **dict.fromkeys(world.engine.leftover_volumes(world.id, observed.owner), "")}
    return {volume: service for volume, service in observed.volumes.items() if service in names}


# ---- environments of any folder -------------------------------------------------------------------------------


def by_id(identity: str, names: Sequence[str], volumes: bool, report: Report, abandon: bool = False) -> Result:
    """Take down an environment of this user, as `take_down` does, wherever its project folder is or was.

    Without `names`, `volumes` also removes the snapshots of an environment whose project folder is gone: nothing else
    can use them. Raise NotOurs for one that this user has no record of, ConfigError if there is no such environment.
    """
    record = next((record for record in registry.all_records() if record.id == identity), None)
    if record is None:
        raise _not_on_record(identity, report.note)
    world = _known_by(record, report)
    if volumes and not names and record in registry.gone():
        return _remove(world)
    with world.changing():
        return take_down(world, names, volumes, abandon)


def _not_on_record(identity: str, note: Callable[[str], None]) -> DevenvError:
    known = [record.id for record in registry.all_records()]
    if not any(identity in engine.environments({}) for engine in engines(note)):
        hint = f"{hint_for(identity, known, 'this user has')}; 'devenv ls' lists all"
        return ConfigError(f"cannot find environment {identity!r}", hint)
    label = f"label={LABEL_ENVIRONMENT}={identity}"
    return NotOurs(
        f"cannot take down {identity}: there is no record of it here, so another user may have made it",
        f"as the user who made it, run 'devenv down --id {identity}'; "
        f"'docker ps --all --filter {label}' shows its containers",
    )


# ---- environments whose project folder is gone ---------------------------------------------------------------


@dataclass(frozen=True)
class Gone:
    """The rest of an environment; `containers`, `volumes` and `snapshots` are counts."""

    id: str
    name: str
    project: str
    containers: int
    volumes: int
    snapshots: int


def listed(note: Callable[[str], None] = lambda _: None) -> list[Gone]:
    """Return the environments whose project folder was moved or deleted, or is on a disk that is not mounted.

    `note` gets a text for each one whose cluster does not answer.
    """
    found = []
    for record in registry.gone():
        try:
            found.append(_left_of(_known_by(record, Report())))
        except NoEngine as error:
            if kind_of(record.engine) != KUBERNETES:
                raise
            note(f"cannot say what {record.id} left: {error.message}")
    return found


def remove(identity: str, report: Report) -> Result:
    """Remove an environment whose project folder is gone, with its data and its snapshots.

    If strangers carry its label, its token stays on record, and it is `listed` until they are gone, too. Raise
    ConfigError for any other environment.
    """
    records = {record.id: record for record in registry.gone()}
    if record := records.get(identity):
        world = _known_by(record, report)
        if not record.shared:
            return _remove(world)
        # Others may use it.
        with world.changing(here=True):
            leave(world)
        return Result(Plan(()), {}, [])
    known = ", ".join(records) or "none"
    raise ConfigError(
        f"cannot remove environment {identity!r}: it is not one whose project folder is gone",
        hint=f"of these there are: {known}; in its folder, 'devenv down --volumes' removes an environment",
    )


def _known_by(record: Record, report: Report) -> World:
    """Return an environment of which devenv knows only the record."""
    project = Path(record.project)
    return World(project, State(project, record.name, record.id), record.name, report)


def _left_of(world: World) -> Gone:
    observed = world.observe()
    return Gone(
        id=world.id,
        name=world.name,
        project=str(world.project),
        containers=len(observed.containers) + len(observed.extra),
        volumes=len(observed.volumes),
        snapshots=len(snapshot.load_all(world.state)),
    )


def _remove(world: World) -> Result:
    """Remove all of it. Touch no file where the project folder was: that may be a link to its new place."""
    with world.changing():
        picture = world.bare()
        world.seat.check(picture.observed)
        observed, catalogue = picture.observed, picture.defined.catalogue
        for saved in snapshot.load_all(world.state):
            snapshot.remove(world.state, world.engine, saved)
        containers, volumes = present(observed, (), catalogue), _volumes(world, observed, ())
        attached, made = attached_on_record(world.state), picture.record.provisioned
        plan = plan_down(containers, needs(catalogue), observed.networks, volumes, False, attached, made)
        timings = carry_out(world, plan, replace(picture, wanted=attached))
        _end_forward(world, observed, containers)
        _tell_attached(world, plan, attached)
        snapshot.remove_leftovers(world.state, world.engine, observed.images)
        world.written.remove(catalogue, but=world.written.usual_folder)
        # As in `_forget`: a project that comes back must not take over a stranger's token.
        world.state.forget(observed.owner if observed.strangers else "")
        world.files.restore_all(wired.path for wired in world.files.wired() if not wired.path.exists())
        return Result(plan, {}, timings)
