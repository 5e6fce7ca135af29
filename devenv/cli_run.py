"""The commands that run programs of the user's: run, shell."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

import click

from devenv.command import environment_of, services_argument, timeout_option


def _component_option(command: Callable[..., None]) -> Callable[..., None]:
    words = "One of devenv.yaml, or a name for the run's own, which is dropped afterwards."
    return click.option("--component", default="", metavar="NAME", help=words)(command)


class _BeforeCommand(click.Command):
    """Parses what stands before the first `--`; what comes after it is a command, with options of its own."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        at = args.index("--") if "--" in args else len(args)
        ctx.meta["command"] = args[at + 1 :]
        return super().parse_args(ctx, args[:at])

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "-- COMMAND..."]


@click.command(cls=_BeforeCommand)
@_component_option
@timeout_option
@services_argument
@click.pass_context
def run(context: click.Context, component: str, wait_timeout: float, services: tuple[str, ...]) -> None:
    """Run a command with services and a component of its own.

    Services (all of the profile, if none is named) that do not run are brought up, and are afterwards what they were
    before. The command finds endpoints and credentials in its environment, as `devenv env --component` prints them;
    its exit code is that of `run`.
    """
    if not (command := context.meta["command"]):
        raise click.UsageError("cannot run nothing: write -- and a command after the services")
    _run(context, component, wait_timeout, services, command)


@click.command()
@_component_option
@timeout_option
@services_argument
@click.pass_context
def shell(context: click.Context, component: str, wait_timeout: float, services: tuple[str, ...]) -> None:
    """Open a shell with services and a component of its own.

    As `run`: what was brought up or made for it is gone when the shell ends.
    """
    _run(context, component, wait_timeout, services, [os.environ.get("SHELL") or "/bin/sh"])


def _run(
    context: click.Context, component: str, wait_timeout: float, services: Sequence[str], command: Sequence[str]
) -> None:
    from devenv.program import run_program

    environment = environment_of(context, wait_timeout)
    with environment.lent(services, component) as name:
        code = run_program(command, environment.run_variables(name))
    sys.exit(code)
