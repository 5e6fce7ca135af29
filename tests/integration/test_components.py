"""Components come, change and go with devenv.yaml. Each has its own accounts, and its options reach config files."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest
import requests
from project import REPOSITORY, Project, components, one_clear_line, plan_of

from devenv.services.base import Component, Target
from devenv.services.etcd import Etcd

TWO = """
components:
  nova: {catalog: {type: compute, url: "http://127.0.0.1:8774/v2.1"}, roles: [admin]}
  my-service: {}
"""
CONFIG = """\
[DEFAULT]
# Mine.
debug = true

[database]
connection = sqlite:///nova.sqlite
"""


@pytest.fixture(scope="module")
def wired(running: Project) -> Iterator[Project]:
    """Give the four services two components, for tests that leave both as they are."""
    with components(running, TWO):
        yield running


@pytest.fixture
def config(wired: Project) -> Iterator[Path]:
    """Write a config file of the project; undo afterwards what a test merged into it."""
    wired.configure(TWO)
    path = wired.folder / "nova.conf"
    path.write_text(CONFIG)
    yield path
    wired.devenv("unwire", check=False)


def env(project: Project, component: str = "") -> dict[str, str]:
    return dict(project.json("env", *(["--component", component] if component else [])))


def token(values: dict[str, str]) -> requests.Response:
    domain = {"id": "default"}
    user = {"name": values["OS_USERNAME"], "password": values["OS_PASSWORD"], "domain": domain}
    scope = {"project": {"name": values["OS_PROJECT_NAME"], "domain": domain}}
    identity = {"methods": ["password"], "password": {"user": user}}
    body = {"auth": {"identity": identity, "scope": scope}}
    return requests.post(f"{values['OS_AUTH_URL']}/auth/tokens", json=body, timeout=10)


def keystone(project: Project, path: str) -> Any:
    """Read a path of Keystone as the administrator."""
    admin = env(project)
    headers = {"X-Auth-Token": token(admin).headers["X-Subject-Token"]}
    answer = requests.get(admin["OS_AUTH_URL"] + path, headers=headers, timeout=10)
    answer.raise_for_status()
    return answer.json()


def connect(values: dict[str, str]) -> pymysql.connections.Connection[Any]:
    return pymysql.connect(
        host=values["DEVENV_MYSQL_HOST"],
        port=int(values["DEVENV_MYSQL_PORT"]),
        user=values["DEVENV_MYSQL_USER"],
        password=values["DEVENV_MYSQL_PASSWORD"],
        database=values["DEVENV_MYSQL_DATABASE"],
    )


def names_in(project: Project) -> dict[str, set[str]]:
    """Return the names of databases, vhosts, and users of RabbitMQ and Keystone, as the administrator sees them."""
    admin = env(project)
    with connect(admin) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW DATABASES")
        databases = {row[0] for row in cursor.fetchall()}
    login = (admin["DEVENV_RABBITMQ_USER"], admin["DEVENV_RABBITMQ_PASSWORD"])
    management = admin["DEVENV_RABBITMQ_MANAGEMENT_URL"]
    return {
        "databases": databases,
        "vhosts": {v["name"] for v in requests.get(f"{management}/api/vhosts", auth=login, timeout=10).json()},
        "queue users": {u["name"] for u in requests.get(f"{management}/api/users", auth=login, timeout=10).json()},
        "users": {user["name"] for user in keystone(project, "/users")["users"]},
    }


# ---- come, change, go --------------------------------------------------------------------------------------------


def test_a_second_up_has_nothing_to_do(wired: Project) -> None:
    wired.configure(TWO)
    assert plan_of(wired) == []


def test_components_are_there_and_each_logs_in_as_itself(wired: Project) -> None:
    found = names_in(wired)
    assert {"nova", "my_service"} <= found["databases"]
    assert {"nova", "my-service"} <= found["vhosts"] & found["queue users"] & found["users"]
    for component, roles in (("nova", {"admin", "service"}), ("my-service", {"service"})):
        answer = token(env(wired, component))
        assert answer.status_code == 201
        body = answer.json()["token"]
        given = {role["name"] for role in body["roles"]} - {"manager", "member", "reader"}  # implied by admin
        assert (body["project"]["name"], given) == ("service", roles)
        with connect(env(wired, component)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT CURRENT_USER()")
            assert cursor.fetchone() == (f"{component.replace('-', '_')}@%",)


def test_the_catalog_lists_the_component_with_all_its_endpoints(wired: Project) -> None:
    services = {service["type"]: service["id"] for service in keystone(wired, "/services")["services"]}
    endpoints = keystone(wired, f"/endpoints?service_id={services['compute']}")["endpoints"]
    assert {e["interface"]: e["url"] for e in endpoints} == dict.fromkeys(
        ("public", "internal", "admin"), "http://127.0.0.1:8774/v2.1"
    )


def test_components_come_change_and_go_with_devenv_yaml(project: Project) -> None:
    project.configure("profile: database\ncomponents: [nova]")
    project.devenv("up")
    with connect(env(project, "nova")) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE kept (id INT)")
    project.configure("profile: database\ncomponents: [nova, glance]")
    assert plan_of(project) == [("provision", "mysql/glance", "new")]
    project.devenv("up")
    assert (project.folder / ".devenv" / "glance.conf").exists()

    project.configure("profile: database\ncomponents: [glance]")
    assert plan_of(project) == []
    assert (
        "kept the data of nova, which devenv.yaml no longer lists; 'devenv up --drop' drops it"
        in project.devenv("up").stderr
    )
    assert not list((project.folder / ".devenv").glob("nova*"))
    assert (project.folder / ".devenv" / "glance.conf").exists()

    project.configure("profile: database\ncomponents: [nova, glance]")
    project.devenv("up")
    with connect(env(project, "nova")) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW TABLES")
        assert cursor.fetchall() == (("kept",),)

    project.configure("profile: database\ncomponents: [glance]")
    plan = project.json("plan", "--drop")["operations"]
    assert [(op["action"], op["target"]) for op in plan if op["action"] != "ready"] == [("drop", "mysql/nova")]
    project.devenv("up", "--drop")
    with connect(env(project, "glance")) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW DATABASES")
        assert "nova" not in {row[0] for row in cursor.fetchall()}
    with connect(env(project)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT user FROM mysql.user WHERE user = 'nova'")
        assert cursor.fetchall() == ()
    # devenv forgets dropped data: it neither says nor plans anything about it, and has nothing left to drop.
    assert "kept the data" not in project.devenv("up", "--drop").stderr


def test_a_change_reaches_the_service_and_nothing_else(wired: Project) -> None:
    wired.configure(TWO.replace("8774", "8775").replace(", roles: [admin]", ""))
    assert plan_of(wired) == [("provision", "keystone/nova", "its settings changed")]
    wired.devenv("up")
    endpoints = keystone(wired, "/endpoints")["endpoints"]
    assert [e["url"] for e in endpoints if ":877" in e["url"]] == ["http://127.0.0.1:8775/v2.1"] * 3
    assert [role["name"] for role in token(env(wired, "nova")).json()["token"]["roles"]] == ["service"]

    wired.configure("components: {nova: {}, my-service: {}}")
    wired.devenv("up")
    assert {service["type"] for service in keystone(wired, "/services")["services"]} == {"identity"}
    wired.configure(TWO)
    wired.devenv("up")


def test_a_component_whose_data_was_lost_gets_new_ones(wired: Project) -> None:
    wired.configure(TWO)
    wired.devenv("down", "rabbitmq", "--volumes")
    assert ("provision", "rabbitmq/nova", "new") in plan_of(wired)
    wired.devenv("up")
    assert {"nova", "my-service"} <= names_in(wired)["vhosts"]


# ---- components that are not there -------------------------------------------------------------------------------


def test_a_component_that_is_not_listed_is_told(wired: Project) -> None:
    for command in (["env", "--component", "nosuch"], ["wire", "nosuch", "nova.conf"]):
        one_clear_line(wired.devenv(*command, check=False), 3, "'nosuch'", "my-service, nova", "devenv.yaml")


def test_a_component_that_has_nothing_yet_is_told(wired: Project) -> None:
    wired.configure(TWO + "  third: {}\n")
    one_clear_line(wired.devenv("env", "--component", "third", check=False), 3, "'third'", "devenv up")
    wired.configure(TWO)


def test_a_template_that_names_an_unknown_value_fails_before_anything_is_done(project: Project, checkout: Path) -> None:
    template = checkout / "compose" / "etcd" / "wire" / "component" / "component.conf"
    template.write_text(template.read_text() + "x = ${nosuch}\n")
    project.configure("profile: coordination\ncomponents: [nova]")
    done = project.devenv("up", check=False)
    one_clear_line(done, 3, "component.conf", "${nosuch}: no such value")
    assert not (project.folder / ".devenv").exists()
    assert project.json("status")["services"]["etcd"]["state"] == "absent"


def test_another_format_is_a_file(project: Project, checkout: Path) -> None:
    folder = checkout / "compose" / "etcd" / "wire" / "component"
    (folder / "component.properties").write_text("app.etcd=${endpoint.client.url}\napp.prefix=${output.PREFIX}\n")
    (folder / "component.settings.py").write_text('ETCD = ("${endpoint.client.host}", ${endpoint.client.port})\n')
    project.configure("profile: coordination\ncomponents: [nova]")
    project.devenv("up")
    url = env(project)["DEVENV_ETCD_URL"]
    written = (project.folder / ".devenv" / "nova.properties").read_text()
    assert written.endswith(f"\napp.etcd={url}\napp.prefix=/nova/\n")
    script = "import runpy; print(runpy.run_path('.devenv/nova.settings.py')['ETCD'])"
    printed = subprocess.run([sys.executable, "-c", script], cwd=project.folder, capture_output=True, text=True)
    assert printed.stdout == f"('127.0.0.1', {env(project)['DEVENV_ETCD_PORT']})\n"


# ---- into the project's own files --------------------------------------------------------------------------------


def test_a_file_is_merged_checked_and_restored(wired: Project, config: Path) -> None:
    config.chmod(0o640)
    shown = wired.devenv("wire", "nova", "nova.conf", "--diff")
    assert "-connection = sqlite:///nova.sqlite" in shown.stdout and config.read_text() == CONFIG
    refused = wired.devenv("wire", "nova", "nova.conf", "--check", check=False)
    assert (refused.returncode, refused.stdout) == (1, shown.stdout)
    wired.devenv("wire", "nova", "nova.conf")
    merged = config.read_text()
    assert env(wired, "nova")["DEVENV_MYSQL_URL"] in merged and "# Mine.\ndebug = true\n" in merged
    assert stat.S_IMODE(config.stat().st_mode) == 0o640
    assert wired.devenv("wire", "nova", "nova.conf", "--check").stdout == ""
    assert "is up to date" in wired.devenv("wire", "nova", "nova.conf").stdout
    config.write_text(merged.replace("debug = true", "debug = false\nmore = 1"))
    wired.devenv("unwire", "nova", "nova.conf")
    assert config.read_text() == CONFIG.replace("debug = true", "debug = false\nmore = 1")


def test_up_keeps_listed_files_current_and_restores_those_that_are_not(wired: Project, config: Path) -> None:
    wired.configure(TWO.replace("nova: {", "nova: {wire: [nova.conf], "))
    assert f"merged into {config}" in wired.devenv("up").stdout
    assert env(wired, "nova")["DEVENV_MYSQL_URL"] in config.read_text()
    config.write_text(config.read_text().replace("rabbit_quorum_queue = true", "rabbit_quorum_queue = false"))
    wired.devenv("up")
    assert "rabbit_quorum_queue = true" in config.read_text()
    wired.configure(TWO)
    wired.devenv("up")
    # devenv also restores what the user wrote over an option of devenv's.
    assert "connection = sqlite:///nova.sqlite" in config.read_text()
    assert "rabbit_quorum_queue = false" in config.read_text() and "mysql" not in config.read_text()


def test_a_listed_file_that_cannot_be_merged_keeps_up_from_doing_anything(wired: Project, config: Path) -> None:
    config.write_text("[DEFAULT\n")
    wired.configure(TWO.replace("nova: {", "nova: {wire: [nova.conf], ") + "  third: {}\n")
    one_clear_line(wired.devenv("up", check=False), 3, "nova.conf")
    assert "third" not in names_in(wired)["vhosts"]
    assert config.read_text() == "[DEFAULT\n"


def test_a_component_that_is_renamed_takes_its_file_along(wired: Project, config: Path) -> None:
    listed = TWO.replace("nova: {", "nova: {wire: [nova.conf], ")
    wired.configure(listed)
    wired.devenv("up")
    wired.configure(listed.replace("nova: {wire", "nova_api: {wire").replace(", roles: [admin]", ""))
    assert str(config) in wired.json("plan")["files"]
    wired.devenv("up")
    assert env(wired, "nova_api")["DEVENV_MYSQL_URL"] in config.read_text() and "nova:" not in config.read_text()
    config.rename(wired.folder / "moved.conf")
    wired.configure(listed.replace("nova: {wire: [nova.conf]", "nova_api: {wire: [moved.conf]"))
    wired.devenv("up")
    wired.configure(TWO)
    assert f"restored {wired.folder / 'moved.conf'}" in wired.devenv("up", "--drop").stdout
    assert (wired.folder / "moved.conf").read_text() == CONFIG
    config.write_text(CONFIG)


def test_one_component_that_cannot_be_made_leaves_the_others_theirs(wired: Project) -> None:
    wired.configure(TWO + "  bad: {roles: [nosuch]}\n  good: {}\n")
    done = wired.devenv("up", check=False)
    one_clear_line(done, 5, "component bad", "Keystone has no role 'nosuch'", "correct 'roles' in devenv.yaml")
    assert (wired.folder / ".devenv" / "good.conf").exists()
    assert "[keystone_authtoken]" not in (wired.folder / ".devenv" / "bad.conf").read_text()
    wired.configure(TWO)
    wired.devenv("up", "--drop")
    assert {"bad", "good"}.isdisjoint(names_in(wired)["vhosts"])


def test_a_name_that_is_the_same_in_sql_keeps_its_data_over_a_drop(project: Project) -> None:
    project.configure("profile: database\ncomponents: [a-b]")
    project.devenv("up")
    with connect(env(project, "a-b")) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE kept (id INT)")
    project.configure("profile: database\ncomponents: [a_b]")
    project.devenv("up", "--drop")
    with connect(env(project, "a_b")) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW TABLES")
        assert cursor.fetchall() == (("kept",),)


def test_another_environment_leaves_the_files_to_the_default_one(project: Project) -> None:
    config = project.folder / "nova.conf"
    config.write_text(CONFIG)
    project.configure("profile: coordination\ncomponents: {nova: {wire: [nova.conf]}}")
    assert "merges nothing" in project.devenv("--env", "test", "up").stderr
    assert config.read_text() == CONFIG


def test_wiring_needs_a_file(wired: Project, config: Path) -> None:
    one_clear_line(wired.devenv("wire", check=False), 3, "no component lists a file under 'wire'")
    one_clear_line(wired.devenv("wire", "nova", "absent.conf", check=False), 3, "absent.conf")
    one_clear_line(wired.devenv("unwire", "nova", "nova.conf", check=False), 3, "nova.conf")
    one_clear_line(wired.devenv("unwire", "nova.conf", check=False), 3, "no such component", "COMPONENT FILE")
    one_clear_line(wired.devenv("wire", "clouds.yaml", check=False), 3, "--clouds before a clouds.yaml")


def test_clouds_are_merged_only_when_asked(wired: Project) -> None:
    wired.configure(TWO)
    path = wired.folder / "clouds.yaml"
    text = "clouds:\n  # Careful.\n  prod:\n    auth: {auth_url: 'https://cloud.example/v3'}  # far away\n"
    path.write_text(text)
    wired.devenv("up")
    assert path.read_text() == text
    wired.devenv("wire", "--clouds", "clouds.yaml")
    merged = path.read_text()
    assert "# Careful." in merged and "# far away" in merged and "devenv-admin:" in merged and "my-service" in merged
    wired.devenv("unwire", "--clouds", "clouds.yaml")
    assert path.read_text() == text


def test_the_whole_environment_going_restores_files_and_removes_its_own(project: Project) -> None:
    config = project.folder / "etc" / "nova.conf"
    config.parent.mkdir()
    config.write_text(CONFIG)
    project.configure("profile: coordination\ncomponents: {nova: {wire: [etc/nova.conf]}}")
    project.devenv("up")
    assert "backend_url" in config.read_text()
    project.devenv("down", "--volumes")
    assert config.read_text() == CONFIG
    assert not (project.folder / ".devenv").exists()


# ---- etcd with a login -------------------------------------------------------------------------------------------


def etcd(url: str, path: str, body: dict[str, str], login: str = "") -> requests.Response:
    return requests.post(f"{url}/v3/{path}", json=body, headers={"Authorization": login} if login else {}, timeout=10)


def test_etcd_asks_for_a_login_when_it_is_switched_on_and_no_longer_when_off(project: Project) -> None:
    components = "profile: coordination\ncomponents: [nova]\n"
    project.configure(components)
    project.devenv("up")
    url = env(project)["DEVENV_ETCD_URL"]
    key = {"key": "L25vdmEveA==", "value": "eA=="}  # /nova/x
    assert etcd(url, "kv/put", key).status_code == 200

    project.configure(components + "services: {etcd: {auth: true}}\n")
    changes = [(action, target) for action, target, _ in plan_of(project)]
    assert changes == [("prepare", "etcd"), ("provision", "etcd/nova")]
    project.devenv("up")
    assert etcd(url, "kv/put", key).status_code == 400
    mine = env(project, "nova")
    login = {"name": mine["DEVENV_ETCD_USER"], "password": mine["DEVENV_ETCD_PASSWORD"]}
    ticket = etcd(url, "auth/authenticate", login).json()["token"]
    assert etcd(url, "kv/put", key, ticket).status_code == 200
    assert etcd(url, "kv/put", {"key": "L2dsYW5jZS8=", "value": "eA=="}, ticket).status_code == 403  # /glance/
    assert plan_of(project) == []
    assert project.json("status")["services"]["etcd"]["state"] == "ready"

    # A client that has logged in as root does so again after etcd has restarted.
    root = env(project)
    settings = {"auth": "true", "password": root["DEVENV_ETCD_PASSWORD"]}
    work = Etcd(Target(root["DEVENV_ETCD_HOST"], int(root["DEVENV_ETCD_PORT"]), url, settings))
    made = Component("later", {"user": "later", "password": "later's", "prefix": "/later/"})
    work.ensure(made)
    project.devenv("restart")
    work.ensure(made)
    work.drop(made)
    work.close()
    assert etcd(url, "auth/authenticate", {"name": "later", "password": "later's"}).status_code == 400

    project.configure("profile: coordination\nservices: {etcd: {auth: true}}\n")
    project.devenv("up", "--drop")
    assert etcd(url, "auth/authenticate", login).status_code == 400
    project.configure("profile: coordination\n")
    project.devenv("up")
    assert etcd(url, "kv/range", {"key": key["key"]}).json().get("kvs") is None


# ---- devstack ----------------------------------------------------------------------------------------------------


def test_devstack_is_told_what_a_shell_can_read(wired: Project, tmp_path: Path) -> None:
    text = wired.devenv("export", "devstack").stdout
    assert text.count("[[local|localrc]]") == 1 and "${" not in text
    names = "DATABASE_HOST DATABASE_USER DATABASE_PASSWORD BASE_SQL_CONN MYSQL_TCP_PORT RABBIT_HOST RABBIT_USERID"
    names += " RABBIT_PASSWORD ETCD_PORT KEYSTONE_SERVICE_HOST ADMIN_PASSWORD SERVICE_PASSWORD"
    script = 'disabled=; disable_service() { disabled+="$* "; }; RC_DIR=.; . ./localrc; echo disabled=$disabled;'
    script += "".join(f'echo "{name}=${name}";' for name in names.split())
    (tmp_path / "localrc").write_text(text.partition("[[local|localrc]]\n")[2])
    done = subprocess.run(["bash", "-euc", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    found = dict(line.split("=", 1) for line in done.stdout.splitlines())
    admin = env(wired)
    assert found["disabled"].split() == ["mysql", "rabbit", "etcd3"]
    assert found["BASE_SQL_CONN"] + "/devenv?charset=utf8mb4" == admin["DEVENV_MYSQL_URL"]
    assert (found["MYSQL_TCP_PORT"], found["ETCD_PORT"]) == (admin["DEVENV_MYSQL_PORT"], admin["DEVENV_ETCD_PORT"])
    assert (found["RABBIT_USERID"], found["RABBIT_PASSWORD"]) == ("devenv", admin["DEVENV_RABBITMQ_PASSWORD"])
    assert found["ADMIN_PASSWORD"] == admin["OS_PASSWORD"]
    # DevStack asks for Keystone below /identity, and uses RabbitMQ's default vhost.
    identity = requests.get(f"http://{found['KEYSTONE_SERVICE_HOST']}/identity/v3", timeout=10)
    assert identity.status_code == 200 and identity.json()["version"]["id"].startswith("v3")
    assert "/" in names_in(wired)["vhosts"]
    one_clear_line(wired.devenv("export", "nosuch", check=False), 3, "'nosuch'", "devstack")


# ---- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("components: ['Nova']", ["components.Nova", "lower-case letters"]),
        ("components: ['no`va']", ["lower-case letters"]),
        ("components: [my-service, my_service]", ["has the same database"]),
        ("components: [keystone]", ["'keystone'", "keystone has it"]),
        ("components: [mysql]", ["'mysql'", "keeps it for itself"]),
        ("components: [oslo]", ["'oslo'", "devenv writes another oslo.conf"]),
        ("components: {nova: {wire: [../nova.conf]}}", ["inside the project"]),
        ("services: {etcd: {tls: true}}", ["'tls'", "it has: auth"]),
    ],
)
def test_a_component_that_cannot_be_is_told_before_anything_is_done(
    project: Project, text: str, words: list[str]
) -> None:
    project.configure(text)
    one_clear_line(project.devenv("up", check=False), 3, *words)
    assert not (project.folder / ".devenv").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xef\xbb\xbf[DEFAULT]\n", ["byte order mark"]),
        (b"[DEFAULT\n", ["nova.conf:1"]),
        (b"\xff\xfe", ["UTF-8"]),
        (b"[DEFAULT]\nnonsense\n", ["nova.conf:2"]),
    ],
    ids=["BOM", "bracket", "bytes", "line"],
)
def test_a_file_that_cannot_be_merged_stays_as_it_is(
    wired: Project, config: Path, content: bytes, words: list[str]
) -> None:
    config.write_bytes(content)
    one_clear_line(wired.devenv("wire", "nova", "nova.conf", check=False), 3, *words)
    assert config.read_bytes() == content


def test_odd_files_are_merged_and_restored_to_the_byte(wired: Project, config: Path) -> None:
    odd = b"[DEFAULT]\r\npath = $state/%x 'q\"\r\nlist = a\r\n  b\r\nmulti = 1\r\nmulti = 2\r\n"
    odd += b"[a]\r\n[DEFAULT]\r\nlast = 1"
    big = b"[x]\n" + b"# comment\noption = value\n" * 200_000
    for content in (odd, big, b""):
        config.write_bytes(content)
        wired.devenv("wire", "nova", "nova.conf")
        assert config.read_bytes() != content
        wired.devenv("unwire", "nova", "nova.conf")
        assert config.read_bytes() == content


def test_a_link_is_followed_inside_the_project_only(wired: Project, config: Path, tmp_path: Path) -> None:
    link, outside = wired.folder / "link.conf", tmp_path / "outside.conf"
    outside.write_text(CONFIG)
    link.symlink_to(outside)
    one_clear_line(wired.devenv("wire", "nova", "link.conf", check=False), 3, "link.conf", "outside")
    assert outside.read_text() == CONFIG
    link.unlink()
    link.symlink_to(config)
    wired.devenv("wire", "nova", "link.conf")
    assert link.is_symlink() and "[coordination]" in config.read_text()
    wired.devenv("unwire", "nova", "link.conf")
    assert config.read_text() == CONFIG
    link.unlink()


def test_installed_from_a_wheel_it_brings_the_templates(wired: Project) -> None:
    names = {path.relative_to(REPOSITORY / "compose").parts[1] for path in (REPOSITORY / "compose").glob("*/wire*/*/*")}
    assert {"wire", "wire-auth"} <= names
    assert json.loads((wired.folder / ".devenv" / "nova.json").read_text())["pymysql"]["database"] == "nova"
