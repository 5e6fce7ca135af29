"""Start and stop services, and look at how their pods are doing.

A container is a Service that knows how to make its pod. Its id is the Service's name and a part of its uid, so that one
that was made again is another one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from devenv.clock import now
from devenv.engine.http import Refused, unless_gone
from devenv.engine.kubernetes import manifests, pods
from devenv.engine.kubernetes.connection import CONFLICT, MERGE, ApiRefused, Cluster, asking
from devenv.engine.pod import Object
from devenv.engine.protocol import ContainerState
from devenv.errors import NotOurs, ServiceFailed
from devenv.model import LABEL_OWNER

# Seconds between two looks at a pod that ends, and how long its node may take to say so beyond its time to stop.
_LOOK_SECONDS, _LATE_SECONDS = 0.1, 15.0
_UID = 8


def identity(service: Mapping[str, Any]) -> str:
    """Return the id of a container, by its Service."""
    about = service["metadata"]
    return f"{about['name']}.{about['uid'][:_UID]}"


def name_of(container: str) -> str:
    """Return the name of a container's Service and pod, by its id or name."""
    return container.partition(".")[0]


def service_of(cluster: Cluster, container: str) -> Object | None:
    """Return the Service of a container, by id or name; None if that very one is gone."""
    name, _, uid = container.partition(".")
    with unless_gone():
        service = dict(cluster.ask("GET", cluster.path("services", name)))
        if service["metadata"]["uid"].startswith(uid):
            return service
    return None


def known(cluster: Cluster, container: str, what: str) -> Object:
    """Return the Service of a container. Raise ServiceFailed if it is gone."""
    service = service_of(cluster, container)
    if service is None:
        raise ServiceFailed(f"cannot {what}: no such container in namespace {cluster.namespace}", "'devenv up'")
    return service


def pod_of(cluster: Cluster, name: str) -> Object | None:
    """Return the pod of a name, or None."""
    with unless_gone():
        return dict(cluster.ask("GET", cluster.path("pods", name)))
    return None


def own_pod(cluster: Cluster, service: Mapping[str, Any]) -> Object | None:
    """Return the pod that devenv made for a Service; None if there is none, or one of somebody else."""
    pod = pod_of(cluster, service["metadata"]["name"])
    return pod if pod and made_for(service, pod) else None


def made_for(service: Mapping[str, Any], pod: Mapping[str, Any]) -> bool:
    """Return whether devenv made a pod of that name for the environment of a Service."""
    owners = [(one["metadata"].get("annotations") or {}).get(LABEL_OWNER) for one in (service, pod)]
    return owners[0] == owners[1]


def claims_of(service: Mapping[str, Any]) -> list[str]:
    """Return the claims that a service's pod uses."""
    volumes = _manifest(service).get("spec", {}).get("volumes") or ()
    return [v["persistentVolumeClaim"]["claimName"] for v in volumes if "persistentVolumeClaim" in v]


def _manifest(service: Mapping[str, Any]) -> Object:
    try:
        return dict(json.loads((service["metadata"].get("annotations") or {})[manifests.POD]))
    except (ValueError, KeyError, TypeError):
        return {}


# ---- look --------------------------------------------------------------------------------------------------------


def state(cluster: Cluster, container: str) -> ContainerState:
    """Return how a container is doing. Raise ServiceFailed if it does not exist."""
    what = f"inspect container {container}"
    with asking(cluster, what):
        return state_of(cluster, known(cluster, container, what))


def state_of(cluster: Cluster, service: Object) -> ContainerState:
    """Return how the container of a Service is doing."""
    return state_with(cluster, service, own_pod(cluster, service))


def state_with(cluster: Cluster, service: Object, pod: Object | None) -> ContainerState:
    """Return how the container of a Service is doing, by its pod; ask for events only while they say more."""
    run = (service["metadata"].get("annotations") or {}).get(manifests.RUN, "")
    pending = pod is not None and (pod.get("status") or {}).get("phase", "Pending") == "Pending"
    return pods.state(pod, run, events(cluster, pod["metadata"]) if pending and pod else ())


def events(cluster: Cluster, about: Mapping[str, Any]) -> Sequence[Object]:
    """Return what the cluster tells of an object, the last at the end. Nothing if this login may not read it."""
    query = {"fieldSelector": f"involvedObject.uid={about['uid']}"}
    try:
        found = list(cluster.ask("GET", cluster.path("events"), query)["items"])
    except Refused:
        return ()
    return sorted(found, key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))


# ---- start and stop ----------------------------------------------------------------------------------------------


def start(cluster: Cluster, container: str, name: str) -> None:
    """Make the pod of a container, in place of one that ended. Do nothing if it runs; `name` is for errors."""
    hint = f"'devenv logs {name}' may show more; 'devenv up' tries again"
    with asking(cluster, f"start {name}", hint):
        service = known(cluster, container, f"start {name}")
        pod_name = service["metadata"]["name"]
        if (pod := own_pod(cluster, service)) is not None:
            if not pods.is_over(pod) and not pod["metadata"].get("deletionTimestamp"):
                return
            _clear(cluster, pod, _LATE_SECONDS)
        try:
            cluster.ask("POST", cluster.path("pods"), body=_manifest(service))
        except ApiRefused as error:
            if error.status == CONFLICT:
                raise NotOurs(
                    f"cannot start {name}: a pod {pod_name} is in namespace {cluster.namespace} already",
                    hint=f"see what it is with 'kubectl -n {cluster.namespace} describe pod {pod_name}'",
                ) from error
            raise _refused(cluster, name, error) from error
        _note(cluster, service, pods.STARTED)


def _refused(cluster: Cluster, name: str, error: ApiRefused) -> Exception:
    """Return the error for a pod that a rule of the namespace does not let in."""
    text = str(error)
    if "exceeded quota" in text:
        return ServiceFailed(
            f"cannot start {name}: the quota of namespace {cluster.namespace} is used up: "
            + text[text.index("exceeded quota") :],
            hint="stop other programs there, choose fewer services, or ask who runs the cluster for more",
        )
    if error.status == 403 and not error.lacks_right:
        return ServiceFailed(
            f"cannot start {name}: namespace {cluster.namespace} does not let its pod in: "
            + text.partition("is forbidden: ")[2],
            hint="'devenv help kubernetes' says what devenv's pods need; ask who runs the cluster",
        )
    return error


def stop(cluster: Cluster, container: str, seconds: int) -> None:
    """Ask a container to end, and let its node kill it after `seconds`. Its pod goes, and how it ended is noted.

    Do nothing if it ended by itself (its log is still there), or is gone.
    """
    with asking(cluster, f"stop container {container}"):
        service = service_of(cluster, container)
        pod = own_pod(cluster, service) if service else None
        if service is None or pod is None or (pods.is_over(pod) and not pod["metadata"].get("deletionTimestamp")):
            return
        _delete(cluster, pod, max(1, seconds))
        last = _clear(cluster, pod, seconds + _LATE_SECONDS)
        _note(cluster, service, pods.record(last))


def end(cluster: Cluster, service: Object) -> None:
    """End a container's pod quickly, and return when nothing of it writes to a durable volume."""
    if (pod := own_pod(cluster, service)) is None:
        return
    if claims_of(service) and not pods.is_over(pod):
        _delete(cluster, pod, 1)
        _clear(cluster, pod, _LATE_SECONDS)
    else:
        _delete(cluster, pod, 0)


def _clear(cluster: Cluster, pod: Object, seconds: float) -> ContainerState:
    """Wait until a pod that is being deleted has ended, make room for the next one, and return how it ended.

    A node takes up to ten seconds more to let go of an ended pod, and never does if it does not answer.
    """
    until, last = now() + seconds, pod
    while True:
        if pods.is_over(last) or now() > until:
            break
        time.sleep(_LOOK_SECONDS)
        seen = pod_of(cluster, pod["metadata"]["name"])
        if seen is None or seen["metadata"]["uid"] != pod["metadata"]["uid"]:
            return _ended(last)
        last = seen
    _delete(cluster, last, 0)
    return _ended(last)


def _ended(pod: Object) -> ContainerState:
    found = pods.state(pod, "")
    return found if found.status == pods.EXITED else ContainerState(pods.EXITED, 0)


def _delete(cluster: Cluster, pod: Object, seconds: int) -> None:
    """Delete that very pod; with no seconds, the API forgets it immediately."""
    body = {"gracePeriodSeconds": seconds, "preconditions": {"uid": pod["metadata"]["uid"]}}
    with unless_gone():
        try:
            cluster.ask("DELETE", cluster.path("pods", pod["metadata"]["name"]), body=body)
        except Refused as error:
            # Another pod has the name by now.
            if error.status != CONFLICT:
                raise


def _note(cluster: Cluster, service: Object, run: str) -> None:
    patch = {"metadata": {"annotations": {manifests.RUN: run}}}
    with unless_gone():
        cluster.ask("PATCH", cluster.path("services", service["metadata"]["name"]), body=patch, kind=MERGE)
