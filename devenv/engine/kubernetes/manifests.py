"""Write the objects of an environment as Kubernetes wants them. Pure: no cluster.

One ConfigMap stands for the environment: it owns all other objects, so that one delete takes all of them. A service is
a Service of the cluster, a Secret with its files, a claim for each of its durable volumes, and, while it runs, a pod.
The Service stands for the container: it keeps what devenv has to know while no pod is there, above all how to make one.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from devenv.engine import pod as pod_of
from devenv.engine.image_names import IMAGES
from devenv.engine.pod import Object
from devenv.engine.protocol import CONFIG_FOLDER, FIRST_DATA, Labels
from devenv.model import (
    LABEL_CONFIG_HASH,
    LABEL_CONFIG_PARTS,
    LABEL_ENVIRONMENT,
    LABEL_PORTS,
    LABEL_SERVICE,
    DesiredService,
)

# The pod of a service, as JSON, and how its last one ended.
POD = "io.devenv.pod"
RUN = "io.devenv.run"
# The volumes of a service whose data goes with its pod, as JSON.
PASSING = "io.devenv.passing-volumes"
# On the environment's ConfigMap once `down` has removed all but the data, which the ConfigMap owns.
NO_NETWORK = "io.devenv.no-network"
# In the ConfigMap of an environment that hosts share: what they have in common (see central.py).
RECORD = "record"
# The selectable labels. What else Docker has in labels is in annotations, which may be longer and hold any text.
_SELECTABLE = (LABEL_ENVIRONMENT, LABEL_SERVICE, LABEL_CONFIG_HASH)
# How much disk a durable volume asks for, unless the user says.
STORAGE = "2Gi"
# How long a pod stays on a node that does not answer, in seconds; the cluster's own default is 300.
_TOLERATED = 30
# In a volume while first data is copied to it. A pod that finds it copies again, or begins without data.
_HALF = ".devenv-half"
# Copies first data (from $1) to a volume ($2), unless that has data. $3 is how to get the data to the disk. The volume
# itself may belong to somebody else.
_FILL = f"""\
set -eu
half=$2/{_HALF}
if [ ! -e "$half" ]; then
    for one in "$2"/* "$2"/.[!.]*; do
        case $one in */lost+found) continue ;; esac
        [ ! -e "$one" ] || exit 0
    done
    : > "$half"
fi
cd "$1"
for one in * .[!.]*; do
    [ -e "$one" ] || continue
    rm -rf "$2/$one"
    cp -a "$one" "$2/"
done
$3 "$2"
rm "$half"
"""


@dataclass(frozen=True)
class PodSettings:
    """What pods are to have beside what their service says.

    `storage` and `storage_class` are the size and the class of durable volumes. A pod ends after `deadline` seconds, if
    any: in a job of a CI, nobody else might end it. `first_data` are images to fill new volumes from, by volume.
    """

    storage: str = STORAGE
    storage_class: str = ""
    deadline: int = 0
    first_data: Mapping[str, str] = field(default_factory=dict)


# ---- the environment --------------------------------------------------------------------------------------------


def network(name: str, labels: Labels) -> Object:
    """Return the ConfigMap that stands for the environment and its network."""
    about = "An environment of devenv. All its objects belong to this one and go with it."
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(name, labels), "data": {"about": about}}


def metadata(name: str, labels: Labels, owner: Mapping[str, Any] | None = None) -> Object:
    """Return an object's name, its labels, and the object whose end is its end."""
    found: Object = {
        "name": name,
        "labels": {key: value for key, value in labels.items() if key in _SELECTABLE},
        "annotations": {key: value for key, value in labels.items() if key not in _SELECTABLE},
    }
    if owner:
        found["ownerReferences"] = [{**owner, "blockOwnerDeletion": False, "controller": False}]
    return found


def keeps_record(network: Mapping[str, Any]) -> bool:
    """Return whether a ConfigMap stands for an environment that hosts share, also while nothing else is left of it."""
    return RECORD in (network.get("data") or {})


def owner_of(network: Mapping[str, Any]) -> Object:
    """Return how an object refers to the ConfigMap that owns it."""
    about = network["metadata"]
    return {"apiVersion": "v1", "kind": "ConfigMap", "name": about["name"], "uid": about["uid"]}


# ---- a service --------------------------------------------------------------------------------------------------


def service(wanted: DesiredService, labels: Labels, owner: Object, settings: PodSettings) -> Object:
    """Return the Service of a service: other pods reach it under this name, and it stands for the container."""
    more = {
        **labels,
        LABEL_SERVICE: wanted.name,
        LABEL_CONFIG_HASH: wanted.config_hash,
        LABEL_CONFIG_PARTS: json.dumps(dict(wanted.parts), sort_keys=True),
        LABEL_PORTS: json.dumps({str(inside): host for inside, host in wanted.ports.items()}),
        POD: json.dumps(pod(wanted, labels, owner, settings), sort_keys=True),
        RUN: "",
        PASSING: json.dumps(sorted(() if wanted.durable else wanted.volumes)),
    }
    spec: Object = {"selector": _selector(wanted, labels)}
    # A Service with an address needs a port.
    spec |= {"ports": [_port(number) for number in wanted.ports]} if wanted.ports else {"clusterIP": "None"}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata(wanted.container, more, owner), "spec": spec}


def secret(wanted: DesiredService, labels: Labels, owner: Object) -> Object:
    """Return the Secret with the files of a service."""
    data = {_key(target): base64.b64encode(content).decode() for target, content in wanted.files.items()}
    about = metadata(wanted.container, {**labels, LABEL_SERVICE: wanted.name}, owner)
    return {"apiVersion": "v1", "kind": "Secret", "metadata": about, "type": "Opaque", "data": data}


def claim(volume: str, wanted: DesiredService, labels: Labels, owner: Object, settings: PodSettings) -> Object:
    """Return the claim for a volume whose data outlives its pod."""
    spec: Object = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": settings.storage}},
        **({"storageClassName": settings.storage_class} if settings.storage_class else {}),
    }
    about = metadata(volume, {**labels, LABEL_SERVICE: wanted.name}, owner)
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": about, "spec": spec}


def pod(wanted: DesiredService, labels: Labels, owner: Object, settings: PodSettings) -> Object:
    """Return the pod of a service. It passes the Pod Security Standard `restricted`."""
    more = {**labels, LABEL_SERVICE: wanted.name, LABEL_CONFIG_HASH: wanted.config_hash}
    spec = pod_of.spec(
        wanted,
        wanted.container,
        {target: _key(target) for target in wanted.files},
        {volume: _volume(wanted, volume) for volume in wanted.volumes},
        command=_entrypoint(wanted),
    )
    spec |= {
        # devenv is the controller: a container that ended is seen as such, with its exit code.
        "restartPolicy": "Never",
        "tolerations": [
            {"key": f"node.kubernetes.io/{why}", "operator": "Exists", "effect": "NoExecute"}
            | {"tolerationSeconds": _TOLERATED}
            for why in ("not-ready", "unreachable")
        ],
        **({"initContainers": fills} if (fills := _fills(wanted, settings)) else {}),
        **({"hostname": wanted.options.hostname} if wanted.options.hostname else {}),
        **({"activeDeadlineSeconds": settings.deadline} if settings.deadline else {}),
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata(wanted.container, more, owner), "spec": spec}


def _volume(wanted: DesiredService, volume: str) -> Object:
    short = f"volume-{volume.removeprefix(f'{wanted.container}-')}"[:63].rstrip("-")
    kept = {"persistentVolumeClaim": {"claimName": volume}}
    return {"name": short, **(kept if wanted.durable else {"emptyDir": {}})}


def _fills(wanted: DesiredService, settings: PodSettings) -> list[Object]:
    """Return the containers that copy first data before the service starts."""
    return [
        {
            "name": f"fill-{number}",
            "image": image,
            # Without a registry, it is on the nodes.
            "imagePullPolicy": "Never" if image.startswith(IMAGES) else "IfNotPresent",
            "command": ["sh", "-c", _FILL, "fill", FIRST_DATA, folder, "sync -f" if wanted.durable else ":"],
            "volumeMounts": [{"name": _volume(wanted, volume)["name"], "mountPath": folder}],
            # Its last lines say why it failed.
            "terminationMessagePolicy": "FallbackToLogsOnError",
            **pod_of.bounds(wanted),
        }
        for number, (volume, image) in enumerate(settings.first_data.items())
        for folder in [pod_of.data_folder(wanted, volume)]
    ]


def _entrypoint(wanted: DesiredService) -> list[str]:
    """Return the container's entrypoint, with what a shell can do before that.

    A pod cannot set limits on open files. A shell can lower its own: with a billion, Erlang takes minutes.
    """
    options, before = wanted.options, []
    if options.nofile:
        before.append(f"ulimit -n {options.nofile} 2> /dev/null")
    if wanted.durable:
        folders = [pod_of.data_folder(wanted, volume) for volume in wanted.golden]
        before += [f"[ ! -e {one}/{_HALF} ] || rm -rf {one}/* {one}/.[!.]*" for one in folders]
    if before and options.entrypoint[:1] == ("sh",):
        return ["sh", "-c", "; ".join([*before, 'exec "$0" "$@"']), *options.entrypoint]
    return list(options.entrypoint)


def _key(target: str) -> str:
    """Return the key of a file in its Secret, where a path has no place."""
    return target.removeprefix(f"{CONFIG_FOLDER}/").replace("/", "..")


def _port(number: int) -> Object:
    return {"name": f"port-{number}", "port": number, "targetPort": number}


def _selector(wanted: DesiredService, labels: Labels) -> dict[str, str]:
    return {LABEL_ENVIRONMENT: labels[LABEL_ENVIRONMENT], LABEL_SERVICE: wanted.name}
