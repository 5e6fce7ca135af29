"""An engine on another host, reached with ssh alone: a real sshd and an engine in a network namespace."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from project import Project, new_project, one_clear_line
from ssh_host import SshHost, eventually, ssh_host

from devenv.ports import free_port
from devenv.wiring.formats import from_dotenv
from tests.pages import sessions, unlike

pytestmark = pytest.mark.long
SUITE = """
import urllib.request

import pytest


@pytest.mark.parametrize("number", range(6))
def test_it_answers(devenv_component, number):
    url = devenv_component.env["DEVENV_ETCD_URL"]
    assert b"true" in urllib.request.urlopen(url + "/health").read()
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshHost]:
    """Start a host with an engine that has the images of etcd."""
    folder = tmp_path_factory.mktemp("host")
    with ssh_host(folder) as started:
        listed = new_project(folder, "any").json("images", "list")
        references = [one["reference"] for one in listed]
        started.engine.load([one for one in references if "/base:" in one or "/etcd:" in one])
        yield started


@pytest.fixture
def remote(host: SshHost, tmp_path: Path) -> Iterator[Project]:
    """Make a project whose engine is there; take it down afterwards."""
    project = new_project(tmp_path, "project")
    project.extra = host.environ
    project.configure("profile: coordination\ncomponents: {nova: {}}\n")
    yield project
    project.extra = host.environ
    project.devenv("down", "--volumes")
    nothing_left(project)


def nothing_left(project: Project) -> None:
    assert not processes(project), processes(project)
    assert not list((project.state / "environments").glob("*/forward"))


def processes(project: Project) -> dict[int, str]:
    """Return the supervisor of the project's environment and its ssh: the command line of each, by its number."""
    found = {}
    state = os.fsencode(project.state)
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command, parent = (
                (path / "cmdline").read_bytes(),
                int((path / "stat").read_text().rpartition(")")[2].split()[1]),
            )
        except (OSError, IndexError):
            continue
        if b"devenv.engine.forward" in command and state in command:
            found[int(path.name)] = "supervisor"
        elif b"ControlMaster=yes" in command:
            found[int(path.name)] = f"ssh {parent}"
    ours = {number for number, name in found.items() if name == "supervisor"}
    return {
        n: name.partition(" ")[0] for n, name in found.items() if n in ours or int(name.partition(" ")[2] or 0) in ours
    }


def number_of(project: Project, name: str) -> int:
    (number,) = (number for number, one in processes(project).items() if one == name)
    return number


def healthy(project: Project) -> bool:
    """Return whether etcd answers at the address that devenv wrote for programs."""
    url = json.loads((project.folder / ".devenv/endpoints.json").read_text())["etcd"]["client"]["url"]
    assert url.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(f"{url}/health", timeout=60) as answer:
        return bool(json.load(answer)["health"] == "true")


def answers(project: Project) -> bool:
    """Return whether etcd answers; what was open before the tunnel broke may end."""
    try:
        return healthy(project)
    except OSError:
        return False


def test_what_devenv_writes_leads_to_the_other_host_and_nothing_is_left(remote: Project, host: SshHost) -> None:
    done = remote.devenv("up")
    assert "forward ports (nothing forwards them)" in done.stderr
    assert healthy(remote) and sorted(processes(remote).values()) == ["ssh", "supervisor"]
    logins = host.logins()
    assert "nothing to do" in remote.devenv("up").stdout and remote.devenv("status", "--exit-code")
    assert "nothing to change" in remote.devenv("plan").stdout
    assert host.logins() == logins
    assert remote.devenv("exec", "etcd", "etcdctl", "put", "key", "value").stdout == "OK\n"
    remote.devenv("stop")
    nothing_left(remote)
    remote.devenv("start")
    assert healthy(remote)
    remote.devenv("restart")
    assert healthy(remote)
    remote.devenv("down")
    nothing_left(remote)


@pytest.mark.parametrize("name", ["supervisor", "ssh"])
def test_a_tunnel_that_was_killed_is_opened_again(remote: Project, name: str) -> None:
    remote.devenv("up")
    os.kill(number_of(remote, name), signal.SIGKILL)
    if name == "ssh":
        # The supervisor does so by itself.
        eventually(lambda: answers(remote))
        return
    eventually(lambda: not processes(remote))
    assert "the way to its ports is closed: 'devenv wait' opens it" in remote.reason("etcd")
    assert "forward ports: nothing forwards them" in remote.devenv("plan").stdout
    remote.devenv("wait")
    assert healthy(remote) and not remote.reason("etcd")


def test_whoever_comes_while_the_network_is_away_waits_for_it(remote: Project, host: SshHost) -> None:
    remote.devenv("up")
    ssh = number_of(remote, "ssh")
    found: list[bool] = []
    host.network("down")
    # ssh notices after ten seconds.
    eventually(lambda: ssh not in processes(remote))
    client = threading.Thread(target=lambda: found.append(healthy(remote)))
    client.start()
    host.network("up")
    client.join(60)
    assert found == [True]
    assert "nothing to do" in remote.devenv("up").stdout


def test_new_connections_work_after_a_sleep(remote: Project, host: SshHost) -> None:
    remote.devenv("up")
    both = list(processes(remote))
    for number in both:
        os.kill(number, signal.SIGSTOP)
    # The host over there gives the connection up meanwhile.
    host.network("down")
    subprocess.run([*host.engine.inside, "ss", "-K", "sport", "=", ":22"], check=False, capture_output=True)
    threading.Event().wait(6)
    host.network("up")
    for number in both:
        os.kill(number, signal.SIGCONT)
    eventually(lambda: answers(remote))


def test_snapshots_runs_and_parallel_tests_work_through_the_tunnel(remote: Project) -> None:
    remote.devenv("up")
    put = ("exec", "etcd", "etcdctl", "put", "key")
    remote.devenv(*put, "saved")
    remote.devenv("snapshot", "save", "good")
    remote.devenv(*put, "changed")
    remote.devenv("snapshot", "restore", "good")
    assert remote.devenv("exec", "etcd", "etcdctl", "get", "key").stdout.split() == ["key", "saved"]
    remote.devenv("snapshot", "rm", "good")
    assert healthy(remote)
    asking = "import os, urllib.request as r; print(r.urlopen(os.environ['DEVENV_ETCD_URL'] + '/health').read())"
    assert "true" in remote.process("run", "--", sys.executable, "-c", asking).stdout
    (remote.folder / "test_etcd.py").write_text(SUITE)
    suite = [sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", "test_etcd.py"]
    done = subprocess.run(suite, cwd=remote.folder, env=remote.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "6 passed" in done.stdout, done.stdout + done.stderr


def test_ports_that_others_have_here_or_there_are_left_to_them(remote: Project, host: SshHost) -> None:
    remote.configure(f"profile: coordination\nservices: {{etcd: {{ports: {{client: {(pinned := free_port(()))}}}}}}}\n")
    with socket.create_server(("127.0.0.1", pinned)):
        one_clear_line(remote.devenv("up", check=False), 7, f"127.0.0.1:{pinned}", "has it")
    nothing_left(remote)
    with over_there(host, pinned):
        one_clear_line(remote.devenv("up", check=False), 7, str(pinned))
    remote.devenv("up")
    assert healthy(remote)


@contextmanager
def over_there(host: SshHost, port: int) -> Iterator[None]:
    """Have a program of the other host listen on a port of its 127.0.0.1."""
    serve = f"listening = socket.create_server(('127.0.0.1', {port}))"
    program = ["python3", "-c", f"import socket; {serve}; print('yes', flush=True); input()"]
    command = [*host.engine.inside, *program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as listening:
        assert listening.stdout and listening.stdout.readline() == b"yes\n"
        yield
        listening.communicate(b"\n")


def test_every_command_of_the_page_works(remote: Project, host: SshHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", host.environ["PATH"])
    # As in a reader's ~/.ssh/config.
    with configured(host, f"Host build-host\n  HostName {host.address}\n"):
        remote.extra = {**host.environ, "DOCKER_HOST": "ssh://build-host"}
        for command, shown in sessions(Path("docs/remote.md")):
            told = remote.shell(command)
            assert not unlike(shown, told), told
        nothing_left(remote)


# ---- other ways there --------------------------------------------------------------------------------------------


@contextmanager
def configured(host: SshHost, lines: str) -> Iterator[None]:
    """Put these lines before the others of the user's own config for ssh."""
    before = host.config.read_text()
    host.config.write_text(f"{lines}\n{before}")
    try:
        yield
    finally:
        host.config.write_text(before)


def test_a_context_behind_a_jump_host_leads_there(remote: Project, host: SshHost) -> None:
    inner = f"Host inner\n  HostName 127.0.0.1\n  HostKeyAlias {host.address}\n  ProxyJump {host.address}\n"
    here = {"PATH": host.environ["PATH"], "DOCKER_CONFIG": str(remote.folder / "docker")}
    create = ["docker", "context", "create", "far", "--docker", "host=ssh://inner"]
    subprocess.run(create, env={**os.environ, **here}, check=True, capture_output=True)
    with configured(host, inner):
        remote.extra = {**here, "DOCKER_CONTEXT": "far"}
        assert "forward ports" in remote.devenv("up").stderr
        assert healthy(remote) and "nothing to change" in remote.devenv("plan").stdout
        remote.devenv("down", "--volumes")
    nothing_left(remote)


@pytest.fixture
def certificates(host: SshHost, tmp_path: Path) -> Iterator[Path]:
    """Let the engine over there listen behind TLS, too; return the folder of what a client needs."""
    made = tmp_path / "certificates"
    made.mkdir()
    server = f"subjectAltName=IP:{host.address}"
    for name, signed in (("ca", ()), ("server", ("-addext", server)), ("", ()), ("other-ca", ())):
        names = {"keyout": f"{name}-key.pem".lstrip("-"), "out": f"{name or 'cert'}.pem"}
        by = () if name.endswith("ca") else ("-CA", "ca.pem", "-CAkey", "ca-key.pem")
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
        places = [word for key, value in names.items() for word in (f"-{key}", value)]
        command = ["openssl", "req", "-x509", *curve, "-subj", f"/CN={name or 'client'}", *by, *signed, *places]
        subprocess.run(command, cwd=made, check=True, capture_output=True)
    files = {"cacert": "ca.pem", "cert": "server.pem", "key": "server-key.pem"}
    options = [f"--tls{option}={made / name}" for option, name in files.items()]
    host.engine.stop()
    host.engine.options = ("--host=tcp://0.0.0.0:2376", "--tlsverify", *options)
    host.engine.start()
    yield made
    host.engine.stop()
    host.engine.options = ()
    host.engine.start()


def test_an_engine_behind_tls_says_what_it_needs_and_works_with_it(
    remote: Project, host: SshHost, certificates: Path
) -> None:
    behind = {"DOCKER_HOST": f"tcp://{host.address}:2376", "DOCKER_TLS_VERIFY": "1"}
    # As on a computer of a company: for web servers, not for the engine.
    of_others = {"REQUESTS_CA_BUNDLE": str(certificates / "other-ca.pem")}
    remote.extra = {"PATH": host.environ["PATH"], **of_others, **behind, "DOCKER_CERT_PATH": str(certificates)}
    with remote.begin("up") as up:
        assert up.stderr
        said = next((line for line in up.stderr if "the ports are on 127.0.0.1 of the engine's host" in line), "")
        assert "DEVENV_TUNNEL=ssh://USER@HOST devenv up" in said
        up.send_signal(signal.SIGINT)
        up.communicate()
    assert up.returncode == 130
    remote.extra["DEVENV_TUNNEL"] = host.url
    assert "forward ports" in remote.devenv("up").stderr
    assert healthy(remote) and "nothing to do" in remote.devenv("up").stdout
    remote.devenv("down", "--volumes")
    nothing_left(remote)
    (certificates / "ca.pem").write_text((certificates / "other-ca.pem").read_text())
    one_clear_line(remote.devenv("status", check=False), 4, "TLS: certificate verify failed", "DOCKER_CERT_PATH")


# ---- what can be wrong -------------------------------------------------------------------------------------------


def test_a_host_key_that_changed_is_one_clear_line(remote: Project, host: SshHost) -> None:
    right = host.known_hosts.read_text()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", remote.folder / "other"], check=True)
    host.known_hosts.write_text(f"{host.address} {(remote.folder / 'other.pub').read_text()}")
    try:
        failed = remote.devenv("up", check=False)
        one_clear_line(failed, 4, f"the ssh host key of {host.address} has changed", f"ssh-keygen -R {host.address}")
        host.known_hosts.write_text("")
        failed = remote.devenv("up", check=False)
        one_clear_line(failed, 4, f"{host.address} has no known ssh host key")
    finally:
        host.known_hosts.write_text(right)
    nothing_left(remote)


def test_a_login_that_is_refused_is_one_clear_line(remote: Project, host: SshHost) -> None:
    remote.devenv("up")
    with host.refusing("PubkeyAuthentication no"):
        os.kill(number_of(remote, "supervisor"), signal.SIGKILL)
        eventually(lambda: not processes(remote))
        failed = remote.devenv("up", check=False)
        one_clear_line(failed, 4, f"{host.address} refused the ssh login", "Permission denied")
    nothing_runs = processes(remote)
    assert not nothing_runs
    remote.devenv("up")
    assert healthy(remote)


def test_a_host_without_docker_is_one_clear_line(remote: Project, host: SshHost) -> None:
    with host.refusing("SetEnv PATH=/nonexistent"):
        failed = remote.devenv("up", check=False)
        one_clear_line(failed, 4, f"{host.address} has no docker command", "podman-docker")
    nothing_left(remote)


def test_a_server_that_forwards_nothing_is_one_clear_line_and_no_container_is_made(
    remote: Project, host: SshHost
) -> None:
    with host.refusing("AllowTcpForwarding no"):
        failed = remote.devenv("up", check=False)
        one_clear_line(failed, 4, "cannot forward ports: the ssh server of", "AllowTcpForwarding", "--no-tunnel")
        assert not processes(remote)
        label = f"label=io.devenv.environment={remote.id}"
        made = host.engine.client.containers.list(all=True, filters={"label": label.partition("=")[2]})
        assert not made
    remote.devenv("up")
    assert healthy(remote)


def test_a_host_that_does_not_answer_and_no_ssh_are_one_clear_line(remote: Project, host: SshHost) -> None:
    host.network("down")
    try:
        one_clear_line(remote.devenv("status", check=False), 4, "cannot reach", f"{host.address} does not answer")
    finally:
        host.network("up")
    host.end()
    try:
        one_clear_line(remote.devenv("status", check=False), 4, f"{host.address} takes no ssh connection")
    finally:
        host.begin()
    remote.extra = {**host.environ, "PATH": str(remote.folder)}
    one_clear_line(remote.devenv("status", check=False), 4, "this host has no ssh")


def test_without_a_tunnel_nothing_runs_here_and_that_is_remembered(remote: Project, host: SshHost) -> None:
    remote.devenv("up")
    port = json.loads((remote.folder / ".devenv/endpoints.json").read_text())["etcd"]["client"]["port"]
    with remote.begin("up", "--no-tunnel") as up:
        # As a user would forward the port who has a way of their own.
        eventually(lambda: not processes(remote))
        command = [f"{host.bin}/ssh", "-N", "-L", f"{port}:127.0.0.1:{port}", host.address]
        with subprocess.Popen(command) as ssh:
            assert up.stderr
            said = up.stderr.read()
            assert up.wait() == 0, said
            assert f"the ports are on 127.0.0.1 of the engine's host ({host.url}): forward them" in said
            nothing_left(remote)
            assert "nothing to change" in remote.devenv("plan").stdout and healthy(remote)
            ssh.terminate()
    # A program on the services' network has a route of its own.
    given = from_dotenv(remote.devenv("env", "--network").stdout)
    options = {"entrypoint": ["sh", "-c", 'etcdctl --endpoints "$DEVENV_ETCD_URL" endpoint health'], "remove": True}
    image = remote.json("status")["services"]["etcd"]["image"]
    host.engine.client.containers.run(image, environment=given, network=f"devenv-{remote.id}", **options)
    assert "forward ports" in remote.devenv("up", "--tunnel").stderr
    assert healthy(remote)
