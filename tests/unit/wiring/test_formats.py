"""Each format of `devenv env` holds every value for its readers as it is, or refuses it."""

from __future__ import annotations

import io
import json

import dotenv
import pytest
from builders import shipped
from hypothesis import given, strategies as st
from shells import sourced

from devenv.errors import ConfigError
from devenv.wiring.contents import flat_map
from devenv.wiring.formats import FORMATS, as_dotenv, as_env_file, as_json, as_shell, from_dotenv

FLAT = flat_map(shipped().services)
ODD = {**FLAT, "ODD": 'a b  #c "d" $HOME `e` \\ * & ; | < > ~', "EMPTY": ""}
URL_CHARACTERS = st.text("abcXYZ019-_.~:/?#[]@!$&()*+,;=% ")


@pytest.mark.parametrize("shell", ["bash", "sh"])
def test_shells_read_the_dotenv_and_the_shell_format(shell: str) -> None:
    assert sourced(as_dotenv(ODD), shell) == sourced(as_shell(ODD), shell) == ODD


def test_json_and_dotenv_libraries_read_their_formats() -> None:
    assert json.loads(as_json(ODD)) == ODD
    assert dotenv.dotenv_values(stream=io.StringIO(as_dotenv(ODD)), interpolate=False) == ODD


@given(st.dictionaries(st.from_regex(r"[A-Z][A-Z_]{0,8}", fullmatch=True), URL_CHARACTERS, min_size=1))
def test_any_url_comes_back_from_a_dotenv_library(values: dict[str, str]) -> None:
    assert dotenv.dotenv_values(stream=io.StringIO(as_dotenv(values)), interpolate=False) == values
    assert from_dotenv("# a comment\n" + as_dotenv(values)) == values


def test_what_services_say_needs_no_quotes() -> None:
    assert as_dotenv(FLAT) == as_env_file(FLAT) == "".join(f"{name}={value}\n" for name, value in FLAT.items())


@pytest.mark.parametrize("value", ["it's", "a\nb", "a\rb"])
def test_a_value_that_dotenv_cannot_hold_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot write X to a \.env file"):
        as_dotenv({"X": value})


@pytest.mark.parametrize("value", ["a\nb", "a\r", "a\0"])
def test_a_value_of_several_lines_is_refused_where_a_line_is_all_there_is(value: str) -> None:
    with pytest.raises(ConfigError, match="cannot write X to a file without quotes"):
        as_env_file({"A": "1", "X": value})


@pytest.mark.parametrize("name", FORMATS)
def test_a_shell_alone_takes_variables_away(name: str) -> None:
    text = FORMATS[name]({"OS_AUTH_URL": "http://x"}, ["OS_CLOUD", "OS_TOKEN"])
    assert text.startswith("unset OS_CLOUD OS_TOKEN\n") == (name == "shell")
    assert ("OS_CLOUD" in text) == (name == "shell")
