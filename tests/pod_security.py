"""The Pod Security Standard `restricted`, as Kubernetes publishes it: what a pod may not say, and has to say.

A cluster of 1.25 or newer checks it by itself, in namespaces that are labelled so; the cluster for tests is older.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_VOLUMES = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret")
}
_SYSCTLS = {
    *("kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_unprivileged_port_start"),
    *("net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range"),
}
_PROFILES = ("RuntimeDefault", "Localhost")


def violations(spec: Mapping[str, Any]) -> list[str]:
    """Return what of a pod's spec the standard forbids."""
    kinds = ("initContainers", "containers", "ephemeralContainers")
    containers = [container for kind in kinds for container in spec.get(kind, ())]
    found = [*_of_pod(spec), *(f"{one['name']}: {what}" for one in containers for what in _of_container(one, spec))]
    return found if containers else ["no container"]


def _of_pod(spec: Mapping[str, Any]) -> Iterator[str]:
    yield from (key for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key))
    security = spec.get("securityContext", {})
    yield from (f"sysctl {one['name']}" for one in security.get("sysctls", ()) if one["name"] not in _SYSCTLS)
    for volume in spec.get("volumes", ()):
        yield from (f"volume {volume['name']}: {kind}" for kind in volume if kind not in {"name", *_VOLUMES})
    if not security.get("runAsNonRoot", True) or security.get("runAsUser") == 0:
        yield "the pod runs as root"


def _of_container(container: Mapping[str, Any], spec: Mapping[str, Any]) -> Iterator[str]:
    own, shared = container.get("securityContext", {}), spec.get("securityContext", {})
    capabilities = own.get("capabilities", {})
    if own.get("privileged") or own.get("allowPrivilegeEscalation") is not False:
        yield "privileges"
    if "ALL" not in capabilities.get("drop", ()) or {*capabilities.get("add", ())} - {"NET_BIND_SERVICE"}:
        yield "capabilities"
    if not own.get("runAsNonRoot", shared.get("runAsNonRoot")) or own.get("runAsUser") == 0:
        yield "root"
    if own.get("seccompProfile", shared.get("seccompProfile", {})).get("type") not in _PROFILES:
        yield "seccomp"
    if own.get("procMount", "Default") != "Default":
        yield "procMount"
    if any(port.get("hostPort") for port in container.get("ports", ())):
        yield "host port"
