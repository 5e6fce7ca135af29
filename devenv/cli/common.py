"""What commands share: how errors are shown, common arguments and options, results as text or JSON."""

from __future__ import annotations

import gc
import io
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from devenv.errors import DevenvError

if TYPE_CHECKING:
    from devenv.lifecycle.environment import Environment
    from devenv.model import ProjectFile, Result
    from devenv.wiring.merge import Change

_INTERRUPTED = 130
_FORMATS = click.Choice(["text", "json"])


class Group(click.Group):
    """Commands in the order of their definition, and devenv's errors as one clear line."""

    def list_commands(self, _: click.Context) -> list[str]:
        return list(self.commands)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        # Importing makes many objects and hardly any garbage: collecting as rarely as this saves a tenth of a second.
        gc.set_threshold(100_000, 50, 50)
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread and signal.getsignal(signal.SIGTERM) != signal.SIG_IGN:
            signal.signal(signal.SIGTERM, _terminated)
        # The name of a folder need not be text, and not every locale has every letter.
        if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            return super().main(*args, **{**kwargs, "standalone_mode": False})
        except click.ClickException as error:
            error.show()
            sys.exit(error.exit_code)
        except DevenvError as error:
            _show_where()
            show(error)
            sys.exit(error.exit_code)
        except (click.Abort, KeyboardInterrupt):
            if in_main_thread:
                # All is done but to end, which Python would tell of at length if it were interrupted.
                signal.signal(signal.SIGINT, _ignored)
                signal.signal(signal.SIGTERM, _ignored)
            click.echo("interrupted", err=True)
            sys.exit(_INTERRUPTED)
        except OSError as error:
            _show_where()
            show(DevenvError(f"cannot go on: {error}", "make room or allow it, then run the same again"))
            sys.exit(DevenvError.exit_code)

    def invoke(self, ctx: click.Context) -> Any:
        # In here: outside of it, click ends with 1.
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # Somebody read as much as they wanted, e.g. `devenv logs | head`.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)


def _terminated(_number: int, _frame: FrameType | None) -> None:
    """As Ctrl-C: what stands still for a moment goes on, and what was brought up for a command goes.

    Once: timeout(1) sends it twice, to the command and to its group, and who wants an end at once has SIGKILL.
    """
    signal.signal(signal.SIGTERM, _ignored)
    raise KeyboardInterrupt


def _ignored(_number: int, _frame: FrameType | None) -> None:
    """Unlike SIG_IGN, this is not handed down to programs."""


def show_debugging() -> None:
    """Show on standard error what this process asks of the engine, and where errors come from."""
    import logging

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s.%(msecs)03d %(message)s", "%H:%M:%S"))
    # Ours alone: what libraries log at this level has bodies and passwords in it.
    log = logging.getLogger("devenv")
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)


def _show_where() -> None:
    """With --debug, where the error at hand comes from. Tracebacks show code, never the values of variables."""
    import logging

    logging.getLogger("devenv").debug("this is where it failed:", exc_info=True)


def show(error: DevenvError) -> None:
    for line in error.detail:
        click.echo(f"  {line}", err=True)
    click.secho(error.message, err=True, fg="red", color=None if not os.environ.get("NO_COLOR") else False)
    if error.hint:
        click.echo(f"hint: {error.hint}", err=True)


# ---- what commands share ---------------------------------------------------------------------------------------


def environment_of(context: click.Context, timeout: float = 180.0) -> Environment:
    from devenv.cli.tables import reporter
    from devenv.lifecycle.environment import Environment

    options = context.find_root().params
    return Environment(
        project=options["project"],
        name=options["env_name"],
        profile=options["profile"],
        report=reporter(sys.stderr, plain=options["debug"]),
        wait_timeout=timeout,
        ask=_ask,
    )


def _ask(file: ProjectFile) -> bool:
    """Whether the user allows what devenv.yaml asks for. Where nobody can answer, nobody does."""
    from devenv.spec.trust import needs

    if os.environ.get("CI") or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    click.echo("\n".join([f"{file.path} asks for more than data:", *(f"  {need}" for need in needs(file))]), err=True)
    return click.confirm("trust it with that, until it changes?", err=True)


def services_argument(command: Callable[..., None]) -> Callable[..., None]:
    return click.argument("services", nargs=-1, metavar="[SERVICE]...")(command)


def format_option(command: Callable[..., None]) -> Callable[..., None]:
    words = "Output for people or programs."
    return click.option("--format", "format_", type=_FORMATS, default="text", show_default=True, help=words)(command)


def timeout_option(command: Callable[..., None]) -> Callable[..., None]:
    return click.option(
        "--wait-timeout",
        type=click.FloatRange(min=0.1),
        default=180,
        show_default=True,
        metavar="SECONDS",
        help="How long one service may take to become ready.",
    )(command)


def timing_options(command: Callable[..., None]) -> Callable[..., None]:
    for add in (
        click.option(
            "--trace",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Write when each operation of the last `up` ran to a file for ui.perfetto.dev or chrome://tracing.",
        ),
        click.option("--timing", is_flag=True, help="Show what in the last `up` took how long, and what was critical."),
    ):
        command = add(command)
    return command


def drop_option(command: Callable[..., None]) -> Callable[..., None]:
    return click.option(
        "--drop", is_flag=True, help="Drop the data of components that are not in devenv.yaml any more."
    )(command)


def component_option(command: Callable[..., None]) -> Callable[..., None]:
    return click.option("--component", default="", metavar="NAME", help="As one component sees it.")(command)


def wire_arguments(command: Callable[..., None]) -> Callable[..., None]:
    path = click.Path(path_type=Path)
    for add in (
        click.option("--clouds", type=path, metavar="FILE", help="A clouds.yaml, for all clouds."),
        click.argument("files", nargs=-1, type=path, metavar="[FILE]..."),
        click.argument("component", default=""),
    ):
        command = add(command)
    return command


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))


def operations_of(result: Result) -> list[dict[str, Any]]:
    times = {timing.operation.key: timing for timing in result.timings}
    return [
        {"action": op.action, "target": op.target, "cause": op.cause}
        | ({"began": round(t.began, 3), "ended": round(t.ended, 3)} if (t := times.get(op.key)) else {})
        for op in result.plan.operations
    ]


def print_done(result: Result, format_: str, words: str, began: float, more: Mapping[str, Any] | None = None) -> None:
    """What was done, as text or as JSON with `more` in it."""
    if format_ == "json":
        files = {"written": result.written, "restored": result.restored}
        names = {kind: [str(path) for path in paths] for kind, paths in files.items()}
        print_json({"operations": operations_of(result), **names, **(more or {})})
    elif result.plan.operations:
        click.echo(f"{words} in {time.monotonic() - began:.1f} s")
    else:
        click.echo("nothing to do")


@contextmanager
def tracing(environment: Environment, path: Path | None) -> Iterator[None]:
    """Write what an `up` inside did to a trace file, also if it fails.

    Raises ConfigError before that if no file can be written there.
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


def timing_json(environment: Environment, wanted: bool) -> dict[str, Any]:
    """What --timing adds to a command's JSON."""
    from devenv.lifecycle.timing import as_data

    return {"timing": as_data(environment.timing())} if wanted else {}


def print_changes(changes: Sequence[Change], done: str, show: bool) -> None:
    """What became of files, one line each; or as one unified diff."""
    for change in changes:
        if not change.changed:
            click.echo(f"{change.path} is up to date", err=show)
        else:
            click.echo(change.diff if show else f"{done} {change.path}", nl=not show)
    if not changes:
        click.echo("nothing to do")
