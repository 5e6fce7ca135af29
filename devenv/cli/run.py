"""The commands that run programs of the user's: run, shell, ci."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from devenv.cli.common import environment_of, services_argument, show, timeout_option


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
    `run` ends with its exit code.
    """
    _run(context, component, wait_timeout, services, _command(context))


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


@click.command(cls=_BeforeCommand)
@_component_option
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="How long the command may take; then it and all that it started is ended, and the exit code is 124.",
)
@click.option(
    "--artifacts",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Collect logs, status, timing and what the engine knows of the containers in a folder, without secrets.",
)
@click.option(
    "--summary",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write a report in Markdown to a file; where GITHUB_STEP_SUMMARY names one, it is added there anyway.",
)
@timeout_option
@services_argument
@click.pass_context
def ci(
    context: click.Context,
    component: str,
    timeout: float | None,
    artifacts: Path | None,
    summary: Path | None,
    wait_timeout: float,
    services: tuple[str, ...],
) -> None:
    """Run a command as a CI job: with services, artifacts, a report.

    As `run`, with log groups for GitHub and GitLab, the services' last lines if the command fails, and a report. The
    exit code is the command's; devenv's own if the services do not come up.
    """
    from devenv.testing.ci import Job, run_job
    from devenv.testing.joblog import job_log

    step_summary = os.environ.get("GITHUB_STEP_SUMMARY")
    job = Job(
        command=_command(context),
        services=services,
        component=component,
        limit=timeout,
        artifacts=artifacts,
        summary=summary,
        step_summary=Path(step_summary) if step_summary else None,
    )
    sys.exit(run_job(environment_of(context, wait_timeout), job, job_log(sys.stderr, os.environ), show))


def _command(context: click.Context) -> list[str]:
    command: list[str] = context.meta["command"]
    if not command:
        raise click.UsageError("cannot run nothing: write -- and a command after the services")
    return command


def _run(
    context: click.Context, component: str, wait_timeout: float, services: Sequence[str], command: Sequence[str]
) -> None:
    from devenv.testing.program import run_program

    environment = environment_of(context, wait_timeout)
    with environment.lent(services, component) as name:
        code = run_program(command, environment.run_variables(name))
    sys.exit(code)
