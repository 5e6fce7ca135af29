"""Check what must hold of devenv's and the user's files whatever went wrong before: yield a line for each failure."""

from __future__ import annotations

import json
import shlex
import stat
from collections.abc import Callable, Iterator, Mapping
from configparser import ConfigParser, Error
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml
from dotenv.parser import parse_stream

from tests.integration.project import Project

# Files only for locks: they hold a process's number or nothing.
_LOCKS = ("lock", "users")
# The ending of a file's name until it replaces another one.
_NEW = ".new"

# ---- the user's ------------------------------------------------------------------------------------------------------

OWN_FILE = "nova.conf"
OWN_TEXT = """\
[DEFAULT]
# Mine, and they stay as they are.
debug = true

[database]
connection = sqlite:///nova.sqlite
max_retries = -1
"""
_OWN_MODE = 0o640
# Lines that devenv may change.
_SET = ("connection = ",)


def put_own(project: Project) -> None:
    path = project.folder / OWN_FILE
    path.write_text(OWN_TEXT)
    path.chmod(_OWN_MODE)


def own_lines(project: Project) -> Iterator[str]:
    """Check that the user's lines are there, in their order, whether devenv's options are in the file or not."""
    path = project.folder / OWN_FILE
    left = iter(path.read_text().splitlines())
    missing = [line for line in OWN_TEXT.splitlines() if not line.startswith(_SET) and line not in left]
    yield from (f"{path.name} lost {line!r}, or its place" for line in missing)
    if stat.S_IMODE(path.stat().st_mode) != _OWN_MODE:
        yield f"{path.name} has another mode"


def own_options(project: Project, wired: bool) -> Iterator[str]:
    """Check that the user's file holds devenv's options if it is `wired`, else exactly what the user wrote."""
    text = (project.folder / OWN_FILE).read_text()
    if wired and OWN_TEXT.splitlines()[5] in text:
        yield f"{OWN_FILE} is not wired"
    if not wired and text != OWN_TEXT:
        yield f"{OWN_FILE} is not what it was: {text}"


# ---- devenv's --------------------------------------------------------------------------------------------------------


def whole(project: Project, identity: str) -> Iterator[str]:
    """Check that every file can be read as what it is, and that others can read no file or folder of devenv."""
    for path in _all(project, identity):
        if path.name not in _LOCKS and stat.S_IMODE(path.stat().st_mode) & 0o077:
            yield f"others can read {path}"
    for path in (*_files(project, identity), project.folder / OWN_FILE, project.state / "wired.json"):
        if path.exists():
            try:
                said(path)
            except (ValueError, Error, yaml.YAMLError) as error:
                yield f"{path.name} is half-written: {error}"
    yield from own_lines(project)


def no_leftovers(project: Project, identity: str) -> Iterator[str]:
    """Check that no file is left that was to replace another one."""
    found = (*_all(project, identity), *project.folder.iterdir())
    yield from (f"{path} was left" for path in found if path.name.endswith(_NEW))


def credentials(project: Project, identity: str) -> Iterator[str]:
    """Check that every password in a file belongs to its reader: a component, or the environment."""
    folder = project.folder / ".devenv"
    secrets = json.loads((state_of(project, identity) / "secrets.json").read_text())
    components = [path.stem for path in folder.glob("*.env")]
    known = {name: {v for k, v in secrets.items() if k.endswith(f"/{name}")} for name in components}
    known[""] = {v for k, v in secrets.items() if "/" not in k}
    for path in filter(Path.is_file, (*folder.rglob("*"), project.folder / OWN_FILE)):
        for what, password in passwords(said(path)):
            # In clouds.yaml each component has a cloud; any other file belongs to one component or none.
            who = next((name for name in components if name in (path.name.partition(".")[0], *what[:-1])), "")
            if password not in known[who]:
                yield f"{path.name}: {'.'.join(what)} is no password of {who or 'the environment'}"


def state_of(project: Project, identity: str) -> Path:
    return project.state / "environments" / identity


def _all(project: Project, identity: str) -> Iterator[Path]:
    for folder in (project.folder / ".devenv", state_of(project, identity)):
        if folder.exists():
            yield folder
            yield from folder.rglob("*")


def _files(project: Project, identity: str) -> Iterator[Path]:
    for path in _all(project, identity):
        if path.is_file() and path.name not in _LOCKS and not path.name.endswith(_NEW):
            yield path


# ---- what a file says ------------------------------------------------------------------------------------------------

# A value, and the names that lead to it.
Said = list[tuple[tuple[str, ...], str]]


def said(path: Path) -> Said:
    """Return all values of a file. Raises ValueError or the parser's own error if it is only a part of one."""
    text = path.read_text()
    if text and not text.endswith("\n"):
        raise ValueError("it ends in the middle of a line")
    kind = path.suffix or path.name
    if kind not in _READERS:
        raise ValueError("nobody knows how to read it")
    return list(_leaves(_READERS[kind](text)))


def passwords(found: Said) -> Iterator[tuple[tuple[str, ...], str]]:
    for what, value in found:
        if what[-1].lower().endswith("password"):
            yield what, value
        elif "://" in value and (password := urlsplit(value).password):
            yield what, unquote(password)


def _ini(text: str) -> Mapping[str, Mapping[str, str]]:
    # oslo.config, too, accepts an option more than once.
    parser = ConfigParser(strict=False, interpolation=None, default_section="")
    parser.read_string(text)
    return {name: dict(section) for name, section in parser.items()}


def _dotenv(text: str) -> Mapping[str, str]:
    bindings = list(parse_stream(StringIO(text)))
    if wrong := [one.original.string for one in bindings if one.error]:
        raise ValueError(f"no such line belongs there: {wrong[0]!r}")
    return {one.key: one.value or "" for one in bindings if one.key}


def _shell(text: str) -> Mapping[str, str]:
    return dict(word.split("=", 1) for word in shlex.split(text, comments=True) if "=" in word)


_READERS: Mapping[str, Callable[[str], Any]] = {
    ".json": json.loads,
    ".yaml": yaml.safe_load,
    ".conf": _ini,
    ".env": _dotenv,
    "env": _dotenv,
    "openrc": _shell,
    ".gitignore": lambda text: text,
}


def _leaves(value: Any, *names: str) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield from _leaves(one, *names, str(key))
    elif isinstance(value, list):
        for one in value:
            yield from _leaves(one, *names)
    elif names:
        yield names, str(value)
