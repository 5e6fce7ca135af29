"""The command line: arguments in, calls of the library, text or JSON out. No logic."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path

import click

from devenv import __version__
from devenv.cli import data as cli_data, images as cli_images, run as cli_run
from devenv.cli.common import (
    Group,
    component_option,
    drop_option,
    environment_of,
    format_option,
    operations_of,
    print_changes,
    print_done,
    print_json,
    services_argument,
    show_debugging,
    timeout_option,
    timing_json,
    timing_options,
    tracing,
    wire_arguments,
)
from devenv.errors import ConfigError


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--project", type=click.Path(path_type=Path), help="A folder of the project, instead of this one.")
@click.option("--env", "env_name", default="default", metavar="NAME", help="One of several environments of a project.")
@click.option("--profile", default="", metavar="NAME", help="Another profile than devenv.yaml picks.")
@click.option("--debug", is_flag=True, help="Show what is asked of the engine, and where errors come from.")
@click.version_option(__version__, prog_name="devenv")
def main(project: Path | None, env_name: str, profile: str, debug: bool) -> None:
    """MySQL, RabbitMQ, etcd and Keystone for OpenStack services: ready when `devenv up` returns."""
    if debug:
        show_debugging()


# ---- up and down -------------------------------------------------------------------------------------------------


@main.command()
@services_argument
@drop_option
@click.option(
    "--golden/--no-golden",
    default=True,
    show_default=True,
    help="Start new volumes with the data of an earlier first start, and keep that of this one if there is none.",
)
@timeout_option
@timing_options
@format_option
@click.pass_context
def up(
    context: click.Context,
    services: tuple[str, ...],
    drop: bool,
    golden: bool,
    wait_timeout: float,
    timing: bool,
    trace: Path | None,
    format_: str,
) -> None:
    """Start services and what they need; return when they work."""
    from devenv.lifecycle.timing import process_began

    began = time.monotonic()
    environment = environment_of(context, wait_timeout)
    with tracing(environment, trace):
        result = environment.up(services, drop, golden, process_began())
    if format_ == "json":
        print_done(result, format_, "", began, timing_json(environment, timing))
        return
    from devenv.cli.tables import summary, timing_chart

    summary(environment, result, time.monotonic() - began)
    if timing:
        click.echo(timing_chart(environment.timing()))


@main.command()
@services_argument
@click.option(
    "--volumes",
    "-v",
    is_flag=True,
    help="Remove the data, too; of a whole environment also secrets and files.",
)
@format_option
@click.pass_context
def down(context: click.Context, services: tuple[str, ...], volumes: bool, format_: str) -> None:
    """Remove containers and the network; with --volumes data, too."""
    began = time.monotonic()
    print_done(environment_of(context).down(services, volumes), format_, "down", began)


@main.command()
@services_argument
@format_option
@click.pass_context
def stop(context: click.Context, services: tuple[str, ...], format_: str) -> None:
    """Stop containers; they keep their data and ports."""
    began = time.monotonic()
    print_done(environment_of(context).stop(services), format_, "stopped", began)


@main.command()
@services_argument
@timeout_option
@format_option
@click.pass_context
def start(context: click.Context, services: tuple[str, ...], wait_timeout: float, format_: str) -> None:
    """Start stopped containers as they are; return when they work."""
    began = time.monotonic()
    print_done(environment_of(context, wait_timeout).start(services), format_, "ready", began)


@main.command()
@services_argument
@timeout_option
@format_option
@click.pass_context
def restart(context: click.Context, services: tuple[str, ...], wait_timeout: float, format_: str) -> None:
    """Stop and start containers; return when they work."""
    began = time.monotonic()
    print_done(environment_of(context, wait_timeout).restart(services), format_, "ready", began)


main.add_command(cli_data.reset)
main.add_command(cli_data.snapshot)


# ---- looking -------------------------------------------------------------------------------------------------------


@main.command()
@services_argument
@timing_options
@format_option
@click.pass_context
def status(context: click.Context, services: tuple[str, ...], timing: bool, trace: Path | None, format_: str) -> None:
    """Show every service: whether it works, where, and if not, why."""
    from devenv.lifecycle.trace import write_trace

    environment = environment_of(context)
    more = timing_json(environment, timing)
    if trace:
        write_trace(trace, environment.timing(), environment.project)
    found = environment.status(services)
    if format_ == "json":
        from devenv.testing.artifacts import status_data

        print_json({**status_data(environment, found), **more})
        return
    from devenv.cli.tables import status_table, timing_chart

    click.echo(status_table(found))
    if timing:
        click.echo(timing_chart(environment.timing()))


@main.command()
@services_argument
@timeout_option
@format_option
@click.pass_context
def wait(context: click.Context, services: tuple[str, ...], wait_timeout: float, format_: str) -> None:
    """Wait until started services work."""
    began = time.monotonic()
    print_done(environment_of(context, wait_timeout).wait(services), format_, "ready", began)


@main.command()
@services_argument
@click.option("--follow", "-f", is_flag=True, help="Go on with new lines as they come.")
@click.option("--tail", "-n", type=click.IntRange(min=0), metavar="LINES", help="Only the last lines of each service.")
@click.pass_context
def logs(context: click.Context, services: tuple[str, ...], follow: bool, tail: int | None) -> None:
    """Print what services logged, each line with its service's name."""
    from devenv.cli.terminal import print_logs

    environment = environment_of(context)
    print_logs(environment, services, follow, "all" if tail is None else tail)


@main.command(name="exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("service")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
def exec_(context: click.Context, service: str, command: tuple[str, ...]) -> None:
    """Run a command in a service's container, with this terminal."""
    from devenv.cli.terminal import run_in_container

    command = command[1:] if command[0] == "--" else command
    if not command:
        raise click.UsageError("cannot run nothing: name a command after the service")
    environment = environment_of(context)
    sys.exit(run_in_container(environment.engine, environment.container(service).id, command))


@main.command()
@services_argument
@drop_option
@format_option
@click.pass_context
def plan(context: click.Context, services: tuple[str, ...], drop: bool, format_: str) -> None:
    """Show what `up` would do and why; change nothing."""
    from devenv.lifecycle.plan import describe
    from devenv.model import Result

    planned = environment_of(context).plan(services, drop)
    if format_ == "json":
        files = [str(path) for path in planned.files]
        print_json({"operations": operations_of(Result(planned)), "changes": len(planned.changes), "files": files})
        return
    for line in [*describe(planned), *(f"merge {path}" for path in planned.files)]:
        click.echo(line)
    if not planned.changes and not planned.files:
        click.echo("nothing to change")


# ---- for components and other tools ------------------------------------------------------------------------------


@main.command()
@component_option
@click.option(
    "--format",
    "format_",
    type=click.Choice(["json", "dotenv", "shell"]),
    default="dotenv",
    show_default=True,
    help="How to print it.",
)
@click.pass_context
def env(context: click.Context, component: str, format_: str) -> None:
    """Print endpoints and credentials as variables.

    The administrator's, or a component's own with its options for oslo.config, too.

    For a shell: eval "$(devenv env --format shell)"
    """
    from devenv.wiring.folder import FORMATS

    click.echo(FORMATS[format_](environment_of(context).env(component)), nl=False)


@main.command()
@wire_arguments
@click.option("--check", is_flag=True, help="Change nothing; show what would change and exit with 1 if anything would.")
@click.option("--diff", is_flag=True, help="Change nothing; show what would change.")
@click.pass_context
def wire(
    context: click.Context, component: str, files: tuple[Path, ...], clouds: Path | None, check: bool, diff: bool
) -> None:
    """Merge a component's options into the project's own config files.

    Without FILE, into those that devenv.yaml lists; 'unwire' restores what was there.
    """
    changes = environment_of(context).wire(component, files, clouds, write=not (check or diff))
    print_changes(changes, "wired", show=check or diff)
    if check and any(change.changed for change in changes):
        sys.exit(1)


@main.command()
@wire_arguments
@click.option("--diff", is_flag=True, help="Change nothing; show what would change.")
@click.pass_context
def unwire(context: click.Context, component: str, files: tuple[Path, ...], clouds: Path | None, diff: bool) -> None:
    """Restore what the project's own config files held before."""
    print_changes(environment_of(context).unwire(component, files, clouds, write=not diff), "restored", show=diff)


@main.command()
@click.argument("tool")
@click.option("--component", default="", metavar="NAME", help="Whose login a CI's job has; else the first component's.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Write this file (zuul: below this folder) instead of printing.",
)
@click.pass_context
def export(context: click.Context, tool: str, component: str, output: Path | None) -> None:
    """Say the environment in another tool's words.

    The tools are compose, devstack, github, gitlab and zuul. devstack is told of the services that run; the others are
    made from devenv.yaml. A Compose file and devstack's local.conf are for this machine and hold passwords; the files
    for a CI hold none of them.
    """
    from devenv.wiring.export import as_text, write

    environment = environment_of(context)
    files = environment.export(tool, component)
    if not output:
        click.echo(as_text(files), nl=False)
        return
    for path in write(tool, files, output, environment.project):
        click.echo(f"wrote {path}")


main.add_command(cli_run.run)
main.add_command(cli_run.shell)
main.add_command(cli_run.ci)


# ---- images, the engine, a project ---------------------------------------------------------------------------------


main.add_command(cli_images.images)
main.add_command(cli_data.gc)


@main.command()
@click.option("--fix", is_flag=True, help="Install and start what is missing, where that can be done.")
@format_option
@click.pass_context
def doctor(context: click.Context, fix: bool, format_: str) -> None:
    """Check what `up` needs, and say what to do; --fix does it."""
    from devenv.cli.doctor import diagnose, fix as mend

    environment = environment_of(context)
    images, ports = environment.image_references(), environment.usual_ports()
    if fix:
        mend(lambda line: click.echo(line, err=True), images)
    checks = diagnose(images, ports)
    if format_ == "json":
        print_json([asdict(check) for check in checks])
    else:
        from devenv.cli.tables import check_table, console

        console().print(check_table(checks))
    failed = [check for check in checks if check.status == "fail"]
    if failed:
        sys.exit(4 if any(check.name == "engine" for check in failed) else 1)


@main.command(name="trust")
@click.option("--revoke", is_flag=True, help="Allow it nothing any more, whatever it holds.")
@format_option
@click.pass_context
def trust_(context: click.Context, revoke: bool, format_: str) -> None:
    """Allow the images that devenv.yaml names, as it stands now.

    They are neither pulled nor run before that, nor once the file has changed. All else in it is data and needs none.
    """
    from devenv.spec.profile import PROJECT_FILE
    from devenv.spec.trust import needs

    environment = environment_of(context)
    path, lines = environment.project / PROJECT_FILE, list[str]()
    if revoke:
        environment.distrust()
    elif file := environment.trust():
        path, lines = file.path, needs(file)
    if format_ == "json":
        print_json({"file": str(path), "trusted": not revoke, "needs": lines})
    elif lines:
        click.echo("\n".join([f"trusted: {path}", *(f"  {line}" for line in lines)]))
    else:
        click.echo(f"{path} is trusted with nothing" if revoke else f"nothing in {path} needs trust")


@main.command()
@click.pass_context
def init(context: click.Context) -> None:
    """Write a commented devenv.yaml for this project."""
    from devenv.spec.profile import PROJECT_FILE, existing_folder, project_file_text

    path = existing_folder(context.find_root().params["project"] or Path()) / PROJECT_FILE
    try:
        with path.open("x", encoding="utf-8") as stream:
            stream.write(project_file_text())
    except FileExistsError:
        raise ConfigError(f"cannot write {path}: it exists", hint="edit it, or remove it first") from None
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}", hint="allow writing there") from error
    click.echo(f"wrote {path}; 'devenv up' reads it")


if __name__ == "__main__":
    main()
