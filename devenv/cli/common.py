"""Show errors, define arguments and options that several commands take, print results as text or JSON."""

from __future__ import annotations

import gc
import io
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from devenv.cli.streams import NobodyReads
from devenv.errors import DevenvError

if TYPE_CHECKING:
    from devenv.lifecycle.environment import Environment
    from devenv.model import ProjectFile, Result

_INTERRUPTED = 130
_FORMATS = click.Choice(["text", "json"])
# Signals that end devenv as Ctrl-C does: a service manager's or a CI's, and that of a terminal that closes.
_ENDING = (signal.SIGTERM, signal.SIGHUP)


class Group(click.Group):
    """List commands in the order of their definition, and show devenv's errors as one clear line."""

    def list_commands(self, _: click.Context) -> list[str]:
        return list(self.commands)

    def known(self) -> list[str]:
        """Return the names of all that one can call."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and not ctx.resilient_parsing and self.get_command(ctx, name) is None:
            from devenv.names import did_you_mean

            meant = did_you_mean(name, self.known())
            ctx.fail(f"{ctx.command_path} has no command {name!r}{'; ' if meant else ''}{meant}")
        return super().resolve_command(ctx, args)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        # Importing creates many objects and hardly any garbage: collecting this rarely saves a tenth of a second.
        gc.set_threshold(100_000, 50, 50)
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread:
            _handle(_ENDING, _terminated)
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
                # Nothing is left to do. Python would print a traceback if it were interrupted while it ends.
                _handle((signal.SIGINT, *_ENDING), _ignored)
            click.echo("interrupted", err=True)
            sys.exit(_INTERRUPTED)
        except NobodyReads:
            # E.g. `devenv logs | head`, or `devenv --help | true`.
            sys.exit(0)
        except OSError as error:
            _show_where()
            hint = "free disk space or fix permissions, then run the same command again"
            show(DevenvError(f"cannot continue: {error}", hint))
            sys.exit(DevenvError.exit_code)


def _terminated(_number: int, _frame: FrameType | None) -> None:
    """End as Ctrl-C does: paused containers continue, and devenv removes what it started for a command.

    Do so once: timeout(1) sends SIGTERM twice, to the command and to its group, and a terminal that closes sends SIGHUP
    from the kernel and from the shell. SIGKILL ends devenv immediately, and so does SIGQUIT unless
    `run_program` runs a command.
    """
    _handle(_ENDING, _ignored)
    raise KeyboardInterrupt


def _handle(numbers: Iterable[int], handler: Callable[[int, FrameType | None], None]) -> None:
    """Set the handler of these signals, except of those that the caller has devenv ignore, as nohup does."""
    for number in numbers:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def _ignored(_number: int, _frame: FrameType | None) -> None:
    """Do nothing. Programs that devenv starts do not inherit this, as they would SIG_IGN."""


def show_debugging() -> None:
    """Show on standard error which requests this process sends to the engine, and where errors come from."""
    import logging

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s.%(msecs)03d %(message)s", "%H:%M:%S"))
    # devenv's own logger alone: libraries log bodies and passwords at this level.
    log = logging.getLogger("devenv")
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)


def _show_where() -> None:
    """Show, with --debug, where the current error comes from. Tracebacks show code, never the values of variables."""
    import logging

    logging.getLogger("devenv").debug("this is where it failed:", exc_info=True)


def show(error: DevenvError) -> None:
    """Print an error on standard error: its detail, its message, its hint."""
    for line in error.detail:
        click.echo(f"  {line}", err=True)
    click.secho(error.message, err=True, fg="red", color=None if not os.environ.get("NO_COLOR") else False)
    if error.hint:
        click.echo(f"hint: {error.hint}", err=True)


# ---- the environment -------------------------------------------------------------------------------------------


def environment_of(context: click.Context, timeout: float = 180.0) -> Environment:
    """Return the environment that the options of `devenv` itself name. It reports on standard error."""
    from devenv.cli.progress import reporter
    from devenv.lifecycle.environment import Environment

    options = context.find_root().params
    return Environment(
        project=options["project"],
        name=options["env_name"],
        profile=options["profile"],
        report=reporter(sys.stderr, plain=options["debug"]),
        wait_timeout=timeout,
        ask=_ask,
        file=options["file"],
        output_dir=options["output_dir"],
        engine=options["engine"],
        context=options["kube_context"],
        namespace=options["namespace"],
        shared=options["shared"],
    )


def _ask(file: ProjectFile) -> bool:
    """Ask whether the user allows the images of devenv.yaml. Without a terminal the answer is no."""
    from devenv.spec.trust import needs

    if os.environ.get("CI") or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    click.echo("\n".join([f"{file.path} needs your trust:", *(f"  {need}" for need in needs(file))]), err=True)
    return click.confirm("trust this file until it changes?", err=True)


# ---- arguments and options -------------------------------------------------------------------------------------


def services_argument(command: Callable[..., None]) -> Callable[..., None]:
    return click.argument("services", nargs=-1, metavar="[SERVICE]...")(command)


def format_option(command: Callable[..., None]) -> Callable[..., None]:
    words = "Print text for people or JSON for programs."
    return click.option("--format", "format_", type=_FORMATS, default="text", show_default=True, help=words)(command)


def timeout_option(command: Callable[..., None]) -> Callable[..., None]:
    return click.option(
        "--wait-timeout",
        type=click.FloatRange(min=0.1),
        default=180,
        show_default=True,
        metavar="SECONDS",
        help="Wait at most this long for each service.",
    )(command)


# ---- results ---------------------------------------------------------------------------------------------------


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))


def operations_of(result: Result) -> list[dict[str, Any]]:
    """Return the operations of the plan, with the times of those that ran, for JSON."""
    times = {timing.operation.key: timing for timing in result.timings}
    return [
        {"action": op.action, "target": op.target, "cause": op.cause}
        | ({"began": round(t.began, 3), "ended": round(t.ended, 3)} if (t := times.get(op.key)) else {})
        for op in result.plan.operations
    ]


def print_done(result: Result, format_: str, words: str, began: float, more: Mapping[str, Any] | None = None) -> None:
    """Print that a command is done, as text or as JSON with `more` in it."""
    if format_ == "json":
        files = {"written": result.written, "restored": result.restored}
        names = {kind: [str(path) for path in paths] for kind, paths in files.items()}
        print_json({"operations": operations_of(result), **names, **(more or {})})
    elif result.plan.operations:
        click.echo(f"{words} in {time.monotonic() - began:.1f} s")
    else:
        click.echo("nothing to do")
