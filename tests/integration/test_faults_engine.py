"""The engine is restarted, has no addresses or no space left: on an engine of the tests' own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from private_engine import PrivateEngine, missing, private_engine
from project import Project, new_project, one_clear_line, until

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "none")
# In MB: room for the images of MySQL and etcd, and the data of a MySQL.
DISK = 1500
# In bytes. MySQL's data takes more.
LITTLE = 64 << 20


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateEngine]:
    """An engine with addresses for two networks, of which it takes one itself."""
    folder = tmp_path_factory.mktemp("engine")
    images = [image["reference"] for image in new_project(folder, "any").json("images", "list")]
    wanted = [image for image in images if "keystone" not in image and "rabbitmq" not in image]
    with private_engine(folder, DISK, "--default-address-pool=base=10.213.0.0/23,size=24") as own:
        own.load(wanted)
        yield own


@pytest.fixture
def project(engine: PrivateEngine, tmp_path: Path) -> Iterator[Project]:
    """A project whose environment is on the private engine."""
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
    run(engine, project, "up", "etcd")
    before = run(engine, project, "env")
    written = (project.folder / ".devenv" / "env").read_text()
    run(engine, project, "exec", "etcd", "etcdctl", "put", "key", "kept")
    engine.stop()
    one_clear_line(engine.devenv(project, "status"), 4, "cannot reach")
    engine.start()
    assert state(engine, project, "etcd") != "ready"
    run(engine, project, "start")
    assert (run(engine, project, "env"), (project.folder / ".devenv" / "env").read_text()) == (before, written)
    assert "kept" in run(engine, project, "exec", "etcd", "etcdctl", "get", "key")


def test_an_up_ends_with_one_clear_line_when_the_engine_is_restarted_meanwhile(
    engine: PrivateEngine, project: Project
) -> None:
    with engine.begin(project, "up", "--no-golden", "mysql") as up:
        until(up, "start mysql")
        engine.stop()
        _, reported = up.communicate()
    engine.start()
    assert up.returncode in (4, 5), reported
    assert "cannot " in reported and "hint: " in reported and "Traceback" not in reported
    port = json.loads(run(engine, project, "status", "--format", "json"))["services"]["mysql"]["endpoints"]["sql"]
    run(engine, project, "up", "--no-golden", "mysql")
    after = json.loads(run(engine, project, "status", "--format", "json"))["services"]["mysql"]
    assert (after["state"], after["endpoints"]["sql"]) == ("ready", port)


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
    run(engine, project, "up", "etcd")
    run(engine, project, "down")
    run(engine, more, "--env", "two", "down", "--volumes")


def test_a_full_disk_costs_a_first_start_but_no_data(engine: PrivateEngine, project: Project) -> None:
    ballast = engine.fill(leave=LITTLE)
    failed = engine.devenv(project, "up", "--no-golden", "mysql")
    one_clear_line(failed, 5, "cannot use mysql", "No space left on device")
    ballast.unlink()
    run(engine, project, "up", "--no-golden", "mysql")

    def sql(statement: str) -> str:
        return run(engine, project, "exec", "mysql", "mysql", "-Ne", statement)

    sql("CREATE TABLE devenv.big (id INT AUTO_INCREMENT PRIMARY KEY, data LONGBLOB)")
    ballast = engine.fill(leave=LITTLE)
    inserts = "INSERT INTO devenv.big (data) VALUES (REPEAT('x', 4000000));" * 50
    full = engine.devenv(project, "exec", "mysql", "mysql", "-e", inserts)
    assert "The table 'big' is full" in full.stderr
    rows = sql("SELECT COUNT(*) FROM devenv.big")
    ballast.unlink()
    run(engine, project, "up", "mysql")
    assert sql("SELECT COUNT(*) FROM devenv.big") == rows
    sql(inserts)
