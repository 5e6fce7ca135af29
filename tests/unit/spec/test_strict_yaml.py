"""Strict YAML: any file is data or one clear error."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, strategies as st
from voluptuous import ALLOW_EXTRA, Optional, Schema

from devenv.errors import ConfigError
from devenv.spec import strict_yaml

ANYTHING = Schema({}, extra=ALLOW_EXTRA)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.yaml"


def refused(path: Path, content: str | bytes, schema: Schema = ANYTHING) -> ConfigError:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ConfigError) as caught:
        strict_yaml.read(path, schema)
    assert caught.value.message.startswith("cannot ")
    assert "\n" not in caught.value.message
    assert caught.value.hint
    return caught.value


def test_data_comes_out_with_yaml_types(path: Path) -> None:
    path.write_text("a: [1, 2.5, true, null, x]\nb: {c: '1'}\n")
    assert strict_yaml.read(path, ANYTHING) == {"a": [1, 2.5, True, None, "x"], "b": {"c": "1"}}


@pytest.mark.parametrize("content", ["", "# nothing\n", "---\n"])
def test_an_empty_file_is_an_empty_mapping(path: Path, content: str) -> None:
    path.write_text(content)
    assert strict_yaml.read(path, ANYTHING) == {}


def test_an_alias_stands_for_what_it_names(path: Path) -> None:
    path.write_text("a: &x [1]\nb: *x\n")
    assert strict_yaml.read(path, ANYTHING) == {"a": [1], "b": [1]}


@pytest.mark.parametrize(("content", "kind"), [("[1]", "list"), ("word", "string"), ("3", "int")])
def test_a_file_that_is_no_mapping_is_refused(path: Path, content: str, kind: str) -> None:
    assert refused(path, content).detail == (f"{path}:1: the file holds a {kind}, not a mapping",)


def test_a_duplicate_key_is_refused_where_it_stands_again(path: Path) -> None:
    error = refused(path, "a:\n  b: 1\n  c: 2\n  'b': 3\n")
    assert error.detail == (f"{path}:4: a.b: duplicate key",)


@pytest.mark.parametrize("value", ["!!python/object/apply:os.system ['true']", "!!binary aGk=", "!mine x", "!!set {a}"])
def test_a_tag_is_refused(path: Path, value: str) -> None:
    (problem,) = refused(path, f"x: 1\na: {value}\n").detail
    assert problem.startswith(f"{path}:2: a: tag ")


def test_a_tag_on_a_key_is_refused(path: Path) -> None:
    assert refused(path, "!mine a: 1\n").detail[0].startswith(f"{path}:1: ")


@pytest.mark.parametrize(
    "value",
    [
        "!!int abc",
        "!!float abc",
        "!!bool perhaps",
        "!!map word",
        "!!seq word",
        "0b_",
        "0x_",
        "9" * 5000,
        "!!int [1]",
        "!!int ''",
        "!!float _",
    ],
)
def test_a_value_that_is_not_what_it_says_is_refused(path: Path, value: str) -> None:
    assert refused(path, f"x: 1\na: {value}\n").detail[0].startswith(f"{path}:2: a: ")


@pytest.mark.parametrize(
    "content",
    [
        *("? [a]\n: 1\n", "? {a: 1}\n: 1\n", "!mine a: x\n"),
    ],
)
def test_a_key_that_is_no_plain_string_is_refused(path: Path, content: str) -> None:
    assert "a key must be a plain string" in refused(path, content).detail[0]


@pytest.mark.parametrize(
    ("content", "line"), [("a: &a {b: 1}\nc:\n  <<: *a\n", 3), ("c: {b: 1, <<: [{b: 1}, {b: 2}]}\n", 1)]
)
def test_a_merge_key_is_refused_by_its_name(path: Path, content: str, line: int) -> None:
    (problem,) = refused(path, content).detail
    assert problem == f"{path}:{line}: c: merge keys (<<) are not taken: write the keys themselves"


# ---- what YAML 1.1 reads as something else -----------------------------------------------------------------------

# A text, and how YAML 1.1 reads it.
ODD = {
    **{"023771": "10233", "33:06": "1986", "0x5000": "20480", "20_379": "20379", "0b11": "3", "+5": "5", "-0": "0"},
    **{".5": "0.5", "1.50": "1.5", "1e3": "", "1.0e+3": "1000.0", "190:20:30.15": "685230.15", ".inf": "inf"},
    **{"yes": "true", "on": "true", "No": "false", "OFF": "false", "True": "true", "y": "", "0o17": ""},
    **{"2024-01-01": "", "2001-12-14t21:59:43.10-05:00": "", "=": "", "<<": "", "09": "", "1.2.3": "", "12e03": ""},
}


@pytest.mark.parametrize("text", [*ODD, "5", "-5", "2.5", "true", "'023'", '"yes"'])
def test_a_key_for_text_takes_what_stands_there(path: Path, text: str) -> None:
    path.write_text(f"a: {text}\nb: [{{c: {text}}}]\n")
    found = strict_yaml.read(path, Schema({"a": strict_yaml.text, "b": [{"c": strict_yaml.text}]}))
    assert found == {"a": text.strip("'\""), "b": [{"c": text.strip("'\"")}]}
    assert type(found["a"]) is str


@pytest.mark.parametrize("text", ODD)
def test_a_key_for_a_number_takes_plain_digits_and_an_error_says_how_others_are_read(path: Path, text: str) -> None:
    (problem,) = refused(path, f"a: {text}\n", Schema({"a": strict_yaml.integer})).detail
    how = f"in plain digits: YAML 1.1 reads {text} as {ODD[text]}" if ODD[text] else f", and {text!r} is text"
    assert problem == f"{path}:1: a: expected int{'' if how.startswith(',') else ' '}{how}"


@pytest.mark.parametrize("word", ["yes", "Yes", "on", "ON", "true", "True", "no", "off", "Off", "false", "FALSE"])
def test_a_switch_takes_every_word_for_it(path: Path, word: str) -> None:
    path.write_text(f"a: {word}\n")
    assert strict_yaml.read(path, Schema({"a": strict_yaml.flag})) == {"a": word.lower() in ("yes", "on", "true")}


@pytest.mark.parametrize("text", ["1", "023", "'yes'", "y", "~", "2024-01-01"])
def test_a_switch_takes_nothing_else(path: Path, text: str) -> None:
    (problem,) = refused(path, f"a: {text}\n", Schema({"a": strict_yaml.flag})).detail
    assert problem.endswith("a: expected true or false")


def test_no_value_is_anything_but_plain_data(path: Path) -> None:
    path.write_text("\n".join(f"k{i}: [{{x: {text}}}]" for i, text in enumerate(ODD)))
    found = [value[0]["x"] for value in strict_yaml.read(path, ANYTHING).values()]
    assert found == [*ODD] and {*map(type, found)} == {str}


@pytest.mark.parametrize("key", [*(one for one in ODD if one != "<<"), "1", "0x1", "1.50", "yes", "null", "~", "''"])
def test_a_key_is_the_text_that_stands_there(path: Path, key: str) -> None:
    path.write_text(f"{key}: x\n")
    assert strict_yaml.read(path, ANYTHING) == {key.strip("'"): "x"}
    assert refused(path, f"{key}: x\n'{key.strip(chr(39))}': y\n").detail[0].endswith("duplicate key")


def test_an_alias_bomb_is_refused_at_once(path: Path) -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert "aliases?" in refused(path, "\n".join(rows)).detail[0]


def test_what_aliases_stand_for_is_there_once(path: Path) -> None:
    path.write_text(f"a: &a {'x' * 200_000}\nb: [{', '.join(['*a'] * 5000)}]\n")
    found = strict_yaml.read(path, ANYTHING)
    assert len(found["b"]) == 5000 and {id(one) for one in found["b"]} == {id(found["a"])}


@pytest.mark.parametrize("content", ["a: &a [*a]", "a: &a {b: *a}", "a: &a [[*a, *a], *a]"])
def test_a_recursive_alias_is_refused(path: Path, content: str) -> None:
    assert "nested deeper" in refused(path, content).detail[0]


def test_thirty_levels_are_the_deepest(path: Path) -> None:
    path.write_text(f"a: {'[' * 29}{']' * 29}\n")
    strict_yaml.read(path, ANYTHING)
    refused(path, f"a: {'[' * 31}x{']' * 31}\n")


@pytest.mark.parametrize("bracket", ["[", "{", "- "])
def test_a_very_deep_file_does_not_end_the_process(path: Path, bracket: str) -> None:
    # Use a separate process: a recursive parser in C takes its process down.
    path.write_text(f"a:\n  {bracket * 50_000}")
    code = (
        "import sys, pathlib, voluptuous; from devenv.spec import strict_yaml; from devenv import errors\n"
        "try: strict_yaml.read(pathlib.Path(sys.argv[1]), voluptuous.Schema({}))\n"
        "except errors.ConfigError: print('refused')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "refused\n")


@pytest.mark.parametrize(
    "content", ["a: [1", "a: 'x", "\ta: 1", "a: *b", "a: 1\n--- \nb: 1", "a: \x00", "a: \x07", "%YAML 9.9\n--- {}", "&"]
)
def test_what_is_no_yaml_is_refused_in_one_line(path: Path, content: str) -> None:
    assert str(path) in refused(path, content).message


def test_a_syntax_error_names_its_line(path: Path) -> None:
    assert f"{path}:3" in refused(path, "a: 1\nb: 2\nc: ]\n").message


def test_a_file_that_is_too_big_is_refused(path: Path) -> None:
    assert "bytes are more than" in refused(path, "a: " + "x" * 300_000).message


@pytest.mark.parametrize("raw", [b"a: \xff\xfe\n", b"\xff\xfea\0:\0 \x001\0", b"a: \xe9\n", b"a: \xed\xa0\x80\n"])
def test_bytes_that_are_no_utf8_are_refused(path: Path, raw: bytes) -> None:
    assert refused(path, raw).message == f"cannot read {path}: it is not UTF-8 text"


def test_a_missing_file_or_a_folder_is_refused(path: Path) -> None:
    for what in (path, path.parent):
        with pytest.raises(ConfigError, match=f"cannot read {what}: "):
            strict_yaml.read(what, ANYTHING)


def test_all_errors_come_at_once_by_line_and_key(path: Path) -> None:
    schema = Schema({Optional("a"): {Optional("b"): int}, Optional("c"): [int], Optional("z"): int})
    lines = ["a:", "  b: x", "  d: 1", *["# more"] * 8, "c:", "  - 1", "  - y", "e: 1"]
    detail = refused(path, "\n".join(lines), schema).detail
    assert [problem.partition(": ")[0] for problem in detail] == [f"{path}:{n}" for n in (2, 3, 14, 15)]
    assert [problem.split(": ")[1] for problem in detail] == ["a.b", "a.d", "c.1", "e"]
    assert detail[-1] == f"{path}:15: e: unknown key"


@given(st.text(alphabet=st.sampled_from("ab:- \n[]{}&*!'\"|>#%@,?<~0x_.1"), max_size=40))
def test_any_text_is_data_or_a_clear_error(tmp_path_factory: pytest.TempPathFactory, content: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(content)
    try:
        assert isinstance(strict_yaml.read(path, ANYTHING), dict)
    except ConfigError as error:
        assert "\n" not in error.message


# ---- nobody else reads YAML --------------------------------------------------------------------------------------

# login.py reads a kubeconfig, which is the user's own.
READERS = {"strict_yaml.py": {"compose", "parse"}, "clouds.py": {"compose", "safe_load"}, "login.py": {"SafeLoader"}}
# Names that neither read nor run anything: errors, results of reading, and writers.
HARMLESS = re.compile(r"YAMLError|\w*Node|Collection(Start|End)Event|Safe(Loader|Dumper)|(safe_)?dump")


def test_yaml_is_read_in_three_places_and_by_the_safe_loader_only() -> None:
    for path in Path(strict_yaml.__file__).parents[1].rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith("yaml"), path.name
            elif isinstance(node, ast.Import):
                assert all(one.asname is None for one in node.names if one.name.startswith("yaml")), path.name
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "yaml":
                assert node.attr in READERS.get(path.name, ()) or HARMLESS.fullmatch(node.attr), path.name


def test_the_loader_makes_nothing_but_data() -> None:
    assert issubclass(strict_yaml._Loader, yaml.constructor.SafeConstructor)
