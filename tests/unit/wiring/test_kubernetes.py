"""The objects for `kubectl apply`: what each service becomes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml
from builders import SECRET

from devenv.images.references import images_for
from devenv.model import ComponentChoice, Desired, Profile, ServiceChoice
from devenv.spec.catalogue import load_catalogue
from devenv.spec.desired import Inputs, resolve, secret_names, select
from devenv.spec.ports import usual_ports
from devenv.wiring.compose import attaching
from devenv.wiring.kubernetes import ATTACH, manifests
from tests.pod_security import violations

SERVICES = sorted(load_catalogue())
PAIRS = [(name, {}) for name in SERVICES] + [("etcd", {"auth": True})]


def desired(names: list[str], switches: Mapping[str, bool]) -> tuple[Desired, Any]:
    catalogue = load_catalogue(switches=dict.fromkeys(names, switches))
    profile = Profile("p", dict.fromkeys(names, ServiceChoice()), components={"nova": ComponentChoice("nova")})
    selected = select(profile, catalogue)
    secrets = dict.fromkeys(secret_names(selected, profile, catalogue), SECRET)
    images = images_for(profile, catalogue)
    inputs = Inputs("env-1", profile, catalogue, images, usual_ports(selected, catalogue), secrets, inside=True)
    return resolve(selected, inputs), catalogue


def objects(names: list[str], switches: Mapping[str, bool]) -> list[dict[str, Any]]:
    return [*yaml.safe_load_all(manifests(*desired(names, switches)))]


def of_kind(found: list[dict[str, Any]], kind: str) -> Iterator[dict[str, Any]]:
    return (one for one in found if one["kind"] == kind)


@pytest.mark.parametrize(("service", "switches"), PAIRS, ids=str)
def test_each_service_gets_one_pod_that_the_restricted_standard_admits(
    service: str, switches: Mapping[str, bool]
) -> None:
    found = objects([service], switches)
    sets = {one["metadata"]["name"]: one["spec"] for one in of_kind(found, "StatefulSet")}
    assert service in sets
    for name, spec in sets.items():
        pod = spec["template"]["spec"]
        assert violations(pod) == [] and spec["replicas"] == 1
        (container,) = pod["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] and not pod["automountServiceAccountToken"]
        assert container["readinessProbe"]["exec"]["command"] and "livenessProbe" not in container
        assert container["imagePullPolicy"] == "Never", "a registry could have anybody's image of that name"
        assert {key: one["name"] for key, one in _named(container["volumeMounts"]).items()} == {
            key: one["name"] for key, one in _named(pod["volumes"]).items()
        }, name


def _named(entries: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in entries}


@pytest.mark.parametrize(("service", "switches"), PAIRS, ids=str)
def test_whatever_a_pod_names_is_among_the_objects(service: str, switches: Mapping[str, bool]) -> None:
    found = objects([service], switches)
    secrets = {one["metadata"]["name"]: one["stringData"].keys() for one in of_kind(found, "Secret")}
    services = {one["metadata"]["name"] for one in of_kind(found, "Service")}
    claims = {one["metadata"]["name"] for one in of_kind(found, "PersistentVolumeClaim")}
    for one in of_kind(found, "StatefulSet"):
        pod = one["spec"]["template"]
        selector = one["spec"]["selector"]["matchLabels"]
        assert selector.items() <= pod["metadata"]["labels"].items()
        assert one["spec"]["serviceName"] in services
        for volume in pod["spec"]["volumes"]:
            if "secret" in volume:
                used = {item["key"] for item in volume["secret"]["items"]}
                assert used == secrets[volume["secret"]["secretName"]]
            claims.discard(volume.get("persistentVolumeClaim", {}).get("claimName"))
    assert not claims, "nobody uses them"
    assert all(one["metadata"]["labels"]["io.devenv.environment"] == "env-1" for one in found)


def test_passwords_are_in_secrets_alone() -> None:
    found = objects(["mysql", "rabbitmq", "etcd", "keystone"], {})
    assert {one["kind"] for one in found if SECRET in yaml.safe_dump(one)} == {"Secret"}


def test_a_changed_file_starts_the_pod_again_and_no_other() -> None:
    wanted, catalogue = desired(["mysql", "etcd"], {})
    before = [*yaml.safe_load_all(manifests(wanted, catalogue))]
    wanted.services["mysql"].files["/etc/devenv/my.cnf"] += b"# more\n"  # type: ignore[index]
    after = [*yaml.safe_load_all(manifests(wanted, catalogue))]
    changed = [one["metadata"]["name"] for one, other in zip(before, after, strict=True) if one != other]
    assert changed == ["mysql-files", "mysql"]


def test_pods_get_images_from_the_registry_with_its_logins() -> None:
    profile = Profile(
        *("p", {"etcd": ServiceChoice()}), image_registry="r.example.org/team", image_pull_secrets=("registry-login",)
    )
    catalogue = load_catalogue()
    secrets = dict.fromkeys(secret_names(["etcd"], profile, catalogue), SECRET)
    images = images_for(profile, catalogue)
    inputs = Inputs("env-1", profile, catalogue, images, usual_ports(["etcd"], catalogue), secrets, inside=True)
    found = [*yaml.safe_load_all(manifests(resolve(["etcd"], inputs), catalogue))]
    (pod,) = (one["spec"]["template"]["spec"] for one in of_kind(found, "StatefulSet"))
    (container,) = pod["containers"]
    assert container["image"] == f"r.example.org/team/{images['etcd'].reference}"
    assert container["imagePullPolicy"] == "IfNotPresent"
    assert pod["imagePullSecrets"] == [{"name": "registry-login"}]


def test_another_devenv_is_told_how_to_attach() -> None:
    wanted, _ = desired(["mysql", "rabbitmq", "etcd", "keystone"], {})
    assert attaching(wanted) == {
        "DEVENV_ATTACH_MYSQL": f"mysql+pymysql://devenv:{SECRET}@mysql:3306/devenv?charset=utf8mb4",
        "DEVENV_ATTACH_RABBITMQ": f"rabbit://devenv:{SECRET}@rabbitmq:5672/devenv",
        "DEVENV_ATTACH_RABBITMQ_MANAGEMENT": "http://rabbitmq:15672",
        "DEVENV_ATTACH_ETCD": "http://etcd:2379",
        "DEVENV_ATTACH_KEYSTONE": "http://keystone:5000/v3",
        "DEVENV_ATTACH_KEYSTONE_USER": "admin",
        "DEVENV_ATTACH_KEYSTONE_PASSWORD": SECRET,
    }
    guarded, _ = desired(["etcd"], {"auth": True})
    assert attaching(guarded)["DEVENV_ATTACH_ETCD_USER"] == "root"
    assert ATTACH == "devenv-attach", "users name it in their own files"
