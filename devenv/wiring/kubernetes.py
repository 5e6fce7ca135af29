"""Describe an environment as objects for `kubectl apply` that need no devenv. Pure.

Each service becomes a StatefulSet of one pod, a Service, a Secret with its files and a claim for each volume, all under
the service's own name: it needs a namespace of its own. Files and checks are those of the Compose export.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from devenv.engine import pod
from devenv.engine.pod import Object
from devenv.model import LABEL_CONFIG_HASH, LABEL_ENVIRONMENT, LABEL_SERVICE, Catalogue, Desired, DesiredService
from devenv.names import Names
from devenv.spec.components import digest
from devenv.wiring.compose import attaching, dumper, files_of, over

# Of the disk. A first start takes 0.2 GB; a claim without a size is not allowed.
_STORAGE = "2Gi"
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
        volumes = {volume: f"{name}-{called.short(name, volume)}" for volume in service.volumes}
        objects.append(_secret(f"{name}-files", about, {_key(target): text for target, text in files.items()}))
        objects += [_claim(volume, about) for volume in volumes.values()]
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
    _, *check = more["healthcheck"]["test"]
    return pod.spec(
        service,
        f"{service.name}-files",
        {target: _key(target) for target in files},
        {volume: {"name": name, "persistentVolumeClaim": {"claimName": name}} for volume, name in volumes.items()},
        name=service.name,
        **{key: more[word] for key, word in (("command", "entrypoint"), ("args", "command")) if word in more},
        # There is no liveness probe: a server that is only slow would lose its connections.
        readinessProbe={"exec": {"command": check}, "periodSeconds": 2, "timeoutSeconds": 5},
    )


def _key(target: str) -> str:
    """Return the name of a file in its Secret."""
    return target.rpartition("/")[2]
