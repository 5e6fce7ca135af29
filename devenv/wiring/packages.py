"""Say what a CI's job installs with pip: devenv from where its user says, and what the project requires.

A job looks for devenv's name in an index only if its user says so: while nobody has published devenv there, whoever
registers the name would run in the job.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devenv import __version__
from devenv.errors import ConfigError

NAME = "openstack-devenv"
# What a job installs if the project says nothing: its command runs pytest.
_DEFAULT = ("pytest",)
_FILES = ("requirements.txt", "test-requirements.txt")
_TEST_EXTRAS = ("test", "tests", "testing")
# The name, its extras, and a version or ` @ URL`.
_REQUIREMENT = re.compile(r"openstack[-_.]devenv(?:\s*\[(?P<extras>[\w,. -]*)\])?(?P<rest>\s*(?:$|[@<>=!~].*))", re.I)
_URL = re.compile(r"[a-z][a-z0-9+.-]*://\S+", re.I)
_PATH = re.compile(r"(?!\S*://)(\.\S*|\S*/\S*|\S+(\.whl|\.tar\.gz|\.zip))")
# git takes this for a path on another host, and pip for one on this: git@example.org:group/devenv.
_SCP = re.compile(r"(?P<host>[^\s/:]+):(?!//)/?(?P<path>\S+)")
# A line of a requirements file that names devenv, and what in it says where devenv comes from.
_NAMED = re.compile(r"(?!\s*#).*openstack[-_.]devenv", re.I)
_SOURCE = re.compile(r"[^#]*(://|\.whl\b|\.tar\.gz\b)", re.I)
_EXAMPLE = f"--install 'git+https://git.example.org/devenv@v{__version__}'"
_HINT = f"name a URL, a wheel in the project, or a requirement for an index of yours: {_EXAMPLE}"


@dataclass(frozen=True)
class Packages:
    """What a job installs: devenv from `source`, which is empty if the project's requirements name one.

    `named` says that those name devenv, but no source of it. Only beside the source does pip not ask an index for it.
    """

    source: str
    project: tuple[str, ...] = _DEFAULT
    named: bool = False

    def with_devenv(self, extras: Collection[str]) -> str:
        """Return pip's arguments for devenv with these extras, and for what the project requires."""
        # Without extras: pip before 24 does not see that the source with extras is what the name asks for.
        beside_name = [requirement(self.source, ())] if self.named else []
        sources = [*beside_name, *([requirement(self.source, extras)] if self.source else [])]
        return shlex.join([*dict.fromkeys(sources), *self.project])


def packages_of(project: Path, tool: str, source: str) -> Packages:
    """Return what a job of this project installs.

    Raise ConfigError if nobody says where devenv comes from, or `source` and the project both do.
    """
    lines = [(file, line) for file, line in _requirements(project) if _NAMED.match(line)]
    pinned = next((file for file, line in lines if _SOURCE.match(line)), "")
    if source and pinned:
        reason = f"{pinned} says where devenv comes from"
        raise ConfigError(f"cannot export for {tool} with --install: {reason}", "leave --install out")
    if source:
        _check(source)
    elif not pinned:
        raise ConfigError(f"cannot export for {tool} without --install: the job gets devenv from where you say", _HINT)
    return Packages(source, _of_project(project) or _DEFAULT, named=bool(lines and source))


def requirement(source: str, extras: Collection[str]) -> str:
    """Return what pip understands: the source with these extras beside its own."""
    if named := _REQUIREMENT.fullmatch(source):
        own = {extra.strip() for extra in (named["extras"] or "").split(",")} - {""}
        return NAME + _in_brackets({*own, *extras}) + named["rest"]
    if _URL.fullmatch(source):
        return f"{NAME}{_in_brackets(extras)} @ {source}"
    return source + _in_brackets(extras)


def _in_brackets(extras: Collection[str]) -> str:
    return f"[{','.join(sorted(extras))}]" if extras else ""


def _check(source: str) -> None:
    """Raise ConfigError for a source that pip would not understand, that is more than one, or that holds a secret."""
    named = _REQUIREMENT.fullmatch(source)
    # A requirement may have a marker after its URL.
    url = named["rest"].partition("@")[2].partition(" ;")[0].strip() if named else source
    if "{" in source:
        # GitHub and Ansible do that before any shell reads its quotes.
        raise ConfigError(f"cannot install devenv from {source!r}: CIs replace what is in braces", "name it without")
    if scp := _SCP.fullmatch(url):
        example = f"--install 'git+ssh://{scp['host']}/{scp['path']}'"
        raise ConfigError(
            f"cannot install devenv from {source!r}: pip takes it for a path", f"for git over ssh: {example}"
        )
    known = _URL.fullmatch(url) or ("@" not in named["rest"] if named else _PATH.fullmatch(url))
    if not known or not source.isprintable() or source != source.strip() or source.startswith("-"):
        raise ConfigError(
            f"cannot install devenv from {source!r}: it is no URL, no path and no requirement of {NAME}",
            _HINT,
        )
    _check_secrets(url)


def _check_secrets(url: str) -> None:
    """Raise ConfigError for a URL with a login or a query. A fragment is for pip itself: a hash or a folder."""
    scheme, _, place = url.partition("#")[0].partition("://")
    login, at, host = place.partition("/")[0].rpartition("@")
    # An ssh URL has the name of a user, and that is no secret.
    if at and (":" in login or "ssh" not in scheme):
        raise ConfigError(
            f"cannot write a login for {host} to a file that you commit",
            "leave it out of --install: pip reads logins from ~/.netrc, and git has credential helpers",
        )
    if "?" in place:
        raise ConfigError(
            f"cannot write a URL of {host.partition('?')[0]} with '?' to a file that you commit: it may hold a token",
            "leave out what follows '?' in --install: pip reads logins from ~/.netrc",
        )


# ---- the project -------------------------------------------------------------------------------------------------


def _of_project(project: Path) -> tuple[str, ...]:
    """Return pip's arguments for the project's requirements files and its own package, if it has them."""
    files = [word for name in _FILES if (project / name).is_file() for word in ("-r", name)]
    described = _pyproject(project)
    if not (described.keys() & {"project", "build-system"} or (project / "setup.py").is_file()):
        return tuple(files)
    return (*files, "-e", "." + _in_brackets(_test_extras(described)))


def _requirements(project: Path) -> Iterator[tuple[str, str]]:
    """Yield each file and line that `_of_project` makes pip read."""
    for name in _FILES:
        yield from ((name, line) for line in _text(project / name).splitlines())
    table = _table(_pyproject(project), "project")
    known = _table(table, "optional-dependencies")
    for lines in (table.get("dependencies"), *(known[extra] for extra in _test_extras({"project": table}))):
        # pip refuses anything but a list of texts.
        yield from (("pyproject.toml", line) for line in lines or () if isinstance(line, str))


def _test_extras(described: Mapping[str, Any]) -> list[str]:
    known = _table(_table(described, "project"), "optional-dependencies")
    return [extra for extra in _TEST_EXTRAS if extra in known]


def _table(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = values.get(name)
    return found if isinstance(found, dict) else {}


def _pyproject(project: Path) -> Mapping[str, Any]:
    path = project / "pyproject.toml"
    try:
        return tomllib.loads(_text(path))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"cannot read {path}: {error}", "correct the file") from error


def _text(path: Path) -> str:
    """Return a file's text, which is empty if there is none. Raise ConfigError if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", "allow reading it") from error
