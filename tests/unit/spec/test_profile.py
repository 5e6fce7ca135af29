"""Which services a project gets: shipped profiles, `extends`, and the project's own devenv.yaml."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from devenv.errors import ConfigError
from devenv.model import ComponentChoice, Profile
from devenv.spec.profile import find_project, load_profile, project_file, project_file_text, shipped_profiles


@pytest.fixture
def profiles(tmp_path: Path) -> Path:
    folder = tmp_path / "profiles"
    folder.mkdir()
    for name, text in {
        "base": "description: All.\nservices: [a, b]",
        "more": "extends: base\nservices: {c: {image: 'c:1', ports: {x: 1, y: 2}}}",
        "most": "extends: more\nservices: {b: false, c: {ports: {y: 3}}, d: null}",
        "ring": "extends: link",
        "link": "extends: ring",
        "self": "extends: self",
        "orphan": "extends: nobody",
    }.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "project").mkdir()
    return tmp_path / "project"


def own(project: Path, text: str) -> Path:
    (project / "devenv.yaml").write_text(text)
    return project


def refused(project: Path, name: str = "", folder: Path | None = None) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_profile(project, name, folder)
    assert caught.value.message.startswith("cannot ") and caught.value.hint
    return caught.value


def ports(profile: Profile, service: str) -> dict[str, int]:
    return dict(profile.services[service].ports)


# ---- shipped ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "services"),
    [
        ("base", ["mysql", "keystone", "rabbitmq", "etcd"]),
        ("identity", ["mysql", "keystone"]),
        ("database", ["mysql"]),
        ("messaging", ["rabbitmq"]),
        ("coordination", ["etcd"]),
    ],
)
def test_a_shipped_profile_holds_what_its_name_says(project: Path, name: str, services: list[str]) -> None:
    profile = load_profile(project, name)
    assert (list(profile.services), bool(profile.description)) == (services, True)


def test_a_project_without_a_file_gets_all_base_services(project: Path) -> None:
    assert load_profile(project).name == "base"


def test_every_shipped_profile_is_tested() -> None:
    assert set(shipped_profiles()) == {"base", "identity", "database", "messaging", "coordination"}


# ---- extends and override ----------------------------------------------------------------------------------------


def test_a_profile_adds_to_what_it_extends(project: Path, profiles: Path) -> None:
    assert list(load_profile(project, "more", profiles).services) == ["a", "b", "c"]


def test_false_leaves_out_and_settings_merge_per_key(project: Path, profiles: Path) -> None:
    profile = load_profile(project, "most", profiles)
    assert list(profile.services) == ["a", "c", "d"]
    assert (profile.services["c"].image, ports(profile, "c")) == ("c:1", {"x": 1, "y": 3})


def test_a_description_is_inherited(project: Path, profiles: Path) -> None:
    assert load_profile(project, "most", profiles).description == "All."


def test_the_projects_own_settings_come_last(project: Path, profiles: Path) -> None:
    own(project, "profile: more\nservices: {c: {image: 'mine:2'}, a: false}")
    profile = load_profile(project, folder=profiles)
    assert list(profile.services) == ["b", "c"]
    assert (profile.name, profile.services["c"].image, ports(profile, "c")) == ("more", "mine:2", {"x": 1, "y": 2})


def test_a_profile_asked_for_replaces_the_projects_choice_but_not_its_settings(project: Path, profiles: Path) -> None:
    own(project, "profile: nobody\nservices: {a: {image: 'mine:2'}}")
    assert load_profile(project, "base", profiles).services["a"].image == "mine:2"


def test_a_service_left_out_and_added_again_starts_afresh(project: Path, profiles: Path) -> None:
    (profiles / "without.yaml").write_text("extends: more\nservices: {c: false}")
    (profiles / "again.yaml").write_text("extends: without\nservices: [c]")
    assert load_profile(project, "again", profiles).services["c"].image == ""


def test_leaving_out_what_is_not_there_is_no_error(project: Path, profiles: Path) -> None:
    assert list(load_profile(own(project, "services: {z: false}"), folder=profiles).services) == ["a", "b"]


# ---- roles -------------------------------------------------------------------------------------------------------


def test_the_nearest_file_says_which_database_it_is(project: Path, profiles: Path) -> None:
    (profiles / "pg.yaml").write_text("extends: more\ndatabase: pg")
    (profiles / "same.yaml").write_text("extends: pg")
    assert load_profile(project, "same", profiles).roles == {"database": "pg"}
    assert load_profile(own(project, "profile: same\ndatabase: maria"), folder=profiles).roles == {"database": "maria"}
    assert load_profile(own(project, "profile: more"), folder=profiles).roles == {}


def test_services_of_the_projects_own_are_told_from_the_profiles(project: Path, profiles: Path) -> None:
    profile = load_profile(own(project, "services: {a: {}, b: false}"), folder=profiles, settings={"z": {}})
    assert profile.named == {"a", "z"}


# ---- durable -----------------------------------------------------------------------------------------------------


def test_data_is_throw_away_unless_a_file_says_otherwise_and_the_nearest_one_counts(
    project: Path, profiles: Path
) -> None:
    (profiles / "safe.yaml").write_text("extends: more\ndurable: true")
    (profiles / "safer.yaml").write_text("extends: safe")
    assert not load_profile(project, "more", profiles).durable
    assert load_profile(project, "safe", profiles).durable
    assert load_profile(project, "safer", profiles).durable
    assert not load_profile(own(project, "profile: safer\ndurable: false"), folder=profiles).durable
    assert load_profile(own(project, "profile: more\ndurable: true"), folder=profiles).durable


def test_one_service_may_be_durable_alone(project: Path, profiles: Path) -> None:
    services = load_profile(own(project, "services: {c: {durable: true}}"), "more", profiles).services
    assert services["c"].switches == {"durable": True}


@pytest.mark.parametrize("value", ["yes please", "1", "[mysql]", "null"])
def test_anything_but_true_or_false_is_told_with_file_and_line(project: Path, profiles: Path, value: str) -> None:
    error = refused(own(project, f"profile: base\ndurable: {value}"), folder=profiles)
    assert error.detail == (f"{project / 'devenv.yaml'}:2: durable: expected true or false",)


@pytest.mark.parametrize(
    ("port", "how"),
    [
        *[("023771", "YAML 1.1 reads 023771 as 10233"), ("33:06", "YAML 1.1 reads 33:06 as 1986"), ("1e3", "is text")],
        *[("0x5000", "YAML 1.1 reads 0x5000 as 20480"), ("20_379", "YAML 1.1 reads 20_379 as 20379")],
    ],
)
def test_a_port_is_the_number_that_stands_there_or_an_error(project: Path, port: str, how: str) -> None:
    (problem,) = refused(own(project, f"services:\n  c: {{ports: {{http: {port}}}}}\n")).detail
    assert problem.startswith(f"{project / 'devenv.yaml'}:2: services.c.ports.http: expected int") and how in problem


def test_words_for_true_and_false_are_switches_and_elsewhere_text(project: Path, profiles: Path) -> None:
    text = "description: No\ndurable: yes\nservices: {a: off, c: {auth: on}}\ncomponents: [on, off]\n"
    found = load_profile(own(project, text), "more", profiles)
    assert (found.description, found.durable, "a" in found.services) == ("No", True, False)
    assert found.services["c"].switches == {"auth": True} and [*found.components] == ["on", "off"]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        *[("services: [c, a, c]", "services.2: 'c'"), ("components: [nova, nova]", "components.1: 'nova'")],
        ("components: {n: {wire: [a.conf, ./a.conf]}}", "components.n.wire.1: 'a.conf'"),
        ("components: {n: {roles: [admin, admin]}}", "components.n.roles.1: 'admin'"),
        ("components: {n: {sections: [nova, glance, nova]}}", "components.n.sections.2: 'nova'"),
    ],
)
def test_what_is_named_twice_is_told(project: Path, text: str, key: str) -> None:
    assert refused(own(project, text)).detail == (f"{project / 'devenv.yaml'}:1: {key} is named twice",)


# ---- where devenv.yaml is ----------------------------------------------------------------------------------------


def test_the_project_is_found_from_a_folder_below(project: Path) -> None:
    below = own(project, "") / "src" / "deep"
    below.mkdir(parents=True)
    assert find_project(below) == project.resolve()


def test_the_nearest_file_counts(project: Path) -> None:
    below = project / "inner"
    below.mkdir()
    own(project, "")
    own(below, "")
    assert find_project(below) == below.resolve()


def test_without_a_file_the_folder_itself_is_the_project(project: Path) -> None:
    (project / "devenv.yaml").mkdir()  # a folder of that name is no file
    assert find_project(project) == project.resolve()


def test_the_project_is_the_folder_behind_a_link(project: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(own(project, ""))
    assert find_project(tmp_path / "link") == project.resolve()


# ---- who owns the project ----------------------------------------------------------------------------------------


def test_a_project_of_another_user_is_refused_from_any_folder_below(project: Path, owners: dict[Path, int]) -> None:
    (below := own(project, "") / "mine").mkdir()
    owners[file := project / "devenv.yaml"] = 4711
    with pytest.raises(ConfigError, match=rf"^cannot use {file}: it belongs to another user \(uid 4711\)$") as refusal:
        find_project(below)
    assert "'devenv init' in a folder of your own" in refusal.value.hint
    # A folder with its own devenv.yaml is not part of that project.
    own(below, "")
    assert find_project(below) == below.resolve()


@pytest.mark.parametrize("name", ["", ".devenv"])
def test_so_is_one_of_which_only_a_folder_is_another_users(name: str, project: Path, owners: dict[Path, int]) -> None:
    (own(project, "") / ".devenv").mkdir(mode=0o700)
    owners[project / name] = 4711
    with pytest.raises(ConfigError, match=f"^cannot use {project / name}: it belongs to another user"):
        find_project(project)


def test_so_is_another_users_link_to_a_file_of_ones_own(project: Path, tmp_path: Path, owners: dict[Path, int]) -> None:
    (own(project, "") / "devenv.yaml").rename(tmp_path / "mine.yaml")
    (link := project / "devenv.yaml").symlink_to(tmp_path / "mine.yaml")
    owners[link] = 4711
    with pytest.raises(ConfigError, match=f"^cannot use {link}: it belongs to another user"):
        find_project(project)


@pytest.mark.parametrize("user", [0, 1000])
@pytest.mark.parametrize("mode", [0o720, 0o702])
def test_passwords_are_not_kept_in_a_folder_that_others_may_write_to(
    mode: int, user: int, project: Path, owners: dict[Path, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: user)
    (wired := project / ".devenv").mkdir()
    wired.chmod(mode)
    with pytest.raises(ConfigError, match=f"^cannot use {wired}: other users may write to it") as refusal:
        find_project(project)
    assert f"'chmod go-w {wired}'" in refusal.value.hint
    wired.chmod(0o755)
    assert find_project(project) == project.resolve()


@pytest.mark.parametrize(("owner", "user"), [(4711, 0), (0, 4711)], ids=["root anybody's", "anybody root's"])
def test_root_may_use_anybodys_project_and_anybody_roots(
    owner: int, user: int, project: Path, owners: dict[Path, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: user)
    (wired := own(project, "") / ".devenv").mkdir(mode=0o700)
    owners.update(dict.fromkeys((project, wired, project / "devenv.yaml"), owner))
    assert find_project(project) == project.resolve()


@pytest.mark.parametrize("name", ["../devenv.yaml", "a/../../x.yaml", ".."])
def test_a_file_that_a_relative_path_names_is_inside_the_project(
    name: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own(project.parent, "profile: database")
    message = f"^cannot use {re.escape(name)}: a relative path of --file or DEVENV_FILE stays inside the project$"
    for look in (find_project, load_profile):
        with pytest.raises(ConfigError, match=message):
            look(project, file=name)
    monkeypatch.setenv("DEVENV_FILE", name)
    with pytest.raises(ConfigError, match=message):
        project_file()
    assert project_file(f"{project}/../x.yaml") == f"{project}/../x.yaml"


# ---- what is wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "circle"), [("ring", "ring -> link -> ring"), ("link", "link -> ring -> link"), ("self", "self -> self")]
)
def test_a_profile_that_extends_itself_is_refused(project: Path, profiles: Path, name: str, circle: str) -> None:
    assert circle in refused(project, name, profiles).message


def test_an_unknown_profile_is_refused_with_those_there_are(project: Path, profiles: Path) -> None:
    error = refused(project, "nobody", profiles)
    assert error.message == "cannot find profile 'nobody' (from --profile)"
    assert "base" in error.hint and "most" in error.hint


def test_an_unknown_profile_is_blamed_on_the_file_that_names_it(project: Path, profiles: Path) -> None:
    assert "orphan.yaml" in refused(project, "orphan", profiles).message
    assert "devenv.yaml" in refused(own(project, "profile: nobody"), "", profiles).message


@pytest.mark.parametrize("name", ["../base", "/etc/passwd", "a b", "BASE", "base.yaml", "base\n"])
def test_a_name_that_is_no_name_is_refused(project: Path, profiles: Path, name: str) -> None:
    refused(project, name, profiles)
    refused(own(project, f"profile: {name!r}"), "", profiles)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("profiles: base", "profiles: unknown key"),
        ("services: {../x: {}}", "services.../x: expected a name"),
        ("services: ['My SQL']", "services.0: expected a name"),
        ("services: {MySQL: {}}", "services.MySQL: expected a name"),
        ("services: mysql", "services: expected a list of services"),
        ("services: {a: true}", "services.a: expected a mapping"),
        ("services: {a: {image: 'a b'}}", "services.a.image: expected an image"),
        ("services: {a: {image: ''}}", "services.a.image: expected an image"),
        ("services: {a: {image: '-v'}}", "services.a.image: expected an image"),
        ("services: {a: {ports: {x: 0}}}", "services.a.ports.x: expected a port"),
        ("services: {a: {ports: {x: 65536}}}", "services.a.ports.x: expected a port"),
        ("services: {a: {ports: {x: '80'}}}", "services.a.ports.x: expected int"),
        ("services: {a: {ports: {x: true}}}", "services.a.ports.x: expected"),
        ("services: {a: {ports: [80]}}", "services.a.ports: expected a mapping"),
        ("services: {a: {version: 8}}", "services.a.version: unknown key"),
        ("profile: [base]", "profile: "),
        ("extends: base", "extends: unknown key"),
    ],
)
def test_a_mistake_is_told_with_file_line_and_key(project: Path, profiles: Path, text: str, key: str) -> None:
    error = refused(own(project, f"# mine\n{text}\n"), "", profiles)
    assert [problem.startswith(f"{project / 'devenv.yaml'}:2: {key}") for problem in error.detail] == [True]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("servces: [a]", "servces: unknown key; did you mean 'services'?"),
        ("services: {a: {imagee: 'x:1'}}", "services.a.imagee: unknown key"),
        ("services: {a: {imagee: 'x:1'}}", "did you mean 'image'?"),
        ("components: {nova: {wires: []}}", "components.nova.wires: unknown key; did you mean 'wire'?"),
        ("components: {nova: {catalog: {typ: a}}}", "components.nova.catalog.typ: unknown key; did you mean 'type'?"),
    ],
)
def test_a_misspelt_key_gets_the_one_that_stands_there(project: Path, profiles: Path, text: str, meant: str) -> None:
    assert meant in "\n".join(refused(own(project, text), "", profiles).detail)


def test_a_misspelt_profile_gets_the_closest_one(project: Path, profiles: Path) -> None:
    assert refused(project, "bsae", profiles).hint.startswith("did you mean 'base'? devenv has: ")


def test_all_mistakes_come_at_once(project: Path, profiles: Path) -> None:
    text = "colour: red\nservices:\n  a:\n    ports: {x: 0}\n    size: 3\n  b:\n    image: ''\n"
    assert len(refused(own(project, text), "", profiles).detail) == 4


@pytest.mark.parametrize(
    "image", ["mysql", "mysql:8.4", "localhost:5000/a/b:1", "quay.io/x/y@sha256:" + "0" * 64, "a.b/c_d-e:1.2-x"]
)
def test_any_reference_of_an_image_is_understood(project: Path, profiles: Path, image: str) -> None:
    profile = load_profile(own(project, f"services: {{a: {{image: '{image}'}}}}"), folder=profiles)
    assert profile.services["a"].image == image


# ---- the file to begin with --------------------------------------------------------------------------------------


def test_the_file_to_begin_with_is_accepted_and_so_is_what_it_comments_out(project: Path) -> None:
    assert load_profile(own(project, project_file_text())).name == "base"
    profile = load_profile(own(project, re.sub(r"(?m)^# (?=[ a-z])", "", project_file_text())))
    assert list(profile.services) == ["mysql", "keystone", "rabbitmq"]
    assert (profile.services["mysql"].image, ports(profile, "mysql")) == ("mysql:8.4", {"sql": 3307})
    assert profile.components["my-service"].wire == ("etc/my-service.conf",)


# ---- components --------------------------------------------------------------------------------------------------


def components(project: Path, text: str) -> dict[str, ComponentChoice]:
    return dict(load_profile(own(project, f"components: {text}")).components)


def test_components_are_a_list_or_a_mapping_with_settings(project: Path) -> None:
    assert list(components(project, "[nova, my-service]")) == ["nova", "my-service"]
    text = """
  nova:
    wire: [etc/nova/nova.conf]
    roles: [admin]
    catalog: {type: compute, url: "http://127.0.0.1:8774/v2.1/%(project_id)s"}
    sections: {neutron: network, placement: placement}
  glance: {sections: [cinder]}
  my_service:
"""
    found = components(project, text)
    assert found["nova"] == ComponentChoice(
        "nova",
        ("etc/nova/nova.conf",),
        ("admin",),
        {"name": "nova", "type": "compute", "url": "http://127.0.0.1:8774/v2.1/%(project_id)s"},
        {"neutron": "network", "placement": "placement"},
    )
    assert found["glance"].sections == {"cinder": ""}
    assert found["my_service"] == ComponentChoice("my_service")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[Nova]", "components.Nova: expected a component's name"),
        ("[9lives]", "expected a component's name"),
        ('["a b"]', "expected a component's name"),
        ('["nova;drop"]', "expected a component's name"),
        ('["../nova"]', "expected a component's name"),
        ('["no`va"]', "expected a component's name"),
        ('["nova\\n"]', "expected a component's name"),
        (f"[{'a' * 32}]", "expected a component's name"),
        ('[""]', "expected a component's name"),
        ("nova", "components: expected a list of components"),
        ("[my-service, my_service]", "components.my_service: 'my-service' has the same database"),
        ("{nova: {wire: /etc/nova.conf}}", "components.nova.wire: expected a list"),
        ("{nova: {wire: [/etc/nova.conf]}}", "components.nova.wire.0: expected a path inside the project"),
        ("{nova: {wire: [../nova.conf]}}", "components.nova.wire.0: expected a path inside the project"),
        ("{nova: {wires: []}}", "components.nova.wires: unknown key"),
        ("{nova: {catalog: {type: compute}}}", "components.nova.catalog.url: required key not provided"),
        ('{nova: {catalog: {type: "a b", url: "http://x"}}}', "components.nova.catalog.type: expected a type"),
        ("{nova: {catalog: {type: compute, url: 'ftp://x'}}}", "components.nova.catalog.url: expected a URL"),
        ('{nova: {catalog: {type: a, url: "http://x\\nb"}}}', "components.nova.catalog.url: expected a URL"),
        ("{nova: {sections: ['a]b']}}", "components.nova.sections.0: expected lower-case letters"),
        ("{nova: {sections: {neutron: 'Net work'}}}", "components.nova.sections.neutron: expected a type"),
        ("{nova: {roles: ['a,b']}}", "components.nova.roles.0: expected a role's name"),
        ("{nova: 3}", "components.nova: expected a mapping"),
    ],
)
def test_a_component_that_cannot_be_is_an_error_that_names_it(project: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        components(project, text)
    assert problem in "\n".join(caught.value.detail)


def test_no_components_are_none(project: Path) -> None:
    assert components(project, "") == {}


def test_a_file_is_wired_for_one_component_only(project: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        components(project, "{nova: {wire: [a.conf]}, glance: {wire: [a.conf]}}")
    assert "components.glance.wire: a.conf is wired for 'nova' already" in caught.value.detail[0]


def test_a_profile_has_no_components(profiles: Path, project: Path) -> None:
    (profiles / "base.yaml").write_text("components: [nova]")
    with pytest.raises(ConfigError) as caught:
        load_profile(project, "base", profiles)
    assert "unknown key" in caught.value.detail[0]


def test_what_a_service_can_switch_is_true_or_false(project: Path) -> None:
    assert load_profile(own(project, "services: {etcd: {auth: true}}")).services["etcd"].switches == {"auth": True}
    with pytest.raises(ConfigError) as caught:
        load_profile(own(project, "services: {etcd: {auth: 1}}"))
    assert "services.etcd.auth: unknown key" in caught.value.detail[0]


def test_plugins_are_a_list_and_that_of_the_nearest_file_counts(project: Path, profiles: Path) -> None:
    (profiles / "base.yaml").write_text("services: {a: {plugins: [one]}, b: {plugins: [two]}}")
    services = load_profile(own(project, "services: {a: {plugins: [three]}, b: {}}"), folder=profiles).services
    assert (services["a"].plugins, services["b"].plugins) == (["three"], ["two"])
    for wrong, reason in {
        "[one, one]": "'one' is named twice",
        "[1]": "0: expected str",
        "one": "expected a list",
    }.items():
        with pytest.raises(ConfigError) as caught:
            load_profile(own(project, f"services: {{a: {{plugins: {wrong}}}}}"), folder=profiles)
        assert "services.a.plugins" in caught.value.detail[0] and reason in caught.value.detail[0]
