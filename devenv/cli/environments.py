"""Define the command about all environments: ls."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from devenv.cli.common import format_option, print_json

if TYPE_CHECKING:
    from devenv.lifecycle.listing import Listed

_HEADINGS = ("ID", "PROJECT", "STATE", "SERVICES")
_SIZES = ("MEM", "DISK")
_STATE_COLOURS = {
    "running": "green",
    "attached": "green",
    "partly": "yellow",
    "stopped": "bright_black",
    "leftover": "yellow",
}
# The fewest characters of a folder, and how many are worth a folded line of services.
_LEAST, _FOLDER = 9, 28
_NO_RECORD = "(no record)"


@click.command()
@click.option(
    "--usage", is_flag=True, help="Also measure memory in use and disk of data, which takes a second or more."
)
@format_option
@click.pass_context
def ls(context: click.Context, usage: bool, format_: str) -> None:
    """List all environments on this machine's engine.

    It lists those on the clusters of this user's environments, and of attached services, too; with --engine, those on
    that engine alone.

    Shows the project folder of each, its containers' state and its services with their ports. One without a record here
    is another user's or of another state folder: devenv never touches it. `devenv down --id ID` takes one down from
    anywhere.
    """
    from devenv.lifecycle.listing import list_environments

    root = context.find_root().params
    where = {"kind": root["engine"], "context": root["kube_context"], "namespace": root["namespace"]}
    found = list_environments(usage, lambda text: click.echo(text, err=True), **where)
    if format_ == "json":
        print_json([_as_json(one) for one in found])
        return
    click.echo(as_table(found, usage) if found else "no environments")
    for one in found:
        if one.observed.strangers:
            strangers = ", ".join(map(_printable, one.observed.strangers))
            click.echo(f"labelled as {_printable(one.id)} and not made by it: {strangers}", err=True)
        if one.tunnel:
            told = f"the tunnel of {_printable(one.id)} leads nowhere ({_printable(one.tunnel)})"
            click.echo(f"{told}: 'devenv wait' in its folder opens it again", err=True)


def known_ids(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the ids of this user's environments, for the shell's completion."""
    from devenv.store.registry import all_records

    return [record.id for record in all_records() if record.id.startswith(incomplete)]


def _as_json(one: Listed) -> dict[str, Any]:
    containers, record = one.observed.containers, one.record
    services = {
        name: {
            "state": state,
            "ports": {
                str(inside): host for inside, host in (containers[name].ports if name in containers else {}).items()
            },
            "memory": one.memory.get(name),
            "disk": one.disk.get(name),
        }
        for name, state in one.services.items()
    }
    return {
        "id": one.id,
        "name": record.name if record else None,
        "project": record.project if record else None,
        "gone": one.gone,
        "state": one.state,
        "engine": one.engine,
        "tunnel": one.tunnel,
        "used": one.used,
        "services": services,
        "leftover": list(one.leftover),
        "strangers": list(one.observed.strangers),
        "memory": _total(one.memory),
        "disk": _total(one.disk),
    }


def _total(sizes: Mapping[str, int | None]) -> int | None:
    known = [size for size in sizes.values() if size is not None]
    return sum(known) if known else None


# ---- the table -------------------------------------------------------------------------------------------------


def as_table(found: Sequence[Listed], usage: bool) -> str:
    """Return a table as wide as the terminal: it shortens folders, and folds services."""
    from devenv.cli.tables import rows_table, terminal_width

    sizes = [[_short(_total(one.memory)), _short(_total(one.disk))] if usage else [] for one in found]
    rows = [[_printable(one.id), "", one.state, _services(one), *more] for one, more in zip(found, sizes, strict=True)]
    headings = [*_HEADINGS, *(_SIZES if usage else ())]
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    del widths[1]
    room = terminal_width() - sum(widths) - 2 * len(widths)
    # On a narrow terminal services are folded between words, and folders give up the rest of the room.
    word = max(len(word) for row in (headings, *rows) for word in row[3].split())
    for row, one in zip(rows, found, strict=True):
        row[1] = _place(one, max(_LEAST, room, min(_FOLDER, room + widths[2] - word)))
    return rows_table(headings, rows, _STATE_COLOURS)


def _services(one: Listed) -> str:
    """Return each service with its ports, or with its own state if it is not that of the environment."""
    from devenv.lifecycle.listing import ATTACHED

    words = []
    for name, state in one.services.items():
        container = one.observed.containers.get(name)
        if container and container.running:
            told = ", ".join(str(port) for _, port in sorted(container.ports.items()))
        else:
            differs = one.state in ("partly", "leftover") or state == ATTACHED != one.state
            told = state if differs else ""
        words.append(_printable(f"{name}:{told}" if told else name))
    return " ".join(words)


def _place(one: Listed, width: int) -> str:
    """Return the project's folder, and in parentheses the name of an environment other than the default one."""
    if not one.record:
        return _NO_RECORD
    notes = [] if one.record.name == "default" else [one.record.name]
    notes += ["gone"] if one.gone else []
    note = f" ({', '.join(notes)})" if notes else ""
    folder = _printable(_from_home(one.record.project))
    room = width - len(note)
    return _shortened(folder, room) + note if room >= _LEAST else _shortened(folder + note, width)


def _from_home(folder: str) -> str:
    home = os.path.expanduser("~")  # noqa: PTH111  Path.home raises for a user without one
    return str("~" / Path(folder).relative_to(home)) if Path(folder).is_relative_to(home) else folder


def _shortened(text: str, width: int) -> str:
    """Return a text that is too long without its middle."""
    if len(text) <= width:
        return text
    head = (width - 1) // 3
    return f"{text[:head]}…{text[head + 1 - width :]}"


def _short(size: int | None) -> str:
    if size is None:
        return "-"
    return f"{size / 1e6:.0f}M" if size < 999.5e6 else f"{size / 1e9:.1f}G"


def _printable(text: str) -> str:
    """Return a text that moves no cursor: labels and folders come from anywhere."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
