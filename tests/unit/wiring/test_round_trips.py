"""Any devenv.yaml: real parsers read the files that devenv writes as devenv meant them, or devenv refuses.

These tests find what is meant in another way: they fill the same templates with harmless words, parse the files, and
put the values in place of the words. A value that broke out of its place would make the two differ.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import dotenv
import pytest
import yaml
from builders import read_yaml
from hypothesis import given, settings, strategies as st
from oslo_config import cfg, iniparser

from devenv.errors import ConfigError
from devenv.images.references import images_for
from devenv.model import Desired, Provision, ServiceDefinition
from devenv.spec.catalogue import load_catalogue
from devenv.spec.components import check_components
from devenv.spec.desired import Inputs, resolve, secret_names, select
from devenv.spec.profile import load_profile
from devenv.store.places import environment_id
from devenv.wiring import clouds, contents, export, formats, ini
from devenv.wiring.compose import compose_file
from devenv.wiring.packages import Packages

CATALOGUE = load_catalogue()
GUARDED = load_catalogue(switches={"etcd": {"auth": True}})
# Words that other tools take for something else.
WORDS = ("null", "true", "no", "on", "y", "nan", "inf", "e1", "x0", "nova", "my-service", "a_b")
# Texts that end a value, or begin something else, in one of the formats.
TAILS = (
    *("\n", "\r", "\x85", "\u2028", "\0", "'", '"', "\\", "`id`", "$(id)", "$HOME", "${x}", "%(x)s", "{{ x }}", "é"),
    *(" #x", ";x", ": x", "=x", ",x", " ", "]", "}", "\n[x]\ny = 1", "\nx: 1", "'\nx='1", '", "x": "1', "*a", "&a"),
)
URL = "http://127.0.0.1:8774/v2.1"
# Texts of devenv.yaml that get into a file: the usual one, and a component's settings for any other.
FIELDS: dict[str, tuple[str, Callable[[str], dict[str, Any]]]] = {
    "name": ("nova", lambda text: {text: {}}),
    "catalog type": ("compute", lambda text: {"nova": {"catalog": {"type": text, "url": URL}}}),
    "catalog name": ("nova", lambda text: {"nova": {"catalog": {"type": "compute", "url": URL, "name": text}}}),
    "catalog url": (URL, lambda text: {"nova": {"catalog": {"type": "compute", "url": text}}}),
    "role": ("admin", lambda text: {"nova": {"roles": [text]}}),
    "section": ("neutron", lambda text: {"nova": {"sections": [text]}}),
    "section type": ("network", lambda text: {"nova": {"sections": {"neutron": text}}}),
}

names = st.one_of(st.sampled_from(WORDS), st.from_regex(r"[a-z][a-z0-9_-]{0,30}", fullmatch=True))
types = st.one_of(st.sampled_from(WORDS), st.from_regex(r"[a-z][a-z0-9-]{0,9}", fullmatch=True))
sections = st.one_of(st.sampled_from(["default", "nova"]), st.from_regex(r"[a-z][a-z0-9_]{0,9}", fullmatch=True))
urls = st.sampled_from([URL, "https://[::1]/v1/%(tenant_id)s", "http://a/$(project_id)s~"])
component = st.fixed_dictionaries(
    {},
    optional={
        "catalog": st.fixed_dictionaries({"type": types, "url": urls}, optional={"name": types}),
        "roles": st.lists(st.sampled_from(["admin", "Reader", "no", "r\u00f4le"]), max_size=2),
        "sections": st.one_of(st.dictionaries(sections, types, max_size=2), st.lists(sections, max_size=2)),
    },
)
projects = st.dictionaries(names, component, min_size=1, max_size=3)
passwords = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}", fullmatch=True)


Catalogue = Mapping[str, ServiceDefinition]


def target(folder: Path, components: Mapping[str, Any], secret: str, catalogue: Catalogue = CATALOGUE) -> Desired:
    """Return what `up` would make of a project with these components. Raises ConfigError as `up` does."""
    # This file may not be above other tests' folders: they would be in this project.
    folder.mkdir(exist_ok=True)
    (folder / "devenv.yaml").write_text(yaml.safe_dump({"components": dict(components)}))
    profile = load_profile(folder)
    check_components(profile, catalogue)
    services = select(profile, catalogue)
    ports = {f"{name}/{key}": e.port for name in services for key, e in catalogue[name].endpoints.items()}
    secrets = dict.fromkeys(secret_names(services, profile, catalogue), secret)
    return resolve(services, Inputs("env-1", profile, catalogue, images_for(profile, catalogue), ports, secrets))


class Harmless:
    """The same environment with a harmless word for each value; `meant` puts the values into parsed data."""

    def __init__(self, desired: Desired) -> None:
        self._values: dict[str, str] = {}
        services = {
            name: replace(
                service,
                values=self._words(service.values),
                own=self._part(service.own) if service.own else None,
                components={key: self._part(part) for key, part in service.components.items()},
            )
            for name, service in desired.services.items()
        }
        choices = {
            name: replace(
                choice, sections={self._word(s): kind and self._word(kind) for s, kind in choice.sections.items()}
            )
            for name, choice in desired.components.items()
        }
        self.desired = replace(desired, services=services, components=choices)

    def meant(self, parsed: Any) -> Any:
        if isinstance(parsed, str):
            return re.sub(r"qq\d+qq", lambda word: self._values[word[0]], parsed)
        if isinstance(parsed, dict):
            return {self.meant(key): self.meant(value) for key, value in parsed.items()}
        return [self.meant(one) for one in parsed] if isinstance(parsed, (list, tuple)) else parsed

    def _part(self, part: Provision) -> Provision:
        return replace(part, values=self._words(part.values))

    def _words(self, values: Mapping[str, str]) -> dict[str, str]:
        # A port stays: it is a number in JSON.
        return {key: value if key.endswith(".port") else self._word(value) for key, value in values.items()}

    def _word(self, value: str) -> str:
        word = f"qq{len(self._values)}qq"
        self._values[word] = value
        return word


def oslo(text: str) -> dict[str, dict[str, list[str]]]:
    """Return what oslo.config's own parser finds: values by section and option."""
    found: dict[str, dict[str, list[str]]] = {}
    iniparser.BaseParser.parse(cfg.ConfigParser("x", found), io.StringIO(text, newline=None).readlines())
    return found


def from_dotenv(text: str) -> dict[str, str | None]:
    return dict(dotenv.dotenv_values(stream=io.StringIO(text)))


PARSERS = {".conf": oslo, ".yaml": read_yaml, ".json": json.loads, ".env": from_dotenv}


def in_bash(folder: Path, texts: Sequence[str]) -> list[dict[str, str]]:
    """Return the variables that each text leaves in an empty shell environment; one bash reads all texts."""
    for number, text in enumerate(texts):
        (folder / f"{number}.sh").write_bytes(text.encode())
    script = f'for n in {{0..{len(texts) - 1}}}; do (set -eua; . "./$n.sh"; exec env -0); printf "\\0"; done'
    done = subprocess.run(["bash", "-c", script], cwd=folder, env={"PATH": os.defpath}, capture_output=True, check=True)
    assert not done.stderr
    own = {"PATH", "PWD", "OLDPWD", "SHLVL", "_"}
    pairs = [[pair.split("=", 1) for pair in one.split("\0") if pair] for one in done.stdout.decode().split("\0\0")]
    return [{name: value for name, value in some if name not in own} for some in pairs[: len(texts)]]


# ---- the files of an environment ---------------------------------------------------------------------------------


def check(desired: Desired, catalogue: Catalogue) -> None:
    """Check that each file says what it should and nothing else. Raises ConfigError as `up` does."""
    files, harmless = contents.wired_files(desired, catalogue), Harmless(desired)
    meant = contents.wired_files(harmless.desired, catalogue)
    assert files.keys() == meant.keys()
    for name, text in files.items():
        if parse := PARSERS.get(Path(name).suffix):
            assert parse(text) == harmless.meant(parse(meant[name])), name
    assert from_dotenv(files["env"]) == contents.flat_map(desired.services)


@given(projects, passwords, st.sampled_from([CATALOGUE, GUARDED]))
def test_every_file_says_what_it_should_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, components: dict[str, Any], password: str, catalogue: Catalogue
) -> None:
    with suppress(ConfigError):
        check(target(tmp_path_factory.getbasetemp() / "round-trips", components, password, catalogue), catalogue)


@pytest.mark.parametrize("field", FIELDS)
def test_what_would_end_a_value_or_begin_another_does_not_or_is_refused(tmp_path: Path, field: str) -> None:
    usual, components = FIELDS[field]
    check(target(tmp_path, components(usual), "secret"), CATALOGUE)
    refused = 0
    for tail in TAILS:
        try:
            check(target(tmp_path, components(usual + tail), "secret"), CATALOGUE)
        except ConfigError:
            refused += 1
    assert refused


@pytest.mark.hypothesis
def test_a_shell_reads_what_the_parsers_read(tmp_path: Path) -> None:
    found: list[tuple[str, dict[str, Any]]] = []

    @given(projects, passwords, st.sampled_from([CATALOGUE, GUARDED]))
    def rendered(components: dict[str, Any], password: str, catalogue: Catalogue) -> None:
        try:
            desired = target(tmp_path, components, password, catalogue)
            files = contents.wired_files(desired, catalogue)
        except ConfigError:
            return
        flat = contents.flat_map(desired.services)
        found.append((formats.as_shell(flat), flat))
        found.append(("unset HOME\n" + files["openrc"], {k: v for k, v in flat.items() if k.startswith("OS_")}))
        found.extend((f"set -a\n{text}", from_dotenv(text)) for name, text in files.items() if name.endswith("env"))

    rendered()
    texts, meant = zip(*found, strict=True)
    assert in_bash(tmp_path, texts) == list(meant)


# ---- any text ----------------------------------------------------------------------------------------------------

characters = st.characters(codec="utf-8", exclude_characters="\0")
texts = st.one_of(st.text(characters, max_size=12), st.lists(st.sampled_from(TAILS)).map("".join))
variables = st.dictionaries(
    st.from_regex(r"[A-Z][A-Z_]{3,8}", fullmatch=True), texts.map(lambda t: t.replace("\0", ""))
)


@pytest.mark.hypothesis
def test_any_value_is_read_by_a_shell_and_a_dotenv_library_as_it_is_or_refused(tmp_path: Path) -> None:
    found: list[tuple[str, dict[str, str]]] = []

    @given(variables)
    def written(values: dict[str, str]) -> None:
        found.append((formats.as_shell(values), values))
        assert json.loads(formats.as_json(values)) == values
        with suppress(ConfigError):
            text = formats.as_dotenv(values)
            found.append((f"set -a\n{text}", values))
            assert from_dotenv(text) == formats.from_dotenv(text) == values

    written()
    scripts, meant = zip(*found, strict=True)
    assert in_bash(tmp_path, scripts) == list(meant)


@given(st.sampled_from(["", "[a]\n", "[a]\nx = 1\n[b]\nx = 2\n"]), texts)
def test_any_value_is_read_by_oslo_config_as_it_is_or_refused(text: str, value: str) -> None:
    with suppress(ConfigError):
        merged = ini.merge(text, {("a", "x"): (value,)}, (), "nova.conf").text
        assert oslo(merged) == {**oslo(text), "a": {"x": [value]}}


@given(st.sampled_from(["", "clouds:\n", "clouds:\n    mine: {a: 1}\nx: y\n"]), texts, st.dictionaries(texts, texts))
def test_any_cloud_is_read_by_a_yaml_library_as_it_is_or_refused(text: str, name: str, cloud: dict[str, str]) -> None:
    before = read_yaml(text) or {}
    with suppress(ConfigError):
        merged = clouds.merge_clouds(text, yaml.safe_dump({"clouds": {name: cloud}}), (), "clouds.yaml").text
        assert read_yaml(merged) == {**before, "clouds": {**(before.get("clouds") or {}), name: cloud}}


# ---- exports -----------------------------------------------------------------------------------------------------


# Each example is as slow as five of another test.
@settings(max_examples=settings.default.max_examples // 5)
@given(projects, passwords, st.sampled_from([CATALOGUE, GUARDED]))
def test_a_compose_file_holds_each_file_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, components: dict[str, Any], password: str, catalogue: Catalogue
) -> None:
    try:
        desired = target(tmp_path_factory.getbasetemp() / "round-trips", components, password, catalogue)
    except ConfigError:
        return
    harmless = Harmless(desired)
    parsed, meant = (read_yaml(compose_file(one, catalogue)) for one in (desired, harmless.desired))
    assert parsed["services"] == harmless.meant(meant["services"])
    for name in ("keystone-accounts.json", "rabbitmq-definitions.json"):
        texts = (one["configs"].pop(name)["content"].replace("$$", "$") for one in (parsed, meant))
        said, should = map(json.loads, texts)
        assert said == harmless.meant(should)


@pytest.mark.parametrize("name", WORDS)
def test_a_cis_file_takes_a_name_for_a_text(tmp_path: Path, name: str) -> None:
    (tmp_path / "devenv.yaml").write_text(yaml.safe_dump({"components": [name]}))
    profile = load_profile(tmp_path)
    images = images_for(profile, CATALOGUE)
    github, gitlab = (
        read_yaml(export.for_jobs(tool, name, "", profile, CATALOGUE, images, Packages("./devenv.whl"))[""])
        for tool in ("github", "gitlab")
    )
    job, other = github["jobs"]["with-services"], gitlab["with-services"]
    variables = [dict[str, Any](job["env"]), *(service.get("env", {}) for service in job["services"].values())]
    variables += [other["variables"], *(service["variables"] for service in other["services"])]
    assert {type(value) for each in variables for value in each.values()} == {str}
    for command in (job["steps"][-2]["run"], other["script"][-1]):
        words = shlex.split(command)
        assert words[words.index("--component") + 1] == name


@pytest.mark.parametrize(
    "folder", ["null", "1e3", "2024-01-01", "0x1", "it's: #x", "a\n[x]", "é", "{{ x }}", "$(id)", "'"]
)
def test_a_folder_of_any_name_gives_a_job_its_name(tmp_path: Path, folder: str) -> None:
    project = environment_id(tmp_path / folder, "default").rpartition("-")[0]
    profile = load_profile(tmp_path)
    images = images_for(profile, CATALOGUE)
    files = export.for_jobs("zuul", project, "", profile, CATALOGUE, images, Packages("./devenv.whl"))
    job, listed = read_yaml(files[".zuul.d/devenv.yaml"])
    assert job["job"]["name"] == f"{project}-devenv" and re.fullmatch(r"[a-z0-9-]+", project)
    assert listed["project"]["check"]["jobs"] == listed["project"]["gate"]["jobs"] == [f"{project}-devenv"]
