"""Define the commands about data: reset, snapshot, gc."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import click

from devenv.cli.common import (
    Group,
    environment_of,
    format_option,
    print_done,
    print_json,
    services_argument,
    timeout_option,
)


@click.command()
@services_argument
@click.option("--component", default="", metavar="NAME", help="Delete only the data of this component.")
@timeout_option
@format_option
@click.pass_context
def reset(context: click.Context, services: tuple[str, ...], component: str, wait_timeout: float, format_: str) -> None:
    """Delete all data; return when services are as after a first `up`.

    Without SERVICE, resets every service of the profile and starts those that do not run. You cannot undo it. Ports,
    secrets and snapshots stay.
    """
    if services and component:
        raise click.UsageError("cannot reset both services and a component: name one or the other")
    began = time.monotonic()
    print_done(environment_of(context, wait_timeout).reset(services, component), format_, "reset", began)


@click.group(cls=Group)
def snapshot() -> None:
    """Save, restore, list and remove data of all services."""


@snapshot.command(name="save")
@click.argument("name")
@format_option
@click.pass_context
def snapshot_save(context: click.Context, name: str, format_: str) -> None:
    """Save the data of all services as NAME; they pause meanwhile."""
    began = time.monotonic()
    saved = environment_of(context).save(name)
    if format_ == "json":
        print_json(_as_json(saved))
    else:
        click.echo(f"saved {name}, {saved.size / 1e6:.0f} MB, in {time.monotonic() - began:.1f} s")


@snapshot.command(name="restore")
@click.argument("name")
@timeout_option
@format_option
@click.pass_context
def snapshot_restore(context: click.Context, name: str, wait_timeout: float, format_: str) -> None:
    """Restore all services to snapshot NAME.

    They lose the data that they hold now.
    """
    began = time.monotonic()
    print_done(environment_of(context, wait_timeout).restore(name), format_, f"restored {name}", began)


@snapshot.command(name="list")
@format_option
@click.pass_context
def snapshot_list(context: click.Context, format_: str) -> None:
    """Show the snapshots of this environment."""
    found = environment_of(context).snapshots()
    if format_ == "json":
        print_json([_as_json(one) for one in found])
        return
    from devenv.cli.tables import rows_table

    rows = []
    for one in found:
        saved = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.saved))
        rows.append((one.name, saved, f"{one.size / 1e6:.0f} MB", " ".join(one.services)))
    click.echo(rows_table(("SNAPSHOT", "SAVED", "SIZE", "SERVICES"), rows) if rows else "no snapshots")


@snapshot.command(name="rm")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.pass_context
def snapshot_rm(context: click.Context, names: tuple[str, ...]) -> None:
    """Remove snapshots and their data."""
    environment = environment_of(context)
    for name in names:
        environment.remove_snapshot(name)
        click.echo(f"removed {name}")


@click.command()
@click.option(
    "--keep",
    type=click.IntRange(min=0),
    default=1000,
    show_default=True,
    metavar="MB",
    help="Keep this much of golden states, those used last first.",
)
@click.option(
    "--remove",
    "identities",
    multiple=True,
    metavar="ID",
    help="Remove an environment whose project folder is gone, with its data and snapshots.",
)
@format_option
@click.pass_context
def gc(context: click.Context, keep: int, identities: tuple[str, ...], format_: str) -> None:
    """Remove leftovers of killed runs, and old golden states.

    Removes leftovers of killed runs from every environment of this project. Golden states are the data of first
    starts, which `up` keeps and reuses; without one, the next first start takes longer. If the project folder of an
    environment was moved or deleted, devenv only lists the environment: --remove removes it. Tunnels to engines
    elsewhere that lead nowhere end, too, even if the engine does not answer.
    """
    from devenv.cli.progress import reporter
    from devenv.lifecycle import down
    from devenv.testing import lease

    note = reporter(sys.stderr).note
    for identity in identities:
        down.remove(identity, reporter(sys.stderr))
    try:
        collected, golden = lease.collect(environment_of(context), keep * 1_000_000, reporter(sys.stderr))
    finally:
        # Also if the engine does not answer: the tunnel to it is then of no use.
        tunnels = _end_tunnels(note)
    left = down.listed(note)
    if format_ == "json":
        ended, unused, lost = ([asdict(one) for one in some] for some in (collected, golden, left))
        print_json({"environments": ended, "golden": unused, "gone": lost, "tunnels": tunnels})
        return
    lines = [f"removed {identity}" for identity in identities]
    lines += [
        f"ended in environment {one.environment}: "
        + ", ".join([*one.services, *(f"component {name}" for name in one.components)])
        for one in collected
    ]
    lines += [f"removed {one.image}, {one.size / 1e6:.0f} MB" for one in golden]
    for other in left:
        amounts = f"{other.containers} containers, {other.volumes} volumes, {other.snapshots} snapshots"
        lines.append(f"{other.id}: its folder {other.project} was moved or deleted ({amounts})")
        lines.append(f"  'devenv gc --remove {other.id}' removes it, with its data")
    click.echo("\n".join(lines or ["nothing else to remove" if tunnels else "nothing to remove"]))


def _end_tunnels(note: Callable[[str], None]) -> list[str]:
    """End tunnels that are of no use, and say so; return the ids of their environments."""
    from devenv.lifecycle import tunnels

    ended = tunnels.end_useless()
    for tunnel in ended:
        note(f"ended the tunnel of {tunnel.environment}: {tunnel.reason}")
    return [tunnel.environment for tunnel in ended]


def _as_json(saved: Any) -> dict[str, Any]:
    """Return a snapshot without its secrets."""
    data = asdict(saved)
    return {key: data[key] for key in ("name", "environment", "saved", "devenv", "size", "services")}
