"""Read how a pod is doing, and say in words why it does not run. Pure: no cluster.

A service's pod has one container, and init containers that prepare its data. A pod that is on its way counts as
running, with a reason; one that cannot start without help is "waiting", and says what to do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from devenv.engine.protocol import ContainerState

# Words of Docker's for how a container is, and two of devenv's own: a pod that cannot start, and one that is not there
# any more although nobody stopped it.
CREATED, RUNNING, EXITED, WAITING, GONE = "created", "running", "exited", "waiting", "gone"
# Seconds for which a pod may find no node: a cluster that adds nodes says so within that time.
UNSCHEDULABLE_SECONDS = 15.0
# Events of programs that are about to add a node.
_ADDS_NODE = ("TriggeredScaleUp", "Nominated")
_NO_IMAGE = {"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "RegistryUnavailable"}
# What a registry answers to a node without the right login.
_NO_LOGIN = ("unauthorized", "denied", "forbidden", "no basic auth")
_KILLED = 137

Object = Mapping[str, Any]


def state(pod: Object | None, run: str, events: Sequence[Object] = (), at: datetime | None = None) -> ContainerState:
    """Return how a container is doing, by its pod and by what is on record of its last `run`.

    `events` may say more about a pod that does not start; `at` is the time to compare its own times with.
    """
    if pod is None:
        return _without_pod(run)
    status = pod.get("status") or {}
    phase, inside = status.get("phase"), _container(status)
    if (ended := (inside.get("state") or {}).get("terminated")) or phase in ("Failed", "Succeeded"):
        return _ended(status, ended or {})
    if _is_lost(pod, status):
        return ContainerState(WAITING, reason=f"its node {pod['spec']['nodeName']} does not answer", hint=_ELSEWHERE)
    if "running" in (inside.get("state") or {}):
        return ContainerState(RUNNING, reason="its pod is being deleted" if _is_going(pod) else "")
    return _pending(pod, status, inside, events, at or datetime.now(UTC))


def record(found: ContainerState) -> str:
    """Return what to keep of a run that ended, for `state` to read."""
    return json.dumps({"code": found.exit_code, "oom": found.out_of_memory})


STARTED = "started"


def _without_pod(run: str) -> ContainerState:
    if not run:
        return ContainerState(CREATED)
    if run == STARTED:
        return ContainerState(
            GONE, reason="its pod is gone: somebody deleted it, or its node went", hint="'devenv up' makes a new one"
        )
    try:
        ended = dict(json.loads(run))
        return ContainerState(EXITED, int(ended["code"]), bool(ended["oom"]))
    except (ValueError, TypeError, KeyError):
        return ContainerState(EXITED, _KILLED)


def _ended(status: Object, ended: Object) -> ContainerState:
    """Return how a container ended, or a pod that the cluster ended."""
    if status.get("reason") == "DeadlineExceeded":
        return ContainerState(EXITED, _KILLED, reason="its time was over (activeDeadlineSeconds)")
    if status.get("reason") == "Evicted":
        # "The node was low on resource: memory. "
        why = _tidy(str(status.get("message") or "the node needed its place"))
        return ContainerState(EXITED, _KILLED, reason=f"evicted: {why}", hint="'devenv up' makes a new one")
    for one in status.get("initContainerStatuses") or ():
        failed = (one.get("state") or {}).get("terminated") or {}
        if failed.get("exitCode"):
            why = _tidy(str(failed.get("message") or "")) or one["name"]
            return ContainerState(EXITED, int(failed["exitCode"]), reason=f"it could not copy its first data ({why})")
    code = int(ended.get("exitCode", _KILLED if status.get("phase") == "Failed" else 0))
    if ended.get("reason") in ("ContainerCannotRun", "StartError"):
        return ContainerState(EXITED, code, reason=_tidy(str(ended.get("message") or "it cannot run")))
    return ContainerState(EXITED, code, out_of_memory=ended.get("reason") == "OOMKilled")


def _pending(pod: Object, status: Object, inside: Object, events: Sequence[Object], at: datetime) -> ContainerState:
    """Return how a pod is that has not started its container yet."""
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return _without_node(condition, events, at)
    for one in (*(status.get("initContainerStatuses") or ()), inside):
        waiting = (one.get("state") or {}).get("waiting") or {}
        reason, message = str(waiting.get("reason") or ""), str(waiting.get("message") or "")
        if reason in _NO_IMAGE:
            return _without_image(str(one.get("image") or ""), reason, message, events)
        if reason.startswith(("Create", "Run", "PostStart")) and reason.endswith("Error"):
            return ContainerState(WAITING, reason=f"{_tidy(message) or reason}", hint=_HINT)
    return ContainerState(RUNNING, reason=_under_way(status, events))


_ELSEWHERE = "'devenv up' starts it on another node; without 'durable: true' its data is lost then"
_HINT = "'kubectl describe pod' shows all that the cluster knows; 'devenv up' tries again"


def _without_node(condition: Object, events: Sequence[Object], at: datetime) -> ContainerState:
    message = _tidy(str(condition.get("message") or "no node has room"))
    reason = f"no node of the cluster can take it: {message}"
    since = _time(condition.get("lastTransitionTime"))
    patient = since is not None and (at - since).total_seconds() < UNSCHEDULABLE_SECONDS
    if (
        patient
        or "persistentvolumeclaim" in message.lower()
        or any(event.get("reason") in _ADDS_NODE for event in events)
    ):
        return ContainerState(RUNNING, reason=reason)
    hint = "free some room on the nodes, or ask for fewer services; 'kubectl describe nodes' shows what they have left"
    return ContainerState(WAITING, reason=reason, hint=hint)


def _without_image(image: str, reason: str, message: str, events: Sequence[Object]) -> ContainerState:
    # A second attempt waits, and says only that; an event has the words of the first one.
    told = [str(event.get("message") or "") for event in events if event.get("reason") == "Failed"]
    detail = next((text for text in (message, *told) if "failed to" in text or "rror" in text), message)
    cause = _cause(detail) or reason
    return ContainerState(WAITING, reason=f"the node has no image {image}: {cause}", hint=_way_out(image, cause))


def _way_out(image: str, cause: str) -> str:
    """Return what to do about an image that a node does not get."""
    if "devenv/" not in image:
        return "correct the image in devenv.yaml; 'image_pull_secrets' there names the login of a private registry"
    if re.search("|".join(_NO_LOGIN), cause, re.IGNORECASE):
        return (
            "'image_pull_secrets' in devenv.yaml names the Secret with a login that may pull, 'devenv images push "
            "REGISTRY' puts the images there; see 'devenv help kubernetes-images'"
        )
    return (
        "'devenv images push REGISTRY' puts devenv's images where nodes find them, 'image_registry: REGISTRY' in "
        "devenv.yaml names it; or load them onto the nodes"
    )


def _cause(detail: str) -> str:
    """Return the cause at the end of a message of the runtime, which repeats the image's name at each level."""
    text = _tidy(detail)
    for words in ("not found", "no such host", "connection refused", "timeout", *_NO_LOGIN):
        # Registries say "unauthorized", HTTP says "401 Unauthorized".
        if words in text.lower():
            found = re.search(rf"[^:]*{words}[^:]*$", text, re.IGNORECASE)
            return (found[0] if found else words).strip()
    return text[-200:]


def _under_way(status: Object, events: Sequence[Object]) -> str:
    """Return what a pod does that is about to start."""
    if not status.get("conditions"):
        return "waiting for a node"
    last = next((event for event in reversed(events) if event.get("reason") in ("Pulling", "FailedMount")), None)
    pulled = any(event.get("reason") == "Pulled" for event in events)
    if last and last["reason"] == "Pulling" and not pulled:
        return f"the node pulls {_tidy(str(last.get('message', ''))).removeprefix('Pulling image ')}"
    if last and last["reason"] == "FailedMount":
        return f"the node cannot mount a volume: {_tidy(str(last.get('message', '')))[:200]}"
    if any((one.get("state") or {}).get("running") for one in status.get("initContainerStatuses") or ()):
        return "copying its first data"
    return "the node creates its container"


def _container(status: Object) -> Object:
    """Return the status of the pod's one container; it has none before a node has taken the pod."""
    return next(iter(status.get("containerStatuses") or ()), {})


def _is_lost(pod: Object, status: Object) -> bool:
    """Return whether the cluster has given up a pod's node, which said last that all is well.

    The cluster then says that the pod is not ready. It says nothing else, and keeps the pod while the node is away.
    """
    said = {one.get("type"): one.get("status") for one in status.get("conditions") or ()}
    gates = pod.get("spec", {}).get("readinessGates")
    return (said.get("ContainersReady"), said.get("Ready")) == ("True", "False") and not gates


def _is_going(pod: Object) -> bool:
    return bool((pod.get("metadata") or {}).get("deletionTimestamp"))


def is_over(pod: Object) -> bool:
    """Return whether no process of a pod is left, as far as its node says."""
    status = pod.get("status") or {}
    every = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    alive = any("running" in (one.get("state") or {}) for one in every)
    return status.get("phase") in ("Failed", "Succeeded") or (bool(every) and not alive and _is_going(pod))


def _time(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        return None


def _tidy(text: str) -> str:
    return " ".join(text.split()).rstrip(". ")
