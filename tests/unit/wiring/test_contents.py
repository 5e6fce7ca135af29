"""What programs read: the flat map, and the files under .devenv/."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import threading
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import SECRET, shipped
from oslo_config import cfg
from shells import sourced

from devenv.errors import ConfigError
from devenv.spec.catalogue import load_catalogue
from devenv.spec.components import endpoints_of
from devenv.store.files import beside
from devenv.wiring import folder as wired_folder
from devenv.wiring.contents import flat_map, inherited, known_files, replaced, wired_files
from devenv.wiring.folder import folder_of
from devenv.wiring.formats import as_shell

DESIRED = shipped()
CATALOGUE = load_catalogue()
FLAT = flat_map(DESIRED.services)
FILES = wired_files(DESIRED, CATALOGUE)


# ---- the flat map ------------------------------------------------------------------------------------------------


def test_the_flat_map_has_the_names_that_are_promised() -> None:
    assert {
        *("DEVENV_MYSQL_HOST", "DEVENV_MYSQL_PORT", "DEVENV_MYSQL_URL"),
        *("DEVENV_MYSQL_USER", "DEVENV_MYSQL_PASSWORD", "DEVENV_MYSQL_DATABASE"),
        *("DEVENV_RABBITMQ_HOST", "DEVENV_RABBITMQ_PORT", "DEVENV_RABBITMQ_URL"),
        *("DEVENV_RABBITMQ_USER", "DEVENV_RABBITMQ_PASSWORD", "DEVENV_RABBITMQ_VHOST"),
        *("DEVENV_RABBITMQ_MANAGEMENT_HOST", "DEVENV_RABBITMQ_MANAGEMENT_PORT", "DEVENV_RABBITMQ_MANAGEMENT_URL"),
        *("DEVENV_ETCD_HOST", "DEVENV_ETCD_PORT", "DEVENV_ETCD_URL"),
        *("DEVENV_KEYSTONE_HOST", "DEVENV_KEYSTONE_PORT", "DEVENV_KEYSTONE_URL"),
        *("DEVENV_KEYSTONE_USER", "DEVENV_KEYSTONE_PASSWORD"),
        *("OS_AUTH_TYPE", "OS_AUTH_URL", "OS_USERNAME", "OS_PASSWORD", "OS_PROJECT_NAME", "OS_REGION_NAME"),
        *("OS_USER_DOMAIN_ID", "OS_PROJECT_DOMAIN_ID", "OS_IDENTITY_API_VERSION"),
    } == set(FLAT)


def test_the_flat_map_is_the_hosts_view() -> None:
    assert FLAT["DEVENV_MYSQL_URL"] == f"mysql+pymysql://devenv:{SECRET}@127.0.0.1:3306/devenv?charset=utf8mb4"
    assert FLAT["DEVENV_RABBITMQ_URL"] == f"rabbit://devenv:{SECRET}@127.0.0.1:5672/devenv"
    assert FLAT["DEVENV_ETCD_URL"] == "http://127.0.0.1:2379"
    assert FLAT["OS_AUTH_URL"] == FLAT["DEVENV_KEYSTONE_URL"] == "http://127.0.0.1:5000/v3"


# ---- what the files say --------------------------------------------------------------------------------------------


def test_the_env_file_can_be_sourced() -> None:
    assert sourced(FILES["env"]) == FLAT


def test_endpoints_are_told_to_programs() -> None:
    endpoints = json.loads(FILES["endpoints.json"])
    assert set(endpoints) == {"mysql", "keystone", "rabbitmq", "etcd"}
    assert endpoints["etcd"] == {"client": {"host": "127.0.0.1", "port": 2379, "url": "http://127.0.0.1:2379"}}
    assert endpoints["etcd"] == endpoints_of(DESIRED.services["etcd"].endpoints)


def oslo(text: str, folder: Path) -> Any:
    """Read the file as a service would, with the options that services register."""
    (folder / "oslo.conf").write_text(text)
    conf = cfg.ConfigOpts()
    auth = ["auth_url", "auth_type", "username", "password", "user_domain_name", "project_name", "region_name"]
    options: dict[str, list[cfg.Opt]] = {
        "DEFAULT": [cfg.StrOpt("transport_url")],
        "database": [cfg.StrOpt("connection")],
        "coordination": [cfg.StrOpt("backend_url")],
        "oslo_messaging_rabbit": [cfg.BoolOpt("rabbit_quorum_queue"), cfg.BoolOpt("rabbit_transient_quorum_queue")],
        "oslo_messaging_notifications": [
            cfg.StrOpt("transport_url"),
            cfg.MultiStrOpt("driver"),
            cfg.ListOpt("topics"),
        ],
        "keystone_authtoken": [
            *(cfg.StrOpt(name) for name in (*auth, "www_authenticate_uri", "project_domain_name", "interface")),
            cfg.ListOpt("service_token_roles"),
            cfg.BoolOpt("service_token_roles_required"),
        ],
        "service_user": [*(cfg.StrOpt(name) for name in auth), cfg.BoolOpt("send_service_user_token")],
    }
    for group, opts in options.items():
        conf.register_opts(opts, None if group == "DEFAULT" else group)
    conf(["--config-file", str(folder / "oslo.conf")], project="x", default_config_dirs=[])
    return conf


def test_oslo_config_reads_what_a_service_needs(tmp_path: Path) -> None:
    conf = oslo(FILES["oslo.conf"], tmp_path)
    assert conf.database.connection == FLAT["DEVENV_MYSQL_URL"]
    assert conf.transport_url == conf.oslo_messaging_notifications.transport_url == FLAT["DEVENV_RABBITMQ_URL"]
    assert (conf.oslo_messaging_notifications.driver, conf.oslo_messaging_notifications.topics) == (
        ["messagingv2"],
        ["notifications"],
    )
    assert conf.oslo_messaging_rabbit.rabbit_quorum_queue and conf.oslo_messaging_rabbit.rabbit_transient_quorum_queue
    assert conf.coordination.backend_url == "etcd3+http://127.0.0.1:2379?api_version=v3"
    for group in (conf.keystone_authtoken, conf.service_user):
        assert (group.auth_url, group.auth_type) == ("http://127.0.0.1:5000/v3", "password")
        assert (group.username, group.password, group.project_name) == ("devenv", SECRET, "service")
        assert (group.user_domain_name, group.region_name) == ("Default", "RegionOne")
    assert conf.keystone_authtoken.www_authenticate_uri == "http://127.0.0.1:5000/v3"
    assert conf.keystone_authtoken.service_token_roles == ["service"]
    assert conf.keystone_authtoken.service_token_roles_required and conf.service_user.send_service_user_token


def test_a_part_of_the_services_gives_their_part_of_the_files(tmp_path: Path) -> None:
    files = wired_files(replace(DESIRED, services={"etcd": DESIRED.services["etcd"]}), CATALOGUE)
    assert set(files) == {"env", "endpoints.json", "oslo.conf"}
    assert oslo(files["oslo.conf"], tmp_path).database.connection is None


def test_openstack_clients_read_their_files() -> None:
    clouds = yaml.safe_load(FILES["clouds.yaml"])["clouds"]
    assert clouds["devenv-admin"]["auth"]["auth_url"] == FLAT["OS_AUTH_URL"]
    assert clouds["devenv"]["auth"] | {"username": "demo", "password": SECRET} == clouds["devenv"]["auth"]
    assert sourced(FILES["openrc"]) == {name: value for name, value in FLAT.items() if name.startswith("OS_")}


# ---- what belongs to another cloud -------------------------------------------------------------------------------

ELSEWHERE = {"OS_CLOUD": "production", "OS_TOKEN": "t", "OS_SYSTEM_SCOPE": "all", "OS_PROJECT_ID": "1"}
KEPT = {
    **{"OS_TEST_TIMEOUT": "60", "OS_DEBUG": "1", "OS_STDOUT_CAPTURE": "1", "OS_LOG_CAPTURE": "1"},
    **{
        "OS_CLIENT_CONFIG_FILE": "clouds.yaml",
        "OS_COMPUTE_API_VERSION": "2.79",
        "OS_DATABASE__CONNECTION": "sqlite://",
    },
}


def test_variables_of_a_login_replace_all_of_another_one() -> None:
    names = replaced(FLAT, CATALOGUE)
    assert ELSEWHERE.keys() <= {*names}
    assert not {*names} & {*FLAT, *KEPT}


def test_without_a_login_to_keystone_nothing_is_replaced() -> None:
    services = {name: service for name, service in DESIRED.services.items() if name != "keystone"}
    assert replaced(flat_map(services), CATALOGUE) == []


def test_a_program_has_the_callers_variables_unless_devenv_replaces_or_gives_them() -> None:
    before = {**ELSEWHERE, **KEPT, "OS_USERNAME": "me"}
    assert inherited(before, FLAT, replaced(FLAT, CATALOGUE)) == {**KEPT, **FLAT}


@pytest.mark.parametrize("shell", ["bash", "sh"])
def test_a_shell_loses_what_leads_to_another_cloud(shell: str) -> None:
    before = {**ELSEWHERE, **KEPT, "OS_USERNAME": "me"}
    own = {name: value for name, value in FLAT.items() if name.startswith("OS_")}
    assert sourced(FILES["openrc"], shell, before) == {**KEPT, **own}
    assert sourced(as_shell(FLAT, replaced(FLAT, CATALOGUE)), shell, before) == {**KEPT, **FLAT}


# ---- writing them ------------------------------------------------------------------------------------------------


def write(project: Path, files: Mapping[str, str], known: Collection[str] = (), name: str = "default") -> list[Path]:
    return wired_folder.write(project, folder_of(project, name), files, known)


def remove(project: Path, known: Collection[str], name: str = "default") -> None:
    wired_folder.remove(project, folder_of(project, name), known)


def check(project: Path, name: str = "default") -> None:
    wired_folder.check(project, folder_of(project, name))


def content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


# Each other environment of a project has a folder below the default one's.
WHERE = pytest.mark.parametrize("name", ["default", "two"])


def test_each_environment_has_a_folder_of_its_own() -> None:
    assert folder_of(Path("/p"), "default") == Path("/p/.devenv")
    assert folder_of(Path("/p"), "two") == Path("/p/.devenv/environments/two")
    # No file of the default environment has the name of the folder of the others.
    assert "environments" not in known_files(CATALOGUE)


@WHERE
def test_git_never_sees_the_folder(tmp_path: Path, name: str) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    check(tmp_path, name)
    assert not (tmp_path / ".devenv").exists()
    write(tmp_path, FILES, name=name)
    assert (tmp_path / ".devenv" / ".gitignore").read_text() == "*\n"
    done = subprocess.run(["git", "status", "--porcelain"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == ""


def test_a_gitignore_of_the_users_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".devenv").mkdir()
    (tmp_path / ".devenv/.gitignore").write_text("mine")
    write(tmp_path, FILES)
    write(tmp_path, {"env": ""}, known_files(CATALOGUE))
    assert (tmp_path / ".devenv/.gitignore").read_text() == "mine"


def test_a_gitignore_that_a_full_disk_left_empty_is_filled(tmp_path: Path) -> None:
    (tmp_path / ".devenv").mkdir()
    (tmp_path / ".devenv/.gitignore").touch()
    write(tmp_path, FILES)
    assert (tmp_path / ".devenv/.gitignore").read_text() == "*\n"


def test_environments_do_not_touch_each_others_files(tmp_path: Path) -> None:
    known = known_files(CATALOGUE)
    write(tmp_path, FILES, known)
    write(tmp_path, {"env": "two"}, known, "two")
    write(tmp_path, {"env": "three"}, known, "three")
    assert content(tmp_path / ".devenv") == {
        **FILES,
        ".gitignore": "*\n",
        "environments/two/env": "two",
        "environments/three/env": "three",
    }
    remove(tmp_path, known)
    assert content(tmp_path / ".devenv") == {
        ".gitignore": "*\n",
        "environments/two/env": "two",
        "environments/three/env": "three",
    }
    remove(tmp_path, known, "two")
    assert content(tmp_path / ".devenv") == {".gitignore": "*\n", "environments/three/env": "three"}
    assert not folder_of(tmp_path, "two").exists()
    remove(tmp_path, known, "three")
    assert not (tmp_path / ".devenv").exists()


def test_an_environment_that_goes_takes_no_folder_from_one_that_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    going, coming = folder_of(tmp_path, "going"), folder_of(tmp_path, "default")
    wired_folder.write(tmp_path, going, {"env": "x"}, ())
    # Set once the removal waits for the other environment, or is done.
    decided = threading.Event()
    make, held = wired_folder._make, wired_folder.held

    def remove() -> None:
        wired_folder.remove(tmp_path, going, ["env"])
        decided.set()

    def making(project: Path, folder: Path, top: Path) -> None:
        make(project, folder, top)
        thread.start()
        decided.wait()

    thread = threading.Thread(target=remove)
    monkeypatch.setattr(wired_folder, "held", lambda path, _: held(path, lambda _: decided.set()))
    monkeypatch.setattr(wired_folder, "_make", making)
    wired_folder.write(tmp_path, coming, {"env": "y"}, ())
    thread.join()
    assert {path.name for path in (tmp_path / ".devenv").iterdir()} == {"env", ".gitignore"}


def test_the_other_environments_of_a_project_can_go_first(tmp_path: Path) -> None:
    write(tmp_path, FILES)
    write(tmp_path, {"env": "two"}, name="two")
    remove(tmp_path, known_files(CATALOGUE), "two")
    assert content(tmp_path / ".devenv") == {**FILES, ".gitignore": "*\n"}
    assert not (tmp_path / ".devenv/environments").exists()


@WHERE
@pytest.mark.parametrize("end", ["write", "remove"])
def test_what_a_killed_run_left_goes_too(tmp_path: Path, name: str, end: str) -> None:
    folder, known = folder_of(tmp_path, name), known_files(CATALOGUE)
    write(tmp_path, FILES, name=name)
    beside(folder / "env").write_text("half")
    beside(folder / "openrc").write_text("half")
    if end == "write":
        write(tmp_path, {"env": "new"}, known, name)
        assert {path.name for path in folder.iterdir()} - {".gitignore"} == {"env"}
    else:
        remove(tmp_path, known, name)
        assert not folder.exists()


def test_all_files_are_written_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, FILES)
    real, calls = os.fsync, []

    def full_at_the_last(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == len(FILES):
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr("os.fsync", full_at_the_last)
    with pytest.raises(ConfigError, match="No space left on device"):
        write(tmp_path, {name: "new" for name in FILES}, known_files(CATALOGUE))
    assert content(tmp_path / ".devenv") == {**FILES, ".gitignore": "*\n"}


def test_files_and_folder_are_for_their_owner_alone(tmp_path: Path) -> None:
    written = write(tmp_path, FILES, known_files(CATALOGUE))
    assert {path.name for path in written} == set(FILES)
    assert {stat.S_IMODE(path.stat().st_mode) for path in written} == {0o600}
    assert stat.S_IMODE((tmp_path / ".devenv").stat().st_mode) == 0o700


def test_what_has_not_changed_is_not_written_again(tmp_path: Path) -> None:
    write(tmp_path, FILES, ())
    before = {path.name: path.stat() for path in (tmp_path / ".devenv").iterdir()}
    changed = {**FILES, "env": FILES["env"] + "X='1'\n"}
    assert [path.name for path in write(tmp_path, changed, ())] == ["env"]
    after = {path.name: path.stat() for path in (tmp_path / ".devenv").iterdir()}
    assert {name for name in after if after[name].st_ino != before[name].st_ino} == {"env"}


def test_a_file_that_others_can_read_is_written_again(tmp_path: Path) -> None:
    write(tmp_path, FILES, ())
    (tmp_path / ".devenv/env").chmod(0o644)
    (path,) = write(tmp_path, FILES, ())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_link_in_place_of_a_file_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text(FILES["env"])
    (tmp_path / ".devenv").mkdir()
    (tmp_path / ".devenv/env").symlink_to(tmp_path / "outside")
    (tmp_path / "outside").write_text("mine")
    write(tmp_path, FILES, ())
    assert (tmp_path / "outside").read_text() == "mine"
    assert (tmp_path / ".devenv/env").read_text() == FILES["env"]


def test_a_file_that_no_service_has_a_template_for_any_more_goes_and_others_stay(tmp_path: Path) -> None:
    write(tmp_path, FILES, known_files(CATALOGUE))
    (tmp_path / ".devenv/mine").write_text("kept")
    write(tmp_path, {"env": ""}, known_files(CATALOGUE))
    assert {path.name for path in (tmp_path / ".devenv").iterdir()} == {".gitignore", "env", "mine"}


def test_removing_takes_what_devenv_wrote_and_the_folder_if_it_is_empty(tmp_path: Path) -> None:
    write(tmp_path, FILES, ())
    remove(tmp_path, known_files(CATALOGUE))
    assert not (tmp_path / ".devenv").exists()
    remove(tmp_path, known_files(CATALOGUE))  # an absent folder is fine
    write(tmp_path, FILES, ())
    (tmp_path / ".devenv/mine").write_text("kept")
    remove(tmp_path, known_files(CATALOGUE))
    assert {path.name for path in (tmp_path / ".devenv").iterdir()} == {".gitignore", "mine"}


def test_a_folder_in_the_place_of_a_known_file_is_left_or_told(tmp_path: Path) -> None:
    (tmp_path / ".devenv/openrc").mkdir(parents=True)
    with pytest.raises(ConfigError, match="cannot write"):
        write(tmp_path, FILES, ())
    for act in (lambda: write(tmp_path, {}, {"openrc"}), lambda: remove(tmp_path, {"openrc"})):
        try:
            act()
        except ConfigError as error:
            assert "openrc" in error.message
        assert (tmp_path / ".devenv/openrc").is_dir()


@pytest.mark.parametrize(
    ("link", "name"), [("", "default"), ("", "two"), ("environments", "two"), ("environments/two", "two")]
)
def test_a_link_in_place_of_a_folder_is_refused(tmp_path: Path, link: str, name: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    place = tmp_path / ".devenv" / link
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(tmp_path / "elsewhere")
    for act in (lambda: check(tmp_path, name), lambda: write(tmp_path, FILES, name=name)):
        with pytest.raises(ConfigError, match=r"is a symbolic link \(to"):
            act()
    assert not list((tmp_path / "elsewhere").iterdir())
    kept = (tmp_path / "elsewhere" / folder_of(tmp_path, name).relative_to(place) / "env").resolve()
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.touch()
    remove(tmp_path, {"env"}, name)
    assert kept.exists() and place.is_symlink()


def test_a_link_in_place_of_a_components_folder_is_refused_and_nothing_removed_through_it(tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    for mine in ("nova.conf", "deep/nova.conf"):
        (tmp_path / "elsewhere" / mine).write_text("mine")
    (tmp_path / ".devenv").mkdir()
    (tmp_path / ".devenv/nova.conf.d").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"cannot write to .*nova\.conf\.d: it is a symbolic link"):
        write(tmp_path, {"nova.conf.d/nova.conf": "[DEFAULT]\n"}, ())
    remove(tmp_path, {"nova.conf.d/nova.conf", "nova.conf.d/deep/nova.conf"})
    assert [path.read_text() for path in (tmp_path / "elsewhere").rglob("*.conf")] == ["mine", "mine"]


@pytest.mark.parametrize("name", ["../mine", "sub/../../mine", "/ABSOLUTE/mine"])
def test_a_name_that_leads_out_of_the_folder_is_not_removed(tmp_path: Path, name: str) -> None:
    write(tmp_path, FILES, ())
    (tmp_path / "mine").write_text("mine")
    write(tmp_path, FILES, {name.replace("/ABSOLUTE", str(tmp_path))})
    remove(tmp_path, {name.replace("/ABSOLUTE", str(tmp_path))})
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".devenv").write_text("mine")
    with pytest.raises(ConfigError, match="it is not a folder"):
        check(tmp_path)
    remove(tmp_path, {"env"})
    assert (tmp_path / ".devenv").read_text() == "mine"


def test_a_project_that_cannot_be_written_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".devenv").mkdir()
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write everywhere
    with pytest.raises(ConfigError, match="no permission"):
        check(tmp_path)
    with pytest.raises(ConfigError, match="cannot write to"):
        check(tmp_path / "absent")


def test_a_full_disk_leaves_the_file_before_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    write(tmp_path, FILES, ())
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        write(tmp_path, {**FILES, "env": "new"}, ())
    assert (tmp_path / ".devenv/env").read_text() == FILES["env"]
    assert {path.name for path in (tmp_path / ".devenv").iterdir()} == {*FILES, ".gitignore"}
