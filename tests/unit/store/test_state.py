"""State that devenv keeps on this machine: identity, lock, record and secrets."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from typing import IO, Any

import pytest
from fake_central import FakeCentral, Place

from devenv.errors import Cancelled, ConfigError, DevenvError, NotOurs
from devenv.ports import free_port, holder as port_holder, is_free
from devenv.store import locks
from devenv.store.files import (
    beside,
    create_empty,
    make_private,
    open_to_others,
    read_json,
    replace_file,
    write_files,
    written_whole,
)
from devenv.store.locks import held, held_if_free, is_held, shared
from devenv.store.places import cache_folder, environment_id, state_folder
from devenv.store.record import FORMAT, Record
from devenv.store.registry import all_records, ports_locked
from devenv.store.state import Notes, State, new_token, user_of
from devenv.wiring import folder


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path, "default")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# ---- identity ----------------------------------------------------------------------------------------------------


def test_an_environments_id_never_changes() -> None:
    # Containers carry the id: another rule would leave those of older versions behind.
    assert environment_id(Path("/nonexistent/My Project"), "default") == "my-project-ebb5de26"
    assert environment_id(Path("/nonexistent/My Project"), "two") == "my-project-two-e87cf454"


def test_two_folders_of_one_name_are_two_environments(tmp_path: Path) -> None:
    one, two = tmp_path / "a" / "nova", tmp_path / "b" / "nova"
    ids = {environment_id(one, "default"), environment_id(two, "default"), environment_id(one, "x")}
    assert len(ids) == 3 and all(found.startswith("nova-") for found in ids)


def test_a_link_to_a_folder_is_the_same_environment(tmp_path: Path) -> None:
    (tmp_path / "nova").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "nova").symlink_to(tmp_path / "nova")
    assert environment_id(tmp_path / "elsewhere/nova", "default") == environment_id(tmp_path / "nova", "default")


@pytest.mark.parametrize("folder", ["/", "/ü/ß", "/x/" + "long" * 50, "/a b;c$(d)", "/-x-", os.fsdecode(b"/p/\xff")])
def test_an_id_is_safe_in_every_name_on_the_engine(folder: str) -> None:
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,24}-[0-9a-f]{8}", environment_id(Path(folder), "default"))


def test_a_record_of_an_older_devenv_is_read_and_then_written_as_this_one_does(tmp_path: Path) -> None:
    state = State(tmp_path, "default")
    state.amend(ports={"mysql/sql": 3306})
    path = state.folder / "record.json"
    path.write_text(json.dumps({**read_json(path), "format": 1}))
    assert state.load().ports == {"mysql/sql": 3306} and state.load().format == 1
    state.amend(profile="base")
    assert read_json(path)["format"] == FORMAT > 1


# What a devenv that knows the format keeps. It drops other fields: raise the format for one that must not get lost.
FIELDS = {
    3: "id name project profile ports provisioned files folder left_folder left_files unfinished renewing renewed "
    # Without `tunnel`, which an earlier devenv drops, it forwards ports that need not be.
    "borrowed roles citest engine tunnel owner saving format",
    # Without `shared`, an earlier devenv takes it for an environment whose project is gone.
    4: "id name project profile ports provisioned files folder left_folder left_files unfinished renewing renewed "
    "borrowed roles citest engine tunnel shared within asked owner saving format",
}


def test_a_field_that_an_older_devenv_would_drop_raises_the_format() -> None:
    assert [field.name for field in fields(Record)] == FIELDS[FORMAT].split()


def test_a_token_says_whose_the_environment_is() -> None:
    assert user_of(new_token()) == os.geteuid() and new_token() != new_token()
    assert user_of("0" * 32) is None and user_of("") is None and user_of("a-b") is None


# ---- where devenv keeps it ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "folder_of"), [("DEVENV_STATE_DIR", state_folder), ("DEVENV_CACHE_DIR", cache_folder)]
)
def test_nothing_is_kept_where_others_could_change_it(
    variable: str,
    folder_of: Callable[[], Path],
    tmp_path: Path,
    owners: dict[Path, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(variable, str(tmp_path / "link"))
    (tmp_path / "link").symlink_to(folder := tmp_path / "folder")
    assert folder_of() == tmp_path / "link"
    folder.mkdir()
    for mode in (0o720, 0o702):
        folder.chmod(mode)
        with pytest.raises(ConfigError, match=r"^cannot use .*link: other users may write to it") as refusal:
            folder_of()
        assert f"set {variable} to a folder of your own" in refusal.value.hint
        # On a file system without modes, everybody seems to be allowed everything.
        with monkeypatch.context() as without:
            without.setattr("pathlib.Path.chmod", lambda *_, **__: None)
            assert folder_of() == tmp_path / "link"
        assert folder.stat().st_mode & 0o777 == mode
    folder.chmod(0o755)
    assert folder_of() == tmp_path / "link"
    owners[folder] = 4711
    with pytest.raises(ConfigError, match=r"^cannot use .*link: it belongs to another user"):
        folder_of()
    # Root may use anybody's folder, unless others may write to it.
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert folder_of() == tmp_path / "link"


@pytest.mark.parametrize("variable", ["DEVENV_STATE_DIR", "DEVENV_CACHE_DIR"])
@pytest.mark.parametrize(("text", "meant"), [("rel", "{cwd}/rel"), ("./a/../b", "{cwd}/a/../b"), ("~/x", "/h/x")])
def test_a_relative_path_in_a_variable_is_refused_with_the_one_that_is_meant(
    variable: str, text: str, meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/h")
    monkeypatch.setenv(variable, text)
    folder_of = state_folder if variable == "DEVENV_STATE_DIR" else cache_folder
    with pytest.raises(ConfigError) as refusal:
        folder_of()
    assert refusal.value.message == f"cannot use {variable}={text}: the path is relative"
    assert refusal.value.hint == f"write {variable}={meant.format(cwd=tmp_path)}"


@pytest.mark.parametrize("home", [None, "", "rel"])
def test_without_a_home_there_is_one_clear_line_or_one_variable_is_enough(
    home: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(_: int) -> None:
        raise KeyError

    monkeypatch.setattr("pwd.getpwuid", unknown)
    for name in ("DEVENV_STATE_DIR", "DEVENV_CACHE_DIR", "HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    if home is not None:
        monkeypatch.setenv("HOME", home)
    for folder_of in (state_folder, cache_folder):
        with pytest.raises(
            ConfigError, match=r"^cannot choose a folder for devenv's state: HOME is not set"
        ) as refusal:
            folder_of()
        assert "DEVENV_STATE_DIR" in refusal.value.hint
    monkeypatch.setenv("DEVENV_STATE_DIR", str(tmp_path))
    assert (state_folder(), cache_folder()) == (tmp_path, tmp_path / "cache")


def test_a_relative_folder_of_the_desktops_is_left_out_of_account(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STATE", "CACHE"):
        monkeypatch.delenv(f"DEVENV_{name}_DIR")
        monkeypatch.setenv(f"XDG_{name}_HOME", "rel")
    monkeypatch.setenv("HOME", "/h")
    assert all(folder.is_absolute() and folder.is_relative_to("/h") for folder in (state_folder(), cache_folder()))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_creates_belongs_to_the_owner_of_the_folder_it_is_in(tmp_path: Path) -> None:
    os.chown(tmp_path, 54321, 54322)
    folder.write(tmp_path, tmp_path / ".devenv", {"env": "A=1\n", "nova.conf.d/nova.conf": ""}, ())
    make_private(tmp_path / "state" / "deep")
    create_empty(tmp_path / "state" / "empty")
    with held(tmp_path / "state" / "lock", pytest.fail), written_whole(tmp_path / "whole"):
        pass
    write_files({tmp_path / "again": b"1"})
    os.chown(tmp_path / "again", 0, 0)
    write_files({tmp_path / "again": b"2"})
    found = [*tmp_path.rglob("*")]
    assert len(found) == 11 and {(path.stat().st_uid, path.stat().st_gid) for path in found} == {(54321, 54322)}
    assert {stat.S_IMODE(path.stat().st_mode) for path in found} == {0o600, 0o700}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_neither_gives_away_nor_changes_a_file_that_was_there(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("root's")
    (theirs := tmp_path / "theirs").mkdir()
    os.chown(theirs, 54321, 54322)
    (theirs / "old").touch()
    create_empty(theirs / "old")
    with held(theirs / "old", pytest.fail):
        assert (theirs / "old").stat().st_uid == 0
    os.link(tmp_path / "secret", theirs / "lock")
    create_empty(theirs / "lock")
    for take in (held(theirs / "lock", pytest.fail), shared(theirs / "lock")):
        with pytest.raises(ConfigError, match=r"cannot write .*/lock: it has a second name"), take:
            pytest.fail("held")
    assert (tmp_path / "secret").read_text() == "root's" and (tmp_path / "secret").stat().st_uid == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_creates_is_the_owners_of_the_folder_that_it_is_in_whatever_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (theirs := tmp_path / "theirs").mkdir()
    os.chown(theirs, 54321, 54322)
    (tmp_path / "roots").mkdir()
    opened = os.open

    def and_then_replaced(path: Any, flags: int, *more: int, **others: int) -> int:
        descriptor = opened(path, flags, *more, **others)
        if flags & os.O_CREAT:
            (tmp_path / "roots").rename(tmp_path / "away")
            (tmp_path / "roots").symlink_to(theirs)
        return descriptor

    monkeypatch.setattr(os, "open", and_then_replaced)
    create_empty(tmp_path / "roots" / "file")
    assert (tmp_path / "away" / "file").stat().st_uid == 0 and not [*theirs.iterdir()]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user for a while")
def test_the_home_of_another_user_is_refused_with_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DEVENV_STATE_DIR", "DEVENV_CACHE_DIR", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    with tempfile.TemporaryDirectory() as home:
        monkeypatch.setenv("HOME", home)
        os.seteuid(65534)
        try:
            for folder_of, variable in ((state_folder, "DEVENV_STATE_DIR"), (cache_folder, "DEVENV_CACHE_DIR")):
                with pytest.raises(ConfigError, match=f"^cannot use {home}/.*: no permission to look") as refusal:
                    folder_of()
                assert variable in refusal.value.hint and "HOME" in refusal.value.hint
        finally:
            os.seteuid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user for a while")
@pytest.mark.parametrize(("mode", "reason"), [(0o777, "other users may write to it"), (0o755, "")])
def test_a_folder_of_roots_is_used_unless_all_may_write_to_it(mode: int, reason: str) -> None:
    with tempfile.TemporaryDirectory() as name:  # tmp_path is in a folder that only root may enter
        folder = Path(name)
        folder.chmod(mode)
        os.seteuid(65534)
        try:
            assert open_to_others(folder) == reason
        finally:
            os.seteuid(0)


# ---- writing -----------------------------------------------------------------------------------------------------


def test_a_written_file_is_for_its_owner_alone_whatever_the_umask(tmp_path: Path, no_umask: None) -> None:
    write_files({tmp_path / "f": b"new"})
    assert (mode(tmp_path / "f"), (tmp_path / "f").read_bytes()) == (0o600, b"new")


def whole(path: Path, content: bytes) -> None:
    with written_whole(path) as stream:
        stream.write(content)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_files({path: b"new"}),
        lambda path: write_files({path: b"new"}, 0o644),
        lambda path: replace_file(path, b"old", b"new", ConfigError),
        lambda path: whole(path, b"new"),
    ],
    ids=["write_files", "write_files for all", "replace_file", "written_whole"],
)
def test_a_file_is_for_its_owner_alone_from_its_first_byte(
    write: Callable[[Path], None], tmp_path: Path, no_umask: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[int, int]] = []
    opened = os.open

    def watched(path: str, flags: int, *more: int, **others: int) -> int:
        descriptor = opened(path, flags, *more, **others)
        if flags & os.O_CREAT:
            # These flags refuse a link or another user's file in its place.
            assert flags & os.O_EXCL and flags & os.O_NOFOLLOW
            found = os.fstat(descriptor)
            made.append((stat.S_IMODE(found.st_mode), found.st_size))
        return descriptor

    (tmp_path / "f").write_bytes(b"old")
    monkeypatch.setattr(os, "open", watched)
    write(tmp_path / "f")
    assert made == [(0o600, 0)]
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("f", b"new")]


def test_all_that_is_kept_is_for_its_owner_alone_whatever_the_umask(
    no_umask: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # This includes the folders above the environment's own: a user who may write there can replace it.
    monkeypatch.setenv("DEVENV_STATE_DIR", str(tmp_path / "not" / "there"))
    state = State(tmp_path, "default")
    with state.locked(pytest.fail), ports_locked(pytest.fail), state.using(), state.lent("nova"), state.pool() as pool:
        state.save(Record(state.id, "default", str(tmp_path)))
        state.save_timing({})
        state.restore_secrets(state.secrets(["mysql.password"]))
        (pool / "test-1.conf").touch(mode=0o600)
        found = {str(path.relative_to(tmp_path)): path for path in (tmp_path / "not").rglob("*")}
        files = {name: oct(mode(path)) for name, path in found.items() if path.is_file()}
        folders = {name: oct(mode(path)) for name, path in found.items() if path.is_dir()}
    assert len(files) >= 8 and files == dict.fromkeys(files, "0o600")
    assert len(folders) >= 5 and folders == dict.fromkeys(folders, "0o700")
    assert mode(tmp_path / "not") == 0o700


@pytest.mark.parametrize("failing", ["os.fsync", "pathlib.Path.replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "f").write_bytes(b"old")
    monkeypatch.setattr(failing, full)
    with pytest.raises(ConfigError, match=f"cannot write {tmp_path / 'f'}: No space left on device"):
        write_files({tmp_path / "f": b"new"})
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("f", b"old")]


def test_a_disk_that_fills_up_leaves_the_old_file(tmp_path: Path) -> None:
    # The kernel itself refuses here, in the middle of the content.
    (tmp_path / "f").write_bytes(b"old")
    code = (
        "import resource, sys, pathlib; from devenv import errors; from devenv.store import files\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))\n"
        "try: files.write_files({pathlib.Path(sys.argv[1]): b'x' * 20000})\n"
        "except errors.ConfigError as error: print(error.message)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "f")], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("cannot write")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("f", b"old")]


@pytest.mark.parametrize("path", ["absent/f", "file/f", "folder"])
def test_where_nothing_can_be_written_there_is_a_clear_error(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match=f"cannot write {tmp_path / path}: "):
        write_files({tmp_path / path: b"new"})
    assert {p.name for p in tmp_path.iterdir()} == {"file", "folder"}


def test_all_files_are_on_disk_before_the_first_one_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    replace = Path.replace

    def watched(path: Path, target: Path) -> Path:
        seen.append(sorted(p.name for p in tmp_path.iterdir()))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", watched)
    write_files({tmp_path / "a": b"1", tmp_path / "b": b"2"})
    assert seen[0] == sorted(beside(tmp_path / name).name for name in "ab")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a": b"1", "b": b"2"}


def test_one_file_that_cannot_be_written_leaves_all_of_them_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {"a": b"old a", "b": b"old b", "c": b"old c"}
    for name, content in before.items():
        (tmp_path / name).write_bytes(content)
    real, calls = os.fsync, []

    def full_at_the_second(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr("os.fsync", full_at_the_second)
    with pytest.raises(ConfigError, match=f"cannot write {tmp_path / 'b'}: No space left on device"):
        write_files({tmp_path / name: b"new" for name in before})
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("kind", ["file", "link", "dangling link"])
def test_what_a_killed_run_left_is_replaced_and_never_followed(tmp_path: Path, kind: str) -> None:
    left = beside(tmp_path / "d" / "f")
    left.parent.mkdir()
    if kind == "file":
        left.write_bytes(b"half of a longer content")
        left.chmod(0o644)
    else:
        left.symlink_to(tmp_path / "outside")
    if kind == "link":
        (tmp_path / "outside").write_bytes(b"mine")
    write_files({tmp_path / "d/f": b"new"})
    assert [(p.name, p.read_bytes(), mode(p)) for p in left.parent.iterdir()] == [("f", b"new", 0o600)]
    assert (tmp_path / "outside").exists() == (kind == "link")
    assert kind != "link" or (tmp_path / "outside").read_bytes() == b"mine"


def test_a_run_that_is_killed_between_two_files_leaves_each_one_whole(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "b").write_bytes(b"old")
    code = (
        "import os, pathlib, sys; from devenv.store import files\n"
        "replace = pathlib.Path.replace\n"
        "def once(path, target): replace(path, target); os.kill(os.getpid(), 9)\n"
        "pathlib.Path.replace = once\n"
        "files.write_files({pathlib.Path(sys.argv[1]) / name: b'new' for name in 'ab'})"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == -signal.SIGKILL
    assert [(tmp_path / name).read_bytes() for name in "ab"] == [b"new", b"old"]
    write_files({tmp_path / name: b"newer" for name in "ab"})
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a": b"newer", "b": b"newer"}


def test_two_that_write_a_whole_file_do_not_take_each_others_draft(tmp_path: Path) -> None:
    path = tmp_path / "cache.tar"
    with written_whole(path) as first:
        first.write(b"A")
        with written_whole(path) as second:
            second.write(b"B")
        assert path.read_bytes() == b"B"
        first.write(b"A")
    assert path.read_bytes() == b"AA" and list(tmp_path.iterdir()) == [path]


def test_nothing_to_write_is_fine(tmp_path: Path) -> None:
    write_files({})
    assert not list(tmp_path.iterdir())


# ---- the lock ----------------------------------------------------------------------------------------------------


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Run another devenv that has the lock of the same environment."""
    code = (
        "import sys, pathlib; from devenv.store.state import State\n"
        "with State(pathlib.Path(sys.argv[1]), 'default').locked(print):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_only_one_process_has_the_lock_and_the_other_is_told_who(state: State, holder: subprocess.Popen[str]) -> None:
    told: list[str] = []

    def give_up(text: str) -> None:
        told.append(text)
        raise Cancelled

    with pytest.raises(Cancelled), state.locked(give_up):
        pytest.fail("both have the lock")
    assert told == [f"waiting for another devenv (process {holder.pid})"]


def test_a_killed_holder_blocks_nobody(state: State, holder: subprocess.Popen[str]) -> None:
    def kill(_: str) -> None:
        holder.send_signal(signal.SIGKILL)
        holder.wait()

    with state.locked(kill):
        assert (state.folder / "lock").read_text() == str(os.getpid())


def test_the_lock_of_another_environment_is_another_lock(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with State(tmp_path, "other").locked(pytest.fail):
        assert holder.poll() is None


# ---- who uses an environment -------------------------------------------------------------------------------------


def test_it_is_used_until_the_last_one_has_gone(state: State) -> None:
    assert not state.used()
    with state.using():
        with state.using():
            assert state.used()
        assert state.used()
    assert not state.used()


def test_a_lock_is_seen_where_only_files_open_for_writing_can_be_locked(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on NFS; see flock(2)."""
    real = fcntl.flock

    def flock(stream: IO[str], operation: int) -> None:
        if fcntl.fcntl(stream, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        real(stream, operation)

    monkeypatch.setattr("fcntl.flock", flock)
    assert not state.used()
    with state.using():
        assert state.used()
    assert not state.used()


def test_a_component_is_lent_to_one_at_a_time(state: State) -> None:
    with state.lent("mine"):
        assert state.lendings() == {"mine": True}
        with pytest.raises(ConfigError, match="cannot use component 'mine': another run has it"), state.lent("mine"):
            pytest.fail("two have it")
    assert state.lendings() == {"mine": False}
    state.secrets(["mysql/mine", "mysql/other", "mysql.password"])
    state.returned("mine")
    assert state.lendings() == {} and state.secrets(()).keys() == {"mysql/other", "mysql.password"}


def test_what_nobody_has_any_more_is_forgotten_with_the_environment(state: State) -> None:
    with state.lent("held"):
        with state.lent("left"):
            pass
        state.forget()
        assert state.lendings() == {"held": True}


def test_a_folder_in_which_nothing_is_kept_goes_with_its_lock(state: State) -> None:
    with state.locked(pytest.fail):
        assert state.folder.is_dir()
    assert not state.folder.exists()
    with state.locked(pytest.fail), state.using(), state.lent("nova"), state.pool():
        state.secrets(["mysql.root"])
        state.amend(owner="token")
    assert {path.name for path in state.folder.iterdir()} >= {"lock", "record.json", "secrets.json"}
    with state.locked(pytest.fail):
        state.forget()
    assert not state.folder.exists()
    with state.locked_if_free() as mine:
        assert mine
    assert not state.folder.exists()


def test_a_folder_in_which_something_is_kept_stays(state: State) -> None:
    make_private(state.snapshots)
    (state.snapshots / "mine.json").touch()
    with state.locked(pytest.fail):
        pass
    assert (state.snapshots / "mine.json").exists()


@pytest.mark.parametrize("moment", ["_open", "make_folders"])
@pytest.mark.parametrize("if_free", [False, True])
def test_a_lock_whose_last_holder_removes_it_meanwhile_is_held_all_the_same(
    moment: str, if_free: bool, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, removed = getattr(locks, moment), []

    def and_then_removed(path: Path) -> Any:
        done = step(path)
        if not removed:
            removed.append(state.folder)
            shutil.rmtree(state.folder)
        return done

    monkeypatch.setattr(locks, moment, and_then_removed)
    with held_if_free(state.folder / "lock", 2) if if_free else held(state.folder / "lock", pytest.fail) as mine:
        assert removed and mine is not False and is_held(state.folder / "lock")


def test_the_lock_is_given_back_after_an_error(state: State) -> None:
    with pytest.raises(KeyError), state.locked(pytest.fail):
        raise KeyError
    with state.locked(pytest.fail):
        pass


def test_a_state_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DEVENV_STATE_DIR", str(tmp_path / "file" / "state"))
    state = State(tmp_path, "default")
    for use in (lambda: state.locked(pytest.fail), lambda: ports_locked(pytest.fail)):
        with pytest.raises(DevenvError, match=r"cannot create .*/file/state"), use():
            pass


def test_a_lock_file_that_cannot_be_opened_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "open", read_only)  # root may write everywhere
    words = f"cannot write {tmp_path / 'lock'}: Read-only file system"
    with pytest.raises(ConfigError, match=words) as caught, held(tmp_path / "lock", pytest.fail):
        pass
    assert "make room" in caught.value.hint


def test_a_folder_in_place_of_the_lock_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(ConfigError, match="cannot write"), held(tmp_path / "lock", pytest.fail):
        pass


def test_a_glance_at_a_lock_that_cannot_be_opened_is_a_clear_error(tmp_path: Path) -> None:
    (place := State(tmp_path, "default")).folder.mkdir(parents=True)
    (place.folder / "lock").mkdir()
    with pytest.raises(ConfigError, match="cannot write"), place.locked_if_free():
        pass


def test_a_lock_holds_where_nothing_can_be_written(tmp_path: Path) -> None:
    # The lock's text is a courtesy to others; a process that cannot write it still has the lock.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with held(tmp_path / "lock", pytest.fail):
            locked = is_held(tmp_path / "lock")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert locked and (tmp_path / "lock").read_text() == ""


def test_a_link_in_place_of_a_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "lock").symlink_to(tmp_path / "mine")
    with pytest.raises(ConfigError, match=r"cannot write .*lock"), held(tmp_path / "lock", pytest.fail):
        pytest.fail("held")
    assert (tmp_path / "mine").read_text() == "mine"


def test_one_that_only_looks_whether_services_are_used_does_not_use_them(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    with state.using():
        assert state.used()
    glance, pauses = (state.folder / "users").open("r+"), []
    fcntl.flock(glance, fcntl.LOCK_EX)

    def paused(seconds: float) -> None:
        pauses.append(seconds)
        glance.close()  # It has looked.

    monkeypatch.setattr("devenv.store.locks.time.sleep", paused)
    assert not state.used() and len(pauses) == 1


def test_a_forked_child_does_not_hold_the_lock_of_its_parent(state: State) -> None:
    code = (
        "import os, sys, pathlib; from devenv.store.locks import is_held; from devenv.store.state import State\n"
        "state = State(pathlib.Path(sys.argv[1]), 'default')\n"
        "told, tell = os.pipe()\n"
        "with state.locked(print):\n"
        "    if not os.fork(): os.write(tell, b'.'); sys.stdin.read(); os._exit(0)\n"
        "    os.read(told, 1)  # Until it runs it has what its parent has.\n"
        "    print(is_held(state.folder / 'lock'))\n"
        "print(is_held(state.folder / 'lock'), flush=True); os.wait()"
    )
    command = [sys.executable, "-c", code, str(state.folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdin
        # The child lives until its input ends.
        assert [process.stdout.readline(), process.stdout.readline()] == ["True\n", "False\n"]
        process.stdin.close()
        assert process.wait() == 0


def test_a_lock_is_held_on_any_file(tmp_path: Path) -> None:
    path = tmp_path / "not/there/yet/x.lock"

    def give_up(_: str) -> None:
        raise Cancelled

    with held(path, pytest.fail):
        assert path.read_text() == str(os.getpid())
        with pytest.raises(Cancelled), held(path, give_up):
            pytest.fail("both have the lock")
    with held(path, pytest.fail):
        pass


# ---- the record --------------------------------------------------------------------------------------------------


def test_a_record_comes_back_as_it_was_saved(state: State, tmp_path: Path) -> None:
    record = Record(state.id, "default", str(tmp_path), "base", {"mysql/sql": 3306}, {"mysql/keystone": "d1"})
    state.save(record)
    assert state.load() == record
    assert all_records() == [record]
    assert (mode(state.folder), mode(state.folder / "record.json")) == (0o700, 0o600)


def test_what_a_thread_began_to_read_before_is_not_taken_for_the_record_by_the_next_holder(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record may have changed in between: another process can have held the lock."""
    state.save(replace(state.load(), owner="before"))
    reading, go_on = threading.Event(), threading.Event()
    read = read_json

    def slow(path: Path) -> dict[str, Any]:
        found = read(path)
        if threading.current_thread() is not threading.main_thread():
            reading.set()
            go_on.wait(10)
        return found

    monkeypatch.setattr("devenv.store.state.read_json", slow)
    looks = threading.Thread(target=state.load)
    with state.locked(pytest.fail):
        looks.start()
        assert reading.wait(10)
        threading.Timer(0.05, go_on.set).start()
    State(tmp_path, "default").save(replace(state.load(), owner="another's"))
    with state.locked(pytest.fail):
        looks.join()
        assert state.load().owner == "another's"


def test_the_holder_of_the_lock_reads_the_record_once(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = Path.read_text

    def watched(path: Path, *arguments: str) -> str:
        read.append(path.name)
        return real(path, *arguments)

    monkeypatch.setattr(Path, "read_text", watched)
    with state.locked(pytest.fail):
        state.amend(files=["env"])
        state.amend(owner="token")
        assert (state.load().files, state.load().owner) == (["env"], "token")
    assert read == ["record.json"]


def test_each_holder_of_the_lock_sees_what_another_wrote_before(state: State, tmp_path: Path) -> None:
    other = State(tmp_path, "default")
    for number in range(3):
        with state.locked(pytest.fail):
            state.amend(ports={"mysql/sql": number})
        with other.locked(pytest.fail):
            assert other.load().ports == {"mysql/sql": number}
            other.amend(owner=str(number))
        assert state.load().owner == str(number)


def test_a_forgotten_record_is_empty_for_the_holder_of_the_lock_too(state: State) -> None:
    with state.locked(pytest.fail):
        state.amend(files=["env"], owner="token")
        state.forget(owner="token")
        assert (state.load().files, state.load().owner) == ([], "token")
        state.forget()
        assert state.load().owner == ""


def test_threads_lose_nothing_that_another_one_noted(state: State) -> None:
    notes = Notes(state)
    with state.locked(pytest.fail), ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: notes.parts({f"mysql/c{number}": "digest"}), range(40)))
        assert len(state.load().provisioned) == 40
    assert len(state.load().provisioned) == 40


def test_a_forked_child_reads_the_record_itself(tmp_path: Path) -> None:
    code = (
        "import os, sys, pathlib; from devenv.store.state import State\n"
        "state, other = (State(pathlib.Path(sys.argv[1]), 'default') for _ in range(2))\n"
        "with state.locked(print):\n"
        "    state.amend(owner='parent')\n"
        "    if not (child := os.fork()):\n"
        "        other.amend(owner='child')\n"
        "        print(state.load().owner, flush=True)\n"
        "        os._exit(0)\n"
        "    os.waitpid(child, 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "child\n"


GARBLED = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"ports": 3, "provisioned": "x", "timings": null}',
    b'{"unknown": 1, "nothing": null}',
    b'{"ports": {"mysql/sql": "abc", "etcd/client": null}}',
]


@pytest.mark.parametrize("content", GARBLED)
def test_a_garbled_record_is_an_empty_one(state: State, tmp_path: Path, content: bytes) -> None:
    state.folder.mkdir(parents=True)
    (state.folder / "record.json").write_bytes(content)
    assert state.load() == Record(state.id, "default", str(tmp_path))


@pytest.mark.parametrize("content", [*GARBLED, b'{"id": "other", "name": "y", "project": "z", "ports": [], "more": 1}'])
def test_the_garbled_record_of_one_environment_does_not_harm_the_others(state: State, content: bytes) -> None:
    record = state.load()
    state.save(record)
    other = state.folder.parent / "other"
    other.mkdir()
    (other / "record.json").write_bytes(content)
    records = all_records()
    assert record in records
    assert all(isinstance(port, int) for found in records for port in found.ports.values())


@pytest.mark.parametrize("identity", ["../../elsewhere", "/etc", "", "another-1", None])
def test_a_record_is_of_the_folder_that_it_is_in(identity: object, state: State) -> None:
    state.save(state.load())
    path = state.folder / "record.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "id": identity}))
    assert all_records() == []
    assert state.load().id == state.id


def test_forgetting_drops_record_and_secrets_but_not_the_lock(state: State) -> None:
    with state.locked(pytest.fail):
        state.save(state.load())
        state.secrets(["a"])
        state.forget()
        assert [path.name for path in state.folder.iterdir()] == ["lock"]
    assert state.load().ports == {}
    state.forget()  # nothing to forget is fine


def test_the_record_of_an_older_version_is_understood(state: State) -> None:
    # The record of older versions kept timings as well.
    record = Record(state.id, "default", "/p", "base", {"mysql/sql": 3306}, {"mysql/keystone": "d1"})
    state.folder.mkdir(parents=True)
    (state.folder / "record.json").write_text(json.dumps({**vars(record), "timings": [{"a": 1}]}))
    assert state.load() == record
    assert all_records() == [record]


# ---- secrets -----------------------------------------------------------------------------------------------------


def test_a_secret_is_made_once_and_kept(state: State, tmp_path: Path) -> None:
    first = state.secrets(["a", "b"])
    more = State(tmp_path, "default").secrets(["b", "c"])
    assert {"a", "b", "c"} == set(more) and {**more, **first} == more
    assert len({*more.values()}) == 3
    assert mode(state.folder / "secrets.json") == 0o600


def test_a_secret_needs_no_escape_anywhere(state: State) -> None:
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{32}", value) for value in state.secrets(map(str, range(100))).values())


def test_secrets_for_looking_only_are_not_kept(state: State) -> None:
    assert set(state.secrets(["a"], keep=False)) == {"a"}
    assert not state.folder.exists()


def test_two_environments_share_no_secret(state: State, tmp_path: Path) -> None:
    assert state.secrets(["a"]) != State(tmp_path, "other").secrets(["a"])


@pytest.mark.parametrize("text", ["", "it's", 'a"b', "a\nb", "a\n", "a b", "$x", "-p", "a\\", "é"])
def test_what_no_secret_of_ours_looks_like_is_made_anew(state: State, text: str) -> None:
    state.secrets(["a"])
    (state.folder / "secrets.json").write_text(json.dumps({"a": text, "b": "S3cret"}))
    found = state.secrets(["a", "b"])
    assert found["a"] != text and found["b"] == "S3cret"
    assert state.secrets(["a"]) == found


def test_garbled_secrets_are_made_anew(state: State) -> None:
    state.folder.mkdir(parents=True)
    (state.folder / "secrets.json").write_text(json.dumps({"a": 3, "b": "kept"}))
    found = state.secrets(["a", "b"])
    assert (len(found["a"]), found["b"]) == (32, "kept")


# ---- ports -------------------------------------------------------------------------------------------------------


def test_a_port_is_free_unless_somebody_listens() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert not is_free(port)
        assert f"(pid {os.getpid()})" in port_holder(port)
    assert is_free(port)
    assert port_holder(port) == "another program"


def test_a_connection_that_has_a_port_is_told_with_its_program() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        port = client.getsockname()[1]
        assert port_holder(port).startswith("a connection of ") and f"(pid {os.getpid()})" in port_holder(port)


def kernel(root: Path, ephemeral: str, reserved: str = "") -> Path:
    """Write the settings of a kernel below a folder."""
    settings = root / "proc/sys/net/ipv4"
    settings.mkdir(parents=True)
    (settings / "ip_local_port_range").write_text(ephemeral)
    (settings / "ip_local_reserved_ports").write_text(f"{reserved}\n")
    return root


@pytest.mark.parametrize(
    ("ephemeral", "reserved", "allowed"),
    [
        ("32768\t60999\n", "", range(10000, 30000)),
        ("32768\t60999\n", "8080,10000-19999", range(20000, 30000)),
        ("10000\t65535\n", "1024-1999", range(2000, 10000)),
        # A machine on which nothing is outside of the range, and settings that are no numbers.
        ("1024\t65535\n", "", range(1024, 65536)),
        ("?", "?", range(10000, 30000)),
    ],
)
def test_a_port_to_keep_is_none_that_an_outgoing_connection_gets(
    ephemeral: str, reserved: str, allowed: range, tmp_path: Path
) -> None:
    root = kernel(tmp_path, ephemeral, reserved)
    ports = [free_port((), root) for _ in range(20)]
    assert all(port in allowed for port in ports) and len({*ports}) > 1


def test_where_the_system_does_not_say_ports_are_below_all_usual_ranges(tmp_path: Path) -> None:
    assert free_port((), tmp_path) in range(10000, 30000)


def test_forked_processes_do_not_choose_the_same_ports() -> None:
    code = (
        "import os; from devenv.ports import free_port\n"
        "free_port(()); os.fork(); print(free_port(()), free_port(()), flush=True); os._exit(0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len({*done.stdout.splitlines()}) == 2


def test_a_free_port_is_none_of_those_to_avoid() -> None:
    assert free_port([]) != 0
    with pytest.raises(NotOurs, match="cannot find a free port"):
        free_port(range(65536))


# ---- attached services -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "passwords"),
    [
        ({"attach": "mysql://root:s%40crets@h"}, {"s%40crets", "s@crets"}),
        ({"attach": "mysql://h", "user": "root", "password": "s@crets"}, {"s%40crets", "s@crets"}),
        ({"attach": "mysql://root:root@h"}, set()),
        ({"attach": "mysql://h", "user": "root", "password": "root"}, set()),
        ({"attach": "mysql://root:mysql@h"}, set()),
        ({"attach": "mysql://root:devenv@h"}, set()),
        ({"attach": "mysql://root:theirs@h/theirs?charset=utf8mb4"}, set()),
        ({"attach": "mysql://root:nova@h"}, set()),
        ({"attach": "mysql://h"}, set()),
    ],
)
def test_the_passwords_of_attached_services_are_known_but_for_those_that_are_names(
    tmp_path: Path, settings: dict[str, str], passwords: set[str]
) -> None:
    state = State(tmp_path, "default")
    state.amend(provisioned={"mysql/nova": ""})
    state.attach({"mysql": settings})
    assert state.passwords() == passwords


# ---- hosts that share an environment -----------------------------------------------------------------------------


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], State]:
    """Return what makes this process another host, which shares an environment with the others; return its state."""
    place = Place()

    def be(name: str) -> State:
        monkeypatch.setenv("DEVENV_STATE_DIR", str(tmp_path / name))
        state = State(tmp_path / name / "project", "default", shared="team")
        state.central = FakeCentral(place)
        return state

    return be


def test_passwords_and_logins_of_one_host_are_those_of_all(host: Callable[[str], State]) -> None:
    one, two = host("one"), host("two")
    with one.locked(print, make=True):
        made = one.secrets(["mysql.password"])
        one.attach({"etcd": {"attach": "http://root:x@127.0.0.1:2379"}})
        one.amend(engine="kubernetes://here/team", provisioned={"mysql/nova": "1"})
    with two.locked(print):
        assert two.secrets(["mysql.password"]) == made and two.attachments() == one.attachments()
        assert two.load().provisioned == {"mysql/nova": "1"}
        # Where a host reaches the cluster is its own.
        assert two.load().engine == "" and two.load().owner == one.load().owner != ""
        more = two.secrets(["etcd.password"])
        two.returned("nova")
    one.look(print)
    assert one.secrets((), keep=False) == more and one.load().engine


def test_one_that_only_looks_writes_nothing(host: Callable[[str], State]) -> None:
    one, two = host("one"), host("two")
    with one.locked(print, make=True):
        one.secrets(["mysql.password"])
        one.amend(engine="kubernetes://here/team", ports={"mysql/sql": 3307})
    two.look(print)
    assert two.load().ports == {"mysql/sql": 3307} and two.passwords() == one.passwords()
    assert not two.folder.exists()


def test_what_a_host_chose_before_begins_the_environment(host: Callable[[str], State]) -> None:
    one, two = host("one"), host("two")
    central, one.central = one.central, None
    with one.locked(print):
        chosen = one.secrets(["mysql.password"])
        one.amend(ports={"mysql/sql": 3307})
    one.central = central
    with one.locked(print, make=True):
        one.secrets(["mysql.password"])
        one.amend(engine="kubernetes://here/team")
    two.look(print)
    assert two.load().ports == {"mysql/sql": 3307} and two.secrets((), keep=False) == chosen


def test_a_lock_that_another_host_has_is_not_free(host: Callable[[str], State]) -> None:
    one, two = host("one"), host("two")
    with one.locked(print, make=True), two.locked_if_free() as ours:
        assert not ours
    with two.locked_if_free() as ours:
        assert ours
