"""`devenv ls` as people and programs read it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, strategies as st

from devenv.cli.environments import as_table
from devenv.cli.main import main
from devenv.lifecycle.listing import Listed
from devenv.model import Observed, ObservedContainer
from devenv.store.record import Record

RECORD = Record("nova-1a2b3c4d", "default", "/srv/nova")


def container(service: str, state: str = "running", **ports: int) -> ObservedContainer:
    return ObservedContainer(service, service, service, state, ports={int(p[1:]): host for p, host in ports.items()})


def listed(
    *containers: ObservedContainer, record: Record | None = RECORD, identity: str = "", **more: object
) -> Listed:
    observed = Observed({one.service: one for one in containers})
    return Listed(identity or (record.id if record else "x-00000000"), observed, record, **more)  # type: ignore[arg-type]


ALL = (
    container("mysql", p3306=39221),
    container("rabbitmq", p15672=45091, p5672=55819),
    container("etcd", p2379=2379),
    container("keystone", p5000=60839),
)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Listed]:
    """Return a list for what `devenv ls` finds."""
    found: list[Listed] = []
    monkeypatch.setattr("devenv.lifecycle.listing.list_environments", lambda *_, **__: found)
    return found


def lines(*found: Listed, usage: bool = False) -> list[str]:
    return as_table(found, usage).splitlines()


# ---- the table ---------------------------------------------------------------------------------------------------


def test_the_table_says_where_what_and_on_which_ports() -> None:
    assert lines(listed(*ALL), listed(container("etcd", "exited"), record=None)) == [
        "ID             PROJECT      STATE    SERVICES",
        "nova-1a2b3c4d  /srv/nova    running  etcd:2379 keystone:60839 mysql:39221",
        "                                     rabbitmq:55819, 45091",
        "x-00000000     (no record)  stopped  etcd",
    ]


def test_a_service_that_somebody_else_runs_is_told_from_those_of_the_engine() -> None:
    theirs = Observed(attached=frozenset({"mysql"}))
    assert lines(Listed(RECORD.id, theirs, RECORD))[1].split()[2:] == ["attached", "mysql"]
    both = replace(theirs, containers={"etcd": ALL[2]})
    assert lines(Listed(RECORD.id, both, RECORD))[1].split()[2:] == ["running", "etcd:2379", "mysql:attached"]


def test_a_service_that_differs_from_the_others_shows_its_own_state() -> None:
    one = Listed(
        RECORD.id, Observed({"etcd": ALL[2], "mysql": container("mysql", "exited")}, volumes={"v": "rabbitmq"}), RECORD
    )
    assert lines(one)[1].split() == [
        "nova-1a2b3c4d",
        "/srv/nova",
        "partly",
        "etcd:2379",
        "mysql:exited",
        "rabbitmq:down",
    ]


def test_a_name_and_a_folder_that_is_gone_stand_in_parentheses() -> None:
    named = replace(RECORD, name="tests")
    assert "/srv/nova (tests)  " in lines(listed(*ALL, record=named))[1]
    assert "/srv/nova (gone)  " in lines(listed(*ALL, gone=True))[1]
    assert "/srv/nova (tests, gone)  " in lines(listed(*ALL, record=named, gone=True))[1]


def test_a_folder_of_the_user_begins_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/srv")
    assert lines(listed(*ALL))[1].split()[1] == "~/nova"
    monkeypatch.delenv("HOME")
    assert lines(listed(*ALL))[1].split()[1] == "/srv/nova"


def test_sizes_are_short_and_unknown_ones_a_dash() -> None:
    one = listed(*ALL, memory={"etcd": 9_000_000, "mysql": 991_000_000, "rabbitmq": None}, disk={"etcd": None})
    assert [line.split()[-2:] for line in lines(one, usage=True)[:2]] == [["MEM", "DISK"], ["1.0G", "-"]]


@given(
    identity=st.from_regex(r"[a-z0-9-]{1,24}-[0-9a-f]{8}", fullmatch=True),
    name=st.from_regex(r"[a-z][a-z0-9-]{0,30}", fullmatch=True),
    folder=st.text(min_size=1, max_size=300),
    usage=st.booleans(),
    gone=st.booleans(),
)
def test_the_table_fits_80_columns_whatever_the_folder_is(
    identity: str, name: str, folder: str, usage: bool, gone: bool
) -> None:
    one = listed(*ALL, record=Record(identity, name, f"/{folder}"), gone=gone)
    table = lines(one, listed(record=None), usage=usage)
    assert max(map(len, table)) <= 80
    assert all(line.isprintable() for line in table)
    assert table[1].startswith(f"{identity}  ")


def test_a_long_folder_keeps_its_beginning_and_its_end() -> None:
    record = replace(RECORD, project=f"/srv/{'very-' * 20}long/nova")
    (cell,) = (word for word in lines(listed(*ALL, record=record))[1].split() if "…" in word)
    assert cell.startswith("/srv/very") and cell.endswith("long/nova")


def test_no_label_moves_the_cursor(shown: list[Listed]) -> None:
    evil = container("\x1b[2Jetcd")
    shown.append(Listed("a\x1b[2J\nb", Observed({evil.service: evil}, strangers=("container \x1b[2J",))))
    done = run("ls")
    assert "\x1b" not in done.output and len(done.stdout.splitlines()) == 2


# ---- the command -------------------------------------------------------------------------------------------------


def test_nothing_to_list_is_said(shown: list[Listed]) -> None:
    assert run("ls").stdout == "no environments\n"
    assert json.loads(run("ls", "--format", "json").stdout) == []


def test_json_says_the_same_as_the_table_and_more(shown: list[Listed]) -> None:
    shown.append(listed(container("etcd", p2379=41283), memory={"etcd": 5}, disk={"etcd": 7}, used=True))
    shown.append(listed(container("etcd", "exited"), record=None))
    own, others = json.loads(run("ls", "--format", "json").stdout)
    assert own == {
        "id": "nova-1a2b3c4d",
        "name": "default",
        "project": "/srv/nova",
        "gone": False,
        "state": "running",
        "engine": "",
        "tunnel": "",
        "used": True,
        "services": {"etcd": {"state": "running", "ports": {"2379": 41283}, "memory": 5, "disk": 7}},
        "leftover": [],
        "strangers": [],
        "memory": 5,
        "disk": 7,
    }
    assert (others["name"], others["project"], others["memory"]) == (None, None, None)
    assert others.keys() == own.keys()


def test_what_only_carries_the_label_is_told_beside_the_table(shown: list[Listed]) -> None:
    shown.append(Listed(RECORD.id, Observed(strangers=("container web",)), RECORD))
    done = run("ls")
    assert done.stderr == "labelled as nova-1a2b3c4d and not made by it: container web\n"


def test_a_tunnel_that_leads_nowhere_is_told_beside_the_table(shown: list[Listed]) -> None:
    shown.append(listed(container("etcd", p2379=41283), tunnel="no process forwards them"))
    told = "the tunnel of nova-1a2b3c4d leads nowhere (no process forwards them): 'devenv wait' in its folder opens it"
    assert run("ls").stderr.startswith(told)


@pytest.mark.parametrize(
    "option", [option.opts[0] for option in main.params if option.name not in ("debug", "version")]
)
def test_an_id_and_an_option_about_a_project_are_too_much(option: str) -> None:
    done = run(option, "default", "down", "--id", "nova-1a2b3c4d")
    assert done.exit_code == 2 and f"cannot use --id with {option}: --id alone says which" in done.stderr


def test_the_shell_completes_ids(own_world: Path) -> None:
    for identity in ("nova-1a2b3c4d", "neutron-1a2b3c4d"):
        (folder := own_world / "state/environments" / identity).mkdir(parents=True)
        (folder / "record.json").write_text(json.dumps({"id": identity, "name": "default", "project": "/srv"}))
    words = {"_DEVENV_COMPLETE": "bash_complete", "COMP_WORDS": "devenv down --id no", "COMP_CWORD": "3"}
    done = CliRunner().invoke(main, env=words, prog_name="devenv")
    assert done.stdout.splitlines() == ["plain,nova-1a2b3c4d"]
