"""How a pod is doing, in words, as clusters report it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from devenv.engine.kubernetes import pods
from devenv.engine.protocol import ContainerState

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def pod(phase: str = "Pending", inside: dict[str, Any] | None = None, **status: Any) -> dict[str, Any]:
    states = [{"name": "service", "image": "docker.io/devenv/mysql:1", "state": inside}] if inside else []
    return {"metadata": {"name": "one"}, "status": {"phase": phase, "containerStatuses": states, **status}}


def unscheduled(message: str, seconds: float) -> dict[str, Any]:
    since = (NOW - timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")
    condition = {"type": "PodScheduled", "status": "False", "message": message, "lastTransitionTime": since}
    return pod(conditions=[condition])


def test_a_container_without_a_pod_is_as_its_last_run_was_noted() -> None:
    assert pods.state(None, "").status == "created"
    ended = ContainerState("exited", 3, True)
    assert pods.state(None, pods.record(ended)) == ended
    assert pods.state(None, pods.STARTED).status == "gone"
    assert pods.state(None, "damaged") == ContainerState("exited", 137)


def test_a_running_pod_runs_and_says_if_somebody_deletes_it() -> None:
    running = pod("Running", {"running": {}})
    assert pods.state(running, pods.STARTED) == ContainerState("running")
    running["metadata"]["deletionTimestamp"] = "2026-01-02T03:04:05Z"
    assert pods.state(running, "").reason == "its pod is being deleted" and not pods.is_over(running)


def test_a_pod_whose_node_is_away_needs_another_one() -> None:
    conditions = [{"type": "ContainersReady", "status": "True"}, {"type": "Ready", "status": "False"}]
    lost = {**pod("Running", {"running": {}}, conditions=conditions), "spec": {"nodeName": "node2"}}
    found = pods.state(lost, pods.STARTED)
    assert (found.status, found.reason) == ("waiting", "its node node2 does not answer")
    assert "devenv up" in found.hint
    gated = {**lost, "spec": {"nodeName": "node2", "readinessGates": [{"conditionType": "of a load balancer"}]}}
    assert pods.state(gated, pods.STARTED).status == "running"


def test_an_ended_pod_says_how() -> None:
    ended = pod("Failed", {"terminated": {"exitCode": 3, "reason": "Error"}})
    assert pods.state(ended, "") == ContainerState("exited", 3) and pods.is_over(ended)
    killed = pod("Failed", {"terminated": {"exitCode": 137, "reason": "OOMKilled"}})
    assert pods.state(killed, "") == ContainerState("exited", 137, True)
    evicted = pods.state(pod("Failed", reason="Evicted", message="The node was low on resource: memory. "), "")
    assert (evicted.exit_code, evicted.reason) == (137, "evicted: The node was low on resource: memory")
    late = pods.state(pod("Failed", reason="DeadlineExceeded"), "")
    assert (late.exit_code, late.reason) == (137, "its time was over (activeDeadlineSeconds)")


@pytest.mark.parametrize(
    "message, cause",
    [
        (
            'failed to resolve reference "docker.io/devenv/mysql:1": docker.io/devenv/mysql:1: not found',
            "not found",
        ),
        ("rpc error: dial tcp: lookup registry-1.docker.io: no such host", "no such host"),
        ("Failed to pull: pull access denied, authorization failed", "pull access denied, authorization failed"),
        (
            'failed to resolve reference "r.test:5000/devenv/mysql:1": pulling from host r.test:5000 failed with '
            "status code [manifests 1]: 401 Unauthorized",
            "401 Unauthorized",
        ),
    ],
)
def test_an_image_that_the_node_cannot_get_is_named_with_its_cause(message: str, cause: str) -> None:
    waiting = pod(inside={"waiting": {"reason": "ErrImagePull", "message": message}})
    found = pods.state(waiting, pods.STARTED)
    assert (found.status, found.reason) == ("waiting", f"the node has no image docker.io/devenv/mysql:1: {cause}")
    assert "devenv images push" in found.hint
    assert ("image_pull_secrets" in found.hint) == ("denied" in cause or "401" in cause)
    # Later it only says that it waits; the event still has the cause.
    waiting = pod(inside={"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}})
    assert (
        pods.state(waiting, "", [{"reason": "Failed", "message": f"failed to pull: {message}"}]).reason == found.reason
    )


def test_a_pod_without_a_node_has_a_little_time_and_more_if_one_is_coming() -> None:
    words = "0/2 nodes are available: 2 Insufficient memory."
    early = pods.state(unscheduled(words, 1), "", (), NOW)
    assert early.status == "running" and early.reason.endswith("0/2 nodes are available: 2 Insufficient memory")
    assert pods.state(unscheduled(words, 60), "", (), NOW).status == "waiting"
    coming = [{"reason": "TriggeredScaleUp"}]
    assert pods.state(unscheduled(words, 60), "", coming, NOW).status == "running"
    unbound = unscheduled("pod has unbound immediate PersistentVolumeClaims", 60)
    assert pods.state(unbound, "", (), NOW).status == "running"


def test_a_pod_on_its_way_says_what_it_waits_for() -> None:
    assert pods.state(pod(), "").reason == "waiting for a node"
    scheduled = [{"type": "PodScheduled", "status": "True"}]
    assert pods.state(pod(conditions=scheduled), "").reason == "the node creates its container"
    pulling = [{"reason": "Pulling", "message": 'Pulling image "docker.io/library/mysql:9.7"'}]
    found = pods.state(pod(conditions=scheduled), "", pulling)
    assert (found.status, found.reason) == ("running", 'the node pulls "docker.io/library/mysql:9.7"')


def test_a_container_that_its_node_cannot_create_says_why() -> None:
    broken = pod(inside={"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "one" not found'}})
    assert pods.state(broken, "").status == "waiting" and pods.state(broken, "").reason == 'secret "one" not found'
