"""The cluster for tests, as tests use it: the program `kubernetes` starts it, `kubectl` asks it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).parent / "kubernetes"
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "devenv-test-kubernetes"
BIN = Path(os.environ.get("K8S_CACHE") or _CACHE) / "bin"
# What `make kubernetes` says it wants where the cluster cannot be had.
BUILD = "Kubernetes is not built here; run 'make kubernetes' (5 minutes, once)"
# What devenv makes in a namespace.
KINDS = "pods,services,secrets,configmaps,persistentvolumeclaims,leases"


def built() -> bool:
    """Tell whether the cluster's programs are there."""
    # The last one that is built.
    return (BIN / "pause").is_file()


@dataclass(frozen=True)
class Cluster:
    """A running cluster: the folder of all that it has, and the port of its API on 127.0.0.1."""

    state: Path
    port: int

    @property
    def kubeconfig(self) -> Path:
        """Return the administrator's kubeconfig."""
        return self.state / "kubeconfig"

    def program(self, *arguments: str, **variables: str) -> str:
        """Run the program `kubernetes` on this cluster; return what it prints."""
        environ = {**os.environ, "K8S_STATE": str(self.state), "K8S_PORT": str(self.port), **variables}
        command = [PROGRAM, *arguments]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def kubectl(self, *arguments: str, stdin: str = "", check: bool = True) -> str:
        """Run kubectl as the administrator; return what it prints."""
        command = [BIN / "kubectl", f"--kubeconfig={self.kubeconfig}", *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
        assert done.returncode == 0 or not check, f"kubectl {arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout + ("" if check else done.stderr)

    def get(self, *arguments: str) -> Any:
        """Return what `kubectl get` finds, as data."""
        return json.loads(self.kubectl("get", *arguments, "--output=json"))

    def names(self, namespace: str, kinds: str = KINDS) -> set[str]:
        """Return what a namespace has, as kind/name, without what each namespace has from its beginning."""
        printed = self.kubectl("get", kinds, f"--namespace={namespace}", "--output=name").split()
        given = ("secret/default-token", "secret/devenv-token", "configmap/kube-root-ca")
        return {name for name in printed if not name.startswith(given)}

    def emptied(self, namespace: str) -> None:
        """Wait until a namespace has nothing but what it had from its beginning; else say what it has."""
        until(lambda: not self.names(namespace), lambda: self.kubectl("describe", KINDS, f"--namespace={namespace}"))

    def nodes(self) -> list[int]:
        """Return the first process of each node."""
        words = [line.split() for line in (self.state / "pids").read_text().splitlines()]
        return [int(process) for name, process in words if name.startswith("node")]

    def load(self, images: Sequence[str]) -> None:
        """Copy these images of the Docker engine to all nodes."""
        self.program("load", *images)


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextmanager
def running(state: Path, port: int, nodes: int = 1) -> Iterator[Cluster]:
    """Run a cluster. It ends with the block, and with this process, however that ends."""
    cluster = Cluster(state, port)
    try:
        cluster.program("start", str(nodes), K8S_OWNER=str(os.getpid()))
        yield cluster
    finally:
        cluster.program("stop")


def until(happened: Callable[[], object], instead: Callable[[], str] = str) -> None:
    """Wait for it, for two minutes at most; then show what there is instead."""
    for _ in range(1200):
        if happened():
            return
        time.sleep(0.1)
    pytest.fail(f"it did not happen in two minutes\n{instead()}")
