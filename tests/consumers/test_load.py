"""`make soak`, only smaller: clients at work on all four services at once, then several environments at once."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping

import pytest
from project import REPOSITORY, ports_held

SIZE = ["--components", "16", "--clients", "8", "--seconds", "3", "--environments", "4", "--profile", "coordination"]


@pytest.fixture(scope="module")
def figures() -> Mapping[str, str]:
    """What it measured. It fails by itself for an error, a service that was not used or not up, and what is left."""
    command = [sys.executable, "-m", "tests.soak", *SIZE]
    with ports_held():
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(re.findall(r"^\| (.+) \| (.+) \|$", done.stdout, re.MULTILINE))


def test_clients_at_work_all_at_once_meet_no_error(figures: Mapping[str, str]) -> None:
    assert figures["components"].startswith("16 at once") and figures["errors"] == "0"
    uses = [int(figures[f"uses of {service}"].split()[0]) for service in ("mysql", "rabbitmq", "etcd", "keystone")]
    assert min(uses) >= 8


def test_all_components_are_dropped_by_the_services_own_account(figures: Mapping[str, str]) -> None:
    assert figures["components left in the services"].startswith("0,")


def test_nothing_is_left_of_environments_that_were_up_at_once(figures: Mapping[str, str]) -> None:
    assert figures["containers that ran"].startswith("4,") and figures["objects and files left of them"] == "0"
