"""Stopping, starting, drifting, mending: an environment over its life."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import docker
import pytest
from project import Project, is_podman, ours, plan_of
from unharmed import ALL, unharmed


def put(project: Project, word: str) -> None:
    project.devenv("exec", "etcd", "--", "etcdctl", "put", "word", word)


def get(project: Project) -> str:
    return project.devenv("exec", "etcd", "--", "etcdctl", "get", "--print-value-only", "word").stdout.strip()


def test_stop_and_start_keep_data_ports_and_secrets(running: Project) -> None:
    before = running.env()
    put(running, "kept")
    running.devenv("stop")
    assert {one["state"] for one in running.json("status")["services"].values()} == {"stopped"}
    running.devenv("start")
    assert {one["state"] for one in running.json("status")["services"].values()} == {"ready"}
    assert get(running) == "kept"
    assert running.env() == before
    running.devenv("restart", "etcd")
    assert get(running) == "kept"


def test_down_keeps_data_and_down_with_volumes_does_not(project: Project, client: docker.DockerClient) -> None:
    project.devenv("up", "etcd")
    before = project.env()
    put(project, "kept")
    project.devenv("down")
    left = ours(client, project.id)
    assert left["containers"] == left["networks"] == []
    assert len(left["volumes"]) == 1
    project.devenv("up", "etcd")
    assert get(project) == "kept"
    assert project.env() == before
    project.devenv("down", "--volumes")
    project.devenv("up", "etcd")
    assert get(project) == ""


def test_down_of_one_service_leaves_the_others(project: Project) -> None:
    project.devenv("up", "etcd", "mysql")
    project.devenv("down", "mysql", "--volumes")
    states = {name: one["state"] for name, one in project.json("status")["services"].items()}
    assert states["etcd"] == "ready"
    assert states["mysql"] == "absent"


def test_only_what_drifted_and_what_depends_on_it_is_recreated_and_the_cause_is_said(
    running: Project, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "checkout", checkout)
    assert plan_of(running) == []
    config = checkout / "compose" / "mysql" / "my.cnf"
    config.write_text(config.read_text() + "max_connect_errors = 1000\n")
    cause, dependent = "file my.cnf changed", "mysql is recreated"
    touched = {(action, cause) for action, target, cause in plan_of(running) if "mysql" in target}
    assert {("stop", cause), ("remove", cause), ("create", cause), ("start", cause)} <= touched
    assert {cause for _, target, cause in plan_of(running) if target == "keystone"} == {dependent}
    assert not [target for _, target, _ in plan_of(running) if "etcd" in target or "rabbitmq" in target]


def test_what_drifted_is_recreated_once_and_keeps_data_ports_and_secrets(project: Project, checkout: Path) -> None:
    project.configure("profile: coordination\n")
    project.devenv("up")
    put(project, "kept")
    before = project.env()
    config = checkout / "compose" / "etcd" / "etcd.yaml"
    config.write_text(config.read_text() + "max-txn-ops: 127\n")
    assert ("create", "etcd", "file etcd.yaml changed") in plan_of(project)
    project.devenv("up")
    assert plan_of(project) == []
    assert project.env() == before and get(project) == "kept"


def test_a_port_that_is_pinned_later_moves_the_service_there(project: Project) -> None:
    project.devenv("up", "etcd")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    project.configure(f"services:\n  etcd:\n    ports: {{client: {port}}}\n")
    assert ("create", "etcd", "ports changed") in plan_of(project, "etcd")
    project.devenv("up", "etcd")
    assert project.env()["DEVENV_ETCD_PORT"] == str(port)


def test_a_container_removed_by_hand_comes_back_with_its_data(project: Project, client: docker.DockerClient) -> None:
    project.devenv("up", "etcd")
    (name,) = ours(client, project.id)["containers"]
    with unharmed(project):
        client.containers.get(name).remove(force=True, v=True)
        assert project.json("status")["services"]["etcd"]["state"] == "absent"
        project.devenv("up", "etcd")


def test_a_killed_container_is_reported_and_started_again(project: Project, client: docker.DockerClient) -> None:
    project.devenv("up", "etcd")
    (name,) = ours(client, project.id)["containers"]
    with unharmed(project):
        client.containers.get(name).kill()
        assert project.json("status")["services"]["etcd"]["state"] in ("stopped", "failed")
        assert plan_of(project, "etcd") == [("start", "etcd", "container exited 137")]
        project.devenv("up", "etcd")


def test_a_paused_container_goes_on(project: Project, client: docker.DockerClient) -> None:
    project.devenv("up", "etcd")
    (name,) = ours(client, project.id)["containers"]
    with unharmed(project):
        client.containers.get(name).pause()
        assert plan_of(project, "etcd") == [("start", "etcd", "container is paused")]
        project.devenv("up", "etcd")


def test_a_network_removed_by_hand_comes_back(project: Project, client: docker.DockerClient) -> None:
    project.devenv("up", "etcd")
    (network,) = client.networks.list(names=ours(client, project.id)["networks"])
    with unharmed(project):
        for container in client.containers.list(filters={"label": f"io.devenv.environment={project.id}"}):
            network.disconnect(container, force=True)
        network.remove()
        project.devenv("up", "etcd")


def test_a_network_that_was_made_anew_while_a_container_was_stopped(
    project: Project, client: docker.DockerClient
) -> None:
    project.devenv("up", "etcd", "mysql")
    (network,) = ours(client, project.id)["networks"]
    with unharmed(project):
        project.devenv("stop")
        client.networks.get(network).remove()
        project.devenv("up", "etcd")
        # Podman joins a container to its network by name. To Docker, one with the same name is another network.
        step = ("start", "container exited 0") if is_podman(client) else ("create", "its network was removed")
        assert (step[0], "mysql", step[1]) in plan_of(project, "mysql")
        project.devenv("up", "mysql")


def test_keystone_follows_when_its_database_lost_its_data(running: Project) -> None:
    running.devenv("down", "mysql", "--volumes")
    assert ("create", "keystone", "mysql lost its data") in plan_of(running, "keystone")
    running.devenv("up", "keystone")
    assert running.json("status", "keystone")["services"]["keystone"]["state"] == "ready"


def test_down_of_what_is_not_there_is_nothing_to_do(project: Project, client: docker.DockerClient) -> None:
    assert "nothing to do" in project.devenv("down", "etcd").stdout
    project.devenv("up", "etcd")
    project.devenv("down", "etcd")
    assert "nothing to do" in project.devenv("stop", "etcd").stdout
    assert len(ours(client, project.id)["volumes"]) == 1
    project.devenv("down", "etcd", "--volumes")
    assert ours(client, project.id)["volumes"] == []


@pytest.mark.anywhere
def test_up_from_a_sub_folder_is_up_of_the_project(project: Project) -> None:
    project.configure("profile: coordination\n")
    inside = project.folder / "a" / "b"
    inside.mkdir(parents=True)
    project.devenv("up", cwd=inside)
    assert (project.folder / ".devenv" / "env").is_file()
    assert project.json("status")["services"]["etcd"]["state"] == "ready"


@pytest.mark.parametrize(
    "services", [["etcd"], pytest.param(["etcd", "mysql"], marks=pytest.mark.long)], ids=["etcd", "etcd and mysql"]
)
def test_eight_ups_at_the_same_time_make_one_of_everything(
    project: Project, client: docker.DockerClient, services: list[str]
) -> None:
    command = [sys.executable, "-m", "devenv", "up", *services]
    with unharmed(project, *services):
        runs = [
            subprocess.Popen(
                command, cwd=project.folder, env=project.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            for _ in range(8)
        ]
        outputs = [run.communicate()[0] for run in runs]
        assert [run.returncode for run in runs] == [0] * 8, outputs
    found, prefix = ours(client, project.id), f"devenv-{project.id}"
    assert (found["containers"], found["networks"]) == ([f"{prefix}-{name}" for name in services], [prefix])
    # Each service also has a nameless volume for its files, which has no label on Podman.
    named = [name for name in found["volumes"] if name.startswith(prefix)]
    nameless = 0 if is_podman(client) else len(services)
    assert named == [f"{prefix}-{name}-data" for name in services]
    assert len(found["volumes"]) == len(named) + nameless


@pytest.mark.parametrize(
    ("profile", "services"),
    [
        ("database", ["mysql"]),
        pytest.param("base", ["mysql", "keystone", "rabbitmq", "etcd"], marks=pytest.mark.long),
    ],
)
def test_ctrl_c_during_up_leaves_what_the_next_up_completes(
    project: Project, profile: str, services: list[str]
) -> None:
    project.configure(f"profile: {profile}\n")
    code, rest = project.up_until("start mysql", signal.SIGINT)
    assert code == 130
    assert "interrupted" in rest
    assert "Traceback" not in rest
    with unharmed(project, *services):
        project.devenv("up")


@pytest.mark.parametrize(
    ("moment", "services"),
    [
        ("ready mysql", ["mysql"]),
        *(
            pytest.param(moment, ALL, marks=pytest.mark.long)
            for moment in ("create network", "create mysql", "ready mysql", "start keystone", "provision")
        ),
    ],
)
def test_a_killed_devenv_leaves_what_the_next_up_completes(
    project: Project, moment: str, services: Sequence[str]
) -> None:
    project.configure(f"services: {{{', '.join(f'{name}: {{}}' for name in services)}}}\n")
    code, _ = project.up_until(moment, signal.SIGKILL)
    assert code == -signal.SIGKILL
    with unharmed(project, *services):
        project.devenv("up")


def test_wait_and_logs_and_exec_reach_the_running_services(running: Project) -> None:
    assert {op["action"] for op in running.json("wait")["operations"]} == {"ready"}
    assert "ready for connections" in running.devenv("logs", "mysql").stdout
    lines = running.devenv("logs", "-n", "1").stdout.splitlines()
    assert {line.partition("|")[0].strip() for line in lines} == {"mysql", "rabbitmq", "etcd", "keystone"}
    assert running.devenv("exec", "mysql", "mysql", "-Ne", "SELECT 6 * 7").stdout == "42\n"
    assert running.devenv("exec", "etcd", "cat", stdin="through\n").stdout == "through\n"
    failing = running.devenv("exec", "etcd", "--", "sh", "-c", "echo out; echo err >&2; exit 7", check=False)
    assert (failing.returncode, failing.stdout, failing.stderr) == (7, "out\n", "err\n")


def test_following_logs_merges_services_until_they_end(project: Project) -> None:
    project.devenv("up", "etcd")
    command = [sys.executable, "-m", "devenv", "logs", "--follow"]
    following = subprocess.Popen(command, cwd=project.folder, env=project.environ, stdout=subprocess.PIPE, text=True)
    assert following.stdout
    assert following.stdout.readline().startswith("etcd |")
    project.devenv("stop")
    rest, _ = following.communicate()
    assert following.returncode == 0
    assert all(line.startswith("etcd |") for line in rest.splitlines())


def test_exec_on_a_terminal_is_a_terminal_inside(running: Project) -> None:
    import pty

    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "devenv", "exec", "etcd", "--", "sh", "-c", "tty && stty size"]
    run = subprocess.Popen(
        command, cwd=running.folder, env=running.environ, stdin=follower, stdout=follower, stderr=follower
    )
    os.close(follower)
    heard = bytearray()

    def listen() -> None:
        try:
            while data := os.read(leader, 1024):
                heard.extend(data)
        except OSError:
            return

    listener = threading.Thread(target=listen)
    listener.start()
    assert run.wait() == 0
    listener.join()
    os.close(leader)
    assert b"/dev/pts/" in heard
