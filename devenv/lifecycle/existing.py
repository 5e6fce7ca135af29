"""Start, restart and wait for containers that exist, as they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from devenv.engine.protocol import Capability
from devenv.errors import ConfigError, Unsupported
from devenv.lifecycle import loans
from devenv.lifecycle.attached import refuse_attached
from devenv.lifecycle.execute import carry_out
from devenv.lifecycle.picture import Definitions, Picture
from devenv.lifecycle.plan import plan_restart, plan_start, plan_wait
from devenv.lifecycle.up import preflight, write_configs
from devenv.lifecycle.world import World
from devenv.model import Desired, Observed, Plan, Result


def start(world: World, names: Sequence[str]) -> Result:
    """Start containers; return when their services work. Raise ConfigError if the data of one went when it stopped."""
    return _changed(world, names, plan_start)


def restart(world: World, names: Sequence[str]) -> Result:
    """Stop and start containers; return when their services work.

    Raise Unsupported if the data of one would go as it stops.
    """
    return _changed(world, names, plan_restart)


def wait(world: World, names: Sequence[str]) -> Result:
    """Wait until services that were started work. This changes nothing, so it needs no lock.

    On a host that is new to a shared environment, it also writes files, as `up` does.
    """
    defined = world.define(names)
    if world.state.shared and not world.state.load().engine:
        return _joined(world, defined, names)
    world.check_addresses(defined.own)
    picture = world.existing(defined, names)
    services, plan = picture.wanted.services, plan_wait(picture.wanted, picture.observed)
    timings = carry_out(world, plan, picture, remember=False)
    world.note_works(services)
    return Result(plan, services, timings)


def _joined(world: World, defined: Definitions, names: Sequence[str]) -> Result:
    world.check_trust(defined.own)
    with world.changing():
        picture = world.existing(world.with_lent(defined), names)
        files = preflight(world, picture)
        world.seat.keep()
        plan = plan_wait(picture.wanted, picture.observed)
        timings = carry_out(world, plan, picture, remember=False)
        written, restored = write_configs(world, picture, files)
        return Result(plan, picture.wanted.services, timings, written, restored)


def _changed(
    world: World, names: Sequence[str], make: Callable[[Desired, Observed, Mapping[str, str]], Plan]
) -> Result:
    defined = world.define()
    world.check_trust(defined.own)
    with world.changing():
        refuse_attached(names, defined.attached)
        picture = world.existing(world.with_lent(defined), names)
        _check_data(world, picture, stopping=make is plan_restart)
        world.check_ports(picture)
        loans.keep(world, picture.wanted.services)
        plan = make(picture.wanted, picture.observed, picture.record.provisioned)
        return Result(plan, picture.wanted.services, carry_out(world, plan, picture))


def _check_data(world: World, picture: Picture, stopping: bool) -> None:
    """Raise an error if a service that stops, or has stopped, has no data afterwards, on an engine that keeps none."""
    if Capability.KEEP_STOPPED in world.engine.can:
        return
    passing = [name for name, service in picture.wanted.services.items() if service.volumes and not service.durable]
    if stopping and passing:
        raise Unsupported(
            f"cannot restart {', '.join(passing)} and keep the data: on this engine, it goes when they stop",
            "'durable: true' in devenv.yaml keeps it; 'devenv reset' starts with new data",
        )
    gone = [name for name in passing if not picture.observed.containers[name].alive]
    if gone:
        raise ConfigError(f"cannot start {', '.join(gone)}: the data went when they stopped", "run 'devenv up'")
