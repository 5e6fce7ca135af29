"""Writes docs/reference.md from the code itself: `python -m tests.reference`. A test holds that it is current."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import voluptuous

from devenv import catalogue, errors, profile
from devenv.cli import main

PAGE = Path(__file__).parents[1] / "docs" / "reference.md"


def page() -> str:
    """The whole page."""
    return "\n".join([*_head(), *_commands(), *_exit_codes(), *_keys(), ""])


def _head() -> Iterator[str]:
    yield "# Reference"
    yield ""
    yield "Generated from the code by `python -m tests.reference`; a test fails when it is not current."
    yield ""


def _commands() -> Iterator[str]:
    yield "## Commands"
    yield ""
    yield "Options of `devenv` itself stand before the command: `devenv --env other up`."
    yield ""
    yield from _options(main)
    yield from _tree(main, "devenv")


def _tree(group: click.Group, path: str) -> Iterator[str]:
    for name, command in group.commands.items():
        arguments = [p.make_metavar(click.Context(command)) for p in command.params if isinstance(p, click.Argument)]
        if isinstance(command, click.Group):
            yield from _tree(command, f"{path} {name}")
            continue
        yield f"### `{' '.join([path, name, *arguments])}`"
        yield ""
        yield str(command.help)
        yield ""
        yield from _options(command)


def _options(command: click.Command) -> Iterator[str]:
    options = [p for p in command.params if isinstance(p, click.Option) and p.help]
    if options:
        yield "| option | meaning |"
        yield "|---|---|"
    for option in options:
        default = f" Default: {option.default:g}." if isinstance(option.default, float) else ""
        yield f"| `{', '.join(option.opts)}` | {option.help}{default} |"
    if options:
        yield ""


def _exit_codes() -> Iterator[str]:
    yield "## Exit codes"
    yield ""
    yield "| code | meaning |"
    yield "|---|---|"
    yield "| 0 | done |"
    tree = re.findall(r"(\w+)\s+(\d)  (.*)", errors.__doc__ or "")
    codes = [(int(code), meaning) for _, code, meaning in tree] + [(2, "the command line is wrong")]
    for code, meaning in [*sorted(codes), (130, "interrupted")]:
        yield f"| {code} | {meaning} |"
    yield ""


def _keys() -> Iterator[str]:
    yield "## Keys of devenv.yaml and of profiles"
    yield ""
    yield from _schema({**profile._FILES["profile"].schema, **profile._FILES["extends"].schema})
    yield "`profile` picks what a devenv.yaml builds on, `extends` what a profile does. `services` is a list of names,"
    yield "or a mapping from names to `false` (leave it out) or to these settings:"
    yield ""
    yield from _schema(profile._SETTINGS)
    yield "## Keys of compose/SERVICE/compose.yaml"
    yield ""
    yield "The service itself, a subset of Compose's keys:"
    yield ""
    yield from _schema(catalogue._CONTAINER)
    yield "Under `x-devenv`:"
    yield ""
    yield from _schema(catalogue._DEVENV)


def _schema(schema: dict[object, object]) -> Iterator[str]:
    yield "| key | |"
    yield "|---|---|"
    for key in schema:
        name = key.schema if isinstance(key, voluptuous.Marker) else key
        yield f"| `{name}` | {'required' if isinstance(key, voluptuous.Required) else 'optional'} |"
    yield ""


if __name__ == "__main__":
    PAGE.write_text(page())
