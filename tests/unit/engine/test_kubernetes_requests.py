"""Requests to a cluster's API: what is repeated and for how long, and what its failures are in devenv's words."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest
from fake_api import Answer, answering, cluster_at, refusal

from devenv.engine.http import NoAnswer, Refused
from devenv.engine.kubernetes import streams
from devenv.engine.kubernetes.connection import ApiRefused, Cluster, asking, right_for
from devenv.errors import DevenvError, NoEngine, NoSpace, ServiceFailed

LABELS = {"io.devenv.owner": "token"}
POD = {"kind": "Pod", "metadata": {"name": "etcd", "labels": LABELS}}
PODS = "/api/v1/namespaces/team/pods"
DONE = Answer(body={"kind": "Pod"})
Ask = Callable[[Cluster], Any]


def words(cluster: Cluster, ask: Ask) -> DevenvError:
    """Return devenv's error for a request that fails."""
    with pytest.raises(DevenvError) as caught, asking(cluster, "create a pod"):
        ask(cluster)
    return caught.value


# ---- again ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    "bad",
    [refusal(429, Retry_After="0"), refusal(500), refusal(503), Answer(502, "dial tcp: refused"), Answer(cut="all")],
    ids=["429", "500", "503", "no API behind it", "hung up"],
)
def test_a_request_that_the_api_could_not_answer_is_sent_again(method: str, bad: Answer) -> None:
    with answering(bad, bad, DONE) as (cluster, api):
        assert cluster.ask(method, PODS, body=POD if method == "POST" else None) == {"kind": "Pod"}
    assert api.asked == [(method, PODS)] * 3


def test_an_answer_that_breaks_off_is_asked_for_again() -> None:
    with answering(Answer(cut="half", body={"items": ["x" * 99]}), DONE) as (cluster, api):
        assert cluster.ask("GET", PODS) == {"kind": "Pod"}
    assert len(api.asked) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422])
def test_a_refusal_is_final(status: int) -> None:
    with answering(refusal(status)) as (cluster, api), pytest.raises(ApiRefused) as caught:
        cluster.ask("GET", PODS)
    assert caught.value.status == status and len(api.asked) == 1


@pytest.mark.parametrize("bad", [refusal(429), refusal(500), Answer(cut="all")], ids=["429", "500", "hung up"])
def test_devenv_repeats_a_request_for_a_bounded_time(bad: Answer) -> None:
    with answering(bad) as (cluster, api), pytest.raises((Refused, OSError)):
        cluster.ask("GET", PODS, patience=0.5)
    assert 2 <= len(api.asked) <= 5


@pytest.mark.parametrize(
    "bad",
    [refusal(429), refusal(503), Answer(503, "<html>busy</html>"), Answer(500, "EOF"), Answer(cut="all")],
    ids=["429", "503", "a gateway", "hung up on kubectl", "hung up"],
)
def test_the_first_request_is_repeated_while_the_api_is_busy(bad: Answer) -> None:
    with answering(bad, bad, DONE) as (cluster, api):
        assert cluster.ask("GET", "/version", known=False) == {"kind": "Pod"}
    assert len(api.asked) == 3


@pytest.mark.parametrize(
    "bad",
    [
        Answer(500, "dial tcp 127.0.0.1:1: connect: connection refused"),
        Answer(502, "dial tcp: lookup nowhere: no such host"),
        Answer(500, "x509: certificate signed by unknown authority"),
        Answer(500, "getting credentials: exec: executable aws failed"),
        Answer(200, "<html>log in</html>"),
    ],
    ids=["refused", "no host", "a stranger's certificate", "a plugin fails", "a portal"],
)
def test_the_first_request_is_sent_once_where_no_api_is_or_no_login(bad: Answer) -> None:
    with answering(bad) as (cluster, api), pytest.raises(NoAnswer):
        cluster.ask("GET", "/version", known=False)
    assert len(api.asked) == 1


def test_the_api_says_how_long_to_wait_and_a_longer_wait_is_none() -> None:
    with answering(refusal(429, "too many requests", Retry_After="3600")) as (cluster, api):
        error = words(cluster, lambda cluster: cluster.ask("GET", PODS, patience=1))
    assert len(api.asked) == 1 and error.message == "cannot create a pod: too many requests"


# ---- a request whose answer was lost -----------------------------------------------------------------------------


def test_what_a_lost_request_created_is_found() -> None:
    made = Answer(body={**POD, "status": {}})
    with answering(Answer(cut="all"), refusal(409, "already exists"), made) as (cluster, api):
        assert cluster.ask("POST", PODS, body=POD) == made.body
    assert api.asked == [("POST", PODS)] * 2 + [("GET", f"{PODS}/etcd")]


def test_an_object_of_a_stranger_is_not_taken_for_what_a_lost_request_created() -> None:
    theirs = Answer(body={"metadata": {"name": "etcd", "labels": {}}})
    with (
        answering(Answer(cut="all"), refusal(409, "already exists"), theirs) as (cluster, _),
        pytest.raises(ApiRefused, match="already exists"),
    ):
        cluster.ask("POST", PODS, body=POD)


def test_an_object_that_was_there_before_is_a_refusal() -> None:
    with answering(refusal(409, "already exists")) as (cluster, api), pytest.raises(ApiRefused, match="already exists"):
        cluster.ask("POST", PODS, body=POD)
    assert len(api.asked) == 1


def test_what_a_lost_request_removed_is_removed() -> None:
    with answering(Answer(cut="all"), refusal(404)) as (cluster, _):
        assert cluster.ask("DELETE", f"{PODS}/etcd") == {}


# ---- words ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_, right",
    [
        (("GET", PODS), ("list", "pods")),
        (("GET", f"{PODS}/etcd"), ("get", "pods")),
        (("GET", PODS, {"watch": True}), ("watch", "pods")),
        (("GET", f"{PODS}/etcd/log"), ("get", "pods/log")),
        (("POST", PODS), ("create", "pods")),
        (("PATCH", f"{PODS}/etcd"), ("patch", "pods")),
        (("DELETE", f"{PODS}/etcd"), ("delete", "pods")),
        (("DELETE", PODS), ("deletecollection", "pods")),
        (("GET", "/apis/apps/v1/namespaces/team/statefulsets"), ("list", "statefulsets")),
        (("GET", "/api/v1/nodes"), ("list", "nodes")),
        (("GET", "/api/v1/namespaces/team"), ("get", "namespaces")),
        (("GET", "/version"), ("get", "/version")),
    ],
    ids=lambda one: str(one),
)
def test_the_right_that_a_request_needs_is_named_as_in_a_role(request_: Any, right: tuple[str, str]) -> None:
    assert right_for(*request_) == right


def test_a_missing_right_is_named_with_its_verb_resource_and_namespace() -> None:
    said = 'pods is forbidden: User "ci" cannot create resource "pods" in API group "" in the namespace "team"'
    with answering(refusal(403, said)) as (cluster, _):
        error = words(cluster, lambda cluster: cluster.ask("POST", PODS, body=POD))
    assert isinstance(error, ServiceFailed) and error.message == f"cannot create pods in namespace team: {said}"
    assert "the verb create on pods" in error.hint and "devenv help kubernetes" in error.hint


def test_a_quota_is_no_missing_right() -> None:
    said = 'pods "etcd" is forbidden: exceeded quota: small, requested: pods=1, used: pods=3, limited: pods=3'
    with answering(refusal(403, said)) as (cluster, _):
        error = words(cluster, lambda cluster: cluster.ask("POST", PODS, body=POD))
    assert error.message == f"cannot create a pod: {said}" and "verb" not in error.hint


@pytest.mark.parametrize(
    "answer, kind, message, hint",
    [
        (refusal(401, "Unauthorized"), NoEngine, "refuses the login (Unauthorized)", "log in again"),
        (Answer(500, "getting credentials: exec: executable aws failed"), NoEngine, "executable aws failed", "log in"),
        (Answer(500, "x509: certificate signed by unknown authority"), NoEngine, "x509: certificate signed", "kubectl"),
        (refusal(500, "write /x: no space left on device"), NoSpace, "no space left on device", ""),
        (Answer(500, "unexpected EOF"), NoEngine, "does not answer (it hung up without an answer)", "kubectl"),
        (Answer(200, "<html>log in</html>"), NoEngine, "what answers is no Kubernetes API", "kubectl"),
        (Answer(404, "<html>not here</html>"), ServiceFailed, "<html>not here</html>", "doctor"),
        (Answer(500, 'container not found ("main")'), ServiceFailed, "container not found", "devenv wait"),
    ],
    ids=[
        "no login",
        "a plugin fails",
        "a stranger's certificate",
        "a full disk",
        "hung up",
        "a portal",
        "no API",
        "no container",
    ],
)
def test_each_failure_is_one_line_with_a_hint(answer: Answer, kind: type[Any], message: str, hint: str) -> None:
    with answering(answer) as (cluster, _):
        error = words(cluster, lambda cluster: cluster.ask("GET", PODS, patience=0))
    assert type(error) is kind and error.message.startswith("cannot create a pod: ") and message in error.message
    assert hint in error.hint and "\n" not in error.message


def test_an_api_that_is_not_there_is_no_engine() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    error = words(cluster_at(port), lambda cluster: cluster.ask("GET", PODS, patience=0))
    assert isinstance(error, NoEngine)
    assert error.message == "cannot create a pod: the cluster of context here does not answer (connection refused)"


def test_an_api_that_says_nothing_is_waited_for_as_long_as_a_request_may_take() -> None:
    with answering(Answer(cut="silent")) as (cluster, _):
        error = words(cluster, lambda cluster: cluster.ask("GET", PODS, timeout=0.2, patience=0))
    assert isinstance(error, NoEngine) and error.message.endswith("does not answer (timed out)")


# ---- streams -------------------------------------------------------------------------------------------------------


def test_a_stream_begins_again_and_does_not_go_on_after_it_broke() -> None:
    with answering(refusal(503), Answer(body="tick\ntock\n")) as (cluster, api):
        assert b"".join(cluster.stream("GET", f"{PODS}/etcd/log")) == b"tick\ntock\n"
        api.answers = [Answer(body="tick\ntock\n", cut="half")]
        with pytest.raises(NoAnswer):
            list(cluster.stream("GET", f"{PODS}/etcd/log"))
    assert len(api.asked) == 3


@pytest.mark.parametrize(
    "words",
    ["an error occurred when try to find container {}: not found", "could not find container {}"],
    ids=["containerd", "CRI-O"],
)
def test_a_log_that_is_followed_ends_without_the_words_of_the_nodes_runtime(words: str) -> None:
    removed = words.format(f'"{"0a" * 32}"')
    log = f"tick\nrpc error: code = NotFound desc = key\nrpc error: code = NotFound desc = {removed}"
    with answering(Answer(body=log)) as (cluster, _):
        assert list(streams.follow(cluster, "etcd", "all")) == ["tick", "rpc error: code = NotFound desc = key"]


def test_resources_have_paths_in_their_groups_and_namespaces() -> None:
    cluster = cluster_at(1)
    assert cluster.path("pods", "etcd", "log") == "/api/v1/namespaces/team/pods/etcd/log"
    assert cluster.path("statefulsets") == "/apis/apps/v1/namespaces/team/statefulsets"
    assert cluster.path("selfsubjectaccessreviews") == "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    assert cluster.path("namespaces", "team") == "/api/v1/namespaces/team"
