"""Define `devenv` and the commands that start, stop and show services.

A command turns arguments into calls of the library and prints text or JSON. It holds no logic.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from devenv import __version__
from devenv.cli.clients import GroupWithClients, open_
from devenv.cli.common import (
    environment_of,
    format_option,
    operations_of,
    print_done,
    print_json,
    services_argument,
    show_debugging,
    timeout_option,
)
from devenv.cli.data import gc, reset, snapshot
from devenv.cli.environments import known_ids, ls
from devenv.cli.help import help_
from devenv.cli.images import images
from devenv.cli.project import doctor, env, export, init, trust, unwire, wire
from devenv.cli.run import ci, run, shell
from devenv.errors import NotReadyInTime

if TYPE_CHECKING:
    from devenv.lifecycle.environment import Environment
    from devenv.model import Result


@click.group(name="devenv", cls=GroupWithClients, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--project", type=click.Path(path_type=Path), help="Use the project of this folder, not of the current.")
@click.option("--env", "env_name", default="default", metavar="NAME", help="Use this environment of the project.")
@click.option(
    "--file", type=click.Path(), default="", metavar="PATH", help="Read this file of the project, not devenv.yaml."
)
@click.option(
    "--output-dir",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Write files to this folder instead of .devenv/, if the project is read-only.",
)
@click.option("--profile", default="", metavar="NAME", help="Use this profile instead of the one in devenv.yaml.")
@click.option(
    "--engine", default="", metavar="KIND", help="Use this kind of engine: docker (also for Podman) or kubernetes."
)
@click.option("--context", "kube_context", default="", metavar="NAME", help="Use this context of the kubeconfig.")
@click.option("--namespace", default="", metavar="NAME", help="Use this namespace of the cluster.")
@click.option(
    "--shared", default="", metavar="NAME", help="Share the environment of this name, in a cluster, with other hosts."
)
@click.option("--debug", is_flag=True, help="Show each request to the engine, and where errors come from.")
@click.version_option(__version__, prog_name="devenv")
def main(debug: bool, **_: Any) -> None:
    """Run MySQL, RabbitMQ, etcd and Keystone for OpenStack services.

    They are ready when `devenv up` returns. `devenv mysql`, `psql`, `rabbitmqctl`, `etcdctl` and `openstack` are their
    clients. `devenv help` lists the pages of the manual.
    """
    if debug:
        show_debugging()


# ---- up and down -------------------------------------------------------------------------------------------------


def _drop_option(command: Callable[..., None]) -> Callable[..., None]:
    words = "Drop the data of components that devenv.yaml no longer lists."
    return click.option("--drop", is_flag=True, help=words)(command)


def _timing_options(command: Callable[..., None]) -> Callable[..., None]:
    words = "Write the step times of the last `up` to a file for ui.perfetto.dev or chrome://tracing."
    command = click.option("--trace", type=click.Path(path_type=Path), metavar="FILE", help=words)(command)
    words = "Show step times and the critical path of the last `up`."
    return click.option("--timing", is_flag=True, help=words)(command)


@contextmanager
def _tracing(environment: Environment, path: Path | None) -> Iterator[None]:
    """Write the step times of an `up` inside to a file, also if it fails.

    Raises ConfigError before `up` begins if devenv cannot write there.
    """
    if not path:
        yield
        return
    from devenv.lifecycle.trace import write_trace
    from devenv.store.files import check_place

    check_place(path, environment.project)
    try:
        yield
    finally:
        if environment.latest:
            write_trace(path, environment.latest, environment.project)


def _timing_json(environment: Environment, wanted: bool) -> dict[str, Any]:
    """Return what --timing adds to a command's JSON."""
    from devenv.lifecycle.timing import as_data

    return {"timing": as_data(environment.timing())} if wanted else {}


# Eight options and the context: click passes each as a parameter.
@click.command()
@services_argument
@_drop_option
@click.option(
    "--golden/--no-golden",
    default=True,
    show_default=True,
    help="Start new volumes with the data of an earlier first start. If there is none, keep the data of this start.",
)
@click.option(
    "--tunnel/--no-tunnel",
    default=None,
    help="Forward the ports of an engine elsewhere to this host, from now on. Without either, as before; first: yes.",
)
@timeout_option
@_timing_options
@format_option
@click.pass_context
def up(
    context: click.Context,
    services: tuple[str, ...],
    drop: bool,
    golden: bool,
    tunnel: bool | None,
    wait_timeout: float,
    timing: bool,
    trace: Path | None,
    format_: str,
) -> None:
    """Start services and what they need; return when they are ready."""
    from devenv.lifecycle.timing import process_began

    began = time.monotonic()
    environment = environment_of(context, wait_timeout)
    with _tracing(environment, trace):
        result = environment.up(services, drop, golden, process_began(), tunnel)
    if format_ == "json":
        print_done(result, format_, "", began, _timing_json(environment, timing))
        return
    from devenv.cli.tables import summary, timing_chart

    summary(environment, result, time.monotonic() - began)
    if timing:
        click.echo(timing_chart(environment.timing()))


@click.command()
@services_argument
@click.option(
    "--volumes",
    "-v",
    is_flag=True,
    help="Remove the data, too. Without SERVICE, also remove secrets and files.",
)
@click.option(
    "--id",
    "identity",
    metavar="ID",
    shell_complete=known_ids,
    help="Take down the environment that `devenv ls` lists as ID, not that of this folder.",
)
@click.option("--abandon", is_flag=True, help="Leave what devenv made in attached services, and forget it.")
@click.option(
    "--leave", is_flag=True, help="Leave a shared environment to the other hosts: remove what this one has of it."
)
@format_option
@click.pass_context
def down(
    context: click.Context,
    services: tuple[str, ...],
    volumes: bool,
    identity: str | None,
    abandon: bool,
    leave: bool,
    format_: str,
) -> None:
    """Remove containers and the network; with --volumes also data.

    Drops what devenv made in attached services, which go on as they are.

    If the project folder of an environment is gone, `devenv gc --remove ID` removes the environment.
    """
    began = time.monotonic()
    if leave:
        if services or volumes or abandon or identity:
            raise click.UsageError(
                "cannot use --leave with services, --volumes, --abandon or --id: it is about this host"
            )
        _left(environment_of(context), format_)
        return
    result = (
        environment_of(context).down(services, volumes, abandon)
        if identity is None
        else _down(context, identity, services, volumes, abandon)
    )
    print_done(result, format_, "down", began)


def _left(environment: Environment, format_: str) -> None:
    environment.leave()
    if format_ == "json":
        print_json({"left": environment.id})
    else:
        click.echo(f"left {environment.id}, which goes on for other hosts")


def _down(context: click.Context, identity: str, services: tuple[str, ...], volumes: bool, abandon: bool) -> Result:
    from devenv.cli.progress import reporter
    from devenv.lifecycle.down import by_id

    root = context.find_root()
    given = [o for o in root.command.params if root.get_parameter_source(o.name or "") == ParameterSource.COMMANDLINE]
    if others := [option.opts[0] for option in given if option.name != "debug"]:
        raise click.UsageError(f"cannot use --id with {' and '.join(others)}: --id alone says which environment it is")
    return by_id(identity, services, volumes, reporter(sys.stderr, plain=root.params["debug"]), abandon)


@click.command()
@services_argument
@format_option
@click.pass_context
def stop(context: click.Context, services: tuple[str, ...], format_: str) -> None:
    """Stop containers; they keep their data and ports."""
    began = time.monotonic()
    print_done(environment_of(context).stop(services), format_, "stopped", began)


@click.command()
@services_argument
@timeout_option
@format_option
@click.pass_context
def start(context: click.Context, services: tuple[str, ...], wait_timeout: float, format_: str) -> None:
    """Start stopped containers unchanged; return when they are ready."""
    began = time.monotonic()
    print_done(environment_of(context, wait_timeout).start(services), format_, "ready", began)


@click.command()
@services_argument
@timeout_option
@format_option
@click.pass_context
def restart(context: click.Context, services: tuple[str, ...], wait_timeout: float, format_: str) -> None:
    """Stop and start containers; return when they are ready."""
    began = time.monotonic()
    print_done(environment_of(context, wait_timeout).restart(services), format_, "ready", began)


# ---- looking -------------------------------------------------------------------------------------------------------


@click.command()
@services_argument
@click.option("--exit-code", is_flag=True, help="End with 6 unless each service that somebody asked for is ready.")
@_timing_options
@format_option
@click.pass_context
def status(
    context: click.Context, services: tuple[str, ...], exit_code: bool, timing: bool, trace: Path | None, format_: str
) -> None:
    """Show whether each service is ready, where it is, or why not.

    Without SERVICE, shows the services of devenv.yaml and others that have a container. Without devenv.yaml, shows
    those that have been started. JSON always has all of the profile.
    """
    environment = environment_of(context)
    more = _timing_json(environment, timing)
    if trace:
        from devenv.lifecycle.trace import write_trace

        write_trace(trace, environment.timing(), environment.project)
    found = environment.status(services)
    if format_ == "json":
        from devenv.testing.artifacts import status_data

        print_json({**status_data(environment, found), **more})
    else:
        from devenv.cli.tables import status_table, timing_chart

        click.echo(status_table({name: found[name] for name in found.wanted}))
        if timing:
            click.echo(timing_chart(environment.timing()))
    if exit_code and any(found[name].state != "ready" for name in found.wanted):
        sys.exit(NotReadyInTime.exit_code)


@click.command()
@services_argument
@timeout_option
@format_option
@click.pass_context
def wait(context: click.Context, services: tuple[str, ...], wait_timeout: float, format_: str) -> None:
    """Wait until started services are ready."""
    began = time.monotonic()
    print_done(environment_of(context, wait_timeout).wait(services), format_, "ready", began)


@click.command()
@services_argument
@click.option("--follow", "-f", is_flag=True, help="Print new lines as they come.")
@click.option("--tail", "-n", type=click.IntRange(min=0), metavar="LINES", help="Print only the last lines of each.")
@click.pass_context
def logs(context: click.Context, services: tuple[str, ...], follow: bool, tail: int | None) -> None:
    """Print the logs of services, each line with its service's name."""
    from devenv.cli.terminal import print_logs

    environment = environment_of(context)
    print_logs(environment, services, follow, "all" if tail is None else tail)


@click.command(name="exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("service")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
def exec_(context: click.Context, service: str, command: tuple[str, ...]) -> None:
    """Run a command in a service's container, with this terminal."""
    from devenv.cli.terminal import run_in_container

    command = command[1:] if command[0] == "--" else command
    if not command:
        raise click.UsageError("cannot run nothing: add a command after the service")
    environment = environment_of(context)
    sys.exit(run_in_container(environment.engine, environment.container(service).id, command))


@click.command()
@services_argument
@_drop_option
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


# In the order in which `devenv --help` lists them.
for _command in (
    *(up, down, stop, start, restart, reset, snapshot),
    *(status, ls, wait, logs, exec_, open_, plan),
    *(env, wire, unwire, export),
    *(run, shell, ci),
    *(images, gc, doctor, trust, init, help_),
):
    main.add_command(_command)
