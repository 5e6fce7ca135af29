"""Which cluster devenv logs in to, and how: the kubeconfig, kubectl as long as it is needed, a pod's own account."""

from __future__ import annotations

import os
import signal
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from fake_api import Answer, Api

from devenv.engine.kubernetes import account, login
from devenv.engine.kubernetes.connection import Cluster, open_cluster
from devenv.engine.kubernetes.kubernetes import Kubernetes
from devenv.engine.kubernetes.login import Login, find_login, parts
from devenv.errors import ConfigError, DevenvError, NoEngine

# Answers every request with its own arguments; says that it listens as kubectl does.
KUBECTL = f"""#!{sys.executable}
import http.server, json, os, socketserver, sys
options = dict(a.removeprefix("--").split("=", 1) for a in sys.argv[2:])
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        data = json.dumps({{"arguments": sys.argv[1:], "pid": os.getpid()}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    def log_message(self, *_): pass
    def address_string(self): return ""
class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
with Server(options["unix-socket"], Handler) as server:
    print("Starting to serve on", options["unix-socket"], flush=True)
    server.serve_forever()
"""


def until(happened: Callable[[], object]) -> None:
    for _ in range(1000):
        if happened():
            return
        time.sleep(0.01)
    pytest.fail("it did not happen in ten seconds")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have a home without a kubeconfig, outside of a pod."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(login, "ACCOUNT", tmp_path / "account")
    monkeypatch.setattr(account, "ACCOUNT", tmp_path / "account")
    return tmp_path


def written(path: Path, current: str = "", **namespaces: str) -> Path:
    """Write a kubeconfig with these contexts, each with its namespace."""
    contexts = [{"name": name, "context": {"cluster": "c", "namespace": value}} for name, value in namespaces.items()]
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump({"current-context": current, "contexts": contexts}))
    return path


# ---- the kubeconfig ------------------------------------------------------------------------------------------------


def test_the_current_context_and_its_namespace_are_those_of_kubectl(home: Path) -> None:
    written(home / ".kube" / "config", "here", here="team", there="")
    assert find_login() == Login("here", "team", origin="context here")
    assert find_login("there") == Login("there", "default", origin="context there")
    assert find_login("there", "mine").namespace == "mine"


def test_several_files_are_merged_as_kubectl_merges_them(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = written(home / "a", "", one="first"), written(home / "b", "two", one="second", two="other"), home / "absent"
    monkeypatch.setenv("KUBECONFIG", os.pathsep.join(map(str, files)))
    assert find_login().context == "two"
    assert find_login("one").namespace == "first"


@pytest.mark.parametrize("context", ["kind-devenv", "arn:aws:eks:eu-1:12:cluster/prod", "a b/c%2F", "ü"])
def test_a_url_holds_any_context(context: str) -> None:
    assert parts(Login(context, "team").url) == (context, "team")


@pytest.mark.parametrize(
    "text, words",
    [
        ("{", "it is no kubeconfig"),
        ("contexts: here", "it is no kubeconfig"),
        ("- a", "it is no kubeconfig"),
        ("contexts: [{context: {}}]", "it is no kubeconfig"),
        ("", "has no current context"),
        ("contexts: [{name: here}]", "has no current context"),
        ("current-context: gone\ncontexts: [{name: here}]", "cannot find context 'gone'"),
    ],
)
def test_a_kubeconfig_that_says_nothing_useful_is_one_line(text: str, words: str, home: Path) -> None:
    (home / ".kube").mkdir()
    (home / ".kube" / "config").write_text(text)
    with pytest.raises(DevenvError, match=words) as caught:
        find_login()
    assert caught.value.hint and caught.value.exit_code in (3, 4) and "\n" not in caught.value.message


def test_without_a_kubeconfig_there_is_no_cluster(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NoEngine, match=r"no kubeconfig at .*/.kube/config \(of this user\)"):
        find_login()
    monkeypatch.setenv("KUBECONFIG", "/nowhere/config")
    with pytest.raises(NoEngine, match=r"no kubeconfig at /nowhere/config \(that KUBECONFIG names\)"):
        find_login()


@pytest.mark.parametrize("name", ["Team", "a/b", "-a", "a" * 64, "a\n"])
def test_a_namespace_has_the_name_of_one(name: str, home: Path) -> None:
    written(home / ".kube" / "config", "here", here="")
    with pytest.raises(ConfigError, match="cannot use namespace"):
        find_login(namespace=name)


# ---- kubectl -------------------------------------------------------------------------------------------------------


@pytest.fixture
def kubectl(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have a program kubectl that listens as kubectl does; return its path."""
    written(home / ".kube" / "config", "here", here="team")
    program = home / "bin" / "kubectl"
    program.parent.mkdir()
    program.write_text(KUBECTL)
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return program


@pytest.fixture
def cluster(kubectl: Path) -> Iterator[Cluster]:
    found = open_cluster()
    yield found
    found.close()


def socket_of(cluster: Cluster) -> Path:
    arguments = cluster.ask("GET", "/version")["arguments"]
    return Path(next(one.removeprefix("--unix-socket=") for one in arguments if one.startswith("--unix-socket=")))


def test_kubectl_gets_the_context_and_lets_every_path_through(cluster: Cluster) -> None:
    assert {"proxy", "--context=here", "--reject-paths=^$"} <= {*cluster.ask("GET", "/version")["arguments"]}


def test_one_kubectl_answers_all_requests_at_a_socket_of_this_user(cluster: Cluster) -> None:
    assert len({cluster.ask("GET", "/version")["pid"] for _ in range(5)}) == 1
    assert stat.S_IMODE(socket_of(cluster).parent.stat().st_mode) == 0o700


def test_kubectl_ends_with_the_cluster_and_leaves_nothing(cluster: Cluster) -> None:
    pid, path = cluster.ask("GET", "/version")["pid"], socket_of(cluster)
    cluster.close()
    assert not path.parent.exists() and not Path(f"/proc/{pid}").exists()
    assert cluster.ask("GET", "/version")["pid"] != pid  # it begins again at the next use


def test_a_kubectl_that_died_is_started_again(cluster: Cluster) -> None:
    pid = cluster.ask("GET", "/version")["pid"]
    os.kill(pid, signal.SIGKILL)
    assert cluster.ask("GET", "/version")["pid"] != pid


def test_nothing_stays_of_a_devenv_that_is_killed(kubectl: Path) -> None:
    program = """
from devenv.engine.kubernetes.connection import open_cluster
cluster = open_cluster()
print(cluster.ask("GET", "/version")["pid"], cluster.way.socket(), flush=True)
input()
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        pid, path = process.stdout.readline().split()
        assert Path(path).exists()
        process.kill()
    until(lambda: not Path(f"/proc/{pid}").exists() and not Path(path).parent.exists())


def test_a_kubectl_that_cannot_start_is_quoted(kubectl: Path) -> None:
    kubectl.write_text("#!/bin/sh\necho 'error: unknown flag: --unix-socket' >&2\nexit 1\n")
    with pytest.raises(NoEngine, match="cannot start kubectl proxy: unknown flag: --unix-socket"):
        open_cluster()


def test_kubectl_has_to_be_there(kubectl: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(home))
    with pytest.raises(NoEngine, match="cannot find kubectl in PATH") as caught:
        open_cluster()
    assert "install" in caught.value.hint


# ---- in a pod ------------------------------------------------------------------------------------------------------


@pytest.fixture
def pod(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """Be in a pod, whose cluster answers with TLS and has an authority of its own."""
    folder = home / "account"
    folder.mkdir()
    (folder / "token").write_text("first\n")
    (folder / "namespace").write_text("mine")
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj"]
    files = ["/CN=api", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", home / "key", "-out", folder / "ca.crt"]
    subprocess.run([*make, *files], check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "ca.crt", home / "key")
    with Api(Answer(body={"gitVersion": "v1.31.0"})) as api:
        api.socket = tls.wrap_socket(api.socket, server_side=True)
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api.server_address[1]))
        threading.Thread(target=api.serve_forever, args=(0.01,), daemon=True).start()
        yield api
        api.shutdown()


def test_a_pod_logs_in_with_its_service_account_and_a_new_token_counts(pod: Api, home: Path) -> None:
    cluster = open_cluster()
    assert cluster.inside and cluster.url == "kubernetes:///mine" and cluster.login.words == "this pod's cluster"
    (home / "account" / "token").write_text("second\n")
    for _ in range(3):
        assert cluster.ask("GET", "/version") == {"gitVersion": "v1.31.0"}
    assert pod.logins == ["Bearer first", *["Bearer second"] * 3]
    cluster.close()


@pytest.mark.parametrize(
    ("asked", "name"), [("", "devenv-x-mysql"), ("mine", "devenv-x-mysql"), ("other", "devenv-x-mysql.other")]
)
def test_a_pod_of_another_namespace_calls_services_by_a_name_that_it_can_resolve(
    pod: Api, asked: str, name: str
) -> None:
    cluster = open_cluster(namespace=asked)
    assert Kubernetes(cluster).host_name("devenv-x-mysql", "mysql") == name
    # A later command finds the namespace on record.
    again = open_cluster(url=cluster.url)
    assert Kubernetes(again).host_name("devenv-x-mysql", "mysql") == name
    for one in (cluster, again):
        one.close()


def test_outside_of_the_cluster_services_find_each_other_by_their_own_names(home: Path) -> None:
    written(home / ".kube" / "config", "here", here="team")
    assert Kubernetes(Cluster(find_login(namespace="other"))).host_name("devenv-x-mysql", "mysql") == "devenv-x-mysql"


def test_a_kubeconfig_counts_in_a_pod_too(pod: Api, home: Path) -> None:
    written(home / ".kube" / "config", "here", here="team")
    assert not find_login().inside


def test_a_token_that_nobody_may_read_is_named(pod: Api, home: Path) -> None:
    cluster = open_cluster()
    (home / "account" / "token").unlink()
    with pytest.raises(NoEngine, match="cannot read the token of this pod's service account"):
        cluster.ask("GET", "/version")
    cluster.close()
