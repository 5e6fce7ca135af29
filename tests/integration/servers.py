"""Start servers that are nobody's business of devenv's: as somebody else would, by plain containers of their images."""

from __future__ import annotations

import secrets
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import docker

from devenv.images.references import images_for
from devenv.model import Profile
from devenv.spec.catalogue import load_catalogue

# An administrator's password with characters that URLs have to escape.
PASSWORD = "adm+in/pw@1"
_SQL = f"""
CREATE USER boss@'%' IDENTIFIED BY '{PASSWORD}';
GRANT ALL ON *.* TO boss@'%' WITH GRANT OPTION;
CREATE USER reader@'%' IDENTIFIED BY 'reader';
GRANT SELECT ON *.* TO reader@'%';
CREATE DATABASE theirs;
CREATE TABLE theirs.kept (i INT);
INSERT INTO theirs.kept VALUES (7);
"""
_CONF = f"default_user = boss\ndefault_pass = {PASSWORD}\nloopback_users = none\n"
_MYSQL = """
mysqld --no-defaults --secure-file-priv= --datadir=/data/d --initialize-insecure
exec mysqld --no-defaults --secure-file-priv= --datadir=/data/d --socket=/tmp/s --pid-file=/tmp/pid --mysqlx=OFF \
    --init-file=/tmp/accounts $MORE
"""
_MARIADB = """
mariadb-install-db --no-defaults --force --skip-test-db --datadir=/data/d --auth-root-authentication-method=normal
exec mariadbd --no-defaults --datadir=/data/d --socket=/tmp/s --init-file=/tmp/accounts $MORE
"""
_POSTGRESQL = """
programs=$(ls -d /usr/lib/postgresql/*/bin)
mkdir /data/d
$programs/initdb -D /data/d -U boss --auth=scram-sha-256 --pwfile=/tmp/accounts
echo 'host all all all scram-sha-256' >> /data/d/pg_hba.conf
exec $programs/postgres -D /data/d -k /tmp -h '*'
"""
_RABBITMQ = """
export HOME=/tmp RABBITMQ_NODENAME=rabbit@localhost RABBITMQ_MNESIA_BASE=/data RABBITMQ_LOG_BASE=/tmp
export RABBITMQ_ENABLED_PLUGINS_FILE=/tmp/plugins RABBITMQ_CONFIG_FILE=/tmp/accounts RABBITMQ_PID_FILE=/tmp/pid
echo '[rabbitmq_management].' > /tmp/plugins
exec rabbitmq-server
"""
_ETCD = [
    "--data-dir=/data/d",
    "--listen-client-urls=http://0.0.0.0:2379",
    "--advertise-client-urls=http://0.0.0.0:2379",
]


@dataclass
class Server:
    """A server in a container, its published ports by its own, and the variables that attach it to devenv."""

    container: Any
    ports: Mapping[int, int]
    variables: dict[str, str] = field(default_factory=dict)

    def run(self, *command: str) -> str:
        """Run a command in it; return what it prints."""
        # The library's own way loses what a quick command prints first.
        exec_ = ["docker", "exec", self.container.id, *command]
        done = subprocess.run(exec_, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def wait_for(self, statement: str, seconds: float = 120) -> None:
        """Repeat a statement until MySQL carries it out."""
        until = time.monotonic() + seconds
        command = ["mysql", "--socket=/tmp/s", "--user=root", f"--execute={statement}"]
        while self.container.exec_run(command).exit_code:
            assert time.monotonic() < until, self.container.logs().decode()
            time.sleep(0.2)

    def sql(self, statement: str) -> str:
        """Run a statement in a MySQL, as its administrator."""
        return self.run("mysql", "--socket=/tmp/s", "--user=root", "--skip-column-names", f"--execute={statement}")


@dataclass(frozen=True)
class _Way:
    """How a server starts: its script, the file with its accounts, and its ports, the first one first."""

    ports: tuple[int, ...]
    script: str = ""
    accounts: str = ""
    command: tuple[str, ...] = ()


_WAYS = {
    "mysql": _Way((3306,), _MYSQL, _SQL),
    "mariadb": _Way((3306,), _MARIADB, _SQL),
    "postgresql": _Way((5432,), _POSTGRESQL, PASSWORD),
    "rabbitmq": _Way(
        (5672, 15672), _RABBITMQ, f"default_user = boss\ndefault_pass = {PASSWORD}\nloopback_users = none\n"
    ),
    "etcd": _Way((2379,), command=tuple(_ETCD)),
}
_SCHEMES = {"mysql": "mysql", "mariadb": "mysql", "postgresql": "postgresql", "rabbitmq": "amqp", "etcd": "http"}


@contextmanager
def started(client: docker.DockerClient, service: str, more: str = "", address: str = "127.0.0.1") -> Iterator[Server]:
    """Start a server of the image that devenv builds, without devenv; remove it afterwards.

    `more` are its options. It answers on `address`, one of this host's.
    """
    way, image = _WAYS[service], images_for(Profile("", {}), load_catalogue())[service].reference
    script = f'printf %s "$ACCOUNTS" > /tmp/accounts\nset -e\n{way.script}'
    with ExitStack() as stack:
        container = client.containers.run(
            image,
            detach=True,
            name=f"test-attached-{service}-{secrets.token_hex(4)}",
            entrypoint=["etcd"] if way.command else ["sh", "-c", script],
            command=list(way.command) or None,
            environment={"ACCOUNTS": way.accounts, "MORE": more},
            tmpfs={"/data": "mode=1777", "/tmp": "mode=1777"},
            ports={f"{port}/tcp": (address, None) for port in way.ports},
            ulimits=[docker.types.Ulimit(name="nofile", soft=16384, hard=16384)],
        )
        stack.callback(container.remove, force=True, v=True)
        container.reload()
        published = container.attrs["NetworkSettings"]["Ports"]
        ports = {port: int(published[f"{port}/tcp"][0]["HostPort"]) for port in way.ports}
        server = Server(container, ports)
        login = "" if service == "etcd" else f"boss:{quote(PASSWORD, safe='')}@"
        variable = f"DEVENV_ATTACH_{service.upper()}"
        server.variables[variable] = f"{_SCHEMES[service]}://{login}{address}:{ports[way.ports[0]]}"
        if service == "rabbitmq":
            server.variables[f"{variable}_MANAGEMENT"] = f"http://{address}:{ports[15672]}"
        yield server
