"""Other versions of the servers, in images that a user builds from devenv's Dockerfiles and names under `image:`."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field

import amqp
import docker
import psycopg2
import pytest
from project import REPOSITORY, Project, new_project, one_clear_line, plan_of, remove

from devenv.engine import connect
from devenv.images import build as imagebuild, references
from devenv.spec.catalogue import load_catalogue
from tests.pages import versions

pytestmark = pytest.mark.long

# Debian's suite of newer servers.
SUITE = "sid"


# ---- a component's part, used by a client ------------------------------------------------------------------------


def rows(project: Project, word: str = "") -> list[str]:
    url = project.json("env", "--component", "nova")["DEVENV_POSTGRESQL_URL"].replace("+psycopg2", "")
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS kept (word TEXT)")
        if word:
            cursor.execute("INSERT INTO kept VALUES (%s)", (word,))
        cursor.execute("SELECT word FROM kept")
        return [found for (found,) in cursor.fetchall()]


def messages(project: Project, word: str = "") -> list[str]:
    """Publish a message; return what is in the queue, and leave it there."""
    env = project.json("env", "--component", "nova")
    with (
        amqp.Connection(
            f"{env['DEVENV_RABBITMQ_HOST']}:{env['DEVENV_RABBITMQ_PORT']}",
            userid=env["DEVENV_RABBITMQ_USER"],
            password=env["DEVENV_RABBITMQ_PASSWORD"],
            virtual_host=env["DEVENV_RABBITMQ_VHOST"],
            confirm_publish=True,
        ) as connection,
        connection.channel() as channel,
    ):
        channel.queue_declare("kept", durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"})
        if word:
            channel.basic_publish(amqp.Message(word, delivery_mode=2), routing_key="kept")
        # Closing the connection gives back what was got and not confirmed.
        return [message.body for message in iter(lambda: channel.basic_get("kept"), None)]


def values(project: Project, word: str = "") -> list[str]:
    env = project.json("env", "--component", "nova")
    etcdctl = ("exec", "etcd", "etcdctl", "--user", env["ETCDCTL_USER"])
    if word:
        project.devenv(*etcdctl, "put", env["DEVENV_ETCD_PREFIX"] + "kept", word)
    return project.devenv(*etcdctl, "get", "--prefix", "--print-value-only", env["DEVENV_ETCD_PREFIX"]).stdout.split()


# ---- the services ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Service:
    """A service that has another version in the newer suite.

    `version` prints the version of the server that runs. `kept` takes a word to keep, or none, and returns all words
    that a component keeps. `upgrades` says whether the newer version takes the data of devenv's own, `downgrades`
    whether that one takes it afterwards. `build` is what its Dockerfile is told.
    """

    chosen: str
    version: tuple[str, ...]
    kept: Callable[..., list[str]]
    upgrades: bool = True
    downgrades: bool = True
    settings: tuple[str, ...] = ()
    build: Mapping[str, str] = field(default_factory=dict)


SERVICES = {
    "postgresql": Service(
        "profile: database\ndatabase: postgresql\n",
        ("psql", "-Atc", "SHOW server_version"),
        rows,
        upgrades=False,
        build={"VERSION": "18"},
    ),
    "rabbitmq": Service("profile: messaging\n", ("rabbitmqctl", "version"), messages, downgrades=False),
    "etcd": Service("profile: coordination\n", ("etcd", "--version"), values, settings=("auth: true",)),
}


@pytest.fixture(scope="module")
def newer_base(client: docker.DockerClient) -> Iterator[str]:
    """Make a base of the newer suite as devenv makes its own: pulled, or from packages."""
    tag, recipe = f"devenv-test/{uuid.uuid4().hex}:{SUITE}", references.recipe()
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(references, "recipe", lambda: {**recipe, "image": f"debian:{SUITE}-slim", "suite": SUITE})
        imagebuild.make_base(connect(), tag, lambda text: None)
    yield tag
    client.images.remove(tag, force=True)


@dataclass(frozen=True)
class Newer:
    """A service that runs in another version, with the component nova."""

    name: str
    image: str
    project: Project

    def configure(self, project: Project, image: str = "") -> None:
        """Choose the service in a project, with an image or, without, as devenv builds it."""
        service = SERVICES[self.name]
        settings = ", ".join((*service.settings, *((f"image: {image}",) if image else ())))
        project.configure(
            f"{service.chosen}services: {{{self.name}: {{{settings}}}}}\ncomponents: [nova]\n", trusted=bool(image)
        )

    def version(self) -> str:
        printed = self.project.devenv("exec", self.name, "--", *SERVICES[self.name].version).stdout
        found = re.search(r"\d+(\.\d+)+", printed)
        assert found, printed
        return found[0]

    def kept(self, word: str = "", project: Project | None = None) -> list[str]:
        """Let the component keep a word; return all that it keeps."""
        return SERVICES[self.name].kept(project or self.project, word)


@pytest.fixture(scope="module", params=SERVICES)
def newer(
    request: pytest.FixtureRequest,
    images: object,
    newer_base: str,
    client: docker.DockerClient,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Newer]:
    """Build the image as docs/servers.md says, and bring it up."""
    name, tag = request.param, f"devenv-test/{uuid.uuid4().hex}:{SUITE}"
    arguments = {"BASE": newer_base, **SERVICES[name].build}
    client.images.build(path=str(REPOSITORY / "compose" / name), buildargs=arguments, tag=tag, rm=True, forcerm=True)
    scratch = new_project(tmp_path_factory.mktemp(name), "newer")
    found = Newer(name, tag, scratch)
    found.configure(scratch, tag)
    scratch.devenv("up")
    yield found
    remove(scratch)
    client.images.remove(tag, force=True)


# ---- the tests ---------------------------------------------------------------------------------------------------


def test_it_is_the_version_that_the_page_names(newer: Newer) -> None:
    assert f"{newer.version()}.".startswith(f"{versions()[newer.name].tested}.")
    assert newer.project.json("status")["services"][newer.name]["state"] == "ready"


def test_a_component_keeps_what_it_wrote_until_a_reset(newer: Newer) -> None:
    newer.kept("first")
    newer.project.devenv("restart")
    newer.project.devenv("down")
    newer.project.devenv("up")
    assert newer.kept() == ["first"]
    newer.project.devenv("snapshot", "save", "one")
    newer.project.devenv("reset")
    assert newer.kept() == []
    newer.project.devenv("snapshot", "restore", "one")
    assert newer.kept() == ["first"]
    newer.project.devenv("snapshot", "rm", "one")
    newer.project.devenv("reset", "--component", "nova")
    assert newer.kept() == []


def test_the_next_environment_begins_as_the_first_did(newer: Newer, project: Project) -> None:
    newer.configure(project, newer.image)
    copied = [volume for action, volume, _ in plan_of(project) if action == "fill"]
    assert len(copied) == len(load_catalogue()[newer.name].golden)
    project.devenv("up")
    assert newer.kept("other", project) == ["other"]
    assert "other" not in newer.kept()


def test_data_goes_to_another_version_only_if_the_server_allows_it(newer: Newer, project: Project) -> None:
    service = SERVICES[newer.name]
    newer.configure(project)
    project.devenv("up", "--no-golden")
    newer.kept("own", project)
    # RabbitMQ then has on its disk that it has the queue.
    project.devenv("restart")
    project.devenv("snapshot", "save", "own")
    newer.configure(project, newer.image)
    refused = project.devenv("snapshot", "restore", "own", check=False)
    one_clear_line(refused, 3, "cannot restore snapshot 'own'", f"is {newer.image} now")
    for image, may in ((newer.image, service.upgrades), ("", service.downgrades)):
        newer.configure(project, image)
        done = project.devenv("up", check=may)
        if may:
            assert newer.kept(project=project) == ["own"]
        else:
            one_clear_line(done, 5, "its container exited 1", f"'devenv reset {newer.name}' starts with new data")
    newer.configure(project)
    project.devenv("snapshot", "restore", "own")
    assert newer.kept(project=project) == ["own"]
    project.devenv("snapshot", "rm", "own")
