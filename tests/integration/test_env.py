"""Programs read what `devenv env` prints, and what `devenv run` gives them, as it is meant."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import docker
from project import Project, ours, require

from devenv.wiring.formats import as_env_file, from_dotenv

# Values that would need quotes elsewhere.
ODD = {"ODD": " a 'b' \"c\" #d $HOME \\ é ", "EMPTY": "", "HASH": "#", "EQUAL": "a=b=c"}


def in_container(client: docker.DockerClient, image: str, file: Path) -> dict[str, str]:
    """Return the variables of a container that docker's command line creates with this file."""
    create = ["docker", "create", "--env-file", str(file), image, "true"]
    name = subprocess.run(create, capture_output=True, text=True, check=True).stdout.strip()
    try:
        pairs = client.api.inspect_container(name)["Config"]["Env"]
    finally:
        client.api.remove_container(name)
    return dict(pair.split("=", 1) for pair in pairs)


def test_a_container_gets_every_value_as_it_is(running: Project, client: docker.DockerClient, tmp_path: Path) -> None:
    require("" if shutil.which("docker") else "docker's command line is not installed")
    image, known = running.json("status")["services"]["etcd"]["image"], running.env()
    (tmp_path / "known").write_text(running.devenv("env", "--format", "env-file").stdout)
    (tmp_path / "odd").write_text(as_env_file(ODD))
    for file in (running.folder / ".devenv/env", tmp_path / "known"):
        assert in_container(client, image, file).items() >= known.items()
    assert in_container(client, image, tmp_path / "odd").items() >= ODD.items()


USES = {
    "mysql": 'MYSQL_PWD=$DEVENV_MYSQL_PASSWORD mysql -N -h "$DEVENV_MYSQL_HOST" -P "$DEVENV_MYSQL_PORT"'
    ' -u "$DEVENV_MYSQL_USER" -e "SELECT 1"',
    "etcd": 'etcdctl --endpoints "$DEVENV_ETCD_URL" get --prefix / > /dev/null && echo 1',
    "keystone": "python3 -c 'import os, urllib.request; urllib.request.urlopen(os.environ[\"OS_AUTH_URL\"]); print(1)'",
}


def test_a_container_on_the_network_reaches_services_by_their_names(
    running: Project, client: docker.DockerClient
) -> None:
    given = from_dotenv(running.devenv("env", "--network").stdout)
    assert (given["DEVENV_RABBITMQ_HOST"], given["DEVENV_RABBITMQ_PORT"]) == ("rabbitmq", "5672")
    services = running.json("status")["services"]
    (network,) = ours(client, running.id)["networks"]
    for service, use in USES.items():
        options = {"entrypoint": ["sh", "-c", use], "environment": given, "network": network, "remove": True}
        assert client.containers.run(services[service]["image"], **options).split() == [b"1"], service


def test_a_login_to_another_cloud_does_not_reach_a_command(running: Project) -> None:
    elsewhere = {"OS_CLOUD": "production", "OS_TOKEN": "secret", "OS_PROJECT_ID": "1", "OS_TEST_TIMEOUT": "5"}
    given = from_dotenv(replace(running, extra=elsewhere).devenv("run", "keystone", "--", "env").stdout)
    assert given["OS_USERNAME"] == given["DEVENV_COMPONENT"] and given["OS_TEST_TIMEOUT"] == "5"
    assert not given.keys() & {"OS_CLOUD", "OS_TOKEN", "OS_PROJECT_ID"}
