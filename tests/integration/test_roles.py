"""Which database Keystone and the components use, if there are several."""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from dotenv import dotenv_values
from oslo_config import cfg
from project import Project, one_clear_line, plan_of
from test_citest import ask

from devenv.services import lookup


def connection(project: Project, component: str) -> str:
    """Return the URL of the database that a component is configured for."""
    return option(project.folder / ".devenv" / f"{component}.conf")


def option(overlay: Path) -> str:
    conf = cfg.ConfigOpts()
    conf.register_opt(cfg.StrOpt("connection"), "database")
    conf(["--config-file", str(overlay)])
    return str(conf.database.connection)


def services(project: Project) -> dict[str, str]:
    return {name: service["state"] for name, service in project.json("status")["services"].items()}


def keystones_database(project: Project) -> str:
    config = project.devenv("exec", "keystone", "cat", "/etc/devenv/keystone.conf").stdout
    return config.partition("\nconnection = ")[2].partition("://")[0]


def test_a_database_asked_for_by_name_is_everybodys_until_its_data_is_gone(project: Project) -> None:
    project.configure("profile: identity\ncomponents: [nova]\n")
    project.devenv("up", "postgresql", "keystone")
    assert services(project) == {"postgresql": "ready", "keystone": "ready"}
    assert keystones_database(project) == "postgresql+psycopg2"
    assert connection(project, "nova").startswith("postgresql+psycopg2://nova:")
    assert plan_of(project) == []
    project.devenv("down", "--volumes")
    assert ("create", "mysql", "no container") in plan_of(project)


def test_a_database_that_cannot_start_becomes_nobodys(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(lookup.NEEDS, "postgresql", "no_such_package")
    project.configure("profile: identity\n")
    one_clear_line(project.devenv("up", "postgresql", check=False), 3, "no_such_package is not installed")
    assert ("create", "mysql", "no container") in plan_of(project)


@pytest.mark.long
def test_a_reset_of_another_database_moves_nobody(project: Project) -> None:
    project.configure("profile: database\ncomponents: [nova]\n")
    project.devenv("up")
    project.devenv("up", "postgresql")
    before = connection(project, "nova")
    project.devenv("reset", "mysql")
    assert connection(project, "nova") == before and before.startswith("postgresql")


@pytest.mark.long
def test_another_database_in_devenv_yaml_gets_keystone_and_the_components(project: Project) -> None:
    project.configure("profile: identity\ncomponents: [nova]\n")
    project.devenv("up")
    assert keystones_database(project) == "mysql+pymysql"
    project.configure("profile: identity\ncomponents: [nova]\ndatabase: postgresql\n")
    said = project.devenv("up").stderr
    assert "mysql is not in the profile; remove it with 'devenv down mysql'" in said
    assert keystones_database(project) == "postgresql+psycopg2"
    assert connection(project, "nova").startswith("postgresql+psycopg2://")
    login = project.json("env", "--component", "nova")
    project.devenv("exec", "keystone", "true")
    assert services(project) == {"postgresql": "ready", "keystone": "ready", "mysql": "ready"}
    assert login["OS_USERNAME"] == "nova"


def test_two_databases_run_beside_each_other_and_a_component_is_configured_for_one(project: Project) -> None:
    text = "profile: database\nservices: [postgresql]\ncomponents: [nova]\n"
    for key, scheme in (("", "mysql+pymysql"), ("database: postgresql\n", "postgresql+psycopg2")):
        project.configure(text.replace("[postgresql]", "[mysql, postgresql]") + key)
        project.devenv("up")
        assert services(project) == {"mysql": "ready", "postgresql": "ready"}
        assert connection(project, "nova").startswith(f"{scheme}://")
        assert option(project.folder / ".devenv" / "oslo.conf").startswith(f"{scheme}://devenv:")
        dotenv = dotenv_values(project.folder / ".devenv" / "nova.env")
        assert dotenv["SQLALCHEMY_DATABASE_URI"] == connection(project, "nova")
        assert project.devenv("export", "devstack").stdout.count("DATABASE_TYPE=") == 1
    env = project.json("env", "--component", "nova")
    for service in ("mysql", "postgresql"):
        ask(urlsplit(env[f"DEVENV_{service.upper()}_URL"]), "SELECT 1")


def test_a_run_with_another_database_leaves_what_others_use_as_it_is(project: Project) -> None:
    project.configure("profile: identity\ncomponents: [nova]\n")
    project.devenv("up")
    before = connection(project, "nova")
    script = 'test "${DATABASE_URL%%:*}" = postgresql && cat .devenv/nova.conf && cat "$DEVENV_OSLO_CONF"'
    meanwhile = project.devenv("run", "postgresql", "--", "sh", "-c", script).stdout
    assert before in meanwhile and "postgresql+psycopg2://run_" in meanwhile
    assert connection(project, "nova") == before
    assert keystones_database(project) == "mysql+pymysql"
    assert services(project) == {"mysql": "ready", "keystone": "ready"}


@pytest.mark.long
def test_a_run_alone_has_all_on_the_database_that_it_names(project: Project) -> None:
    project.configure("profile: identity\n")
    devenv = f"{sys.executable} -m devenv"
    script = f"{devenv} exec keystone cat /etc/devenv/keystone.conf; {devenv} status"
    seen = project.devenv("run", "postgresql", "keystone", "--", "sh", "-c", script).stdout
    assert "connection = postgresql+psycopg2://" in seen and "mysql" not in seen
    assert services(project) == {"mysql": "absent", "keystone": "absent"}
