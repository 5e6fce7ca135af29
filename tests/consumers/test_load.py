"""`make soak`, only smaller: clients at work on all four services at once, then several environments at once."""

from __future__ import annotations

import re
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import docker
import pytest
from project import REPOSITORY, Ports

from tests.bench.engine import Engine
from tests.bench.process import Failed
from tests.soak import page
from tests.soak.crowd import Crowd
from tests.soak.figures import SERVICES, Load, Work

SIZE = ["--components", "8", "--clients", "4", "--seconds", "1", "--environments", "2", "--profile", "coordination"]


@pytest.fixture(scope="module")
def figures() -> Mapping[str, str]:
    """Return the figures of a soak, which fails by itself for errors, services not used or not up, and leftovers."""
    command = [sys.executable, "-m", "tests.soak", *SIZE]
    with closing(Ports()) as ports:
        ports.hold()
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(re.findall(r"^\| (.+) \| (.+) \|$", done.stdout, re.MULTILINE))


def test_clients_at_work_all_at_once_meet_no_error(figures: Mapping[str, str]) -> None:
    assert figures["components"].startswith("8 at once") and figures["errors"] == "0"
    uses = [int(figures[f"uses of {service}"].split()[0]) for service in ("mysql", "rabbitmq", "etcd", "keystone")]
    assert min(uses) >= 4


def test_all_components_are_dropped_by_the_services_own_account(figures: Mapping[str, str]) -> None:
    assert figures["components left in the services"].startswith("0,")


def test_nothing_is_left_of_environments_that_were_up_at_once(figures: Mapping[str, str]) -> None:
    assert figures["containers that ran"].startswith("2,") and figures["objects and files left of them"] == "0"


def test_what_is_left_is_found_by_its_name_without_any_label() -> None:
    engine, client = Engine(), docker.from_env()
    name = f"devenv-soaked-{uuid.uuid4().hex[:8]}"
    made = [client.volumes.create(one) for one in (f"{name}-etcd-data", f"{name}2-etcd-data", f"of-{name}")]
    made.append(network := client.networks.create(name))
    try:
        assert engine.remaining(name) == [f"network {network.name}", f"volume {name}-etcd-data"]
        assert engine.remaining(name, [f"of-{name}", "gone"])[1:] == [f"volume {name}-etcd-data", f"volume of-{name}"]
    finally:
        for one in made:
            one.remove()


# ---- problems and the page ---------------------------------------------------------------------------------------


def load(resident: Sequence[float] = (50.0,), work: Work | None = None, left: Sequence[str] = ()) -> Load:
    return Load(4, 2, 10.0, work or Work(Counter(dict.fromkeys(SERVICES, 20))), tuple(resident), 1.0, tuple(left))


def test_memory_that_grows_from_the_first_quarter_to_the_last_is_told() -> None:
    assert not load([50, 90, 90, 54]).grown
    assert load([50] * 8 + [70] * 8).grown


def test_whatever_is_not_as_it_should_be_is_a_problem() -> None:
    assert load().problems == []
    work = Work(Counter(mysql=1, rabbitmq=1, keystone=1), Counter({"mysql: OperationalError: gone": 2}))
    assert load(work=work, left=["MySQL's user x"]).problems == [
        "2 times mysql: OperationalError: gone",
        "etcd was not used",
        "not dropped: MySQL's user x",
    ]
    crowd = Crowd(2, ["etcd"], 1.0, 1.0, 1, 50.0, ("volume x",))
    assert crowd.problems == ["1 services did not run", "left behind: volume x"]


def test_figures_stand_between_the_marks_of_the_page(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("a\n<!-- soak: begin -->\nold\n<!-- soak: end -->\nb\n")
    page.write(path, "new\n")
    assert path.read_text() == "a\n<!-- soak: begin -->\nnew\n<!-- soak: end -->\nb\n"
    path.write_text("no marks\n")
    with pytest.raises(Failed, match=r"^cannot write into page\.md"):
        page.write(path, "new\n")
