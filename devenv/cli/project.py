"""Define the commands about the project's own files and this host: init, trust, doctor, env, wire, unwire, export."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from devenv.cli.common import environment_of, format_option, print_json
from devenv.errors import ConfigError
from devenv.wiring.formats import FORMATS

if TYPE_CHECKING:
    from devenv.wiring.merge import Change

_PATH = click.Path(path_type=Path)


# ---- beginning -------------------------------------------------------------------------------------------------


@click.command()
@click.pass_context
def init(context: click.Context) -> None:
    """Write a commented devenv.yaml for this project."""
    from devenv.spec.profile import existing_folder, project_file, project_file_text
    from devenv.store.files import create_file

    options = context.find_root().params
    path = existing_folder(options["project"] or Path()) / project_file(options["file"])
    try:
        with os.fdopen(create_file(path, os.O_WRONLY, 0o666), "w", encoding="utf-8") as stream:
            stream.write(project_file_text())
    except FileExistsError:
        raise ConfigError(f"cannot write {path}: it exists", hint="edit it, or remove it first") from None
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}", hint="allow writing there") from error
    click.echo(f"wrote {path}; 'devenv up' reads it")


@click.command()
@click.option("--revoke", is_flag=True, help="Withdraw trust from devenv.yaml.")
@format_option
@click.pass_context
def trust(context: click.Context, revoke: bool, format_: str) -> None:
    """Allow the images and the addresses that devenv.yaml names.

    devenv neither pulls nor runs these images, and does not log in to attached services at these addresses, before you
    allow them; it asks again when the file changes. The rest of the file is data and needs no trust.
    """
    from devenv.spec.trust import needs

    environment = environment_of(context)
    path, lines = environment.file, list[str]()
    if revoke:
        environment.distrust()
    elif file := environment.trust():
        path, lines = file.path, needs(file)
    if format_ == "json":
        print_json({"file": str(path), "trusted": not revoke, "needs": lines})
    elif lines:
        click.echo("\n".join([f"trusted: {path}", *(f"  {line}" for line in lines)]))
    else:
        click.echo(f"withdrew trust from {path}" if revoke else f"nothing in {path} needs trust")


@click.command()
@click.option("--fix", is_flag=True, help="Install and start what is missing, where devenv can.")
@format_option
@click.pass_context
def doctor(context: click.Context, fix: bool, format_: str) -> None:
    """Check what `up` needs and say what to do; --fix does it."""
    from devenv.cli import doctor as checkup
    from devenv.engine import KUBERNETES

    environment = environment_of(context)
    images, ports = environment.image_references(), environment.usual_ports()
    if environment.engine_kind == KUBERNETES:
        from devenv.cli import cluster_doctor
        from devenv.engine.install import Host

        if fix:
            click.echo("nothing to fix: devenv installs nothing for a cluster", err=True)
        options = context.find_root().params
        known = environment.state.load().engine
        wanted = checkup.Wanted(images, ports, Host(), bool(environment.state.shared))
        checks = cluster_doctor.diagnose(wanted, options["kube_context"], options["namespace"], known)
    else:
        if fix:
            checkup.fix(lambda line: click.echo(line, err=True), images)
        checks = checkup.diagnose(images, ports)
    checks += checkup.check_tunnels()
    if format_ == "json":
        print_json([asdict(check) for check in checks])
    else:
        from devenv.cli.progress import console
        from devenv.cli.tables import check_table

        console().print(check_table(checks))
    failed = [check for check in checks if check.status == "fail"]
    if failed:
        sys.exit(4 if any(check.name == "engine" for check in failed) else 1)


# ---- for programs and other tools --------------------------------------------------------------------------------


@click.command()
@click.option("--component", default="", metavar="NAME", help="Use this component's endpoints and login.")
@click.option("--network", is_flag=True, help="For a container on the services' network: their names and own ports.")
@click.option(
    "--format",
    "format_",
    type=click.Choice([*FORMATS]),
    default="dotenv",
    show_default=True,
    help="Print in this format. env-file: for Docker and GitHub, which would keep quotes.",
)
@click.pass_context
def env(context: click.Context, component: str, network: bool, format_: str) -> None:
    """Print endpoints and credentials as variables.

    These are the administrator's. With --component, they are the component's own and include its options for
    oslo.config.

    In a shell: eval "$(devenv env --format shell)"
    """
    environment = environment_of(context)
    variables = environment.env(component, network)
    click.echo(FORMATS[format_](variables, environment.replaced(variables)), nl=False)


def _wire_arguments(command: Callable[..., None]) -> Callable[..., None]:
    for add in (
        click.argument("files", nargs=-1, type=_PATH, metavar="[FILE]..."),
        click.argument("component", default=""),
    ):
        command = add(command)
    return command


@click.command()
@_wire_arguments
@click.option("--clouds", type=_PATH, metavar="FILE", help="Merge all clouds into this clouds.yaml.")
@click.option("--check", is_flag=True, help="Change nothing; show what would change and exit with 1 if anything would.")
@click.option("--diff", is_flag=True, help="Change nothing; show what would change.")
@click.pass_context
def wire(
    context: click.Context, component: str, files: tuple[Path, ...], clouds: Path | None, check: bool, diff: bool
) -> None:
    """Merge a component's options into the project's own config files.

    Without FILE, changes the files that devenv.yaml lists. `devenv unwire` restores what they held before.
    """
    changes = environment_of(context).wire(component, files, clouds, write=not (check or diff))
    _print_changes(changes, "wired", show=check or diff)
    if check and any(change.changed for change in changes):
        sys.exit(1)


@click.command()
@_wire_arguments
@click.option("--clouds", type=_PATH, metavar="FILE", help="Restore this clouds.yaml.")
@click.option("--diff", is_flag=True, help="Change nothing; show what would change.")
@click.pass_context
def unwire(context: click.Context, component: str, files: tuple[Path, ...], clouds: Path | None, diff: bool) -> None:
    """Restore what the project's own config files held before `wire`."""
    _print_changes(environment_of(context).unwire(component, files, clouds, write=not diff), "restored", show=diff)


def _print_changes(changes: Sequence[Change], done: str, show: bool) -> None:
    """Print a line for each file, or with `show` one unified diff."""
    for change in changes:
        if not change.changed:
            click.echo(f"{change.path} is up to date", err=show)
        else:
            click.echo(change.diff if show else f"{done} {change.path}", nl=not show)
    if not changes:
        click.echo("nothing to do")


@click.command()
@click.argument("tool")
@click.option(
    "--component",
    default="",
    metavar="NAME",
    help="Give this component to the command of a CI job that attaches; default: the first in devenv.yaml.",
)
@click.option(
    "--install",
    default="",
    metavar="SOURCE",
    help="Install devenv from here in a CI job: a URL for pip, a path in the project, or a requirement.",
)
@click.option("--output", type=_PATH, metavar="PATH", help="Write this file (zuul: below this folder), do not print.")
@click.pass_context
def export(context: click.Context, tool: str, component: str, install: str, output: Path | None) -> None:
    """Export the environment in another tool's format.

    The tools are compose, devstack, github, gitlab, kubernetes and zuul. For devstack the services have to run; devenv
    makes the other formats from devenv.yaml. The formats compose, devstack and kubernetes contain passwords; those for
    a CI contain none. A CI's jobs need --install, unless the project's requirements say where devenv comes from.
    """
    from devenv.wiring.export import as_text, write

    environment = environment_of(context)
    files = environment.export(tool, component, install)
    if not output:
        click.echo(as_text(files), nl=False)
        return
    for path in write(tool, files, output, environment.project):
        click.echo(f"wrote {path}")
