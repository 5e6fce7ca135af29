"""How devenv logs in to a real cluster and talks to it: requests, commands, logs, ports, and what fails in one line."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from project import Ports

from devenv.cli import cluster_doctor
from devenv.cli.doctor import Wanted
from devenv.engine import forward as forwarder
from devenv.engine.http import Refused
from devenv.engine.install import Host
from devenv.engine.kubernetes import account, forward, login, streams
from devenv.engine.kubernetes.connection import Cluster, asking, open_cluster
from devenv.engine.kubernetes.rights import lacking
from devenv.engine.pod import CONTAINER
from devenv.errors import ConfigError, NoEngine, ServiceFailed
from devenv.images.references import BASE, images_for
from devenv.model import LABEL_ENVIRONMENT, LABEL_SERVICE
from devenv.spec.catalogue import load_catalogue
from devenv.spec.profile import load_profile
from tests.clusters.cluster import BIN, Cluster as RealCluster, until

PAGE = Path(__file__).parents[2] / "docs" / "kubernetes.md"
ENVIRONMENT = "client-1a2b3c4d"
# Sends back what it gets, and says good-bye to who sends no more.
ECHO = """
my $server = IO::Socket::INET->new(LocalPort => 7000, Listen => 50, ReuseAddr => 1);
$SIG{CHLD} = 'IGNORE'; $| = 1; print "listening\\n";
while (my $client = $server->accept) {
    if (!fork) { while (sysread($client, my $data, 65536)) { syswrite($client, $data) } exit }
    close $client;
}
"""


@pytest.fixture(scope="module")
def image(cluster: RealCluster, images: Ports) -> str:
    """Give all nodes devenv's base image, which has a shell and Perl."""
    found = images_for(load_profile(Path(__file__).parent, "base"), load_catalogue())[BASE].reference
    cluster.load([found])
    return found


@pytest.fixture(autouse=True)
def environ(kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:{BIN}")


@pytest.fixture
def api(environ: None) -> Iterator[Cluster]:
    with closing(open_cluster()) as found:
        yield found


@pytest.fixture
def pod(api: Cluster, image: str) -> Iterator[str]:
    """Run a pod that listens on a port, as the service "echo" of an environment."""
    yield started(api, image, "echo-1")
    removed(api, "echo-1")


def started(api: Cluster, image: str, name: str) -> str:
    container = {
        "name": CONTAINER,
        "image": f"docker.io/{image}",
        "imagePullPolicy": "IfNotPresent",
        "command": ["perl", "-MIO::Socket::INET", "-e", ECHO],
    }
    labels = {LABEL_ENVIRONMENT: ENVIRONMENT, LABEL_SERVICE: "echo"}
    made = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]},
    }
    api.ask("POST", api.path("pods"), body=made)
    until(lambda: "listening" in streams.logs(api, name, "all", 0, False))
    return name


def removed(api: Cluster, name: str) -> None:
    """Remove a pod, and wait until its name is free."""
    body = {"gracePeriodSeconds": 0}
    with suppress(Refused):
        api.ask("DELETE", api.path("pods", name), body=body)
        until(lambda: not there(api, name))


def there(api: Cluster, name: str) -> bool:
    return any(pod["metadata"]["name"] == name for pod in api.ask("GET", api.path("pods"))["items"])


def run(
    api: Cluster, pod: str, *command: str, data: bytes = b"", tty: bool = False, **variables: str
) -> tuple[int, bytes, bytes]:
    """Run a command to its end; return its exit code, its output and its errors."""
    session = streams.execute(api, pod, command, tty, variables)
    parts: dict[int, bytes] = {1: b"", 2: b""}
    with session.stream:
        threading.Thread(target=send, args=(session.stream, data, tty), daemon=True).start()
        while got := session.stream.recv(65536):
            for channel, text in session.output(got):
                parts[channel] += text
    return session.exit_code(), parts[1], parts[2]


def send(stream: socket.socket, data: bytes, tty: bool) -> None:
    with suppress(OSError):
        stream.sendall(data)
        if not tty:
            stream.shutdown(socket.SHUT_WR)


def proxies() -> set[str]:
    """Return the processes that are a kubectl proxy or its guard."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if b"--unix-socket=" in (process / "cmdline").read_bytes():
                found.add(process.name)
    return found


# ---- commands and logs ---------------------------------------------------------------------------------------------


def test_a_command_reads_its_input_to_the_end_and_its_exit_code_is_told(api: Cluster, pod: str) -> None:
    data = os.urandom(300_000)
    assert run(api, pod, "sh", "-c", "cat; echo no >&2; exit 3", data=data) == (3, data, b"no\n")
    assert run(api, pod, "true") == (0, b"", b"")


def test_a_command_that_ends_at_once_loses_no_output(api: Cluster, pod: str) -> None:
    ended = []
    for _ in range(20):
        # On a busy machine, the runtime of the containers cannot start each command, and says so.
        with suppress(ServiceFailed):
            ended.append(run(api, pod, "sh", "-c", "echo hello; exit 5", tty=True))
    assert len(ended) >= 10 and {*ended} == {(5, b"hello\r\n", b"")}


def test_a_command_in_a_terminal_knows_its_size(api: Cluster, pod: str) -> None:
    wait = "while [ \"$(stty size)\" != '33 99' ]; do sleep 0.05; done; echo seen"
    session = streams.execute(api, pod, ["sh", "-c", wait], True)
    with session.stream:
        session.resize(33, 99)
        text = b""
        while data := session.stream.recv(65536):
            text += b"".join(part for _, part in session.output(data))
    assert (text, session.exit_code()) == (b"seen\r\n", 0)


@pytest.mark.parametrize("tty", [False, True], ids=["without a terminal", "in a terminal"])
def test_variables_of_a_command_are_in_no_argument_and_in_no_output(tty: bool, api: Cluster, pod: str) -> None:
    secret = 'it\'s "$HOME" `x`'
    script = 'printf %s "$LOGIN"; grep -c "[i]t.s" /proc/$$/cmdline; exit 0'
    code, output, _ = run(api, pod, "sh", "-c", script, tty=tty, LOGIN=secret)
    assert (code, output.replace(b"\r", b"")) == (0, f"{secret}0\n".encode())


@pytest.mark.parametrize("command, words", [("nosuch", "nosuch"), ("/etc", "permission denied")])
def test_a_command_that_cannot_begin_says_why(command: str, words: str, api: Cluster, pod: str) -> None:
    with pytest.raises(ServiceFailed, match=f"cannot run {command} in pod {pod}: .*{words}"):
        run(api, pod, command, tty=True)


def test_a_pod_that_is_not_there_is_named(api: Cluster) -> None:
    for use in (lambda: run(api, "nowhere", "true"), lambda: streams.logs(api, "nowhere", "all", 0, False)):
        with pytest.raises(ServiceFailed, match='pods "nowhere" not found'):
            use()


def test_logs_are_read_from_a_time_on_and_followed_to_their_end(api: Cluster, pod: str) -> None:
    say = "for i in 1 2 3; do echo line $i > /proc/1/fd/1; done"
    assert run(api, pod, "sh", "-c", say)[0] == 0
    until(lambda: len(streams.logs(api, pod, "all", 0, False)) == 4)
    assert streams.logs(api, pod, 2, 0, False) == ["line 2", "line 3"]
    stamped = streams.logs(api, pod, "all", 0, True)
    assert all(re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z (listening|line \d)", line) for line in stamped)
    since = streams._time_of(stamped[2])
    assert streams.logs(api, pod, "all", since, False) == ["line 2", "line 3"]
    lines = streams.follow(api, pod, 1)
    assert next(lines) == "line 3"
    removed(api, pod)
    assert list(lines) == []


# ---- ports ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextmanager
def forwarding(api: Cluster, folder: Path, ports: Mapping[int, str]) -> Iterator[None]:
    way = forwarder.Way("kubernetes", forward.settings(api, ENVIRONMENT))
    try:
        forwarder.ensure(folder, way, ports)
        yield
    finally:
        forwarder.end(folder)


def echoed(port: int, data: bytes = b"hello") -> bytes:
    with socket.create_connection(("127.0.0.1", port), 40) as client:
        client.settimeout(40)
        client.sendall(data)
        found = b""
        while len(found) < len(data) and (more := client.recv(65536)):
            found += more
        return found


def test_each_connection_to_a_forwarded_port_reaches_the_pod(api: Cluster, pod: str, port: int, tmp_path: Path) -> None:
    data = os.urandom(1_000_000)
    with forwarding(api, tmp_path / "ports", {port: "echo:7000"}):
        assert all(echoed(port) == b"hello" for _ in range(20))
        clients = [socket.create_connection(("127.0.0.1", port), 40) for _ in range(30)]
        for client in clients:
            client.sendall(b"at the same time")
        assert {client.recv(100) for client in clients} == {b"at the same time"}
        for client in clients:
            client.close()
        found: list[bytes] = []
        reader = threading.Thread(target=lambda: found.append(echoed(port, data)))
        reader.start()
        reader.join(60)
        assert found == [data]


def test_a_new_connection_survives_kubectls_death_and_finds_the_pod_that_took_its_place(
    api: Cluster, pod: str, image: str, port: int, tmp_path: Path
) -> None:
    before = proxies()
    with forwarding(api, tmp_path / "ports", {port: "echo:7000"}):
        assert echoed(port) == b"hello"
        for process in proxies() - before:
            with suppress(OSError):
                # Not the guard: a shell that waits.
                if b"/bin/sh" not in Path(f"/proc/{process}/cmdline").read_bytes():
                    os.kill(int(process), signal.SIGKILL)
        assert echoed(port) == b"hello"
        removed(api, pod)
        try:
            started(api, image, "echo-2")
            assert echoed(port) == b"hello"
        finally:
            removed(api, "echo-2")
    until(lambda: proxies() <= before)


def test_a_service_without_a_pod_refuses(api: Cluster, port: int, tmp_path: Path) -> None:
    with forwarding(api, tmp_path / "ports", {port: "nothing:7000"}), pytest.raises(ConnectionError):
        assert echoed(port) == b""
        raise ConnectionResetError  # closed without a word is as good


# ---- logins --------------------------------------------------------------------------------------------------------


def changed(kubeconfig: Path, path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Write another kubeconfig, and make it the one in use."""
    config = yaml.safe_load(kubeconfig.read_text())
    change(config)
    path.write_text(yaml.safe_dump(config))


@pytest.fixture
def use(kubeconfig: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def used(change: Callable[[dict[str, Any]], None]) -> None:
        changed(kubeconfig, tmp_path / "other", change)
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "other"))

    return used


def test_a_login_that_the_cluster_refuses_is_one_line(use: Callable[..., None]) -> None:
    use(lambda config: config["users"][0].update(user={"token": "wrong"}))
    with pytest.raises(NoEngine, match=r"cannot use the cluster: .* refuses the login \(Unauthorized\)"):
        open_cluster()


def test_a_plugin_for_the_login_that_fails_is_named(use: Callable[..., None]) -> None:
    plugin = {"apiVersion": "client.authentication.k8s.io/v1beta1", "command": "no-such-plugin"}
    use(lambda config: config["users"][0].update(user={"exec": {**plugin, "interactiveMode": "Never"}}))
    with pytest.raises(NoEngine, match="no-such-plugin"):
        open_cluster()


def test_a_plugin_for_the_login_is_asked(use: Callable[..., None], cluster: RealCluster, tmp_path: Path) -> None:
    token = yaml.safe_load(cluster.kubeconfig.read_text())["users"][0]["user"]["token"]
    version = "client.authentication.k8s.io/v1beta1"
    answer = {"apiVersion": version, "kind": "ExecCredential", "status": {"token": token}}
    plugin = tmp_path / "plugin"
    plugin.write_text(f"#!/bin/sh\necho '{json.dumps(answer)}'\n")
    plugin.chmod(0o700)
    settings = {"apiVersion": version, "command": str(plugin), "interactiveMode": "Never"}
    use(lambda config: config["users"][0].update(user={"exec": settings}))
    with closing(open_cluster()) as found:
        assert found.ask("GET", found.path("pods"))["kind"] == "PodList"


def test_a_cluster_of_another_authority_is_not_trusted(use: Callable[..., None], tmp_path: Path) -> None:
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    files = ["-subj", "/CN=other", "-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "ca")]
    subprocess.run([*make, *files], check=True, capture_output=True)

    def change(config: dict[str, Any]) -> None:
        del config["clusters"][0]["cluster"]["certificate-authority-data"]
        config["clusters"][0]["cluster"]["certificate-authority"] = str(tmp_path / "ca")

    use(change)
    with pytest.raises(NoEngine, match="x509: certificate signed by unknown authority"):
        open_cluster()


def test_a_context_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(ConfigError, match="cannot find context 'devenv-on'") as caught:
        open_cluster("devenv-on")
    assert "devenv-one" in caught.value.hint


def test_a_cluster_that_is_not_there_is_not_waited_for(use: Callable[..., None], port: int) -> None:
    use(lambda config: config["clusters"][0]["cluster"].update(server=f"https://127.0.0.1:{port}"))
    with pytest.raises(NoEngine, match=r"does not answer \(connection refused\)"):
        open_cluster()


# ---- rights --------------------------------------------------------------------------------------------------------


@pytest.fixture
def robot(cluster: RealCluster, namespaces: tuple[str, ...], use: Callable[..., None]) -> Iterator[str]:
    """Log in as a service account without any right; return its name."""
    namespace = namespaces[0]
    cluster.kubectl("create", "serviceaccount", "robot", f"--namespace={namespace}")
    secrets = "-o=jsonpath={.secrets[0].name}"
    until(lambda: cluster.kubectl("get", "serviceaccount", "robot", f"--namespace={namespace}", secrets))
    secret = cluster.kubectl("get", "serviceaccount", "robot", f"--namespace={namespace}", secrets)
    found = cluster.get("secret", secret, f"--namespace={namespace}")
    use(lambda config: config["users"][0].update(user={"token": base64.b64decode(found["data"]["token"]).decode()}))
    yield "robot"
    cluster.kubectl("delete", "serviceaccount", "robot", f"--namespace={namespace}")


def test_a_missing_right_is_named(robot: str, namespaces: tuple[str, ...]) -> None:
    with closing(open_cluster()) as found:
        with pytest.raises(ServiceFailed) as caught, asking(found, "create a pod"):
            found.ask("POST", found.path("pods"), body={"metadata": {"name": "x"}})
        assert caught.value.message.startswith(f"cannot create pods in namespace {namespaces[0]}: ")
        assert "the verb create on pods" in caught.value.hint
        with pytest.raises(ServiceFailed, match=f"cannot get pods/exec in namespace {namespaces[0]}"):
            streams.execute(found, "any", ["true"], True)
    checks = {check.name: check for check in cluster_doctor.diagnose(Wanted({}, {}, Host()))}
    assert checks["engine"].status == "ok" and checks["rights"].status == "fail"
    assert "pods (get, list, create, patch, delete)" in checks["rights"].detail


def test_a_forwarder_says_which_right_is_missing(robot: str, port: int, tmp_path: Path) -> None:
    with (
        closing(open_cluster()) as found,
        pytest.raises(NoEngine, match="cannot forward ports: this login may not list pods and get pods/portforward"),
        forwarding(found, tmp_path / "ports", {port: "echo:7000"}),
    ):
        pass


def test_the_role_of_the_manual_has_all_that_devenv_needs(
    robot: str, cluster: RealCluster, namespaces: tuple[str, ...]
) -> None:
    role = next(
        text for text in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL) if "kind: Role\n" in text
    )
    where = f"--namespace={namespaces[0]}"
    cluster.kubectl("apply", where, "--filename=-", stdin=role)
    bind = ["create", "rolebinding", "robot", where, "--role=devenv", f"--serviceaccount={namespaces[0]}:robot"]
    cluster.kubectl(*bind)
    with closing(open_cluster()) as found:
        until(lambda: not lacking(found))
    # The Role stays: logins of other tests have it, too.
    cluster.kubectl("delete", "rolebinding/robot", where)


# ---- in a pod ------------------------------------------------------------------------------------------------------


@pytest.fixture
def inside(robot: str, cluster: RealCluster, namespaces: tuple[str, ...], tmp_path: Path, monkeypatch: Any) -> None:
    """Have the login of a pod's service account, who may do all, and neither a kubeconfig nor kubectl."""
    config = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
    folder = tmp_path / "serviceaccount"
    folder.mkdir()
    (folder / "token").write_text(config["users"][0]["user"]["token"])
    (folder / "namespace").write_text(namespaces[0])
    (folder / "ca.crt").write_bytes((cluster.state / "api.crt").read_bytes())
    for module in (login, account):
        monkeypatch.setattr(module, "ACCOUNT", folder)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nothing"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(cluster.port))
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.fixture
def bound(robot: str, cluster: RealCluster, namespaces: tuple[str, ...]) -> Iterator[None]:
    where = f"--namespace={namespaces[0]}"
    account = f"--serviceaccount={namespaces[0]}:robot"
    cluster.kubectl("create", "rolebinding", "robot", where, "--clusterrole=admin", account)
    yield
    cluster.kubectl("delete", "rolebinding/robot", where)


def test_a_pod_reaches_its_own_cluster_with_its_service_account(
    pod: str, bound: None, inside: None, namespaces: tuple[str, ...]
) -> None:
    with closing(open_cluster()) as found:
        assert found.inside and found.url == f"kubernetes:///{namespaces[0]}"
        assert streams.logs(found, pod, "all", 0, False) == ["listening"]
        assert run(found, pod, "sh", "-c", "echo hello; exit 5", tty=True) == (5, b"hello\r\n", b"")
        # Without kubectl, and on a server that cannot end a command's input.
        data = os.urandom(300_000)
        assert run(found, pod, "sh", "-c", "cat; echo no >&2; exit 3", data=data) == (3, data, b"no\n")
        assert run(found, pod, "sh", "-c", 'cat; echo "$A"', data=b"text\n", A="b c") == (0, b"text\nb c\n", b"")
        assert run(found, pod, "true", data=b"nobody reads this") == (0, b"", b"")
        session = streams.execute(found, pod, ["sh", "-c", "exit 4"], False)
        with session.stream:  # whose input stays open
            assert session.stream.recv(1) == b""
        assert session.exit_code() == 4


# ---- an API that has a bad day -----------------------------------------------------------------------------------


class Relay:
    """Stands between devenv and the API: it can cut the connections, and answer nobody for a while."""

    def __init__(self, port: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._target = port
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.down = False
        self._begin(self._accept)

    def cut(self) -> None:
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self.cut()
        for thread in self._threads:
            thread.join()
        for one in (self._listener, *self._open):
            one.close()

    def _begin(self, work: Callable[..., None], *arguments: socket.socket) -> None:
        self._threads.append(threading.Thread(target=work, args=arguments, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                if self.down:
                    client.close()
                    continue
                server = socket.create_connection(("127.0.0.1", self._target))
                self._open += [client, server]
                for pair in ((client, server), (server, client)):
                    self._begin(self._carry, *pair)

    @staticmethod
    def _carry(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def relay(cluster: RealCluster, use: Callable[..., None]) -> Iterator[Relay]:
    with closing(Relay(cluster.port)) as found:
        use(lambda config: config["clusters"][0]["cluster"].update(server=f"https://127.0.0.1:{found.port}"))
        yield found


def test_requests_survive_an_api_that_is_away_for_a_moment(relay: Relay) -> None:
    with closing(open_cluster()) as found:
        relay.down = True
        relay.cut()
        threading.Timer(1.5, lambda: setattr(relay, "down", False)).start()
        assert found.ask("GET", found.path("pods"))["kind"] == "PodList"


def test_an_api_that_stays_away_is_one_line_and_leaves_nothing(relay: Relay) -> None:
    before = proxies()
    with closing(open_cluster()) as found:
        relay.down = True
        relay.cut()
        with pytest.raises(NoEngine, match="does not answer") as caught, asking(found, "look"):
            found.ask("GET", found.path("pods"), patience=1)
        assert caught.value.message.startswith("cannot look: the cluster of context ")
        assert "\n" not in caught.value.message
    assert proxies() == before


def test_a_command_says_that_the_cluster_hung_up(relay: Relay, pod: str) -> None:
    with closing(open_cluster()) as found:
        session = streams.execute(found, pod, ["sleep", "60"], True)
        with session.stream:
            relay.down = True
            relay.cut()
            assert session.stream.recv(1) == b""
        with pytest.raises(NoEngine, match="cannot say how the command ended"):
            session.exit_code()
        relay.down = False


def test_a_devenv_that_is_killed_leaves_no_kubectl(environ: None) -> None:
    before = proxies()
    program = "from devenv.engine.kubernetes.connection import open_cluster\nprint(open_cluster(), flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline()
        folders = {
            word.removeprefix("--unix-socket=").rpartition("/")[0]
            for one in proxies() - before
            for word in Path(f"/proc/{one}/cmdline").read_text().split("\0")
            if word.startswith("--unix-socket=")
        }
        assert folders and all(Path(folder).stat().st_mode & 0o777 == 0o700 for folder in folders)
        process.kill()
    until(lambda: proxies() <= before and not any(Path(folder).exists() for folder in folders))


def test_kubectl_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoEngine, match="cannot find kubectl in PATH"):
        open_cluster()
