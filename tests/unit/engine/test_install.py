"""The engine installer, on a host made of a folder and scripted answers."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from fake_host import DEBIAN, DEFAULT, NOTHING, FakeHost

from devenv.engine import install as host
from devenv.errors import NoEngine


@pytest.fixture
def machine(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


def bring_up(machine: FakeHost, endpoint: tuple[str, str] = DEFAULT) -> list[str]:
    said: list[str] = []
    host.bring_up_engine(*endpoint, said.append, machine)
    return said


def failure(machine: FakeHost, endpoint: tuple[str, str] = DEFAULT) -> NoEngine:
    with pytest.raises(NoEngine, match=r"^cannot ") as caught:
        bring_up(machine, endpoint)
    return caught.value


# ---- bringing an engine up -----------------------------------------------------------------------


def test_an_installed_engine_is_started_as_a_daemon_where_no_systemd_runs(machine):
    said = bring_up(machine)
    assert machine.spawned == ["/usr/sbin/dockerd"]
    assert machine.ran == NOTHING
    assert said[-1] == "the engine answers"


def test_an_installed_engine_is_started_by_systemd_where_it_runs(machine):
    machine.path("/run/systemd/system").mkdir(parents=True)
    bring_up(machine)
    assert machine.ran == ["systemctl start docker"]
    assert machine.spawned == NOTHING


def test_a_missing_engine_is_installed_first_and_nothing_is_removed_for_it(machine):
    machine.programs.clear()
    bring_up(machine)
    update, install = machine.ran
    assert "DPkg::Lock::Timeout=120" in update
    assert "--no-install-recommends --no-remove --no-upgrade docker.io iptables" in install
    assert machine.spawned == ["/usr/sbin/dockerd"]


def test_old_package_lists_will_do_when_they_cannot_be_updated(machine):
    machine.programs.clear()
    machine.failing["update"] = "E: Could not get lock /var/lib/apt/lists/lock"
    assert any("Could not get lock" in line for line in bring_up(machine))


def test_a_failed_installation_shows_the_end_of_what_apt_said(machine):
    machine.programs.clear()
    machine.failing["install"] = "\n".join(f"line {number}" for number in range(30))
    error = failure(machine)
    assert error.detail[-1] == "line 29"
    assert len(error.detail) == host.TAIL_LINES
    assert machine.spawned == NOTHING


def test_an_ordinary_user_with_sudo_acts_through_it(tmp_path, monkeypatch):
    monkeypatch.setenv("DEVENV_STATE_DIR", str(tmp_path / "state"))
    machine = FakeHost(tmp_path, "ID=linuxmint\nID_LIKE='ubuntu debian'\n", uid=1000)
    bring_up(machine)
    assert machine.ran == ["sudo -n true"]
    assert machine.spawned[0].startswith("sudo -n ")
    assert (tmp_path / "state/dockerd.log").exists()


def test_the_log_of_a_daemon_and_its_folders_are_for_their_owner_alone_whatever_the_umask(
    tmp_path: Path, no_umask: None
) -> None:
    log = tmp_path / "state" / "devenv" / "dockerd.log"
    for _ in range(2):
        poll = host.Host().spawn(["sh", "-c", "echo started"], log)
        poll.__self__.wait()  # type: ignore[attr-defined]
    assert log.read_text() == "started\nstarted\n"
    modes = {path: path.stat().st_mode & 0o777 for path in (log, log.parent, log.parent.parent)}
    assert modes == {log: 0o600, log.parent: 0o700, log.parent.parent: 0o700}


def test_a_link_in_place_of_a_daemons_log_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="symbolic links"):
        host.Host().spawn(["true"], tmp_path / "log")
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize(
    ("release", "command"),
    [
        (DEBIAN, "apt-get install -y --no-install-recommends docker.io"),
        ("ID=pop\nID_LIKE='ubuntu debian'\n", "apt-get install"),
        ("ID=opensuse-tumbleweed\nID_LIKE='opensuse suse'\n", "zypper install -y docker"),
        ("ID=rocky\nID_LIKE='rhel centos fedora'\n", "dnf install"),
        ("ID=nixos\n", "https://docs.docker.com"),
    ],
)
def test_a_user_who_may_not_is_told_the_command(tmp_path, release, command):
    machine = FakeHost(tmp_path, release, uid=1000)
    machine.failing["sudo"] = "sudo: a password is required"
    assert command in failure(machine).hint
    assert machine.spawned == NOTHING


def test_root_on_another_distribution_is_told_the_command(tmp_path):
    machine = FakeHost(tmp_path, "ID=fedora\n")
    assert "systemctl start docker" in failure(machine).hint
    assert machine.ran + machine.spawned == NOTHING


@pytest.mark.parametrize(
    ("url", "origin", "hint"),
    [
        ("tcp://10.0.0.1:2376", "DOCKER_HOST", "unset DOCKER_HOST"),
        ("unix:///home/u/.docker/desktop.sock", "context desktop-linux", "context use default"),
        ("unix:///run/user/1/docker.sock", "rootless", "systemctl --user start docker"),
        ("unix:///run/user/1/podman/podman.sock", "podman", "--user start podman.socket"),
        ("unix:///run/podman/podman.sock", "podman", "run: systemctl start podman.socket"),
    ],
)
def test_an_engine_that_is_not_the_default_one_is_left_alone(machine, url, origin, hint):
    assert hint in failure(machine, (url, origin)).hint
    assert machine.ran + machine.spawned == NOTHING


def test_an_ordinary_user_starts_a_podman_of_his_own(tmp_path):
    hint = failure(FakeHost(tmp_path, uid=1000), ("unix:///run/podman/podman.sock", "podman")).hint
    assert hint == "run: systemctl --user start podman.socket"


def test_a_second_engine_is_never_started_beside_one_that_does_not_answer(machine):
    machine.process(7, "dockerd")
    error = failure(machine)
    assert "no answer" in str(error)
    assert machine.clock == host.START_SECONDS
    assert machine.spawned == NOTHING


def test_an_engine_of_another_network_namespace_is_not_in_the_way(machine):
    machine.process(7, "dockerd", network="net:[2]")
    bring_up(machine)
    assert len(machine.spawned) == 1


def test_a_socket_that_denies_us_asks_for_the_group(machine):
    machine.process(7, "dockerd")
    machine.write("/var/run/docker.pid", "7")
    machine.socket = "denied"
    assert "group docker" in failure(machine).hint or "usermod -aG docker" in failure(machine).hint
    assert not host.advice(*DEFAULT, machine)[1]


@pytest.mark.parametrize("content", ["99999", "8", "9", "", "\0\0\0\0"])
def test_a_stale_pid_file_is_removed(machine, content):
    machine.process(8, "sleep")
    machine.process(9, "dockerd", state="Z")
    for name, _ in host.PID_FILES:
        machine.write(name, content)
    bring_up(machine)
    assert not any(machine.path(name).exists() for name, _ in host.PID_FILES)
    assert len(machine.spawned) == 1


def test_the_pid_file_of_a_containerd_that_lives_on_stays(machine):
    machine.process(8, "containerd")
    name = "/var/run/docker/containerd/containerd.pid"
    machine.write(name, "8")
    bring_up(machine)
    assert machine.path(name).exists()


def test_only_a_containerd_socket_that_nobody_listens_on_is_removed(machine):
    machine.write(host.CONTAINERD_SOCKET, "")
    machine.sockets[host.CONTAINERD_SOCKET] = "yes"
    bring_up(machine)
    assert machine.path(host.CONTAINERD_SOCKET).exists()
    machine.socket, machine.sockets[host.CONTAINERD_SOCKET] = "absent", "refused"
    bring_up(machine)
    assert not machine.path(host.CONTAINERD_SOCKET).exists()


def test_an_engine_that_dies_shows_its_status_and_the_log_of_this_start_only(machine):
    machine.write("/var/log/devenv-dockerd.log", "an earlier start\n")
    machine.exits = 1
    error = failure(machine)
    assert "status 1" in str(error)
    assert error.detail == ("this start: no iptables",)
    assert "devenv-dockerd.log" in error.hint


def test_an_engine_that_never_answers_is_given_up_at_the_deadline(machine):
    machine.answers = False
    assert failure(machine).detail == ("this start: no iptables",)
    assert machine.clock == host.START_SECONDS


# ---- the real host -------------------------------------------------------------------------------


def test_a_socket_file_that_a_dead_program_left_refuses(tmp_path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "left.sock"))
        server.listen()
        assert host.Host().listening(str(tmp_path / "left.sock")) == "yes"
    assert host.Host().listening(str(tmp_path / "left.sock")) == "refused"
    assert host.Host().listening(str(tmp_path / "never.sock")) == "absent"


def test_a_command_that_is_not_there_fails_with_its_name(tmp_path):
    done = host.Host().run(["no-such-command"])
    assert done.status == 127
    assert "no-such-command" in done.output


def test_sbin_is_looked_into_for_a_user_whose_path_leaves_it_out():
    assert "/usr/sbin" in host.PATH.split(":")


# ---- the tool that makes a base ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uid", "programs", "tool"),
    [
        (0, {"mmdebstrap", "debootstrap"}, "/usr/sbin/mmdebstrap"),
        (0, {"debootstrap"}, "/usr/sbin/debootstrap"),
        (0, set(), ""),
        (1000, {"mmdebstrap"}, ""),
        (1000, {"mmdebstrap", "newuidmap"}, "/usr/sbin/mmdebstrap"),
        (1000, {"debootstrap", "newuidmap"}, ""),
    ],
)
def test_a_base_tool_is_one_that_this_user_can_run(tmp_path, uid, programs, tool):
    machine = FakeHost(tmp_path, uid=uid)
    machine.programs = programs
    assert host.base_tool(machine) == tool


def test_only_an_ordinary_user_needs_uidmap(tmp_path, machine):
    assert "uidmap" not in host.base_packages(machine)
    machine.user = 1000
    assert "uidmap" in host.base_packages(machine)
