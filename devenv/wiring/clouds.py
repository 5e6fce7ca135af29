"""Merge clouds into the text of a clouds.yaml, and restore the text to the byte.

A YAML library that writes the text would lose comments and order. So devenv inserts and removes blocks of lines, at the
places that the parser reports. Only the safe loader constructs data.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import yaml

from devenv.errors import ConfigError
from devenv.wiring.ini import Edit, Merged, ended, terminated, unterminated

_KEY = "clouds"
# A file of clouds is a page or two, and the parser that reports offsets reads only some 50 KB a second.
_MOST_CHARACTERS = 256 * 1024
_MOST_KEYS = 10_000
# The safe loader raises these for a scalar that does not fit its tag, and for too deep a nesting.
_UNREADABLE = (yaml.YAMLError, ValueError, ArithmeticError, LookupError, AttributeError, TypeError, RecursionError)
_BY_HAND = "add it by hand, or set OS_CLIENT_CONFIG_FILE to devenv's own clouds.yaml, which needs no edit"

# The indentation of devenv's blocks if the file shows no other one.
_STEP = 2

# A key and its value.
Entry = tuple[yaml.Node, yaml.Node]


def merge_clouds(text: str, clouds: str, edits: Sequence[Edit], source: str) -> Merged:
    """Return the text with the clouds of another text, and nothing else changed; `edits` are those of the last merge.

    Remove clouds that are not wanted any more, so no wanted clouds undo all. Raise ConfigError for a text that devenv
    cannot read or extend, or that has a cloud of the user's with that name.
    """
    wanted = _read(clouds, "devenv's clouds").clouds
    whole, line_end = terminated(text)
    before = _read(whole, source)
    result, kept, notes = _carry(before, wanted, edits, line_end)
    missing = {name: data for name, data in wanted.items() if name not in before.clouds}
    places = [edit for edit in edits if edit.section and not edit.option]
    if missing:
        result, place, fresh = _insert(_read(result, source), missing, line_end)
        places, kept = [*places, *place], [*kept, *fresh]
    if not kept:
        for edit in reversed(places):
            result = _restore_key(_read(result, source), edit)
        places = []
    result, left = ended(text, result, edits, [*places, *kept])
    _verify(_read(text, source), result, wanted, {*wanted, *(edit.option for edit in edits)})
    return Merged(result, left, tuple(notes))


# ---- reading -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layout:
    """A text with its nodes, and the clouds in it as a client reads them."""

    text: str
    source: str
    root: yaml.Node | None
    clouds: Mapping[str, Any]

    @property
    def pairs(self) -> list[Entry]:
        """Return keys and values at the top."""
        return _pairs(self.root)

    @property
    def at(self) -> Entry | None:
        """Return the key under which clouds stand, and its value."""
        return next((pair for pair in self.pairs if pair[0].value == _KEY), None)

    def standing(self, edit: Edit) -> tuple[int, int] | None:
        """Return where the lines of devenv's cloud begin and end, if they stand as devenv wrote them."""
        ours = _pairs(yaml.compose(edit.after, Loader=yaml.SafeLoader))
        for key, value in _pairs(self.at[1] if self.at else None):
            start = _line_start(self.text, key)
            end = _line_end(self.text, start + len(edit.after))
            if unterminated(self.text[start:end]) == edit.after and _same([(key, value)], ours):
                return start, end
        return None

    def refusal(self, reason: str, hint: str = _BY_HAND) -> ConfigError:
        return ConfigError(f"cannot merge into {self.source}: {reason}", hint=hint)


@lru_cache(maxsize=8)  # One merge reads the same text two or three times, and the next merge reads its result.
def _read(text: str, source: str) -> _Layout:
    if len(text) > _MOST_CHARACTERS:
        raise ConfigError(f"cannot merge into {source}: it is longer than {_MOST_CHARACTERS} characters", hint=_BY_HAND)
    try:
        root: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
        _count_keys(root, source, {})
        data = _constructed(text, root)
    except _UNREADABLE as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}:{mark.line + 1}" if mark else source
        reason = getattr(error, "problem", None) or getattr(error, "reason", None) or "it is not valid YAML"
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else reason
        raise ConfigError(f"cannot merge into {where}: {reason}", hint="clients cannot read it either") from error
    clouds = data.get(_KEY) if isinstance(data, dict) else None
    return _Layout(text, source, root, clouds if isinstance(clouds, dict) else {})


def _constructed(text: str, root: yaml.Node | None) -> Any:
    """Return what the text stands for; parse it once more only where constructing would change the nodes.

    PyYAML puts what merge keys (<<) bring into the nodes, and gives the key = another tag.
    """
    if root is None or "<<" in text or "=" in text or "!" in text:
        return yaml.safe_load(text)
    return yaml.SafeLoader("").construct_document(root)


def _count_keys(node: yaml.Node | None, source: str, known: dict[int, int]) -> int:
    """Return the number of keys in a mapping, or in a list of some, each as often as merge keys (<<) bring it.

    Raise ConfigError for a key that stands twice, and for merge keys that multiply: some parsers copy all they bring.
    """
    if not isinstance(node, yaml.CollectionNode) or id(node) in known:
        return known.get(id(node), 0)
    known[id(node)] = 0  # A value while it counts a node that contains itself.
    if isinstance(node, yaml.SequenceNode):
        found = sum(_count_keys(item, source, known) for item in node.value)
    else:
        _refuse_twice(node.value, source)
        inside = [(key.tag, _count_keys(value, source, known)) for key, value in node.value]
        found = sum(brought if tag == "tag:yaml.org,2002:merge" else 1 for tag, brought in inside)
        if found > _MOST_KEYS:
            reason = f"its merge keys (<<) make more than {_MOST_KEYS} keys"
            raise ConfigError(f"cannot merge into {source}: {reason}", hint=_BY_HAND)
    known[id(node)] = found
    return found


def _refuse_twice(pairs: Sequence[Entry], source: str) -> None:
    seen = set()
    for key, _ in pairs:
        if isinstance(key, yaml.ScalarNode):
            if (key.tag, key.value) in seen:
                where = f"{source}:{key.start_mark.line + 1}"
                reason = f"it has the key {key.value!r} twice"
                raise ConfigError(f"cannot merge into {where}: {reason}", hint="write one only: clients read the last")
            seen.add((key.tag, key.value))


def _pairs(node: yaml.Node | None) -> list[Entry]:
    return list(node.value) if isinstance(node, yaml.MappingNode) else []


def _line_start(text: str, node: yaml.Node) -> int:
    return text.rfind("\n", 0, node.start_mark.index) + 1


def _line_end(text: str, place: int) -> int:
    """Return where the line below begins, in a text whose lines all end."""
    return text.find("\n", place) + 1


def _same(before: Sequence[Entry], after: Sequence[Entry]) -> bool:
    """Return whether nodes mean the same, tags included. Aliases can make them a graph, so compare no pair twice."""
    todo: list[tuple[Any, Any]] = [(list(before), list(after))]
    seen = set()
    while todo:
        one, other = todo.pop()
        if isinstance(one, yaml.Node) and isinstance(other, yaml.Node):
            if one.tag != other.tag:
                return False
            if (id(one), id(other)) not in seen:
                seen.add((id(one), id(other)))
                todo.append((one.value, other.value))
        elif isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
            if len(one) != len(other):
                return False
            todo.extend(zip(one, other, strict=True))
        elif one != other:
            return False
    return True


# ---- changing ----------------------------------------------------------------------------------------------------


def _carry(
    before: _Layout, wanted: Mapping[str, Any], edits: Sequence[Edit], line_end: str
) -> tuple[str, list[Edit], list[str]]:
    """Keep devenv's old clouds, replace them in place or remove them. Return the text, the edits kept, and notes.

    Raise ConfigError for a wanted cloud that the user has under the same name.
    """
    kept: list[Edit] = []
    notes: list[str] = []
    changes: list[tuple[int, int, str]] = []
    for name in dict.fromkeys([*(edit.option for edit in edits if edit.option), *wanted]):
        mine = [edit for edit in edits if edit.option == name]
        standing = next(((edit, *span) for edit in mine if (span := before.standing(edit))), None)
        if name in wanted and name in before.clouds and before.clouds[name] == wanted[name]:
            kept += [standing[0]] if standing else mine
        elif standing and name in wanted:
            edit, start, end = standing
            column = len(edit.after) - len(edit.after.lstrip(" "))
            kept.append(Edit(_KEY, name, "", _block(name, wanted[name], column, line_end)))
            changes.append((start, end, kept[-1].after + line_end))
        elif standing:
            changes.append((*standing[1:], ""))
        elif name in before.clouds and name in wanted:
            raise ConfigError(
                f"cannot merge cloud {name!r} into {before.source}: it has another one of that name",
                hint="rename or remove that one; or set OS_CLIENT_CONFIG_FILE to devenv's own clouds.yaml",
            )
        elif name in before.clouds:
            notes.append(f"cloud {name!r} was changed since: it stays as it is")
    text = before.text
    for start, end, block in sorted(changes, reverse=True):
        text = text[:start] + block + text[end:]
    return text, kept, notes


def _insert(layout: _Layout, fresh: Mapping[str, Any], line_end: str) -> tuple[str, list[Edit], list[Edit]]:
    """Insert clouds right below the key. Return the text, the edit of the key, if any, and the clouds' edits."""
    text, place, below, column = _open(layout, line_end)
    edits = [Edit(_KEY, name, "", _block(name, data, column, line_end)) for name, data in fresh.items()]
    blocks = "".join(edit.after + line_end for edit in edits)
    return text[:below] + blocks + text[below:], place, edits


def _open(layout: _Layout, line_end: str) -> tuple[str, list[Edit], int, int]:
    """Make the key take a block. Return the text, the edit of the key, if any, and the block's place and column."""
    text, root = layout.text, layout.root
    if layout.at is None:
        if not (_is_empty(root) or (isinstance(root, yaml.MappingNode) and not root.flow_style)):
            raise layout.refusal("it is not written as a block", "write it as a block, one key a line")
        column = root.start_mark.column if isinstance(root, yaml.MappingNode) else 0
        line = " " * column + f"{_KEY}:"
        text += line + line_end
        return text, [Edit(_KEY, "", "", line)], len(text), column + _STEP
    key, value = layout.at
    start, colon, end = key.start_mark.index, text.index(":", key.end_mark.index) + 1, value.end_mark.index
    is_alias = value.start_mark.index < start
    if isinstance(value, yaml.MappingNode) and not value.flow_style and not is_alias:
        return text, [], _line_end(text, colon), value.value[0][0].start_mark.column
    if is_alias or not (_is_null(value) or value.value == []) or isinstance(value, yaml.SequenceNode):
        raise layout.refusal(f"its '{_KEY}' are not written as a block", "write them as a block, one key a line")
    before, after = text[start:end], text[start:colon]
    place = [Edit(_KEY, "", before, after)] if before != after else []
    text = text[:start] + after + text[end:]
    return text, place, _line_end(text, start + len(after)), key.start_mark.column + _STEP


def _restore_key(layout: _Layout, edit: Edit) -> str:
    """Return the text with the key as it was, if no cloud stands below it."""
    text = layout.text
    if layout.at is None or not _is_empty(layout.at[1]):
        return text
    start, end = layout.at[0].start_mark.index, text.index(":", layout.at[0].end_mark.index) + 1
    if not edit.before:
        start = _line_start(text, layout.at[0])
        end = _line_end(text, end)
        return text[:start] + text[end:] if unterminated(text[start:end]) == edit.after else text
    return text[:start] + edit.before + text[end:] if text[start:end] == edit.after else text


def _is_null(node: yaml.Node | None) -> bool:
    return node is None or (isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null")


def _is_empty(node: yaml.Node | None) -> bool:
    """Return whether the text has no value there."""
    return node is None or (_is_null(node) and node.start_mark.index == node.end_mark.index)


def _block(name: str, data: Any, column: int, line_end: str) -> str:
    """Return the lines of a cloud at a column, without the last line end."""
    # The width keeps long values on one line.
    dumped = yaml.safe_dump({name: data}, sort_keys=False, allow_unicode=True, width=2**20)
    return textwrap.indent(dumped.removesuffix("\n"), " " * column).replace("\n", line_end)


def _verify(before: _Layout, text: str, wanted: Mapping[str, Any], ours: Collection[str]) -> None:
    """Read the result as a client will. Raise ConfigError unless it has the wanted clouds and no other change."""
    try:
        after = _read(text, before.source)
    except ConfigError as error:
        raise before.refusal("the result could not be read") from error
    # The names too: a cloud that comes by a merge key (<<) has no node of its own.
    same = _same(_others(before, ours), _others(after, ours)) and not ({*before.clouds} ^ {*after.clouds}) - {*ours}
    if not same or any(after.clouds.get(name) != data for name, data in wanted.items()):
        raise before.refusal("the result would have another meaning")


def _others(layout: _Layout, ours: Collection[str]) -> list[Entry]:
    """Return the user's clouds, and everything that is not a cloud."""
    others = [pair for pair in layout.pairs if pair[0].value != _KEY]
    clouds = _pairs(layout.at[1]) if layout.at else []
    return others + [(key, value) for key, value in clouds if not (isinstance(key.value, str) and key.value in ours)]
