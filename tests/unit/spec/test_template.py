"""Strict substitution."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from devenv.errors import ConfigError
from devenv.spec.template import render


def test_a_known_name_is_replaced_wherever_it_stands() -> None:
    assert render("a ${x.y} b ${x.y}${z}", {"x.y": "1", "z": "2"}, "f") == "a 1 b 12"


@pytest.mark.parametrize("text", ["$HOME", "$(date)", "cost: 5$", "$", "$1 $@ $$", "{x}", "}"])
def test_a_dollar_without_a_brace_stays(text: str) -> None:
    assert render(text, {"x": "1"}, "f") == text


def test_a_doubled_dollar_escapes_a_placeholder() -> None:
    assert render("$${x} ${x}", {"x": "1"}, "f") == "${x} 1"


def test_a_value_is_not_filled_in_itself() -> None:
    assert render("${x}", {"x": "${y}", "y": "no"}, "f") == "${y}"


@pytest.mark.parametrize("name", ["", " x", "X", "x.__class__", "x!r", "1+1"])
def test_nothing_is_evaluated_and_names_match_exactly(name: str) -> None:
    with pytest.raises(ConfigError):
        render(f"${{{name}}}", {"x": "1"}, "f")


def test_every_unknown_name_is_told_with_its_line_and_what_is_known() -> None:
    with pytest.raises(ConfigError) as caught:
        render("a\n${b}\n\n${x} ${c}", {"x": "1"}, "my.cnf")
    assert caught.value.detail == ("my.cnf:2: ${b}: no such value", "my.cnf:4: ${c}: no such value")
    assert caught.value.message.startswith("cannot fill in my.cnf")
    assert caught.value.hint == "known values: x"


def test_an_error_tells_no_value() -> None:
    with pytest.raises(ConfigError) as caught:
        render("${a}", {"secret.password": "hunter2"}, "f")
    assert "hunter2" not in f"{caught.value.message} {caught.value.hint} {caught.value.detail}"


@given(st.text())
def test_a_value_comes_out_as_it_is(value: str) -> None:
    assert render("<${x}>", {"x": value}, "f") == f"<{value}>"
