"""Describe an environment as objects for `kubectl apply` that need no devenv. Pure.

Each service becomes a StatefulSet of one pod, a Service, a Secret with its files and a claim for each volume, all under
the service's own name: it needs a namespace of its own. Files and checks are those of the Compose export.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from devenv.model import LABEL_CONFIG_HASH, LABEL_ENVIRONMENT, LABEL_SERVICE, Catalogue, Desired, DesiredService
from devenv.names import Names
from devenv.spec.components import digest
from devenv.wiring.compose import attaching, dumper, files_of, over

Object = dict[str, Any]

# Kubernetes wants users as numbers. devenv's images give their user this one, and servers that have another in the
# image need none at all; official images of these servers have the same.
_USER = 999
# Each volume of devenv's has one folder, which every user may write to. Here the claim itself is that folder.
_DATA = "data"
_FOLDER = "/etc/devenv"
_FILES = "files"
# Of the disk. A first start takes 0.2 GB; a claim without a size is not allowed.
_STORAGE = "2Gi"
# A service asks for this part of its memory limit, and mostly needs less.
_ASKED_PART = 8
_CPU = "50m"
# The Secret with the variables that attach devenv to the services.
ATTACH = "devenv-attach"


def manifests(desired: Desired, catalogue: Catalogue) -> str:
    """Return all objects as YAML documents.

    `desired` has its endpoints in the view of the network. Raise ConfigError for a template that devenv cannot fill in
    or merge.
    """
    import yaml

    objects: list[Object] = []
    for name, service in desired.services.items():
        folder = catalogue[name].wire
        files, more = files_of(service, folder), over(service, folder)
        about = {LABEL_ENVIRONMENT: desired.environment, LABEL_SERVICE: name, "app.kubernetes.io/name": name}
        called = Names(desired.environment)
        volumes = {f"{name}-{called.short(name, volume)}": target for volume, target in service.volumes.items()}
        objects.append(_secret(f"{name}-files", about, {_key(target): text for target, text in files.items()}))
        objects += [_claim(volume, about) for volume in volumes]
        objects += [_service(service, about), _stateful_set(service, about, files, volumes, more)]
    objects.append(_secret(ATTACH, {LABEL_ENVIRONMENT: desired.environment}, attaching(desired)))
    documents = [yaml.dump(one, Dumper=dumper(), sort_keys=False, width=1000) for one in objects]
    return "".join(f"---\n{text}" for text in documents)


# ---- objects -----------------------------------------------------------------------------------------------------


def _object(kind: str, version: str, name: str, labels: Mapping[str, str], **content: Any) -> Object:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "labels": dict(labels)}, **content}


def _secret(name: str, labels: Mapping[str, str], texts: Mapping[str, str]) -> Object:
    return _object("Secret", "v1", name, labels, type="Opaque", stringData=dict(texts))


def _claim(name: str, labels: Mapping[str, str]) -> Object:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": _STORAGE}}}
    return _object("PersistentVolumeClaim", "v1", name, labels, spec=spec)


def _service(service: DesiredService, labels: Mapping[str, str]) -> Object:
    ports = [{"name": f"port-{number}", "port": number} for number in service.ports]
    spec = {"selector": {LABEL_SERVICE: service.name}, "ports": ports}
    return _object("Service", "v1", service.name, labels, spec=spec)


def _stateful_set(
    service: DesiredService,
    labels: Mapping[str, str],
    files: Mapping[str, str],
    volumes: Mapping[str, str],
    more: Mapping[str, Any],
) -> Object:
    """Return what runs the pod. It never runs two at a time, which would share the data."""
    # Kubernetes starts no pod again because a file of its Secret changed; with another annotation it does.
    about = {"labels": dict(labels), "annotations": {LABEL_CONFIG_HASH: digest(sorted(files.items()))}}
    template = {"metadata": about, "spec": _pod(service, files, volumes, more)}
    spec = {
        "replicas": 1,
        "serviceName": service.name,
        "selector": {"matchLabels": {LABEL_SERVICE: service.name}},
        "template": template,
    }
    return _object("StatefulSet", "apps/v1", service.name, labels, spec=spec)


def _pod(
    service: DesiredService, files: Mapping[str, str], volumes: Mapping[str, str], more: Mapping[str, Any]
) -> Object:
    """Return the pod, which the Pod Security Standard `restricted` admits."""
    options = service.options
    targets = {f"{target.rstrip('/')}/{_DATA}": volume for volume, target in volumes.items()}
    memory = {target: f"memory-{number}" for number, target in enumerate(_in_memory(service))}
    items = [{"key": _key(target), "path": _key(target)} for target in files]
    shared = {"medium": "Memory", **({"sizeLimit": str(options.shm_size)} if options.shm_size else {})}
    login = [{"name": name} for name in service.image.pull_secrets]
    return {
        **({"imagePullSecrets": login} if login else {}),
        # A Service named etcd would put ETCD_PORT into every pod, and etcd reads that as an option.
        "enableServiceLinks": False,
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": options.stop_grace_period,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(service, {**targets, **memory, _FOLDER: _FILES}, more)],
        "volumes": [
            {"name": _FILES, "secret": {"secretName": f"{service.name}-files", "defaultMode": 0o440, "items": items}},
            *({"name": volume, "persistentVolumeClaim": {"claimName": volume}} for volume in volumes),
            *({"name": name, "emptyDir": shared if target == "/dev/shm" else {"medium": "Memory"}}  # noqa: S108
              for target, name in memory.items()),
        ],
    }  # fmt: skip


def _container(service: DesiredService, mounts: Mapping[str, str], more: Mapping[str, Any]) -> Object:
    options = service.options
    _, *check = more["healthcheck"]["test"]
    keys = {
        "name": service.name,
        "image": service.image.address,
        "imagePullPolicy": service.image.policy,
        "command": more.get("entrypoint", list(options.entrypoint)),
        "args": more.get("command", list(options.command)),
        "workingDir": options.working_dir,
        "env": [{"name": name, "value": value} for name, value in options.environment],
        "ports": [{"containerPort": number} for number in service.ports],
        # There is no liveness probe: a server that is only slow would lose its connections.
        "readinessProbe": {"exec": {"command": check}, "periodSeconds": 2, "timeoutSeconds": 5},
        "resources": {
            "requests": {"cpu": _CPU, "memory": str(options.mem_limit // _ASKED_PART)},
            "limits": {"memory": str(options.mem_limit)},
        }
        if options.mem_limit
        else {},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": options.read_only,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": name, "mountPath": target, **({"readOnly": True} if name == _FILES else {})}
            for target, name in mounts.items()
        ],
    }
    return {key: value for key, value in keys.items() if value}


def _in_memory(service: DesiredService) -> list[str]:
    shared = ["/dev/shm"] if service.options.shm_size else []  # noqa: S108
    return [*(target.partition(":")[0] for target in service.options.tmpfs), *shared]


def _key(target: str) -> str:
    """Return the name of a file in its Secret."""
    return target.rpartition("/")[2]
