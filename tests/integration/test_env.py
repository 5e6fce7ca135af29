"""Programs read what `devenv env` prints, and what `devenv run` gives them, as it is meant."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import docker
from project import Project, require

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


def test_a_login_to_another_cloud_does_not_reach_a_command(running: Project) -> None:
    elsewhere = {"OS_CLOUD": "production", "OS_TOKEN": "secret", "OS_PROJECT_ID": "1", "OS_TEST_TIMEOUT": "5"}
    given = from_dotenv(replace(running, extra=elsewhere).devenv("run", "keystone", "--", "env").stdout)
    assert given["OS_USERNAME"] == given["DEVENV_COMPONENT"] and given["OS_TEST_TIMEOUT"] == "5"
    assert not given.keys() & {"OS_CLOUD", "OS_TOKEN", "OS_PROJECT_ID"}
