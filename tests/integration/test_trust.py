"""devenv runs an image that a project's devenv.yaml names only for users who have allowed the file."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator

import docker
import pytest
from project import Project, one_clear_line, ours
from suites import NOTHING, outcome, pytest_run, write

TESTS = """
def test_one(devenv_component):
    assert devenv_component.services == ["etcd"]

def test_other(devenv_component):
    assert devenv_component.services == ["etcd"]
"""


@pytest.fixture
def image(client: docker.DockerClient, project: Project) -> Iterator[str]:
    """Give an image that works as etcd a foreign name."""
    known = next(image for image in project.json("images", "list") if image["service"] == "etcd")["reference"]
    name = f"devenv-test/{uuid.uuid4().hex}"
    client.images.get(known).tag(name, "1")
    yield f"{name}:1"
    client.images.remove(f"{name}:1")


def naming(image: str) -> str:
    return f"profile: coordination\nservices: {{etcd: {{image: '{image}'}}}}\n"


def now() -> str:
    """Return the time as precisely as the engine tells events apart."""
    return f"{time.time():.6f}"


def happened(client: docker.DockerClient, image: str, since: str) -> set[str]:
    """Return what happened to containers of an image after `since`."""
    filters = {"type": "container", "image": image}
    events = client.events(since=since, until=now(), filters=filters, decode=True)
    return {event["Action"] for event in events}


def test_nothing_is_pulled_or_made_for_who_only_looks(
    project: Project, client: docker.DockerClient, image: str
) -> None:
    project.configure(naming(image))
    began = now()
    assert "create etcd" in project.devenv("plan").stdout
    assert project.json("status")["services"]["etcd"]["state"] == "absent"
    assert image in project.devenv("export", "compose").stdout
    one_clear_line(project.devenv("env", check=False), 3, "has no services")
    project.devenv("down", "--volumes")
    for arguments in (["up"], ["run", "--", "true"]):
        refused = project.devenv(*arguments, check=False)
        one_clear_line(refused, 3, f"cannot use image {image} of", "devenv trust")
    assert happened(client, image, began) == set() and ours(client, project.id) == NOTHING

    project.devenv("trust")
    project.devenv("up")
    assert "start" in happened(client, image, began)
    # A running service goes on, but devenv does not start it again.
    project.configure(naming(image) + "# changed\n")
    assert project.json("status")["services"]["etcd"]["state"] == "ready"
    project.devenv("stop")
    one_clear_line(project.devenv("start", check=False), 3, "the file has changed since you trusted it")
    project.devenv("down", "--volumes")


def test_tests_are_refused_and_what_they_ask_for_themselves_is_theirs(
    project: Project, client: docker.DockerClient, image: str
) -> None:
    project.configure(naming(image))
    write(project, "test_it.py", TESTS)
    done = pytest_run(project)
    outcome(done, errors=2)
    assert f"cannot use image {image} of" in done.stdout and "Traceback" not in done.stdout
    write(
        project,
        "conftest.py",
        f"""
        @pytest.fixture(scope="session")
        def devenv_settings():
            return {{"etcd": {{"image": "{image}"}}}}
        """,
    )
    began = now()
    outcome(pytest_run(project), passed=2)
    assert "start" in happened(client, image, began)
