"""Where an environment's files are: in .devenv/ or in a folder that the user names, beside files of other programs."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeEngine, Recorder

from devenv.errors import ConfigError
from devenv.lifecycle.environment import Environment
from devenv.model import Observed, ObservedContainer
from devenv.store.files import create_empty, make_private, write_files
from devenv.testing.lease import collect
from devenv.wiring import folder as folder_of_files
from devenv.wiring.written import Written

PROFILE = "profile: coordination\ncomponents: {nova: {wire: [nova.conf]}}\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Enter a project whose `up` does nothing but write files."""
    monkeypatch.setattr("devenv.lifecycle.seat.connect", FakeEngine)
    monkeypatch.setattr("devenv.lifecycle.up.carry_out", lambda *_: [])
    monkeypatch.setattr("devenv.lifecycle.world.World.given", lambda _, desired: desired)
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "devenv.yaml").write_text(PROFILE)
    (folder / "nova.conf").write_text("[DEFAULT]\n")
    monkeypatch.chdir(folder)
    return folder


def content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


# ---- another folder ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["argument", "relative argument", "variable"])
@pytest.mark.parametrize("name", ["default", "two"])
def test_all_files_go_to_the_folder_that_the_user_names(
    by: str, name: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a" / "out"
    if by == "variable":
        monkeypatch.setenv("DEVENV_OUTPUT_DIR", str(out))
    chosen = {"argument": out, "relative argument": Path("../a/out"), "variable": None}[by]
    environment = Environment(name=name, output_dir=chosen)
    where = out if name == "default" else out / "environments" / name
    assert environment.folder == where
    written = environment.up().written
    assert {where / "env", where / "nova.conf", where / "endpoints.json"} <= {*written}
    assert not (project / ".devenv").exists() and stat.S_IMODE(where.stat().st_mode) == 0o700
    assert (out / ".gitignore").read_text() == "*\n"
    # It goes from there, whatever the next command names.
    monkeypatch.delenv("DEVENV_OUTPUT_DIR", raising=False)
    Environment(name=name).down(volumes=True)
    assert not out.exists() and out.parent.is_dir()


def test_a_relative_folder_in_the_variable_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEVENV_OUTPUT_DIR", "out")
    with pytest.raises(ConfigError, match="cannot use DEVENV_OUTPUT_DIR=out: the path is relative"):
        Environment()


def test_an_up_that_names_another_folder_moves_the_files(project: Path, tmp_path: Path) -> None:
    for first, then in ((None, tmp_path / "out"), (tmp_path / "out", None)):
        Environment(output_dir=first).up()
        environment = Environment(output_dir=then)
        environment.up()
        assert (environment.folder / "env").exists()
        assert not (first or project / ".devenv").exists()


def test_another_name_of_the_folder_is_no_other_folder(project: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (environment := Environment(output_dir=tmp_path / "a" / "out")).up()
    before = content(environment.folder)
    environment.state.amend(folder=str(tmp_path / "b" / "out"))
    environment.up()
    assert content(environment.folder) == before


def test_only_up_moves_the_files_and_all_others_use_them_where_they_are(project: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    Environment(output_dir=out).up()
    for environment in (Environment(), Environment(output_dir=tmp_path / "third")):
        assert environment.folder == out
        assert environment.plan() and environment.folder == out
        world = environment._world
        world.written.write({"env": environment.name, "nova.conf": ""}, world.define().catalogue)
        assert {path.name for path in out.iterdir()} == {".gitignore", "env", "nova.conf"}
    assert not (tmp_path / "third").exists() and not (project / ".devenv").exists()


def test_a_killed_run_is_cleared_where_the_files_are(
    read_only: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, told = tmp_path / "out", Recorder()
    Environment(output_dir=out).up()
    before = content(out)
    environment = Environment(report=told)
    make_private(environment.state.folder / "lent")
    create_empty(environment.state.folder / "lent" / "run-1")
    environment.state.amend(provisioned={"etcd/run-1": ""})
    world = environment._world
    desired = world.look(world.define()).everything
    there = Observed(containers={"etcd": ObservedContainer("1", "etcd", "etcd", "running")})
    picture = replace(world.look(world.define()), observed=there, wanted=desired)
    monkeypatch.setattr("devenv.lifecycle.world.World.look", lambda *_, **__: picture)
    monkeypatch.setattr("devenv.lifecycle.loans.carry_out", lambda *_: [])
    environment.clear()
    assert content(out) == before and not (read_only / ".devenv").exists()
    assert not [note for note in told.told if "not all of" in note]


class Killed(BaseException):
    """Ends devenv, for a test, where it is."""


@pytest.mark.parametrize("out", [True, False])
def test_files_that_cannot_move_stay_where_they_are(
    out: bool, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, then = (None, tmp_path / "out") if out else (tmp_path / "out", None)
    (environment := Environment(output_dir=first)).up()
    old, new = environment.folder, then or project / ".devenv"
    before = content(old)

    def full(files: Any) -> None:
        if any(path.name == "env" for path in files):
            raise ConfigError(f"cannot write {new}/env: No space left on device")
        write_files(files)

    with monkeypatch.context() as disk:
        disk.setattr("devenv.wiring.folder.write_files", full)
        with pytest.raises(ConfigError, match="No space left"):
            Environment(output_dir=then).up()
    assert content(old) == before and not new.exists() and Environment().folder == old
    Environment(output_dir=then).up()
    assert not old.exists() and {*content(new)} >= {*before} - {".gitignore"}


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("after", ["up", "down"])
def test_a_move_that_was_killed_leaves_a_whole_set_where_the_record_says(
    early: bool, after: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, then = tmp_path / "first", tmp_path / "then"
    for folder in (first, then):
        folder.mkdir()
        (folder / "mine").write_text("kept")
    Environment(output_dir=first).up()
    before = content(first)
    moving = Environment(output_dir=then)
    removed, wrote = Written._remove_left, folder_of_files.write

    def killed(*arguments: Any) -> None:
        wrote(*arguments)
        raise Killed

    def killed_if_moving(written: Written, *but: Path) -> None:
        if moving.state.load().left_folder:
            raise Killed
        removed(written, *but)

    with monkeypatch.context() as kill:
        kill.setattr(Written, "_remove_left", killed_if_moving)
        if early:
            kill.setattr(folder_of_files, "write", killed)
        with pytest.raises(Killed):
            moving.up()
    assert content(first) == before and content(then).keys() == before.keys()
    environment = Environment()
    assert environment.folder == (first if early else then)
    if after == "down":
        environment.down(volumes=True)
        assert content(first) == content(then) == {"mine": "kept"}
    else:
        Environment(output_dir=then).up()
        assert content(first) == {"mine": "kept"} and content(then).keys() == before.keys()


def test_a_folder_of_the_users_keeps_its_files_and_stays(project: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("kept")
    environment = Environment(output_dir=out)
    environment.up()
    environment.down(volumes=True)
    assert content(out) == {"mine": "kept"}
    (out / "mine").unlink()
    environment.up()
    assert not (out / ".gitignore").exists()  # It would hide the user's own files from git.
    environment.down(volumes=True)
    assert out.is_dir() and not content(out)


def test_two_environments_do_not_share_a_folder(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Environment(output_dir=tmp_path / "out").up()
    before = content(tmp_path / "out")
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(ConfigError, match=f"cannot write to {tmp_path / 'out'}: environment .* of {project} has its"):
        Environment(other, output_dir=tmp_path / "out").up()
    assert content(tmp_path / "out") == before


def test_a_folder_that_others_may_write_to_gets_no_passwords(project: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    out.chmod(0o777)
    with pytest.raises(ConfigError, match=f"cannot write to {out}: other users may write to it"):
        Environment(output_dir=out).up()
    assert not content(out)


def test_a_folder_that_the_system_does_not_create_is_a_clear_error(project: Path) -> None:
    with pytest.raises(ConfigError, match=r"^cannot create /proc/nowhere: ") as refusal:
        Environment(output_dir="/proc/nowhere/out").up()
    assert "allow writing there" in refusal.value.hint


@pytest.fixture
def read_only(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the project one that devenv may not write to."""
    access = os.access
    monkeypatch.setattr(
        "os.access",
        lambda path, mode: not (mode & os.W_OK and Path(path).is_relative_to(project)) and access(path, mode),
    )
    return project


def test_a_read_only_project_is_refused_with_the_way_round(read_only: Path) -> None:
    with pytest.raises(ConfigError, match=f"cannot write to {read_only / '.devenv'}: no permission") as refusal:
        Environment().up()
    assert "--output-dir or DEVENV_OUTPUT_DIR" in refusal.value.hint


def test_in_a_read_only_project_listed_files_are_left_alone_and_told(read_only: Path, tmp_path: Path) -> None:
    told = Recorder()
    Environment(output_dir=tmp_path / "out", report=told).up()
    assert content(read_only) == {"devenv.yaml": PROFILE, "nova.conf": "[DEFAULT]\n"}
    (note,) = [note for note in told.told if "nova.conf" in note]
    assert f"pass {tmp_path / 'out/nova.conf'} as another --config-file" in note


def test_files_outside_of_a_project_that_is_gone_go_with_its_environment(project: Path, tmp_path: Path) -> None:
    from devenv.lifecycle import down
    from devenv.model import Report

    environment = Environment(output_dir=tmp_path / "out")
    environment.up()
    project.rename(tmp_path / "moved")
    down.remove(environment.id, Report())
    assert not (tmp_path / "out").exists()


# ---- beside another tool -----------------------------------------------------------------------------------------

# What devenv.sh and Sentry's devenv keep, and a file that has a name of ours.
THEIRS = {
    **{"state/data": "theirs", "profile": "theirs", "bin/tool": "theirs", "nix-eval-cache.db": "theirs"},
    **{"environments/data": "theirs", "endpoints": "theirs"},
}


@pytest.mark.parametrize("ignored", ["", "*\n", "state\n"])
def test_files_of_another_tool_are_left_alone(ignored: str, project: Path) -> None:
    theirs = {**THEIRS, **({".gitignore": ignored} if ignored else {})}
    for name, text in theirs.items():
        (project / ".devenv" / name).parent.mkdir(parents=True, exist_ok=True)
        (project / ".devenv" / name).write_text(text)
    for name in ("default", "two"):
        environment = Environment(name=name)
        environment.up()
        assert content(project / ".devenv").items() >= theirs.items()
        environment.up()
        environment.collect()
        environment.down()
        environment.down(volumes=True)
    left = content(project / ".devenv")
    assert left == {**theirs, ".gitignore": ignored or "*\n"}


@pytest.mark.parametrize("name", ["env", "clouds.yaml", "nova.conf", "openrc"])
def test_a_file_of_another_tool_with_a_name_of_ours_is_neither_replaced_nor_removed(name: str, project: Path) -> None:
    (project / ".devenv").mkdir()
    (project / ".devenv" / name).write_text("theirs")
    environment = Environment()
    environment.down(volumes=True)
    assert content(project / ".devenv") == {name: "theirs"}
    if name in ("env", "nova.conf"):  # etcd alone has no clouds
        with pytest.raises(
            ConfigError, match=f"cannot write {project}/.devenv/{name}: it is there, and devenv did not"
        ):
            environment.up()
        assert content(project / ".devenv") == {name: "theirs"}
    else:
        environment.up()
        assert content(project / ".devenv")[name] == "theirs"


def test_files_of_our_own_are_known_after_the_record_was_lost(project: Path) -> None:
    Environment().up()
    environment = Environment()
    (environment.state.folder / "record.json").unlink()
    environment.up()
    (environment.state.folder / "record.json").unlink()
    environment.down(volumes=True)
    assert {*content(project / ".devenv")} <= {
        ".gitignore",
        "nova.conf",
        "nova.json",
        "nova.env",
        "nova.conf.d/nova.conf",
    }


# ---- another file than devenv.yaml -------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["argument", "variable", "absolute"])
def test_another_file_describes_the_project(
    by: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "devenv.yaml").write_text("inputs: {nixpkgs: {url: github:cachix/devenv-nixpkgs/rolling}}\n")
    path = (tmp_path if by == "absolute" else project) / "ours.yaml"
    path.write_text("profile: coordination\n")
    below = project / "src" / "deep"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    if by == "variable":
        monkeypatch.setenv("DEVENV_FILE", "ours.yaml")
    environment = Environment(file={"argument": "ours.yaml", "variable": "", "absolute": str(path)}[by])
    assert (environment.project, environment.file) == (project, path)
    assert environment.selected() == ["etcd"]
    environment.up()
    again = environment.sibling("two")
    assert again.selected() == ["etcd"] and (again.file, again.project, again.name) == (path, project, "two")
    assert collect(environment, 0) == ([], [])


def test_a_project_without_a_file_has_siblings_too(project: Path) -> None:
    (project / "devenv.yaml").unlink()
    for name in ("default", "two"):
        Environment(name=name).up()
    assert collect(Environment(), 0) == ([], [])


def test_a_file_that_is_nowhere_is_refused(project: Path) -> None:
    for file in ("ours.yaml", "/nonexistent/ours.yaml"):
        with pytest.raises(ConfigError, match=f"cannot find {file}: neither {project} nor a folder above it has such"):
            Environment(file=file)


def test_a_file_that_is_named_makes_no_project_of_a_folder_with_another_tools(project: Path) -> None:
    inner = project / "inner"
    (inner / ".devenv").mkdir(parents=True)
    (project / "ours.yaml").touch()
    assert Environment(inner).project == inner and Environment(inner, file="ours.yaml").project == project


@pytest.fixture
def plan(project: Path) -> Any:
    def planned(text: str) -> ConfigError:
        (project / "devenv.yaml").write_text(text)
        with pytest.raises(ConfigError) as refusal:
            Environment().plan()
        return refusal.value

    return planned


@pytest.mark.parametrize(
    "text",
    [
        "inputs:\n  nixpkgs:\n    url: github:cachix/devenv-nixpkgs/rolling\n",
        *("imports: [./backend]\n", "allowUnfree: true\n", "# x\nallow_unfree: true\n", "impure: true\nprofile: x\n"),
        *(
            "clean: {enabled: true}\n",
            "nixpkgs: {allow_broken: true}\n",
            "strictPorts: true\n",
            "permittedInsecurePackages: []",
        ),
        "inputs: &a {x: 1}\nimports:\n  - <<: *a\n",
    ],
)
def test_a_devenv_yaml_of_another_tool_is_told_with_the_way_to_have_both(text: str, plan: Any) -> None:
    error = plan(text)
    assert "it looks like a file of devenv.sh, which is another tool" in error.message
    assert "devenv --file" in error.hint and "DEVENV_FILE" in error.hint


@pytest.mark.parametrize(
    ("text", "mistake"),
    [("clean: true\n", "devenv.yaml:1: clean: unknown key"), ("inputs: [\n", "did not find expected node content")],
)
def test_what_is_wrong_in_it_is_told_too_for_it_may_be_a_mistake(text: str, mistake: str, plan: Any) -> None:
    assert mistake in "\n".join(plan(text).detail)


def test_a_file_that_the_user_named_is_not_another_tools(plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEVENV_FILE", str(Path("devenv.yaml").resolve()))
    assert "another tool" not in plan("clean: true\n").message


@pytest.mark.parametrize(
    "text", ["nosuch: 1\n", "services: {inputs: {x: 1}}\n", "services:\n  imports: 1\n", "# inputs:\nx: 1"]
)
def test_a_mistake_in_a_devenv_yaml_of_our_own_is_told_as_such(text: str, plan: Any) -> None:
    assert "another tool" not in plan(text).message
