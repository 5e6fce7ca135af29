"""From choice to desired state: which services, which ports, and the details of each."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from builders import SECRET, compose_data, shipped, write_service

from devenv.errors import ConfigError, DevenvError, NotOurs
from devenv.lifecycle.plan import changes
from devenv.model import (
    ContainerOptions,
    Desired,
    Image,
    Observed,
    ObservedContainer,
    Profile,
    Requirement,
    ServiceChoice,
    ServiceDefinition,
)
from devenv.ports import free_port
from devenv.services.readiness import target_of
from devenv.spec.catalogue import load_catalogue
from devenv.spec.desired import Inputs, resolve, secret_names, select, with_roles
from devenv.spec.ports import Taken, choose_ports
from devenv.store.record import Record

Catalogue = dict[str, ServiceDefinition]


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    """Return services: web needs a database, db and db2 fill that role, and each has a free well-known port."""
    ports: list[int] = []
    for name, role in (("web", "front"), ("db", "database"), ("db2", "database")):
        ports.append(free_port(ports))
        write_service(tmp_path, compose_data(name, role, ports[-1]), name)
    services = load_catalogue(tmp_path)
    services["web"] = needing(services["web"], "database")
    return services


def needing(service: ServiceDefinition, role: str) -> ServiceDefinition:
    return replace(service, requires=(Requirement(role, "service_started", service.name),))


def profile(*names: str, **settings: Any) -> Profile:
    return Profile("mine", {name: ServiceChoice(ports=settings.get(name, {})) for name in names}, "devenv.yaml")


# ---- which services ----------------------------------------------------------------------------------------------


def test_a_service_comes_after_what_it_needs(catalogue: Catalogue) -> None:
    assert select(profile("web", "db"), catalogue) == ["db", "web"]


def test_a_need_that_the_profile_leaves_out_comes_along(catalogue: Catalogue) -> None:
    del catalogue["db2"]
    assert select(profile("web"), catalogue) == ["db", "web"]


def test_only_what_is_named_and_its_needs_are_selected(catalogue: Catalogue) -> None:
    assert select(profile("web", "db"), catalogue, ["db"]) == ["db"]
    assert select(profile("web", "db"), catalogue, ["web", "web"]) == ["db", "web"]


def test_the_profiles_own_service_fills_a_role(catalogue: Catalogue) -> None:
    assert select(profile("web", "db2"), catalogue) == ["db2", "web"]


def test_services_that_need_each_other_are_refused(catalogue: Catalogue) -> None:
    catalogue["db"] = needing(catalogue["db"], "front")
    with pytest.raises(ConfigError, match=r"web -> db -> web"):
        select(profile("web", "db"), catalogue)


@pytest.mark.parametrize(
    ("chosen", "names", "words"),
    [
        (["nosuch"], [], "cannot find service 'nosuch' (in devenv.yaml)"),
        (["db"], ["nosuch"], "cannot find service 'nosuch'"),
        (["db"], ["web"], "profile 'mine' does not have it"),
        (["web"], [], "more than one service does: db, db2"),
        (["web", "db", "db2"], [], "more than one service does: db, db2"),
    ],
)
def test_what_cannot_be_selected_is_refused(
    catalogue: Catalogue, chosen: list[str], names: list[str], words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        select(profile(*chosen), catalogue, names)
    assert words in caught.value.message and caught.value.hint


def test_a_role_that_nothing_fills_is_refused(catalogue: Catalogue) -> None:
    catalogue["web"] = needing(catalogue["web"], "identity")
    with pytest.raises(ConfigError, match="cannot fill the role 'identity' that web needs: no service does"):
        select(profile("web"), catalogue)


# ---- which service fills a role ----------------------------------------------------------------------------------


def test_a_default_service_fills_its_role_where_nothing_else_is_said(catalogue: Catalogue) -> None:
    catalogue["db2"] = replace(catalogue["db2"], default=True)
    assert select(profile("web"), catalogue) == ["db2", "web"]
    assert select(profile("web", "db", "db2"), catalogue, ["web"]) == ["db2", "web"]
    assert select(profile("web", "db"), catalogue) == ["db", "web"]


@pytest.mark.parametrize(
    ("names", "before", "services", "database"),
    [
        ([], {}, ["db", "web"], "db"),
        (["db2"], {}, ["db2", "web"], "db2"),
        (["db2", "web"], {}, ["db2", "web"], "db2"),
        (["db", "db2"], {}, ["db2", "db", "web"], "db"),
        (["db2", "db"], {}, ["db2", "db", "web"], "db"),
        ([], {"database": "db2"}, ["db2", "web"], "db2"),
        (["web"], {"database": "db2"}, ["db2", "web"], "db2"),
        (["db"], {"database": "db2"}, ["db", "web"], "db"),
        (["db2", "db"], {"database": "db2"}, ["db", "db2", "web"], "db2"),
        ([], {"database": "no longer there"}, ["db", "web"], "db"),
        (["nosuch"], {}, ["db", "web"], "db"),
    ],
)
def test_a_service_asked_for_by_name_takes_its_role_or_joins(
    catalogue: Catalogue, names: list[str], before: dict[str, str], services: list[str], database: str
) -> None:
    catalogue["db"] = replace(catalogue["db"], default=True)
    found = with_roles(profile("db", "web"), catalogue, names, before)
    assert list(found.services) == services
    assert select(found, catalogue, ["web"]) == [database, "web"]


def test_the_files_word_on_a_role_counts_more_than_what_is_remembered_or_asked_for(catalogue: Catalogue) -> None:
    wanted = replace(profile("db", "web"), roles={"database": "db2"})
    assert with_roles(wanted, catalogue, [], {"database": "db"}).roles == {"database": "db2"}
    beside = with_roles(wanted, catalogue, ["db"])
    assert beside.roles == {"database": "db2"} and set(beside.services) == {"db", "db2", "web"}


def test_only_the_shipped_profiles_service_is_replaced(catalogue: Catalogue) -> None:
    wanted = replace(profile("db", "web"), roles={"database": "db2"}, named=frozenset({"db"}))
    assert set(with_roles(wanted, catalogue).services) == {"db", "db2", "web"}


def test_a_profile_without_the_role_gets_no_service_of_it_until_one_needs_it(catalogue: Catalogue) -> None:
    wanted = with_roles(replace(profile(), roles={"database": "db2"}), catalogue)
    assert not wanted.services
    needing_one = with_roles(replace(profile("web"), roles={"database": "db2"}), catalogue)
    assert select(needing_one, catalogue) == ["db2", "web"]
    assert select(with_roles(profile("web"), catalogue, ["db2"]), catalogue, ["db2"]) == ["db2"]
    with pytest.raises(ConfigError, match="profile 'mine' does not have it"):
        select(with_roles(profile(), catalogue, ["db2"]), catalogue, ["db2"])


def test_a_service_that_is_left_out_fills_no_role(catalogue: Catalogue) -> None:
    wanted = replace(profile("db", "web"), left_out=frozenset({"db2"}))
    assert with_roles(wanted, catalogue, ["db2"], {"database": "db2"}).services.keys() == {"db", "web"}
    with pytest.raises(ConfigError, match=r"cannot use 'db2' as database .*: it is left out"):
        with_roles(replace(wanted, roles={"database": "db2"}), catalogue)


@pytest.mark.parametrize(
    ("name", "why"), [("dbb", "there is no such service"), ("web", "its role is front")], ids=["unknown", "other role"]
)
def test_what_cannot_fill_a_role_is_refused(catalogue: Catalogue, name: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        with_roles(replace(profile("db"), roles={"database": name}), catalogue)
    assert caught.value.message == f"cannot use '{name}' as database (in devenv.yaml): {why}"
    assert "db" in caught.value.hint


def test_secrets_are_a_services_own_and_one_per_component(catalogue: Catalogue) -> None:
    assert secret_names(["db", "web"], profile("web", "db"), catalogue) == ["db.password", "web.password", "db/web"]


# ---- which ports -------------------------------------------------------------------------------------------------


@pytest.fixture
def busy() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def chosen(
    catalogue: Catalogue,
    wanted: Profile,
    observed: Observed | None = None,
    remembered: dict[str, int] | None = None,
    others: list[Record] | None = None,
    check: bool = True,
) -> dict[str, int]:
    record = Record("id", "default", "/p", ports=remembered or {})
    observed = observed or Observed()
    taken = Taken(observed, record, others or [], holder)
    return choose_ports(list(wanted.services), wanted, catalogue, taken, check)


def holder(port: int) -> str:
    return f"the holder of {port}"


def publishing(port: int, catalogue: Catalogue, state: str = "running") -> Observed:
    inside = catalogue["db"].endpoints["http"].port
    return Observed({"db": ObservedContainer("1", "devenv-id-db", "db", state, ports={inside: port})})


def test_a_well_known_port_is_taken_if_it_is_free(catalogue: Catalogue) -> None:
    assert chosen(catalogue, profile("db")) == {"db/http": catalogue["db"].endpoints["http"].port}


def test_another_free_port_is_taken_if_the_well_known_one_is_not(catalogue: Catalogue) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", catalogue["db"].endpoints["http"].port))
        listener.listen()
        assert chosen(catalogue, profile("db"))["db/http"] != catalogue["db"].endpoints["http"].port


def test_the_port_of_another_environment_is_left_alone_even_while_it_is_down(catalogue: Catalogue) -> None:
    known = catalogue["db"].endpoints["http"].port
    other = Record("other", "default", "/q", ports={"db/http": known})
    assert chosen(catalogue, profile("db"), others=[other])["db/http"] != known
    assert chosen(catalogue, profile("db"), others=[replace(other, id="id")])["db/http"] == known


def test_a_remembered_port_is_kept(catalogue: Catalogue) -> None:
    port = free_port([])
    assert chosen(catalogue, profile("db"), remembered={"db/http": port}) == {"db/http": port}


def test_a_published_port_is_kept_when_nothing_is_remembered(catalogue: Catalogue) -> None:
    port = free_port([])
    assert chosen(catalogue, profile("db"), publishing(port, catalogue, "exited")) == {"db/http": port}


def test_a_pinned_port_wins_over_a_remembered_one(catalogue: Catalogue) -> None:
    port = free_port([])
    assert chosen(catalogue, profile("db", db={"http": port}), remembered={"db/http": 1}) == {"db/http": port}


@pytest.mark.parametrize("state", ["running", "paused", "restarting", "created"])
def test_a_port_that_our_own_container_holds_is_not_taken(catalogue: Catalogue, busy: int, state: str) -> None:
    observed = publishing(busy, catalogue, state)
    assert chosen(catalogue, profile("db"), observed, {"db/http": busy}) == {"db/http": busy}


def test_a_pinned_port_that_is_taken_names_its_holder(catalogue: Catalogue, busy: int) -> None:
    with pytest.raises(NotOurs, match=f"127.0.0.1:{busy}.*the holder of {busy} has it") as caught:
        chosen(catalogue, profile("db", db={"http": busy}))
    assert caught.value.exit_code == 7 and "pin another one" in caught.value.hint


def test_a_remembered_port_that_is_taken_names_its_holder(catalogue: Catalogue, busy: int) -> None:
    with pytest.raises(NotOurs, match=f"given to this environment before.*the holder of {busy}"):
        chosen(catalogue, profile("db"), remembered={"db/http": busy})


def test_looking_only_does_not_mind_a_taken_port(catalogue: Catalogue, busy: int) -> None:
    assert chosen(catalogue, profile("db", db={"http": busy}), check=False) == {"db/http": busy}


def test_a_port_pinned_for_an_unknown_endpoint_is_refused(catalogue: Catalogue) -> None:
    with pytest.raises(ConfigError, match="it has no endpoint 'sql'"):
        chosen(catalogue, profile("db", db={"sql": 1}))


def test_a_well_known_port_that_a_later_service_pins_is_left_to_it(catalogue: Catalogue) -> None:
    known = catalogue["db"].endpoints["http"].port
    ports = chosen(catalogue, profile("db", "db2", db2={"http": known}))
    assert ports["db2/http"] == known != ports["db/http"]


@pytest.mark.parametrize("remembered", [False, True])
def test_two_services_never_get_one_port(catalogue: Catalogue, remembered: bool) -> None:
    port = free_port([])
    wanted = (
        profile("db", "db2", db2={"http": port})
        if remembered
        else profile("db", "db2", db={"http": port}, db2={"http": port})
    )
    try:
        ports = chosen(catalogue, wanted, remembered={"db/http": port} if remembered else {})
    except DevenvError as error:
        assert str(port) in error.message  # an error is right as well
    else:
        assert len(set(ports.values())) == 2


# ---- details of each service -------------------------------------------------------------------------------------


def resolved(catalogue: Catalogue, image: str = "img:1", port: int = 1) -> Desired:
    chosen = profile("web", "db")
    names = ["db", "web"]
    images = {name: Image(image if name == "web" else "db:1", "pull", name) for name in names}
    secrets = dict.fromkeys(secret_names(names, chosen, catalogue), SECRET)
    return resolve(names, Inputs("env", chosen, catalogue, images, {"db/http": 2, "web/http": port}, secrets))


def changed(catalogue: Catalogue, after: Catalogue | None = None, **more: Any) -> set[str]:
    """Return the parts of web's hash that differ, after checking that db's hash does not."""
    before, now = resolved(catalogue).services, resolved(after or catalogue, **more).services
    assert before["db"].config_hash == now["db"].config_hash
    parts = {
        key
        for key in {**before["web"].parts, **now["web"].parts}
        if before["web"].parts.get(key) != now["web"].parts.get(key)
    }
    assert (before["web"].config_hash != now["web"].config_hash) == bool(parts)
    return parts


def test_the_same_inputs_give_the_same_hash(catalogue: Catalogue) -> None:
    assert changed(catalogue) == set()


def test_containers_are_made_anew_when_devenv_makes_them_in_another_way(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = resolved(catalogue).services
    monkeypatch.setattr("devenv.spec.desired._FORMAT", 0)
    now = resolved(catalogue).services
    for name, service in before.items():
        assert service.config_hash != now[name].config_hash
        assert changes(now[name].parts, service.parts) == "devenv changed"
    # Parts from before the format was one of them.
    old = {key: value for key, value in before["web"].parts.items() if key != "devenv"}
    assert changes(old, before["web"].parts) == "devenv added"


def test_an_image_changes_its_part_only(catalogue: Catalogue) -> None:
    assert changed(catalogue, image="img:2") == {"image"}


def test_a_port_changes_its_part_and_the_files_that_tell_it(catalogue: Catalogue) -> None:
    assert changed(catalogue, port=9) == {"ports", "file main.conf"}


def test_a_files_content_changes_its_part_only(catalogue: Catalogue) -> None:
    other = catalogue["web"].folder / "other.conf"
    other.write_text("1")
    web = catalogue["web"]
    after = {**catalogue, "web": replace(web, files=(replace(web.files[0], source=other),))}
    assert changed(catalogue, after) == {"file main.conf"}


def test_a_volume_changes_its_part_only(catalogue: Catalogue) -> None:
    after = {**catalogue, "web": replace(catalogue["web"], volumes=(("data", "/elsewhere"),))}
    assert changed(catalogue, after) == {"volumes"}


@pytest.mark.parametrize("option", [field.name for field in fields(ContainerOptions)])
def test_an_option_changes_its_part_only(catalogue: Catalogue, option: str) -> None:
    before = getattr(catalogue["web"].options, option)
    values: dict[type, Any] = {str: "other", bool: not before, int: 77, tuple: (("A", "1"),)}
    options = replace(catalogue["web"].options, **{option: values[type(before)]})
    assert changed(catalogue, {**catalogue, "web": replace(catalogue["web"], options=options)}) == {option}


def test_a_secret_changes_the_files_that_hold_it() -> None:
    parts = shipped().services["keystone"].parts
    assert "file keystone.conf" in parts and SECRET not in str(parts)


def test_a_service_reaches_what_it_needs_over_the_container_network() -> None:
    text = shipped().services["keystone"].files["/etc/devenv/keystone.conf"].decode()
    assert f"keystone:{SECRET}@mysql:3306/keystone" in text


def test_an_unknown_value_in_a_template_is_told_with_file_and_line(catalogue: Catalogue) -> None:
    (catalogue["web"].folder / "main.conf").write_text("a\nb = ${secret.nosuch}\n")
    with pytest.raises(ConfigError) as caught:
        resolved(catalogue)
    (problem,) = caught.value.detail
    assert problem.endswith("main.conf:2: ${secret.nosuch}: no such value")


def test_a_template_that_is_no_text_is_a_clear_error(catalogue: Catalogue) -> None:
    (catalogue["web"].folder / "main.conf").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"main\.conf"):
        resolved(catalogue)


def test_no_secret_shows_in_a_repr() -> None:
    desired = shipped()
    assert SECRET not in repr(desired)
    for service in desired.services.values():
        assert SECRET not in repr(target_of(service, service.probe))
        assert SECRET not in repr(target_of(service, service.provisioner))
        assert SECRET not in repr(service.endpoints)
        assert SECRET not in repr((service.components, service.own))


def test_every_name_on_the_engine_holds_the_environments_id() -> None:
    desired = shipped()
    for service in desired.services.values():
        assert all("env-1" in name for name in (service.container, desired.network, *service.volumes))
