"""Give services other data: reset them, save a snapshot, restore one."""

from __future__ import annotations

from collections.abc import Sequence

from devenv.errors import ConfigError, DevenvError, Unsupported
from devenv.images import snapshot
from devenv.images.snapshot import Snapshot
from devenv.lifecycle.attached import refuse_data
from devenv.lifecycle.execute import carry_out
from devenv.lifecycle.loans import keep
from devenv.lifecycle.picture import Picture
from devenv.lifecycle.plan import plan_empty
from devenv.lifecycle.up import KEEPING, Renewal, Wish, bring_up, note_renewal, preflight
from devenv.lifecycle.world import World
from devenv.model import Result
from devenv.names import check_name


def reset(world: World, names: Sequence[str]) -> Result:
    """Give services (all of the profile, if none is named) the data that they had right after their first `up`.

    Raise ConfigError if data of a named service is in another one, too.
    """
    defined = world.prepared(names)
    services = defined.select(names) if names else list(defined.profile.services)
    hint = "'devenv reset --component NAME' empties what a component has there"
    refuse_data("reset", services, defined.attached, hint)
    if names and (more := [name for name in services if name not in names]):
        raise ConfigError(
            f"cannot reset {', '.join(names)} alone: data is in {', '.join(more)}, too, with that of others",
            f"'devenv reset {' '.join(services)}' empties all of these",
        )
    with world.changing():
        keep(world, services)
        wish = Wish(names, renewal=Renewal(dict.fromkeys(services, "")))
        return bring_up(world, defined, wish, world.report)


def reset_component(world: World, component: str) -> Result:
    """Drop a component's part of each service and provision it again."""
    with world.changing():
        defined = world.define()
        world.check_addresses(defined.own)
        picture = world.there(defined, [component])
        plan = plan_empty(picture.wanted, component)
        return Result(plan, picture.wanted.services, carry_out(world, plan, picture))


def save(world: World, name: str) -> Snapshot:
    """Save the data of all services under a name. The services pause meanwhile.

    Raise ConfigError if the name is taken or a service was never started, Unsupported if the engine keeps no data.
    """
    check_name(name, "a snapshot")
    defined = world.define()
    refuse_data("save", defined.select(), defined.attached, "dump its data with the server's own tools")
    if not world.engine.can >= KEEPING:
        raise Unsupported(
            f"cannot save a snapshot: the engine at {world.engine.url} keeps no data of volumes",
            "use Docker or Podman, or dump the data with the server's own tools",
        )
    state = world.state
    with world.changing():
        snapshot.check_free(state, name)
        picture = world.there(world.define())
        plan, services = snapshot.plan_save(picture.wanted, picture.observed)
        # On record before devenv creates them: it can then remove those that a killed devenv leaves.
        images = [operation.subject for operation in plan.operations]
        state.amend(saving=[*state.load().saving, *images])
        try:
            _settle(world, picture)  # the last step before they pause
            with snapshot.standing_still(world.engine, list(picture.observed.containers.values())):
                carry_out(world, plan, picture)
            saved = snapshot.write(state, name, services, world.engine)
            # Otherwise each later `up` would read all snapshots to learn whose these images are.
            state.amend(saving=[image for image in state.load().saving if image not in images])
            return saved
        finally:
            snapshot.remove_leftovers(state, world.engine, world.engine.images())


def _settle(world: World, picture: Picture) -> None:
    try:
        carry_out(world, snapshot.plan_settle(picture.wanted, picture.observed), picture)
    except DevenvError as error:
        world.report.note(f"{error.message}: what it was told in the last two seconds may be missing")


def restore(world: World, name: str) -> Result:
    """Give all services the data of a snapshot, and return when they work. They lose their present data.

    Raise ConfigError, with the reason, if another version of a service made the data.
    """
    defined = world.prepared(())
    refuse_data("restore", defined.select(), defined.attached, "load its data with the server's own tools")
    with world.changing():
        saved = snapshot.load(world.state, name)
        picture = world.look(world.with_lent(defined), check_ports=True)
        snapshot.check(saved, defined.images, picture.observed.images, defined.profile.services)
        preflight(world, picture)  # while the secrets still fit the present data
        # On record first: if a kill leaves new secrets with old data, the next `up` completes the restore.
        renewal = Renewal(dict.fromkeys(saved.services, name), saved.provisioned)
        note_renewal(world, renewal)
        keep(world, saved.services)
        return bring_up(world, defined, Wish(renewal=renewal), world.report)


def remove_snapshot(world: World, name: str) -> None:
    """Forget a snapshot and remove its data. Raise ConfigError while a restore of it is unfinished."""
    with world.changing():
        saved = snapshot.load(world.state, name)
        if name in world.state.load().renewing.values():
            raise ConfigError(
                f"cannot remove snapshot {name!r}: it is being restored",
                "'devenv up' finishes that, 'devenv reset' drops it",
            )
        snapshot.remove(world.state, world.engine, saved)
