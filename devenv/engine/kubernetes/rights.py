"""Say which rights devenv needs in its namespace, and which a login lacks. docs/kubernetes.md has them as a Role.

Newer servers check `create` where a WebSocket begins, older ones check `get`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from devenv.engine.kubernetes.connection import Cluster

_REVIEWS = "selfsubjectaccessreviews"
_MOST_REQUESTS = 16
# The API group of resources that are not in the first one.
_GROUPS = {"leases": "coordination.k8s.io"}


class Right(NamedTuple):
    """A verb on a resource ("pods/log"), as a Role names them."""

    verb: str
    resource: str


def _rights(verbs: Mapping[str, str]) -> tuple[Right, ...]:
    return tuple(Right(verb, resource) for resource, words in verbs.items() for verb in words.split())


# To reach services from outside of the cluster, and to run commands in them.
FORWARD = _rights({"pods": "list", "pods/portforward": "get create"})
EXECUTE = _rights({"pods/exec": "get create"})
# To share an environment between hosts.
SHARE = _rights({"leases": "get create patch delete"})
# All that devenv does otherwise.
NEEDED = (
    *_rights(
        {
            "pods": "get list create patch delete",
            "pods/log": "get",
            "services": "get list create patch delete",
            "configmaps": "get list create patch delete",
            "secrets": "get list create update patch delete",
            "persistentvolumeclaims": "get list create patch delete",
            "events": "list",
        }
    ),
    *(right for right in FORWARD if right.resource != "pods"),
    *EXECUTE,
)


def lacking(cluster: Cluster, rights: Iterable[Right] = NEEDED) -> list[Right]:
    """Return those rights that this login does not have. Every login may ask. Raises Refused and OSError."""
    wanted = list(rights)
    with ThreadPoolExecutor(min(len(wanted), _MOST_REQUESTS)) as pool:
        has = list(pool.map(lambda one: _has(cluster, one), wanted))
    return [right for right, given in zip(wanted, has, strict=True) if not given]


def _has(cluster: Cluster, right: Right) -> bool:
    resource, _, sub = right.resource.partition("/")
    asked = {"namespace": cluster.namespace, "verb": right.verb, "resource": resource, "subresource": sub}
    asked |= {"group": _GROUPS.get(resource, "")}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "metadata": {},
        "spec": {"resourceAttributes": asked},
    }
    return bool(cluster.ask("POST", cluster.path(_REVIEWS), body=review)["status"].get("allowed"))


def in_words(rights: Iterable[Right]) -> Iterator[str]:
    """Yield what is missing by resource: "pods (create, delete)"."""
    by_resource: dict[str, list[str]] = {}
    for right in rights:
        by_resource.setdefault(right.resource, []).append(right.verb)
    for resource, verbs in by_resource.items():
        yield f"{resource} ({', '.join(verbs)})"
