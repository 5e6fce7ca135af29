"""Keystone in one process with threads, or in several where the project says so."""

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


@pytest.mark.parametrize(("text", "expected"), [("", 1), ("services: {keystone: {processes: true}}\n", 4)])
def test_keystone_serves_in_as_many_processes_as_the_project_wants(
    project: Project, client: docker.DockerClient, text: str, expected: int
) -> None:
    project.configure(f"profile: identity\n{text}")
    project.devenv("up")
    assert servers(project, client) == expected
    assert [token(project).status_code for _ in range(12)] == [201] * 12
    project.devenv("restart", "keystone")
    assert servers(project, client) == expected
