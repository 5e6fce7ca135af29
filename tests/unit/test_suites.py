"""How results of OpenStack's own suites are read and judged; `make suites` runs them on real services."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from subunit import StreamResultToBytes

from tests.pages import REPOSITORY, calls_of_devenv, understand
from tests.suites import __main__ as suites, page, prepare
from tests.suites.execute import execute
from tests.suites.inventory import DATA, Run, Suite, load
from tests.suites.prepare import Prepared, Unprepared
from tests.suites.results import Outcome, Result, judge, read

INVENTORY = load()
RUNS = [(suite, run) for suite in INVENTORY.suites for run in suite.runs]
PAGE = REPOSITORY / "docs" / "suites.md"
MACHINE = {"cores": 2, "memory_gb": 24.0, "load_before": 0.5}
NO_SERVER = "Backend 'postgresql' is unavailable: No such backend"


# ---- what is known -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suite", "run"), RUNS, ids=[f"{suite.name} {run.servers}" for suite, run in RUNS])
def test_the_command_is_understood_and_names_services_that_there_are(suite: Suite, run: Run) -> None:
    there = {folder.parent.name for folder in REPOSITORY.glob("compose/*/compose.yaml")}
    calls = [*calls_of_devenv(run.command.replace("\\\n", " ").replace(" -- devenv", "; devenv"))]
    assert calls
    for command, *arguments in calls:
        assert command == "run"
        understand([command, *arguments, *([] if "--" in arguments else ["--", "true"])])
        named = {word for word in arguments[: [*arguments, "--"].index("--")] if re.fullmatch("[a-z]+", word)}
        assert named and named <= there


def test_every_pattern_is_one_and_has_a_cause() -> None:
    for _, run in RUNS:
        for pattern, cause in (*run.skips.items(), *run.failures.items()):
            assert re.compile(pattern) and cause
    assert all(re.compile(pattern) for pattern in INVENTORY.no_server)


def test_a_key_that_nothing_reads_is_noticed(tmp_path: Path) -> None:
    data = yaml.safe_load(DATA.read_text())
    data["suites"]["placement"]["runs"][0]["failure"] = {"a": "misspelt"}
    (changed := tmp_path / "suites.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(TypeError, match="failure"):
        load(changed)


@pytest.mark.parametrize(
    "reason",
    [
        "Backend 'mysql' is unavailable: Could not connect",
        NO_SERVER,
        "mysql is not available",
        "postgres is not available",
        "Etcd is not available",
        "etcd3 is not available",
        "No transport url configured",
    ],
)
def test_the_words_of_every_suite_for_no_server_are_known(reason: str) -> None:
    outcome = judge(Run("", ""), [Result("a", "success"), Result("b", "skip", reason)], INVENTORY.no_server)
    assert outcome.no_server == {reason: 1} and not outcome.skipped
    assert outcome.problems == [f"1 tests found no server: {reason}"]


def test_the_page_has_every_suite_with_its_release_and_its_commands() -> None:
    text = PAGE.read_text()
    for suite, run in RUNS:
        again = "run: make suites"
        assert f"| {suite.name} {suite.version} | {run.servers} |" in text, again
        assert f"```sh\n{run.command}\n```" in text, again
    assert text.count("```sh") == len(RUNS)


# ---- reading and judging -------------------------------------------------------------------------------------


def stream(*events: Mapping[str, object]) -> bytes:
    output = io.BytesIO()
    result = StreamResultToBytes(output)
    for event in events:
        result.status(**event)
    return output.getvalue()


def test_tests_are_read_with_their_status_and_their_reason() -> None:
    reason = {"test_id": "b", "file_name": "reason", "mime_type": "text/plain;charset=utf8", "eof": True}
    found = read(
        stream(
            {"test_id": "a", "test_status": "inprogress"},
            {"test_id": "a", "test_status": "success"},
            {**reason, "file_bytes": b"Test not applicable\n(no heartbeat)"},
            {"test_id": "b", "test_status": "skip"},
            {"test_id": "c", "test_status": "fail"},
            {"test_id": "d", "test_status": "inprogress"},
        )
    )
    assert found == [
        Result("a", "success"),
        Result("b", "skip", "Test not applicable (no heartbeat)"),
        Result("c", "fail"),
        Result("d", "inprogress"),
    ]


def judged(run: Run, *tests: Result) -> Outcome:
    return judge(run, (Result("fine", "success"), *tests), INVENTORY.no_server)


def test_a_failure_is_a_problem_unless_its_cause_is_known() -> None:
    failed = Result("a.TestB.test_c", "fail")
    assert judged(Run("", ""), failed).problems == ["a.TestB.test_c failed"]
    known = judged(Run("", "", failures={r"TestB\.test_c": "theirs"}), failed)
    assert known.failed == {"a.TestB.test_c": "theirs"} and not known.problems


def test_a_test_that_never_ended_has_failed() -> None:
    assert judged(Run("", ""), Result("a", "inprogress")).problems == ["a failed"]


def test_a_known_failure_that_does_not_happen_is_a_problem() -> None:
    outcome = judged(Run("", "", failures={"test_c": "theirs"}))
    assert outcome.problems == ["test_c is known to fail, and did not"]


def test_a_skipped_test_is_a_problem_unless_its_reason_is_known() -> None:
    skipped = Result("a", "skip", "driver allows name update")
    assert judged(Run("", ""), skipped).problems == ["1 tests were skipped: driver allows name update"]
    known = judged(Run("", "", skips={"name update": "fine"}), skipped)
    assert known.skipped == {(skipped.reason, "fine"): 1} and not known.problems


def test_a_run_without_a_database_does_without_its_tests_and_with_all_others() -> None:
    without = Run("", "", without="postgresql")
    assert not judged(without, Result("a", "skip", NO_SERVER)).problems
    assert judged(without, Result("a", "skip", NO_SERVER.replace("postgresql", "mysql"))).problems


def test_a_reason_that_is_listed_does_not_hide_that_there_was_no_server() -> None:
    assert judged(Run("", "", skips={"unavailable": "listed"}), Result("a", "skip", NO_SERVER)).problems


def test_a_run_in_which_no_test_passed_is_a_problem() -> None:
    assert judge(Run("", ""), [], ()).problems == ["no test passed"]


# ---- running -------------------------------------------------------------------------------------------------

TESTS = """\
import os, unittest

class TestIt(unittest.TestCase):
    def test_passes(self):
        self.assertFalse([name for name in os.environ if name.startswith("OS_")])

    @unittest.skip("Etcd is not available")
    def test_skips(self): pass
"""


@pytest.fixture
def small(tmp_path: Path) -> Prepared:
    """Return a suite of two tests."""
    (tmp_path / "cases").mkdir()
    (tmp_path / "cases/__init__.py").touch()
    (tmp_path / "cases/test_it.py").write_text(TESTS)
    return Prepared(tmp_path, Path(sys.executable).parent)


def ran(small: Prepared, command: str) -> Outcome:
    return execute(Run("", command), small, INVENTORY.no_server, small.source / "log")


def test_a_command_is_run_without_variables_that_oslo_config_reads(
    small: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OS_DATABASE__CONNECTION", "mysql://")
    outcome = ran(small, "stestr --test-path cases --top-dir . run")
    assert (outcome.passed, outcome.failed, outcome.broken) == (1, {}, "")
    assert outcome.no_server == {"Etcd is not available": 1} and outcome.seconds > 0


def test_a_failed_test_is_no_broken_command(small: Prepared) -> None:
    (small.source / "cases/test_it.py").write_text(TESTS.replace("assertFalse", "assertTrue"))
    outcome = ran(small, "stestr --test-path cases --top-dir . run")
    assert not outcome.broken and list(outcome.failed) == ["cases.test_it.TestIt.test_passes"]


def test_a_command_that_does_not_get_as_far_as_its_tests_says_why(small: Prepared) -> None:
    ran(small, "stestr --test-path cases --top-dir . run")
    outcome = ran(small, "echo cannot start mysql; exit 5")
    assert outcome.tests == 0
    assert outcome.problems == ["no test passed", "the command ended with 5:\ncannot start mysql"]


def test_a_suite_is_installed_once_for_each_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(prepare, "_fetch", lambda suite, folder: done.append(f"fetch {suite.version}"))
    monkeypatch.setattr(prepare, "_install", lambda suite, folder, ready: done.append(f"install {suite.version}"))
    for version in ("1", "1", "2"):
        ready = prepare.prepare(Suite("tooz", "tooz", version, ()), tmp_path)
    assert done == ["fetch 1", "install 1", "fetch 2", "install 2"]
    assert ready == Prepared(tmp_path / "tooz/tooz", tmp_path / "tooz/venv/bin")


@pytest.mark.long  # It makes two virtual environments.
def test_a_suite_that_cannot_be_installed_says_why_and_is_not_taken_for_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "_fetch", lambda suite, folder: (folder / suite.name).mkdir())
    monkeypatch.setattr(prepare, "CONSTRAINTS", tmp_path / "constraints.txt")
    (tmp_path / "constraints.txt").touch()
    for _ in range(2):
        with pytest.raises(Unprepared, match=r"cannot install the suite of none:\n(.|\n)*test-requirements\.txt"):
            prepare.prepare(Suite("none", "none", "1", ()), tmp_path)


# ---- showing -------------------------------------------------------------------------------------------------

KNOWN = Run("MySQL, PostgreSQL", "devenv run --citest mysql -- stestr run", failures={"test_c": "theirs"})
ROWS = [
    page.Row(
        Suite("tooz", "tooz", "9.1.0", (KNOWN,)),
        KNOWN,
        judge(
            Run("", "", skips={"not": "no such function"}, failures=KNOWN.failures),
            [
                *(Result(f"fine {number}", "success") for number in range(3)),
                Result("a.test_c", "fail"),
                Result("b", "skip", "not implemented"),
                Result("c", "skip", "not applicable"),
                Result("d", "skip", NO_SERVER),
            ],
            INVENTORY.no_server,
            seconds=12.4,
        ),
    )
]


def test_the_page_counts_tests_and_gives_causes() -> None:
    text = page.as_markdown(ROWS, "2026-01-31", MACHINE)
    assert "on 2026-01-31:\n2 cores, 24.0 GB, load average 0.5 before" in text
    assert "| tooz 9.1.0 | MySQL, PostgreSQL | 3 | 1 | 1 | 2 | 12 |\n" in text
    assert text.endswith(
        "\n## tooz\n\n```sh\ndevenv run --citest mysql -- stestr run\n```\n\n"
        "- 2 skipped: no such function\n"
        f"- 1 found no server: {NO_SERVER}\n"
        "- `a.test_c` failed: theirs\n"
    )


def test_the_numbers_for_make_test_long_are_those_of_other_runners() -> None:
    (one,) = ElementTree.fromstring(page.as_junit(ROWS)).iter("testsuite")
    assert one.attrib == {"name": "tooz on MySQL, PostgreSQL", "tests": "7", "skipped": "3", "failures": "1"}


@pytest.mark.parametrize("arguments", [["nosuch"], ["tooz", "--page", "p.md"]])
def test_arguments_that_make_no_sense_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        suites.main(arguments)
    assert refused.value.code == 2


def test_problems_make_the_run_fail_and_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(suites, "_rows", lambda inventory, names: (ROWS, ["cannot install the suite of glance:\nwhy"]))
    written = tmp_path / "suites.md"
    assert suites.main(["--page", str(written)]) == 1
    told = capsys.readouterr()
    assert told.out == page.table(ROWS) + "\n"
    assert "cannot install the suite of glance:\nwhy\n" in told.err
    assert f"tooz on MySQL, PostgreSQL: 1 tests found no server: {NO_SERVER}\n" in told.err
    # It would lack a suite.
    assert not written.exists()
