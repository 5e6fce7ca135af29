"""The doctor's checks and repairs, on a host made of a folder and scripted answers."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import struct
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_host import DEFAULT, NOTHING, FakeHost

from devenv import ports
from devenv.cli import doctor
from devenv.engine import install as host
from devenv.engine.observe import about
from devenv.engine.protocol import About
from devenv.errors import NoEngine, ServiceFailed


class FakeEngine:
    def __init__(self, **info: Any) -> None:
        self.version_said: dict[str, Any] = {"Version": "28.2.2", "ApiVersion": "1.50"}
        self.info_said: dict[str, Any] = {
            "DockerRootDir": "/",
            "KernelVersion": platform.release(),
            "MemTotal": 8_000_000_000,
            "SystemTime": datetime.now(UTC).isoformat(),
            **info,
        }

    def about(self) -> About:
        # Stands in for a connection and its client, so the answers are reported like a real engine's.
        connection: Any = SimpleNamespace(client=self, url=doctor.connection.endpoint_in_use()[0])
        return about(connection)

    def ask(self, _: str, path: str) -> dict[str, Any]:
        return {"/info": self.info_said, "/version": self.version_said}[path]

    def images(self) -> dict[str, str]:
        return {"devenv/mysql:1": "id"}


@pytest.fixture
def machine(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    engine = FakeEngine()
    monkeypatch.setattr(doctor, "connect", lambda: engine)
    monkeypatch.setattr(doctor.connection, "endpoint_in_use", lambda: DEFAULT)
    return engine


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect() -> None:
        raise NoEngine("cannot reach a container engine", hint="run devenv doctor")

    monkeypatch.setattr(doctor, "connect", connect)
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


def test_a_socket_that_was_passed_over_is_told(engine, machine, monkeypatch):
    monkeypatch.setattr(doctor.connection, "passed_over", lambda url: ["/var/run/docker.sock (permission denied)"])
    found = check("engine", machine)
    assert found.status == "ok" and found.detail.endswith("; not at /var/run/docker.sock (permission denied)")


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
    assert check("memory", machine).detail.startswith("not checked")
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
    engine.info_said["SystemTime"] = late.strftime("%Y-%m-%dT%H:%M:%S.%f123Z")  # nanoseconds, as Go writes them
    found = check("clock", machine)
    assert (found.status, "60 s behind" in found.detail) == ("warn", True)


@pytest.mark.parametrize("said", ["soon", "2024-01-01T00:00:00", 12, None])
def test_an_engine_that_says_no_proper_time_is_not_compared(engine, machine, said):
    engine.info_said["SystemTime"] = said
    assert check("clock", machine).detail == "not checked: the engine does not say"


@pytest.mark.parametrize("broken", ["ask", "about", "images"])
@pytest.mark.parametrize("error", [KeyError("Id"), TypeError("not iterable"), ServiceFailed("cannot ask")])
def test_an_engine_that_answers_oddly_is_a_warning(engine, machine, monkeypatch, broken, error):
    def raising(*_: object) -> None:
        raise error

    monkeypatch.setattr(engine, broken, raising)
    found = doctor.diagnose(THERE, {}, machine)
    assert (found[0].name, found[0].status) == ("engine", "warn")
    assert str(error) in found[0].detail
    assert [one.name for one in found[1:]] == ["ports", "proxy"]


@pytest.mark.parametrize("odd", [None, [], "text", {"a": 1}])
def test_no_odd_value_ends_the_diagnosis(engine, machine, odd):
    engine.info_said = dict.fromkeys((*engine.info_said, "DriverStatus", "SecurityOptions", "OperatingSystem"), odd)
    engine.version_said = dict.fromkeys(("Version", "ApiVersion", "Components"), odd)
    names = [one.name for one in doctor.diagnose(THERE, {}, machine)]
    assert len(names) == len(doctor.ENGINE_CHECKS) + len(doctor.HOST_CHECKS)


def test_an_engine_that_says_nothing_at_all_still_gets_every_check(engine, machine):
    engine.info_said, engine.version_said = {}, {}
    names = [one.name for one in doctor.diagnose(THERE, {}, machine)]
    assert len(names) == len(doctor.ENGINE_CHECKS) + len(doctor.HOST_CHECKS)


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


def test_a_proxy_that_builds_cannot_reach_is_a_warning_while_there_is_something_to_build(engine, machine, monkeypatch):
    assert check("build proxy", machine).detail == "builds need none"
    monkeypatch.setenv("HTTP_PROXY", "http://user:secret@127.0.0.1:3128")
    assert check("build proxy", machine).detail.endswith("devenv builds over the host's network")
    engine.info_said["SecurityOptions"] = ["name=rootless"]
    found = check("build proxy", machine, {"etcd": "devenv/etcd:1"})
    assert (found.status, found.detail.partition(":")[0]) == ("warn", "http_proxy left out")
    assert "secret" not in found.detail and "proxy" in found.hint
    assert check("build proxy", machine, THERE).status == "ok"
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    assert check("build proxy", machine).detail == "builds use it"


@pytest.mark.parametrize(
    ("said", "reached"),
    [
        ({}, True),
        ({"SecurityOptions": ["name=seccomp"]}, True),
        ({"SecurityOptions": ["name=rootless"]}, False),
        ({"SecurityOptions": ["name=userns"]}, False),
        ({"OperatingSystem": "Docker Desktop"}, False),
        ({"KernelVersion": "another"}, False),
    ],
)
def test_only_an_engine_of_this_host_that_lends_its_network_has_this_loopback(engine, said, reached):
    engine.info_said |= said
    assert engine.about().loopback is reached


def test_rootless_podman_has_this_loopback(engine):
    engine.info_said["SecurityOptions"] = ["name=rootless"]
    engine.version_said["Components"] = [{"Name": "Podman Engine"}]
    assert engine.about().loopback


def test_images_that_up_will_make_are_no_warning(engine, machine):
    found = check("images", machine, {"mysql": "devenv/mysql:1", "etcd": "devenv/etcd:1"})
    assert found.status == "ok"
    assert found.detail == "1 of 2 are present; 'devenv up' pulls or builds etcd"


def test_a_base_that_is_gone_is_no_missing_image_of_a_service(engine, machine):
    assert check("images", machine, THERE | {"base": "devenv/base:1"}).detail == "1 of 1 are present"


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


# ---- mending -------------------------------------------------------------------------------------

THERE, MISSING = {"mysql": "devenv/mysql:1"}, {"etcd": "devenv/etcd:1"}


def mend(machine: FakeHost, images: Mapping[str, str] | None = None) -> list[str]:
    said: list[str] = []
    doctor.fix(said.append, images, machine)
    return said


@pytest.mark.parametrize("images", [None, MISSING, MISSING | {"base": "devenv/base:1"}])
def test_fix_installs_only_the_missing_tool_where_an_engine_answers(engine, machine, images):
    machine.programs.clear()
    mend(machine, images)
    assert machine.ran[-1].endswith("--no-upgrade mmdebstrap debian-archive-keyring gpg")
    assert machine.spawned == NOTHING


@pytest.mark.parametrize("images", [{}, THERE, THERE | {"base": "devenv/base:1"}, MISSING | {"base": "devenv/mysql:1"}])
def test_fix_installs_no_tool_for_a_base_that_nothing_is_built_on(engine, machine, images):
    machine.programs.clear()
    mend(machine, images)
    assert machine.ran == NOTHING


def test_a_tool_that_cannot_be_installed_is_a_note_and_no_error(engine, machine):
    machine.programs.clear()
    machine.failing["install"] = "E: Could not resolve mirror.example"
    said = mend(machine, MISSING)
    assert "  E: Could not resolve mirror.example" in said
    assert said[-1].startswith("cannot install mmdebstrap")
    assert said[-1].endswith("continuing without it")


def test_a_tool_that_devenv_may_not_install_is_a_note_and_no_error(engine, machine):
    machine.programs.clear()
    machine.write("/etc/os-release", "ID=fedora\n")
    assert "not Debian or Ubuntu" in mend(machine, MISSING)[-1]
    assert machine.ran == NOTHING


def test_fix_on_a_host_that_lacks_nothing_does_nothing(engine, machine):
    mend(machine)
    assert machine.ran + machine.spawned == NOTHING


def test_a_new_engine_comes_with_the_tool(engine, machine, monkeypatch):
    def connect() -> FakeEngine:
        if machine.socket != "yes":
            raise NoEngine("cannot reach a container engine")
        return engine

    monkeypatch.setattr(doctor, "connect", connect)
    machine.programs.clear()
    mend(machine, MISSING)
    assert machine.spawned == ["/usr/sbin/dockerd"]
    assert "mmdebstrap" in machine.ran[-1]
