"""openstacksdk, keystoneauth and the `openstack` command, by clouds.yaml, openrc and the overlay's sections."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import openstack
import pytest
from keystoneauth1 import loading
from oslo_config import cfg
from wired import SDK_WARNINGS, Wired

from devenv.spec.catalogue import load_catalogue
from devenv.wiring.contents import replaced

pytestmark = SDK_WARNINGS

COMPUTE_URL = "http://127.0.0.1:8774/v2.1"


def connection(wired: Wired, cloud: str) -> Any:
    config = openstack.config.OpenStackConfig(
        config_files=[str(wired.folder / "clouds.yaml")], load_envvars=False, vendor_files=[], secure_files=[]
    )
    return closing(openstack.connection.Connection(config=config.get_one(cloud=cloud)))


@pytest.mark.parametrize("cloud", ["devenv", "devenv-admin", "devenv-system-admin", "nova", "my-service"])
def test_each_cloud_logs_in(wired: Wired, cloud: str) -> None:
    assert cloud in wired.clouds()
    with connection(wired, cloud) as conn:
        assert conn.authorize()


def test_the_administrator_sees_all_projects(wired: Wired) -> None:
    with connection(wired, "devenv-admin") as conn:
        assert {project.name for project in conn.identity.projects()} >= {"admin", "service", "demo"}


def test_the_catalog_has_the_component(wired: Wired) -> None:
    with connection(wired, "devenv") as conn:
        for interface in ("public", "internal", "admin"):
            assert conn.session.get_endpoint(service_type="compute", interface=interface) == COMPUTE_URL
        assert conn.compute.get_endpoint() == COMPUTE_URL


@pytest.mark.parametrize(("section", "kind"), [("neutron", "network"), ("cinder", "block-storage")])
def test_a_section_says_how_to_reach_another_service(wired: Wired, section: str, kind: str) -> None:
    conf = cfg.ConfigOpts()
    loading.register_auth_conf_options(conf, section)
    loading.register_session_conf_options(conf, section)
    loading.register_adapter_conf_options(conf, section)
    conf(["--config-file", str(wired.overlay())], default_config_files=[], default_config_dirs=[])
    auth = loading.load_auth_from_conf_options(conf, section)
    session = loading.load_session_from_conf_options(conf, section, auth=auth)
    adapter = loading.load_adapter_from_conf_options(conf, section, session=session, auth=auth)
    assert (adapter.service_type, adapter.region_name, adapter.interface) == (kind, "RegionOne", ["public"])
    assert adapter.get_token()
    assert auth.get_access(session).project_name == "service"
    session.session.close()


def issued(wired: Wired, script: str, extra: Mapping[str, str]) -> dict[str, str]:
    """Run a shell script that ends with `openstack token issue`; return what it prints."""
    folder = Path(sys.executable).parent
    environ = {**wired.project.environ, **extra, "PATH": f"{folder}:{os.environ['PATH']}", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        ["bash", "-ec", script], cwd=wired.project.folder, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


# What a shell may have for a login to another cloud.
ELSEWHERE = ["OS_AUTH_URL", *replaced(["OS_AUTH_URL"], load_catalogue())]


def test_every_variable_by_which_keystoneauth_logs_in_is_known() -> None:
    plugins = [loading.get_plugin_loader(name) for name in loading.get_available_plugin_names()]
    names = {name for plugin in plugins for option in plugin.get_options() for name in option.argparse_envvars}
    assert "OS_APPLICATION_CREDENTIAL_SECRET" in names
    assert names <= {*ELSEWHERE}


@pytest.mark.parametrize(
    "load",
    ["source .devenv/openrc", pytest.param('eval "$($DEVENV env --format shell)"', marks=pytest.mark.long)],
)
def test_openstack_issues_the_administrators_token_whatever_the_shell_had(wired: Wired, load: str) -> None:
    stale = {**dict.fromkeys(ELSEWHERE, "elsewhere"), "DEVENV": f"{sys.executable} -m devenv"}
    token = issued(wired, f"{load}; openstack token issue -f json", stale)
    with connection(wired, "devenv-admin") as conn:
        assert token["user_id"] == conn.current_user_id
        assert token["project_id"] == conn.current_project_id


def test_openstack_issues_a_components_token_by_what_devenv_env_says(wired: Wired, variables: dict[str, str]) -> None:
    token = issued(wired, "openstack token issue -f json", variables)
    with connection(wired, "nova") as conn:
        assert token["user_id"] == conn.current_user_id


@pytest.mark.long
def test_openstack_of_devenv_knows_the_clouds_of_the_environment_and_not_the_callers(wired: Wired) -> None:
    stale = {"OS_CLOUD": "elsewhere", "OS_CLIENT_CONFIG_FILE": "/nonexistent", "OS_PROJECT_ID": "0"}
    token = issued(wired, "python -m devenv openstack --os-cloud devenv-admin token issue -f json", stale)
    with connection(wired, "devenv-admin") as conn:
        assert token["user_id"] == conn.current_user_id


def test_openstack_issues_a_components_token_by_clouds_yaml(wired: Wired) -> None:
    files = {"OS_CLIENT_CONFIG_FILE": ".devenv/clouds.yaml"}
    token = issued(wired, "openstack --os-cloud nova token issue -f json", files)
    with connection(wired, "nova") as conn:
        assert token["user_id"] == conn.current_user_id
