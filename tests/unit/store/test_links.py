"""devenv never follows a symbolic link of a clone to write outside of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest
from click.testing import CliRunner
from fake_engine import FakeEngine
from runs import TYPICAL

from devenv.cli.main import main
from devenv.errors import ConfigError, NoEngine
from devenv.lifecycle.environment import Environment
from devenv.lifecycle.trace import write_trace
from devenv.store.files import beside, way_out
from devenv.store.state import State
from devenv.testing import write_artifacts

# Each link, and a command that would write to it or through it.
PLANTED = [
    ("out", ["up", "--trace", "out"]),
    ("out", ["up", "--trace", "out/trace.json"]),
    ("out", ["status", "--trace", "out"]),
    ("out", ["status", "--trace", "sub/../out/trace.json"]),
    ("out", ["ci", "--artifacts", "out", "--", "true"]),
    ("out", ["ci", "--artifacts", "out/artifacts", "--", "true"]),
    ("out", ["ci", "--summary", "out", "--", "true"]),
    ("out", ["ci", "--summary", "out/report.md", "--", "true"]),
    ("out", ["images", "save", "out"]),
    ("out", ["images", "save", "out/images.tar"]),
    ("out", ["export", "compose", "--output", "out"]),
    ("out", ["export", "compose", "--output", "out/compose.yaml"]),
    ("out", ["export", "zuul", "--install", "./devenv.whl", "--output", "out"]),
    (".zuul.d", ["export", "zuul", "--install", "./devenv.whl", "--output", "."]),
    ("playbooks", ["export", "zuul", "--install", "./devenv.whl", "--output", "."]),
    (".devenv", ["up"]),
    (".devenv", ["run", "--", "true"]),
    (".devenv", ["reset"]),
    (".devenv/environments", ["--env", "two", "up"]),
    ("devenv.yaml", ["init"]),
]


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Enter a project with an `up` on record, and no engine but one in memory."""
    (folder := tmp_path / "project").mkdir()
    (folder / "sub").mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr("devenv.lifecycle.seat.connect", FakeEngine)
    State(folder, "default").save_timing(asdict(TYPICAL))
    return folder


@pytest.fixture(params=["a file", "a folder", "nothing yet"])
def outside(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Make the place that links lead to."""
    (tmp_path / "outside").mkdir()
    place = tmp_path / "outside" / "place"
    if request.param == "a file":
        place.write_text("mine")
    elif request.param == "a folder":
        place.mkdir()
        (place / "file").write_text("mine")
    return place


def plant(link: str, target: Path) -> None:
    path = Path(link)
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(target)


def tree(folder: Path) -> dict[str, str]:
    return {str(path): path.read_text() if path.is_file() else "" for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("link", "arguments"), PLANTED, ids=lambda value: "" if isinstance(value, str) else " ".join(value)
)
def test_nothing_is_written_through_a_link_that_leads_out(link: str, arguments: Sequence[str], outside: Path) -> None:
    plant(link, outside)
    before = tree(outside.parent)
    done = CliRunner().invoke(main, list(arguments))
    assert done.exit_code == 3, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("cannot ")]
    assert len(lines) == 1 and lines[0].startswith("cannot write ") and link in lines[0]
    assert tree(outside.parent) == before and Path(link).is_symlink()


# Commands that write to a place outside of the project, named on the command line.
ELSEWHERE = [
    ["up", "--trace", "{}"],
    ["status", "--trace", "{}"],
    ["ci", "--artifacts", "{}", "--", "true"],
    ["ci", "--summary", "{}", "--", "true"],
    ["images", "save", "{}"],
    ["export", "compose", "--output", "{}"],
    ["export", "zuul", "--install", "./devenv.whl", "--output", "{}"],
]


@pytest.mark.parametrize("arguments", ELSEWHERE, ids=" ".join)
def test_nothing_is_written_through_a_link_that_somebody_put_where_all_may(
    arguments: Sequence[str], outside: Path, tmp_path: Path
) -> None:
    (shared := tmp_path / "tmp").mkdir()
    (shared / "link").symlink_to(outside)
    before = tree(outside.parent)
    done = CliRunner().invoke(main, [argument.format(shared / "link") for argument in arguments])
    assert done.exit_code == 3, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("cannot ")]
    assert line.startswith("cannot write ") and f"{shared / 'link'}: it is a symbolic link, to {outside}" in line
    assert tree(outside.parent) == before and [path.name for path in shared.iterdir()] == ["link"]


def test_a_link_that_comes_late_is_replaced_and_not_followed(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody puts the link there after devenv has checked the place."""
    (tmp_path / "mine").write_text("mine")
    trace = tmp_path / "trace.json"
    monkeypatch.setattr("devenv.lifecycle.trace.check_place", lambda path, _: path.symlink_to(tmp_path / "mine"))
    write_trace(trace, TYPICAL, project)
    assert (tmp_path / "mine").read_text() == "mine" and not trace.is_symlink()


def test_a_link_that_stays_in_the_project_is_followed(project: Path) -> None:
    (project / "sub" / "traces").mkdir()
    plant("traces", project / "sub" / "traces")
    CliRunner().invoke(main, ["status", "--trace", "traces/trace.json"], catch_exceptions=False)
    assert (project / "sub" / "traces" / "trace.json").is_file()


def test_a_link_on_the_way_to_the_project_is_none_of_its_own(project: Path, tmp_path: Path) -> None:
    (tmp_path / "way").symlink_to(tmp_path)
    for path in (tmp_path / "way" / "project" / "x", tmp_path / "way" / "x"):
        assert way_out(path, tmp_path / "way" / "project") == way_out(path, project) == ""


def test_files_among_artifacts_are_replaced_and_not_followed(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody() -> None:
        raise NoEngine("cannot reach an engine")

    monkeypatch.setattr("devenv.lifecycle.seat.connect", nobody)
    (tmp_path / "mine").write_text("mine")
    for name in ("status.json", "engine.json", beside(Path("status.json")).name):
        plant(f"artifacts/{name}", tmp_path / "mine")
    write_artifacts(Environment(), project / "artifacts")
    assert (tmp_path / "mine").read_text() == "mine"
    assert not any(path.is_symlink() for path in (project / "artifacts").iterdir())


def test_a_suites_artifacts_do_not_leave_the_project_either(outside: Path, project: Path) -> None:
    plant("artifacts", outside)
    with pytest.raises(ConfigError, match=r"cannot write artifacts to .* leads out of the project"):
        write_artifacts(Environment(), project / "artifacts" / "default")
