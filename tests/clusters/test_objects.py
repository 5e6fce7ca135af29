"""What devenv makes in a cluster, and what it says of a pod that does not run."""

from __future__ import annotations

import json
import re
import shutil
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from project import REPOSITORY, Project, one_clear_line

from devenv.engine.kubernetes import objects as objects_of_devenv
from devenv.engine.kubernetes.connection import open_cluster
from devenv.engine.kubernetes.kubernetes import Kubernetes
from devenv.engine.kubernetes.manifests import NO_NETWORK, PodSettings
from devenv.engine.protocol import ContainerState
from devenv.errors import NotOurs, ServiceFailed
from devenv.model import Image
from devenv.services.readiness import status_of
from tests import contract
from tests.clusters.cluster import Cluster
from tests.contract import Bench, Program, said

bench = contract.bench
USES_MEMORY = Program("echo ready; exec tail /dev/zero", ("ready",), 137)


def until(bench: Bench, container: str, status: str) -> ContainerState:
    """Return a container's state once it has this status."""
    deadline = time.monotonic() + 60
    while (found := bench.engine.state(container)).status != status:
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    return found


def objects(cluster: Cluster, bench: Bench, kinds: str) -> list[dict[str, Any]]:
    selector = f"io.devenv.environment={bench.environment}"
    return json.loads(cluster.kubectl("-n", "devenv-one", "get", kinds, "-l", selector, "-o", "json"))["items"]


def started(bench: Bench, **more: Any) -> str:
    container = bench.created(**more)
    bench.engine.start(container, "one")
    return container


def test_one_delete_takes_all_of_an_environment(bench: Bench, cluster: Cluster) -> None:
    bench.running(files={"/etc/devenv/one.cnf": b"1"}, volumes={bench.volume(): "/var/lib/one"}, ports={80: 8080})
    kinds = "pods,services,secrets,persistentvolumeclaims"
    assert {one["kind"] for one in objects(cluster, bench, kinds)} == {
        "Pod",
        "Service",
        "Secret",
        "PersistentVolumeClaim",
    }
    cluster.kubectl("-n", "devenv-one", "delete", "configmap", bench.network_name)
    deadline = time.monotonic() + 60
    while objects(cluster, bench, kinds):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_files_are_in_a_pod_as_its_service_says(bench: Bench) -> None:
    container = bench.running(files={"/etc/devenv/one.cnf": b"[one]\n", "/etc/devenv/more/two": b"2"})
    session = bench.engine.execute(container, ["cat", "/etc/devenv/one.cnf", "/etc/devenv/more/two"], False)
    assert said(session)[1] == b"[one]\n2"


def test_data_that_is_not_durable_goes_with_its_pod_and_nothing_else_is_claimed(bench: Bench) -> None:
    container = bench.running(volumes={bench.volume(): "/var/lib/one"}, durable=False)
    assert bench.observe().volumes == {bench.volume(): "one"}
    bench.engine.stop(container, 5)
    found = bench.observe()
    assert (found.volumes, found.containers["one"].state) == ({}, "exited")


def test_the_network_of_an_environment_goes_with_its_last_data(bench: Bench, cluster: Cluster) -> None:
    container = bench.created(volumes={bench.volume(): "/var/lib/one"})
    bench.engine.remove(container)
    bench.engine.remove_network(bench.network)
    assert (bench.observe().networks, bench.observe().volumes) == ((), {bench.volume(): "one"})
    bench.engine.remove_volume(bench.volume())
    assert objects(cluster, bench, "configmaps") == []


def test_the_network_goes_with_data_that_goes_at_the_same_moment(
    bench: Bench, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.engine.remove(bench.running(volumes={bench.volume(): "/var/lib/one"}))
    annotate = objects_of_devenv.annotate

    def late(*arguments: Any) -> None:
        bench.engine.remove_volume(bench.volume())
        annotate(*arguments)

    monkeypatch.setattr(objects_of_devenv, "annotate", late)
    bench.engine.remove_network(bench.network)
    assert not objects(cluster, bench, "configmaps,persistentvolumeclaims")


def test_a_network_whose_removal_was_cut_short_is_there_for_down_and_for_up(bench: Bench, cluster: Cluster) -> None:
    space = "--namespace=devenv-one"
    cluster.kubectl("annotate", space, "configmap", bench.network, f"{NO_NETWORK}=true")
    assert bench.observe().networks == (bench.network,)
    bench.engine.remove(bench.created(volumes={bench.volume(): "/var/lib/one"}))
    # With data, it is a network again.
    assert bench.observe().networks == (bench.network,)
    bench.engine.remove_volume(bench.volume())
    cluster.kubectl("annotate", space, "configmap", bench.network, f"{NO_NETWORK}=true")
    bench.engine.remove_network(bench.network)
    assert objects(cluster, bench, "configmaps") == []


def test_an_image_that_no_node_has_is_named_with_the_way_out(bench: Bench) -> None:
    # Nobody listens there.
    container = started(bench, image=Image("127.0.0.1:9/devenv/none:1", "pull", "one"))
    found = until(bench, container, "waiting")
    assert "the node has no image 127.0.0.1:9/devenv/none:1" in found.reason and "refused" in found.reason
    assert "devenv images push" in found.hint
    assert bench.observe().containers["one"].reason == found.reason


def test_a_pod_that_no_node_can_take_says_why(bench: Bench) -> None:
    service = bench.service()
    service = replace(service, options=replace(service.options, mem_limit=1 << 50))
    container = bench.engine.create(service, bench.labels, bench.network)
    bench.engine.start(container, "one")
    found = until(bench, container, "waiting")
    assert "no node of the cluster can take it" in found.reason and "Insufficient memory" in found.reason


@pytest.mark.long
def test_up_ends_with_one_line_if_no_node_has_the_image(project: Project) -> None:
    # Nobody listens there.
    project.configure("profile: coordination\nservices: {etcd: {image: '127.0.0.1:9/team/etcd:1'}}\n")
    project.process("trust")
    done = project.process("up", check=False)
    one_clear_line(done, 5, "cannot use etcd: the node has no image 127.0.0.1:9/team/etcd:1", "connection refused")
    assert "hint: correct the image in devenv.yaml" in done.stderr


@pytest.mark.long
def test_up_ends_with_one_line_if_no_node_has_room(project: Project, tmp_path: Path) -> None:
    project.checkout = tmp_path / "checkout"
    for name in ("devenv", "compose", "profiles"):
        shutil.copytree(REPOSITORY / name, project.checkout / name)
    etcd = project.checkout / "compose" / "etcd" / "compose.yaml"
    etcd.write_text(re.sub("mem_limit: .*", "mem_limit: 99999g", etcd.read_text()))
    project.configure("profile: coordination\n")
    done = project.process("up", check=False)
    one_clear_line(done, 5, "cannot use etcd: no node of the cluster can take it", "Insufficient memory")


def test_a_container_that_uses_too_much_memory_is_killed_and_says_so(bench: Bench) -> None:
    service = bench.service(USES_MEMORY)
    service = replace(service, options=replace(service.options, mem_limit=32 << 20))
    container = bench.engine.create(service, bench.labels, bench.network)
    bench.engine.start(container, "one")
    found = until(bench, container, "exited")
    assert (found.exit_code, found.out_of_memory) == (137, True)
    told = status_of(service, bench.observe(), bench.engine)
    assert (told.state, told.reason) == ("failed", "exited 137, killed because it used too much memory")


def test_a_pod_whose_time_is_over_says_so(bench: Bench) -> None:
    service = bench.service()
    with closing(open_cluster(namespace="devenv-one")) as cluster:
        soon = Kubernetes(cluster, PodSettings(deadline=2))
        container = soon.create(service, bench.labels, bench.network)
        soon.start(container, "one")
    found = until(bench, container, "exited")
    assert (found.exit_code, found.reason) == (137, "its time was over (activeDeadlineSeconds)")
    told = status_of(service, bench.observe(), bench.engine)
    assert (told.state, told.reason) == ("failed", "exited 137, its time was over (activeDeadlineSeconds)")


def test_a_quota_that_is_used_up_is_named(bench: Bench, cluster: Cluster) -> None:
    cluster.kubectl("-n", "devenv-one", "create", "quota", "none", "--hard=pods=0")
    try:
        container = bench.created()
        deadline = time.monotonic() + 20
        # The cluster takes a moment to know the new quota.
        with pytest.raises(ServiceFailed, match="cannot start one: the quota of namespace devenv-one is used up"):
            while time.monotonic() < deadline:
                bench.engine.start(container, "one")
                bench.engine.stop(container, 1)
    finally:
        cluster.kubectl("-n", "devenv-one", "delete", "quota", "none")


def test_a_pod_that_somebody_deleted_is_missed(bench: Bench, cluster: Cluster) -> None:
    container = bench.running()
    cluster.kubectl("-n", "devenv-one", "delete", "pod", "--now", f"{bench.network_name}-one")
    found = bench.engine.state(container)
    assert found.status == "gone" and "its pod is gone" in found.reason


def test_a_pod_of_somebody_else_with_that_name_is_left_alone(bench: Bench, cluster: Cluster) -> None:
    container = bench.created()
    name = f"{bench.network_name}-one"
    cluster.kubectl("-n", "devenv-one", "run", name, f"--image=docker.io/{bench.image}", "--", "sleep", "60")
    try:
        with pytest.raises(NotOurs, match="cannot start one"):
            bench.engine.start(container, "one")
        bench.engine.remove(container)
        assert name in cluster.kubectl("-n", "devenv-one", "get", "pods", "-o", "name")
    finally:
        cluster.kubectl("-n", "devenv-one", "delete", "pod", name, "--now")


def test_pods_obey_the_restricted_standard(bench: Bench, cluster: Cluster) -> None:
    started(bench, files={"/etc/devenv/one": b"1"}, volumes={bench.volume(): "/var/lib/one"})
    (pod,) = objects(cluster, bench, "pods")
    spec, (container,) = pod["spec"], pod["spec"]["containers"]
    assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    kinds = {kind for volume in spec["volumes"] for kind in volume if kind != "name"}
    assert kinds <= {"emptyDir", "secret", "persistentVolumeClaim"}
    assert not (spec.get("hostNetwork") or spec.get("hostPID") or spec["automountServiceAccountToken"])
