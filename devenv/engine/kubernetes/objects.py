"""Create and remove an environment's objects: its ConfigMap, and the Services, Secrets and claims of its services.

All names are fixed, so the objects of another environment, or of somebody else, are in the way: their owner's token
tells. What a killed devenv left half made is made again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from typing import Any

from devenv.clock import now
from devenv.engine.http import Refused, unless_gone
from devenv.engine.kubernetes import manifests, runs
from devenv.engine.kubernetes.connection import CONFLICT, MERGE, Cluster, asking
from devenv.engine.kubernetes.manifests import PodSettings
from devenv.engine.pod import Object
from devenv.engine.protocol import Labels
from devenv.errors import NotOurs, ServiceFailed
from devenv.model import LABEL_ENVIRONMENT, LABEL_OWNER, DesiredService

# Seconds for an object to go that others may still hold, and between two looks.
_GONE_SECONDS, _LOOK_SECONDS = 60.0, 0.1


# ---- any object --------------------------------------------------------------------------------------------------


def labels_of(found: Mapping[str, Any]) -> dict[str, str]:
    """Return an object's labels, and the annotations that are labels on other engines."""
    about = found["metadata"]
    return {**(about.get("annotations") or {}), **(about.get("labels") or {})}


def is_ours(found: Mapping[str, Any], labels: Labels) -> bool:
    """Return whether an object belongs to the environment of these labels."""
    has = labels_of(found)
    return all(has.get(key) == labels[key] for key in (LABEL_ENVIRONMENT, LABEL_OWNER))


def listed(cluster: Cluster, resource: str, environment: str = "") -> list[Object]:
    """Return all objects of a kind that carry the label of this environment, or of any."""
    selector = f"{LABEL_ENVIRONMENT}={environment}" if environment else LABEL_ENVIRONMENT
    return list(cluster.ask("GET", cluster.path(resource), {"labelSelector": selector})["items"])


def found(cluster: Cluster, resource: str, name: str) -> Object | None:
    """Return an object, or None."""
    with unless_gone():
        return dict(cluster.ask("GET", cluster.path(resource, name)))
    return None


def annotate(cluster: Cluster, resource: str, name: str, annotations: Mapping[str, str | None]) -> None:
    """Change annotations of an object; None removes one."""
    patch = {"metadata": {"annotations": dict(annotations)}}
    cluster.ask("PATCH", cluster.path(resource, name), body=patch, kind=MERGE)


def _delete(cluster: Cluster, resource: str, name: str) -> None:
    with unless_gone():
        cluster.ask("DELETE", cluster.path(resource, name))


def _made(cluster: Cluster, resource: str, wanted: Object, labels: Labels, what: str) -> Object:
    """Create an object, or find the one that a killed devenv created. Raise NotOurs for another one of that name."""
    name = wanted["metadata"]["name"]
    try:
        return dict(cluster.ask("POST", cluster.path(resource), body=wanted))
    except Refused as error:
        there = found(cluster, resource, name) if error.status == CONFLICT else None
        if there is None:
            raise
    if not is_ours(there, labels):
        raise not_ours(cluster, resource, name, what)
    return there


def not_ours(cluster: Cluster, resource: str, name: str, what: str) -> NotOurs:
    """Return the error for a name that something else has."""
    one = resource.removesuffix("s")
    return NotOurs(
        f"cannot {what}: a {one} of that name in namespace {cluster.namespace} is not of this environment",
        hint=f"see it with 'kubectl -n {cluster.namespace} describe {one} {name}'; rename or remove it yourself",
    )


# ---- networks ----------------------------------------------------------------------------------------------------


def create_network(cluster: Cluster, name: str, labels: Labels) -> str:
    """Create the ConfigMap that stands for the environment; return its name. Raise NotOurs if another one has that."""
    with asking(cluster, f"create {name}"):
        there = _made(cluster, "configmaps", manifests.network(name, labels), labels, f"create {name}")
        if manifests.NO_NETWORK in labels_of(there):
            annotate(cluster, "configmaps", name, {manifests.NO_NETWORK: None})
    return name


def remove_network(cluster: Cluster, name: str) -> None:
    """Remove the ConfigMap, unless it is gone. While it has data, it only ceases to be a network.

    Containers that never started go first. Raise ServiceFailed while others are there: they would go with it.
    """
    with asking(cluster, f"remove network {name}"):
        if (network := found(cluster, "configmaps", name)) is None:
            return
        environment = labels_of(network).get(LABEL_ENVIRONMENT, "")
        for service in listed(cluster, "services", environment):
            if runs.state_of(cluster, service).status != "created":
                raise ServiceFailed(f"cannot remove network {name}: {service['metadata']['name']} uses it")
            remove(cluster, service["metadata"]["name"])
        kept, volumes = manifests.keeps_record(network), _volumes(cluster, environment)
        if kept or volumes:
            annotate(cluster, "configmaps", name, {manifests.NO_NETWORK: "true"})
        # Look again: whoever removed the last volume meanwhile found a network still, and left it.
        if not kept and not (volumes and _volumes(cluster, environment)):
            _delete(cluster, "configmaps", name)


# ---- volumes -----------------------------------------------------------------------------------------------------


def remove_volume(cluster: Cluster, name: str) -> None:
    """Remove a durable volume and its data, unless it is gone. Others go with their pods.

    Containers that never started go first. Raise ServiceFailed if another one uses it.
    """
    with asking(cluster, f"remove volume {name}"):
        if (claim := found(cluster, "persistentvolumeclaims", name)) is None:
            return
        environment = labels_of(claim).get(LABEL_ENVIRONMENT, "")
        for service in listed(cluster, "services", environment):
            if name in runs.claims_of(service):
                if runs.state_of(cluster, service).status != "created":
                    used = f"{service['metadata']['name']} uses it"
                    raise ServiceFailed(f"cannot remove volume {name}: {used}", "stop and remove that first")
                remove(cluster, service["metadata"]["name"])
        _delete(cluster, "persistentvolumeclaims", name)
        # The cluster keeps it until its pod is gone.
        _until_gone(cluster, "persistentvolumeclaims", name)
        _remove_owner(cluster, claim, environment)


def _remove_owner(cluster: Cluster, claim: Object, environment: str) -> None:
    """Remove the ConfigMap that `down` left for the sake of this claim."""
    for owner in claim["metadata"].get("ownerReferences") or ():
        left = found(cluster, "configmaps", owner["name"])
        unused = left is not None and manifests.NO_NETWORK in labels_of(left) and not manifests.keeps_record(left)
        if unused and not _volumes(cluster, environment):
            _delete(cluster, "configmaps", owner["name"])


def _volumes(cluster: Cluster, environment: str) -> list[Object]:
    return lasting(listed(cluster, "persistentvolumeclaims", environment))


def lasting(objects: Iterable[Object]) -> list[Object]:
    """Return those that nobody has removed: the cluster lists the others, too, until nothing uses them."""
    return [one for one in objects if not one["metadata"].get("deletionTimestamp")]


def _until_gone(cluster: Cluster, resource: str, name: str) -> None:
    until = now() + _GONE_SECONDS
    while found(cluster, resource, name) is not None:
        if now() > until:
            raise ServiceFailed(
                f"cannot remove {name}: the cluster still has it after {_GONE_SECONDS:g} s",
                hint=f"'kubectl describe {resource} {name}' shows what holds it",
            )
        time.sleep(_LOOK_SECONDS)


# ---- containers --------------------------------------------------------------------------------------------------


def create(cluster: Cluster, wanted: DesiredService, labels: Labels, network: str, settings: PodSettings) -> str:
    """Create a service's Service, Secret and claims, which keep how to make its pod; return the container's id."""
    name = wanted.container
    with asking(cluster, f"create container {name}"):
        environment = cluster.ask("GET", cluster.path("configmaps", network))
        if manifests.NO_NETWORK in labels_of(environment):
            # What a killed `down` left counts as a network (see observe.py), and is one from now on.
            annotate(cluster, "configmaps", network, {manifests.NO_NETWORK: None})
        owner = manifests.owner_of(environment)
        if not wanted.durable:
            _forget_claims(cluster, wanted, labels)
        for volume in wanted.volumes if wanted.durable else ():
            claim = manifests.claim(volume, wanted, labels, owner, settings)
            _made(cluster, "persistentvolumeclaims", claim, labels, f"use volume {volume}")
        if late := found(cluster, "services", name):
            if not is_ours(late, labels):
                raise not_ours(cluster, "services", name, f"create {name}")
            remove(cluster, name)
        service = _made(
            cluster, "services", manifests.service(wanted, labels, owner, settings), labels, f"create {name}"
        )
        if wanted.files:
            secret = manifests.secret(wanted, labels, owner)
            there = _made(cluster, "secrets", secret, labels, f"create {name}")
            if there.get("data") != secret["data"]:
                cluster.ask("PUT", cluster.path("secrets", name), body=secret)
    return runs.identity(service)


def _forget_claims(cluster: Cluster, wanted: DesiredService, labels: Labels) -> None:
    """Remove the claims of a service that is not durable any more, so that nobody takes them for its data."""
    for volume in wanted.volumes:
        claim = found(cluster, "persistentvolumeclaims", volume)
        if claim and is_ours(claim, labels):
            _delete(cluster, "persistentvolumeclaims", volume)


def remove(cluster: Cluster, container: str) -> None:
    """Remove a service's pod, Secret and Service; its claims stay. Do nothing if it is gone."""
    with asking(cluster, f"remove container {container}"):
        service = runs.service_of(cluster, container)
        if service is None:
            return
        name = service["metadata"]["name"]
        runs.end(cluster, service)
        _delete(cluster, "secrets", name)
        # Last: as long as it is there, a killed removal is seen and repeated.
        _delete(cluster, "services", name)


def passing_volumes(service: Mapping[str, Any]) -> list[str]:
    """Return the volumes of a service whose data goes with its pod."""
    try:
        return [str(name) for name in json.loads(labels_of(service).get(manifests.PASSING) or "[]")]
    except ValueError:
        return []
