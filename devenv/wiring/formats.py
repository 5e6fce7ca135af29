"""Write variables as text, in one format for each kind of reader. Pure.

Readers differ in quotes: a shell and a dotenv library take them off, Docker and GitHub keep them in the value.
A format gets variables that its reader must not keep, too (`contents.replaced`). Only a shell can take them away.
"""

from __future__ import annotations

import json
import re
import shlex
import textwrap
from collections.abc import Callable, Mapping, Sequence

from devenv.errors import ConfigError

# Characters that mean nothing to any reader, so a value of these needs no quotes.
_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+,=?-]*\Z")
# In single quotes a shell takes everything but a quote literally. Libraries know escapes, variables and more line ends.
_UNQUOTABLE = re.compile(r"['\x00-\x1f\x7f-\x9f\u2028\u2029]|\\(?=\\|\Z)|\$\{")
_WIDTH = 100
# A line ends here, and without quotes nothing says that the value goes on.
_ENDING = re.compile(r"[\x00\r\n]")


def as_dotenv(values: Mapping[str, str], _: Sequence[str] = ()) -> str:
    """Return NAME=value lines, with single quotes around a value that needs them.

    Raise ConfigError for a value that some programs would read as another one.
    """
    return "".join(f"{name}={_quoted(name, value)}\n" for name, value in values.items())


def from_dotenv(text: str) -> dict[str, str]:
    """Return the values of a text that `as_dotenv` wrote, or of a template in its form."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {name: value.strip("'") for name, _, value in pairs}


def as_env_file(values: Mapping[str, str], _: Sequence[str] = ()) -> str:
    """Return NAME=value lines without any quotes. Raise ConfigError for a value of several lines."""
    for name, value in values.items():
        _refuse(_ENDING, name, value, "a file without quotes", "'--format json' can hold it")
    return "".join(f"{name}={value}\n" for name, value in values.items())


def as_json(values: Mapping[str, str], _: Sequence[str] = ()) -> str:
    """Return one JSON object."""
    return json.dumps(values, indent=2) + "\n"


def as_shell(values: Mapping[str, str], replaced: Sequence[str] = ()) -> str:
    """Return lines for `eval` in a POSIX shell."""
    return unset(replaced) + "".join(f"export {name}={shlex.quote(value)}\n" for name, value in values.items())


def unset(names: Sequence[str]) -> str:
    """Return a command that takes variables away in a POSIX shell; an empty text for none."""
    return textwrap.fill(" ".join(["unset", *names]), _WIDTH).replace("\n", " \\\n  ") + "\n" if names else ""


Format = Callable[[Mapping[str, str], Sequence[str]], str]
FORMATS: Mapping[str, Format] = {
    "json": as_json,
    "dotenv": as_dotenv,
    "env-file": as_env_file,
    "shell": as_shell,
}


def _quoted(name: str, value: str) -> str:
    _refuse(_UNQUOTABLE, name, value, "a .env file", "change the outputs in the service's compose.yaml")
    return value if _PLAIN.match(value) else f"'{value}'"


def _refuse(pattern: re.Pattern[str], name: str, value: str, file: str, hint: str) -> None:
    if found := pattern.search(value):
        raise ConfigError(f"cannot write {name} to {file}: some programs misread {found[0]!r} in its value", hint)
