"""The commands about data: reset, snapshot, gc."""

from __future__ import annotations

import sys
import time
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
@click.option("--component", default="", metavar="NAME", help="Empty only the parts of this component.")
@timeout_option
@format_option
@click.pass_context
def reset(context: click.Context, services: tuple[str, ...], component: str, wait_timeout: float, format_: str) -> None:
    """Delete all data, and be ready as right after the first `up`.

    Without names, of all services of the profile; those that do not run are started. It cannot be undone. Ports,
    secrets and snapshots stay.
    """
    if services and component:
        raise click.UsageError("cannot reset services and a component at once: name one or the other")
    began = time.monotonic()
    print_done(environment_of(context, wait_timeout).reset(services, component), format_, "reset", began)


@click.group(cls=Group)
def snapshot() -> None:
    """Save the data of all services, and have it back."""


@snapshot.command(name="save")
@click.argument("name")
@format_option
@click.pass_context
def snapshot_save(context: click.Context, name: str, format_: str) -> None:
    """Save the data of all services as NAME; they pause for that moment."""
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
    """Have the data of snapshot NAME again in all services.

    What they hold now is lost.
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
    help="What golden states may take of the disk, those used last first.",
)
@click.option(
    "--remove",
    "identities",
    multiple=True,
    metavar="ID",
    help="Remove an environment whose project folder is gone, with its data and its snapshots.",
)
@format_option
@click.pass_context
def gc(context: click.Context, keep: int, identities: tuple[str, ...], format_: str) -> None:
    """Remove what killed runs left, and old golden states.

    What a `devenv run` or a test run left when it was killed goes in all environments of the project. Golden states
    are the data of first starts, which `up` keeps and begins with; without them it takes longer once. Environments
    whose project folder was moved or deleted are only shown: --remove removes one.
    """
    from devenv.cli.tables import reporter
    from devenv.lifecycle import down as gone
    from devenv.testing import lease

    for identity in identities:
        gone.remove(identity, reporter(sys.stderr))
    collected, removed = lease.collect(environment_of(context), keep * 1_000_000, reporter(sys.stderr))
    left = gone.listed()
    if format_ == "json":
        ended, unused, lost = ([asdict(one) for one in some] for some in (collected, removed, left))
        print_json({"environments": ended, "golden": unused, "gone": lost})
        return
    for identity in identities:
        click.echo(f"removed {identity}")
    for one in collected:
        parts = [*one.services, *(f"component {name}" for name in one.components)]
        click.echo(f"ended in environment {one.environment}: {', '.join(parts)}")
    for golden in removed:
        click.echo(f"removed {golden.image}, {golden.size / 1e6:.0f} MB")
    for other in left:
        amounts = f"{other.containers} containers, {other.volumes} volumes, {other.snapshots} snapshots"
        click.echo(f"{other.id}: its folder {other.project} was moved or deleted ({amounts})")
        click.echo(f"  'devenv gc --remove {other.id}' removes it, with its data")
    if not (identities or collected or removed or left):
        click.echo("nothing to remove")


def _as_json(saved: Any) -> dict[str, Any]:
    """A snapshot without its secrets."""
    data = asdict(saved)
    return {key: data[key] for key in ("name", "environment", "saved", "devenv", "size", "services")}
