"""Look after the tunnels of all environments: the processes that bring ports of engines elsewhere to this host."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from devenv.engine import forward
from devenv.store import registry
from devenv.store.places import FORWARD, RECORD, forward_folder, state_folder


@dataclass(frozen=True)
class Tunnel:
    """The tunnel of an environment: whether its process `runs`, and the `reason` if it leads nowhere or is useless."""

    environment: str
    runs: bool
    reason: str = ""


def opened() -> Iterator[Tunnel]:
    """Yield the tunnels that devenv opened and did not end; of environments that are gone, those that still run.

    This asks no engine.
    """
    folders = sorted(state_folder().glob(f"environments/*/{FORWARD}"))
    gone = {record.id: record.project for record in registry.gone()} if folders else {}
    for folder in folders:
        identity, runs = folder.parent.name, forward.runs(folder)
        if not (folder.parent / RECORD).exists():
            reason = "nothing is on record of its environment"
        elif identity in gone:
            reason = f"the folder {gone[identity]} was moved or deleted"
        else:
            yield Tunnel(identity, runs, forward.fault(folder))
            continue
        if runs:
            yield Tunnel(identity, runs, reason)


def end_useless() -> list[Tunnel]:
    """End the tunnels that run and lead nowhere, and those of environments that are gone; return them."""
    ended = [tunnel for tunnel in opened() if tunnel.runs and tunnel.reason]
    for tunnel in ended:
        forward.end(forward_folder(tunnel.environment))
    return ended
