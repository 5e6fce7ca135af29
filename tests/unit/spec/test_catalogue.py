"""Reading service folders: correct ones load; devenv reports a mistake with file, line and key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from builders import compose_data, line_of, write_service

from devenv.errors import ConfigError
from devenv.model import Client, ServiceDefinition
from devenv.services.base import Provisioner
from devenv.services.lookup import load_probe, load_provisioner
from devenv.spec.catalogue import load_catalogue, load_service

SHIPPED = load_catalogue()


def edited(path: str, value: Any) -> dict[str, Any]:
    """Return a correct file's data with one place changed. Slashes separate the path; ... removes the place."""
    data = compose_data()
    *above, last = path.split("/")
    place: Any = data
    for key in above:
        place = place.setdefault(key, {})
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return data


def problems(path: Path) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_service(path)
    assert caught.value.exit_code == 3
    assert caught.value.message.startswith(f"cannot use {path}")
    return caught.value.detail


# ---- what is right ---------------------------------------------------------------------------------------------


def test_the_base_services_fill_the_four_roles() -> None:
    assert {name: service.role for name, service in SHIPPED.items()} == {
        "mysql": "database",
        "mariadb": "database",
        "postgresql": "database",
        "rabbitmq": "message-queue",
        "etcd": "coordination",
        "keystone": "identity",
    }


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_service_is_complete(name: str) -> None:
    service = SHIPPED[name]
    assert callable(load_probe(service.probe["kind"]))
    assert not service.provisioner or issubclass(load_provisioner(service.provisioner["kind"]), Provisioner)
    assert (service.folder / "Dockerfile").is_file() == service.build
    assert all(file.source.is_file() for file in service.files)
    # All four can run read-only; another service may have to write to its image's folders.
    assert service.options.read_only


def test_a_client_is_a_command_in_the_container_or_a_package_of_the_users_machine(tmp_path: Path) -> None:
    here = {"package": "web-client", "environment": {"CLOUD": "$$x"}}
    data = edited("x-devenv/clients", {"webctl": ["webctl", "--local"], "web-client": here})
    assert load_service(write_service(tmp_path, data)).clients == {
        "webctl": Client(("webctl", "--local")),
        "web-client": Client(package="web-client", environment={"CLOUD": "$x"}),
    }


def test_what_the_file_says_is_in_the_model(tmp_path: Path) -> None:
    service = load_service(write_service(tmp_path, compose_data()))
    assert (service.name, service.role, service.image, service.build) == ("web", "web-role", "example/web", False)
    assert (service.options.mem_limit, service.options.stop_grace_period) == (512 * 1024**2, 90)
    assert service.volumes == (("data", "/data"),)
    assert [(f.source, f.target) for f in service.files] == [(tmp_path / "web/./main.conf", "/etc/devenv/main.conf")]
    assert service.endpoints["http"].url == "http://u:${secret.password}@${host}:${port}"


@pytest.mark.parametrize(("text", "size"), [("1", 1), ("2k", 2048), ("3M", 3 * 1024**2), ("1gb", 1024**3), (7, 7)])
def test_sizes_are_read_as_compose_reads_them(tmp_path: Path, text: str | int, size: int) -> None:
    path = write_service(tmp_path, edited("services/web/mem_limit", text))
    assert load_service(path).options.mem_limit == size


@pytest.mark.parametrize(("text", "seconds"), [("10s", 10), ("2m", 120), ("1m30s", 90), ("0s", 0)])
def test_durations_are_read_as_compose_reads_them(tmp_path: Path, text: str, seconds: int) -> None:
    path = write_service(tmp_path, edited("services/web/stop_grace_period", text))
    assert load_service(path).options.stop_grace_period == seconds


def test_a_new_folder_is_a_new_service_without_any_code(tmp_path: Path) -> None:
    write_service(tmp_path, compose_data("one"), "one")
    write_service(tmp_path, compose_data("two"), "two")
    assert list(load_catalogue(tmp_path)) == ["one", "two"]


# ---- what a new environment may start from ---------------------------------------------------------------------


def test_no_volume_is_golden_unless_the_file_says_so(tmp_path: Path) -> None:
    assert load_service(write_service(tmp_path, compose_data())).golden == ()
    assert load_service(write_service(tmp_path, edited("x-devenv/golden", ["data"]))).golden == ("data",)


def test_only_data_that_is_dear_to_make_and_free_of_credentials_is_golden() -> None:
    assert {name: service.golden for name, service in SHIPPED.items() if service.golden} == {
        "mysql": ("data",),
        "mariadb": ("data",),
        "postgresql": ("data",),
    }


# ---- settings and switches -------------------------------------------------------------------------------------

SWITCHED = {"settings": {"sync": "no", "log": "few"}, "switches": {"safe": {"settings": {"sync": "yes"}}}}


def settings(folder: Path, **arguments: Any) -> dict[str, str]:
    data = compose_data()
    data["x-devenv"] |= SWITCHED
    write_service(folder, data)
    write_service(folder, compose_data("plain"), "plain")
    return dict(load_catalogue(folder, **arguments)["web"].settings)


def test_a_switch_lays_its_settings_over_those_of_the_service(tmp_path: Path) -> None:
    assert settings(tmp_path) == {"sync": "no", "log": "few"}
    assert settings(tmp_path, switches={"web": {"safe": True}}) == {"sync": "yes", "log": "few"}


def test_a_switch_for_all_turns_on_where_there_is_one_and_nothing_else_is_said(tmp_path: Path) -> None:
    assert settings(tmp_path, everywhere={"safe": True})["sync"] == "yes"
    assert settings(tmp_path, everywhere={"safe": False})["sync"] == "no"
    assert settings(tmp_path, everywhere={"safe": True}, switches={"web": {"safe": False}})["sync"] == "no"
    assert settings(tmp_path, everywhere={"safe": False}, switches={"web": {"safe": True}})["sync"] == "yes"


PLUGINS = {
    "settings": {"plugins": "page", "more": ""},
    "plugins": {
        "web_shovel": {},
        "web_stream": {"endpoints": {"stream": {"port": 80, "url": "stream://"}}, "settings": {"more": "a line"}},
    },
}


def with_plugins(folder: Path, *plugins: str) -> ServiceDefinition:
    data = compose_data()
    data["x-devenv"] |= PLUGINS
    write_service(folder, data)
    return load_catalogue(folder, plugins={"web": plugins}, asked_by="devenv.yaml")["web"]


def test_a_plugin_is_listed_in_a_setting_and_adds_what_it_brings(tmp_path: Path) -> None:
    none = with_plugins(tmp_path)
    assert (none.settings, list(none.endpoints)) == ({"plugins": "page", "more": ""}, ["http"])
    both = with_plugins(tmp_path, "web_stream", "web_shovel")
    assert both.settings == {"plugins": "page,web_stream,web_shovel", "more": "a line"}
    assert list(both.endpoints) == ["http", "stream"]


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("shovl", "did you mean web_shovel? 'devenv help reference' lists all"),
        ("web_steam", "did you mean web_stream? 'devenv help reference' lists all"),
        ("e", "did you mean web_shovel or web_stream? 'devenv help reference' lists all"),
        ("mqtt", "'devenv help reference' lists all"),
    ],
)
def test_a_wrong_plugin_is_told_with_those_that_are_near(tmp_path: Path, wrong: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        with_plugins(tmp_path, "web_shovel", wrong)
    assert caught.value.message == f"cannot find {wrong!r} among the plugins of web (in devenv.yaml)"
    assert caught.value.hint == hint


def test_the_port_of_a_plugin_is_among_the_services_ports(tmp_path: Path) -> None:
    data = compose_data()
    data["x-devenv"] |= {"settings": {"plugins": ""}, "plugins": {"top": {"endpoints": {"a": {"port": 81, "url": ""}}}}}
    (problem,) = problems(write_service(tmp_path, data))
    assert "x-devenv.plugins.top.endpoints.a.port: 81 is not among the service's ports" in problem


def test_a_plugin_of_a_service_that_has_none_is_told() -> None:
    with pytest.raises(ConfigError, match="cannot find 'x' among the plugins of etcd"):
        load_catalogue(plugins={"etcd": ["x"]})


def test_what_is_unsafe_but_fast_is_off_with_the_switch_for_it() -> None:
    durable = load_catalogue(everywhere={"durable": True})
    assert {name: dict(service.settings) for name, service in durable.items() if service.settings} == {
        "mysql": {"flush_log": "1", "flush_method": "O_DIRECT", "doublewrite": "ON"},
        "mariadb": {"flush_log": "1", "flush_method": "O_DIRECT", "doublewrite": "ON"},
        "postgresql": {"fsync": "on"},
        "etcd": {"no_fsync": "false"},
        # None is about data: the number of processes, and their cache; plugins, and what one needs.
        "keystone": {"processes": "1", "cache": "true"},
        "rabbitmq": {"plugins": "rabbitmq_management", "stream": ""},
    }


# ---- what is wrong ---------------------------------------------------------------------------------------------

# Compose keys that would let a container do more than it can without them.
MORE_THAN_NOTHING = {
    "privileged": True,
    "cap_add": ["NET_RAW"],
    "devices": ["/dev/kvm"],
    "group_add": ["docker"],
    "network_mode": "host",
    "pid": "host",
    "ipc": "host",
    "uts": "host",
    "userns_mode": "host",
    "cgroup": "host",
    "volumes_from": ["other"],
    "sysctls": ["kernel.shmmax=1"],
    "oom_kill_disable": True,
    "use_api_socket": True,
}
PRECAUTIONS = ("user", "read_only", "cap_drop", "security_opt", "pids_limit", "mem_limit")
ROOTS = ("root", "0", "0:0", "root:nogroup", "00", "")
WRONG: list[tuple[str, Any, str]] = [
    *((f"services/web/{key}", value, f"services.web.{key}: unknown key") for key, value in MORE_THAN_NOTHING.items()),
    *((f"services/web/{key}", ..., f"services.web.{key}: required key not provided") for key in PRECAUTIONS),
    *(("services/web/user", user, "services.web.user: expected a user that is not root") for user in ROOTS),
    ("services/web/cap_drop", [], "services.web.cap_drop: expected [ALL]"),
    ("services/web/cap_drop", ["NET_RAW"], "services.web.cap_drop: expected [ALL]"),
    ("services/web/security_opt", [], 'services.web.security_opt: expected ["no-new-privileges:true"]'),
    (
        "services/web/security_opt",
        ["no-new-privileges:true", "seccomp:unconfined"],
        'services.web.security_opt: expected ["no-new-privileges:true"]',
    ),
    ("services/web/pids_limit", -1, "services.web.pids_limit: expected a number above 0"),
    ("services/web/mem_limit", "0m", "services.web.mem_limit: expected a size above 0"),
    ("services/web/volumes", ["/var/run/docker.sock:/data"], "services.web.volumes.0: expected NAME:/path"),
    ("services/web/ports", ["0.0.0.0::80"], "services.web.ports.0: expected 127.0.0.1::PORT"),
    ("services/web/image", ..., "services.web.image: required key not provided"),
    ("services/web/image", "a:${TAG}", "services.web.image: a $ must be written $$"),
    ("services/web/build", "../other", "services.web.build: not a valid value"),
    ("services/web/hostname", "Web Server", "services.web.hostname: expected a name"),
    ("services/web/entrypoint", "sh -c x", "services.web.entrypoint: expected a list"),
    ("services/web/environment", {"A": True}, "services.web.environment.A: expected text"),
    ("services/web/read_only", "yes", "services.web.read_only: expected true or false"),
    ("services/web/volumes", ["/root:/data"], "services.web.volumes.0: expected NAME:/path"),
    ("services/web/volumes", ["data:/data:rw"], "services.web.volumes.0: expected NAME:/path"),
    ("services/web/ports", ["8080:80"], "services.web.ports.0: expected 127.0.0.1::PORT"),
    ("services/web/ports", ["0.0.0.0::80"], "services.web.ports.0: expected 127.0.0.1::PORT"),
    ("services/web/ulimits", {"nofile": 9, "nproc": 3}, "services.web.ulimits.nproc: unknown key"),
    ("services/web/mem_limit", "much", "services.web.mem_limit: expected a size"),
    ("services/web/stop_grace_period", "soon", "services.web.stop_grace_period: expected a duration"),
    ("services/web/stop_grace_period", "", "services.web.stop_grace_period: expected a duration"),
    (
        "services/web/configs",
        [{"source": "main", "target": "/etc/passwd"}],
        "services.web.configs.0.target: expected /etc/devenv/NAME",
    ),
    (
        "services/web/configs",
        [{"source": "main", "target": "/etc/devenv/../x"}],
        "services.web.configs.0.target: expected /etc/devenv/NAME",
    ),
    ("volumes/data", {"driver": "nfs"}, "volumes.data: expected nothing"),
    ("networks", {}, "networks: unknown key"),
    ("x-devenv/role", ..., "x-devenv.role: required key not provided"),
    ("x-devenv/role", "Big Role", "x-devenv.role: expected a name"),
    ("x-devenv/priority", 1, "x-devenv.priority: unknown key"),
    ("x-devenv/secrets", ["Pass-Word"], "x-devenv.secrets.0: expected a name"),
    ("x-devenv/outputs", {"user": "x"}, "x-devenv.outputs.user: "),
    ("x-devenv/endpoints/http/port", 70000, "x-devenv.endpoints.http.port: expected a port"),
    ("x-devenv/endpoints/http/port", "80", "x-devenv.endpoints.http.port: expected int"),
    ("x-devenv/golden", "data", "x-devenv.golden: expected a list"),
    ("x-devenv/golden", ["Data"], "x-devenv.golden.0: expected the name of a volume"),
    ("x-devenv/clients", {"Mysql": ["mysql"]}, "x-devenv.clients.Mysql: expected the name of a program"),
    ("x-devenv/clients", {"--help": ["mysql"]}, "x-devenv.clients.--help: expected the name of a program"),
    ("x-devenv/clients", {"mysql": []}, "x-devenv.clients.mysql: "),
    ("x-devenv/clients", {"mysql": "mysql"}, "x-devenv.clients.mysql: "),
    (
        "x-devenv/clients",
        {"x": {"package": "a b"}},
        "x-devenv.clients.x.package: expected the name of a Python package",
    ),
    ("x-devenv/clients", {"x": {"environment": {"A": "b"}}}, "x-devenv.clients.x.package: "),
    ("x-devenv/settings", {"Sync": "1"}, "x-devenv.settings.Sync: "),
    ("x-devenv/settings", {"sync": True}, "x-devenv.settings.sync: expected text"),
    ("x-devenv/probe/kind", ..., "x-devenv.probe.kind: required key not provided"),
    (
        "x-devenv/requires",
        {"database": {"condition": "soon", "component": "web"}},
        "x-devenv.requires.database.condition: expected service_started or service_healthy",
    ),
    (
        "x-devenv/requires",
        {"database": {"condition": "service_healthy", "component": "a`; DROP"}},
        "x-devenv.requires.database.component: expected a name",
    ),
]
# Mistakes that no schema sees: names of things that do not exist.
CONTRADICTIONS: list[tuple[str, Any, str]] = [
    ("services/web/configs/0/source", "other", "services.web.configs"),
    ("services/web/volumes", ["cache:/data"], "services.web.volumes"),
    ("configs/main/file", "./absent.conf", "configs.main.file"),
    ("configs/main/file", "../../secret", "configs.main.file"),
    ("configs/main/file", "/etc/passwd", "configs.main.file"),
    ("x-devenv/endpoints/http/port", 81, "x-devenv.endpoints.http.port"),
    ("x-devenv/probe/endpoint", "https", "x-devenv.probe.endpoint"),
    ("x-devenv/wheels", "absent.txt", "x-devenv.wheels"),
    ("x-devenv/wheels", "../../etc/passwd", "x-devenv.wheels"),
    ("services/web/build", ".", "services.web.build"),  # the folder has no Dockerfile
    ("x-devenv/golden", ["cache"], "x-devenv.golden.0: web has no volume 'cache'; it has: data"),
    ("x-devenv/golden", ["data", "data"], "x-devenv.golden.1: 'data' is named twice"),
    ("x-devenv/switches", {"safe": {"settings": {"sync": "1"}}}, "x-devenv.switches.safe.settings.sync: no setting"),
    ("x-devenv/plugins", {"web_top": {}}, "x-devenv.plugins: no setting named 'plugins'"),
    ("services", {"other": compose_data()["services"]["web"]}, "services"),
]


@pytest.mark.parametrize(("place", "value", "expected"), WRONG, ids=[expected for _, _, expected in WRONG])
def test_a_mistake_is_told_with_file_line_and_key(tmp_path: Path, place: str, value: Any, expected: str) -> None:
    path = write_service(tmp_path, edited(place, value))
    (problem,) = problems(path)
    where, line, text = problem.split(":", 2)
    assert (where, text.strip()[: len(expected)]) == (str(path), expected)
    # The line is that of the key, of the nearest existing key above it, or of an item below it.
    named = place.split("/")[-2 if value is ... else -1]
    assert any(f"{named}:" in text for text in path.read_text().splitlines()[: int(line)])


@pytest.mark.parametrize(("place", "value", "key"), CONTRADICTIONS, ids=[f"{p}={v}"[:60] for p, v, _ in CONTRADICTIONS])
def test_a_name_of_something_that_is_not_there_is_told(tmp_path: Path, place: str, value: Any, key: str) -> None:
    if place.startswith("services/web/configs"):
        place, value = "services/web/configs", [{"source": value, "target": "/etc/devenv/x"}]
    path = write_service(tmp_path, edited(place, value))
    (problem,) = problems(path)
    assert key in problem


@pytest.mark.parametrize(
    ("place", "value", "text"),
    [("x-devenv/probe/endpoint", "https", "endpoint: https"), ("configs/main/file", "./x", "./x")],
)
def test_such_a_mistake_is_told_with_its_line(tmp_path: Path, place: str, value: Any, text: str) -> None:
    path = write_service(tmp_path, edited(place, value))
    assert problems(path)[0].startswith(f"{path}:{line_of(path, text)}: ")


def test_an_unknown_key_is_told_on_its_own_line(tmp_path: Path) -> None:
    path = write_service(tmp_path, edited("services/web/privileged", True))
    assert problems(path) == (f"{path}:{line_of(path, 'privileged')}: services.web.privileged: unknown key",)


def test_a_link_out_of_the_folder_is_no_config(tmp_path: Path) -> None:
    path = write_service(tmp_path, compose_data())
    (tmp_path / "outside").write_text("")
    (path.parent / "main.conf").unlink()
    (path.parent / "main.conf").symlink_to(tmp_path / "outside")
    assert "configs.main.file" in problems(path)[0]


@pytest.mark.parametrize("name", ["Web", "we b", "9web", "w" * 32, "web_1", "wéb", "web."])
def test_an_unsafe_name_is_no_service(tmp_path: Path, name: str) -> None:
    path = write_service(tmp_path, compose_data(name, "role"), name)
    assert f"services.{name}: " in problems(path)[0]


def test_all_errors_of_all_services_come_at_once(tmp_path: Path) -> None:
    first = compose_data("one")
    first["services"]["one"]["privileged"] = first["x-devenv"]["more"] = True
    write_service(tmp_path, first, "one")
    second = compose_data("two")
    second["x-devenv"]["probe"]["endpoint"] = "nowhere"
    write_service(tmp_path, second, "two")
    third = write_service(tmp_path, compose_data("three"), "three")
    third.write_text("a: [1")
    with pytest.raises(ConfigError) as caught:
        load_catalogue(tmp_path)
    words = ("one/compose.yaml", "one/compose.yaml", "three/compose.yaml", "two/compose.yaml")
    assert len(caught.value.detail) == 4
    assert all(word in problem for word, problem in zip(words, caught.value.detail, strict=True))


def test_a_misspelt_key_of_a_service_gets_the_one_that_stands_there(tmp_path: Path) -> None:
    data = compose_data()
    data["x-devenv"]["switches"] = {"durable": {"setting": {}}}
    data["services"]["web"]["enviroment"] = {}
    path = write_service(tmp_path, data)
    found = "\n".join(problems(path))
    assert "services.web.enviroment: unknown key; did you mean 'environment'?" in found
    assert "x-devenv.switches.durable.setting: unknown key; did you mean 'settings'?" in found
