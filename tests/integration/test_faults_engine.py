"""The engine restarts, or has no addresses or no space left: tests on an engine of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from private_engine import PrivateEngine, private_engine
from project import Completed, Project, new_project, one_clear_line, until
from unharmed import unharmed

pytestmark = pytest.mark.long

# In MB: room for the images of MySQL and etcd, and the data of a MySQL.
DISK = 1500
# In bytes. MySQL's data takes more.
LITTLE = 64 << 20


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateEngine]:
    """Start an engine with addresses for two networks; it takes one of them itself."""
    folder = tmp_path_factory.mktemp("engine")
    images = [image["reference"] for image in new_project(folder, "any").json("images", "list")]
    wanted = [image for image in images if "keystone" not in image and "rabbitmq" not in image]
    with private_engine(folder, DISK, "--default-address-pool=base=10.213.0.0/23,size=24") as own:
        own.load(wanted)
        yield own


@pytest.fixture
def project(engine: PrivateEngine, tmp_path: Path) -> Iterator[Project]:
    """Make a project whose environment is on the private engine."""
    scratch = new_project(tmp_path, "project")
    yield scratch
    assert engine.devenv(scratch, "down", "--volumes").returncode == 0


def run(engine: PrivateEngine, project: Project, *arguments: str) -> str:
    done = engine.devenv(project, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def state(engine: PrivateEngine, project: Project, service: str) -> str:
    return str(json.loads(run(engine, project, "status", "--format", "json"))["services"][service]["state"])


def test_services_return_with_their_ports_after_the_engine_was_restarted(
    engine: PrivateEngine, project: Project
) -> None:
    project.configure("profile: database\nservices: {etcd: {}}\n")
    run(engine, project, "up")
    for mend in ("start", "up"):
        with unharmed(project, tell=partial(run, engine, project)):
            engine.stop()
            one_clear_line(engine.devenv(project, "status"), 4, "cannot reach")
            engine.start()
            assert "ready" not in (state(engine, project, "etcd"), state(engine, project, "mysql"))
            run(engine, project, mend)


def test_an_up_ends_with_one_clear_line_when_the_engine_is_restarted_meanwhile(
    engine: PrivateEngine, project: Project
) -> None:
    with engine.begin(project, "up", "--no-golden", "mysql") as up:
        until(up, "start mysql")
        engine.stop()
        told, reported = up.communicate()
    engine.start()
    assert up.returncode in (4, 5) and "Traceback" not in reported, reported
    one_clear_line(Completed(up.args, up.returncode, told, reported), up.returncode)
    with unharmed(project, "mysql", tell=partial(run, engine, project)):
        run(engine, project, "up", "--no-golden", "mysql")


def test_where_no_addresses_are_left_it_is_told_which_environments_hold_some(
    engine: PrivateEngine, project: Project, tmp_path: Path
) -> None:
    (tmp_path / "more").mkdir()
    more = new_project(tmp_path / "more", "more")
    more.state = project.state
    run(engine, more, "--env", "two", "up", "etcd")
    failed = engine.devenv(project, "up", "etcd")
    one_clear_line(failed, 5, "cannot create network", "address pool", str(more.folder))
    command = failed.stderr.partition("'devenv ")[2].partition("'")[0]
    run(engine, project, *command.split())
    with unharmed(project, "etcd", tell=partial(run, engine, project)):
        run(engine, project, "up", "etcd")
    run(engine, project, "down")
    run(engine, more, "--env", "two", "down", "--volumes")


def test_a_full_disk_costs_a_first_start_but_no_data(engine: PrivateEngine, project: Project) -> None:
    ballast = engine.fill(leave=LITTLE)
    failed = engine.devenv(project, "up", "--no-golden", "mysql")
    one_clear_line(failed, 5, "cannot use mysql", "No space left on device")
    ballast.unlink()
    with unharmed(project, "mysql", tell=partial(run, engine, project)):
        run(engine, project, "up", "--no-golden", "mysql")

    def sql(statement: str) -> str:
        return run(engine, project, "exec", "mysql", "mysql", "-Ne", statement)

    sql("CREATE TABLE devenv.big (id INT AUTO_INCREMENT PRIMARY KEY, data LONGBLOB)")
    inserts = "INSERT INTO devenv.big (data) VALUES (REPEAT('x', 4000000));" * 50
    with unharmed(project, tell=partial(run, engine, project)):
        ballast = engine.fill(leave=LITTLE)
        full = engine.devenv(project, "exec", "mysql", "mysql", "-e", inserts)
        assert "The table 'big' is full" in full.stderr
        rows = sql("SELECT COUNT(*) FROM devenv.big")
        ballast.unlink()
        run(engine, project, "up", "mysql")
    assert sql("SELECT COUNT(*) FROM devenv.big") == rows
    sql(inserts)
