"""Each service in compose/, and all of them together, on the real engine."""

from __future__ import annotations

import json
import re
import socket
import uuid
from pathlib import Path

import docker
import pytest
import requests
import yaml
from dotenv import dotenv_values
from project import REPOSITORY, Project, one_clear_line, ours, plan_of

from devenv.lifecycle.environment import Environment
from devenv.spec.catalogue import load_catalogue

PATH = ("/usr/bin", "/usr/sbin")
SERVICES = sorted(path.parent.name for path in (REPOSITORY / "compose").glob("*/compose.yaml"))


@pytest.mark.parametrize("service", SERVICES)
def test_each_service_goes_through_its_whole_life(service: str, project: Project, client: docker.DockerClient) -> None:
    planned = plan_of(project, service)
    assert ("create", service, "no container") in planned
    assert ours(client, project.id)["containers"] == []

    project.devenv("up", service)
    statuses = project.json("status")["services"]
    assert statuses[service]["state"] == "ready", statuses[service]
    needed = {"keystone": ["keystone", "mysql"]}.get(service, [service])
    assert [name.rpartition("-")[2] for name in ours(client, project.id)["containers"]] == needed
    assert {key for key in statuses[service]} == {
        *("role", "wanted", "state", "image", "container", "endpoints", "reason", "attached"),
    }

    assert missing_clients(project, service) == []

    assert plan_of(project, service) == []
    again = project.json("up", service)
    assert {op["action"] for op in again["operations"]} == {"ready"}
    assert again["written"] == []

    project.devenv("down", "--volumes")
    assert ours(client, project.id) == {"containers": [], "networks": [], "volumes": []}
    assert not (project.folder / ".devenv").exists()


def missing_clients(project: Project, service: str) -> list[str]:
    """Return the clients that the service names and its container does not have."""
    with project.inside():
        environment = Environment()
        container = environment.container(service).id
        return [
            name
            for name, one in load_catalogue()[service].clients.items()
            if one.command
            and not any(environment.engine.has(container, f"{folder}/{one.command[0]}") for folder in PATH)
        ]


def test_two_environments_run_side_by_side_with_ports_secrets_and_files_of_their_own(project: Project) -> None:
    project.configure("profile: coordination\nservices: {etcd: {auth: true}}\n")
    project.devenv("up")
    files = project.folder / ".devenv"
    before = {path.name: path.read_bytes() for path in files.iterdir()}
    project.devenv("--env", "other", "up")
    one, other = project.env(), json.loads(project.devenv("--env", "other", "env", "--format", "json").stdout)
    written = dotenv_values(files / "environments" / "other" / "env")
    assert written == other
    assert one["DEVENV_ETCD_PORT"] != other["DEVENV_ETCD_PORT"]
    assert one["DEVENV_ETCD_PASSWORD"] != other["DEVENV_ETCD_PASSWORD"]
    # A client is logged in where a login is needed.
    assert "root" in project.devenv("etcdctl", "user", "list").stdout.split()
    project.devenv("--env", "other", "down", "--volumes")
    assert {path.name: path.read_bytes() for path in files.iterdir() if path.is_file()} == before
    assert not (files / "environments").exists()


def test_an_image_with_only_the_servers_binary_works_as_etcd(
    project: Project, client: docker.DockerClient, tmp_path: Path
) -> None:
    # The shape of the official image: no shell, nothing but the binary, a passwd file, and root as its user.
    image = next(i for i in project.json("images", "list") if i["service"] == "etcd")["reference"]
    linked = client.containers.run(image, entrypoint=["ldd", "/usr/bin/etcd"], remove=True).decode()
    copies = [f"COPY --from=full {path} {path}\n" for path in re.findall(r"(/\S+) \(0x", linked)]
    (tmp_path / "Dockerfile").write_text(
        f"FROM {image} AS full\nFROM scratch\n"
        "COPY --from=full /usr/bin/etcd /usr/local/bin/etcd\n"
        + "".join(copies)
        + "COPY --from=full /etc/passwd /etc/passwd\n"
        "ENV PATH=/usr/local/bin\n"
    )
    tag = f"devenv-test/{uuid.uuid4().hex}:official-shape"
    client.images.build(path=str(tmp_path), tag=tag, rm=True, forcerm=True)
    try:
        text = f"services:\n  etcd:\n    image: {tag}\nprofile: coordination\n"
        project.configure(text, trusted=True)
        project.devenv("up")
        assert project.json("status")["services"]["etcd"]["state"] == "ready"
        project.devenv("down", "--volumes")
    finally:
        client.images.remove(tag, force=True)


# Its own place and number of the user, settings, folder and volume.
OFFICIAL_RABBITMQ = """\
FROM {image}
USER root
RUN mv /usr/lib/rabbitmq/lib/rabbitmq_server-* /opt/rabbitmq && \
    mv /opt/rabbitmq/apart/* /opt/rabbitmq/plugins/ && rmdir /opt/rabbitmq/apart && \
    rm -rf /usr/lib/rabbitmq /var/lib/rabbitmq && \
    sed -i 's/^rabbitmq:x:[0-9]*:/rabbitmq:x:12345:/' /etc/passwd && \
    install -d -o 12345 -m 1777 /var/lib/rabbitmq && \
    install -d /etc/rabbitmq/conf.d && echo 'listeners.tcp.default = 5999' > /etc/rabbitmq/conf.d/10-defaults.conf
ENV PATH=/opt/rabbitmq/sbin:/usr/local/bin:/usr/bin:/bin HOME=/var/lib/rabbitmq RABBITMQ_DATA_DIR=/var/lib/rabbitmq
VOLUME /var/lib/rabbitmq
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["rabbitmq-server"]
"""


@pytest.mark.long
def test_an_image_of_the_official_ones_shape_works_as_rabbitmq(
    project: Project, client: docker.DockerClient, tmp_path: Path
) -> None:
    image = next(i for i in project.json("images", "list") if i["service"] == "rabbitmq")["reference"]
    (tmp_path / "Dockerfile").write_text(OFFICIAL_RABBITMQ.format(image=image))
    tag = f"devenv-test/{uuid.uuid4().hex}:official-shape"
    client.images.build(path=str(tmp_path), tag=tag, rm=True, forcerm=True)
    try:
        text = f"services: {{rabbitmq: {{image: '{tag}', plugins: [rabbitmq_prometheus]}}}}\nprofile: messaging\n"
        project.configure(text, trusted=True)
        project.devenv("up")
        assert "rabbitmq_identity_info" in answer(project.env()["DEVENV_RABBITMQ_METRICS_URL"])
        project.devenv("restart")
        assert project.json("status")["services"]["rabbitmq"]["state"] == "ready"
        project.devenv("down", "--volumes")
    finally:
        client.images.remove(tag, force=True)


def answer(url: str) -> str:
    """Return what is at an address of this machine."""
    with requests.Session() as session:
        session.trust_env = False
        return session.get(url, timeout=30).text


@pytest.mark.long
def test_plugins_of_rabbitmq_work_and_have_their_own_ports(project: Project) -> None:
    usual = load_catalogue()["rabbitmq"]
    every = yaml.safe_load((usual.folder / "compose.yaml").read_text())["x-devenv"]["plugins"]
    project.configure(f"services: {{rabbitmq: {{plugins: [{', '.join(every)}]}}}}\nprofile: messaging\n")
    project.devenv("up")
    env = project.env()
    assert "rabbitmq_identity_info" in answer(env["DEVENV_RABBITMQ_METRICS_URL"])
    endpoints = project.json("status")["services"]["rabbitmq"]["endpoints"]
    assert endpoints.keys() > usual.endpoints.keys()
    for endpoint in endpoints.values():
        socket.create_connection((endpoint["host"], endpoint["port"]), 10).close()
    asked = "{rabbit_plugins:active(), application:get_env(rabbitmq_stream, advertised_port)}."
    told = project.devenv("exec", "rabbitmq", "--", "rabbitmqctl", "--quiet", "eval", asked).stdout
    assert {*every} <= {*re.findall(r"\w+", told)}
    # Clients of streams go on to the address that the server names.
    assert f"{{ok,{env['DEVENV_RABBITMQ_STREAM_PORT']}}}" in told


def test_data_of_a_later_rabbitmq_is_told_in_one_line(project: Project) -> None:
    project.configure("profile: messaging\n")
    project.devenv("up")
    mark = "/var/lib/rabbitmq/data/series"
    project.devenv("exec", "rabbitmq", "--", "sh", "-c", f"echo 3.13 > {mark}")
    project.devenv("restart")
    project.devenv("exec", "rabbitmq", "--", "sh", "-c", f"grep '^4' {mark} && echo 99.10 > {mark}")
    refused = project.devenv("restart", check=False)
    one_clear_line(refused, 5, "cannot use rabbitmq: its container exited 1", "RabbitMQ 99.10 wrote it")
    assert "'devenv reset rabbitmq' starts with new data" in refused.stderr
    project.devenv("reset", "rabbitmq")
    assert project.json("status")["services"]["rabbitmq"]["state"] == "ready"
