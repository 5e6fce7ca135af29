"""devenv recovers from unexpected faults of its processes, its files, the host and its services."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import amqp
import docker
import pymysql
import pytest
import requests
from docker.models.containers import Container
from project import REPOSITORY, Project, new_project, not_root, one_clear_line, ours, plan_of, remove, require, until
from unharmed import ALL, unharmed

from devenv.store.record import FORMAT

NOTHING: dict[str, list[str]] = {"containers": [], "networks": [], "volumes": []}


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Project]:
    """Make another project of the same user, whose folder has the same name."""
    (parent := tmp_path / "other").mkdir()
    scratch = new_project(parent, "project")
    scratch.state = tmp_path / "state"
    yield scratch
    remove(scratch)


def states(project: Project) -> dict[str, str]:
    return {name: one["state"] for name, one in project.json("status")["services"].items()}


def container_of(project: Project, client: docker.DockerClient, service: str) -> Container:
    return client.containers.get(project.json("status")["services"][service]["container"])


# ---- interrupted, killed, several at once ------------------------------------------------------------------------


def test_ctrl_c_twice_ends_devenv_at_once_and_the_next_up_completes(project: Project, checkout: Path) -> None:
    dockerfile = checkout / "compose" / "etcd" / "Dockerfile"
    original = dockerfile.read_text()
    # The build prints nothing during its last step, so devenv cannot end it cleanly for a while.
    dockerfile.write_text("ARG BASE\nFROM ${BASE}\nRUN echo step last; sleep 600\n")
    with project.begin("up", "etcd") as run:
        until(run, "Step 3/")
        until(run, "image etcd: step last")
        run.send_signal(signal.SIGINT)
        until(run, "Ctrl-C again stops immediately")
        run.send_signal(signal.SIGINT)
        assert run.stderr
        rest = run.stderr.read()
    assert (run.returncode, rest) == (130, "")
    dockerfile.write_text(original)
    with unharmed(project, "etcd"):
        project.devenv("up", "etcd")


def test_ctrl_c_while_devenv_is_loaded_is_no_traceback(project: Project, tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise KeyboardInterrupt\n")
    environ = {**project.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}"}
    command = [sys.executable, "-m", "devenv", "up"]
    done = subprocess.run(command, cwd=project.folder, env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


@contextmanager
def waiting_for_a_holder(project: Project) -> Iterator[tuple[subprocess.Popen[str], subprocess.Popen[str]]]:
    """Start one `up` that has the lock and stands still until the end, and one that waits for the lock."""
    with project.begin("up", "etcd") as holder:
        until(holder, "create network")
        holder.send_signal(signal.SIGSTOP)
        try:
            with project.begin("up", "etcd") as waiting:
                until(waiting, f"waiting for another devenv (process {holder.pid})")
                yield holder, waiting
        finally:
            holder.send_signal(signal.SIGCONT)
            holder.communicate()


def test_who_waits_for_the_lock_gets_it_when_its_holder_is_killed(project: Project) -> None:
    with unharmed(project, "etcd"), waiting_for_a_holder(project) as (holder, waiting):
        holder.kill()
        _, reported = waiting.communicate()
        assert (waiting.returncode, holder.wait()) == (0, -signal.SIGKILL), reported


def test_ctrl_c_ends_the_wait_for_the_lock_and_its_holder_goes_on(project: Project) -> None:
    with unharmed(project, "etcd"):
        with waiting_for_a_holder(project) as (holder, waiting):
            waiting.send_signal(signal.SIGINT)
            _, reported = waiting.communicate()
            assert (waiting.returncode, reported.strip()) == (130, "interrupted")
        assert holder.returncode == 0


def test_two_checkouts_with_the_same_folder_name_have_nothing_in_common(
    project: Project, other: Project, client: docker.DockerClient
) -> None:
    for one in (project, other):
        one.devenv("up", "etcd")
        one.devenv("exec", "etcd", "etcdctl", "put", "folder", str(one.folder))
    assert project.folder.name == other.folder.name
    first, second = ours(client, project.id), ours(client, other.id)
    assert not any({*first[kind]} & {*second[kind]} for kind in first)
    project.devenv("down", "--volumes")
    assert (ours(client, project.id), ours(client, other.id)) == (NOTHING, second)
    assert str(other.folder) in other.devenv("exec", "etcd", "etcdctl", "get", "folder").stdout


# ---- what devenv remembers -----------------------------------------------------------------------------------------


def logged_in(project: Project, component: str) -> None:
    """Log in to MySQL, RabbitMQ and Keystone with what devenv wrote for the component."""
    env = dict(json.loads(project.devenv("env", "--component", component, "--format", "json").stdout))
    written = (project.folder / ".devenv" / f"{component}.conf").read_text()
    for service in ("MYSQL", "RABBITMQ", "KEYSTONE"):
        assert env[f"DEVENV_{service}_PASSWORD"] in written
    with (
        pymysql.connect(
            host="127.0.0.1",
            port=int(env["DEVENV_MYSQL_PORT"]),
            user=env["DEVENV_MYSQL_USER"],
            password=env["DEVENV_MYSQL_PASSWORD"],
            database=env["DEVENV_MYSQL_DATABASE"],
            autocommit=True,
        ) as database,
        database.cursor() as cursor,
    ):
        cursor.execute("CREATE TABLE IF NOT EXISTS logins (id INT AUTO_INCREMENT PRIMARY KEY)")
        cursor.execute("INSERT INTO logins VALUES ()")
    with amqp.Connection(
        host=f"127.0.0.1:{env['DEVENV_RABBITMQ_PORT']}",
        userid=env["DEVENV_RABBITMQ_USER"],
        password=env["DEVENV_RABBITMQ_PASSWORD"],
        virtual_host=env["DEVENV_RABBITMQ_VHOST"],
    ) as connection:
        assert connection.connected
    user = {"name": env["OS_USERNAME"], "password": env["OS_PASSWORD"], "domain": {"name": "Default"}}
    auth = {"identity": {"methods": ["password"], "password": {"user": user}}}
    assert requests.post(f"{env['OS_AUTH_URL']}/auth/tokens", json={"auth": auth}, timeout=30).status_code == 201


def logins(project: Project) -> int:
    return int(project.devenv("exec", "mysql", "mysql", "-Ne", "SELECT COUNT(*) FROM nova.logins").stdout)


def garble(path: Path) -> None:
    path.write_text("{ this is no JSON")


EACH = ("record.json", "secrets.json", "*.json")


@pytest.mark.parametrize(
    ("lose", "patterns"),
    [
        pytest.param(garble, EACH[2:], id="all garbled"),
        pytest.param(garble, EACH, id="garbled", marks=pytest.mark.long),
        pytest.param(Path.unlink, EACH, id="deleted", marks=pytest.mark.long),
    ],
)
def test_state_that_was_lost_is_made_anew_and_all_credentials_agree_again(
    project: Project, lose: Callable[[Path], None], patterns: Sequence[str]
) -> None:
    project.configure("services: {mysql: {}, rabbitmq: {}, keystone: {}}\ncomponents: {nova: {}}\n")
    project.devenv("up")
    logged_in(project, "nova")
    ports = {name: value for name, value in project.env().items() if name.endswith("_PORT")}
    folder = project.state / "environments" / project.id
    for number, pattern in enumerate(patterns):
        for path in folder.glob(pattern):
            lose(path)
        project.devenv("up")
        assert plan_of(project) == []
        logged_in(project, "nova")
        assert logins(project) == number + 2
        assert ports == {name: value for name, value in project.env().items() if name.endswith("_PORT")}


def test_a_record_of_a_newer_devenv_is_left_as_it_is(
    project: Project, other: Project, client: docker.DockerClient
) -> None:
    project.devenv("up", "etcd")
    identity, port = project.id, project.env()["DEVENV_ETCD_PORT"]
    folder = project.state / "environments" / identity
    original = (folder / "record.json").read_text()
    (folder / "record.json").write_text(json.dumps({**json.loads(original), "format": FORMAT + 1, "new": ["thing"]}))
    before, there = {path: path.read_bytes() for path in folder.glob("*.json")}, ours(client, identity)
    commands = (["up"], ["plan"], ["status"], ["env"], ["stop"], ["down", "--volumes"], ["reset"], ["gc"])
    refused = [project.devenv(*command, check=False) for command in commands]
    after = {path: path.read_bytes() for path in folder.glob("*.json")}
    # Other environments work, and do not take its ports.
    other.devenv("up", "etcd")
    (folder / "record.json").write_text(original)
    for done in refused:
        one_clear_line(done, 3, "record.json", "newer devenv", f"format {FORMAT + 1}")
    assert (after, ours(client, identity)) == (before, there)
    assert other.env()["DEVENV_ETCD_PORT"] != port


def test_an_etcd_whose_password_is_lost_keeps_its_data_until_it_is_reset(project: Project) -> None:
    project.configure("profile: coordination\nservices: {etcd: {auth: true}}\n")
    project.devenv("up")
    env = project.env()
    (project.state / "environments" / project.id / "secrets.json").unlink()
    one_clear_line(project.devenv("up", check=False), 5, "authentication failed", "devenv reset etcd")
    root = {"name": "root", "password": env["DEVENV_ETCD_PASSWORD"]}
    assert requests.post(f"{env['DEVENV_ETCD_URL']}/v3/auth/authenticate", json=root, timeout=30).ok
    project.devenv("reset", "etcd")
    root = {"name": "root", "password": project.env()["DEVENV_ETCD_PASSWORD"]}
    assert requests.post(f"{env['DEVENV_ETCD_URL']}/v3/auth/authenticate", json=root, timeout=30).ok


# ---- the host ------------------------------------------------------------------------------------------------------

# The clock goes back an hour at each look.
CLOCK = """
import datetime
import itertools
import time

hours, now, real = itertools.count(1), time.time, datetime.datetime


class Back(real):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(time.time(), tz)


time.time = lambda: now() - 3600 * next(hours)
time.time_ns = lambda: int(time.time() * 1e9)
datetime.datetime = Back
"""


def test_a_clock_that_goes_back_neither_prolongs_nor_ends_a_wait(
    project: Project, etcd_that: Callable[[str], str], tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(CLOCK)
    project.extra = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}"}
    project.configure("profile: coordination\n")
    # A new process, or it would use the clock of this one.
    with unharmed(project, "etcd"):
        project.process("up")
    began = datetime.fromisoformat(project.json("status", "--timing")["timing"]["began"])
    assert datetime.now(UTC) - began > timedelta(minutes=59)
    image = etcd_that("exec sleep 600")
    project.configure(f"profile: coordination\nservices: {{etcd: {{image: {image}}}}}\n", trusted=True)
    # A wait by the clock would never end, or would end immediately.
    asked = time.monotonic()
    done = project.process("up", "--wait-timeout", "1", check=False, limit=600)
    assert time.monotonic() - asked >= 1
    one_clear_line(done, 6, "not ready after 1 s")


@pytest.mark.long
def test_a_localhost_that_is_only_ipv6_does_not_matter(project: Project, tmp_path: Path) -> None:
    require(not_root("give a process another /etc/hosts") or ("" if shutil.which("unshare") else "no unshare"))
    (tmp_path / "hosts").write_text("::1 localhost\n")
    script = f'mount --bind {tmp_path}/hosts /etc/hosts && getent ahosts localhost && exec "$@"'
    inside = ["unshare", "--mount", "sh", "-ec", script, "sh"]
    with unharmed(project, *ALL):
        done = subprocess.run(
            [*inside, sys.executable, "-m", "devenv", "up"],
            cwd=project.folder,
            env=project.environ,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    addresses = [line for line in done.stdout.splitlines() if "STREAM" in line]
    assert {line.split()[0] for line in addresses} == {"::1"}
    assert not [path for path in (project.folder / ".devenv").iterdir() if "localhost" in path.read_text()]


# ---- services that die -----------------------------------------------------------------------------------------------


def test_a_service_that_dies_later_is_told_by_status_and_mended_by_up(
    running: Project, client: docker.DockerClient
) -> None:
    container = container_of(running, client, "mysql")
    with unharmed(running):
        container.kill(signal="SIGABRT")
        container.wait()
        services = running.json("status", "mysql", "keystone")["services"]
        assert (services["mysql"]["state"], services["mysql"]["reason"][:7]) == ("failed", "exited ")
        assert (services["keystone"]["state"], services["keystone"]["reason"]) == (
            "starting",
            "needs mysql, which does not run",
        )
        running.devenv("up")


def outgrown(container: Container, url: str) -> bool:
    """Have etcd take memory until it ends; return whether the engine knows why.

    Docker 20.10 never does if it hears of a container's end before it hears of the reason.
    """
    put = {"key": "a2V5", "value": "A" * 1_400_000}
    container.reload()
    while container.status == "running":
        try:
            requests.post(f"{url}/v3/kv/put", json=put, timeout=30).raise_for_status()
        except requests.RequestException:
            container.reload()
    return bool(container.attrs["State"]["OOMKilled"])


def test_a_service_that_outgrows_its_memory_is_told_by_status_and_mended_by_up(
    project: Project, client: docker.DockerClient
) -> None:
    project.devenv("up", "etcd")
    container = container_of(project, client, "etcd")
    memory = container.attrs["HostConfig"]["Memory"]
    container.update(mem_limit=64 << 20, memswap_limit=64 << 20)
    with unharmed(project):
        while not outgrown(container, project.env()["DEVENV_ETCD_URL"]):
            container.start()
        status = project.json("status", "etcd")["services"]["etcd"]
        assert (status["state"], status["reason"]) == ("failed", "exited 137, killed because it used too much memory")
        container.update(mem_limit=memory, memswap_limit=2 * memory)
        project.devenv("up", "etcd")
    assert "key" in project.devenv("exec", "etcd", "etcdctl", "get", "--keys-only", "key").stdout
