"""What `devenv doctor` finds of a cluster, and what it says to do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fake_api import Answer, Api, answering, refusal

from devenv.cli import cluster_doctor
from devenv.cli.doctor import Check, Wanted
from devenv.cli.main import main
from devenv.engine.install import Host
from devenv.engine.kubernetes.connection import Cluster
from devenv.errors import NoEngine
from devenv.images.references import BASE

REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
CLASSES = "/apis/storage.k8s.io/v1/storageclasses"
IMAGES = {"mysql": "devenv/mysql:1", "etcd": "devenv/etcd:1", BASE: "devenv/base:1"}
ALLOWED = Answer(body={"status": {"allowed": True}})


def storage(*default: bool) -> Answer:
    note = "storageclass.kubernetes.io/is-default-class"
    items = [
        {"metadata": {"name": f"class-{i}", "annotations": {note: "true"} if on else {}}}
        for i, on in enumerate(default)
    ]
    return Answer(body={"items": items})


def nodes(*names: list[str]) -> Answer:
    return Answer(body={"items": [{"status": {"images": [{"names": each}]}} for each in names]})


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """Run a cluster with which all is well."""
    with answering(Answer(body={"gitVersion": "v1.31.0"})) as (cluster, found):
        found.places = {
            "/api/v1/namespaces/team": Answer(body={"status": {"phase": "Active"}}),
            REVIEWS: ALLOWED,
            CLASSES: storage(False, True),
            "/api/v1/nodes": nodes(["docker.io/devenv/mysql:1", "docker.io/devenv/etcd:1"]),
        }

        def opened(*_: str) -> Cluster:
            return cluster

        monkeypatch.setattr(cluster_doctor, "open_cluster", opened)
        yield found


def checks() -> dict[str, Check]:
    return {check.name: check for check in cluster_doctor.diagnose(Wanted(IMAGES, {}, Host()))}


def test_a_good_cluster_is_described(api: Api) -> None:
    found = checks()
    assert {check.status for check in found.values()} == {"ok"}
    assert found["engine"].detail.startswith("Kubernetes v1.31.0 answers at kubernetes://here/team")
    assert found["storage"].detail == "storage class class-1 is the default"
    assert found["images"].detail == "2 of 2 are on every node"
    assert {"rights", "namespace", "kubectl", "websockets", "ports", "proxy"} <= found.keys()


@pytest.mark.parametrize(
    "path, answer, name, status, detail",
    [
        ("/api/v1/namespaces/team", refusal(404), "namespace", "fail", "there is no namespace team"),
        ("/api/v1/namespaces/team", refusal(403), "namespace", "ok", "may not look at namespaces"),
        (
            "/api/v1/namespaces/team",
            Answer(body={"status": {"phase": "Terminating"}}),
            "namespace",
            "fail",
            "namespace team is terminating",
        ),
        (REVIEWS, Answer(body={"status": {"allowed": False}}), "rights", "fail", "pods/exec (get, create)"),
        (CLASSES, storage(False), "storage", "warn", "no default storage class"),
        (CLASSES, refusal(403), "storage", "ok", "not checked"),
        ("/api/v1/nodes", nodes(["docker.io/devenv/mysql:1"]), "images", "warn", "nodes have to pull etcd"),
        ("/api/v1/nodes", nodes(["devenv/mysql:1", "devenv/etcd:1"], []), "images", "warn", "0 of 2 are on every node"),
        ("/api/v1/nodes", refusal(403), "images", "ok", "not checked"),
        ("/api/v1/nodes", Answer(body={"items": "nonsense"}), "images", "warn", "cannot check"),
    ],
)
def test_what_is_wrong_is_found(path: str, answer: Answer, name: str, status: str, detail: str, api: Api) -> None:
    api.places[path] = answer
    found = checks()[name]
    assert found.status == status and detail in found.detail
    assert status == "ok" or found.hint


def test_without_a_cluster_this_host_is_still_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*_: str) -> Cluster:
        raise NoEngine("cannot find kubectl in PATH", "install kubectl")

    monkeypatch.setattr(cluster_doctor, "open_cluster", opened)
    found = checks()
    assert (found["engine"].status, found["engine"].hint) == ("fail", "install kubectl")
    assert {"ports", "proxy", "websockets"} <= found.keys()


@pytest.mark.parametrize("fix", [(), ("--fix",)], ids=["check", "fix"])
def test_doctor_checks_the_cluster_of_the_options_and_installs_no_engine(
    fix: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def opened(*place: str) -> Cluster:
        asked.append(place)
        raise NoEngine("cannot use the cluster: it is not there")

    def installed(*_: Any) -> None:
        raise AssertionError("installs an engine")

    monkeypatch.setattr(cluster_doctor, "open_cluster", opened)
    monkeypatch.setattr("devenv.cli.doctor.fix", installed)
    where = ["--project", str(tmp_path), "--engine", "kubernetes", "--context", "here", "--namespace", "team"]
    result = CliRunner().invoke(main, [*where, "doctor", *fix, "--format", "json"])
    assert result.exit_code == 4 and asked == [("here", "team", "")]
    assert json.loads(result.stdout)[0]["detail"] == "cannot use the cluster: it is not there"
    assert ("nothing to fix" in result.stderr) == bool(fix)
