"""`devenv images push`, to Debian's registry on the loopback, where engines ask for no TLS."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import debian_registry
import docker
import pytest
from debian_registry import Registry
from project import Project, one_clear_line, tags

from devenv.images.references import POD_REPOSITORY, images_for
from devenv.model import Profile, ServiceChoice
from devenv.spec.catalogue import load_catalogue


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fetch Debian's registry."""
    return debian_registry.program(tmp_path_factory.mktemp("registry"))


@pytest.fixture
def registry(program: Path, tmp_path: Path) -> Iterator[Registry]:
    with debian_registry.served(program, tmp_path / "registry") as found:
        yield found


def etcd() -> str:
    """Return the reference of etcd's image."""
    profile = Profile("p", {"etcd": ServiceChoice()})
    return images_for(profile, load_catalogue())["etcd"].reference


def test_images_get_into_a_registry_under_their_own_tags_and_leave_no_other_name_here(
    project: Project, registry: Registry, client: docker.DockerClient
) -> None:
    project.configure("profile: coordination\n")
    done = project.devenv("images", "push", f"{registry.address}/team", "--format", "json")
    assert json.loads(done.stdout) == {"images": [f"{registry.address}/team/{etcd()}"], "golden": []}
    name, _, tag = etcd().partition(":")
    assert registry.tags(f"team/{name}") == [tag]
    assert not [one for one in tags(client) if one.startswith(registry.address)]
    # What a node does with it: the same image comes back.
    pulled = client.images.pull(f"{registry.address}/team/{name}", tag=tag)
    try:
        assert pulled.id == client.images.get(etcd()).id
        again = project.devenv("images", "push", f"{registry.address}/team", "etcd")
        assert "pushed 1 image, in" in again.stdout
        assert f"{registry.address}/team/{etcd()}" in tags(client), "that name is the user's"
    finally:
        client.images.remove(f"{registry.address}/team/{etcd()}")


def test_devenv_yaml_names_a_registry_that_its_user_has_to_trust(project: Project, registry: Registry) -> None:
    project.configure(f"profile: coordination\nimage_registry: {registry.address}\n")
    refused = project.devenv("images", "push", check=False)
    one_clear_line(refused, 3, f"cannot use registry {registry.address} of", "devenv trust")
    assert not registry.tags(etcd().partition(":")[0])
    project.devenv("trust")
    project.devenv("images", "push")
    assert registry.tags(etcd().partition(":")[0]) == [etcd().partition(":")[2]]


def test_a_registry_that_is_none_or_does_not_answer_is_said(project: Project) -> None:
    project.configure("profile: coordination\n")
    one_clear_line(project.devenv("images", "push", check=False), 3, "no registry is named")
    one_clear_line(project.devenv("images", "push", "team", check=False), 3, "it is no registry")
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    done = project.devenv("images", "push", address, check=False)
    assert done.returncode != 0 and f"cannot push image {address}/{etcd()}" in done.stderr, done.stderr
    assert "hint: " in done.stderr


@pytest.mark.long
def test_golden_states_are_pushed_with_their_service_if_asked_for(
    project: Project, registry: Registry, client: docker.DockerClient
) -> None:
    project.configure("profile: database\n")
    project.devenv("up")
    built = json.loads(project.devenv("images", "build", "--golden", "--format", "json").stdout)["golden"]
    assert [name.partition(":")[0] for name in built] == [POD_REPOSITORY]
    assert set(built) <= set(tags(client))
    assert built[0] in project.devenv("images", "prune").stdout
    pushed = json.loads(project.devenv("images", "push", registry.address, "--golden", "--format", "json").stdout)
    assert pushed["golden"] == [f"{registry.address}/{built[0]}"]
    assert registry.tags(POD_REPOSITORY) and registry.tags("devenv/mysql")
    assert not [one for one in tags(client) if POD_REPOSITORY in one]
