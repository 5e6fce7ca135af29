"""Keystone runs in one process with threads, or in several if the project says so."""

from __future__ import annotations

import docker
import pytest
import requests
from project import Project


def servers(project: Project, client: docker.DockerClient) -> int:
    container = client.containers.get(project.json("status")["services"]["keystone"]["container"])
    return len(container.top()["Processes"])


def token(project: Project) -> requests.Response:
    env = project.env()
    domain = {"id": "default"}
    user = {"name": env["OS_USERNAME"], "password": env["OS_PASSWORD"], "domain": domain}
    scope = {"project": {"name": env["OS_PROJECT_NAME"], "domain": domain}}
    auth = {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}
    return requests.post(f"{env['OS_AUTH_URL']}/auth/tokens", json={"auth": auth}, timeout=30)


@pytest.mark.long
def test_keystone_serves_in_as_many_processes_as_the_project_wants(
    project: Project, client: docker.DockerClient
) -> None:
    project.configure("profile: identity\nservices: {keystone: {processes: true}}\n")
    project.devenv("up")
    assert servers(project, client) == 4
    assert [token(project).status_code for _ in range(12)] == [201] * 12
    # Other processes that run and end in the container do not change that.
    project.devenv("exec", "keystone", "sh", "-c", "sleep 0.1 &")
    project.devenv("exec", "keystone", "sleep", "0.3")
    assert servers(project, client) == 4
    project.configure("profile: identity\n")
    project.devenv("up")
    assert servers(project, client) == 1
    assert token(project).status_code == 201
