"""A real client uses each service with nothing but what devenv wrote."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from dotenv import dotenv_values
from oslo_config import cfg
from project import Project


@pytest.fixture
def env(running: Project) -> dict[str, str]:
    return {name: value or "" for name, value in dotenv_values(running.folder / ".devenv" / "env").items()}


def test_the_written_env_is_what_devenv_env_prints(running: Project, env: dict[str, str]) -> None:
    assert env == running.env()


def test_the_shell_form_reaches_a_program(running: Project, env: dict[str, str]) -> None:
    script = 'eval "$(cat)"; exec env'
    text = running.devenv("env", "--format", "shell").stdout
    printed = subprocess.run(["sh", "-c", script], input=text, capture_output=True, text=True, check=True).stdout
    assert env.items() <= dict(line.split("=", 1) for line in printed.splitlines() if "=" in line).items()


def test_mysql_takes_a_table_and_gives_it_back(env: dict[str, str]) -> None:
    import pymysql

    name = f"t{uuid.uuid4().hex}"
    with (
        pymysql.connect(
            host=env["DEVENV_MYSQL_HOST"],
            port=int(env["DEVENV_MYSQL_PORT"]),
            user=env["DEVENV_MYSQL_USER"],
            password=env["DEVENV_MYSQL_PASSWORD"],
            database=env["DEVENV_MYSQL_DATABASE"],
        ) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(f"CREATE TABLE {name} (word VARCHAR(20)) ENGINE=InnoDB")
        cursor.execute(f"INSERT INTO {name} VALUES (%s)", ("grüße ✓",))
        cursor.execute(f"SELECT word FROM {name}")
        assert cursor.fetchone() == ("grüße ✓",)
        cursor.execute(f"DROP TABLE {name}")
        # The administrator may make databases and users for others.
        cursor.execute(f"CREATE DATABASE {name}")
        cursor.execute(f"DROP DATABASE {name}")
        cursor.execute("SELECT VERSION()")
        (version,) = cursor.fetchone() or ("",)
        assert "MariaDB" not in version


def test_rabbitmq_carries_a_message(env: dict[str, str]) -> None:
    import amqp

    address = f"{env['DEVENV_RABBITMQ_HOST']}:{env['DEVENV_RABBITMQ_PORT']}"
    with (
        amqp.Connection(
            address,
            userid=env["DEVENV_RABBITMQ_USER"],
            password=env["DEVENV_RABBITMQ_PASSWORD"],
            virtual_host=env["DEVENV_RABBITMQ_VHOST"],
        ) as connection,
        connection.channel() as channel,
    ):
        queue = f"test.{uuid.uuid4().hex}"
        channel.queue_declare(queue, durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"})
        channel.basic_publish(amqp.Message("hello"), routing_key=queue)
        heard: list[str] = []
        channel.basic_consume(queue, no_ack=True, callback=lambda message: heard.append(message.body))
        while not heard:
            connection.drain_events(timeout=10)
        assert heard == ["hello"]
        channel.queue_delete(queue)


def test_rabbitmqs_management_serves_the_administrator(env: dict[str, str]) -> None:
    assert env["DEVENV_RABBITMQ_VHOST"] in [vhost["name"] for vhost in management(env, "vhosts")]


def test_rabbitmqs_management_collects_what_it_shows(env: dict[str, str]) -> None:
    overview = management(env, "overview")
    assert (overview["disable_stats"], overview["rates_mode"]) == (False, "basic")


@pytest.mark.long
def test_rabbitmqs_management_shows_messages_rates_and_consumers_of_a_queue(env: dict[str, str]) -> None:
    import amqp

    name = f"test.{uuid.uuid4().hex}"
    login = {"userid": env["DEVENV_RABBITMQ_USER"], "password": env["DEVENV_RABBITMQ_PASSWORD"]}
    address, vhost = f"127.0.0.1:{env['DEVENV_RABBITMQ_PORT']}", env["DEVENV_RABBITMQ_VHOST"]
    with amqp.Connection(address, virtual_host=vhost, **login) as connection, connection.channel() as channel:
        channel.queue_declare(name, durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"})
        channel.basic_qos(0, 1, False)
        channel.basic_consume(name, callback=lambda _: None)
        for _ in range(3):
            channel.basic_publish(amqp.Message("hello"), routing_key=name)
        shown: dict[str, Any] = {}
        while (shown.get("messages"), shown.get("messages_unacknowledged")) != (3, 1) or "message_stats" not in shown:
            time.sleep(0.2)  # RabbitMQ collects every five seconds.
            shown = management(env, f"queues/{vhost}/{name}")
        assert shown["consumers"] == 1
        assert {"publish_details", "deliver_details"} <= shown["message_stats"].keys()
        channel.queue_delete(name)


def management(env: dict[str, str], path: str) -> Any:
    """Return what RabbitMQ's management API answers to the administrator."""
    user = (env["DEVENV_RABBITMQ_USER"], env["DEVENV_RABBITMQ_PASSWORD"])
    return requests.get(f"{env['DEVENV_RABBITMQ_MANAGEMENT_URL']}/api/{path}", auth=user, timeout=10).json()


def test_etcd_keeps_a_key(env: dict[str, str]) -> None:
    url = env["DEVENV_ETCD_URL"]
    key, value = "Zm9v", "YmFy"
    requests.post(f"{url}/v3/kv/put", json={"key": key, "value": value}, timeout=10).raise_for_status()
    found = requests.post(f"{url}/v3/kv/range", json={"key": key}, timeout=10).json()
    assert found["kvs"][0]["value"] == value


def test_keystone_gives_a_token_for_each_cloud_of_clouds_yaml(running: Project) -> None:
    clouds = yaml.safe_load((running.folder / ".devenv" / "clouds.yaml").read_text())["clouds"]
    assert set(clouds) == {"devenv", "devenv-admin", "devenv-system-admin"}
    for cloud in clouds.values():
        auth = cloud["auth"]
        user = {"name": auth["username"], "password": auth["password"], "domain": {"id": auth["user_domain_id"]}}
        domain = {"id": auth.get("project_domain_id")}
        scope = (
            {"system": {"all": True}}
            if auth.get("system_scope")
            else {"project": {"name": auth["project_name"], "domain": domain}}
        )
        body = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}}
        answer = requests.post(f"{auth['auth_url']}/auth/tokens", json=body, timeout=10)
        assert answer.status_code == 201, answer.text


def test_openrc_gives_what_a_client_needs_and_forgets_what_it_must_not_see(running: Project) -> None:
    script = ". ./.devenv/openrc; env"
    stale = {**os.environ, "OS_SYSTEM_SCOPE": "all", "OS_CLOUD": "elsewhere"}
    shell = subprocess.run(
        ["bash", "-c", script], cwd=running.folder, env=stale, capture_output=True, text=True, check=True
    )
    found = dict(line.split("=", 1) for line in shell.stdout.splitlines() if line.startswith("OS_"))
    assert found.items() == {name: value for name, value in running.env().items() if name.startswith("OS_")}.items()


def test_no_file_depends_on_what_localhost_is(running: Project) -> None:
    files = [path for path in (running.folder / ".devenv").rglob("*") if path.is_file()]
    assert files and not [path for path in files if "localhost" in path.read_text()]


def test_oslo_config_reads_the_wired_file(running: Project, env: dict[str, str]) -> None:
    conf = cfg.ConfigOpts()
    conf.register_opt(cfg.StrOpt("transport_url"))
    conf.register_opt(cfg.StrOpt("connection"), "database")
    conf.register_opt(cfg.StrOpt("backend_url"), "coordination")
    conf.register_opts([cfg.StrOpt("auth_url"), cfg.StrOpt("username"), cfg.StrOpt("password")], "keystone_authtoken")
    conf.register_opt(cfg.BoolOpt("rabbit_quorum_queue"), "oslo_messaging_rabbit")
    conf(["--config-file", str(running.folder / ".devenv" / "oslo.conf")])
    assert conf.transport_url == env["DEVENV_RABBITMQ_URL"]
    assert conf.database.connection == env["DEVENV_MYSQL_URL"]
    assert conf.coordination.backend_url == f"etcd3+{env['DEVENV_ETCD_URL']}?api_version=v3"
    assert conf.keystone_authtoken.auth_url == env["DEVENV_KEYSTONE_URL"]
    assert conf.oslo_messaging_rabbit.rabbit_quorum_queue is True
    body = {
        "auth": {
            "identity": {
                "methods": ["password"],
                "password": {
                    "user": {
                        "name": conf.keystone_authtoken.username,
                        "password": conf.keystone_authtoken.password,
                        "domain": {"name": "Default"},
                    }
                },
            },
            "scope": {"project": {"name": "service", "domain": {"name": "Default"}}},
        }
    }
    token = requests.post(f"{conf.keystone_authtoken.auth_url}/auth/tokens", json=body, timeout=10)
    assert token.status_code == 201
    assert "service" in [role["name"] for role in token.json()["token"]["roles"]]


def test_the_library_says_the_same_as_the_command_line(running: Project, env: dict[str, str]) -> None:
    script = (
        "import json, sys; from devenv import Environment; e = Environment(sys.argv[1]); e.up();"
        "print(json.dumps(e.env()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(running.folder)],
        env=running.environ,
        cwd=Path("/"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert env == __import__("json").loads(done.stdout)


# ---- clients that devenv runs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (["mysql", "-Ne", "SELECT CURRENT_USER(), DATABASE()"], "devenv@%\tdevenv\n"),
        (["mysqldump", "--no-data", "keystone", "project"], "CREATE TABLE `project`"),
        (["mysqladmin", "ping"], "mysqld is alive"),
        (["rabbitmqctl", "-q", "list_vhosts"], "devenv"),
        (["etcd", "endpoint", "health"], "is healthy"),
    ],
    ids=lambda words: words[0] if isinstance(words, list) else "",
)
def test_a_client_is_logged_in(words: list[str], printed: str, running: Project) -> None:
    done = running.devenv(*words)
    assert printed in done.stdout + done.stderr


def test_a_client_reads_its_input_and_its_exit_code_is_devenvs(running: Project) -> None:
    done = running.process("mysql", "-N", stdin="SELECT 40+2;\nSELEC\n", check=False)
    assert (done.returncode, done.stdout) == (1, "42\n") and "ERROR 1064" in done.stderr
