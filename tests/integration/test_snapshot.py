"""Snapshots and reset on the real engine and the real services."""

from __future__ import annotations

import json
import signal
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import amqp
import docker
import pytest
import requests
from project import Project, components, new_project, one_clear_line, ours, remove, snapshot_images

from devenv.errors import Cancelled
from devenv.lifecycle.environment import Environment
from devenv.services.base import Target
from devenv.services.rabbitmq import RabbitMQ

# Seconds after the pause of the services at which the test kills devenv; a save of etcd takes about one.
MOMENTS = [pytest.param([0.0], id="first"), pytest.param([0.3, 0.6], id="later", marks=pytest.mark.long)]


@pytest.fixture(autouse=True)
def nothing_left(project: Project, client: docker.DockerClient) -> Iterator[None]:
    yield
    for tag in snapshot_images(client, project.id):
        client.images.remove(tag)


@pytest.fixture
def etcd(project: Project) -> Project:
    """Configure a project with the one service that starts in a moment."""
    project.configure("profile: coordination\n")
    return project


def etcdctl(project: Project, *words: str) -> str:
    return project.devenv("exec", "etcd", "etcdctl", *words).stdout.strip()


def mysql_users(project: Project) -> set[str]:
    return {*project.devenv("exec", "mysql", "mysql", "-N", "-e", "SELECT user FROM mysql.user").stdout.split()}


def keys(project: Project) -> list[str]:
    return etcdctl(project, "get", "--prefix", "", "--keys-only").split()


# ---- all services together ---------------------------------------------------------------------------------------


class Data:
    """Something in each of the four services, of a kind that a component would use."""

    def __init__(self, project: Project) -> None:
        self._project = project

    def make(self, name: str) -> None:
        self._project.devenv("exec", "mysql", "mysql", "-e", f"CREATE TABLE {name} (a INT)")
        etcdctl(self._project, "put", name, "1")
        env = self._project.env()
        self._rabbitmq("PUT", env, name).raise_for_status()
        answer = requests.post(
            f"{env['OS_AUTH_URL']}/projects", json={"project": {"name": name}}, headers=self._token(env), timeout=30
        )
        answer.raise_for_status()

    def found(self, name: str) -> list[bool]:
        """Return for each service whether it has it."""
        env = self._project.env()
        tables = self._project.devenv("exec", "mysql", "mysql", "-N", "-e", "SHOW TABLES").stdout.split()
        projects = requests.get(f"{env['OS_AUTH_URL']}/projects", headers=self._token(env), timeout=30).json()
        return [
            name in tables,
            name in keys(self._project),
            self._rabbitmq("GET", env, name).status_code == 200,
            name in [project["name"] for project in projects["projects"]],
        ]

    def _rabbitmq(self, method: str, env: dict[str, str], name: str) -> requests.Response:
        url = f"{env['DEVENV_RABBITMQ_MANAGEMENT_URL']}/api/queues/devenv/{name}"
        login = (env["DEVENV_RABBITMQ_USER"], env["DEVENV_RABBITMQ_PASSWORD"])
        body = {"durable": True} if method == "PUT" else None
        return requests.request(method, url, json=body, auth=login, timeout=30)

    def _token(self, env: dict[str, str]) -> dict[str, str]:
        domain = {"id": "default"}
        user = {"name": env["OS_USERNAME"], "domain": domain, "password": env["OS_PASSWORD"]}
        identity = {"methods": ["password"], "password": {"user": user}}
        scope = {"project": {"name": env["OS_PROJECT_NAME"], "domain": domain}}
        answer = requests.post(
            f"{env['OS_AUTH_URL']}/auth/tokens", json={"auth": {"identity": identity, "scope": scope}}, timeout=30
        )
        answer.raise_for_status()
        return {"X-Auth-Token": answer.headers["X-Subject-Token"]}


def test_all_services_are_saved_together_and_restored_together(project: Project, client: docker.DockerClient) -> None:
    data = Data(project)
    project.configure("profile: base\ncomponents: {nova: {}}\n")
    project.devenv("up")
    ports = {name: s["endpoints"] for name, s in project.json("status")["services"].items()}
    data.make("early")
    saved = json.loads(project.devenv("snapshot", "save", "one", "--format", "json").stdout)
    assert set(saved["services"]) == {"mysql", "keystone", "rabbitmq", "etcd"}
    assert all(service["image"] and service["image_id"] for service in saved["services"].values())
    assert "secrets" not in saved and saved["size"] > 1e6
    assert "one" in project.devenv("snapshot", "list").stdout
    data.make("late")
    project.configure("profile: base\ncomponents: {nova: {}, glance: {}}\n")
    project.devenv("up")
    # The save paused the services only for a moment.
    assert data.found("early") == data.found("late") == [True] * 4

    # A restore brings back what was there then, without what came later, and components can log in.
    project.devenv("snapshot", "restore", "one")
    assert data.found("early") == [True] * 4 and data.found("late") == [False] * 4
    assert {name: s["endpoints"] for name, s in project.json("status")["services"].items()} == ports
    assert {"nova", "glance"} <= mysql_users(project)

    # A reset leaves nothing of either, and keeps components and ports.
    project.devenv("reset")
    assert data.found("early") == [False] * 4
    assert {"nova", "glance"} <= mysql_users(project)
    assert {name: s["endpoints"] for name, s in project.json("status")["services"].items()} == ports

    project.devenv("snapshot", "rm", "one")
    assert not snapshot_images(client, project.id)
    one_clear_line(project.devenv("snapshot", "restore", "one", check=False), 3, "cannot find snapshot 'one'")


@pytest.mark.long
def test_a_queue_keeps_its_message_if_rabbitmq_ends_once_it_has_settled(
    project: Project, client: docker.DockerClient
) -> None:
    project.configure("profile: messaging\n")
    project.devenv("up")
    env = project.env()
    settings = {key.lower(): env[f"DEVENV_RABBITMQ_{key}"] for key in ("USER", "PASSWORD", "VHOST")}
    url = env["DEVENV_RABBITMQ_MANAGEMENT_URL"]
    port = int(env["DEVENV_RABBITMQ_MANAGEMENT_PORT"])
    container = client.containers.get(f"devenv-{project.id}-rabbitmq")

    def connection() -> amqp.Connection:
        address = f"127.0.0.1:{env['DEVENV_RABBITMQ_PORT']}"
        login = {"userid": settings["user"], "password": settings["password"], "virtual_host": settings["vhost"]}
        return amqp.Connection(address, confirm_publish=True, **login)

    for name in ("one", "two", "three"):
        with connection() as opened, opened.channel() as channel:
            channel.queue_declare(name, durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"})
            channel.basic_publish(amqp.Message("hello"), routing_key=name)
        with closing(RabbitMQ(Target("127.0.0.1", port, url, settings, "rabbitmq"))) as rabbitmq:
            rabbitmq.settle()
        container.kill()
        project.devenv("up")
        with connection() as opened, opened.channel() as channel:
            assert channel.queue_declare(name, passive=True).message_count == 1


def test_what_was_taken_down_with_its_data_and_its_secrets_comes_back(
    project: Project, client: docker.DockerClient
) -> None:
    project.configure("profile: coordination\nservices: {etcd: {auth: true}}\n")
    project.devenv("up")
    login = project.env()["ETCDCTL_USER"]
    etcdctl(project, "--user", login, "put", "early", "1")
    project.devenv("snapshot", "save", "one")
    project.devenv("down", "--volumes")
    assert ours(client, project.id) == {"containers": [], "networks": [], "volumes": []}
    project.devenv("snapshot", "restore", "one")
    assert project.env()["ETCDCTL_USER"] == login
    assert etcdctl(project, "--user", login, "get", "early") == "early\n1"


@pytest.mark.long
def test_all_services_come_back_after_they_were_taken_down_with_their_data(project: Project) -> None:
    data = Data(project)
    project.configure("profile: base\ncomponents: {nova: {}}\n")
    project.devenv("up")
    data.make("early")
    project.devenv("snapshot", "save", "one")
    data.make("late")
    project.devenv("down", "--volumes")
    project.devenv("snapshot", "restore", "one")
    assert data.found("early") == [True] * 4 and data.found("late") == [False] * 4


def test_one_component_is_emptied_and_the_others_keep_what_they_have(running: Project) -> None:
    with components(running, "components: {nova: {}, glance: {}}\n"):
        one_component_is_emptied(running)


def one_component_is_emptied(project: Project) -> None:
    for component in ("nova", "glance"):
        project.devenv("exec", "mysql", "mysql", "-e", f"CREATE TABLE {component}.t (a INT)")
    before = project.json("env", "--component", "nova")
    project.devenv("reset", "--component", "nova")
    tables = "SELECT table_schema FROM information_schema.tables WHERE table_name = 't'"
    assert project.devenv("exec", "mysql", "mysql", "-N", "-e", tables).stdout.split() == ["glance"]
    assert project.json("env", "--component", "nova") == before
    one_clear_line(project.devenv("reset", "--component", "other", check=False), 3, "cannot find component 'other'")
    refused = project.devenv("reset", "mysql", "--component", "nova", check=False)
    assert refused.returncode == 2 and "one or the other" in refused.stderr


def test_one_service_is_reset_and_its_data_is_gone(project: Project) -> None:
    project.configure("profile: coordination\n")
    project.devenv("up")
    etcdctl(project, "put", "key", "1")
    project.devenv("reset", "etcd")
    assert keys(project) == []
    one_clear_line(project.devenv("reset", "mysql", check=False), 3, "cannot use service 'mysql'")


@pytest.mark.anywhere
def test_a_service_that_keeps_data_in_another_one_is_not_reset_without_it(project: Project) -> None:
    project.configure("profile: identity\n")
    refused = project.devenv("reset", "keystone", check=False)
    one_clear_line(refused, 3, "cannot reset keystone alone: data is in mysql, too", "devenv reset mysql keystone")
    project.devenv("reset", "mysql", "keystone")
    assert project.json("status")["services"]["keystone"]["state"] == "ready"


@pytest.mark.anywhere
@pytest.mark.parametrize(
    "look",
    [pytest.param("wait", marks=pytest.mark.long), "status", pytest.param("start", marks=pytest.mark.long)],
)
def test_what_is_done_after_a_reset_that_was_not_seen_to_end_is_not_lost(project: Project, look: str) -> None:
    project.configure("profile: database\n")
    project.devenv("up")
    execute = ("exec", "mysql", "mysql", "-N", "-e")
    project.devenv(*execute, "CREATE TABLE devenv.before (a INT)")
    late = project.devenv("reset", "--wait-timeout", "0.1", check=False)
    assert late.returncode == 6, late.stderr
    seen_ready(project, look)
    project.devenv(*execute, "CREATE TABLE devenv.later (a INT)")
    project.devenv("up")
    assert project.devenv(*execute, "SHOW TABLES IN devenv").stdout.split() == ["later"]


@pytest.mark.long
def test_what_is_done_after_a_first_start_that_was_not_seen_to_end_is_not_lost(project: Project) -> None:
    project.configure("profile: messaging\n")
    late = project.devenv("up", "--wait-timeout", "0.1", check=False)
    assert late.returncode == 6, late.stderr
    seen_ready(project, "status")
    project.devenv("exec", "rabbitmq", "rabbitmqctl", "--quiet", "add_vhost", "mine")
    project.devenv("down")
    project.devenv("up")
    assert "mine" in project.devenv("exec", "rabbitmq", "rabbitmqctl", "--quiet", "list_vhosts").stdout.split()


def seen_ready(project: Project, look: str) -> None:
    """Let a command of devenv see that the only service works."""
    if look != "status":
        project.devenv(look)
        return
    while [one["state"] for one in project.json("status")["services"].values()] != ["ready"]:
        pass  # Each look takes a while by itself.


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """Start a RabbitMQ with a component, for tests that empty it."""
    shared = new_project(tmp_path_factory.mktemp("queue"), "queue")
    shared.configure("profile: messaging\ncomponents: {nova: {}}\n")
    shared.devenv("up")
    yield shared
    remove(shared)


CTL = ("exec", "rabbitmq", "rabbitmqctl", "--quiet")


def container_of(queue: Project, client: docker.DockerClient) -> str:
    return str(client.containers.get(f"devenv-{queue.id}-rabbitmq").id)


def test_a_queue_that_runs_is_emptied(queue: Project, client: docker.DockerClient) -> None:
    first = container_of(queue, client)
    # Also what is outside of devenv's vhosts.
    queue.devenv(*CTL, "add_vhost", "mine")
    queue.devenv(*CTL, "add_user", "me", "secret")
    queue.devenv(*CTL, "set_policy", "-p", "devenv", "short", ".*", '{"message-ttl": 1}')
    queue.devenv(*CTL, "set_user_limits", "devenv", '{"max-connections": 0}')
    queue.devenv("reset")
    found = queue.devenv(*CTL, "export_definitions", "-").stdout
    assert {vhost["name"] for vhost in json.loads(found)["vhosts"]} == {"/", "devenv", "nova"}
    assert {user["name"] for user in json.loads(found)["users"]} == {"devenv", "nova"}
    assert json.loads(found)["policies"] == []
    assert container_of(queue, client) == first


def test_a_reset_that_was_killed_after_emptying_is_finished_by_the_next_up(queue: Project) -> None:
    queue.devenv(*CTL, "add_vhost", "mine")
    queue.killed_after("  empty", "reset")
    assert "finishing what was interrupted" in queue.devenv("up").stderr
    assert "mine" not in queue.devenv(*CTL, "list_vhosts").stdout
    assert "finishing" not in queue.devenv("up").stderr


def test_a_queue_that_cannot_be_emptied_is_made_anew(queue: Project, client: docker.DockerClient) -> None:
    first = container_of(queue, client)
    queue.devenv(*CTL, "eval", "application:stop(rabbitmq_management).")
    done = queue.devenv("reset")
    for said in ("cannot clear rabbitmq", "could not clear rabbitmq", "recreating"):
        assert said in done.stderr
    assert container_of(queue, client) != first
    assert "nova" in queue.devenv(*CTL, "list_vhosts").stdout


@pytest.mark.long
def test_a_queue_that_does_not_work_once_it_is_emptied_is_made_anew(
    queue: Project, client: docker.DockerClient
) -> None:
    first = container_of(queue, client)
    queue.devenv(*CTL, "eval", "rabbit_networking:stop_tcp_listener(5672).")
    done = queue.devenv("reset")
    assert "could not clear" in done.stderr and container_of(queue, client) != first


# ---- what is refused ---------------------------------------------------------------------------------------------


def test_a_snapshot_of_another_version_is_refused_and_nothing_is_touched(project: Project, checkout: Path) -> None:
    project.configure("profile: coordination\n")
    project.devenv("up")
    project.devenv("snapshot", "save", "old")
    etcdctl(project, "put", "key", "1")
    with (checkout / "compose" / "etcd" / "Dockerfile").open("a") as stream:
        stream.write("# another version\n")
    refused = project.devenv("snapshot", "restore", "old", check=False)
    one_clear_line(refused, 3, "cannot restore snapshot 'old'", "etcd was devenv/etcd:")
    assert keys(project) == ["key"]


def test_a_name_is_given_once_and_what_is_not_up_is_not_saved(etcd: Project) -> None:
    one_clear_line(etcd.devenv("snapshot", "save", "one", check=False), 3, "has no services")
    etcd.devenv("up")
    etcd.devenv("snapshot", "save", "one")
    one_clear_line(
        etcd.devenv("snapshot", "save", "one", check=False), 3, "there is one of that name", "snapshot rm one"
    )
    one_clear_line(
        etcd.devenv("snapshot", "save", "../one", check=False), 3, "cannot use '../one' as the name of a snapshot"
    )
    etcd.devenv("snapshot", "rm", "one")
    one_clear_line(etcd.devenv("snapshot", "rm", "one", check=False), 3, "cannot find snapshot")
    assert etcd.devenv("snapshot", "list").stdout == "no snapshots\n"


def test_data_that_was_deleted_behind_devenvs_back_is_missed_before_anything_is_touched(
    etcd: Project, client: docker.DockerClient
) -> None:
    etcd.devenv("up")
    etcd.devenv("snapshot", "save", "one")
    etcdctl(etcd, "put", "key", "1")
    for tag in snapshot_images(client, etcd.id):
        client.images.remove(tag)
    one_clear_line(etcd.devenv("snapshot", "restore", "one", check=False), 3, "not on this engine any more")
    assert keys(etcd) == ["key"]


# ---- what is interrupted -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("moments", MOMENTS)
def test_a_save_that_was_killed_is_no_snapshot_and_leaves_no_data_behind(
    etcd: Project, client: docker.DockerClient, moments: Sequence[float]
) -> None:
    etcd.devenv("up")
    etcdctl(etcd, "put", "key", "1")
    killed = 0
    for moment in moments:
        was_killed = etcd.killed_while_paused(client, moment, "snapshot", "save", "one")
        killed += was_killed
        etcd.devenv("up")
        assert keys(etcd) == ["key"]
        listed = [one["name"] for one in etcd.json("snapshot", "list")]
        assert listed == ([] if was_killed else ["one"])
        if not was_killed:
            etcd.devenv("snapshot", "rm", "one")
    assert killed
    # The next save removes what the killed ones left, and is complete, even without an `up` after the last one.
    interrupted = f"devenv/snapshot:{etcd.id}-interrupted"
    etcd.devenv("snapshot", "save", "whole")
    client.images.get(min(snapshot_images(client, etcd.id))).tag(*interrupted.split(":"))
    record = etcd.state / "environments" / etcd.id / "record.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"saving": [interrupted]}))
    etcd.devenv("snapshot", "rm", "whole")
    etcd.devenv("snapshot", "save", "whole")
    assert len(snapshot_images(client, etcd.id)) == 1
    etcdctl(etcd, "del", "key")
    etcd.devenv("snapshot", "restore", "whole")
    assert keys(etcd) == ["key"]


def test_a_save_that_was_asked_to_end_has_services_go_on(etcd: Project, client: docker.DockerClient) -> None:
    etcd.devenv("up")
    assert etcd.killed_while_paused(client, 0, "snapshot", "save", "one", by=signal.SIGTERM, code=130)
    assert client.containers.get(f"devenv-{etcd.id}-etcd").status == "running"
    etcd.devenv("gc", "--keep", "100000")
    assert not snapshot_images(client, etcd.id)


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("remove devenv-", marks=pytest.mark.long),
        pytest.param("remove volume", marks=pytest.mark.long),
        "fill",
        pytest.param("create", marks=pytest.mark.long),
        pytest.param("start", marks=pytest.mark.long),
    ],
)
def test_a_restore_that_was_killed_is_finished_by_the_next_up(etcd: Project, moment: str) -> None:
    etcd.devenv("up")
    etcdctl(etcd, "put", "saved", "1")
    etcd.devenv("snapshot", "save", "one")
    etcdctl(etcd, "put", "later", "1")
    etcd.killed_after(f"  {moment}", "snapshot", "restore", "one")
    etcd.devenv("up")
    assert keys(etcd) == ["saved"]
    assert etcd.devenv("up").stdout  # nothing is left to be finished
    assert keys(etcd) == ["saved"]


@pytest.mark.anywhere
@pytest.mark.parametrize("step", [pytest.param("data.bring_up", marks=pytest.mark.long), "up.plan_up"])
def test_passwords_go_with_the_data_where_a_restore_ends_before_it_begins(
    etcd: Project, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    etcd.configure("profile: coordination\nservices: {etcd: {auth: true}}\n")
    etcd.devenv("up")
    first = etcd.env()["ETCDCTL_USER"]
    etcd.devenv("exec", "etcd", "etcdctl", "--user", first, "put", "saved", "1")
    etcd.devenv("snapshot", "save", "one")
    etcd.devenv("down", "--volumes")
    etcd.devenv("up")
    assert etcd.env()["ETCDCTL_USER"] != first
    monkeypatch.setenv("DEVENV_STATE_DIR", str(etcd.state))

    def ends(*_: object, **__: object) -> None:
        raise Cancelled

    with monkeypatch.context() as patched, pytest.raises(Cancelled):
        patched.setattr(f"devenv.lifecycle.{step}", ends)
        Environment(etcd.folder).restore("one")
    etcd.devenv("up")
    assert etcd.env()["ETCDCTL_USER"] == first
    assert etcdctl(etcd, "--user", first, "get", "saved") == "saved\n1"


@pytest.mark.long
def test_two_environments_save_and_restore_at_once(etcd: Project, tmp_path: Path, client: docker.DockerClient) -> None:
    other = new_project(tmp_path, "other")
    other.configure("profile: coordination\n")
    both = (etcd, other)
    try:
        for project in both:
            project.devenv("up")
            etcdctl(project, "put", project.folder.name, uuid.uuid4().hex)
        for arguments in (("snapshot", "save", "one"), ("snapshot", "restore", "one")):
            with ThreadPoolExecutor(2) as pool:
                for done in [pool.submit(project.process, *arguments) for project in both]:
                    done.result()
        for project in both:
            assert keys(project) == [project.folder.name]
    finally:
        other.devenv("snapshot", "rm", "one", check=False)
        remove(other)
