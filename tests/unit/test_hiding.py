"""Hiding passwords: which are hidden, and where."""

from __future__ import annotations

import pytest

from devenv.hiding import hide


@pytest.mark.parametrize(
    ("text", "password", "hidden"),
    [
        ("no longpassword here", "longpassword", "no *** here"),
        ("mylongpasswords", "longpassword", "my***s"),
        ("denied for user 'half'@'%'", "h", "denied for user 'half'@'%'"),
        ("amqp://half:h@mq", "h", "amqp://half:***@mq"),
        ("a+b is in a+bc", "a+b", "*** is in a+bc"),
        ("denied for user 'reader'", "reader", "denied for user 'reader'"),
        ("nothing", "", "nothing"),
    ],
)
def test_a_short_password_is_hidden_as_a_word_and_a_name_nowhere(text: str, password: str, hidden: str) -> None:
    assert hide(text, [password], names=["reader"]) == hidden


def test_a_password_that_another_one_begins_with_leaves_no_rest() -> None:
    assert hide("password12 password1", ["password1", "password12"]) == "*** ***"
