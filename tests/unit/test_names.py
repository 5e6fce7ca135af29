"""Names of things: one rule, whichever way a name comes in."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import compose_data, write_service
from hypothesis import given, strategies as st

from devenv import names
from devenv.errors import ConfigError
from devenv.images.snapshot import load
from devenv.lifecycle.environment import Environment
from devenv.spec.catalogue import load_catalogue
from devenv.spec.profile import load_profile
from devenv.store.state import State

# A way for a name to come in: the words of its refusal, and a function that takes the name.
Door = tuple[str, Callable[[Path, str], object]]
RIGHT = ["a", "nova", "a1", "a-b", "a--", "a" * 31]
WRONG = [
    *("", "_a", "-a", "1a", "A", "a b", "a/b", "../a", "..", ".", "a.b", "~", "\\a", "$a", "${a}", "a;b", "a'b"),
    *('a"b', "a`b", "a%b", "a\n", "a\0", "a" * 32, "ü", "aü", "\N{FULLWIDTH LATIN SMALL LETTER A}"),
]
UNDERSCORES = ["a_b", "a__"]


def written(project: Path, text: str) -> None:
    (project / "devenv.yaml").write_text(text)
    load_profile(project)


def catalogue_of(folder: Path, name: str) -> None:
    data = compose_data()
    data["x-devenv"]["endpoints"][name] = {"port": 80, "url": "http://x"}
    write_service(folder, data)
    load_catalogue(folder)


NAMES: dict[str, Door] = {
    "environment": ("cannot use .* as the name of", lambda project, name: Environment(project, name)),
    "snapshot": ("cannot use .* as the name of", lambda project, name: load(State(project, "default"), name)),
    "service": ("expected a name", lambda project, name: written(project, f"services: {{{json.dumps(name)}: {{}}}}")),
    "listed service": ("expected a name", lambda project, name: written(project, f"services: [{json.dumps(name)}]")),
    "profile": ("expected a name", lambda project, name: written(project, f"profile: {json.dumps(name)}")),
    "definition": ("expected a name", catalogue_of),
}
COMPONENTS: dict[str, Door] = {
    "component": (
        "expected a component's name",
        lambda project, name: written(project, f"components: {{{json.dumps(name)}: {{}}}}"),
    ),
    "listed component": (
        "expected a component's name",
        lambda project, name: written(project, f"components: [{json.dumps(name)}]"),
    ),
    "run": ("cannot name a component", lambda _, name: names.check_component(name)),
}


def right(door: Door, project: Path) -> list[str]:
    """Return the names that this door does not refuse as names."""
    words, take = door

    def refused(name: str) -> bool:
        try:
            take(project, name)
        except ConfigError as error:
            return re.search(words, "\n".join([error.message, *error.detail])) is not None
        return False

    return [name for name in [*RIGHT, *WRONG, *UNDERSCORES] if not refused(name)]


@pytest.mark.parametrize("door", NAMES)
def test_a_name_is_right_or_wrong_wherever_it_comes_in(door: str, tmp_path: Path) -> None:
    assert right(NAMES[door], tmp_path) == RIGHT


@pytest.mark.parametrize("door", COMPONENTS)
def test_a_components_name_may_have_an_underscore_too(door: str, tmp_path: Path) -> None:
    assert right(COMPONENTS[door], tmp_path) == [*RIGHT, *UNDERSCORES]


@given(st.text(max_size=40))
def test_what_may_be_a_name_needs_no_care_anywhere(text: str) -> None:
    if names.NAME.match(text) or names.COMPONENT.match(text):
        assert text.isascii() and text == text.lower() and len(text) <= 31 and text[0].isalpha()
        assert text.replace("-", "").replace("_", "").isalnum()


def test_the_rule_is_written_down_once() -> None:
    package = Path(names.__file__).parent
    assert [path.name for path in package.glob("*.py") if "{0,30}" in path.read_text()] == ["names.py"]


def test_a_misspelt_name_gets_the_closest_one() -> None:
    assert names.did_you_mean("mysq", ["rabbitmq", "mysql"]) == "did you mean 'mysql'?"
    assert names.did_you_mean("oracle", ["rabbitmq", "mysql"]) == ""
    assert names.did_you_mean("mysql", []) == ""


@given(st.from_regex(names.NAME, fullmatch=True), st.from_regex(names.COMPONENT, fullmatch=True) | st.just(""))
def test_a_pair_is_read_as_it_was_printed(service: str, component: str) -> None:
    pair = names.Pair(service, component)
    assert names.Pair.parse(f"{pair}") == pair


def test_a_pair_prints_as_it_is_planned_and_remembered() -> None:
    assert str(names.Pair("mysql", "nova")) == "mysql/nova"
    assert str(names.Pair("mysql")) == "mysql"


@given(st.from_regex(names.NAME, fullmatch=True), st.from_regex(names.NAME, fullmatch=True))
def test_a_name_on_the_engine_is_taken_apart_as_it_was_put_together(service: str, short: str) -> None:
    known = names.Names("shop-1a2b3c4d")
    volume = known.volume(service, short)
    assert known.short(service, volume) == short
    for name in (volume, known.container(service)):
        assert name.startswith(f"{known.network}-")
        assert known.belongs(name, service)
        assert known.service(name, [service, "another"]) == service
        assert not names.Names("shop-1a2b").belongs(name, service)


def test_a_name_belongs_to_the_longest_service_that_it_begins_with() -> None:
    known = names.Names("shop")
    assert known.service("devenv-shop-open-bao-data", ["open", "open-bao"]) == "open-bao"
    assert known.service("devenv-shop-open-data", ["open", "open-bao"]) == "open"
    assert known.service("devenv-shop-openbao", ["open"]) == ""
