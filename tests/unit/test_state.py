"""What is remembered on this machine: identity, lock, record and secrets."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from devenv.errors import Cancelled, ConfigError, DevenvError, NotOurs
from devenv.ports import free_port, holder as port_holder, is_free
from devenv.state import (
    Record,
    State,
    all_records,
    environment_id,
    forget_all,
    ports_locked,
    write_atomically,
)


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path, "default")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# ---- identity ----------------------------------------------------------------------------------------------------


def test_an_environments_id_never_changes() -> None:
    # Containers carry it: another rule would leave the ones of older versions behind.
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


# ---- writing -----------------------------------------------------------------------------------------------------


def test_a_written_file_is_for_its_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_atomically(tmp_path / "f", b"new")
    finally:
        os.umask(before)
    assert (mode(tmp_path / "f"), (tmp_path / "f").read_bytes()) == (0o600, b"new")


@pytest.mark.parametrize("failing", ["os.fsync", "pathlib.Path.replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "f").write_bytes(b"old")
    monkeypatch.setattr(failing, full)
    with pytest.raises(ConfigError, match=f"cannot write {tmp_path / 'f'}: No space left on device"):
        write_atomically(tmp_path / "f", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("f", b"old")]


def test_a_disk_that_fills_up_leaves_the_old_file(tmp_path: Path) -> None:
    # The kernel itself refuses here, in the middle of the content.
    (tmp_path / "f").write_bytes(b"old")
    code = (
        "import resource, sys, pathlib; from devenv import errors, state\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))\n"
        "try: state.write_atomically(pathlib.Path(sys.argv[1]), b'x' * 20000)\n"
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
        write_atomically(tmp_path / path, b"new")
    assert {p.name for p in tmp_path.iterdir()} == {"file", "folder"}


# ---- the lock ----------------------------------------------------------------------------------------------------


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another devenv that has the lock of the same environment."""
    code = (
        "import sys, pathlib; from devenv.state import State\n"
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
    with pytest.raises(Cancelled), state.locked(told.append, cancelled=lambda: True):
        pytest.fail("both have the lock")
    assert told == [f"waiting for another devenv (process {holder.pid})"]


def test_a_killed_holder_blocks_nobody(state: State, holder: subprocess.Popen[str]) -> None:
    def kill(_: str) -> None:
        holder.send_signal(signal.SIGKILL)
        holder.wait()

    with state.locked(kill, cancelled=lambda: False):
        assert (state.folder / "lock").read_text() == str(os.getpid())


def test_the_lock_of_another_environment_is_another_lock(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with State(tmp_path, "other").locked(pytest.fail, cancelled=lambda: True):
        assert holder.poll() is None


def test_the_lock_is_given_back_after_an_error(state: State) -> None:
    with pytest.raises(KeyError), state.locked(pytest.fail):
        raise KeyError
    with state.locked(pytest.fail, cancelled=lambda: True):
        pass


def test_a_state_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DEVENV_STATE_DIR", str(tmp_path / "file" / "state"))
    state = State(tmp_path, "default")
    for use in (lambda: state.locked(pytest.fail), lambda: ports_locked(pytest.fail)):
        with pytest.raises(DevenvError, match="cannot create the state folder"), use():
            pass


# ---- the record --------------------------------------------------------------------------------------------------


def test_a_record_comes_back_as_it_was_saved(state: State, tmp_path: Path) -> None:
    record = Record(state.id, "default", str(tmp_path), "base", {"mysql/sql": 3306}, ["mysql/keystone"], [{"a": 1}])
    state.save(record)
    assert state.load() == record
    assert all_records() == [record]
    assert (mode(state.folder), mode(state.folder / "record.json")) == (0o700, 0o600)


GARBLED = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe",
    b'{"ports": 3, "provisioned": "x", "timings": null}',
    b'{"unknown": 1, "nothing": null}',
    b'{"ports": {"mysql/sql": "abc", "etcd/client": null}}',
]


@pytest.mark.parametrize("content", GARBLED)
def test_a_garbled_record_is_an_empty_one(state: State, tmp_path: Path, content: bytes) -> None:
    state.folder.mkdir(parents=True)
    (state.folder / "record.json").write_bytes(content)
    assert state.load() == Record(state.id, "default", str(tmp_path))


@pytest.mark.parametrize("content", [*GARBLED, b'{"id": "x", "name": "y", "project": "z", "ports": [], "more": 1}'])
def test_the_garbled_record_of_one_environment_does_not_harm_the_others(state: State, content: bytes) -> None:
    record = state.load()
    state.save(record)
    other = state.folder.parent / "other"
    other.mkdir()
    (other / "record.json").write_bytes(content)
    records = all_records()
    assert record in records
    assert all(isinstance(port, int) for found in records for port in found.ports.values())


def test_forgetting_drops_record_and_secrets_but_not_the_lock(state: State) -> None:
    with state.locked(pytest.fail):
        state.save(state.load())
        state.secrets(["a"])
        state.forget()
        assert [path.name for path in state.folder.iterdir()] == ["lock"]
    forget_all(state.id)
    assert not state.folder.exists()


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


def test_a_free_port_is_none_of_those_to_avoid() -> None:
    assert free_port([]) != 0
    with pytest.raises(NotOurs, match="cannot find a free port"):
        free_port(range(65536))
