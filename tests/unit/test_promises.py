"""The pages that promise something name the tests that hold it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.chaos.scenarios import SCENARIOS

TESTS = Path(__file__).parents[1]
PAGES = [path for name in ("security", "reliability") if (path := TESTS.parent / "docs" / f"{name}.md").is_file()]
# A test's name, with or without its file below tests/.
NAMED = re.compile(r"`(?:(?:tests/)?([\w/]+\.py)::)?(test_\w+)`")

# A file alone does not say which test holds the promise.
FILE_ALONE = re.compile(r"`[\w/]*test_\w+\.py`")


def written(folder: Path) -> str:
    return "".join(path.read_text() for path in sorted(folder.rglob("test_*.py")))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_every_test_that_is_named_is_there(page: Path) -> None:
    named = NAMED.findall(page.read_text())
    assert len(named) >= 3
    everywhere = written(TESTS)
    for file, name in named:
        text = (TESTS / file).read_text() if file else everywhere
        assert f"def {name}(" in text, f"{file} {name}"


def test_every_promise_about_security_has_a_test() -> None:
    rows = [
        line
        for line in (TESTS.parent / "docs" / "security.md").read_text().splitlines()
        if line.startswith("| ") and "---" not in line
    ]
    # Headings of a part are bold and have no test.
    promises = [row for row in rows if not row.startswith(("| **", "| promise |"))]
    assert promises
    assert not [row for row in promises if not NAMED.search(row) or FILE_ALONE.search(row)]


def test_every_fault_has_a_test_that_is_there() -> None:
    page = (TESTS.parent / "docs" / "reliability.md").read_text()
    _, _, table = page.partition("\n| fault | what happens | test |\n|---|---|---|\n")
    rows = table.partition("\n\n")[0].splitlines()
    assert len(rows) >= 20
    for row in rows:
        named = NAMED.findall(row.rpartition(" | ")[2])
        assert named and all(f"def {name}(" in (TESTS / file).read_text() for file, name in named), row


def test_every_scenario_was_swept_to_its_end_and_survived() -> None:
    swept = json.loads((TESTS.parent / "docs" / "reliability.json").read_text())
    assert list(swept) == list(SCENARIOS)
    assert not {name: one["not survived"] for name, one in swept.items() if one["not survived"]}
