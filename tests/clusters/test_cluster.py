"""The cluster for tests leaves nothing behind, however its tests end."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from project import require

from tests.clusters.cluster import BUILD, Cluster, built, free_port, until

REPOSITORY = Path(__file__).parents[2]
# Starts a cluster that belongs to this program, and waits to be killed.
OWNER = """
import sys
from pathlib import Path
from tests.clusters.cluster import running
with running(Path(sys.argv[1]), int(sys.argv[2])) as cluster:
    print(cluster.kubectl("get", "nodes", "--output=name"), flush=True)
    sys.stdin.read()
"""


def processes(cluster: Cluster) -> list[str]:
    """Return the processes that know the cluster's folder: by their variables or their arguments."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            told = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
        except OSError:  # It has just ended.
            continue
        if str(cluster.state).encode() in told and int(process.name) != os.getpid():
            found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def left(cluster: Cluster) -> list[str]:
    """Return what the machine has of a cluster: its folder, processes, control groups and mounts."""
    name = f"k8s-{hashlib.md5(str(cluster.state).encode()).hexdigest()[:6]}"
    groups = [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/{name}-*")]
    mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(cluster.state) in line]
    return [*map(str, cluster.state.parent.glob("state")), *processes(cluster), *groups, *mounts]


@pytest.mark.long
@pytest.mark.parametrize("early", [False, True], ids=["when it runs", "while it starts"])
def test_a_cluster_ends_with_the_process_that_it_belongs_to(early: bool, tmp_path: Path) -> None:
    require("" if built() else BUILD)
    port = free_port()
    cluster = Cluster(tmp_path / "state", port)
    command = [sys.executable, "-c", OWNER, str(cluster.state), str(port)]
    with subprocess.Popen(
        command, cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": "."}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout
        if early:
            until((cluster.state / "node1" / "containerd.log").exists)
        else:
            assert owner.stdout.readline() == b"node/node1\n"
        assert any("cgroup" in one for one in left(cluster)) and processes(cluster)
        owner.send_signal(signal.SIGKILL)
    until(lambda: not left(cluster))
    with socket.create_server(("127.0.0.1", port)):
        pass  # Nobody listens there any more.


def test_a_stop_without_a_cluster_is_no_error(tmp_path: Path) -> None:
    assert "no cluster runs" in Cluster(tmp_path / "state", 1).program("stop")


@pytest.mark.long
def test_pods_run_on_the_images_of_the_engine_and_find_services_by_name(
    cluster: Cluster, namespaces: tuple[str, ...], loaded: list[str]
) -> None:
    etcd = next(image for image in loaded if image.startswith("devenv/etcd:"))
    space = f"--namespace={namespaces[1]}"
    shown = ["--listen-client-urls=http://0.0.0.0:2379", "--advertise-client-urls=http://127.0.0.1:2379"]
    run = [f"--image=docker.io/{etcd}", "--image-pull-policy=Never", "--port=2379", "--expose"]
    cluster.kubectl("run", "seen", space, *run, "--command", "--", "etcd", "--data-dir=/tmp/etcd", *shown)
    cluster.kubectl("wait", "pod/seen", space, "--for=condition=Ready", "--timeout=60s")
    asked = ["etcdctl", f"--endpoints=http://seen.{namespaces[1]}.svc.cluster.local:2379", "endpoint", "health"]
    until(lambda: "is healthy" in cluster.kubectl("exec", "seen", space, "--", *asked, check=False))
    cluster.kubectl("delete", space, "pod/seen", "service/seen", "--now")
    assert not cluster.names(namespaces[1])
