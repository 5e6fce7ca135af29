"""What `make dist` refuses to release, and what the workflow that publishes may do."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from check_jsonschema import main as check_jsonschema
from click.testing import CliRunner

from devenv import __version__
from tests import dist

WORKFLOW = dist.TOP / ".github" / "workflows" / "publish.yml"
FILES = {"README.md", "devenv/a.py", "compose/etcd/etcd.yaml", "docs/a.md", "tests/test_a.py", ".gitignore", ".ci/run"}
WHEEL = ["devenv/a.py", "devenv/compose/etcd/etcd.yaml", "devenv/docs/a.md", "x-1.dist-info/METADATA"]
ARCHIVE = [f"x-1/{name}" for name in ("PKG-INFO", *sorted(FILES - {".ci/run"}))]
RELEASED = "# Changelog\n\n## 1.2.3 - 2026-01-31\n\n## 1.2.2 - 2026-01-01\n"


@pytest.fixture
def job() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(WORKFLOW.read_text())["jobs"]
    return found


# ---- what is in the files ----------------------------------------------------------------------------------------


def test_a_wheel_and_an_archive_hold_what_belongs_to_them_and_nothing_else() -> None:
    assert dist.wheel_problems(WHEEL, FILES) == dist.archive_problems(ARCHIVE, FILES) == []
    assert dist.wheel_problems([*WHEEL[1:], "tests/b.py"], FILES) == [
        "the wheel lacks devenv/a.py",
        "the wheel holds tests/b.py",
    ]
    assert dist.archive_problems([*ARCHIVE[:-1], "x-1/.devenv/env"], FILES) == [
        "the source archive lacks tests/test_a.py",
        "the source archive holds .devenv/env",
    ]


def test_all_pages_services_and_profiles_belong_to_the_wheel() -> None:
    files = dist.tracked()
    held = [*dist.FOLDERS, "docs/getting-started.md", "compose/mysql/compose.yaml", "profiles/base.yaml"]
    lacking = dist.wheel_problems([], files)
    assert {f"the wheel lacks devenv/{name}" for name in held if not name.endswith("/")} <= {*lacking}


# ---- what it is called -------------------------------------------------------------------------------------------


def test_a_release_is_what_its_tag_and_the_changelog_call_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "said", lambda *command: "")
    assert dist.version_problems("1.2.3", RELEASED, "v1.2.3") == []
    assert dist.version_problems("1.2.3", RELEASED, "v1.2.4") == ["the tag is v1.2.4, and devenv.__version__ is 1.2.3"]
    for early in ("## Unreleased\n", "## 1.2.3\n", "## 1.2.2 - 2026-01-01\n"):
        (found,) = dist.version_problems("1.2.3", early, "v1.2.3")
        assert "not with '## 1.2.3 - ' and the day" in found
    monkeypatch.setattr(dist, "said", lambda *command: "M README.md")
    assert "README.md" in dist.version_problems("1.2.3", RELEASED, "v1.2.3")[0]


def test_what_is_no_release_yet_may_become_one() -> None:
    assert dist.version_problems("1.2.3", "## Unreleased\n", "") == dist.version_problems("1.2.3", RELEASED, "") == []
    (found,) = dist.version_problems("1.2.2", RELEASED, "")
    assert found == "CHANGELOG.md begins with 1.2.3, and devenv.__version__ is 1.2.2"
    assert dist.version_problems(__version__, (dist.TOP / "CHANGELOG.md").read_text(), "") == []


# ---- the workflow ------------------------------------------------------------------------------------------------


def test_the_published_schema_accepts_the_workflow() -> None:
    done = CliRunner().invoke(check_jsonschema, ["--builtin-schema", "vendor.github-workflows", str(WORKFLOW)])
    assert done.exit_code == 0, done.output


def test_it_runs_no_action_that_its_owner_could_change_afterwards() -> None:
    used = re.findall(r"uses: (\S+)(.*)", WORKFLOW.read_text())
    assert len(used) == 5
    for action, comment in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action) and re.fullmatch(r"  # v\d+\.\d+\.\d+", comment)


def test_only_the_job_that_runs_no_code_of_ours_can_publish(job: dict[str, Any]) -> None:
    assert yaml.safe_load(WORKFLOW.read_text())["permissions"] == {}
    assert job["build"]["permissions"] == {"contents": "read"}
    assert job["publish"]["permissions"] == {"id-token": "write"} and job["publish"]["environment"] == "release"
    assert not [step for step in job["publish"]["steps"] if "run" in step]
    assert "secrets." not in WORKFLOW.read_text()


def test_it_runs_what_the_makefile_has(job: dict[str, Any]) -> None:
    makefile = (dist.TOP / "Makefile").read_text()
    targets = re.findall(r"make ([a-z ]+)", " ; ".join(step.get("run", "") for step in job["build"]["steps"]))
    assert targets and all(f"\n{target}: " in makefile for line in targets for target in line.split())
    called = subprocess.run(
        ["make", "--dry-run", "dist", "TAG=v1.2.3"], cwd=dist.TOP, capture_output=True, text=True, check=True
    )
    assert "-m tests.dist --tag 'v1.2.3'" in called.stdout


def test_the_files_of_a_checkout_are_those_that_git_knows() -> None:
    files = dist.tracked()
    assert {"README.md", "devenv/__init__.py"} <= files and not [name for name in files if "__pycache__" in name]
    assert Path(__file__).relative_to(dist.TOP).as_posix() in files
