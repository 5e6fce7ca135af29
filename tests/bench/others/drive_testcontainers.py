"""Bring services up with testcontainers as its users do, one after the other; print when all were ready.

This runs in a Python that has testcontainers, and imports nothing of devenv. devenv built the images. The entrypoints
are the ones that Compose gets, since these images have none that reads MYSQL_* or RABBITMQ_*.
"""

import contextlib
import importlib.metadata
import json
import os
import pathlib
import sys
import time

# Its reaper is an image that it would have to pull. It reaches ports where devenv's are.
os.environ["TESTCONTAINERS_RYUK_DISABLED"] = "true"
os.environ["TESTCONTAINERS_CONNECTION_MODE"] = "docker_host"
os.environ["TESTCONTAINERS_HOST_OVERRIDE"] = "127.0.0.1"

PASSWORD = "bench"


def main() -> None:
    services = sys.argv[1:]
    if services == ["--about"]:
        import pika  # noqa: F401, which its RabbitMqContainer imports
        import testcontainers  # noqa: F401

        version = importlib.metadata.version("testcontainers")
        print(json.dumps({"testcontainers": version, "mysql": version, "rabbitmq": version}))
        return
    images = json.loads(os.environ["BENCH_IMAGES"])
    with contextlib.ExitStack() as stack:
        for service in services:
            stack.enter_context({"mysql": mysql, "rabbitmq": rabbitmq}[service](images[service]))
        print(f"{time.time():.6f}", flush=True)


def mysql(image):
    """Return the container. testcontainers waits for two lines, one of a temporary server; this image logs only one."""
    from testcontainers.community.mysql import MySqlContainer

    container = MySqlContainer(
        image,
        dialect="pymysql",
        username="keystone",
        password=PASSWORD,
        dbname="keystone",
        wait_strategy_check_string=r".*: ready for connections.*",
        user="root",
        # Compose's volume makes the folder; here nothing does.
        entrypoint=["sh", "-c", "mkdir -p /var/lib/mysql && chown mysql: /var/lib/mysql && exec sh /bench/mysql.sh"],
        labels={"devenv.bench": os.environ["BENCH_TOKEN"]},
    )
    return prepared(container, "mysql", 3306)


def rabbitmq(image):
    from docker.types import Ulimit
    from testcontainers.community.rabbitmq import RabbitMqContainer

    container = RabbitMqContainer(
        image,
        username="openstack",
        password=PASSWORD,
        user="root",
        hostname="rabbitmq",
        entrypoint=["sh", "-c", "mkdir -p /var/lib/rabbitmq && exec sh /bench/rabbitmq.sh"],
        labels={"devenv.bench": os.environ["BENCH_TOKEN"]},
        # As for Compose: with an engine's limit of a billion, Erlang takes minutes.
        ulimits=[Ulimit(name="nofile", soft=16384, hard=16384)],
    )
    container.with_env("RABBITMQ_PASSWORD", PASSWORD).with_env("HOME", "/var/lib/rabbitmq")
    return prepared(container, "rabbitmq", 5672)


def prepared(container, service, port):
    """Give a container Compose's script, and its port on loopback only."""
    script = pathlib.Path(os.environ["BENCH_FOLDER"]) / f"{service}.sh"
    container.with_volume_mapping(str(script), f"/bench/{service}.sh")
    container.ports[str(port)] = ("127.0.0.1",)
    return container


if __name__ == "__main__":
    main()
