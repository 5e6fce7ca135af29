"""URLs of servers that somebody else runs: what devenv makes of them, which it refuses, and which need trust."""

from __future__ import annotations

from pathlib import Path

import pytest

from devenv.errors import ConfigError
from devenv.model import Catalogue
from devenv.spec import attach, trust
from devenv.spec.catalogue import load_catalogue
from devenv.spec.desired import Inputs, resolve, secret_names, select
from devenv.spec.profile import load_profile

URLS = {
    "mysql": "mysql://root:se%23cret@db.example",
    "mariadb": "mariadb+pymysql://root:secret@db.example:3307/theirs?charset=utf8mb4",
    "postgresql": "postgresql://root:secret@db.example",
    "rabbitmq": "amqp://boss:secret@mq.example",
    "etcd": "http://127.0.0.1",
    "keystone": "http://admin:secret@127.0.0.1/identity/v3",
}


def attached(**urls: str) -> Catalogue:
    return load_catalogue(attached={name: {"attach": url} for name, url in urls.items()})


def write(folder: Path, text: str) -> Path:
    (folder / "devenv.yaml").write_text(text)
    return folder


def test_every_shipped_service_can_be_attached_and_gives_components_its_address() -> None:
    catalogue = attached(**URLS)
    profile = load_profile(Path("/nowhere"), settings={name: {"attach": url} for name, url in URLS.items()})
    secrets = dict.fromkeys([*secret_names(list(URLS), profile, catalogue), *(f"{name}/nova" for name in URLS)], "x")
    found = resolve(list(URLS), Inputs("env", profile, catalogue, {}, {}, secrets, former=["nova"]))
    urls = {name: [e.url for e in service.endpoints.values()] for name, service in found.services.items()}
    assert urls == {
        "mysql": ["mysql+pymysql://root:se%23cret@db.example:3306/?charset=utf8mb4"],
        "mariadb": ["mysql+pymysql://root:secret@db.example:3307/theirs?charset=utf8mb4"],
        "postgresql": ["postgresql+psycopg2://root:secret@db.example:5432/postgres"],
        "rabbitmq": ["rabbit://boss:secret@mq.example:5672//", "http://mq.example:15672"],
        "etcd": ["http://127.0.0.1:2379"],
        "keystone": ["http://127.0.0.1:80/identity/v3"],
    }
    assert not found.images
    for service in found.services.values():
        assert not (service.container or service.ports or service.volumes or service.files or service.depends)
        assert "secret" not in service.attached
        part = service.former["nova"]
        for key, endpoint in service.endpoints.items():
            assert (part.endpoints[key].host, part.endpoints[key].port) == (endpoint.host, endpoint.port)
            assert part.values[f"network.{key}.host"] == endpoint.host


def test_a_login_in_the_url_of_etcd_gives_components_logins() -> None:
    without, login = attached(etcd="http://127.0.0.1")["etcd"], attached(etcd="http://root:pw@127.0.0.1")["etcd"]
    assert without.provisioner["auth"] == "false"
    assert "USER" not in without.component.outputs
    assert login.provisioner["auth"] == "true"
    assert "prepare" not in login.provisioner  # devenv does not change who may log in there
    assert login.component.outputs["USER"]


def test_an_etcd_without_a_login_gives_components_none_and_says_so_if_they_are_asked_for() -> None:
    def asked(url: str) -> Catalogue:
        switches = {"etcd": {"auth": True, "durable": True}}
        return load_catalogue(switches=switches, asked_by="devenv.yaml", attached={"etcd": {"attach": url}})

    assert asked("http://root:pw@127.0.0.1")["etcd"].provisioner["auth"] == "true"
    with pytest.raises(ConfigError, match=r"cannot have 'auth' of etcd \(in devenv.yaml\): its URL, .* has no login"):
        asked("http://127.0.0.1")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("mysqls://root:secret@h", "its scheme is mysqls"),
        ("root:secret@h", "it has no scheme"),
        ("mysql://root:secret@", "no host name"),
        ("mysql://root:secret@[::1]", "no host name or IPv4 address"),
        ("mysql://root:secret@h:99999", "it is no URL such as"),
        ("mysql://h", "no login of an administrator"),
        ("mysql://root:secret@h/?ssl_ca=x", "devenv cannot use ssl_ca in it"),
        ("mysql://root:secret@h/#x", "it has a #"),
        ("mysql://root:se%22cret@h", "a character that not every file can hold"),
        ("mysql://root:secret@h/a%0Ab", "a character that devenv cannot write"),
    ],
)
def test_a_url_that_devenv_cannot_use_is_refused_without_its_password(url: str, why: str) -> None:
    with pytest.raises(ConfigError) as refused:
        attached(mysql=url)
    assert refused.value.message.startswith("cannot attach mysql")
    assert why in refused.value.message
    assert "secret" not in refused.value.message + refused.value.hint


def test_the_callers_variables_attach_services_and_win_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "services: {keystone: {attach: 'http://file/v3', user: admin, password: theirs}}\n")
    monkeypatch.setenv("DEVENV_ATTACH_KEYSTONE", "http://caller/v3")
    monkeypatch.setenv("DEVENV_ATTACH_KEYSTONE_PASSWORD", "mine")
    monkeypatch.setenv("DEVENV_ATTACH_RABBITMQ", "amqp://a:b@h")
    monkeypatch.setenv("DEVENV_ATTACH_RABBITMQ_MANAGEMENT", "http://h:8080/prefix")
    services = load_profile(tmp_path).services
    assert services["keystone"].attach | {"source": ""} == {
        "attach": "http://caller/v3",
        "user": "admin",
        "password": "mine",
        "source": "",
    }
    assert services["rabbitmq"].attach["management"] == "http://h:8080/prefix"


@pytest.mark.parametrize("variable", ["DEVENV_ATTACH_MYSQLX", "DEVENV_ATTACH_MY_SQL", "DEVENV_ATTACH_MYSQLX_PASSWORD"])
def test_a_variable_that_names_no_service_is_told_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    write(tmp_path, "profile: base\n")
    monkeypatch.setenv(variable, "mysql://root:secret@h")
    with pytest.raises(ConfigError, match=rf"cannot find service 'my-?sqlx?' \(by {variable}\)$") as refused:
        select(load_profile(tmp_path), load_catalogue())
    assert "did you mean 'mysql'?" in refused.value.hint


def test_an_attached_service_takes_no_other_setting(tmp_path: Path) -> None:
    write(tmp_path, "services: {mysql: {attach: 'mysql://r:s@h', image: mysql:8.4}}\n")
    with pytest.raises(ConfigError) as refused:
        load_profile(tmp_path)
    assert "somebody else runs an attached service" in "".join(refused.value.detail)
    write(tmp_path, "services: {mysql: {user: root}}\n")
    with pytest.raises(ConfigError) as refused:
        load_profile(tmp_path)
    assert "expected 'attach' beside it" in "".join(refused.value.detail)


def test_a_variable_stands_for_all_of_a_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "services: {mysql: {attach: '${env:DB}'}}\n")
    monkeypatch.delenv("DB", raising=False)
    with pytest.raises(ConfigError, match="this variable is not set"):
        load_profile(tmp_path)
    monkeypatch.setenv("DB", "mysql://r:s@db.example")
    assert load_profile(tmp_path).services["mysql"].attach["attach"] == "mysql://r:s@db.example"
    # It would send what is in the caller's variable to the file's address.
    write(tmp_path, "services: {mysql: {attach: 'mysql://r:${env:DB}@127.0.0.1'}}\n")
    with pytest.raises(ConfigError, match="and other text beside it"):
        load_profile(tmp_path)


@pytest.mark.parametrize(
    ("url", "foreign"),
    [
        ("mysql://r:s@127.0.0.1:3306", ""),
        ("mysql://r:s@localhost", ""),
        ("mysql://r:s@127.9.9.9", ""),
        ("${env:DB}", ""),
        ("mysql://r:s@db.example:3306", "db.example:3306"),
        ("mysql://r:s@127.0.0.1.evil.example", "127.0.0.1.evil.example"),
        ("mysql://evil.example/?@127.0.0.1", "evil.example"),
        ("mysql://evil.example/@localhost", "evil.example"),
        ("mysql://r:s@127.0.0.1@evil.example", "evil.example"),
        ("mysql://r:s@0.0.0.0", "0.0.0.0"),
        ("mysql://r:s@2130706433", "2130706433"),
        ("nonsense", "(no address)"),
        ("mysql://[", "(no address)"),
    ],
)
def test_only_an_address_that_a_file_names_and_that_is_not_loopback_needs_trust(url: str, foreign: str) -> None:
    assert attach.foreign({"attach": url, "password": "p"}) == ([foreign] if foreign else [])


def test_the_file_says_which_addresses_it_needs_trust_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "services: {rabbitmq: {attach: 'amqp://a:b@127.0.0.1', management: 'http://evil.example'}}\n")
    file = load_profile(tmp_path).file
    assert file and trust.needs(file) == ["devenv logs in to rabbitmq at evil.example"]
    # A password of the caller's does not make the file's address the caller's.
    monkeypatch.setenv("DEVENV_ATTACH_RABBITMQ_PASSWORD", "mine")
    file = load_profile(tmp_path).file
    assert file and file.addresses == {"rabbitmq": ["evil.example"]}
    monkeypatch.setenv("DEVENV_ATTACH_RABBITMQ_MANAGEMENT", "http://mine.example")
    file = load_profile(tmp_path).file
    assert file and not trust.needs(file)
