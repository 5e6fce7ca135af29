"""The diagnosis and the engine installer, on a host that is a folder and a script."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from devenv import doctor, host, ports
from devenv.errors import NoEngine

DEFAULT = ("unix:///var/run/docker.sock", "default")
DEBIAN = 'PRETTY_NAME="Debian GNU/Linux 12"\nID=debian\n'
NOTHING: list[str] = []


class FakeHost(host.Host):
    """A machine in a folder: commands are recorded and answered, dockerd starts or dies as told."""

    def __init__(self, root: Path, release: str = DEBIAN, uid: int = 0) -> None:
        self.root = root
        self.user = uid
        self.programs = {"dockerd", "mmdebstrap"}
        self.failing: dict[str, str] = {}  # a word of a command -> what it prints as it fails
        self.ran: list[str] = []
        self.spawned: list[str] = []
        self.socket: host.Listening = "absent"
        self.sockets: dict[str, host.Listening] = {}
        self.exits: int | None = None
        self.answers = True  # once dockerd or its unit is started
        self.clock = 0.0
        self.write("/etc/os-release", release)
        self.process(2, "python")
        self.path("/proc/self").symlink_to("2")

    def write(self, name: str, text: str) -> None:
        file = self.path(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def process(self, pid: int, program: str, state: str = "S", network: str = "net:[1]") -> None:
        self.write(f"/proc/{pid}/stat", f"{pid} ({program}) {state} 1 1 1")
        namespace = self.path(f"/proc/{pid}/ns/net")
        namespace.parent.mkdir(exist_ok=True)
        namespace.symlink_to(network)

    def uid(self) -> int:
        return self.user

    def which(self, program: str) -> str | None:
        return f"/usr/sbin/{program}" if program in self.programs else None

    def run(self, argv: Sequence[str], timeout: float | None = None) -> host.Outcome:
        self.ran.append(" ".join(argv))
        for word, output in self.failing.items():
            if word in argv:
                return host.Outcome(1, output)
        if "rm" in argv:
            Path(argv[-1]).unlink()
        if "docker.io" in argv:
            self.programs |= {"dockerd", "mmdebstrap"}
        if "systemctl" in argv and self.answers:
            self.socket = "yes"
        return host.Outcome(0, "")

    def spawn(self, argv: Sequence[str], log: Path) -> Callable[[], int | None]:
        self.spawned.append(" ".join(argv))
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as file:
            file.write("this start: no iptables\n")
        if self.answers and self.exits is None:
            self.socket = "yes"
        return lambda: self.exits

    def listening(self, name: str, request: bytes = b"") -> host.Listening:
        return self.socket if name == host.SOCKET else self.sockets.get(name, "absent")

    def now(self) -> float:
        return self.clock

    def pause(self) -> None:
        self.clock += 1


class FakeEngine:
    def __init__(self, **info: Any) -> None:
        self.version_said: dict[str, Any] = {"Version": "28.2.2", "ApiVersion": "1.50"}
        self.images = {"devenv/mysql:1"}
        self.info_said: dict[str, Any] = {
            "DockerRootDir": "/",
            "KernelVersion": platform.release(),
            "MemTotal": 8_000_000_000,
            "SystemTime": datetime.now(UTC).isoformat(),
            **info,
        }

    def info(self) -> dict[str, Any]:
        return self.info_said

    def version(self) -> dict[str, Any]:
        return self.version_said

    def has_image(self, reference: str) -> bool:
        return reference in self.images


@pytest.fixture
def machine(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


@pytest.fixture(autouse=True)
def no_proxy_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    engine = FakeEngine()
    monkeypatch.setattr(doctor.engines, "connect", lambda: engine)
    monkeypatch.setattr(doctor.connection, "endpoint_in_use", lambda: DEFAULT)
    return engine


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect() -> None:
        raise NoEngine("cannot reach a container engine", hint="run devenv doctor")

    monkeypatch.setattr(doctor.engines, "connect", connect)
    monkeypatch.setattr(doctor.connection, "endpoint_in_use", lambda: DEFAULT)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def check(
    name: str,
    machine: host.Host,
    images: Mapping[str, str] | None = None,
    ports: Mapping[int, str] | None = None,
) -> doctor.Check:
    found = {one.name: one for one in doctor.diagnose(images or {}, ports or {}, machine)}
    return found[name]


def bring_up(machine: FakeHost, endpoint: tuple[str, str] = DEFAULT) -> list[str]:
    said: list[str] = []
    host.bring_up_engine(*endpoint, said.append, machine)
    return said


def failure(machine: FakeHost, endpoint: tuple[str, str] = DEFAULT) -> NoEngine:
    with pytest.raises(NoEngine, match=r"^cannot ") as caught:
        bring_up(machine, endpoint)
    return caught.value


def route(interface: str, network: str, gateway: str = "0.0.0.0", mask: str = "255.255.0.0") -> str:
    def swapped(address: str) -> str:
        return f"{struct.unpack('<I', socket.inet_aton(address))[0]:08X}"

    fields = (interface, swapped(network), swapped(gateway), "1", "0", "0", "0", swapped(mask), "0")
    return "\t".join(fields)


# ---- diagnosis -----------------------------------------------------------------------------------


def test_a_good_engine_on_a_good_host_gives_no_warning(engine, machine):
    machine.process(7, "dockerd")
    machine.write("/proc/7/limits", "Max open files            1024       20000      files\n")
    machine.write("/proc/7/status", "CapEff:\t000001fffeffffff\n")
    machine.write("/proc/net/route", "Iface\n" + route("docker0", "172.17.0.0"))
    found = doctor.diagnose({"mysql": "devenv/mysql:1"}, {}, machine)
    assert [one.name for one in found if one.status != "ok"] == NOTHING
    assert "docker.sock (from default)" in found[0].detail


def test_without_an_engine_the_host_is_still_checked(no_engine, machine):
    names = [one.name for one in doctor.diagnose({}, {}, machine)]
    assert names == ["engine", "ports", "proxy"]


def test_a_missing_engine_is_fixable_as_root_on_debian(no_engine, machine):
    found = check("engine", machine)
    assert (found.status, found.fixable, found.hint) == ("fail", True, "run: devenv doctor --fix")


def test_a_missing_engine_on_fedora_names_the_command(no_engine, tmp_path):
    found = check("engine", FakeHost(tmp_path, "ID=fedora\n"))
    assert not found.fixable
    assert "dnf install -y moby-engine" in found.hint


def test_an_engine_that_cannot_be_asked_for_one_thing_still_gets_the_other_checks(engine, machine):
    engine.info_said["MemTotal"] = "much"
    assert check("memory", machine).detail.startswith("cannot check")
    assert check("clock", machine).status == "ok"


@pytest.mark.parametrize(
    ("version", "api", "status"),
    [
        ("29.0.0-rc.1", "1.52", "ok"),
        ("28.0.0", "1.48", "ok"),
        ("20.10.24+dfsg1", "1.41", "warn"),
        ("19.03.1", "1.40", "fail"),
    ],
)
def test_an_old_engine_leaks_ports_and_a_very_old_one_will_not_do(engine, machine, version, api, status):
    engine.version_said = {"Version": version, "ApiVersion": api}
    assert check("version", machine).status == status


def test_podman_4_is_not_taken_for_an_old_docker(engine, machine):
    components = [{"Name": "Podman Engine"}]
    engine.version_said = {"Version": "4.3.1", "ApiVersion": "1.41", "Components": components}
    assert check("version", machine).status == "ok"


def test_rootless_docker_does_not_leak_ports(engine, machine):
    engine.version_said = {"Version": "24.0.1", "ApiVersion": "1.43"}
    engine.info_said["SecurityOptions"] = ["name=seccomp", "name=rootless"]
    assert check("version", machine).status == "ok"


@pytest.mark.parametrize(("free", "status"), [(1e9, "fail"), (3e9, "warn"), (9e9, "ok")])
def test_little_free_disk_warns_and_hardly_any_fails(engine, machine, monkeypatch, free, status):
    usage = type(shutil.disk_usage("/"))(20_000_000_000, 0, int(free))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    assert check("disk", machine).status == status


def test_the_disk_of_an_engine_in_a_virtual_machine_is_not_ours_to_measure(engine, machine):
    engine.info_said["OperatingSystem"] = "Docker Desktop"
    assert "not checked" in check("disk", machine).detail


def test_an_engine_with_little_memory_is_a_warning(engine, machine):
    engine.info_said["MemTotal"] = 1_000_000_000
    assert check("memory", machine).status == "warn"


def test_a_low_file_limit_of_an_engine_that_cannot_raise_it_is_a_warning(engine, machine):
    machine.process(7, "dockerd")
    machine.write("/proc/7/limits", "Max open files            1024       4096       files\n")
    machine.write("/proc/7/status", "CapEff:\t000001fffeffffff\n")
    assert check("nofile", machine).status == "warn"


def test_a_low_file_limit_of_an_engine_that_may_raise_it_is_none(engine, machine):
    machine.process(7, "dockerd")
    machine.write("/proc/7/limits", "Max open files            1024       4096       files\n")
    machine.write("/proc/7/status", "CapEff:\t000001ffffffffff\n")
    machine.write("/proc/sys/fs/nr_open", "1048576\n")
    assert check("nofile", machine) == doctor.Check("nofile", "ok", "containers may open 1048576 files")


def test_an_engine_whose_clock_is_behind_is_a_warning(engine, machine):
    late = datetime.now(UTC) - timedelta(seconds=60)
    engine.info_said["SystemTime"] = late.strftime("%Y-%m-%dT%H:%M:%S.%f123Z")  # nanoseconds, as Go
    found = check("clock", machine)
    assert (found.status, "60 s behind" in found.detail) == ("warn", True)


def test_a_stale_bridge_with_the_subnet_of_docker0_is_named(engine, machine):
    lines = (route("docker0", "172.17.0.0"), route("br-old", "172.17.0.0"))
    machine.write("/proc/net/route", "\n".join(("Iface", *lines)))
    found = check("bridges", machine)
    assert (found.status, "ip link delete br-old" in found.hint) == ("warn", True)


def test_a_wider_route_of_a_vpn_shadows_no_bridge(engine, machine):
    vpn = route("tun0", "172.16.0.0", mask="255.240.0.0")
    default = route("eth0", "0.0.0.0", "192.168.0.1", "0.0.0.0")
    lines = (default, vpn, route("docker0", "172.17.0.0"), route("br-1", "172.18.0.0"))
    machine.write("/proc/net/route", "\n".join(("Iface", *lines)))
    assert check("bridges", machine).status == "ok"


def test_images_that_up_will_make_are_no_warning(engine, machine):
    found = check("images", machine, {"mysql": "devenv/mysql:1", "etcd": "devenv/etcd:1"})
    assert found.status == "ok"
    assert found.detail == "1 of 2 are there; devenv up pulls or builds: etcd"


def test_a_base_image_tool_is_wanted_only_while_images_are_missing(engine, machine):
    machine.programs.clear()
    assert check("base image tool", machine, {"mysql": "devenv/mysql:1"}).status == "ok"
    found = check("base image tool", machine, {"etcd": "devenv/etcd:1"})
    assert (found.status, found.fixable) == ("warn", True)


def test_a_taken_port_names_its_holder(engine, taken_port):
    found = check("ports", host.Host(), ports={taken_port: "keystone"})
    assert found.status == "warn"
    assert f"{taken_port} (keystone) by " in found.detail
    assert f"(pid {os.getpid()})" in found.detail


def test_the_user_stands_for_a_holder_that_cannot_be_seen(machine):
    line = "0: 0100007F:1388 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4242 1"
    machine.write("/proc/net/tcp", f"header\n{line}\n")
    assert ports.holder(5000, machine.root) == "a process of user root"


@pytest.mark.parametrize(
    ("exceptions", "status"),
    [
        ("", "warn"),
        ("localhost,.example.org", "warn"),
        ("127.0.0.1", "ok"),
        ("10.0.0.0/8, 127.0.0.0/8", "ok"),
        ("*", "ok"),
    ],
)
def test_a_proxy_is_a_note_unless_no_proxy_covers_loopback(no_engine, machine, monkeypatch, exceptions, status):
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@proxy:3128")
    monkeypatch.setenv("no_proxy", exceptions)
    found = check("proxy", machine)
    assert found.status == status
    assert "secret" not in found.detail + found.hint


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
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    machine = FakeHost(tmp_path, "ID=linuxmint\nID_LIKE='ubuntu debian'\n", uid=1000)
    bring_up(machine)
    assert machine.ran == ["sudo -n true"]
    assert machine.spawned[0].startswith("sudo -n ")
    assert (tmp_path / "state/devenv/dockerd.log").exists()


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
        ("unix:///run/podman/podman.sock", "podman", "sudo systemctl start podman.socket"),
    ],
)
def test_an_engine_that_is_not_the_default_one_is_left_alone(machine, url, origin, hint):
    assert hint in failure(machine, (url, origin)).hint
    assert machine.ran + machine.spawned == NOTHING


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


def test_fix_installs_only_the_missing_tool_where_an_engine_answers(engine, machine):
    machine.programs.clear()
    doctor.fix([].append, machine)
    assert machine.ran[-1].endswith("--no-upgrade mmdebstrap")
    assert machine.spawned == NOTHING


def test_fix_on_a_host_that_lacks_nothing_does_nothing(engine, machine):
    doctor.fix([].append, machine)
    assert machine.ran + machine.spawned == NOTHING


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
