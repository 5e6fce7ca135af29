"""Define the commands that run the user's programs: run, shell, ci."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from devenv.cli.common import environment_of, services_argument, show, timeout_option

if TYPE_CHECKING:
    from devenv.wiring.pifpaf import Pifpaf

# Where the context keeps the options of pifpaf that were given.
_GIVEN = "pifpaf"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


def _component_option(command: Callable[..., None]) -> Callable[..., None]:
    words = "Use component NAME. If devenv.yaml does not list it, create it and drop it afterwards."
    return click.option("--component", default="", metavar="NAME", help=words)(command)


def _citest_option(command: Callable[..., None]) -> Callable[..., None]:
    words = "Give OpenStack's own test suites the account and the database openstack_citest in each database."
    return click.option("--citest", is_flag=True, help=words)(command)


def _pifpaf_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add pifpaf's own options. They go into the context, so commands need no parameters for them."""
    prefix = "Name pifpaf's variables PREFIX_URL, … and not PIFPAF_URL, …; they hold the administrator's logins."
    urls = "Append all URLs to VARIABLE and not to PIFPAF_URLS; they hold the administrator's logins."
    for letter, name, metavar, words in (
        ("-g", "--global-urls-variable", "VARIABLE", urls),
        ("-e", "--env-prefix", "PREFIX", prefix),
    ):
        option = click.option(letter, name, metavar=metavar, help=words, callback=_keep_name, expose_value=False)
        command = option(command)
    return command


def _keep_name(context: click.Context, option: click.Parameter, value: str | None) -> None:
    if value is None:
        return
    if not _VARIABLE.match(value):
        words = f"cannot use {value!r} for {option.opts[-1]}: it has to begin the name of a variable"
        raise click.UsageError(f"{words} (letters, digits and _, no digit first)")
    context.meta.setdefault(_GIVEN, {})[option.name] = value


def _administrator(context: click.Context) -> Pifpaf | None:
    """Return how to name the administrator's variables; None if neither of pifpaf's options was given."""
    from devenv.wiring.pifpaf import Pifpaf

    given: dict[str, str] = context.meta.get(_GIVEN, {})
    if not given:
        return None
    names = Pifpaf(given.get("env_prefix", Pifpaf.prefix), given.get("global_urls_variable", Pifpaf.urls))
    return replace(names, before=os.environ.get(names.urls, ""))


class _BeforeCommand(click.Command):
    """Parse the arguments before the first `--`; those after it are a command with its own options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        at = args.index("--") if "--" in args else len(args)
        ctx.meta["command"] = args[at + 1 :]
        return super().parse_args(ctx, args[:at])

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "-- COMMAND..."]


@click.command(cls=_BeforeCommand)
@_component_option
@_citest_option
@_pifpaf_options
@timeout_option
@services_argument
@click.pass_context
def run(context: click.Context, component: str, citest: bool, wait_timeout: float, services: tuple[str, ...]) -> None:
    """Run a command with services and a component of its own.

    devenv starts the services that do not run (without SERVICE: all of the profile) and afterwards puts them back into
    the state they were in. The command gets endpoints and credentials as variables, as `devenv env --component` prints
    them. `run` ends with the exit code of the command.
    """
    _run(context, component, citest, wait_timeout, services, _command(context))


@click.command()
@_component_option
@_citest_option
@_pifpaf_options
@timeout_option
@services_argument
@click.pass_context
def shell(context: click.Context, component: str, citest: bool, wait_timeout: float, services: tuple[str, ...]) -> None:
    """Open a shell with services and a component of its own.

    Works like `run`: when the shell ends, devenv removes what it started or created for it.
    """
    _run(context, component, citest, wait_timeout, services, [os.environ.get("SHELL") or "/bin/sh"])


# Seven options and the context: click passes each as a parameter.
@click.command(cls=_BeforeCommand)
@_component_option
@_citest_option
@_pifpaf_options
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="After this time, end the command and all that it started, with exit code 124.",
)
@click.option(
    "--artifacts",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write logs, status, step times and container details to this folder, without secrets.",
)
@click.option(
    "--summary",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write a report in Markdown to this file. If GITHUB_STEP_SUMMARY names a file, devenv adds it there, too.",
)
@timeout_option
@services_argument
@click.pass_context
def ci(
    context: click.Context,
    component: str,
    citest: bool,
    timeout: float | None,
    artifacts: Path | None,
    summary: Path | None,
    wait_timeout: float,
    services: tuple[str, ...],
) -> None:
    """Run a command as a CI job: services, artifacts, a report.

    Works like `run`. Folds its output on GitHub and GitLab, prints the last log lines of services if the command fails,
    and writes a report. Ends with the exit code of the command, or with devenv's own if the services do not start.
    """
    from devenv.testing.ci import Job, run_job
    from devenv.testing.joblog import job_log

    step_summary = os.environ.get("GITHUB_STEP_SUMMARY")
    job = Job(
        command=_command(context),
        services=services,
        component=component,
        citest=citest,
        limit=timeout,
        artifacts=artifacts,
        summary=summary,
        step_summary=Path(step_summary) if step_summary else None,
        administrator=_administrator(context),
    )
    sys.exit(run_job(environment_of(context, wait_timeout), job, job_log(sys.stderr, os.environ), show))


def _command(context: click.Context) -> list[str]:
    command: list[str] = context.meta["command"]
    if not command:
        raise click.UsageError("cannot run nothing: add -- and a command after the services")
    return command


def _run(
    context: click.Context,
    component: str,
    citest: bool,
    wait_timeout: float,
    services: Sequence[str],
    command: Sequence[str],
) -> None:
    from devenv.testing.program import run_program
    from devenv.testing.tox import hidden

    environment = environment_of(context, wait_timeout)
    databases = environment.databases(services, citest)
    with environment.lent(services, component) as name, environment.citest(databases) as more:
        for line in hidden(command, Path.cwd(), more, os.environ):
            click.echo(line, err=True)
        variables = environment.run_variables(name, services, _administrator(context), bool(databases))
        code = run_program(command, {**variables, **more}, environment.replaced(variables))
    sys.exit(code)
