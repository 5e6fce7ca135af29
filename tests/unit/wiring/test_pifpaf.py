"""Variables of runs under pifpaf's names: a component's without its options, the administrator's with them."""

from __future__ import annotations

import re

import pytest
from builders import SECRET, shipped

from devenv.spec.catalogue import load_catalogue
from devenv.wiring.contents import conventional, job_variables
from devenv.wiring.pifpaf import Pifpaf

CATALOGUE = load_catalogue()
DESIRED = shipped(components=("nova",))
LOGIN = f"devenv:{SECRET}@127.0.0.1"
MYSQL, RABBITMQ, ETCD = f"mysql://{LOGIN}:3306/devenv", f"rabbit://{LOGIN}:5672/devenv", "etcd://127.0.0.1:2379"
FOR_SQLALCHEMY = f"mysql+pymysql://{LOGIN}:3306/devenv?charset=utf8mb4"


def component(*named: str) -> dict[str, str]:
    return conventional(DESIRED.services, "nova", {}, CATALOGUE, named)


def administrator(*named: str, **names: str) -> dict[str, str]:
    return conventional(DESIRED.services, "nova", {}, CATALOGUE, named, Pifpaf(**names))


def test_the_url_is_that_of_the_first_service_that_the_run_names() -> None:
    found = component("etcd", "mysql")
    assert found["PIFPAF_URL"] == found["PIFPAF_ETCD_URL"] == ETCD
    assert found["PIFPAF_URLS"] == f"{ETCD};{found['PIFPAF_MYSQL_URL']}"
    assert found["PIFPAF_MYSQL_URL"].startswith("mysql://nova:")
    # Named or not, a service of the component has its own variables.
    assert found["PIFPAF_RABBITMQ_URL"].startswith("rabbit://nova:")


def test_a_run_that_names_no_service_gets_the_urls_of_all() -> None:
    found = component()
    assert found["PIFPAF_URL"] == found["PIFPAF_MYSQL_URL"]
    assert len(found["PIFPAF_URLS"].split(";")) == len(DESIRED.services)


def test_a_service_that_is_named_twice_is_listed_once() -> None:
    assert component("etcd", "etcd")["PIFPAF_URLS"] == ETCD


def test_with_a_prefix_the_variables_have_that_name_and_are_the_administrators() -> None:
    assert administrator("etcd", "mysql", prefix="TOOZ_TEST") == {
        "TOOZ_TEST_URL": ETCD,
        "TOOZ_TEST_DAEMON": "etcd",
        "TOOZ_TEST_ETCD_URL": ETCD,
        "TOOZ_TEST_ETCD_PORT": "2379",
        "TOOZ_TEST_HTTP_URL": "http://127.0.0.1:2379",
        "TOOZ_TEST_MYSQL_URL": MYSQL,
        "ETCDCTL_API": "3",
        "PIFPAF_URLS": f"{ETCD};{FOR_SQLALCHEMY}",
    }


@pytest.mark.parametrize(
    ("service", "expected"),
    [
        ("mysql", {"URL": MYSQL}),
        ("rabbitmq", {"URL": RABBITMQ, "RABBITMQ_PORT": "5672"}),
        ("etcd", {"URL": ETCD, "ETCD_PORT": "2379", "HTTP_URL": "http://127.0.0.1:2379"}),
        (
            "keystone",
            {
                "URL": "keystone://127.0.0.1:5000",
                "KEYSTONE_PORT": "5000",
                "KEYSTONE_HTTP_URL": "http://127.0.0.1:5000/v3",
            },
        ),
    ],
)
def test_each_service_has_the_variables_that_pifpaf_gives_it(service: str, expected: dict[str, str]) -> None:
    known = {"DAEMON": service, "URLS": "", f"{service.upper()}_URL": expected["URL"], **expected}
    found = {key.removeprefix("PIFPAF_"): value for key, value in administrator(service).items()}
    assert {**found, "URLS": ""} == known | ({"ETCDCTL_API": "3"} if service == "etcd" else {})


def test_the_list_has_urls_that_sqlalchemy_takes_and_goes_on_from_a_run_around_it() -> None:
    outer = administrator("mysql", urls="ALL")
    assert outer["ALL"] == FOR_SQLALCHEMY and outer["PIFPAF_URL"] == MYSQL
    assert "PIFPAF_URLS" not in outer
    inner = administrator("etcd", urls="ALL", before=outer["ALL"])
    assert inner["ALL"] == f"{FOR_SQLALCHEMY};{ETCD}"
    again = administrator("mysql", urls="ALL", before=inner["ALL"])
    assert again["ALL"] == inner["ALL"]


@pytest.mark.parametrize(
    ("database", "common", "in_list"),
    [
        ("mysql", "mysql:", "mysql+pymysql:"),
        ("mariadb", "mysql:", "mysql+pymysql:"),
        ("postgresql", "postgresql:", "postgresql+psycopg2:"),
    ],
)
def test_a_databases_url_names_the_driver_in_the_list_alone(database: str, common: str, in_list: str) -> None:
    services = shipped((database,)).services
    found = conventional(services, "nova", {}, CATALOGUE, [database], Pifpaf("A", "ALL"))
    assert found["A_URL"].startswith(f"{common}//devenv:{SECRET}@") and found["ALL"].startswith(f"{in_list}//devenv:")


def test_the_components_own_variables_stay_but_those_that_oslo_config_reads() -> None:
    # oslo.config prefers variables to files, and a suite that pifpaf serves tests with files of its own.
    plain = job_variables(DESIRED, "nova", CATALOGUE)[0]
    found = job_variables(DESIRED, "nova", CATALOGUE, administrator=Pifpaf("A"))[0]
    left_out = {name for name in plain.keys() - found.keys() if not name.startswith("PIFPAF_")}
    assert "OS_DATABASE__CONNECTION" in left_out
    assert all(re.match(r"OS_[A-Z_]+?__[A-Z_]+\Z", name) for name in left_out), left_out
    assert {"DEVENV_COMPONENT", "DEVENV_MYSQL_URL", "DATABASE_URL", "OS_AUTH_URL"} <= found.keys()


def test_without_a_service_that_pifpaf_knows_there_is_nothing() -> None:
    assert conventional({}, "nova", {}, CATALOGUE, (), Pifpaf("A")) == {}
