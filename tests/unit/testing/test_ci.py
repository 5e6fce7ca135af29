"""A job's use of an environment, step by step, and how its report reads."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from devenv.errors import ConfigError, DevenvError, NotReadyInTime
from devenv.lifecycle.timing import Run, Span, Step
from devenv.services.readiness import ServiceStatus
from devenv.testing import ci
from devenv.testing.ci import Job, Story, markdown, run_job
from devenv.testing.joblog import JobLog
from devenv.testing.program import CannotRun, OutOfTime
from devenv.wiring.pifpaf import Pifpaf

READY = ServiceStatus("role", "ready", "devenv/web:1", "devenv-x-web", {})
SECRET = "s3cret"


class Lent:
    """An environment that does what it is told, and keeps what was asked of it."""

    def __init__(self, fails: DevenvError | None = None, fails_after: DevenvError | None = None) -> None:
        self.did: list[str] = []
        self.latest: Run | None = None
        self.fails, self.fails_after = fails, fails_after
        self.project = Path.cwd()
        self.state = SimpleNamespace(secrets=lambda _, keep=True: {"web.password": SECRET}, passwords=lambda: {SECRET})
        self.engine = SimpleNamespace(logs=lambda container, tail: [f"a line of {container} with {SECRET}"])

    @contextmanager
    def lent(self, names: Any, component: str, ending: Callable[[], None]) -> Iterator[str]:
        self.did.append("up")
        try:
            if self.fails:
                raise self.fails
            yield component or "run-1"
        finally:
            ending()
            self.did.append("down")
            if self.fails_after:
                raise self.fails_after

    def databases(self, names: Any, citest: bool) -> list[str]:
        return []

    def citest(self, databases: Any) -> AbstractContextManager[dict[str, str]]:
        return nullcontext({})

    def replaced(self, variables: Any) -> list[str]:
        return ["ELSEWHERE"]

    def selected(self, names: Sequence[str]) -> list[str]:
        return [*names]

    def status(self, names: Sequence[str]) -> dict[str, ServiceStatus]:
        return {"web": READY}

    def containers(self) -> dict[str, str]:
        return {"web": "c1"}

    def run_variables(
        self, component: str, names: Sequence[str], administrator: Pifpaf | None, citest: bool
    ) -> dict[str, str]:
        return {
            "COMPONENT": component,
            "NAMED": " ".join(names),
            "PREFIX": administrator.prefix if administrator else "",
        }


@pytest.fixture(autouse=True)
def collected(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Note, for each collection of artifacts, what the environment did before it."""
    found: list[list[str]] = []
    monkeypatch.setattr(ci, "write_artifacts", lambda environment, _: found.append([*environment.did]))
    return found


def done(
    environment: Lent, code: str = "", log: io.StringIO | None = None, **more: Any
) -> tuple[int | None, list[DevenvError]]:
    """Run Python code as a job; return its exit code and the errors that it showed."""
    shown: list[DevenvError] = []
    job = Job(command=[sys.executable, "-c", code], **more)
    return run_job(environment, job, JobLog(log or io.StringIO()), shown.append), shown  # type: ignore[arg-type]


@pytest.mark.parametrize("code", [0, 3])
def test_the_exit_code_is_the_commands_and_artifacts_are_collected_while_services_are_there(
    code: int, collected: list[list[str]], tmp_path: Path
) -> None:
    environment = Lent()
    assert done(environment, f"exit({code})", artifacts=tmp_path / "a") == (code, [])
    assert collected == [["up"]] and environment.did == ["up", "down"]


def test_the_command_gets_the_variables_of_the_services_and_names_that_the_job_asks_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ELSEWHERE", "1")
    code = "import os; exit(os.environ['NAMED'] + os.environ['PREFIX'] + os.environ.get('ELSEWHERE', '') != 'web dbA')"
    assert done(Lent(), code, services=("web", "db"), administrator=Pifpaf("A")) == (0, [])


def test_a_failed_command_is_followed_by_the_services_last_lines_without_secrets() -> None:
    log = io.StringIO()
    done(Lent(), "exit(1)", log)
    assert log.getvalue().splitlines() == [
        "---- devenv: starting services ----",
        "---- devenv: last log lines of web ----",
        "a line of c1 with ***",
        "---- devenv: stopping services ----",
    ]


def test_a_command_that_works_is_followed_by_no_log() -> None:
    log = io.StringIO()
    done(Lent(), "", log)
    assert "a line" not in log.getvalue()


def test_services_that_do_not_come_up_are_devenvs_error_with_artifacts_and_a_report(
    collected: list[list[str]], tmp_path: Path
) -> None:
    with pytest.raises(NotReadyInTime):
        done(Lent(NotReadyInTime("cannot wait for web")), artifacts=tmp_path / "a", summary=tmp_path / "s.md")
    assert collected == [["up"]]
    text = (tmp_path / "s.md").read_text()
    assert text.startswith("### devenv ci: failed\n") and "cannot wait for web" in text


def test_what_is_wrong_before_anything_is_up_has_artifacts_and_a_report_too(
    collected: list[list[str]], tmp_path: Path
) -> None:
    class Broken(Lent):
        def lent(self, names: Any, component: str, ending: Callable[[], None]) -> Any:
            raise ConfigError("cannot read devenv.yaml")

    with pytest.raises(ConfigError):
        done(Broken(), artifacts=tmp_path / "a", summary=tmp_path / "s.md")
    assert collected == [[]] and "cannot read devenv.yaml" in (tmp_path / "s.md").read_text()


def test_a_time_limit_and_a_missing_program_are_reasons_of_their_own(tmp_path: Path) -> None:
    with pytest.raises(OutOfTime):
        done(Lent(), "import signal; signal.pause()", limit=0.2, summary=tmp_path / "s.md")
    assert "within 0.2 s" in (tmp_path / "s.md").read_text()
    with pytest.raises(CannotRun):
        run_job(Lent(), Job(["no-such-program"]), JobLog(io.StringIO()), lambda _: None)  # type: ignore[arg-type]


def test_how_the_command_ended_counts_more_than_what_fails_afterwards() -> None:
    gone = DevenvError("cannot remove web")
    assert done(Lent(fails_after=gone), "exit(3)") == (3, [gone])
    with pytest.raises(DevenvError, match="cannot remove web"):
        done(Lent(fails_after=gone), "exit(0)")


def test_artifacts_that_cannot_be_written_make_no_job_fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    full = ConfigError("cannot write: no space left")

    def fails(*_: Any) -> None:
        raise full

    monkeypatch.setattr(ci, "write_artifacts", fails)
    assert done(Lent(), artifacts=tmp_path / "a") == (0, [full])


@pytest.mark.parametrize("where", ["artifacts", "summary"])
def test_a_place_where_nothing_can_be_written_is_refused_before_anything_is_done(where: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    environment = Lent()
    with pytest.raises(ConfigError, match="cannot write"):
        done(environment, **{where: tmp_path / "file" / "below"})
    assert environment.did == []


def test_the_report_is_added_to_what_other_steps_wrote(tmp_path: Path) -> None:
    (step := tmp_path / "step.md").write_text("of before\n")
    done(Lent(), step_summary=step, summary=tmp_path / "own.md")
    assert step.read_text() == "of before\n" + (tmp_path / "own.md").read_text()
    code, shown = done(Lent(), "exit(2)", step_summary=tmp_path / "no" / "such.md")
    assert code == 2 and "cannot write" in shown[0].message


def test_an_argument_that_is_no_text_fails_no_job(tmp_path: Path) -> None:
    job = Job([sys.executable, "-c", "", "t\udce9st"], summary=tmp_path / "own.md", step_summary=tmp_path / "step.md")
    assert run_job(Lent(), job, JobLog(io.StringIO()), pytest.fail) == 0  # type: ignore[arg-type]
    assert "t\\udce9st" in (tmp_path / "own.md").read_text()


def test_the_report_has_a_table_of_services_and_what_was_slow() -> None:
    steps = (Step("start web", 0.5, 1.0, service="web"), Step("ready web", 1.0, 3.0, after=("start web",)))
    run = Run("env", "2026-01-01T00:00:00+00:00", "1", 3.0, (Span("plan", 0.0, 0.5),), steps)
    broken = ServiceStatus("role", "failed", "devenv/db:1", "devenv-x-db", {}, "exited 137 | killed")
    job = Job(["pytest", "-k", "a`b"], artifacts=Path("artifacts"))
    assert markdown(Story(job, 1, "", 12.34, {"web": READY, "db": broken}, run)) == (
        "### devenv ci: failed\n\n"
        "`` pytest -k 'a`b' ``: exit code 1 after 12.3 s\n\n"
        "| service | image | state at the end | ready after |\n"
        "|---|---|---|---|\n"
        "| web | `devenv/web:1` | ready | 3.0 s |\n"
        "| db | `devenv/db:1` | failed: exited 137 \\| killed |  |\n\n"
        "Services started in 3.0 s; critical: start web -\\> ready web, 2.5 of 3.0 s; "
        "most of it: ready web 2.0 s.\n\n"
        "Logs and more: `artifacts`\n"
    )


def test_a_secret_in_the_command_is_in_no_report(tmp_path: Path) -> None:
    done(Lent(), f"print('{SECRET}')", summary=tmp_path / "s.md")
    text = (tmp_path / "s.md").read_text()
    assert SECRET not in text and "***" in text
