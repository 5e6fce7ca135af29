"""How the results of `make engines` are read, and written into their page."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.engines import page
from tests.engines.__main__ import _FAST, _FAST_ENGINES
from tests.engines.page import Outcome, Row

REPOSITORY = Path(__file__).parents[2]
REPORT = """<testsuites><testsuite>
<testcase classname="tests.integration.test_run" name="one" time="1.5"/>
<testcase classname="tests.integration.test_run" name="two" time="2"><failure/></testcase>
<testcase classname="tests.integration.test_run" name="two" time="0"><error/></testcase>
<testcase classname="tests.integration.test_run" name="three" time="0"><skipped/></testcase>
<testcase classname="tests.integration.test_gone.TestOne" name="four" time="1"/>
</testsuite></testsuites>"""


def test_an_area_has_what_became_of_its_tests(tmp_path: Path) -> None:
    (report := tmp_path / "report.xml").write_text(REPORT)
    areas = {"runs": "test_run", "ls": "test_gone", "images": "test_images"}
    assert page.read_report(report, areas) == {"runs": Outcome(1, ("two",), 3.5), "ls": Outcome(1, (), 1)}


def test_a_run_without_a_report_is_a_failure(tmp_path: Path) -> None:
    assert page.read_report(tmp_path / "none", {"runs": "test_run"})["runs"].failed


def test_an_engine_that_did_not_run_again_keeps_its_row(tmp_path: Path) -> None:
    (file := tmp_path / "page.md").write_text("a\n<!-- engines: begin -->\n<!-- engines: end -->\nb\n")
    areas, names = ["runs", "ls"], ["one", "two", "three"]
    page.write(file, [Row("two", "Docker 2", {"runs": Outcome(3, (), 4.4)}, "2026-01-01")], areas, names)
    page.write(file, [Row("one", "", {}, "2026-01-02", "no answer")], areas, names)
    assert file.read_text().splitlines() == [
        "a",
        "<!-- engines: begin -->",
        "| engine | runs | ls | date |",
        "|---|--:|--:|---|",
        "| one:  | no answer | no answer | 2026-01-02 |",
        "| two: Docker 2 | 3, 4 s | - | 2026-01-01 |",
        "<!-- engines: end -->",
        "b",
    ]


def test_what_runs_in_the_long_part_exists() -> None:
    names = subprocess.run(
        [REPOSITORY / "tests/engines/other-engine", "names"], capture_output=True, text=True, check=True
    )
    assert {*_FAST_ENGINES} <= {*names.stdout.split()}
    for module, _, test in (one.partition("::") for one in _FAST):
        assert f"def {test}(" in (REPOSITORY / "tests/integration" / module).read_text() or not test
