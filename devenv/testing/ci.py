"""Run a command as a job of a CI system: start its services, collect artifacts, write a report."""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from devenv.errors import DevenvError
from devenv.lifecycle.environment import Environment
from devenv.lifecycle.timing import Run, in_words
from devenv.services.readiness import ServiceStatus
from devenv.store.files import check_place, write_files
from devenv.testing.artifacts import hider, make_folder, write_artifacts
from devenv.testing.joblog import JobLog
from devenv.testing.program import run_group
from devenv.testing.tox import hidden
from devenv.wiring.pifpaf import Pifpaf

# So many lines of each service go to the log of a job that failed; the artifacts hold the complete log.
_LAST_LINES = 100


@dataclass(frozen=True)
class Job:
    """Describe a job: a command, its services and component, and its time limit in seconds.

    With `citest`, the databases have the account that OpenStack's own test suites expect.

    `artifacts` is a folder for the artifacts, `summary` a file for the report. devenv appends the report to
    `step_summary`. With `administrator`, the command gets pifpaf's variables under these names.
    """

    command: Sequence[str]
    services: Sequence[str] = ()
    component: str = ""
    citest: bool = False
    limit: float | None = None
    artifacts: Path | None = None
    summary: Path | None = None
    step_summary: Path | None = None
    administrator: Pifpaf | None = None


@dataclass
class Story:
    """Hold the outcome of a job: the command's exit code, or why the command did not finish."""

    job: Job
    code: int | None = None
    reason: str = ""
    seconds: float = 0.0
    services: Mapping[str, ServiceStatus] = field(default_factory=dict)
    run: Run | None = None

    @property
    def failed(self) -> bool:
        return self.code != 0 or bool(self.reason)


def run_job(environment: Environment, job: Job, log: JobLog, show: Callable[[DevenvError], None]) -> int:
    """Run a job; return the command's exit code. Raise DevenvError if the command did not finish.

    `show` prints an error that does not decide how the job ends.
    """
    return _Running(environment, job, log, show).run()


class _Running:
    """Run one job once."""

    def __init__(self, environment: Environment, job: Job, log: JobLog, show: Callable[[DevenvError], None]) -> None:
        self._environment, self._job, self._log, self._show = environment, job, log, show
        self._story = Story(job)
        self._collected = False

    def run(self) -> int:
        job, story = self._job, self._story
        # First of all: if devenv cannot write the results, a job must not run for an hour before it fails.
        if job.artifacts:
            make_folder(job.artifacts, self._environment.project)
        if job.summary:
            check_place(job.summary, self._environment.project)
        try:
            code = self._with_services()
        except BaseException as error:
            story.reason = _reason_of(error)
            if not (story.code and isinstance(error, DevenvError)):
                raise
            # The exit code of the command decides, whatever failed after it.
            self._show(error)
            code = story.code
        finally:
            self._log.end()
            story.run = self._environment.latest
            if job.artifacts and not self._collected:
                self._collect()
            self._report()
        return code

    def _with_services(self) -> int:
        job, story = self._job, self._story
        databases = self._environment.databases(job.services, job.citest)
        self._log.begin("devenv: starting services")
        with ExitStack() as stack:
            lent = self._environment.lent(job.services, job.component, self._before_services_stop)
            component = stack.enter_context(lent)
            more = stack.enter_context(self._environment.citest(databases))
            self._log.mask(sorted(self._environment.state.passwords()))
            variables = self._environment.run_variables(component, job.services, job.administrator, bool(databases))
            self._log.lines(hidden(job.command, Path.cwd(), more, os.environ))
            # Unfolded: people open the log for the output of the command, which may have groups of its own.
            self._log.end()
            replaced = self._environment.replaced(variables)
            began = time.monotonic()
            try:
                story.code = code = run_group(job.command, {**variables, **more}, replaced, job.limit)
            finally:
                story.seconds = time.monotonic() - began
        return code

    def _before_services_stop(self) -> None:
        with suppress(DevenvError):
            self._story.services = self._environment.status(self._environment.selected(self._job.services))
        if self._story.code != 0:
            self._print_logs()
        if self._job.artifacts:
            self._collect()
        self._log.begin("devenv: stopping services")

    def _print_logs(self) -> None:
        hide = hider(self._environment)
        with suppress(DevenvError):
            for name, container in self._environment.containers().items():
                lines = self._environment.engine.logs(container, _LAST_LINES)
                if lines:
                    self._log.begin(f"devenv: last log lines of {name}")
                    self._log.lines(map(hide, lines))

    def _collect(self) -> None:
        """Write the artifacts. A failure to do so does not fail the job."""
        self._collected = True
        try:
            if self._job.artifacts:
                write_artifacts(self._environment, self._job.artifacts)
        except DevenvError as error:
            self._show(error)

    def _report(self) -> None:
        job, hide = self._job, hider(self._environment)
        # A command's arguments need not be UTF-8.
        text = hide(markdown(self._story)).encode(errors="backslashreplace").decode()
        if self._story.failed:
            self._log.error(hide(f"{shlex.join(job.command)}: {outcome(self._story)}"))
        try:
            if job.summary:
                write_files({job.summary: text.encode()}, 0o644)
            if job.step_summary:
                with job.step_summary.open("a", encoding="utf-8") as stream:
                    stream.write(text)
        except DevenvError as error:
            self._show(error)
        except OSError as error:
            hint = "GITHUB_STEP_SUMMARY names this file: make it writable, or unset the variable"
            self._show(DevenvError(f"cannot write {job.step_summary}: {error.strerror}", hint))


def _reason_of(error: BaseException) -> str:
    if isinstance(error, DevenvError):
        return error.message
    return "interrupted" if isinstance(error, KeyboardInterrupt) else type(error).__name__


# ---- in words ------------------------------------------------------------------------------------------------------


def outcome(story: Story) -> str:
    """Return the outcome of the job in one line."""
    if story.code is None:
        return story.reason
    after = f"exit code {story.code} after {story.seconds:.1f} s"
    return f"{after}; {story.reason}" if story.reason else after


def markdown(story: Story) -> str:
    """Return the report on a job: its outcome, a table of its services, and what was slow."""
    parts = [f"### devenv ci: {'failed' if story.failed else 'passed'}"]
    parts.append(f"{_code(shlex.join(story.job.command))}: {_words(outcome(story))}")
    if story.services:
        rows = ["| service | image | state at the end | ready after |", "|---|---|---|---|"]
        for name, service in story.services.items():
            state = f"{service.state}: {service.reason}" if service.reason else service.state
            runs = _code(service.image or service.attached)
            rows.append(f"| {name} | {runs} | {_words(state)} | {_ready_after(story.run, name)} |")
        parts.append("\n".join(rows))
    if story.run:
        parts.append(f"Services started in {story.run.seconds:.1f} s; {_words(in_words(story.run))}.")
    if story.job.artifacts:
        parts.append(f"Logs and more: {_code(str(story.job.artifacts))}")
    return "\n\n".join(parts) + "\n"


def _ready_after(run: Run | None, service: str) -> str:
    steps = run.operations if run else ()
    return next((f"{s.ended:.1f} s" for s in steps if s.key == f"ready {service}" and not s.failed), "")


def _code(text: str) -> str:
    """Return text as one line of Markdown code, also if it contains backticks."""
    text = " ".join(text.split()).replace("|", "\\|")
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if "`" in text else f"{fence}{text}{fence}"


def _words(text: str) -> str:
    """Return text as one line that Markdown shows as it is, also in a table."""
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", " ".join(text.split()))
