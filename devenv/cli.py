"""The command line: arguments in, calls of the library, text or JSON out. No logic."""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from devenv import __version__
from devenv.errors import ConfigError, DevenvError

if TYPE_CHECKING:
    from devenv.environment import Environment
    from devenv.model import Result

_INTERRUPTED = 130
_FORMATS = click.Choice(["text", "json"])


class Group(click.Group):
    """Commands in the order of their definition, and devenv's errors as one clear line."""

    def list_commands(self, _: click.Context) -> list[str]:
        return list(self.commands)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        # Importing makes many objects and hardly any garbage: collecting as rarely as this saves a tenth of a second.
        gc.set_threshold(100_000, 50, 50)
        try:
            return super().main(*args, **{**kwargs, "standalone_mode": False})
        except click.ClickException as error:
            error.show()
            sys.exit(error.exit_code)
        except DevenvError as error:
            _show(error)
            sys.exit(error.exit_code)
        except (click.Abort, KeyboardInterrupt):
            click.echo("interrupted", err=True)
            sys.exit(_INTERRUPTED)
        except BrokenPipeError:
            # Somebody read as much as they wanted, e.g. `devenv logs | head`.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        except OSError as error:
            _show(DevenvError(f"cannot go on: {error}", "make room or allow it, then run the same again"))
            sys.exit(DevenvError.exit_code)


def _show(error: DevenvError) -> None:
    for line in error.detail:
        click.echo(f"  {line}", err=True)
    click.secho(error.message, err=True, fg="red", color=None if not os.environ.get("NO_COLOR") else False)
    if error.hint:
        click.echo(f"hint: {error.hint}", err=True)


# ---- what commands share ---------------------------------------------------------------------------------------


def _environment(context: click.Context, timeout: float = 180.0) -> Environment:
    from devenv.environment import Environment
    from devenv.report import reporter

    options = context.find_root().params
    return Environment(
        project=options["project"],
        name=options["env_name"],
        profile=options["profile"],
        report=reporter(sys.stderr),
        wait_timeout=timeout,
    )


def _services(command: Callable[..., None]) -> Callable[..., None]:
    return click.argument("services", nargs=-1, metavar="[SERVICE]...")(command)


def _format(command: Callable[..., None]) -> Callable[..., None]:
    return click.option("--format", "format_", type=_FORMATS, default="text", help="Output for people or programs.")(
        command
    )


def _timeout(command: Callable[..., None]) -> Callable[..., None]:
    return click.option(
        "--wait-timeout",
        type=click.FloatRange(min=0.1),
        default=180.0,
        show_default=True,
        metavar="SECONDS",
        help="How long one service may take to become ready.",
    )(command)


def _json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))


def _operations(result: Result) -> list[dict[str, Any]]:
    times = {timing.operation.key: timing for timing in result.timings}
    return [
        {"action": op.action, "target": op.target, "cause": op.cause}
        | ({"began": round(t.began, 3), "ended": round(t.ended, 3)} if (t := times.get(op.key)) else {})
        for op in result.plan.operations
    ]


def _done(result: Result, format_: str, words: str, began: float) -> None:
    if format_ == "json":
        _json({"operations": _operations(result), "written": [str(path) for path in result.written]})
    elif result.plan.operations:
        click.echo(f"{words} in {time.monotonic() - began:.1f} s")
    else:
        click.echo("nothing to do")


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--project", type=click.Path(path_type=Path), help="A folder of the project, instead of this one.")
@click.option("--env", "env_name", default="default", metavar="NAME", help="One of several environments of a project.")
@click.option("--profile", default="", metavar="NAME", help="Another profile than devenv.yaml picks.")
@click.version_option(__version__, prog_name="devenv")
def main(project: Path | None, env_name: str, profile: str) -> None:
    """MySQL, RabbitMQ, etcd and Keystone for OpenStack services: ready when `devenv up` returns."""


# ---- up and down -------------------------------------------------------------------------------------------------


@main.command()
@_services
@_timeout
@_format
@click.pass_context
def up(context: click.Context, services: tuple[str, ...], wait_timeout: float, format_: str) -> None:
    """Start services and what they need; return when they work."""
    began = time.monotonic()
    environment = _environment(context, wait_timeout)
    result = environment.up(services)
    if format_ == "json":
        _done(result, format_, "", began)
        return
    from devenv.report import summary

    summary(environment, result, time.monotonic() - began)


@main.command()
@_services
@click.option(
    "--volumes",
    "-v",
    is_flag=True,
    help="Remove the data, too; of a whole environment also secrets and files.",
)
@_format
@click.pass_context
def down(context: click.Context, services: tuple[str, ...], volumes: bool, format_: str) -> None:
    """Remove containers and the network; data is kept unless --volumes."""
    began = time.monotonic()
    _done(_environment(context).down(services, volumes), format_, "down", began)


@main.command()
@_services
@_format
@click.pass_context
def stop(context: click.Context, services: tuple[str, ...], format_: str) -> None:
    """Stop containers; they keep their data and ports."""
    began = time.monotonic()
    _done(_environment(context).stop(services), format_, "stopped", began)


@main.command()
@_services
@_timeout
@_format
@click.pass_context
def start(context: click.Context, services: tuple[str, ...], wait_timeout: float, format_: str) -> None:
    """Start stopped containers as they are; return when they work."""
    began = time.monotonic()
    _done(_environment(context, wait_timeout).start(services), format_, "ready", began)


@main.command()
@_services
@_timeout
@_format
@click.pass_context
def restart(context: click.Context, services: tuple[str, ...], wait_timeout: float, format_: str) -> None:
    """Stop and start containers; return when they work."""
    began = time.monotonic()
    _done(_environment(context, wait_timeout).restart(services), format_, "ready", began)


# ---- looking -------------------------------------------------------------------------------------------------------


@main.command()
@_services
@_format
@click.pass_context
def status(context: click.Context, services: tuple[str, ...], format_: str) -> None:
    """Show every service: whether it works, where, and if not, why."""
    environment = _environment(context)
    found = environment.status(services)
    if format_ == "json":
        identity = {"id": environment.id, "name": environment.name, "project": str(environment.project)}
        _json({"environment": identity, "services": {name: asdict(one) for name, one in found.items()}})
        return
    from devenv.report import status_table

    click.echo(status_table(found))


@main.command()
@_services
@_timeout
@_format
@click.pass_context
def wait(context: click.Context, services: tuple[str, ...], wait_timeout: float, format_: str) -> None:
    """Wait until started services work."""
    began = time.monotonic()
    _done(_environment(context, wait_timeout).wait(services), format_, "ready", began)


@main.command()
@_services
@click.option("--follow", "-f", is_flag=True, help="Go on with new lines as they come.")
@click.option("--tail", "-n", type=click.IntRange(min=0), metavar="LINES", help="Only the last lines of each service.")
@click.pass_context
def logs(context: click.Context, services: tuple[str, ...], follow: bool, tail: int | None) -> None:
    """Print what services logged, each line with its service's name."""
    from devenv.terminal import print_logs

    environment = _environment(context)
    print_logs(environment, services, follow, "all" if tail is None else tail)


@main.command(name="exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("service")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
def exec_(context: click.Context, service: str, command: tuple[str, ...]) -> None:
    """Run a command in a service's container, with this terminal."""
    from devenv.terminal import run_in_container

    command = command[1:] if command[0] == "--" else command
    if not command:
        raise click.UsageError("cannot run nothing: name a command after the service")
    environment = _environment(context)
    sys.exit(run_in_container(environment.engine, environment.container(service).id, command))


@main.command()
@_services
@_format
@click.pass_context
def plan(context: click.Context, services: tuple[str, ...], format_: str) -> None:
    """Show what `up` would do and why; change nothing."""
    from devenv.model import Result
    from devenv.plan import describe

    planned = _environment(context).plan(services)
    if format_ == "json":
        _json({"operations": _operations(Result(planned)), "changes": len(planned.changes)})
        return
    for line in describe(planned):
        click.echo(line)
    if not planned.changes:
        click.echo("nothing to change")


@main.command()
@click.option(
    "--format", "format_", type=click.Choice(["json", "dotenv", "shell"]), default="dotenv", help="How to print it."
)
@click.pass_context
def env(context: click.Context, format_: str) -> None:
    """Print endpoints and credentials as variables.

    For a shell: eval "$(devenv env --format shell)"
    """
    from devenv.wiring import FORMATS

    click.echo(FORMATS[format_](_environment(context).env()), nl=False)


# ---- images, the engine, a project ---------------------------------------------------------------------------------


@main.group(cls=Group)
def images() -> None:
    """The images of services: list, build, prune."""


@images.command(name="list")
@_format
@click.pass_context
def images_list(context: click.Context, format_: str) -> None:
    """Show the image of each service, and whether the engine has it."""
    found = _environment(context).list_images()
    if format_ == "json":
        _json([asdict(image) for image in found])
        return
    from devenv.report import rows_table

    rows = [(i.service, i.reference, f"{i.size / 1e6:.0f} MB" if i.size is not None else "not here") for i in found]
    click.echo(rows_table(("SERVICE", "IMAGE", "SIZE"), rows))


@images.command(name="build")
@_services
@_format
@click.pass_context
def images_build(context: click.Context, services: tuple[str, ...], format_: str) -> None:
    """Build or pull the images that are missing."""
    began = time.monotonic()
    _done(_environment(context).build_images(services), format_, "images ready", began)


@images.command(name="prune")
@_format
@click.pass_context
def images_prune(context: click.Context, format_: str) -> None:
    """Remove images that devenv built and that nothing asks for any more."""
    removed = _environment(context).prune_images()
    if format_ == "json":
        _json(removed)
    else:
        click.echo("\n".join(f"removed {reference}" for reference in removed) or "nothing to remove")


@main.command()
@click.option("--fix", is_flag=True, help="Install and start what is missing, where that can be done.")
@_format
@click.pass_context
def doctor(context: click.Context, fix: bool, format_: str) -> None:
    """Check what `up` needs, and say what to do; --fix does it."""
    from devenv.doctor import diagnose, fix as mend

    environment = _environment(context)
    images, ports = environment.image_references(), environment.usual_ports()
    if fix:
        mend(lambda line: click.echo(line, err=True), images)
    checks = diagnose(images, ports)
    if format_ == "json":
        _json([asdict(check) for check in checks])
    else:
        from devenv.report import check_table, console

        console().print(check_table(checks))
    failed = [check for check in checks if check.status == "fail"]
    if failed:
        sys.exit(4 if any(check.name == "engine" for check in failed) else 1)


@main.command()
@click.pass_context
def init(context: click.Context) -> None:
    """Write a commented devenv.yaml for this project."""
    from devenv.profile import PROJECT_FILE, existing_folder, project_file_text

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
