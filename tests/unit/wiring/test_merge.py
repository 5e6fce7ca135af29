"""User files that devenv merges something into, and the record that undoes a merge."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from devenv.errors import ConfigError
from devenv.store import files as store_files
from devenv.store.files import replace_file
from devenv.store.places import state_folder
from devenv.wiring import merge
from devenv.wiring.merge import Addition, Change, Owner, Wired, unwire, wire, wired

NOVA = Owner("project-1", "nova")
CLOUDS = Owner("project-1", "")
OVERLAY = "# Ours.\n[database]\nconnection = mysql://x\n[DEFAULT]\ntransport_url = rabbit://x\n"
BEFORE = "[DEFAULT]\r\n#transport_url = <None>\r\ndebug = 1\r\n[database]\r\nconnection = sqlite://\r\n# é"
AFTER = BEFORE.replace("<None>\r\n", "<None>\r\ntransport_url = rabbit://x\r\n").replace("sqlite://", "mysql://x")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "project").mkdir()
    (tmp_path / "project/nova.conf").write_bytes(BEFORE.encode())
    (tmp_path / "project/nova.conf").chmod(0o600)
    return tmp_path / "project"


def put(
    project: Path,
    path: Path | None = None,
    overlay: str = OVERLAY,
    owner: Owner = NOVA,
    listed: bool = False,
    write: bool = True,
) -> Change:
    addition = Addition(owner, overlay, listed, f".devenv/{owner.component}.conf")
    return wire(path or project / "nova.conf", project, addition, write)


def text(project: Path) -> str:
    return (project / "nova.conf").read_bytes().decode()


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def refused(act: Callable[[], object], reason: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        act()
    assert reason in caught.value.message and "\n" not in caught.value.message and caught.value.hint
    return caught.value


# ---- there and back ----------------------------------------------------------------------------------------------


def test_a_file_is_wired_and_comes_back_to_the_byte(project: Path) -> None:
    change = put(project)
    assert (text(project), change.before, change.after, change.changed) == (AFTER, BEFORE, AFTER, True)
    assert wired() == wired("project-1") == [Wired(project / "nova.conf", "project-1", "nova", False)]
    assert wired("other") == []
    undone = unwire(project / "nova.conf", project, "project-1")
    assert (text(project), undone.after, undone.notes, wired()) == (BEFORE, BEFORE, (), [])
    assert files(project) == {"nova.conf"}


def test_what_the_user_changed_since_is_kept_and_told(project: Path) -> None:
    put(project)
    (project / "nova.conf").write_bytes(AFTER.replace("mysql://x", "mysql://mine").encode())
    undone = unwire(project / "nova.conf", project, "project-1")
    assert undone.notes == ("[database] connection was changed since: it stays as it is",)
    assert text(project) == BEFORE.replace("sqlite://", "mysql://mine")


def test_wiring_again_changes_neither_the_file_nor_the_record(project: Path) -> None:
    put(project)
    places = [project / "nova.conf", state_folder() / "wired.json"]
    before = [path.stat().st_ino for path in places]
    assert not put(project).changed
    assert [path.stat().st_ino for path in places] == before


def test_a_new_overlay_takes_the_place_of_the_old(project: Path) -> None:
    put(project)
    put(project, overlay="[database]\nconnection = mysql://y\n", listed=True)
    assert text(project) == BEFORE.replace("sqlite://", "mysql://y")
    assert [file.listed for file in wired()] == [True]
    unwire(project / "nova.conf", project, "")
    assert text(project) == BEFORE


@pytest.mark.parametrize("name", ["clouds.yaml", "CLOUDS.YML"])
def test_clouds_are_merged_into_yaml(project: Path, name: str) -> None:
    path = project / name
    path.write_text("clouds: # mine\n  a: 1\n")
    put(project, path, "clouds:\n  devenv: {b: 2}\n", CLOUDS)
    assert path.read_text() == "clouds: # mine\n  devenv:\n    b: 2\n  a: 1\n"
    unwire(path, project, "project-1")
    assert path.read_text() == "clouds: # mine\n  a: 1\n"


def test_a_dry_run_writes_nothing_at_all(project: Path) -> None:
    change = put(project, write=False)
    assert (change.after, text(project)) == (AFTER, BEFORE)
    assert not state_folder().exists()
    put(project)
    record = (state_folder() / "wired.json").read_bytes()
    (state_folder() / "wired.lock").unlink()
    assert unwire(project / "nova.conf", project, "project-1", write=False).after == BEFORE
    assert text(project) == AFTER and (state_folder() / "wired.json").read_bytes() == record
    assert not (state_folder() / "wired.lock").exists()


def test_a_change_is_shown_as_a_diff(project: Path) -> None:
    (project / "etc").mkdir()
    (project / "etc/x.conf").write_bytes(b"[a]\r\nx = 1\r\ny = 2")
    change = put(project, project / "etc/x.conf", "[a]\ny = 3\n")
    assert change.diff == (
        "--- a/etc/x.conf\n+++ b/etc/x.conf\n@@ -1,3 +1,3 @@\n [a]^M\n x = 1^M\n"
        "-y = 2\n\\ No newline at end of file\n+y = 3\n\\ No newline at end of file\n"
    )
    assert put(project, project / "etc/x.conf", "[a]\ny = 3\n").diff == ""


def test_mode_and_owner_are_kept_and_the_record_is_for_its_owner_alone(project: Path) -> None:
    (project / "nova.conf").chmod(0o640)
    if os.geteuid() == 0:
        os.chown(project / "nova.conf", 1234, 2345)
    before = (project / "nova.conf").stat()
    put(project)
    after = (project / "nova.conf").stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert stat.S_IMODE((state_folder() / "wired.json").stat().st_mode) == 0o600


def test_that_everybody_can_read_the_passwords_is_told_when_they_are_put_there(project: Path) -> None:
    (project / "nova.conf").chmod(0o644)
    assert ["chmod o-r" in note for note in put(project).notes] == [True]
    assert put(project).notes == ()
    unwire(project / "nova.conf", project, "project-1")
    (project / "nova.conf").chmod(0o640)
    assert put(project).notes == ()


def test_a_link_in_the_project_stays_a_link_and_its_target_is_wired(project: Path) -> None:
    (project / "etc").mkdir()
    (project / "etc/link.conf").symlink_to("../nova.conf")
    assert put(project, project / "etc/link.conf", listed=True).path == project / "nova.conf"
    assert (project / "etc/link.conf").is_symlink() and text(project) == AFTER
    unwire(project / "etc/link.conf", project, "project-1")
    assert text(project) == BEFORE


def test_a_project_that_is_reached_through_a_link_is_the_same(project: Path) -> None:
    (project.parent / "link").symlink_to(project)
    put(project.parent / "link", listed=True)
    assert [file.path for file in wired()] == [project / "nova.conf"]
    unwire(project / "nova.conf", project, "project-1")
    assert text(project) == BEFORE


def test_a_file_whose_name_is_as_long_as_can_be_is_wired(project: Path) -> None:
    path = project / ("x" * 250 + ".conf")
    path.write_text("[a]\n")
    put(project, path)
    assert "mysql://x" in path.read_text()


def test_a_path_that_is_not_utf_8_is_wired(project: Path) -> None:
    path = project / os.fsdecode(b"\xff.conf")
    path.write_text("[a]\n")
    put(project, path)
    assert [file.path for file in wired()] == [path]
    unwire(path, project, "project-1")
    assert path.read_text() == "[a]\n"


# ---- what is refused ---------------------------------------------------------------------------------------------


def make(path: Path, kind: str) -> None:
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "large":
        path.touch()
        os.truncate(path, 32 * 1024**2 + 1)
    elif kind == "latin":
        path.write_bytes(b"[a]\nx = \xe9\n")
    elif kind == "dangling":
        path.symlink_to("absent")
    elif kind == "loop":
        path.symlink_to(path.name)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("absent", "there is no such file"),
        ("dangling", "there is no such file"),
        ("loop", "symbolic link"),
        ("folder", "it is a folder"),
        ("fifo", "it is not a regular file"),
        ("large", "it is larger than 32 MiB"),
        ("latin", "it is not UTF-8 text"),
    ],
)
def test_what_is_no_text_file_is_refused(project: Path, kind: str, reason: str) -> None:
    path = project / "x.conf"
    make(path, kind)
    error = refused(lambda: put(project, path), reason)
    assert error.message.startswith(f"cannot wire {path}: ") and ".devenv/nova.conf" in error.hint
    assert wired() == []


def test_a_path_that_no_file_can_have_is_refused(project: Path) -> None:
    refused(lambda: put(project, project / "a\0b"), "cannot wire")


@pytest.mark.parametrize("denied", ["nova.conf", "project"])
def test_a_file_that_cannot_be_replaced_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch, denied: str) -> None:
    real = os.access  # root may write everywhere
    monkeypatch.setattr("os.access", lambda path, mode: Path(path).name != denied and real(path, mode))
    refused(lambda: put(project), "no permission")
    assert text(project) == BEFORE and wired() == []


@pytest.mark.parametrize("where", ["file", "folder"])
def test_a_link_that_leads_out_of_the_project_is_refused(project: Path, where: str) -> None:
    outside = project.parent / "outside"
    outside.mkdir()
    (outside / "x.conf").write_text("[a]\n")
    if where == "file":
        (project / "etc").mkdir()
        (project / "etc/x.conf").symlink_to(outside / "x.conf")
    else:
        (project / "etc").symlink_to(outside)
    refused(lambda: put(project, project / "etc/x.conf"), "it is a symbolic link that leads out of the project")
    assert (outside / "x.conf").read_text() == "[a]\n"


def test_outside_of_the_project_no_link_is_followed(project: Path) -> None:
    (project / "../x.conf").write_text("[a]\n")
    (link := project.parent / "link.conf").symlink_to("x.conf")
    refused(lambda: put(project, link), f"it is a symbolic link, to {project.parent / 'x.conf'}")
    assert link.read_text() == "[a]\n"


def test_a_file_outside_of_the_project_is_wired_unless_that_is_ruled_out(project: Path) -> None:
    path = project / "../x.conf"
    path.write_text("[a]\n")
    refused(lambda: put(project, path, listed=True), "it is outside of the project")
    assert put(project, path).name == str(project.parent / "x.conf")


@pytest.mark.parametrize("owner", [Owner("other-2", "nova"), Owner("project-1", "glance")])
def test_a_file_that_is_wired_for_another_is_refused(project: Path, owner: Owner) -> None:
    put(project)
    error = refused(lambda: put(project, owner=owner), "component 'nova' of environment project-1 has it")
    assert f"devenv unwire nova {project / 'nova.conf'}" in error.hint and ".devenv/" in error.hint
    assert text(project) == AFTER


def test_only_what_was_merged_for_it_can_an_environment_undo(project: Path) -> None:
    act = lambda environment: lambda: unwire(project / "nova.conf", project, environment)  # noqa: E731
    refused(act("project-1"), f"cannot unwire {project / 'nova.conf'}: devenv has merged nothing into it")
    put(project)
    refused(act("other-2"), "component 'nova' of environment project-1 has it")
    assert text(project) == AFTER


def test_a_file_that_services_cannot_read_is_left_alone(project: Path) -> None:
    (project / "nova.conf").write_text("[a\n")
    refused(lambda: put(project), f"cannot merge into {project / 'nova.conf'}:1: ")
    assert wired() == []


def test_a_file_that_is_gone_is_forgotten(project: Path) -> None:
    put(project)
    (project / "nova.conf").unlink()
    assert unwire(project / "nova.conf", project, "project-1", write=False).notes and wired()
    assert unwire(project / "nova.conf", project, "project-1").notes == (
        f"{project / 'nova.conf'} does not exist any more: forgotten",
    )
    assert wired() == [] and not (project / "nova.conf").exists()


@pytest.mark.parametrize(
    "garbage",
    ["", "{", "[]", '{"x": 1}', '{"x": {}}', b"\xff", "[" * 100_000],
)
@pytest.mark.parametrize("field", ["", "listed", "edits", "pending"])
def test_a_garbled_record_is_an_error_and_stays(project: Path, garbage: str | bytes, field: str) -> None:
    put(project)
    path = state_folder() / "wired.json"
    if field:
        record = json.loads(path.read_text())
        record[str(project / "nova.conf")][field] = [{"after": garbage if isinstance(garbage, str) else 1}]
        garbage = json.dumps(record)
    path.write_bytes(garbage if isinstance(garbage, bytes) else garbage.encode())
    before = path.read_bytes()
    for act in (lambda: put(project), lambda: unwire(project / "nova.conf", project, "project-1"), wired):
        assert refused(act, "cannot read").message.startswith(f"cannot read {path}: ")
    assert path.read_bytes() == before and text(project) == AFTER


# ---- what goes wrong in between ----------------------------------------------------------------------------------


def test_a_file_that_was_changed_meanwhile_is_not_replaced(project: Path) -> None:
    path = project / "nova.conf"
    refuse = merge.Refusal("wire", path, "")
    refused(
        lambda: replace_file(path, b"what was read", b"new", refuse), f"cannot wire {path}: it was changed meanwhile"
    )
    assert text(project) == BEFORE and files(project) == {"nova.conf"}
    replace_file(path, BEFORE.encode(), b"new", refuse)
    assert text(project) == "new" and files(project) == {"nova.conf"}


def test_a_file_that_is_changed_while_devenv_works_keeps_the_change(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(project)
    real = merge._save

    def save_and_edit(record: Any) -> None:
        real(record)
        (project / "nova.conf").write_bytes(AFTER.replace("debug = 1", "debug = 2").encode())

    with monkeypatch.context() as patched:
        patched.setattr(merge, "_save", save_and_edit)
        refused(lambda: put(project, overlay="[database]\nconnection = y\n"), "cannot wire")
        (project / "nova.conf").write_bytes(AFTER.encode())
        refused(lambda: unwire(project / "nova.conf", project, "project-1"), "cannot unwire")
    assert unwire_text(project) == BEFORE.replace("debug = 1", "debug = 2")


def unwire_text(project: Path) -> str:
    assert unwire(project / "nova.conf", project, "project-1").notes == ()
    assert wired() == []
    return text(project)


def test_a_full_disk_leaves_file_and_record_as_they_were(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(project)
    record = (state_folder() / "wired.json").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    # merge writes the record first, by the same means as the file.
    for what in ((merge, "write_files"), (store_files, "_dress")):
        with monkeypatch.context() as patched:
            patched.setattr(*what, full)
            with pytest.raises((OSError, ConfigError), match="No space left on device"):
                put(project, overlay="[a]\nb = 1\n")
    assert text(project) == AFTER and (state_folder() / "wired.json").read_bytes() == record
    assert files(project) == {"nova.conf"}
    assert unwire_text(project) == BEFORE


class Killed(BaseException):
    """Stands for a kill: no later code runs."""


@contextmanager
def killed_at(moment: str) -> Iterator[None]:
    """Kill devenv after it has written the record, before or after it writes the file."""
    real = merge.replace_file

    def replaced(*args: Any) -> None:
        if moment == "after":
            real(*args)
        raise Killed

    with pytest.MonkeyPatch.context() as patched, pytest.raises(Killed):
        patched.setattr(merge, "replace_file", replaced)
        yield


@pytest.mark.parametrize("edited", [False, True])
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("act", ["first", "again", "unwire"])
def test_what_it_takes_to_undo_survives_a_kill(project: Path, act: str, moment: str, edited: bool) -> None:
    if act != "first":
        put(project, overlay="[database]\nconnection = mysql://old\n[gone]\nx = 1\n")
    with killed_at(moment):
        if act == "unwire":
            unwire(project / "nova.conf", project, "project-1")
        else:
            put(project)
    expected = BEFORE
    if edited:
        expected = BEFORE.replace("debug = 1", "debug = 2")
        (project / "nova.conf").write_bytes(text(project).replace("debug = 1", "debug = 2").encode())
    saved = (text(project), (state_folder() / "wired.json").read_bytes())
    assert unwire_text(project) == expected
    # The same holds after another merge.
    (project / "nova.conf").write_bytes(saved[0].encode())
    (state_folder() / "wired.json").write_bytes(saved[1])
    assert put(project, overlay="[database]\nconnection = mysql://new\n").notes == ()
    assert text(project) == expected.replace("sqlite://", "mysql://new")
    assert unwire_text(project) == expected


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_line_of_the_users_that_reads_like_ours_survives_a_kill(project: Path, moment: str) -> None:
    before = "[database]\nconnection = mysql://x\nconnection = sqlite://\n"
    (project / "nova.conf").write_text(before)
    with killed_at(moment):
        put(project, overlay="[database]\nconnection = mysql://x\n")
    assert unwire_text(project) == before


def test_what_a_killed_run_left_beside_the_file_goes(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(store_files, "_dress", killed)
        patched.setattr(Path, "unlink", lambda *_, **__: None)
        put(project)
    assert len(files(project)) == 2
    put(project)
    assert files(project) == {"nova.conf"} and text(project) == AFTER


def test_one_devenv_waits_for_the_other(project: Path) -> None:
    class GivenUp(Exception):
        pass

    def give_up(_: str) -> None:
        raise GivenUp

    with merge.held(state_folder() / "wired.lock", lambda _: None), pytest.raises(GivenUp):
        wire(project / "nova.conf", project, Addition(NOVA, OVERLAY), waiting=give_up)
    assert text(project) == BEFORE


# ---- renamed files -------------------------------------------------------------------------------------------------


def test_a_renamed_file_takes_over_what_is_on_record(project: Path) -> None:
    before = (project / "nova.conf").read_text()
    put(project)
    (project / "nova.conf").rename(project / "c.conf")
    put(project, project / "c.conf")
    assert [wired_file.path for wired_file in wired()] == [project / "c.conf"]
    unwire(project / "c.conf", project, "project-1")
    assert (project / "c.conf").read_text() == before


def test_another_file_takes_over_nothing_of_one_that_is_gone(project: Path) -> None:
    put(project)
    (project / "nova.conf").unlink()
    (project / "c.conf").write_text("[DEFAULT]\n")
    put(project, project / "c.conf")
    assert {wired_file.path.name for wired_file in wired()} == {"nova.conf", "c.conf"}
    unwire(project / "c.conf", project, "project-1")
    assert (project / "c.conf").read_text() == "[DEFAULT]\n"
