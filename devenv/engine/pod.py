"""Say what the pod of a service is, whether devenv runs it or `devenv export kubernetes` describes it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from devenv.engine.protocol import CONFIG_FOLDER, DATA_FOLDER
from devenv.model import DesiredService

Object = dict[str, Any]

# The only container of a pod that devenv runs.
CONTAINER = "service"
# A service asks for this part of its limit: most of the time it needs less, and nodes would be full too early.
_ASKS_FOR, _CPU = 8, "50m"
_FILES = "files"
_SHARED_MEMORY = "/dev/shm"  # noqa: S108, it is the name of a mount


def spec(
    wanted: DesiredService, secret: str, files: Mapping[str, str], volumes: Mapping[str, Object], **more: Any
) -> Object:
    """Return the spec of a service's pod. It passes the Pod Security Standard `restricted`.

    `files` are keys in the Secret of that name, by target. `volumes` are volumes of the pod, by the service's own name
    of each. `more` has keys of the container, in place of the usual ones.
    """
    user, options, login = wanted.user_id, wanted.options, wanted.image.pull_secrets
    memory = _in_memory(wanted)
    items = [{"key": key, "path": target.removeprefix(f"{CONFIG_FOLDER}/")} for target, key in files.items()]
    mounts = [
        *({"name": one["name"], "mountPath": data_folder(wanted, volume)} for volume, one in volumes.items()),
        *([{"name": _FILES, "mountPath": CONFIG_FOLDER, "readOnly": True}] if files else []),
        *({"name": name, "mountPath": target} for name, target in memory.items()),
    ]
    content = {"secretName": secret, "defaultMode": 0o444, "items": items}
    container = {
        "name": CONTAINER,
        "image": wanted.image.address,
        "imagePullPolicy": wanted.image.policy,
        "command": list(options.entrypoint),
        "args": list(options.command),
        "workingDir": options.working_dir,
        "env": [{"name": name, "value": value} for name, value in options.environment],
        "ports": [{"containerPort": number} for number in wanted.ports],
        "volumeMounts": mounts,
        **bounds(wanted),
        **more,
    }
    size = {"sizeLimit": str(options.shm_size)} if options.shm_size else {}
    return {
        **({"imagePullSecrets": [{"name": name} for name in login]} if login else {}),
        # A Service named etcd would put ETCD_PORT into every pod, and etcd reads that as an option.
        "enableServiceLinks": False,
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": options.stop_grace_period,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": user,
            "runAsGroup": user,
            "fsGroup": user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [{key: value for key, value in container.items() if value}],
        "volumes": [
            *volumes.values(),
            *([{"name": _FILES, "secret": content}] if files else []),
            *(
                {"name": name, "emptyDir": {"medium": "Memory", **(size if target == _SHARED_MEMORY else {})}}
                for name, target in memory.items()
            ),
        ],
    }


def data_folder(wanted: DesiredService, volume: str) -> str:
    """Return where a volume is in the container: it is itself the one folder in which every user may write."""
    return f"{wanted.volumes[volume].rstrip('/')}/{DATA_FOLDER}"


def bounds(wanted: DesiredService) -> Object:
    """Return what each container of the pod may use and do."""
    options = wanted.options
    security = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": options.read_only,
        "capabilities": {"drop": ["ALL"]},
    }
    if not options.mem_limit:
        return {"securityContext": security}
    # An empty /tmp in memory counts, too, as with Docker.
    limits, least = {"memory": str(options.mem_limit)}, str(options.mem_limit // _ASKS_FOR)
    return {"resources": {"limits": limits, "requests": {"memory": least, "cpu": _CPU}}, "securityContext": security}


def _in_memory(wanted: DesiredService) -> dict[str, str]:
    """Return the folders that are in memory, by the names of their volumes."""
    shared = [_SHARED_MEMORY] if wanted.options.shm_size else []
    targets = [*(target.partition(":")[0] for target in wanted.options.tmpfs), *shared]
    return {f"memory-{number}": target for number, target in enumerate(targets)}
