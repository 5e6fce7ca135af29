"""What devenv asks a cluster for, as objects."""

from __future__ import annotations

import base64
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_api import Answer, Objects, answering

from devenv.engine.kubernetes import manifests
from devenv.engine.kubernetes.kubernetes import Kubernetes
from devenv.engine.kubernetes.manifests import PodSettings
from devenv.model import (
    LABEL_CONFIG_HASH,
    LABEL_ENVIRONMENT,
    LABEL_OWNER,
    LABEL_PORTS,
    LABEL_SERVICE,
    ContainerOptions,
    DesiredService,
    Image,
)

LABELS = {LABEL_ENVIRONMENT: "env-1", LABEL_OWNER: "0-abc"}
OWNER = {"apiVersion": "v1", "kind": "ConfigMap", "name": "devenv-env-1", "uid": "u"}
OPTIONS = ContainerOptions(
    user="mysql", entrypoint=("sh", "/etc/devenv/run.sh"), tmpfs=("/tmp",), read_only=True, nofile=16384, mem_limit=800
)


def service(**more: Any) -> DesiredService:
    what = {
        "options": OPTIONS,
        "files": {"/etc/devenv/run.sh": b"#!", "/etc/devenv/more/.two": b"2"},
        "volumes": {"devenv-env-1-mysql-data": "/var/lib/mysql"},
        "ports": {3306: 13306},
        "uid": 999,
        **more,
    }
    image = Image("devenv/mysql:1", "build", "mysql")
    return DesiredService("mysql", "database", image, "devenv-env-1-mysql", config_hash="h", parts={"a": "b"}, **what)


def pod(settings: PodSettings | None = None, **more: Any) -> dict[str, Any]:
    return manifests.pod(service(**more), LABELS, OWNER, settings or PodSettings())


def test_every_object_has_the_labels_and_goes_with_the_environment() -> None:
    one = service(durable=True)
    made = [
        pod(),
        manifests.service(one, LABELS, OWNER, PodSettings()),
        manifests.secret(one, LABELS, OWNER),
        manifests.claim("devenv-env-1-mysql-data", one, LABELS, OWNER, PodSettings()),
    ]
    for found in made:
        about = found["metadata"]
        assert about["labels"].items() >= {LABEL_ENVIRONMENT: "env-1", LABEL_SERVICE: "mysql"}.items()
        assert about["annotations"][LABEL_OWNER] == "0-abc"
        assert [owner["uid"] for owner in about["ownerReferences"]] == ["u"]
    assert made[1]["metadata"]["labels"][LABEL_CONFIG_HASH] == "h"
    assert json.loads(made[1]["metadata"]["annotations"][LABEL_PORTS]) == {"3306": 13306}


def test_files_are_in_a_secret_and_nowhere_else() -> None:
    secret = manifests.secret(service(), LABELS, OWNER)
    assert {key: base64.b64decode(data) for key, data in secret["data"].items()} == {
        "run.sh": b"#!",
        "more...two": b"2",
    }
    (volume,) = [volume["secret"] for volume in pod()["spec"]["volumes"] if "secret" in volume]
    assert volume["items"][1] == {"key": "more...two", "path": "more/.two"} and volume["defaultMode"] == 0o444


def test_a_volume_is_the_folder_that_every_user_may_write_to() -> None:
    mounts = {mount["name"]: mount["mountPath"] for mount in pod()["spec"]["containers"][0]["volumeMounts"]}
    assert mounts == {"volume-data": "/var/lib/mysql/data", "files": "/etc/devenv", "memory-0": "/tmp"}
    volumes = {volume.pop("name"): volume for volume in pod()["spec"]["volumes"]}
    assert volumes["volume-data"] == {"emptyDir": {}} and volumes["memory-0"] == {"emptyDir": {"medium": "Memory"}}
    durable = {volume.pop("name"): volume for volume in pod(durable=True)["spec"]["volumes"]}
    assert durable["volume-data"] == {"persistentVolumeClaim": {"claimName": "devenv-env-1-mysql-data"}}


def test_a_pod_gets_no_rights_and_no_surprises() -> None:
    spec = pod()["spec"]
    assert spec["securityContext"]["runAsUser"] == 999 and spec["securityContext"]["runAsNonRoot"]
    assert (spec["restartPolicy"], spec["enableServiceLinks"], spec["automountServiceAccountToken"]) == (
        "Never",
        False,
        False,
    )
    container = spec["containers"][0]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"] == {"memory": "800"}
    # A shell lowers its own limit on open files: a pod cannot.
    assert container["command"][2].startswith("ulimit -n 16384") and container["command"][3:] == [*OPTIONS.entrypoint]


VOLUME = "devenv-env-1-mysql-data"


def filling(image: str, **more: Any) -> dict[str, Any]:
    (found,) = pod(PodSettings(first_data={VOLUME: image}), **more)["spec"]["initContainers"]
    return dict(found)


def test_a_pod_copies_first_data_before_its_service_starts() -> None:
    found = filling("registry.test/devenv/golden-for-pods:1")
    (service,) = pod()["spec"]["containers"]
    assert {key: found[key] for key in ("resources", "securityContext")}.items() <= service.items()
    assert found["imagePullPolicy"] == "IfNotPresent" and filling("devenv/one:1")["imagePullPolicy"] == "Never"
    assert found["volumeMounts"] == [{"name": "volume-data", "mountPath": "/var/lib/mysql/data"}]
    assert "initContainers" not in pod()["spec"]


def filled(source: Path, target: Path, durable: bool = False) -> None:
    """Copy first data as a pod does."""
    *command, _, _, how = filling("devenv/one:1", durable=durable)["command"]
    subprocess.run([*command, source, target, how], check=True)


@pytest.mark.parametrize("durable", [False, True])
def test_first_data_gets_into_an_empty_volume_with_names_and_modes(tmp_path: Path, durable: bool) -> None:
    source, target = folder(tmp_path / "from", "db/one", ".mark"), folder(tmp_path / "to", "lost+found/0")
    (source / "db/one").chmod(0o640)
    filled(source, target, durable)
    assert inside(target) == {"db/one", ".mark", "lost+found/0"}
    assert (target / "db/one").stat().st_mode & 0o777 == 0o640


def test_a_volume_with_data_stays_as_it_is(tmp_path: Path) -> None:
    source, target = folder(tmp_path / "from", "db/one"), folder(tmp_path / "to", "own")
    filled(source, target)
    assert inside(target) == {"own"}


def test_a_copy_that_was_killed_is_made_again(tmp_path: Path) -> None:
    source, target = folder(tmp_path / "from", "db/one", "db/two"), folder(tmp_path / "to", ".devenv-half", "db/half")
    filled(source, target)
    assert inside(target) == {"db/one", "db/two"}


def test_a_durable_service_does_not_start_on_half_of_its_first_data(tmp_path: Path) -> None:
    more = {"durable": True, "golden": (VOLUME,), "volumes": {VOLUME: str(tmp_path)}}
    *shell, entrypoint, file = pod(**more)["spec"]["containers"][0]["command"]
    assert (entrypoint, file) == OPTIONS.entrypoint
    data = folder(tmp_path / "data", "db/one")
    subprocess.run([*shell, "true"], check=True)
    assert inside(data) == {"db/one"}
    folder(data, ".devenv-half")
    subprocess.run([*shell, "true"], check=True)
    assert inside(data) == set()


def folder(path: Path, *files: str) -> Path:
    """Make a folder with these files."""
    for name in files:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).touch()
    return path


def inside(path: Path) -> set[str]:
    return {str(one.relative_to(path)) for one in path.rglob("*") if one.is_file()}


@pytest.mark.parametrize("user, uid, wanted", [("1234:5", 9, 1234), ("mysql", 999, 999), ("nobody", 0, 65534)])
def test_a_user_is_a_number(user: str, uid: int, wanted: int) -> None:
    assert pod(options=ContainerOptions(user=user), uid=uid)["spec"]["securityContext"]["runAsUser"] == wanted


def test_a_pod_gets_its_image_from_the_registry_and_ends_in_time() -> None:
    image = Image("devenv/mysql:1", "build", "mysql", registry="registry.test/team", pull_secrets=("login",))
    wanted = replace(service(), image=image)
    spec = manifests.pod(wanted, LABELS, OWNER, PodSettings(deadline=60))["spec"]
    assert spec["containers"][0]["image"] == "registry.test/team/devenv/mysql:1"
    assert (spec["imagePullSecrets"], spec["activeDeadlineSeconds"]) == ([{"name": "login"}], 60)


@pytest.mark.parametrize("variable, seconds", [("true", 6 * 3600), ("", None), (None, None)])
def test_pods_of_a_job_end_after_six_hours_and_others_do_not(
    variable: str | None, seconds: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)
    if variable is not None:
        monkeypatch.setenv("CI", variable)
    with answering(Answer()) as (cluster, api):
        api.objects = Objects()
        engine = Kubernetes(cluster)
        engine.create(service(), LABELS, engine.create_network("devenv-env-1", LABELS))
        made = json.loads(api.objects.named("services")["metadata"]["annotations"][manifests.POD])
    assert made["spec"].get("activeDeadlineSeconds") == seconds


def test_a_service_without_ports_has_a_name_all_the_same() -> None:
    found = manifests.service(service(ports={}), LABELS, OWNER, PodSettings())
    assert found["spec"]["clusterIP"] == "None" and "ports" not in found["spec"]
