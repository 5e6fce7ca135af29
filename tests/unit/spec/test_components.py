"""A component's part of a service: names, passwords, its own view; and names that are taken."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from builders import SECRET

from devenv.errors import ConfigError
from devenv.images.references import images_for
from devenv.model import ComponentChoice, Desired, Profile, ServiceChoice
from devenv.spec.catalogue import load_catalogue
from devenv.spec.components import check_components, former_components
from devenv.spec.desired import Inputs, resolve, secret_names
from devenv.wiring.contents import component_map, conventional, flat_map, known_files, overlay_name, wired_files

NAMES = ("mysql", "keystone", "rabbitmq", "etcd")
NOVA = ComponentChoice("nova", roles=("admin",), catalog={"type": "compute", "name": "nova", "url": "http://n:1/v2"})
MINE = ComponentChoice("my-service")
CATALOGUE = load_catalogue()


def profile(*components: ComponentChoice) -> Profile:
    named = {component.name: component for component in components}
    return Profile("base", {name: ServiceChoice() for name in NAMES}, "devenv.yaml", components=named)


def desired(*components: ComponentChoice, former: tuple[str, ...] = (), switches: Any = None) -> Desired:
    catalogue = load_catalogue(switches=switches, asked_by="devenv.yaml")
    chosen = profile(*components)
    ports = {f"{name}/{key}": e.port for name in NAMES for key, e in catalogue[name].endpoints.items()}
    secrets = {name: f"{SECRET}-{name}" for name in secret_names(NAMES, chosen, catalogue, former)}
    return resolve(NAMES, Inputs("env-1", chosen, catalogue, images_for(chosen, catalogue), ports, secrets, former))


def files(*components: ComponentChoice, **more: Any) -> dict[str, str]:
    return wired_files(desired(*components, **more), load_catalogue(**more))


# ---- parts -------------------------------------------------------------------------------------------------------


def test_a_component_has_its_own_names_and_password_in_each_service() -> None:
    services = desired(NOVA, MINE).services
    settings = {name: service.components["my-service"].settings for name, service in services.items()}
    assert settings["mysql"] == {
        "user": "my_service",
        "database": "my_service",
        "password": f"{SECRET}-mysql/my-service",
    }
    assert settings["rabbitmq"] == {
        "user": "my-service",
        "vhost": "my-service",
        "password": f"{SECRET}-rabbitmq/my-service",
    }
    assert settings["etcd"] == {"prefix": "/my-service/"}
    assert (settings["keystone"]["user"], settings["keystone"]["project"]) == ("my-service", "service")
    assert (settings["keystone"]["roles"], settings["keystone"]["catalog_type"]) == ("service", "")
    passwords = [part["password"] for part in settings.values() if "password" in part]
    assert len(set(passwords)) == len(passwords) == 3


def test_roles_and_catalog_go_to_the_service_that_asks_for_them() -> None:
    services = desired(NOVA).services
    given = services["keystone"].components["nova"].settings
    assert (given["roles"], given["catalog_type"], given["catalog_url"]) == (
        "service,admin",
        "compute",
        "http://n:1/v2",
    )
    plain = desired(ComponentChoice("nova")).services
    changed = {n for n in NAMES if services[n].components["nova"].digest != plain[n].components["nova"].digest}
    assert changed == {"keystone"}


def test_a_component_never_changes_a_container() -> None:
    before, after = desired().services, desired(NOVA, MINE).services
    assert [s.config_hash for s in before.values()] == [s.config_hash for s in after.values()]


def test_a_service_that_needs_another_is_a_component_of_it() -> None:
    services = desired(NOVA).services
    assert services["keystone"].needs == ("mysql/keystone",)
    assert list(services["mysql"].components) == ["keystone", "nova"]
    config = services["keystone"].files["/etc/devenv/keystone.conf"].decode()
    assert f"mysql+pymysql://keystone:{SECRET}-mysql/keystone@mysql:3306/keystone?" in config


def test_no_components_view_holds_a_password_of_somebody_else() -> None:
    target = desired(NOVA, MINE)
    mine = {"my-service", "env", "endpoints.json", "openrc", "clouds.yaml", "oslo.conf"}
    for name, text in wired_files(target, CATALOGUE).items():
        if name.partition(".")[0] not in mine and name not in mine:
            assert "/my-service" not in text.replace("/my-service/", "")
            assert f"{SECRET}-mysql.password" not in text
    flat = component_map(target.services, "nova", wired_files(target, CATALOGUE)["nova.conf"])
    assert not [value for value in flat.values() if "my-service" in value or "admin_password" in value]


# ---- names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("mysql", "sys", "information_schema", "information-schema", "root", "guest", "admin", "demo", "keystone"),
        *("tooz", "devenv", "devenv-a", "devenv_b"),
    ],
)
def test_a_name_that_is_taken_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot name a component '{name}'") as caught:
        check_components(profile(ComponentChoice(name)), CATALOGUE)
    assert "devenv.yaml" in caught.value.message


def test_other_names_are_fine() -> None:
    check_components(profile(NOVA, MINE, ComponentChoice("on"), ComponentChoice("devenvy")), CATALOGUE)


def test_no_component_is_what_a_service_is_in_the_catalog() -> None:
    mine = ComponentChoice("mine", catalog={"type": "identity", "url": "http://127.0.0.1:1", "name": "mine"})
    with pytest.raises(ConfigError, match=r"cannot list component 'mine' as 'identity' .*: that is keystone"):
        check_components(profile(mine), CATALOGUE)


def test_a_component_whose_file_is_anothers_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"cannot name a component 'oslo': devenv writes another oslo\.conf"):
        files(ComponentChoice("oslo"))


def test_former_components_are_those_that_nobody_asks_for() -> None:
    known = ["mysql/keystone", "mysql/nova", "rabbitmq/nova", "mysql/old", "etcd/old", "etcd"]
    assert former_components(known, profile(NOVA), CATALOGUE) == ["old"]
    services = desired(NOVA, former=("old",)).services
    assert [list(services[name].former) for name in NAMES] == [["old"]] * 4


def test_a_former_component_that_is_called_the_same_as_a_present_one_is_not_dropped_there() -> None:
    renamed = ComponentChoice("my_service")
    services = desired(renamed, former=("my-service",)).services
    assert list(services["mysql"].former) == []
    assert list(services["rabbitmq"].former) == list(services["keystone"].former) == ["my-service"]


@pytest.mark.parametrize("name", ["endpoints", "oslo"])
def test_a_component_does_not_take_the_environments_files(name: str) -> None:
    with pytest.raises(ConfigError, match="devenv writes another"):
        files(ComponentChoice(name))


def test_a_section_that_is_written_anyway_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"cannot add section 'service_user' for component 'nova'"):
        files(replace(NOVA, sections={"service_user": ""}))


# ---- files -------------------------------------------------------------------------------------------------------


def test_each_component_has_its_files() -> None:
    written = set(files(NOVA, MINE)) - known_files(CATALOGUE)
    kinds = ("{}.conf", "{}.conf.d/{}.conf", "{}.env", "{}.json")
    assert written == {kind.format(name, name) for name in ("nova", "my-service") for kind in kinds}
    assert overlay_name("nova") == "nova.conf"


def test_sections_and_the_catalog_add_to_the_overlay() -> None:
    listed = replace(NOVA, sections={"neutron": "network", "cinder": ""})
    text, plain = files(listed)["nova.conf"], files(MINE)["my-service.conf"]
    oslo_limit = "endpoint_service_type = compute\n"
    for section in ("[neutron]", "[cinder]", oslo_limit, "endpoint_service_name = nova", "service_type = network"):
        assert section in text
        assert section not in plain
    cinder = text.partition("[cinder]")[2].partition("\n[")[0]
    assert "username = nova" in cinder and "service_type" not in cinder


def test_the_same_templates_tell_the_environment_itself() -> None:
    text = files()["oslo.conf"]
    assert f"connection = mysql+pymysql://devenv:{SECRET}-mysql.password@127.0.0.1:3306/devenv" in text
    assert "username = devenv\n" in text and f"password = {SECRET}-keystone.password\n" in text


def test_json_templates_are_merged_to_one_object() -> None:
    clients = json.loads(files(NOVA)["nova.json"])
    assert {"pymysql", "sqlalchemy", "kombu", "amqp", "etcd3", "etcd3gw", "keystoneauth", "openstacksdk"} <= set(
        clients
    )
    assert (clients["pymysql"]["port"], clients["etcd3gw"]["api_path"]) == (3306, "/v3/")


def test_the_variables_of_a_component_are_its_own_view_and_its_options() -> None:
    target = desired(NOVA)
    flat = component_map(target.services, "nova", wired_files(target, CATALOGUE)["nova.conf"])
    assert flat["DEVENV_MYSQL_DATABASE"] == flat["DEVENV_RABBITMQ_VHOST"] == flat["OS_USERNAME"] == "nova"
    assert flat["OS_DATABASE__CONNECTION"] == flat["DEVENV_MYSQL_URL"]
    assert flat["OS_DEFAULT__TRANSPORT_URL"] == flat["DEVENV_RABBITMQ_URL"]
    # Variables cannot express an option that may be repeated, so they leave out its section.
    assert not [name for name in flat if name.startswith(("OS_CACHE__", "OS_OSLO_MESSAGING_NOTIFICATIONS__"))]
    # The component gets each variable that the administrator gets.
    assert set(flat_map(target.services)) <= set(flat)


def test_a_login_for_etcd_is_written_only_where_it_asks_for_one() -> None:
    switched = {"switches": {"etcd": {"auth": True}}, "asked_by": "devenv.yaml"}
    catalogue = load_catalogue(**switched)
    target = desired(NOVA, switches=switched["switches"])
    written = wired_files(target, catalogue)
    assert target.services["etcd"].components["nova"].settings["user"] == "nova"
    assert "ETCDCTL_USER=nova:" in written["nova.env"]
    assert "backend_url" not in written["nova.conf"] and "backend_url" not in written["oslo.conf"]
    assert flat_map(target.services)["DEVENV_ETCD_USER"] == "root"
    assert "DEVENV_ETCD_USER" not in flat_map(desired(NOVA).services)
    assert "ETCDCTL_USER" not in files(NOVA)["nova.env"]


def test_a_switch_that_a_service_does_not_have_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"cannot switch 'tls' of etcd \(in devenv.yaml\)") as caught:
        load_catalogue(switches={"etcd": {"tls": True}}, asked_by="devenv.yaml")
    assert caught.value.hint == "it has: auth, durable"
    assert load_catalogue(switches={"etcd": {"auth": False}})["etcd"] == CATALOGUE["etcd"]


def test_a_run_gets_the_names_that_other_programs_know_and_pifpafs_urls_together() -> None:
    found = conventional(desired(MINE).services, "my-service", files(MINE), CATALOGUE)
    own = f"my_service:{SECRET}-mysql/my-service"
    assert found["DATABASE_URL"] == found["PIFPAF_MYSQL_URL"] == f"mysql://{own}@127.0.0.1:3306/my_service"
    urls = [found[f"PIFPAF_{name.upper()}_URL"] for name in NAMES]
    assert found["PIFPAF_URL"] == urls[0] and found["PIFPAF_URLS"].split(";") == urls
    assert found["PIFPAF_ETCD_URL"] == "etcd://127.0.0.1:2379" and found["PIFPAF_RABBITMQ_PORT"] == "5672"
    assert "PIFPAF_URL" not in conventional({}, "my-service", {}, CATALOGUE)
