"""Pass variables through tox, which hides all but a few from the commands that it runs.

tox 4 reads changes of its configuration from TOX_OVERRIDE. A change names a section and a key, spelled as in the
project's file: older versions take `pass_env` and `passenv` for two keys. An environment with a list of its own
ignores changes of the common list, so devenv changes every list in the file. tox finds the file in the working folder
or one above it, unless its option -c or TOX_CONFIG_FILE names one.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from configparser import Error, RawConfigParser
from pathlib import Path
from typing import Any

_VARIABLE = "TOX_OVERRIDE"
_SPELLINGS = ("pass_env", "passenv")
_COMMON = "testenv"
# A variable that gets a value, on a line that is no comment: "setenv = NAME=x", "  py3: NAME = x", "NAME = 'x'".
_SETS = r"^(?![ \t]*[#;])(?:.*[ \t={{,\"'])?({})[\"']?[ \t]*=(?!=)"
# Alternatives in the name of a section: [testenv:{py311,py312}-mysql].
_ALTERNATIVES = re.compile(r"\{([^{}]*)\}")


def passed_on(
    folder: Path, variables: Mapping[str, str], environ: Mapping[str, str], command: Sequence[str] = ()
) -> dict[str, str]:
    """Return the variables, with TOX_OVERRIDE if tox would have a configuration when `command` runs in `folder`.

    It keeps what TOX_OVERRIDE in `environ` changes. If tox cannot read its configuration, it reports that itself.
    """
    names = ",".join(variables)
    changes = [f"{key}+={names}" for key in _configuration(folder, environ, command)[1]]
    given = [environ[_VARIABLE]] if environ.get(_VARIABLE) else []
    return {**variables, _VARIABLE: ";".join([*given, *changes])} if changes else dict(variables)


def hidden(command: Sequence[str], folder: Path, names: Collection[str], environ: Mapping[str, str]) -> list[str]:
    """Return a line for each variable that tests do not get, since the project's file sets it for tox itself."""
    if not names or not any(map(_is_tox, command)):
        return []
    file, _ = _configuration(folder, environ, command)
    if not file:
        return []
    sets = re.compile(_SETS.format("|".join(map(re.escape, names))), re.MULTILINE)
    advice = "run them without tox, or remove that line"
    return [
        f"{file.name} sets {name} itself, and so hides devenv's from the tests; {advice}"
        for name in dict.fromkeys(sets.findall(file.read_text(errors="replace")))
    ]


def _configuration(folder: Path, environ: Mapping[str, str], command: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Return the file that tox uses, and its lists of variables as "SECTION.KEY", the common one first."""
    readers = {"tox.ini": _ini, "setup.cfg": _setup_cfg, "pyproject.toml": _pyproject, "tox.toml": _tox_toml}
    given = _option(command) or environ.get("TOX_CONFIG_FILE")
    places = [folder / given] if given else [folder, *folder.parents]
    files = [file for place in places for file in ([place / name for name in readers] if place.is_dir() else [place])]
    for file in files:
        try:
            # A file of another name can only be an INI file.
            found = readers.get(file.name, _ini)(file.read_text())
        except (OSError, ValueError):
            continue
        if found:
            return file, found
    return None, []


def _option(command: Sequence[str]) -> str:
    """Return the file or folder that tox's option -c or --conf names in the command, or an empty string."""
    words = [*itertools.takewhile(lambda word: word != "--", itertools.dropwhile(lambda w: not _is_tox(w), command))]
    for word, following in itertools.pairwise([*words, ""]):
        if found := re.match(r"(?:--conf|-c)(?:=|\Z)|-c", word):
            return word[found.end() :] or following
    return ""


def _is_tox(word: str) -> bool:
    return Path(word).name == "tox"


def _ini(text: str) -> list[str]:
    parser = RawConfigParser(strict=False)
    try:
        parser.read_string(text)
    except Error as error:
        raise ValueError(str(error)) from error
    spelled = {section: key for section in parser.sections() for key in _SPELLINGS if key in parser[section]}
    common = spelled.pop(_COMMON, _SPELLINGS[0])
    own = [f"{name}.{key}" for section, key in spelled.items() for name in _alternatives(section)]
    return [f"{_COMMON}.{common}", *own]


def _setup_cfg(text: str) -> list[str]:
    return _ini(text) if re.search(r"^\[(tox:tox|testenv)\b", text, re.MULTILINE) else []


def _pyproject(text: str) -> list[str]:
    tables = _toml(text).get("tool", {}).get("tox", {})
    if ini := tables.get("legacy_tox_ini"):
        return _ini(ini)
    return _in_tables(tables, "tool.tox.") if tables else []


def _tox_toml(text: str) -> list[str]:
    return _in_tables(_toml(text), "")


def _toml(text: str) -> dict[str, Any]:
    import tomllib

    return tomllib.loads(text)


def _in_tables(tables: Mapping[str, Any], prefix: str) -> list[str]:
    key = _SPELLINGS[0]
    own = [f"{prefix}env.{name}.{key}" for name, table in tables.get("env", {}).items() if key in table]
    return [f"{prefix}env_run_base.{key}", *own]


def _alternatives(section: str) -> Iterator[str]:
    """Yield the names that a section stands for: "testenv:{a,b}-x" stands for "testenv:a-x" and "testenv:b-x"."""
    # Every second piece stood between braces.
    pieces = _ALTERNATIVES.split(section)
    choices = [piece.split(",") if number % 2 else [piece] for number, piece in enumerate(pieces)]
    for chosen in itertools.product(*choices):
        yield "".join(chosen)
