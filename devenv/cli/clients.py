"""Run the clients of services (`devenv mysql`), which are commands beside those that devenv itself defines; open pages.

The services' Compose files name them, so devenv reads these files only for a name that it does not know.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import click

from devenv.cli.common import Group, environment_of

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from devenv.lifecycle.environment import Environment
    from devenv.model import Client

# A line, and no list: `--help` reads no file.
_SECTION = ("CLIENT", "Run a service's client, logged in; 'devenv help clients' lists them.")


class Named(NamedTuple):
    """A client, its name, and the service that it is for."""

    service: str
    name: str
    client: Client


class GroupWithClients(Group):
    """Has every client, and every service as its usual client, as commands, which `--help` only mentions."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if found := super().get_command(ctx, cmd_name):
            return found
        named = clients().get(cmd_name)
        return _command(cmd_name, named) if named else None

    def known(self) -> list[str]:
        return [*super().known(), *clients()]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_commands(ctx, formatter)
        with formatter.section("Clients"):
            formatter.write_dl([_SECTION])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        more = [CompletionItem(name) for name in clients() if name.startswith(incomplete)]
        return [*super().shell_complete(ctx, incomplete), *more]


@cache
def clients() -> dict[str, Named]:
    """Return every client by its name, and the first client of each service also by the service's name."""
    from devenv.spec.catalogue import load_catalogue

    services = load_catalogue().values()
    found = {name: Named(one.name, name, client) for one in services for name, client in one.clients.items()}
    return {**{one.name: found[next(iter(one.clients))] for one in services if one.clients}, **found}


class _Passing(click.Command):
    """Take every argument as it is: `--help` and `--` belong to the client."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.params["arguments"] = tuple(args)
        return []

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["[ARGUMENT]..."]


def _command(name: str, named: Named) -> click.Command:
    @click.pass_context
    def run(context: click.Context, arguments: Sequence[str]) -> NoReturn:
        act = _run_in_container if named.client.command else _run_here
        act(environment_of(context), named, arguments)

    where = "in its container" if named.client.command else "on this machine"
    words = f"Run {named.name} for {named.service}, {where}, logged in as the administrator.\n\n"
    words += f"It gets all arguments as they are: 'devenv {name} --help' shows its own help."
    return _Passing(name, callback=run, help=words, add_help_option=False)


def _run_in_container(environment: Environment, named: Named, arguments: Sequence[str]) -> NoReturn:
    from devenv.cli.terminal import run_in_container

    service, container = environment.service(named.service)
    command = [*named.client.command, *arguments]
    sys.exit(run_in_container(environment.engine, container.id, command, service.environment))


def _run_here(environment: Environment, named: Named, arguments: Sequence[str]) -> NoReturn:
    """Become a program of this machine that knows the environment's clouds, and none of the caller's."""
    from devenv.errors import ConfigError
    from devenv.testing.program import cannot_run
    from devenv.wiring.contents import CLOUDS, inherited

    program = _program(named)
    environment.check_usable(named.service)
    clouds = environment.folder / CLOUDS
    if not clouds.exists():
        raise ConfigError(f"cannot log {named.name} in: there is no {clouds}", "'devenv up' writes it")
    variables = {"OS_CLIENT_CONFIG_FILE": str(clouds), **named.client.environment}
    replaced = environment.replaced(variables)
    try:
        # The user asked for this program.
        os.execve(program, [named.name, *arguments], inherited(os.environ, variables, replaced))  # noqa: S606
    except OSError as error:
        raise cannot_run(program, error) from error


def _program(named: Named) -> str:
    """Return where a client is on this machine: on PATH, or beside devenv itself. Raise CannotRun if it is not."""
    from devenv.testing.program import NOT_FOUND, CannotRun

    found = shutil.which(named.name) or shutil.which(named.name, path=Path(sys.executable).parent)
    if not found:
        hint = f"'pip install {named.client.package}' installs it"
        missing = CannotRun(f"cannot run {named.name}: it is not installed on this machine", hint)
        missing.exit_code = NOT_FOUND
        raise missing
    return found


# ---- pages -----------------------------------------------------------------------------------------------------


def _with_page(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the services that have a page, for the shell's completion."""
    from devenv.spec.catalogue import load_catalogue

    return [name for name, service in load_catalogue().items() if service.page and name.startswith(incomplete)]


@click.command(name="open")
@click.argument("service", shell_complete=_with_page)
@click.option("--print", "printed", is_flag=True, help="Open nothing; print the URL, the user and the password.")
@click.pass_context
def open_(context: click.Context, service: str, printed: bool) -> None:
    """Open the page of a service in a browser.

    If this is no terminal with a display, prints where the page is. Prints the password with --print only.
    """
    page = environment_of(context).page(service)
    if printed:
        login = [f"user: {page.user}", f"password: {page.password}"] if page.user else []
        click.echo("\n".join([page.url, *login]))
        return
    click.echo(f"opened {page.url}" if _has_display() and _opened(page.url) else page.url)
    if page.user:
        click.echo(f"log in as {page.user}; 'devenv open {service} --print' shows the password")


def _has_display() -> bool:
    named = any(os.environ.get(name) for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"))
    return sys.stdout.isatty() and (named or sys.platform == "darwin")


def _opened(url: str) -> bool:
    """Open the URL in the user's browser. Return whether there is one."""
    import webbrowser

    return webbrowser.open(url)
