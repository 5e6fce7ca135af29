"""Options in an oslo.config file: read as oslo.config reads them, merged in, and taken out again to the byte."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict

import pytest
from hypothesis import assume, example, given, strategies as st
from oslo_config import cfg, iniparser

from devenv.errors import ConfigError
from devenv.wiring.ini import Edit, Merged, merge, options

Options = Mapping[tuple[str, str], tuple[str, ...]]

URL = "mysql+pymysql://devenv:x@127.0.0.1:3306/nova?charset=utf8mb4"
NOVA = """\
# The sample of a service.
[DEFAULT]
#transport_url = rabbit://
debug = true

[database]
# The connection string (string value)
#connection = <None>
max_retries = 5
  # no comment, but a part of the value

[oslo_messaging_notifications]
driver = log
"""


def oslo(text: str) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return what oslo.config itself reads from a file of this text."""
    normalized: dict[str, dict[str, list[str]]] = {}
    parser = cfg.ConfigParser("x", {})
    parser._add_normalized(normalized)
    # As with open(), every kind of line end counts.
    iniparser.BaseParser.parse(parser, io.StringIO(text, newline=None).readlines())
    return {(s, o): tuple(values) for s, found in normalized.items() for o, values in found.items()}


def readable(text: str) -> bool:
    try:
        oslo(text)
    except iniparser.ParseError:
        return False
    return True


def put(text: str, wanted: Options, edits: tuple[Edit, ...] = ()) -> Merged:
    return merge(text, wanted, edits, "nova.conf")


def one(section: str, option: str, *values: str) -> dict[tuple[str, str], tuple[str, ...]]:
    return {(section, option): values}


# ---- generated files ---------------------------------------------------------------------------------------------

SECTIONS = ("DEFAULT", "default", "database", "Database", "oslo é")
NAMES = ("connection", "driver", "a-b", "ü")
VALUES = ("", "1", '"quoted"', "'", "$other", "100%", "a=b:c", "# no comment", "ünï", "\u2003em", "x y", "mine0")
OURS = ("mine0", "mine1", "rabbit://a:b@[::1]:1/v%2F", "")
sections, names = st.sampled_from(SECTIONS), st.sampled_from(NAMES)
assignments = st.builds(
    lambda name, sign, value, end: f"{name}{sign}{value}{end}",
    names,
    st.sampled_from(["=", " = ", ":", "\t:  "]),
    st.sampled_from(VALUES),
    st.sampled_from(["", "", "\n  more = 1", "\n\tx\n # y  ", "  "]),
)
comments = st.one_of(
    st.sampled_from(["", "", "  ", "# prose: with = signs", ";x"]),
    st.builds(lambda mark, name: f"{mark}{name} = <None>", st.sampled_from(["#", "# ", ";"]), names),
)
headers = sections.map(lambda name: f"[{name}]")


@st.composite
def files(draw: st.DrawFn) -> str:
    """Draw a file that oslo.config can read, with all that it allows."""
    lines = draw(st.lists(comments, max_size=2))
    for header in draw(st.lists(headers, max_size=4)):
        lines += [header, *draw(st.lists(st.one_of(assignments, comments), max_size=6))]
    text = "\n".join(lines) + draw(st.sampled_from(["\n", ""]))
    text = text.replace("\n", draw(st.sampled_from(["\n", "\n", "\r\n"])))
    assume(readable(text))
    return text


normal = sections.map(lambda name: name if name == "DEFAULT" else name.lower())
wishes = st.dictionaries(
    st.tuples(st.one_of(normal, st.sampled_from(["new", "newer"])), names),
    st.lists(st.sampled_from(OURS), min_size=1, max_size=3).map(tuple),
    max_size=5,
)


@given(files())
def test_a_file_is_read_as_oslo_config_reads_it(text: str) -> None:
    assert options(text, "x") == oslo(text)


@given(st.lists(st.sampled_from([*"[]=:#; \t\nab\"'$%é\u2003\xa0\u2028", "\r\n", "[a]\n", "a=1\n"])).map("".join))
@example("[a]\nx=1\n# c\n y\n")
@example("[a]\n y\n")
@example("[a]\nx=1\n\u2003\n y")
def test_what_oslo_config_cannot_read_is_refused_and_all_else_is_read_alike(text: str) -> None:
    if readable(text):
        assert options(text, "x") == oslo(text)
    else:
        with pytest.raises(ConfigError, match=r"^cannot merge into x:"):
            options(text, "x")


@given(files(), wishes)
def test_what_is_wanted_is_in_effect_and_all_else_is_as_before(text: str, wanted: Options) -> None:
    after, before = oslo(put(text, wanted).text), oslo(text)
    for key, values in wanted.items():
        assert after[key][-len(values) :] == values
    assert {k: v for k, v in after.items() if k not in wanted} == {k: v for k, v in before.items() if k not in wanted}


@given(files(), wishes)
def test_unwiring_gives_back_the_same_bytes(text: str, wanted: Options) -> None:
    merged = put(text, wanted)
    assert put(merged.text, {}, merged.edits) == Merged(text, ())


@given(files(), wishes)
def test_merging_again_changes_nothing(text: str, wanted: Options) -> None:
    merged = put(text, wanted)
    assert put(merged.text, wanted, merged.edits) == merged


@given(files(), st.lists(wishes, min_size=2, max_size=4))
def test_unwiring_gives_back_the_same_bytes_whatever_was_wanted_in_between(text: str, many: list[Options]) -> None:
    merged = Merged(text, ())
    for wanted in many:
        merged = put(merged.text, wanted, merged.edits)
        assert not merged.notes
        assert all(oslo(merged.text)[key][-len(values) :] == values for key, values in wanted.items())
    assert put(merged.text, {}, merged.edits) == Merged(text, ())


@given(files(), wishes, st.lists(st.tuples(st.integers(0, 99), st.booleans()), min_size=1, max_size=6))
def test_what_the_user_writes_between_our_lines_survives_unwiring(
    text: str, wanted: Options, places: list[tuple[int, bool]]
) -> None:
    there = {section for section, _ in oslo(text)}
    merged = put(text, {key: values for key, values in wanted.items() if key[0] in there})
    lines, added = merged.text.splitlines(keepends=True), []
    assume(lines and "\u2028" not in text)
    for number, (place, is_comment) in enumerate(places):
        place %= len(lines)
        # Insert nothing into a value, and no option above the first section.
        if lines[place].startswith((" ", "\t")) and lines[place].strip():
            continue
        comment = is_comment or not any(line.startswith("[") for line in lines[:place])
        added.append(f"# user {number}\n" if comment else f"user{number} = 1\n")
        lines.insert(place, added[-1])
    undone = put("".join(lines), {}, merged.edits)
    left = undone.text.splitlines(keepends=True)
    kept = "".join(line for line in left if line not in added)
    # A last line gets a line end if the user wrote below it.
    assert kept == text or (left[-1] in added and kept in (f"{text}\n", f"{text}\r\n"))
    assert sorted(line for line in left if line in added) == sorted(added)
    assert not undone.notes


# ---- where things go ---------------------------------------------------------------------------------------------


def test_an_option_goes_below_its_commented_default() -> None:
    merged = put(NOVA, one("database", "connection", URL))
    assert merged.text == NOVA.replace("#connection = <None>\n", f"#connection = <None>\nconnection = {URL}\n")
    assert merged.edits == (Edit("database", "connection", "", f"connection = {URL}"),)


def test_an_option_without_a_default_goes_below_the_last_assignment() -> None:
    merged = put(NOVA, {("database", "b"): ("2",), ("database", "c"): ("3",)})
    assert "  # no comment, but a part of the value\nb = 2\nc = 3\n\n[oslo" in merged.text


def test_an_option_goes_below_the_last_header_if_a_section_is_empty() -> None:
    assert put("[a]\n[b]\n[A]\n# c\n", one("a", "x", "1")).text == "[a]\n[b]\n[A]\nx = 1\n# c\n"


def test_an_option_that_is_set_is_replaced_with_its_continuation_lines() -> None:
    merged = put(NOVA, one("database", "max_retries", "-1"))
    assert "\nmax_retries = -1\n\n[oslo" in merged.text
    assert merged.edits[0].before == "max_retries = 5\n  # no comment, but a part of the value"


def test_of_several_occurrences_the_last_is_replaced_over_all_sections_of_that_name() -> None:
    text = "[a]\nx = 1\nx = 2\n[b]\nx = 3\n[A]\nx = 4\ny = 5\n"
    assert put(text, one("a", "x", "9")).text == text.replace("x = 4", "x = 9")


def test_repeated_values_go_below_the_users() -> None:
    merged = put(NOVA, one("oslo_messaging_notifications", "driver", "messagingv2", "test"))
    assert merged.text == NOVA + "driver = messagingv2\ndriver = test\n"


def test_a_section_that_is_missing_is_appended_below_an_empty_line() -> None:
    wanted = {**one("new", "x", "1"), **one("DEFAULT", "y", "2"), **one("new", "z", "3")}
    merged = put("[DEFAULT]\na = 1", wanted)
    assert merged.text == "[DEFAULT]\na = 1\ny = 2\n\n[new]\nx = 1\nz = 3\n"
    assert put("", one("new", "x", "1")).text == "[new]\nx = 1\n"
    assert put("# c\n\n", one("new", "x", "1")).text == "# c\n\n[new]\nx = 1\n"


def test_new_lines_have_the_line_ends_of_the_file() -> None:
    text = NOVA.replace("\n", "\r\n")
    merged = put(text, {**one("database", "connection", URL), **one("new", "x", "1")})
    assert merged.text.count("\n") == merged.text.count("\r\n") == NOVA.count("\n") + 4


def test_what_is_in_effect_already_is_left_alone() -> None:
    text = "[a]\nx=0\nx: 'one'\nm = 1\nm = 2\nm = 3\n"
    assert put(text, {("a", "x"): ("one",), ("A", "m"): ("2", "3")}) == Merged(text, ())


def test_edits_can_be_kept_as_json() -> None:
    merged = put(NOVA, {**one("database", "max_retries", "1"), **one("new", "x", "1", "2")})
    assert (
        tuple(Edit(**edit) for edit in json.loads(json.dumps([asdict(edit) for edit in merged.edits]))) == merged.edits
    )


# ---- what the user does in between -------------------------------------------------------------------------------


def test_an_option_that_is_not_wanted_any_more_is_as_before() -> None:
    both = put(NOVA, {**one("database", "max_retries", "1"), **one("DEFAULT", "transport_url", "rabbit://x")})
    less = put(both.text, one("DEFAULT", "transport_url", "rabbit://x"), both.edits)
    assert less.text == put(NOVA, one("DEFAULT", "transport_url", "rabbit://x")).text


def test_another_value_is_written_where_ours_stands_and_the_users_is_still_known() -> None:
    first = put(NOVA, {**one("DEFAULT", "debug", "false"), **one("DEFAULT", "new", "1")})
    moved = (
        first.text.replace("new = 1\n", "").replace("# The sample", "# x").replace("[database]", "new = 1\n[database]")
    )
    second = put(moved, {**one("DEFAULT", "debug", "0"), **one("DEFAULT", "new", "2")}, first.edits)
    assert second.text == moved.replace("new = 1", "new = 2").replace("debug = false", "debug = 0")
    assert put(second.text, {}, second.edits).text == NOVA.replace("# The sample", "# x")


@pytest.mark.parametrize("values", [("c",), ("c", "d"), ("c", "d", "e")])
def test_repeated_values_are_renewed_in_place(values: tuple[str, ...]) -> None:
    first = put("[a]\nm = 0\n# end\n", one("a", "m", "1", "2"))
    second = put(first.text, one("a", "m", *values), first.edits)
    if len(values) == 1:
        assert second.text == "[a]\nm = 0\nm = c\n# end\n"
    assert oslo(second.text)["a", "m"] == ("0", *values)
    assert put(second.text, {}, second.edits).text == "[a]\nm = 0\n# end\n"


def test_an_option_that_was_changed_since_is_left_and_told() -> None:
    merged = put(NOVA, {**one("DEFAULT", "debug", "false"), **one("database", "connection", URL)})
    edited = merged.text.replace("debug = false", "debug = maybe")
    undone = put(edited, {}, merged.edits)
    assert undone.text == NOVA.replace("debug = true", "debug = maybe")
    assert undone.notes == ("[DEFAULT] debug was changed since: it stays as it is",)


def test_an_option_that_was_changed_since_is_set_again_and_the_change_restored_later() -> None:
    merged = put(NOVA, one("DEFAULT", "debug", "false"))
    again = put(merged.text.replace("debug = false", "debug = maybe"), one("DEFAULT", "debug", "false"), merged.edits)
    assert again.text == merged.text
    assert again.notes == ("[DEFAULT] debug was changed since: devenv sets it again, and unwiring restores your value",)
    assert put(again.text, {}, again.edits).text == NOVA.replace("debug = true", "debug = maybe")


def test_a_later_occurrence_of_the_users_is_overridden_and_comes_back() -> None:
    merged = put(NOVA, one("DEFAULT", "debug", "false"))
    edited = merged.text + "[DEFAULT]\ndebug = later\n"
    again = put(edited, one("DEFAULT", "debug", "false"), merged.edits)
    assert oslo(again.text)["DEFAULT", "debug"][-1] == "false"
    assert put(again.text, {}, again.edits).text == NOVA + "[DEFAULT]\ndebug = later\n"
    assert put(edited, {}, merged.edits).text == NOVA + "[DEFAULT]\ndebug = later\n"


def test_what_was_taken_back_by_hand_is_not_told() -> None:
    merged = put(NOVA, {**one("DEFAULT", "debug", "false"), **one("database", "connection", URL)})
    assert put(NOVA, {}, merged.edits) == Merged(NOVA, ())


def test_a_continuation_line_below_ours_makes_it_the_users() -> None:
    merged = put(NOVA, one("DEFAULT", "debug", "false"))
    edited = merged.text.replace("debug = false\n", "debug = false\n  more\n")
    assert put(edited, {}, merged.edits).text == edited


def test_a_section_of_ours_goes_when_nothing_else_is_in_it() -> None:
    merged = put(NOVA, {**one("new", "x", "1"), **one("newer", "y", "1")})
    after = merged.text + "\n[mine]\nz = 1\n"
    assert put(after, {}, merged.edits).text == NOVA + "\n[mine]\nz = 1\n"
    less = put(after, one("newer", "y", "1"), merged.edits)
    assert put(less.text, {}, less.edits).text == NOVA + "\n[mine]\nz = 1\n"


@pytest.mark.parametrize("added", ["# mine\n", "z = 1\n"])
def test_a_section_of_ours_that_the_user_put_something_into_stays(added: str) -> None:
    merged = put(NOVA, one("new", "x", "1"))
    assert put(merged.text + added, {}, merged.edits) == Merged(f"{NOVA}\n[new]\n{added}", ())


def test_a_missing_line_end_is_missing_again_unless_the_user_wrote_below() -> None:
    merged = put("[a]\nx = 1", one("a", "y", "2"))
    assert put(merged.text, {}, merged.edits).text == "[a]\nx = 1"
    assert put(merged.text + "z = 3\n", {}, merged.edits).text == "[a]\nx = 1\nz = 3\n"
    # devenv adds no line end where nothing is written below.
    replaced = put("[a]\nx = 1", one("a", "x", "2"))
    assert replaced.text == "[a]\nx = 2"
    below = put(replaced.text, {**one("a", "x", "2"), **one("a", "y", "2")}, replaced.edits)
    assert below.text == "[a]\nx = 2\ny = 2\n"
    assert put(below.text, {}, below.edits) == Merged("[a]\nx = 1", ())


def test_line_ends_may_change_in_between() -> None:
    merged = put(NOVA, {**one("DEFAULT", "debug", "0"), **one("new", "x", "1")})
    undone = put(merged.text.replace("\n", "\r\n"), {}, merged.edits)
    assert undone == Merged(NOVA.replace("\n", "\r\n"), ())


# ---- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("\ufeff[a]\n", 1, "byte order mark"),
        ("[a]\nx = 1\n[b\n", 3, "section"),
        ("[]\n", 1, "section"),
        ("[a]\nwords\n", 2, "neither '=' nor ':'"),
        ("[a]\n = 1\n", 2, "continues no value"),
        ("[a]\n# c\n\n  x\n", 4, "continues no value"),
        ("[a]\n= 1\n", 2, "no option"),
        ("x = 1\n", 1, "before any section"),
        ("[a]\nx = \0\n", 2, "control character '\\x00'"),
        ("[a]\rx = 1\n", 1, "carriage return"),
        ("[a]\nx = 1\r", 2, "carriage return"),
    ],
)
def test_a_file_that_services_cannot_read_is_refused_with_the_line(text: str, line: int, reason: str) -> None:
    for act in (lambda: options(text, "nova.conf"), lambda: put(text, one("a", "y", "1"))):
        with pytest.raises(ConfigError) as caught:
            act()
        assert caught.value.message.startswith(f"cannot merge into nova.conf:{line}: ")
        assert reason in caught.value.message and caught.value.hint


@pytest.mark.parametrize(
    "value", ["a\nb = c", "a\r", "\0", " x", "x\t", "x\u2003", '"x"', "'", "pa$w", "\x85", "\ud800"]
)
def test_a_value_that_would_not_survive_is_refused(value: str) -> None:
    with pytest.raises(
        ConfigError, match=r"^cannot merge \[database\] connection into nova.conf: its value "
    ) as caught:
        put(NOVA, one("database", "connection", value))
    assert "pa$w" not in caught.value.message


@pytest.mark.parametrize(
    "key", [("a", "x=y"), ("a", "#x"), ("a", "[x"), ("a", ""), ("a", "x\n[b]\ny"), ("a]\n[b", "x")]
)
def test_a_name_that_would_be_read_otherwise_is_refused(key: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"^cannot merge"):
        put("[a]\n", {key: ("1",)})


def test_a_large_file_keeps_every_byte() -> None:
    body = "".join(f"# About o{number}.\n#o{number} = <None>\nk{number} = {number}\n\n" for number in range(2000))
    text = "".join(f"[s{number}]\n{body}" for number in range(5))
    wanted = {(f"s{number % 5}", f"o{number}"): ("1", "2")[: number % 2 + 1] for number in range(60)}
    merged = put(text, wanted)
    assert merged.text.count("\n") == text.count("\n") + 90
    assert put(merged.text, {}, merged.edits).text == text
