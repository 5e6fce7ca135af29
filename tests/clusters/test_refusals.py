"""Whatever is wrong with a cluster, a command says so in one line, loses nothing, and leaves nothing that stays."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from project import Project, one_clear_line

from tests.clusters.cluster import Cluster, until
from tests.clusters.conftest import role
from tests.clusters.faults import GONE, HANG_UP, SLOW, Faults, faults_before
from tests.clusters.test_acceptance import forwarders, ready

pytestmark = pytest.mark.long

ETCD = "profile: coordination\n"
# Seconds after which a command that waits for an API that is gone has to be over, however busy this machine is.
LIMIT = 300


@pytest.fixture(autouse=True)
def etcd(project: Project) -> None:
    project.configure(ETCD)


def config_of(project: Project) -> dict[str, Any]:
    return dict(yaml.safe_load(Path(project.extra["KUBECONFIG"]).read_text()))


@pytest.fixture
def use(project: Project, place: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Yield what gives the project a kubeconfig: this text, or the usual one after a change."""

    def used(content: str | Callable[[dict[str, Any]], object]) -> None:
        config = config_of(project)
        if callable(content):
            content(config)
        path = tmp_path / "kubeconfig"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(config))
        project.extra = {**place, "KUBECONFIG": str(path)}

    yield used
    project.extra = place


def refused(project: Project, code: int, *words: str, command: tuple[str, ...] = ("up",)) -> None:
    one_clear_line(project.process(*command, check=False, limit=LIMIT), code, *words)


# ---- no way to the cluster ---------------------------------------------------------------------------------------


def test_without_a_kubeconfig_up_says_where_it_looked(project: Project, place: dict[str, str], tmp_path: Path) -> None:
    project.extra = {**place, "KUBECONFIG": str(tmp_path / "none")}
    refused(project, 4, "cannot find a cluster: there is no kubeconfig at", str(tmp_path / "none"))
    project.extra = place


@pytest.mark.parametrize(
    "text, words",
    [
        ("contexts: [", "it is no kubeconfig"),
        ("- a list", "it is no kubeconfig"),
        ("{}", "has no current context"),
        ("current-context: x\ncontexts: [{name: x, context: {cluster: y}}]\nusers: 7\n", "cannot start kubectl proxy"),
    ],
    ids=["no YAML", "a list", "empty", "only kubectl knows"],
)
def test_a_broken_kubeconfig_is_named(text: str, words: str, project: Project, use: Callable[..., None]) -> None:
    use(text)
    refused(project, 4, words)


def test_without_kubectl_up_says_so(project: Project, place: dict[str, str], tmp_path: Path) -> None:
    project.extra = {**place, "PATH": str(tmp_path)}
    refused(project, 4, "cannot find kubectl in PATH")
    project.extra = place


def test_a_context_that_does_not_exist_is_refused_with_those_that_do(
    project: Project, namespaces: tuple[str, ...]
) -> None:
    refused(project, 3, "cannot find context 'nowhere'", *namespaces, command=("--context", "nowhere", "up"))


def test_a_cluster_that_is_not_there_does_not_answer(project: Project, use: Callable[..., None]) -> None:
    use(lambda config: config["clusters"][0]["cluster"].update(server="https://127.0.0.1:1"))
    refused(project, 4, "does not answer (connection refused)")


@pytest.mark.parametrize("rights", ["those of another namespace", "all"])
def test_a_namespace_that_does_not_exist_is_named(
    rights: str, project: Project, cluster: Cluster, use: Callable[..., None]
) -> None:
    words = "in namespace nowhere"
    if rights == "all":
        use(cluster.kubeconfig.read_text())
        words = "kubectl create namespace nowhere"
    refused(project, 5, words, command=("--namespace", "nowhere", "up"))
    project.process("down", "--volumes")
    assert not forwarders(project)


@pytest.mark.parametrize("command", ["status", "plan", "stop", "down"])
def test_where_nothing_is_a_command_finds_nothing(command: str, project: Project) -> None:
    project.process(command)
    assert not forwarders(project)


# ---- no right ----------------------------------------------------------------------------------------------------


def without(verb: str, resource: str) -> list[dict[str, Any]]:
    """Return the rules of the Role of docs/kubernetes.md, without one right."""
    return [
        {
            "apiGroups": rule["apiGroups"],
            "resources": [one],
            "verbs": [v for v in rule["verbs"] if (v, one) != (verb, resource)],
        }
        for rule in yaml.safe_load(role())["rules"]
        for one in rule["resources"]
    ]


@pytest.fixture
def robot(cluster: Cluster, namespaces: tuple[str, ...], use: Callable[..., None]) -> Iterator[Callable[..., None]]:
    """Yield what logs the project in as a service account with these rules."""
    space, account = f"--namespace={namespaces[0]}", "devenv-token-robot"
    cluster.kubectl("create", space, "serviceaccount", account)
    cluster.kubectl(
        "create", space, "rolebinding", account, f"--role={account}", f"--serviceaccount={namespaces[0]}:{account}"
    )
    until(lambda: cluster.get("serviceaccount", account, space).get("secrets"))
    secret = cluster.get("serviceaccount", account, space)["secrets"][0]["name"]
    token = base64.b64decode(cluster.get("secret", secret, space)["data"]["token"]).decode()

    def given(rules: list[dict[str, Any]]) -> None:
        manifest = {**yaml.safe_load(role()), "metadata": {"name": account}, "rules": rules}
        cluster.kubectl("apply", space, "--filename=-", stdin=json.dumps(manifest))
        use(lambda config: config["users"][0].update(user={"token": token}))

    yield given
    cluster.kubectl("delete", space, *(f"{kind}/{account}" for kind in ("serviceaccount", "rolebinding", "role")))


@pytest.mark.parametrize(
    "verb, resource, code",
    [
        ("create", "pods", 5),
        ("create", "services", 5),
        ("create", "configmaps", 5),
        ("create", "secrets", 5),
        ("list", "pods", 5),
        ("get", "pods/portforward", 4),
    ],
)
def test_a_missing_right_is_named_and_down_removes_what_up_has_made(
    verb: str,
    resource: str,
    code: int,
    project: Project,
    robot: Callable[..., None],
    cluster: Cluster,
    namespaces: tuple[str, ...],
) -> None:
    robot(without(verb, resource))
    refused(project, code, verb, resource, f"in namespace {namespaces[0]}")
    if verb == "list":
        robot(without("", ""))  # `down` has to look, too.
    project.process("down", "--volumes")
    cluster.emptied(namespaces[0])
    assert not forwarders(project)


# ---- an API that has a bad day -----------------------------------------------------------------------------------


@pytest.fixture
def faults(project: Project, place: dict[str, str], kubeconfig: Path, tmp_path: Path) -> Iterator[Faults]:
    """Stand between the project and the API."""
    with faults_before(kubeconfig, tmp_path) as (found, path):
        # kubectl keeps the API's list of resources in the user's home: here, it has to ask for it.
        project.extra = {**place, "KUBECONFIG": str(path), "HOME": str(tmp_path)}
        yield found
        found.back()
        project.process("down", "--volumes")
        project.extra = place


def left_nothing(project: Project, cluster: Cluster, namespaces: tuple[str, ...]) -> None:
    cluster.emptied(namespaces[0])
    assert not forwarders(project)


@pytest.mark.parametrize("fault, every", [(429, 3), (500, 3), (503, 3), (HANG_UP, 3), (SLOW, 1)])
def test_etcd_comes_up_serves_and_goes_while_the_api_has_faults(
    fault: int | str, every: int, project: Project, faults: Faults, cluster: Cluster, namespaces: tuple[str, ...]
) -> None:
    faults.set(fault, every)
    project.process("up")
    assert ready(project) == {"etcd": "ready"}
    # A command whose answer was lost may have run: devenv does not send it again.
    for _ in range(0 if fault == HANG_UP else 3):
        assert "etcdctl version" in project.process("exec", "etcd", "--", "etcdctl", "version").stdout
    project.process("down", "--volumes")
    left_nothing(project, cluster, namespaces)


@pytest.mark.parametrize("at", ["POST .*/services$", "POST .*/pods$", "/portforward"])
def test_an_api_that_goes_away_during_up_is_one_line_and_up_finishes_later(
    at: str, project: Project, faults: Faults, cluster: Cluster, namespaces: tuple[str, ...]
) -> None:
    faults.set(GONE, at=at)
    refused(project, 4, "does not answer (connection refused)")
    faults.back()
    project.process("up")
    assert ready(project) == {"etcd": "ready"}
    project.process("down", "--volumes")
    left_nothing(project, cluster, namespaces)


@pytest.mark.parametrize("at", ["DELETE .*/pods/", "DELETE .*/services/", "DELETE .*/configmaps/"])
def test_an_api_that_goes_away_during_down_is_one_line_and_down_finishes_later(
    at: str, project: Project, faults: Faults, cluster: Cluster, namespaces: tuple[str, ...]
) -> None:
    project.process("up")
    faults.set(GONE, at=at)
    refused(project, 4, "does not answer (connection refused)", command=("down", "--volumes"))
    faults.back()
    project.process("down", "--volumes")
    left_nothing(project, cluster, namespaces)


def test_an_exec_whose_answer_is_lost_is_not_sent_again(project: Project, faults: Faults) -> None:
    project.process("up")
    faults.set(HANG_UP, at="POST .*/exec")
    refused(project, 4, "cannot run etcdctl", "does not answer", command=("exec", "etcd", "--", "etcdctl", "version"))
    assert faults.count == 1


@pytest.mark.parametrize("fault", [429, 500])
def test_an_api_that_only_refuses_is_one_line(fault: int, project: Project, faults: Faults) -> None:
    faults.set(fault)
    refused(project, 5, "cannot use the cluster: a bad day")
    refused(project, 5, "cannot use the cluster: a bad day", command=("down", "--volumes"))


def test_an_api_that_only_hangs_up_does_not_answer(project: Project, faults: Faults) -> None:
    faults.set(HANG_UP)
    refused(project, 4, "does not answer (it hung up without an answer)")
