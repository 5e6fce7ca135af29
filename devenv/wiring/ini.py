"""Merge options into the text of an oslo.config file, and restore the text to the byte.

devenv reads by oslo.config's own rules (iniparser.py and _Namespace in cfg.py), so it finds the values that a service
gets. It remembers a change as the text before and the text after, and undoes the change where the text after still
stands, whatever has happened to the rest of the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from devenv.errors import ConfigError

Key = tuple[str, str]
Options = Mapping[Key, tuple[str, ...]]

# Control characters except tabs and line ends. oslo.config takes a lone CR for a line end; an editor shows none there.
_UNREADABLE = re.compile("\r(?!\n)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_UNWRITABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
# Empty lines and comments, or a line with those that continue it. Each is one object only: files can be large.
_TOKEN = re.compile(
    r"(?P<gap>(?>[^\S\n]*+\n|[#;][^\n]*\n)++)|(?P<line>[^\n]*\n)(?P<more>(?>[ \t][^\S\n]*+\S[^\n]*\n)*+)"
)
_HEADER = re.compile(r"^\[[^\n]*\n", re.MULTILINE)


@dataclass(frozen=True)
class Edit:
    """One change to a file: `before` stood where `after` stands now; "" is nothing.

    An edit without an option is the header of an appended section; a line end at its start is the empty line above.
    An edit without a section is the line end that the last line of the text, `before`, did not have.
    """

    section: str
    option: str
    before: str
    after: str


@dataclass(frozen=True)
class Merged:
    """A text after a merge, the edits that undo it, and notes for the user."""

    text: str
    edits: tuple[Edit, ...]
    notes: tuple[str, ...] = ()


def options(text: str, source: str) -> dict[Key, tuple[str, ...]]:
    """Return the values of every (section, option) in order, as oslo.config reads them, without expanding `$`.

    Raise ConfigError, with `source` and the line, for a line that oslo.config cannot read.
    """
    return _read(terminated(text)[0], source).values()


def merge(text: str, wanted: Options, edits: Sequence[Edit], source: str) -> Merged:
    """Return the text with the wanted options in effect and nothing else changed; `edits` are those of the last merge.

    Undo the edits of options that are not wanted any more, so no wanted options undo all. Raise ConfigError if
    oslo.config cannot read the text or a value, or the result would not hold.
    """
    wanted = {(_normal(section), option): values for (section, option), values in wanted.items() if values}
    _refuse_values(wanted, source)
    whole, line_end = terminated(text)
    layout = _read(whole, source, {option for _, option in wanted})
    draft = _Draft(whole, line_end, layout)
    groups: dict[Key, list[Edit]] = {}
    for edit in edits:
        if edit.section:
            groups.setdefault((edit.section, edit.option), []).append(edit)
    notes: list[str] = []
    kept = {key: _carry(draft, key, wanted.get(key, ()), mine, notes) for key, mine in groups.items()}
    # Kept options are in effect now. Undone ones may be: the user may have had the same value.
    missing = [key for key in wanted if not kept.get(key) and not _effective(draft.items(key), wanted[key])]
    kept |= {key: _set(draft, key, wanted[key]) for key in missing if key[0] in layout.headers}
    result = _drop_sections(draft.text(), kept)
    for section in dict.fromkeys(section for section, _ in missing if section not in layout.headers):
        result, fresh = _append_section(result, section, wanted, line_end)
        kept |= fresh
    result, left = ended(text, result, edits, [edit for group in kept.values() for edit in group])
    _verify(result, wanted, layout.values(), {*wanted, *groups}, source)
    return Merged(result, left, tuple(notes))


def terminated(text: str) -> tuple[str, str]:
    """Return the text with a line end after its last line, and the line end that the text uses."""
    line_end = "\r\n" if text.partition("\n")[0].endswith("\r") else "\n"
    if not text or text.endswith("\n"):
        return text, line_end
    # A carriage return that stood alone must not become one line end together with the new one.
    return text + ("\r\n" if text.endswith("\r") else line_end), line_end


def unterminated(text: str) -> str:
    """Return the text without the line end after its last line."""
    return text.removesuffix("\n").removesuffix("\r")


def ended(text: str, result: str, edits: Sequence[Edit], kept: Sequence[Edit]) -> tuple[str, tuple[Edit, ...]]:
    """Return the result of a merge without the last line end if the user's text has none, and the edits.

    The user's last line gets a line end when devenv writes below it, and loses it when it is the last one again.
    """
    end = next((edit for edit in edits if not edit.section), None)
    old, new = _last_line(text), _last_line(result)
    # The line as it is without devenv's edits.
    old = next((_last_line(edit.before) for edit in edits if edit.before and edit.after == old), old)
    new = next((_last_line(edit.before) for edit in kept if edit.before and edit.after == new), new)
    missing = bool(text) and not text.endswith("\n")
    cut = missing and old == new
    if missing and not cut:
        end = end or Edit("", "", old, "")
    if end and not cut and end.before == new and all(edit.after != new for edit in kept):
        cut, end = True, None
    return unterminated(result) if cut else result, (*kept, *([end] if end and kept else []))


def _last_line(text: str) -> str:
    return unterminated(text).rpartition("\n")[2]


# ---- reading -----------------------------------------------------------------------------------------------------


@dataclass
class _Layout:
    """The places of things in a text. A place is the offset of the line below."""

    found: dict[Key, list[tuple[int, int, str]]] = field(default_factory=dict)  # start, end and value
    headers: dict[str, int] = field(default_factory=dict)  # the place below a section's last header,
    assigned: dict[str, int] = field(default_factory=dict)  # below its last assignment,
    defaults: dict[Key, int] = field(default_factory=dict)  # and below the last comment that shows a default

    def values(self) -> dict[Key, tuple[str, ...]]:
        return {key: tuple([value for _, _, value in spans]) for key, spans in self.found.items()}


def _read(text: str, source: str, names: Iterable[str] = ()) -> _Layout:
    """Read a text whose lines all end. Look in comments for defaults of options with these names."""
    _refuse_unreadable(text, source)
    either = "|".join(map(re.escape, names))
    defaults = re.compile(rf"^[#;][#; \t]*({either})[ \t]*[=:][^\n]*\n", re.MULTILINE) if either else None
    layout, section = _Layout(), ""
    for token in _TOKEN.finditer(text):
        start, end = token.span()
        if token["gap"]:
            for comment in defaults.finditer(text, start, end) if defaults else ():
                layout.defaults[section, comment[1]] = comment.end()
            continue
        line, more = token["line"].rstrip(), token["more"]
        if line[0] in " \t" or (line[0] == "[" and more):
            raise _unreadable(text, token.start("line" if line[0] != "[" else "more"), source, "it continues no value")
        if line[0] == "[":
            if not line.endswith("]") or len(line) <= 2:
                raise _unreadable(text, start, source, "the section has no name, or no ']' at the end")
            section = _normal(line[1:-1])
            layout.headers[section] = end
            continue
        option, value, problem = _assignment(line)
        if problem or not section:
            raise _unreadable(text, start, source, problem or "it stands before any section")
        if more:
            value = "\n".join([value, *(line.strip() for line in more[:-1].split("\n"))])
        layout.found.setdefault((section, option), []).append((start, end, value))
        layout.assigned[section] = end
    return layout


def _assignment(line: str) -> tuple[str, str, str]:
    """Return option, value and a problem; the first '=' or ':' separates them."""
    equal, colon = line.find("="), line.find(":")
    place = equal if colon < 0 or 0 <= equal < colon else colon
    option, value = line[:place].strip(), line[place + 1 :].strip()
    if value and value[0] in "\"'" and value[0] == value[-1]:
        value = value[1:-1]
    if place < 0:
        return "", "", "it has neither '=' nor ':'"
    return option, value, "" if option else "it has no option in front of the value"


def _normal(section: str) -> str:
    """Return the section's name as oslo.config compares it: in lower case, but [DEFAULT] is not [default]."""
    return section if section == "DEFAULT" else section.lower()


def _refuse_unreadable(text: str, source: str) -> None:
    if text.startswith("\ufeff"):
        raise _unreadable(text, 0, source, "a byte order mark stands before it")
    if found := _UNREADABLE.search(text):
        what = "a carriage return that ends no line" if found[0] == "\r" else f"the control character {found[0]!r}"
        raise _unreadable(text, found.start(), source, f"it holds {what}")


def _unreadable(text: str, place: int, source: str, reason: str) -> ConfigError:
    return ConfigError(
        f"cannot merge into {source}:{text.count(chr(10), 0, place) + 1}: {reason}",
        hint="services cannot read that line either; correct it first",
    )


# ---- changing ----------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Item:
    """An assignment with the lines that continue it; its text is without the last line end."""

    start: int
    end: int
    text: str
    value: str


class _Draft:
    """A text and the changes to make to it."""

    def __init__(self, text: str, line_end: str, layout: _Layout) -> None:
        self.layout = layout
        self._text, self._line_end = text, line_end
        self._items: dict[Key, list[_Item]] = {}
        self._changes: dict[tuple[int, int], list[str]] = {}

    def items(self, key: Key) -> list[_Item]:
        """Return the occurrences of an option, without those that this draft inserts."""
        if key not in self._items:
            spans = self.layout.found.get(key, ())
            items = [_Item(start, end, unterminated(self._text[start:end]), value) for start, end, value in spans]
            self._items[key] = items
        return self._items[key]

    def replace(self, item: _Item, text: str, value: str) -> None:
        old = self._text[item.start : item.end]
        item.text, item.value = text, value
        self._changes[item.start, item.end] = [text + old.removeprefix(unterminated(old))]

    def remove(self, key: Key, item: _Item) -> None:
        self.items(key).remove(item)
        self._changes[item.start, item.end] = []

    def insert(self, place: int, key: Key, values: Iterable[str]) -> list[Edit]:
        edits = [Edit(*key, "", _line(key[1], value)) for value in values]
        self._changes.setdefault((place, place), []).extend(edit.after + self._line_end for edit in edits)
        return edits

    def text(self) -> str:
        parts, done = [], 0
        # At one place, insertions come before replacements.
        for (start, end), fresh in sorted(self._changes.items()):
            parts += [self._text[done:start], *fresh]
            done = end
        return "".join([*parts, self._text[done:]])


def _effective(items: Sequence[_Item], values: tuple[str, ...]) -> bool:
    """Return whether these are the last values: a single option takes the last one, a repeated one takes all."""
    return tuple(item.value for item in items[-len(values) :]) == values


def _carry(draft: _Draft, key: Key, values: tuple[str, ...], mine: list[Edit], notes: list[str]) -> list[Edit]:
    """Keep an option's old edits, give them new values in place, or undo them. Return the edits that stand."""
    items = draft.items(key)
    if not key[1] or (values and _effective(items, values)):
        return mine
    standing = _standing(items, mine)
    ours = [item for _, item in standing]
    if values and ours and items[-len(ours) :] == ours and not any(edit.before for edit, _ in standing):
        return _renew(draft, key, ours, values)
    for edit, item in standing:
        if edit.before:
            before = options(f"[x]\n{edit.before}", "the record")
            draft.replace(item, edit.before, next(iter(before.values()), ("",))[-1])
        else:
            draft.remove(key, item)
    gone = [edit for edit in mine if all(edit is not other for other, _ in standing)]
    if any(_was_changed(items, edit) for edit in gone):
        outcome = "devenv sets it again, and unwiring restores your value" if values else "it stays as it is"
        notes.append(f"[{key[0]}] {key[1]} was changed since: {outcome}")
    return []


def _standing(items: Sequence[_Item], edits: Sequence[Edit]) -> list[tuple[Edit, _Item]]:
    """Return the edits whose text still stands, each with its item, in the order of the items.

    devenv's lines were the last of their option, so the last ones among equal lines are devenv's.
    """
    left, pairs = list(items), []
    for edit in reversed(edits):
        item = next((item for item in reversed(left) if item.text == edit.after), None)
        if item:
            left.remove(item)
            pairs.append((edit, item))
    return sorted(pairs, key=lambda pair: pair[1].start)


def _was_changed(items: Sequence[_Item], edit: Edit) -> bool:
    """Return whether the user changed an option after the edit, if devenv's text does not stand any more."""
    return all(item.text != edit.before for item in items) if edit.before else bool(items)


def _renew(draft: _Draft, key: Key, ours: Sequence[_Item], values: tuple[str, ...]) -> list[Edit]:
    """Write other values in place of devenv's lines, which are the last of the option."""
    for item, value in zip(ours, values, strict=False):
        draft.replace(item, _line(key[1], value), value)
    for item in ours[len(values) :]:
        draft.remove(key, item)
    fresh = draft.insert(ours[-1].end, key, values[len(ours) :])
    return [*(Edit(*key, "", item.text) for item in ours[: len(values)]), *fresh]


def _set(draft: _Draft, key: Key, values: tuple[str, ...]) -> list[Edit]:
    """Write an option for which no edit stands into a section that exists."""
    items, layout = draft.items(key), draft.layout
    if items and len(values) == 1:
        before, after = items[-1].text, _line(key[1], values[0])
        draft.replace(items[-1], after, values[0])
        return [Edit(*key, before, after)]
    last = items[-1].end if items else layout.defaults.get(key)
    return draft.insert(last or layout.assigned.get(key[0]) or layout.headers[key[0]], key, values)


def _line(option: str, value: str) -> str:
    return f"{option} = {value}".rstrip()


# ---- devenv's own sections -----------------------------------------------------------------------------------------


def _append_section(text: str, section: str, wanted: Options, line_end: str) -> tuple[str, dict[Key, list[Edit]]]:
    """Append a section with its wanted options, below one empty line."""
    lines = ["", f"[{section}]"] if _last_line(text).strip() else [f"[{section}]"]
    edits = {(section, ""): [Edit(section, "", "", "\n".join(lines))]}
    for key, values in wanted.items():
        if key[0] == section:
            edits[key] = [Edit(*key, "", _line(key[1], value)) for value in values]
            lines += [edit.after for edit in edits[key]]
    return text + "".join(line + line_end for line in lines), edits


def _drop_sections(text: str, kept: dict[Key, list[Edit]]) -> str:
    """Remove devenv's headers of sections that are empty now."""
    in_use = {section for (section, option), edits in kept.items() if option and edits}
    for key in [key for key in kept if not key[1] and key[0] not in in_use]:
        for edit in kept.pop(key):
            text = _drop_section(text, edit)
    return text


def _drop_section(text: str, edit: Edit) -> str:
    name, below = edit.after.lstrip("\n"), len(text)
    for header in reversed(list(_HEADER.finditer(text))):
        if unterminated(header[0]) == name and not text[header.end() : below].strip():
            above = text[: header.start()]
            if edit.after != name and f"\n{above}".endswith(("\n\n", "\n\r\n")):
                above = unterminated(above)
            return above + text[header.end() :]
        below = header.start()
    return text


# ---- holding what is promised ------------------------------------------------------------------------------------


def _refuse_values(wanted: Options, source: str) -> None:
    for (section, option), values in wanted.items():
        for text, what in [(section, "section"), (option, "option"), *((value, "value") for value in values)]:
            if reason := _unwritable(text, what == "value"):
                raise ConfigError(
                    _UNWRITABLE.sub("?", f"cannot merge [{section}] {option} into {source}: its {what} {reason}"),
                    hint="oslo.config would read another value; change it",
                )


def _unwritable(text: str, is_value: bool) -> str:
    """Return why oslo.config would read this text as another one, or an empty string."""
    if _UNWRITABLE.search(text):
        return "holds a control character or a line end"
    if text != text.strip():
        return "begins or ends with a blank"
    if is_value and text and text[0] == text[-1] and text[0] in "\"'":
        return "is in quotes, which oslo.config removes"
    if is_value and "$" in text:
        return "holds a '$', which stands for another option"
    return ""


def _verify(text: str, wanted: Options, before: Options, ours: set[Key], source: str) -> None:
    """Read the result as a service will. Raise ConfigError unless it has the wanted options and no other change."""
    after = options(text, source)
    wrong = [key for key, values in wanted.items() if after.get(key, ())[-len(values) :] != values]
    wrong += [key for key in {**before, **after} if key not in ours and before.get(key) != after.get(key)]
    if wrong:
        names = ", ".join(f"[{section}] {option}" for section, option in wrong[:3])
        raise ConfigError(
            f"cannot merge into {source}: {names} would get another value",
            hint="set it by hand, or leave the file as it is and pass devenv's own as another --config-file",
        )
