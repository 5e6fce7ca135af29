"""Nobody but the owner gets in or sees a secret. The tests know every secret of all four services."""

from __future__ import annotations

import io
import json
import re
import socket
import tarfile
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv6Address, ip_network
from pathlib import Path
from threading import Event, Thread
from typing import Any

import amqp
import docker
import pymysql
import pytest
import requests
from project import Project, new_project, ours, remove
from suites import outcome, pytest_process

from devenv.cli.doctor import PORTS_SAFE_SINCE

CONFIG = """\
services:
  etcd: {auth: true}
components:
  nova:
    wire: [nova.conf]
    catalog: {type: compute, url: "http://127.0.0.1:8774/v2.1"}
    sections: {neutron: network}
"""
# A component that Keystone refuses after the other services have made their parts of it.
REFUSED = CONFIG + "  refused: {roles: [nosuchrole]}\n"
SECRET = re.compile(rb"Canary[a-z]{26}")
# A suite with a failing test, so that devenv says all that it has to say about it.
SUITE = """
def test_fails(devenv, devenv_component):
    assert devenv.services and devenv_component.services
    assert False
"""
# Seconds between two looks of the watch.
PERIOD = 0.05


def encoded(secret: bytes) -> Iterator[bytes]:
    """Yield what the Base64 of any text with the secret contains, for each offset of the secret modulo 3."""
    for before, depending in enumerate((0, 2, 3)):
        text = b64encode(b"x" * before + secret)
        yield text[depending : (before + len(secret)) // 3 * 4]


BASE64 = re.compile(b"|".join(encoded(b"Canary")))


# ---- the environment ---------------------------------------------------------------------------------------------


@dataclass
class Canary:
    """A project with secrets that tests recognise anywhere, what the watch saw, and what devenv said."""

    project: Project
    place: Path
    # Names by value.
    secrets: Mapping[bytes, str]
    began: float
    # The folders that devenv did not make.
    given: frozenset[Path]
    said: dict[str, str] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    looks: int = 0

    @cached_property
    def id(self) -> str:
        return self.project.id

    @cached_property
    def env(self) -> dict[str, str]:
        return self.project.env()

    def devenv(self, *arguments: str, check: bool = True) -> str:
        done = self.project.process(*arguments, check=check)
        self.said[" ".join(arguments)] = done.stdout + done.stderr
        return done.stdout

    def secrets_in(self, content: bytes | str) -> set[str]:
        """Return the names of the secrets that are in `content`, as they are or in Base64."""
        raw = content if isinstance(content, bytes) else content.encode()
        found = {self.secrets.get(found, "of nobody") for found in SECRET.findall(raw)}
        if BASE64.search(raw):
            found |= {name for secret, name in self.secrets.items() if any(text in raw for text in encoded(secret))}
        return found

    def exposed(self) -> Iterator[str]:
        """Yield files with secrets and folders of devenv's that are open to others, and files that others may write."""
        for path in self.place.rglob("*"):
            with suppress(OSError):
                mode = path.lstat().st_mode & 0o777
                if path.is_dir() and path not in self.given and mode != 0o700:
                    yield f"{path} {mode:o}"
                if path.is_file() and mode & 0o077 and (mode & 0o022 or self.secrets_in(path.read_bytes())):
                    yield f"{path} {mode:o}"

    def told(self) -> Iterator[str]:
        """Yield command lines with secrets, of all processes on this machine, in containers, too."""
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                if names := self.secrets_in(path.read_bytes()):
                    yield f"command line with {names}"

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Look for what is exposed or told, all the time."""
        over = Event()

        def look() -> None:
            while not over.wait(PERIOD):
                # A folder may be gone before the watch looks into it.
                with suppress(OSError):
                    self.seen.update(self.exposed())
                self.seen.update(self.told())
                self.looks += 1

        watch = Thread(target=look)
        watch.start()
        try:
            yield
        finally:
            over.set()
            watch.join()


def canary_of(name: str) -> str:
    """Return a secret of the usual length that only these tests recognise."""
    letters = "".join(re.findall("[a-z]", name))
    return "Canary" + letters.ljust(26, "x")[:26]


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Canary]:
    """Do everything in one environment that could tell a secret, with a umask of 0."""
    place = tmp_path_factory.mktemp("canary")
    project = new_project(place, "project")
    project.umask = 0
    for variable, name in (("HOME", "home"), ("TMPDIR", "tmp")):
        (place / name).mkdir()
        project.extra[variable] = str(place / name)
    # The folders that Python makes are not devenv's.
    project.extra["PYTHONDONTWRITEBYTECODE"] = "1"
    project.extra["DEVENV_CACHE_DIR"] = str(place / "home" / "cache")
    (project.folder / "nova.conf").touch(mode=0o600)
    given = frozenset(path for path in place.rglob("*") if path.is_dir())
    project.configure(CONFIG)
    # This makes all secrets. The fixture then replaces them by ones that tests can find.
    project.devenv("export", "compose")
    (kept,) = project.state.glob("environments/*/secrets.json")
    secrets = {name: canary_of(name) for name in json.loads(kept.read_text())}
    kept.write_text(json.dumps(secrets))
    found = Canary(project, place, {value.encode(): name for name, value in secrets.items()}, time.time(), given)
    assert len(found.secrets) == len(secrets) >= 14
    try:
        with found.watched():
            work(found)
        yield found
    finally:
        project.devenv("snapshot", "rm", "before", check=False)
        remove(project)


# To run after an `up`, each with --debug.
COMMANDS = [
    *("plan --format json", "status --timing --format json", "logs", "doctor", "images list", "images sbom"),
    *("snapshot save before", "reset", "snapshot restore before", "snapshot list", "gc --keep 100000"),
    *(
        "run --component nova -- true",
        "run -- true",
        "wire nova nova.conf",
        "unwire nova nova.conf",
        "wire nova nova.conf",
    ),
    *("ls", "open rabbitmq", "mysqladmin ping", "etcdctl version"),
    *("stop etcd", "start etcd", "down etcd", "up", "wait"),
]


def work(canary: Canary) -> None:
    """Do what users do, with as much output as possible."""
    canary.devenv("--debug", "up", "--timing", "--trace", "trace.json")
    for command in COMMANDS:
        canary.devenv("--debug", *command.split())
    for tool in ("github", "gitlab", "zuul"):
        canary.devenv("export", tool, "--install", "./devenv.whl")
    for tool in ("compose", "devstack"):
        canary.devenv("export", tool, "--output", tool)
    canary.devenv(
        *["ci", "--component", "nova", "--artifacts", "artifacts", "--summary", "s.md", "--", "sh", "-c", "false"],
        check=False,
    )
    (canary.project.folder / "test_suite.py").write_text(SUITE)
    failed = pytest_process(canary.project, "--devenv-artifacts", "suite")
    outcome(failed, failed=1)
    canary.said["pytest"] = failed.stdout
    canary.project.configure(REFUSED)
    canary.devenv("--debug", "up", check=False)
    canary.project.configure(CONFIG)


def containers(canary: Canary, client: docker.DockerClient) -> dict[str, docker.models.containers.Container]:
    """Return the environment's containers by service."""
    names = ours(client, canary.id)["containers"]
    assert len(names) == 4
    return {name.rpartition("-")[2]: client.containers.get(name) for name in names}


def processes(container: docker.models.containers.Container) -> list[Path]:
    """Return the folders in /proc of a container's processes."""
    return [Path("/proc") / row[0] for row in container.top(ps_args="-o pid")["Processes"]]


# ---- nobody is let in ----------------------------------------------------------------------------------------------


def own_addresses(canary: Canary, client: docker.DockerClient) -> set[str]:
    """Return the addresses of this machine that others on its networks could send to."""
    networks = [*ours(client, canary.id)["networks"], "bridge"]
    pools = [client.networks.get(name).attrs["IPAM"]["Config"][0] for name in networks]
    # Some engines do not tell the gateway of their own bridge: it is the first address.
    found = {pool.get("Gateway") or str(next(ip_network(pool["Subnet"]).hosts())) for pool in pools}
    with socket.socket(type=socket.SOCK_DGRAM) as unused, suppress(OSError):
        # The address of the way out, if this machine has one. This sends nothing.
        unused.connect(("192.0.2.1", 9))
        found.add(unused.getsockname()[0])
    with suppress(FileNotFoundError):
        rows = [line.split() for line in Path("/proc/net/if_inet6").read_text().splitlines()]
        # As the kernel writes it: the address, and 00 if it is a global one.
        found |= {str(IPv6Address(int(address, 16))) for address, _, _, scope, *_ in rows if scope == "00"}
    return found


def test_a_published_port_is_there_on_the_loopback_address_alone(canary: Canary, client: docker.DockerClient) -> None:
    published = [p for c in containers(canary, client).values() for p in c.attrs["NetworkSettings"]["Ports"].values()]
    bindings = [binding for several in published for binding in several or ()]
    assert len(bindings) >= 5
    assert {binding["HostIp"] for binding in bindings} == {"127.0.0.1"}
    addresses = own_addresses(canary, client)
    assert addresses and not [address for address in addresses if address.startswith("127.")]
    for port in (int(binding["HostPort"]) for binding in bindings):
        socket.create_connection(("127.0.0.1", port), timeout=10).close()
        for address in addresses:
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((address, port), timeout=10)


# As the kernel writes ::1 and 127.0.0.0/8, also within IPv6. The engine's own resolver answers on 127.0.0.11.
LOOPBACK = re.compile(r"0{24}01000000|(0{16}FFFF0{4})?[0-9A-F]{6}7F")
LISTENS = "0A"


def open_ports(process: Path) -> set[int]:
    """Return the ports of a process's container that others on its network can reach."""
    rows = [line.split() for name in ("tcp", "tcp6") for line in (process / "net" / name).read_text().splitlines()[1:]]
    where = [row[1].split(":") for row in rows if row[3] == LISTENS]
    return {int(port, 16) for address, port in where if not LOOPBACK.fullmatch(address)}


def test_only_what_is_published_is_open_to_the_network(canary: Canary, client: docker.DockerClient) -> None:
    for container in containers(canary, client).values():
        published = {int(port.removesuffix("/tcp")) for port in container.attrs["HostConfig"]["PortBindings"]}
        assert open_ports(processes(container)[0]) == published


def test_doctor_warns_of_an_engine_that_lets_neighbours_reach_loopback_ports(
    canary: Canary, client: docker.DockerClient
) -> None:
    checks = json.loads(canary.project.devenv("doctor", "--format", "json", check=False).stdout)
    (check,) = [one for one in checks if one["name"] == "version"]
    leaky = int(client.version()["Version"].partition(".")[0]) < PORTS_SAFE_SINCE
    assert (check["status"], "moby#45610" in check["detail"]) == (("warn", True) if leaky else ("ok", False))


def test_rabbitmq_has_no_account_but_devenvs(canary: Canary) -> None:
    env = canary.env
    address = f"127.0.0.1:{env['DEVENV_RABBITMQ_PORT']}"
    for user, password in (("guest", "guest"), ("devenv", ""), ("devenv", "devenv"), ("", "")):
        refused = amqp.Connection(address, userid=user, password=password, virtual_host="/", connect_timeout=10)
        with pytest.raises(amqp.exceptions.AccessRefused):
            refused.connect()
        users = f"{env['DEVENV_RABBITMQ_MANAGEMENT_URL']}/api/users"
        assert requests.get(users, auth=(user, password), timeout=10).status_code == 401
    login = (env["DEVENV_RABBITMQ_USER"], env["DEVENV_RABBITMQ_PASSWORD"])
    found = {user["name"] for user in requests.get(users, auth=login, timeout=10).json()}
    assert found - {"refused"} == {"devenv", "nova"}


def test_mysql_has_neither_anonymous_accounts_nor_root_over_tcp_nor_a_test_database(canary: Canary) -> None:
    env = canary.env
    at = {"host": "127.0.0.1", "port": int(env["DEVENV_MYSQL_PORT"])}
    root = canary_of("mysql.root_password")
    for user, password in (("root", ""), ("root", root), ("", ""), ("mysql", ""), ("devenv", ""), ("test", "")):
        with pytest.raises(pymysql.err.OperationalError, match="Access denied"):
            pymysql.connect(user=user, password=password, **at)
    with pymysql.connect(user="devenv", password=env["DEVENV_MYSQL_PASSWORD"], **at) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT user, host, account_locked FROM mysql.user WHERE user <> 'refused'")
        accounts = {(user, host): locked for user, host, locked in cursor.fetchall()}
        cursor.execute("SHOW DATABASES")
        databases = {name for (name,) in cursor.fetchall()}
    own = {(user, "localhost") for user in ("mysql.sys", "mysql.session", "mysql.infoschema")}
    assert accounts.keys() == own | {("root", "localhost"), ("devenv", "%"), ("keystone", "%"), ("nova", "%")}
    assert {accounts[account] for account in own} == {"Y"}
    system = {"mysql", "sys", "information_schema", "performance_schema"}
    assert databases - system - {"refused"} == {"devenv", "keystone", "nova"}


def test_etcd_with_logins_lets_nobody_in_without_one(canary: Canary) -> None:
    env = canary.env
    url, key = f"{env['DEVENV_ETCD_URL']}/v3", {"key": "L25vdmEveA=="}
    assert requests.post(f"{url}/kv/range", json=key, timeout=10).status_code != 200
    for user, password in (("root", ""), ("root", "root"), ("root", "devenv"), ("", ""), ("nova", "")):
        login = {"name": user, "password": password}
        assert requests.post(f"{url}/auth/authenticate", json=login, timeout=10).status_code != 200
    login = {"name": "root", "password": env["DEVENV_ETCD_PASSWORD"]}
    assert requests.post(f"{url}/auth/authenticate", json=login, timeout=10).json()["token"]


def test_keystones_accounts_take_the_generated_passwords_alone(canary: Canary) -> None:
    env = canary.env

    def status(user: str, password: str) -> int:
        identity = {"user": {"name": user, "domain": {"id": "default"}, "password": password}}
        body = {"auth": {"identity": {"methods": ["password"], "password": identity}}}
        return requests.post(f"{env['OS_AUTH_URL']}/auth/tokens", json=body, timeout=10).status_code

    for user in ("admin", "devenv", "demo", "nova"):
        assert {status(user, guess) for guess in ("", user, "admin", "devenv", "secret", "password")} == {401}
    assert status("admin", env["OS_PASSWORD"]) == 201
    # ADMIN is the example of Keystone's authors for the token that needs no account.
    for token in ("ADMIN", "", "devenv"):
        users = requests.get(f"{env['OS_AUTH_URL']}/users", headers={"X-Auth-Token": token}, timeout=10)
        assert users.status_code == 401
    assert requests.get(f"{env['OS_AUTH_URL']}/users", timeout=10).status_code == 401


# ---- no secret is told ---------------------------------------------------------------------------------------------


def copied_files(container: docker.models.containers.Container) -> Iterator[bytes]:
    """Yield the content of each file that devenv copied into a container."""
    archive = b"".join(container.get_archive("/etc/devenv")[0])
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            if content := tar.extractfile(member):
                yield content.read()


def test_every_secret_is_one_that_services_and_components_use(canary: Canary, client: docker.DockerClient) -> None:
    # Otherwise the other tests would find nothing because nothing is there.
    texts = [text for container in containers(canary, client).values() for text in copied_files(container)]
    texts += [path.read_bytes() for path in (canary.project.folder / ".devenv").rglob("*") if path.is_file()]
    found = set().union(*map(canary.secrets_in, texts))
    assert found == set(canary.secrets.values())


def test_no_secret_is_in_what_the_engine_tells(canary: Canary, client: docker.DockerClient) -> None:
    label = {"label": [f"io.devenv.environment={canary.id}"]}
    running = containers(canary, client)
    told: list[Any] = [client.api.containers(all=True, filters=label), client.api.networks(filters=label)]
    told += [client.api.inspect_network(name) for name in ours(client, canary.id)["networks"]]
    for container in running.values():
        told += [container.attrs, client.api.inspect_image(container.image.id), client.api.history(container.image.id)]
        told += [client.api.inspect_volume(mount["Name"]) for mount in container.attrs["Mounts"]]
        told += [container.top()]
    told += list(client.events(since=canary.began, until=time.time(), filters=label, decode=True))
    text = json.dumps(told)
    assert text.count(canary.id) > 20
    assert not canary.secrets_in(text)


def test_no_secret_is_in_a_command_line_or_a_variable_of_a_server(canary: Canary, client: docker.DockerClient) -> None:
    for name, container in containers(canary, client).items():
        for process in processes(container):
            assert (process / "cmdline").read_bytes(), name
            for file in ("cmdline", "environ"):
                assert not canary.secrets_in((process / file).read_bytes()), f"{file} in {name}"
    # Nor in a command line of a process that ran only for a moment, in a container or outside.
    assert canary.looks > 20
    assert not [seen for seen in canary.seen if "command line" in seen]


def test_no_secret_is_in_a_log(canary: Canary, client: docker.DockerClient) -> None:
    logs = {name: container.logs() for name, container in containers(canary, client).items()}
    assert all(logs.values())
    assert not {name: found for name, log in logs.items() if (found := canary.secrets_in(log))}


def test_no_secret_is_in_what_devenv_says_with_debug_or_without(canary: Canary) -> None:
    assert not {command: found for command, text in canary.said.items() if (found := canary.secrets_in(text))}
    debugged = canary.said["--debug up --timing --trace trace.json"]
    assert re.search(r"POST /v[\d.]+/containers/create\?name=devenv-\S+: 201 after \d+ ms", debugged)
    # An error shows its traceback, but no secret that the code worked with.
    failed = canary.said["--debug up"]
    assert "Traceback" in failed and "cannot" in failed and "nosuchrole" in failed
    assert not [secret for secret in secrets_of(canary.project).values() if secret in failed]
    # devenv does show a secret if asked for it.
    assert "mysql.password" in canary.secrets_in(json.dumps(canary.env))


def secrets_of(project: Project) -> dict[str, str]:
    (path,) = project.state.glob("environments/*/secrets.json")
    return dict(json.loads(path.read_text()))


def test_no_secret_is_in_what_leaves_the_machine(canary: Canary) -> None:
    artifacts = []
    for folder in ("artifacts", "suite/default"):
        collected = sorted((canary.project.folder / folder).iterdir())
        assert {path.name for path in collected} >= {"mysql.log", "inspect.json", "status.json", "trace.json"}
        artifacts += collected
    assert "its log during the test" in canary.said["pytest"]
    for path in (*artifacts, canary.project.folder / "s.md", canary.project.folder / "trace.json"):
        assert not canary.secrets_in(path.read_bytes()), path
    for tool in ("github", "gitlab", "zuul"):
        assert "services" in canary.said[f"export {tool} --install ./devenv.whl"]
        assert not canary.secrets_in(canary.said[f"export {tool} --install ./devenv.whl"]), tool


def test_exports_that_are_told_to_hold_passwords_are_for_their_owner_alone(canary: Canary) -> None:
    for tool in ("compose", "devstack"):
        path = canary.project.folder / tool
        assert canary.secrets_in(path.read_bytes()) >= {"mysql.password", "keystone.admin_password"}
        assert path.stat().st_mode & 0o777 == 0o600


# ---- files are for their owner alone -------------------------------------------------------------------------------


def test_whatever_holds_a_secret_is_for_its_owner_alone_at_any_moment_under_any_umask(canary: Canary) -> None:
    assert not [seen for seen in canary.seen if "command line" not in seen]
    assert not list(canary.exposed())
    kept = [path for path in canary.project.state.rglob("*") if path.is_file()]
    assert {path.name for path in kept} >= {"secrets.json", "record.json", "lock", "wired.json"}
    assert {str(path): path.stat().st_mode & 0o777 for path in kept} == {str(path): 0o600 for path in kept}


def test_a_snapshot_holds_the_secrets_and_is_for_its_owner_alone(canary: Canary) -> None:
    (saved,) = canary.project.state.glob("environments/*/snapshots/before.json")
    assert canary.secrets_in(saved.read_bytes()) == set(canary.secrets.values())
    assert saved.stat().st_mode & 0o777 == 0o600


def test_the_files_of_a_component_hold_its_own_passwords_alone(canary: Canary) -> None:
    mine = {name for name in canary.secrets.values() if name.endswith("/nova")}
    assert mine == {"mysql/nova", "rabbitmq/nova", "etcd/nova", "keystone/nova"}
    files = sorted((canary.project.folder / ".devenv").glob("nova.*"))
    assert len(files) >= 3
    for path in (*files, canary.project.folder / "nova.conf"):
        contents = [p.read_bytes() for p in path.iterdir()] if path.is_dir() else [path.read_bytes()]
        assert set().union(*map(canary.secrets_in, contents)) <= mine, path


# ---- containers may do as little as they can -----------------------------------------------------------------------


def test_containers_may_do_as_little_as_they_can(canary: Canary, client: docker.DockerClient) -> None:
    (network,) = ours(client, canary.id)["networks"]
    for name, container in containers(canary, client).items():
        host = container.attrs["HostConfig"]
        assert not host["Privileged"], name
        assert host["CapDrop"] == ["ALL"], name
        assert host["SecurityOpt"] == ["no-new-privileges:true"], name
        assert host["ReadonlyRootfs"], name
        assert host["Memory"] > 0 and host["PidsLimit"] > 0, name
        assert host["NetworkMode"] == client.networks.get(network).id, name
        more = ("CapAdd", "Binds", "Devices", "DeviceRequests", "VolumesFrom", "GroupAdd", "OomKillDisable", "Links")
        assert not {key: host[key] for key in more if host.get(key)}, name
        for space in ("PidMode", "IpcMode", "UTSMode", "UsernsMode"):
            assert host[space] in ("", "private"), (name, space)
        # Neither a folder of the host's nor the engine's socket.
        assert {mount["Type"] for mount in container.attrs["Mounts"]} == {"volume"}, name


def test_servers_are_not_root_and_cannot_become_it(canary: Canary, client: docker.DockerClient) -> None:
    for name, container in containers(canary, client).items():
        running = processes(container)
        assert running
        for process in running:
            status = dict(re.findall(r"^(\w+):\t(.*)$", (process / "status").read_text(), re.MULTILINE))
            assert "0" not in status["Uid"].split() + status["Gid"].split() + status["Groups"].split(), (name, status)
            none = {key: int(status[key], 16) for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
            assert set(none.values()) == {0}, (name, none)
            assert status["NoNewPrivs"] == "1", name
            # The engine's own filter of system calls is on.
            assert status["Seccomp"] == "2", name
            assert "docker.sock" not in (process / "mountinfo").read_text(), name
