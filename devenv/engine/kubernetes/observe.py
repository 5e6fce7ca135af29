"""Ask the cluster about itself and about environments."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from devenv.engine.http import Refused, unless_gone
from devenv.engine.image_names import IMAGES, familiar
from devenv.engine.kubernetes import manifests, objects, pods, runs
from devenv.engine.kubernetes.connection import Cluster, asking
from devenv.engine.kubernetes.objects import labels_of
from devenv.engine.ownership import Listed, split, trusted
from devenv.engine.pod import Object
from devenv.engine.protocol import About, ContainerState
from devenv.model import (
    LABEL_CONFIG_HASH,
    LABEL_CONFIG_PARTS,
    LABEL_ENVIRONMENT,
    LABEL_PORTS,
    LABEL_SERVICE,
    Observed,
    ObservedContainer,
)

# Go's name of a processor -> the kernel's.
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64", "386": "i686"}
# What the cluster calls what happens to a container -> what other engines call it.
_ACTIONS = {"Created": "create", "Started": "start", "Killing": "kill", "Pulled": "pull"}
# The list of a node's images is long. A cluster on somebody's machine has few nodes; others have a registry.
_FEW_NODES = 10
_KINDS = {"network": "configmaps", "container": "services", "volume": "persistentvolumeclaims"}


def about(cluster: Cluster) -> About:
    """Ask the cluster what it is."""
    with asking(cluster, "ask the cluster about itself"):
        version = dict(cluster.ask("GET", "/version"))
    machine = str(version.get("platform", "")).rpartition("/")[2]
    number = str(version.get("gitVersion", "?")).removeprefix("v")
    return About(
        name="Kubernetes",
        version=number,
        api="v1",
        architecture=_MACHINES.get(machine, machine),
        daemon=False,
        here=False,
        loopback=False,
    )


def observe(cluster: Cluster, environment: str, owner: str) -> Observed:
    """Return everything that carries the environment's label: four requests."""
    return _observed(cluster, environment, _everything(cluster, environment), owner)


def devenv_images(cluster: Cluster) -> list[dict[str, Any]]:
    """Return devenv's images that each node has. None if there are many nodes, or the login may not look at them."""
    with asking(cluster, "ask nodes for their images"):
        try:
            found = cluster.ask("GET", cluster.path("nodes"), {"limit": _FEW_NODES})
        except Refused as error:
            if error.status == 403:
                return []
            raise
    if found["metadata"].get("continue"):
        return []
    nodes = [_images_of(node["status"]) for node in found["items"]]
    return [
        {"RepoTags": [name], "Size": size, "Labels": {}, "Created": 0}
        for name, size in (nodes[0] if nodes else {}).items()
        if name.startswith(IMAGES) and all(name in node for node in nodes)
    ]


def _images_of(node: Mapping[str, Any]) -> dict[str, int]:
    """Return the sizes of a node's images, by each name."""
    images = node.get("images") or ()
    return {familiar(name): int(image["sizeBytes"]) for image in images for name in image.get("names") or ()}


def environments(cluster: Cluster, owners: Mapping[str, str]) -> dict[str, Observed]:
    """Return what every environment in the namespace has, by its id: four requests."""
    found: dict[str, dict[str, list[Object]]] = {}
    everything = _everything(cluster, "")
    for resource, all_of in everything.items():
        for one in all_of:
            its = found.setdefault(labels_of(one)[LABEL_ENVIRONMENT], {kind: [] for kind in everything})
            its[resource].append(one)
    return {one: _observed(cluster, one, its, owners.get(one, "")) for one, its in found.items()}


def _everything(cluster: Cluster, environment: str) -> dict[str, list[Object]]:
    resources = (*_KINDS.values(), "pods")
    # At the same time: a cluster may be far away.
    with ThreadPoolExecutor(len(resources)) as pool, asking(cluster, "list pods, services, volumes and environments"):
        found = pool.map(lambda resource: objects.listed(cluster, resource, environment), resources)
        return dict(zip(resources, found, strict=True))


def _observed(cluster: Cluster, environment: str, everything: Mapping[str, list[Object]], owner: str) -> Observed:
    services = {one["metadata"]["name"]: one for one in everything["services"]}
    own_pods = {one["metadata"]["name"]: one for one in everything["pods"]}
    listed: Listed = {kind: [_entry(one) for one in everything[resource]] for kind, resource in _KINDS.items()}
    # A pod that no Service stands for is somebody's copy.
    alone = [_entry(pod) for name, pod in own_pods.items() if not _stands_for(services.get(name), pod)]
    own_pods = {name: pod for name, pod in own_pods.items() if _stands_for(services.get(name), pod)}
    listed = {**listed, "container": [*listed["container"], *alone]}
    owner = owner or trusted(environment, listed)
    ours, strangers = split(environment, listed, owner)
    containers: dict[str, ObservedContainer] = {}
    volumes: dict[str, str] = {}
    networks = [n for n in ours["network"] if manifests.NO_NETWORK not in n["Labels"] or n["Name"] in _left(everything)]
    for one in ours["container"]:
        service = services.get(one["Name"])
        if service is None:
            strangers = (*strangers, f"container {one['Name']}")
            continue
        pod = own_pods.get(one["Name"])
        state = runs.state_with(cluster, service, pod)
        found = _container(service, state, tuple(n["Name"] for n in networks))
        containers[found.service] = found
        if pod is not None and state.status in (pods.RUNNING, pods.WAITING):
            volumes |= dict.fromkeys(objects.passing_volumes(service), found.service)
    volumes |= {v["Name"]: v["Labels"][LABEL_SERVICE] for v in ours["volume"] if LABEL_SERVICE in v["Labels"]}
    return Observed(
        # What runs first, as on other engines.
        containers=dict(sorted(containers.items(), key=lambda item: not item[1].running)),
        networks=tuple(n["Name"] for n in networks),
        volumes=volumes,
        owner=owner,
        strangers=strangers,
    )


def _left(everything: Mapping[str, list[Object]]) -> set[str]:
    """Return ConfigMaps that nothing needs any more: a `down` was killed just before it removed them."""
    if objects.lasting(everything["persistentvolumeclaims"]):
        return set()
    return {one["metadata"]["name"] for one in everything["configmaps"] if not manifests.keeps_record(one)}


def _stands_for(service: Object | None, pod: Object) -> bool:
    return service is not None and runs.made_for(service, pod)


def _entry(found: Object) -> dict[str, Any]:
    """Return an object as `ownership` reads the entries of an engine's list."""
    about = found["metadata"]
    return {
        "Name": about["name"],
        "Id": about["uid"],
        "Labels": labels_of(found),
        "CreatedAt": about.get("creationTimestamp", ""),
    }


def _container(service: Object, state: ContainerState, networks: Sequence[str]) -> ObservedContainer:
    labels = labels_of(service)
    containers = _decoded(labels, manifests.POD).get("spec", {}).get("containers") or [{}]
    return ObservedContainer(
        id=runs.identity(service),
        name=service["metadata"]["name"],
        service=labels.get(LABEL_SERVICE, ""),
        state=state.status,
        image=containers[0].get("image", ""),
        config_hash=labels.get(LABEL_CONFIG_HASH, ""),
        parts=_decoded(labels, LABEL_CONFIG_PARTS),
        ports={int(inside): host for inside, host in _decoded(labels, LABEL_PORTS).items() if inside.isdigit()},
        exit_code=state.exit_code if state.status == pods.EXITED else None,
        networks=tuple(networks),
        reason=state.reason,
    )


def _decoded(labels: Mapping[str, str], label: str) -> dict[str, Any]:
    try:
        value = json.loads(labels.get(label) or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def with_networks(cluster: Cluster) -> set[str]:
    """Return the ids of all environments in the namespace that have a network."""
    with asking(cluster, "list environments"):
        found = [labels_of(one) for one in objects.listed(cluster, "configmaps")]
    return {labels[LABEL_ENVIRONMENT] for labels in found if manifests.NO_NETWORK not in labels}


def inspect(cluster: Cluster, container: str) -> dict[str, Any]:
    """Return all that the cluster knows of a container, but its files."""
    what = f"inspect container {container}"
    with asking(cluster, what):
        service = runs.known(cluster, container, what)
        pod = runs.own_pod(cluster, service)
        state = runs.state_with(cluster, service, pod)
    return {
        "Id": runs.identity(service),
        "Name": service["metadata"]["name"],
        "State": {"Status": state.status, "ExitCode": state.exit_code, "Reason": state.reason},
        "Config": {"Env": [], "Labels": labels_of(service)},
        "Service": service,
        "Pod": pod,
    }


def belongings(cluster: Cluster, environment: str) -> dict[str, Any]:
    """Return the cluster's version, and the environment's networks and durable volumes."""
    with asking(cluster, "list environments and volumes"):
        version = dict(cluster.ask("GET", "/version"))
        return {
            "version": {**version, "Version": version.get("gitVersion", "?")},
            "networks": [_entry(one) | one for one in objects.listed(cluster, "configmaps", environment)],
            "volumes": [_entry(one) | one for one in objects.listed(cluster, "persistentvolumeclaims", environment)],
        }


def events(cluster: Cluster, environment: str) -> list[dict[str, Any]]:
    """Return what happened to the environment's objects in the last hour or so."""
    begin = f"devenv-{environment}"
    with asking(cluster, "ask for the cluster's events"):
        found = list(cluster.ask("GET", cluster.path("events"))["items"])
    its = [one for one in found if f"{one['involvedObject'].get('name', '')}-".startswith(f"{begin}-")]
    return [{"Action": _ACTIONS.get(one.get("reason", ""), one.get("reason", "")), **one} for one in its]


def memory(cluster: Cluster, container: str) -> int | None:
    """Return how many bytes of memory a container uses, if the cluster measures that."""
    name = runs.name_of(container)
    path = f"/apis/metrics.k8s.io/v1beta1/namespaces/{cluster.namespace}/pods/{name}"
    with unless_gone():
        try:
            used = cluster.ask("GET", path, patience=0)["containers"]
        except Refused as error:
            if error.status in (403, 503):
                return None
            raise
        return sum(quantity(one["usage"]["memory"]) for one in used)
    return None


def quantity(text: str) -> int:
    """Return a size as Kubernetes writes it ("150Mi") in bytes."""
    number = text.rstrip("KMGTikm")
    units = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "k": 10**3, "M": 10**6, "G": 10**9, "m": 0.001}
    return int(float(number) * units.get(text[len(number) :], 1))
