"""One environment that two hosts share: each has a project, a state folder and a network of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from project import Completed, Project, new_project, one_clear_line, until as reported

from devenv.ports import free_port
from devenv.store.places import shared_id
from tests.clusters.cluster import Cluster, until
from tests.clusters.conftest import role
from tests.clusters.test_acceptance import forwarders, ready, users

pytestmark = pytest.mark.long

ID = shared_id("team", "default")
WAY_IN = Path(__file__).parent / "way_in.py"
# Ready in seconds, with accounts that devenv has to create. The second host's network has all ports, so it could choose
# one that the first host lacks.
TEXT = """\
profile: coordination
shared: team
services: {{etcd: {{auth: true, ports: {{client: {port}}}}}}}
components: [{component}]
"""


@pytest.fixture(scope="session")
def elsewhere() -> Iterator[tuple[str, ...]]:
    """Make a network of its own for a host; yield the command that runs a program there."""
    hold = "ip link set lo up && echo up && exec sleep infinity"
    with subprocess.Popen(["unshare", "--net", "sh", "-c", hold], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout and holder.stdout.readline() == "up\n"
        yield ("nsenter", f"--net=/proc/{holder.pid}/ns/net")
        holder.kill()


@pytest.fixture(scope="session")
def way_in(cluster: Cluster, elsewhere: tuple[str, ...]) -> Iterator[subprocess.Popen[bytes]]:
    """Have the API answer in that network, too, through a process."""
    port = str(cluster.port)
    with subprocess.Popen(
        [*elsewhere, sys.executable, str(WAY_IN), str(os.getpid()), port, "127.0.0.1", port]
    ) as process:
        yield process
        process.kill()


@pytest.fixture
def one(tmp_path: Path, place: dict[str, str], cluster: Cluster, namespaces: tuple[str, ...]) -> Iterator[Project]:
    """Make the first host's project, with component nova. Whatever is shared in the cluster is gone afterwards."""
    (tmp_path / "one").mkdir()
    scratch = new_project(tmp_path / "one", "project")
    scratch.extra = {**place, "DEVENV_SHARED": "team"}
    scratch.configure(TEXT.format(component="nova", port=free_port(())))
    yield scratch
    scratch.process("down", "--volumes")
    cluster.emptied(namespaces[0])


@pytest.fixture
def two(
    one: Project,
    tmp_path: Path,
    place: dict[str, str],
    elsewhere: tuple[str, ...],
    way_in: subprocess.Popen[bytes],
) -> Iterator[Project]:
    """Make the second host's project, with component glance."""
    (tmp_path / "two").mkdir()
    scratch = new_project(tmp_path / "two", "clone")
    scratch.extra, scratch.within = {**place, "DEVENV_SHARED": "team"}, elsewhere
    scratch.configure((one.folder / "devenv.yaml").read_text().replace("nova", "glance"))
    yield scratch
    scratch.process("down", "--volumes")
    assert not forwarders(scratch)


def at_once(*runs: tuple[Project, str]) -> list[Completed]:
    """Run a command on several hosts at the same time."""
    done: dict[int, Completed] = {}

    def run(number: int, project: Project, command: str) -> None:
        done[number] = project.process(*command.split(), check=False)

    threads = [threading.Thread(target=run, args=(number, *args)) for number, args in enumerate(runs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [done[number] for number in sorted(done)]


def variables(project: Project) -> dict[str, str]:
    return dict(json.loads(project.process("env", "--format", "json").stdout))


def test_two_hosts_that_come_up_at_once_have_one_environment_with_a_component_of_each(
    one: Project, two: Project, cluster: Cluster, namespaces: tuple[str, ...]
) -> None:
    done = at_once((one, "up"), (two, "up"))
    assert [run.returncode for run in done] == [0, 0], [run.stderr for run in done]
    assert {"nova", "glance"} <= {*users(one)} == {*users(two)}
    assert variables(one) == variables(two)
    assert (one.folder / ".devenv/nova.conf").exists() and (two.folder / ".devenv/glance.conf").exists()
    assert forwarders(one) and forwarders(two)
    (pod,) = (name for name in cluster.names(namespaces[0]) if name.startswith("pod/"))
    for host in (one, two):
        plan = json.loads(host.process("plan", "--format", "json").stdout)["operations"]
        assert {op["action"] for op in plan} <= {"ready"}, plan
        # Neither has a word about the other's component.
        assert "kept the data" not in host.process("up", "--drop").stderr
    assert {"nova", "glance"} <= {*users(one)} and pod in cluster.names(namespaces[0])
    # An end is one for all; the other host hears of it, and clears what it has.
    two.process("down", "--volumes")
    cluster.emptied(namespaces[0])
    assert "taken down with its data, by another host" in one.process("status", check=False).stderr
    assert forwarders(one)
    one.process("down", "--volumes")
    assert not forwarders(one) and not (one.folder / ".devenv").exists()
    assert not cluster.names(namespaces[0])


def begun(host: Project, seen: str, number: signal.Signals, *arguments: str) -> subprocess.Popen[str]:
    """Begin a command and send it a signal once it has reported this."""
    run = host.begin(*arguments)
    reported(run, seen)
    run.send_signal(number)
    return run


def test_what_a_killed_host_began_another_one_finishes(one: Project, two: Project) -> None:
    with begun(one, "start etcd", signal.SIGKILL, "up"):
        pass
    # Nobody can tell at first that it was killed.
    done = two.process("up")
    assert "waiting for another devenv" in done.stderr
    assert set(ready(two).values()) == {"ready"} and "glance" in users(two)
    # The host itself knows: it waits for nobody.
    with begun(two, "ready etcd", signal.SIGKILL, "up"):
        pass
    assert "waiting for another devenv" not in two.process("up").stderr
    one.process("up")
    assert {"nova", "glance"} <= {*users(one)}


def test_a_host_that_slept_while_another_one_went_on_changes_nothing_more(one: Project, two: Project) -> None:
    with begun(one, "start etcd", signal.SIGSTOP, "up") as slept:
        two.process("up")
        before = variables(two)
        slept.send_signal(signal.SIGCONT)
        assert slept.stderr
        said = slept.stderr.read()
    assert slept.returncode == 5, said
    (line,) = [line for line in said.splitlines() if line.startswith("cannot ")]
    assert "has taken over" in line and "Traceback" not in said
    assert variables(two) == before
    plan = json.loads(two.process("plan", "--format", "json").stdout)["operations"]
    assert {op["action"] for op in plan} <= {"ready"}, plan
    one.process("up")
    assert {"nova", "glance"} <= {*users(one)} and variables(one) == before


def left_alone(cluster: Cluster, namespace: str) -> bool:
    """Return whether the Lease has not been renewed for longer than it lasts."""
    spec = cluster.get("lease", f"devenv-{ID}", f"--namespace={namespace}")["spec"]
    renewed = datetime.fromisoformat(spec["renewTime"].replace("Z", "+00:00"))
    return (datetime.now(UTC) - renewed).total_seconds() > spec["leaseDurationSeconds"]


def test_a_host_that_slept_goes_on_if_nobody_came(one: Project, cluster: Cluster, namespaces: tuple[str, ...]) -> None:
    with begun(one, "start etcd", signal.SIGSTOP, "up") as slept:
        until(lambda: left_alone(cluster, namespaces[0]))
        slept.send_signal(signal.SIGCONT)
        assert slept.stderr
        said = slept.stderr.read()
    assert slept.returncode == 0, said
    assert "nova" in users(one)


def test_an_api_that_is_away_while_a_host_has_the_lock_costs_time_alone(
    two: Project, way_in: subprocess.Popen[bytes], cluster: Cluster, namespaces: tuple[str, ...]
) -> None:
    with two.begin("up") as run:
        reported(run, "start etcd")
        way_in.send_signal(signal.SIGSTOP)
        try:
            until(lambda: left_alone(cluster, namespaces[0]))
        finally:
            way_in.send_signal(signal.SIGCONT)
        assert run.stderr
        said = run.stderr.read()
    assert run.returncode == 0, said
    assert "glance" in users(two)


def test_wait_joins_and_down_without_volumes_keeps_what_all_know(one: Project, two: Project) -> None:
    one.process("up")
    two.process("wait")
    assert forwarders(two) and variables(two) == variables(one)
    assert (two.folder / ".devenv").exists()
    before = variables(one)
    two.process("down")
    assert not forwarders(two)
    assert ready(one) == {"etcd": "absent"}
    one.process("up")
    assert variables(one) == before


def test_one_delete_takes_all_also_in_the_middle(one: Project, cluster: Cluster, namespaces: tuple[str, ...]) -> None:
    space = f"--namespace={namespaces[0]}"
    with begun(one, "start etcd", signal.SIGSTOP, "up") as run:
        cluster.kubectl("delete", space, "configmap", f"devenv-{ID}")
        until(lambda: not cluster.names(namespaces[0], "pods,services,secrets,configmaps,leases"))
        run.send_signal(signal.SIGCONT)
        assert run.stderr
        said = run.stderr.read()
    assert run.returncode == 5 and "Traceback" not in said, said
    assert len([line for line in said.splitlines() if line.startswith("cannot ")]) == 1
    done = one.process("up")
    assert "taken down with its data, by another host" in done.stderr
    assert "nova" in users(one)


def test_a_port_that_another_program_has_on_the_second_host_is_said(one: Project, two: Project) -> None:
    one.process("up")
    port = variables(one)["DEVENV_ETCD_PORT"]
    listen = f"import socket; s = socket.create_server(('127.0.0.1', {port})); print('up', flush=True); input()"
    with subprocess.Popen(
        [*two.within, sys.executable, "-c", listen], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout and other.stdout.readline() == "up\n"
        one_clear_line(two.process("up", check=False), 7, port, "has the port")
        assert set(ready(one).values()) == {"ready"}
        other.communicate("\n")
    two.process("up")


def test_a_host_leaves_and_others_go_on(one: Project, two: Project) -> None:
    one.process("up")
    two.process("up")
    two.process("down", "--leave")
    assert not forwarders(two) and not (two.folder / ".devenv").exists()
    assert set(ready(one).values()) == {"ready"} and "glance" in users(one)


def test_a_run_leaves_what_it_started_to_other_hosts(one: Project, two: Project) -> None:
    one.process("run", "--", "true")
    two.process("wait")
    assert set(ready(two).values()) == {"ready"}
    done = two.process("run", "--component", "nova", "--", "true", check=False)
    one_clear_line(done, 3, "nova")


def test_a_login_without_the_right_to_leases_makes_nothing(
    one: Project, cluster: Cluster, namespaces: tuple[str, ...]
) -> None:
    space = f"--namespace={namespaces[1]}"
    one.extra = {**one.extra, "DEVENV_KUBE_CONTEXT": namespaces[1]}
    less = [rule for rule in cluster.get("role", "devenv", space)["rules"] if rule["resources"] != ["leases"]]
    cluster.kubectl("patch", space, "role", "devenv", "--type=merge", "--patch", json.dumps({"rules": less}))
    try:
        one_clear_line(one.process("up", check=False), 5, "cannot get leases", "verb get on leases")
        assert not cluster.names(namespaces[1])
        checks = json.loads(one.process("doctor", "--format", "json", check=False).stdout)
        (rights,) = [check["detail"] for check in checks if check["name"] == "rights"]
        assert "leases (get, create, patch, delete)" in rights
    finally:
        cluster.kubectl("apply", space, "--filename=-", stdin=role())
        del one.extra["DEVENV_KUBE_CONTEXT"]


def test_a_newer_record_is_left_alone(one: Project, cluster: Cluster, namespaces: tuple[str, ...]) -> None:
    one.process("up")
    space = f"--namespace={namespaces[0]}"
    kept = cluster.get("configmap", f"devenv-{ID}", space)["data"]["record"]
    newer = json.dumps({"data": {"record": json.dumps({**json.loads(kept), "format": 99})}})
    cluster.kubectl("patch", space, "configmap", f"devenv-{ID}", "--type=merge", "--patch", newer)
    for command in ("up", "status", "down"):
        one_clear_line(one.process(command, check=False), 3, "newer devenv of another host")
    older = json.dumps({"data": {"record": kept}})
    cluster.kubectl("patch", space, "configmap", f"devenv-{ID}", "--type=merge", "--patch", older)
    assert set(ready(one).values()) == {"ready"}
