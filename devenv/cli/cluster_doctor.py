"""Check what `devenv up` needs of a Kubernetes cluster, and say what to do. It installs and changes nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.util import find_spec

from devenv.cli.doctor import HOST_CHECKS, Check, Wanted, guarded
from devenv.engine import asked_place
from devenv.engine.http import Refused
from devenv.engine.image_names import familiar
from devenv.engine.kubernetes.connection import RIGHTS_HINT, Cluster, asking, open_cluster
from devenv.engine.kubernetes.rights import NEEDED, SHARE, in_words, lacking
from devenv.errors import DevenvError
from devenv.images.references import BASE

_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"


def diagnose(wanted: Wanted, context: str = "", namespace: str = "", known: str = "") -> list[Check]:
    """Check what `devenv up` needs; without a cluster only what this host shows."""
    try:
        cluster = open_cluster(*asked_place(context, namespace), known)
    except DevenvError as error:
        found = [Check("engine", "fail", error.message, error.hint)]
        return [*found, check_library(), *(guarded(check, wanted) for check in HOST_CHECKS)]
    try:
        found = [guarded(check, wanted, cluster) for check in CLUSTER_CHECKS]
    finally:
        cluster.close()
    # In a pod of the cluster, devenv uses no port of its own host.
    here = () if cluster.inside else HOST_CHECKS
    return [*found, check_library(), *(guarded(check, wanted) for check in here)]


def check_engine(wanted: Wanted, cluster: Cluster) -> Check:
    version = cluster.ask("GET", "/version").get("gitVersion", "?")
    return Check("engine", "ok", f"Kubernetes {version} answers at {cluster.url} (from {cluster.login.origin})")


def check_kubectl(wanted: Wanted, cluster: Cluster) -> Check:
    path = shutil.which("kubectl")
    if path:
        return Check("kubectl", "ok", path)
    # Without it, nothing outside of a pod would have answered.
    return Check("kubectl", "ok", "not installed, and not needed in a pod")


def check_namespace(wanted: Wanted, cluster: Cluster) -> Check:
    name = cluster.namespace
    try:
        phase = cluster.ask("GET", cluster.path("namespaces", name))["status"].get("phase", "")
    except Refused as error:
        if error.status == 404:
            hint = f"'kubectl create namespace {name}' makes it, if you may"
            return Check("namespace", "fail", f"there is no namespace {name}", hint)
        return Check("namespace", "ok", f"{name} (this login may not look at namespaces)")
    if phase != "Active":
        return Check("namespace", "fail", f"namespace {name} is {phase.lower()}", "choose another one with --namespace")
    return Check("namespace", "ok", name)


def check_rights(wanted: Wanted, cluster: Cluster) -> Check:
    with asking(cluster, "ask for rights"):
        missing = lacking(cluster, (*NEEDED, *SHARE) if wanted.shared else NEEDED)
    if missing:
        detail = f"in namespace {cluster.namespace}, this login lacks {'; '.join(in_words(missing))}"
        return Check("rights", "fail", detail, RIGHTS_HINT)
    return Check("rights", "ok", f"all that devenv needs in namespace {cluster.namespace}")


def check_storage(wanted: Wanted, cluster: Cluster) -> Check:
    """Check for a class of volumes that data which is to outlive its pod can have."""
    try:
        classes = cluster.ask("GET", cluster.path("storageclasses"))["items"]
    except Refused:
        return Check("storage", "ok", "not checked: this login may not list storage classes")
    annotations = {one["metadata"]["name"]: one["metadata"].get("annotations") or {} for one in classes}
    if names := [name for name, notes in annotations.items() if notes.get(_DEFAULT_CLASS) == "true"]:
        return Check("storage", "ok", f"storage class {names[0]} is the default")
    hint = "'durable: true' needs one; without that, data lives as long as its pod"
    return Check("storage", "warn", "the cluster has no default storage class", hint)


def check_images(wanted: Wanted, cluster: Cluster) -> Check:
    """Check whether the nodes have the images. A node lists some dozens of its largest ones."""
    references = {name: reference for name, reference in wanted.images.items() if name != BASE}
    try:
        nodes = cluster.ask("GET", cluster.path("nodes"))["items"]
    except Refused:
        return Check("images", "ok", "not checked: this login may not list nodes, which pull images themselves")
    listed = [[name for image in node["status"].get("images") or () for name in image["names"]] for node in nodes]
    there = [{familiar(name) for name in names} for names in listed]
    missing = [name for name, reference in references.items() if not all(familiar(reference) in one for one in there)]
    detail = f"{len(references) - len(missing)} of {len(references)} are on every node"
    if not missing:
        return Check("images", "ok", detail)
    detail += f"; nodes have to pull {', '.join(missing)}"
    return Check("images", "warn", detail, "'devenv help kubernetes' says how a cluster gets devenv's images")


def check_library() -> Check:
    """Check for the package over which commands run and ports are forwarded."""
    if find_spec("websockets"):
        return Check("websockets", "ok", "the extra kubernetes is installed")
    return Check(
        "websockets", "fail", "the package websockets is missing", "install it beside devenv: pip install websockets"
    )


CLUSTER_CHECKS: tuple[Callable[[Wanted, Cluster], Check], ...] = (
    check_engine,
    check_kubectl,
    check_namespace,
    check_rights,
    check_storage,
    check_images,
)
