"""Read strict YAML: a mapping with string keys, no tags, no duplicate keys, no alias bomb, and lines for errors.

The parser knows YAML 1.1, in which 023771 is 10233, 33:06 is 1986, yes is true and 1.50 is 1.5. A scalar that does not
look like what it means there is `Written`: its text for a key that takes text, an error for one that takes a number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import voluptuous
import yaml

from devenv.errors import ConfigError
from devenv.names import did_you_mean

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_YAML = "tag:yaml.org,2002:"
_MERGE = f"{_YAML}merge"
# Plain words that the parser takes for something that no key here is.
_WORDS = {_MERGE, f"{_YAML}timestamp", f"{_YAML}value"}
_PLAIN = {f"{_YAML}{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null")} | _WORDS
# A devenv file is a page or two. More is a mistake or an attack.
_MOST_BYTES = 256 * 1024
_MOST_NODES = 10_000
_MOST_DEPTH = 30
# The beginning of an error about a key that the schema does not know. A schema's own check may use it, too.
UNKNOWN = "unknown key"


class Written(str):
    """The text of a scalar that YAML 1.1 reads as something else, its `meaning`."""

    meaning: Any

    def __new__(cls, text: str, meaning: Any) -> Written:
        written = super().__new__(cls, text)
        written.meaning = meaning
        return written

    def __deepcopy__(self, _: Any) -> Written:
        return self


Key = tuple[str | int, ...]
Contradictions = Callable[[Mapping[str, Any]], Iterable[tuple[Key, str]]]


def content(path: Path) -> bytes:
    """Return the file's bytes. Raise ConfigError if devenv cannot read it, or it is larger than any such file."""
    try:
        with path.open("rb") as stream:
            raw = stream.read(_MOST_BYTES + 1)
    except OSError as error:
        raise _unreadable(path, error.strerror) from error
    if len(raw) > _MOST_BYTES:
        raise _too_large(path)
    return raw


def read(
    path: Path,
    schema: voluptuous.Schema,
    contradictions: Contradictions | None = None,
    raw: bytes | None = None,
) -> dict[str, Any]:
    """Return the file's data, checked against the schema and then for what a schema cannot see.

    `raw` is the file's `content`, if the caller has read it already. Raise ConfigError with every error of the file,
    each as "file:line: key: what is wrong".
    """
    try:
        text = (content(path) if raw is None else raw).decode("utf-8")
    except UnicodeDecodeError as error:
        raise _unreadable(path, "it is not UTF-8 text") from error
    return understood(text, path, schema, contradictions)


def understood(
    text: str, path: Path, schema: voluptuous.Schema, contradictions: Contradictions | None = None
) -> dict[str, Any]:
    """Return the checked data of a text that the caller has read from this file (see `read`)."""
    known, lines, found = _data(text, path)
    data, problems = deepcopy(known), list(found)
    if not isinstance(data, dict):
        problems.append(f"{path}:1: the file holds a {_kind(data)}, not a mapping")
    elif not problems:
        try:
            checked: dict[str, Any] = schema(data)
            told = [(_line(key, lines), f"{_dotted(key)}{what}") for key, what in (contradictions or _none)(checked)]
            problems += [f"{path}:{line}: {text}" for line, text in sorted(told)]
            if not problems:
                checked = _as_text(checked)
                return checked
        except voluptuous.MultipleInvalid as error:
            worded = [_worded(invalid, lines, schema) for invalid in error.errors]
            problems += [f"{path}:{line}: {text}" for line, text in sorted(worded)]
    raise ConfigError(
        f"cannot use {path}: {len(problems)} error{'s' if len(problems) > 1 else ''}",
        hint="'devenv help reference' lists the keys",
        detail=problems,
    )


def _unreadable(path: Path, reason: str | None) -> ConfigError:
    return ConfigError(f"cannot read {path}: {reason}", hint="check the path and its permissions")


def _too_large(path: Path) -> ConfigError:
    return ConfigError(f"cannot use {path}: its bytes are more than the {_MOST_BYTES} allowed", hint="shorten it")


@lru_cache(maxsize=64)  # Parsing takes most of the time of reading, and a process reads the same services many times.
def _data(text: str, path: Path) -> tuple[Any, Mapping[Key, int], Iterable[str]]:
    """Return the data of the text, the lines of its keys, and what is wrong with it. Nobody may change the data."""
    problems: list[str] = []
    lines: dict[Key, int] = {}
    data = _plain(_parse(text, path), (), lines, problems, path, iter(range(_MOST_NODES)))
    return data, lines, problems


def _parse(text: str, path: Path) -> yaml.Node:
    if len(text.encode()) > _MOST_BYTES:
        raise _too_large(path)
    try:
        _check_depth(text, path)
        root: yaml.Node | None = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"cannot use {where}: {problem}", hint="this is not valid YAML") from error
    empty = root is None or (isinstance(root, yaml.ScalarNode) and root.tag.endswith(":null") and not root.value)
    return yaml.MappingNode("tag:yaml.org,2002:map", []) if empty or root is None else root


def _check_depth(text: str, path: Path) -> None:
    """Raise ConfigError for deep nesting. Composing is recursive, in C, and would end the process; parsing is not."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MOST_DEPTH + 1:
            line = event.start_mark.line + 1 if event.start_mark else 1
            raise ConfigError(f"cannot use {path}:{line}: nested deeper than {_MOST_DEPTH}", hint="shorten it")


def _plain(
    node: yaml.Node, key: Key, lines: dict[Key, int], problems: list[str], path: Path, budget: Iterator[int]
) -> Any:
    """Return the node as plain data. It follows aliases, so it bounds the number of nodes."""
    line = node.start_mark.line + 1 if node.start_mark else 1
    lines.setdefault(key, line)
    if next(budget, None) is None or len(key) > _MOST_DEPTH:
        problem = f"{path}:1: more than {_MOST_NODES} nodes, or nested deeper than {_MOST_DEPTH} (aliases?)"
        if problem not in problems:
            problems.append(problem)
        return None
    if node.tag not in _PLAIN:
        problems.append(f"{path}:{line}: {_dotted(key)}tag {node.tag} is not allowed: quote the value")
        return None
    kind = "seq" if isinstance(node, yaml.SequenceNode) else "map" if isinstance(node, yaml.MappingNode) else ""
    tagged = node.tag.rpartition(":")[2]
    if tagged != kind if kind else tagged in ("seq", "map"):
        problems.append(f"{path}:{line}: {_dotted(key)}the tag says {tagged}, which the value is not")
        return None
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*key, i), lines, problems, path, budget) for i, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, key, lines, problems, path, budget)
    try:
        return _scalar(node.value, node)
    except (ValueError, LookupError, yaml.YAMLError):
        problems.append(f"{path}:{line}: {_dotted(key)}not a valid {tagged}: quote the value")
        return None


def _scalar(text: str, node: yaml.Node) -> Any:
    """Return the value of a scalar: its text, if it does not look like what YAML 1.1 reads."""
    if node.tag == f"{_YAML}str":
        return text
    if node.tag in _WORDS:
        return Written(text, text)
    meaning = yaml.SafeLoader("").construct_object(node)
    return meaning if meaning is None or text == _shown(meaning) else Written(text, meaning)


def _as_text(data: Any) -> Any:
    """Return checked data in which what is written is plain text, which other code can write and compare."""
    if isinstance(data, dict):
        return {key: _as_text(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_as_text(value) for value in data]
    return str(data) if isinstance(data, Written) else data


def _mapping(
    node: yaml.MappingNode, key: Key, lines: dict[Key, int], problems: list[str], path: Path, budget: Iterator[int]
) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name_node, value_node in node.value:
        line = name_node.start_mark.line + 1
        name = name_node.value
        if name_node.tag == _MERGE:
            problems.append(f"{path}:{line}: {_dotted(key)}merge keys (<<) are not taken: write the keys themselves")
        elif not isinstance(name, str) or name_node.tag not in _PLAIN:
            problems.append(f"{path}:{line}: {_dotted(key)}a key must be a plain string")
        elif name in result:
            problems.append(f"{path}:{line}: {_dotted((*key, name))}duplicate key")
        else:
            lines[(*key, name)] = line
            result[name] = _plain(value_node, (*key, name), lines, problems, path, budget)
    return result


def _worded(invalid: voluptuous.Invalid, lines: Mapping[Key, int], schema: voluptuous.Schema) -> tuple[int, str]:
    key: Key = tuple(part if isinstance(part, int) else str(part) for part in invalid.path)
    # The schema library speaks of Python's types, devenv of YAML's.
    what = {"extra keys not allowed": UNKNOWN, "expected a dictionary": "expected a mapping"}.get(
        invalid.msg, invalid.msg
    )
    if what.startswith(UNKNOWN) and key and (meant := did_you_mean(str(key[-1]), _known_keys(schema, key[:-1]))):
        what = f"{what}; {meant}"
    return _line(key, lines), f"{_dotted(key)}{what}"


def _known_keys(schema: Any, key: Sequence[str | int]) -> list[str]:
    """Return the keys that a schema knows below a key."""
    for part in key:
        schema = _inside(schema)
        if isinstance(schema, dict):
            named = [value for marker, value in schema.items() if str(marker) == str(part)]
            others = [value for marker, value in schema.items() if not _is_word(marker)]
            schema = next(iter(named + others), None)
        else:
            schema = schema[0] if schema else None
    found = _inside(schema)
    return [str(marker) for marker in found if _is_word(marker)] if isinstance(found, dict) else []


def _inside(schema: Any) -> Any:
    """Return the mapping or list that a part of a schema checks, if it is one."""
    found = getattr(schema, "inside", getattr(schema, "schema", schema))
    return found if isinstance(found, dict | list) else None


def _is_word(marker: Any) -> bool:
    return isinstance(getattr(marker, "schema", marker), str)


def _none(_: Mapping[str, Any]) -> Iterable[tuple[Key, str]]:
    return ()


def _line(key: Key, lines: Mapping[Key, int]) -> int:
    """Return the line of the key, or of the nearest one above it that stands in the file."""
    while key and key not in lines:
        key = key[:-1]
    return lines.get(key, 1)


def _dotted(key: Key) -> str:
    return ".".join(str(part) for part in key) + ": " if key else ""


# ---- types for schemas -------------------------------------------------------------------------------------------


def text(value: Any) -> str:
    """Accept a scalar as it is written."""
    if not isinstance(value, str | int | float):
        raise voluptuous.Invalid("expected text")
    return _shown(value)


def integer(value: Any) -> int:
    """Accept a number in plain digits, but not true or false, which Python takes for 1 and 0."""
    if isinstance(value, Written) and value.meaning != value:
        raise voluptuous.Invalid(f"expected int in plain digits: YAML 1.1 reads {value} as {_shown(value.meaning)}")
    if isinstance(value, str):
        raise voluptuous.Invalid(f"expected int, and {value[:40]!r} is text")
    if isinstance(value, bool) or not isinstance(value, int):
        raise voluptuous.Invalid("expected int")
    return value


def flag(value: Any) -> bool:
    """Accept true or false, also as the words of YAML 1.1: yes and no, on and off."""
    value = switched(value)
    if not isinstance(value, bool):
        raise voluptuous.Invalid("expected true or false")
    return value


def each_once(item: Any) -> Callable[[Any], list[Any]]:
    """Return the type of a list in which no value stands twice."""
    schema = voluptuous.Schema([item])

    def check(value: Any) -> list[Any]:
        found: list[Any] = schema(value)
        if twice := [(i, one) for i, one in enumerate(found) if one in found[:i]]:
            raise voluptuous.MultipleInvalid(
                [voluptuous.Invalid(f"{one!r} is named twice", path=[i]) for i, one in twice]
            )
        return found

    return check


def switched(value: Any) -> Any:
    """Return true or false for a word of YAML 1.1 that means it, and any other value as it is."""
    return value.meaning if isinstance(value, Written) and isinstance(value.meaning, bool) else value


def _shown(meaning: Any) -> str:
    """Return a value as people write it."""
    return str(meaning).lower() if isinstance(meaning, bool) else str(meaning)


def _kind(data: Any) -> str:
    return {list: "list", str: "string", Written: "string", type(None): "nothing"}.get(type(data), type(data).__name__)
