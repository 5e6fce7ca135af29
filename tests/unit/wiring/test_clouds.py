"""Clouds in a clouds.yaml: merged into its text, and taken out again to the byte."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from builders import read_yaml
from hypothesis import assume, given, strategies as st

from devenv.errors import ConfigError
from devenv.wiring.clouds import merge_clouds
from devenv.wiring.ini import Merged

OURS = """\
# Written by devenv.
clouds:
  devenv:
    auth: {auth_url: "http://127.0.0.1:5000/v3", password: 'a: #b'}
    region_name: RegionOne
  devenv-admin:
    verify: false
"""
BLOCK = """\
  devenv:
    auth:
      auth_url: http://127.0.0.1:5000/v3
      password: 'a: #b'
    region_name: RegionOne
  devenv-admin:
    verify: false
"""
USERS = """\
# My clouds, do not touch.
cache: {expiration_time: 3600}   # seconds
clouds:   # all of them
    # at work
    work: &work
        auth: {username: me}

    home:
        <<: *work
        region_name: "é"
        # the end
"""


def put(text: str, clouds: str = OURS, before: Merged | None = None) -> Merged:
    return merge_clouds(text, clouds, before.edits if before else (), "clouds.yaml")


def without(merged: Merged, text: str | None = None) -> Merged:
    return put(merged.text if text is None else text, "", merged)


def clouds_of(text: str) -> dict[str, Any]:
    found: dict[str, Any] = read_yaml(text)["clouds"]
    return found


# ---- where clouds go ---------------------------------------------------------------------------------------------


def test_clouds_go_right_below_the_key_as_deep_as_the_users() -> None:
    indented = "".join(f"  {line}\n" for line in BLOCK.splitlines())
    assert put(USERS).text == USERS.replace("# all of them\n", f"# all of them\n{indented}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "clouds:\n" + BLOCK),
        ("# none yet\n", "# none yet\nclouds:\n" + BLOCK),
        ("---\ncache: 1\n", "---\ncache: 1\nclouds:\n" + BLOCK),
        ("clouds:\n", "clouds:\n" + BLOCK),
        ("clouds:", "clouds:\n" + BLOCK),
        ("clouds: {}  # none\nx: 1\n", "clouds:  # none\n" + BLOCK + "x: 1\n"),
        ("'clouds' : ~\n", "'clouds' :\n" + BLOCK),
        ("x: 1\r\n", "x: 1\r\n" + ("clouds:\n" + BLOCK).replace("\n", "\r\n")),
        ("\ufeffclouds:\n", "\ufeffclouds:\n" + BLOCK),
        ("  x: 1\n", "  x: 1\n  clouds:\n" + "".join(f"  {line}\n" for line in BLOCK.splitlines())),
    ],
)
def test_a_key_without_clouds_is_filled_and_a_missing_one_made(text: str, expected: str) -> None:
    merged = put(text)
    assert merged.text == expected
    assert clouds_of(merged.text) == clouds_of(OURS)
    assert without(merged) == Merged(text, ())


def test_clouds_of_that_content_are_left_alone() -> None:
    text = "clouds:\n  devenv-admin: {verify: no}\n"
    merged = put(text)
    assert "devenv-admin: {verify: no}" in merged.text and merged.text.count("devenv-admin") == 1
    assert without(merged).text == text
    assert put(OURS) == Merged(OURS, ())


def test_what_yaml_readers_disagree_about_stays_as_it_is_written() -> None:
    odd = [*("0755", "33:06", "0x10", "1_000", ".5", "1.50", "1e3", "yes", "On", "2024-01-01", "0o17", "~", "1.0e+3")]
    text = "".join(f"k{i}: {value}  # {i}\n" for i, value in enumerate(odd)) + "no: off\n0x1: &a {on: 1}\n<<: *a\n"
    merged = put(text)
    assert merged.text.startswith(text) and without(merged) == Merged(text, ())


# ---- what happens in between -------------------------------------------------------------------------------------


def test_merging_again_changes_nothing() -> None:
    merged = put(USERS)
    assert put(merged.text, OURS, merged) == merged


def test_other_content_is_written_in_place() -> None:
    first = put(USERS)
    moved = first.text.replace("    work: &work", "    other: 1\n    work: &work").replace("# My", "# Our")
    second = put(moved, OURS.replace("RegionOne", "Two").replace("  devenv-admin:\n    verify: false\n", ""), first)
    assert clouds_of(second.text) == {**clouds_of(USERS), "other": 1, "devenv": clouds_of(second.text)["devenv"]}
    assert clouds_of(second.text)["devenv"]["region_name"] == "Two"
    assert without(second).text == USERS.replace("    work: &work", "    other: 1\n    work: &work").replace(
        "# My", "# Our"
    )


def test_a_cloud_that_was_changed_since_is_left_and_told() -> None:
    merged = put(USERS)
    edited = merged.text.replace("verify: false", "verify: true")
    undone = without(merged, edited)
    assert undone.text == USERS.replace("them\n", "them\n    devenv-admin:\n      verify: true\n")
    assert undone.notes == ("cloud 'devenv-admin' was changed since: it stays as it is",)
    with pytest.raises(ConfigError, match=r"cannot merge cloud 'devenv-admin' into clouds.yaml: it has another"):
        put(edited, OURS, merged)


def test_a_cloud_that_something_was_added_to_is_the_users() -> None:
    merged = put(USERS)
    edited = merged.text.replace("verify: false\n", "verify: false\n      mine: 1\n")
    assert clouds_of(without(merged, edited).text)["devenv-admin"] == {"verify": False, "mine": 1}


def test_a_cloud_that_was_taken_out_by_hand_is_not_told() -> None:
    assert without(put(USERS), USERS) == Merged(USERS, ())


@pytest.mark.parametrize("text", ["", "clouds: {}\n"])
def test_a_key_of_ours_stays_if_the_user_has_clouds_below_it(text: str) -> None:
    merged = put(text)
    assert without(merged, merged.text + "  mine: 1\n") == Merged("clouds:\n  mine: 1\n", ())


def test_a_key_of_ours_goes_from_below_what_the_user_wrote_above() -> None:
    merged = put("")
    assert without(merged, f"x: 1\n{merged.text}# end\n").text == "x: 1\n# end\n"


def test_only_some_clouds_can_go_and_the_key_goes_with_the_last() -> None:
    first = put("x: 1\n")
    second = put(first.text, "clouds: {devenv: {a: 1}}", first)
    assert second.text == "x: 1\nclouds:\n  devenv:\n    a: 1\n"
    assert without(second).text == "x: 1\n"


# ---- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "clouds:\n  devenv: {mine: 1}\n",
            "cannot merge cloud 'devenv' into clouds.yaml: it has another one of that name",
        ),
        ("a: &a {devenv: 1}\nclouds:\n  <<: *a\n", "cannot merge cloud 'devenv' into"),
        ("a: &a {clouds: {mine: 1}}\n<<: *a\n", "the result would have another meaning"),
        ("clouds: {mine: 1}\n", "'clouds' are not written as a block"),
        ("clouds: [1]\n", "'clouds' are not written as a block"),
        ("clouds: text\n", "'clouds' are not written as a block"),
        ("a: &a {}\nclouds: *a\n", "'clouds' are not written as a block"),
        ("{clouds: {}}\n", "the result could not be read"),
        ("{}\n", "it is not written as a block"),
        ("- 1\n", "it is not written as a block"),
        ("clouds:\nclouds:\n", "clouds.yaml:2: it has the key 'clouds' twice"),
        ("clouds:\n  a: 1\n  b: 1\n  'a': 2\n", "clouds.yaml:4: it has the key 'a' twice"),
        ("x: [{y: &b {c: 1, c: 2}}]\nz: *b\n", "clouds.yaml:1: it has the key 'c' twice"),
        ("a: &a {b: 1}\nclouds:\n  <<: *a\n  <<: *a\n", "clouds.yaml:4: it has the key '<<' twice"),
        ("x: 1\n...\n", "the result could not be read"),
        ("x: 1\n---\ny: 1\n", "clouds.yaml:2: "),
        ("clouds:\n\ta: 1\n", "clouds.yaml:2: "),
        ("x: [1\n", "clouds.yaml:2: "),
        ("x: \0\n", "special characters"),
        ("x: !vault y\n", "could not determine a constructor"),
        ("x: !!python/object/apply:os.abort []\n", "could not determine a constructor"),
        ("x: !!timestamp y\n", "it is not valid YAML"),
        ("[" * 1000, "it is nested too deeply"),
        ("x: |\n  no line end", "the result would have another meaning"),
        ("# long\n" * 100_000, "longer than"),
    ],
)
def test_what_cannot_be_read_or_extended_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        put(text)
    assert caught.value.message.startswith("cannot merge ") and message in caught.value.message
    assert caught.value.hint


def test_aliases_that_multiply_or_turn_in_circles_are_kept() -> None:
    bomb = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
    text = bomb + "me: &me [*me, .nan]\nclouds:\n  mine: *me\n"
    merged = put(text)
    assert merged.text.startswith(bomb) and without(merged).text == text


def test_merge_keys_that_multiply_are_refused_and_others_kept() -> None:
    def merging(rows: int) -> str:
        first = "a0: &a0 {b: 1}\n"
        return first + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, rows))

    text = merging(4) + "clouds:\n  mine:\n    <<: *a3\n"
    assert without(put(text)).text == text
    with pytest.raises(ConfigError, match=r"^cannot merge into clouds.yaml: its merge keys \(<<\) make more than"):
        put(merging(40))


# ---- generated files ---------------------------------------------------------------------------------------------

words = st.text("ab é:#'\"-{}&*!%\t", max_size=6)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), words),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(words, inner, max_size=3)),
    max_leaves=8,
)


@st.composite
def files(draw: st.DrawFn) -> str:
    """Draw a file with clouds or without, comments at odd places, and styles as people mix them."""
    data: dict[str, Any] = draw(st.dictionaries(st.sampled_from(["cache", "client", "x y"]), values, max_size=2))
    if draw(st.booleans()):
        data["clouds"] = draw(st.dictionaries(st.sampled_from(["one", "two", "3"]), values, max_size=3))
    items = draw(st.permutations(list(data.items())))
    style = draw(st.sampled_from([False, False, None]))
    step = draw(st.integers(2, 5))
    dumped = yaml.safe_dump(dict(items), sort_keys=False, allow_unicode=True, indent=step, default_flow_style=style)
    lines = dumped.splitlines(keepends=True) if items else []
    for place in draw(st.lists(st.integers(0, 20), max_size=3)):
        lines.insert(place % (len(lines) + 1), draw(st.sampled_from(["\n", "# c\n", "      # deep: c\n"])))
    text = "".join(lines)
    if draw(st.booleans()):
        text = text.removesuffix("\n")
    text = text.replace("\n", draw(st.sampled_from(["\n", "\r\n"])))
    try:
        # A comment may be in the middle of a long scalar.
        assume((read_yaml(text) or {}) == data)
    except yaml.YAMLError:
        assume(False)
    return text


wishes = st.dictionaries(st.sampled_from(["devenv", "devenv-admin", "yes"]), st.dictionaries(words, values), max_size=3)


@given(files(), st.lists(wishes, min_size=1, max_size=3))
def test_unwiring_gives_back_the_same_bytes_whatever_was_wanted_in_between(
    text: str, many: list[dict[str, Any]]
) -> None:
    before = read_yaml(text) or {}
    merged = Merged(text, ())
    for wanted in many:
        clouds = yaml.safe_dump({"clouds": wanted})
        try:
            merged = put(merged.text, clouds, merged)
        except ConfigError as error:
            assume("as a block" not in error.message and "the result" not in error.message)
            raise
        after = read_yaml(merged.text) or {}
        assert {**(before.get("clouds") or {}), **wanted} == (after.pop("clouds", None) or {})
        assert after == {key: value for key, value in before.items() if key != "clouds"}
        assert not merged.notes and put(merged.text, clouds, merged) == merged
    assert without(merged) == Merged(text, ())


@given(files(), st.lists(st.integers(0, 99), min_size=1, max_size=4))
def test_comments_that_the_user_writes_outside_our_lines_survive(text: str, places: list[int]) -> None:
    try:
        merged = put(text)
    except ConfigError:
        assume(False)
    lines, ours = merged.text.splitlines(keepends=True), BLOCK.splitlines()
    for number, place in enumerate(places):
        place %= len(lines)
        if lines[place].strip() in {line.strip() for line in ours[1:] if line.strip() != "devenv-admin:"}:
            continue
        lines.insert(place, f"# user {number}\n")
    edited = "".join(lines)
    try:
        assume(read_yaml(edited) == read_yaml(merged.text))
    except yaml.YAMLError:
        assume(False)
    left = without(merged, edited).text.splitlines(keepends=True)
    kept = "".join(line for line in left if not line.startswith("# user"))
    # A last line gets a line end if the user wrote below it.
    assert kept == text or (left[-1].startswith("# user") and kept in (f"{text}\n", f"{text}\r\n"))
    assert sum(line.startswith("# user") for line in left) == sum(line.startswith("# user") for line in lines)
