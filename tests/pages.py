"""Read the commands and files that README and docs show."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from devenv.cli.main import main

REPOSITORY = Path(__file__).parents[1]
PAGES = [Path("README.md"), *sorted(path.relative_to(REPOSITORY) for path in REPOSITORY.glob("docs/**/*.md"))]
# Its commands need a cluster: tests/clusters/test_docs.py runs them.
CLUSTER = Path("docs/kubernetes.md")
# Not run from the pages: some install or bring up everything in a clone of their own (test_install), some run the
# tests, one takes half an hour.
ELSEWHERE = ("make up", "make down", "make test", "make unit", "make check", "make bench", "git clone")
# Variables before a command are not the command.
_ASSIGNED = re.compile(r"[A-Z][A-Z0-9_]*=")


def text(page: Path) -> str:
    return (REPOSITORY / page).read_text()


def commands(page: Path) -> list[str]:
    """Return the lines after `$ ` in the console blocks of a page."""
    return [command for file, command in steps(page) if not file]


def steps(page: Path) -> Iterator[tuple[str, str]]:
    """Yield what a reader does with a page from top to bottom: ("", command), or (file, content).

    A block that begins with a comment that names a file is that file.
    """
    for kind, block in re.findall(r"```(\w+)\n(.*?)```", text(page), re.DOTALL):
        named = re.match(r"# ([\w./-]+\.\w+)\n", block)
        if kind == "console":
            lines = [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")]
            yield from (("", line) for line in lines if not line.startswith(ELSEWHERE))
        elif named:
            yield named[1], block


def sessions(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each command in the console blocks of a page, with the lines that the page shows of its output."""
    for block in re.findall(r"```console\n(.*?)```", text(page), re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *shown = part.splitlines()
            yield command, [line for line in shown if line.strip(" …")]


def unlike(shown: list[str], told: str) -> list[str]:
    """Return those of the shown lines that nothing told is like. Numbers, ids and bars may differ."""
    lines = [_plain(line) for line in told.splitlines()]
    return [line for line in shown if not any(re.fullmatch(_like(line), one) for one in lines)]


def _plain(line: str) -> str:
    return " ".join(line.replace("█", "").split())


# What differs each time -> what may stand there: the id of an environment, a number in hex, a number, anything.
_DIFFERENT = {
    r"[a-z]+-[0-9a-f]{8}(?![0-9a-f])": r"[\w.]+-[0-9a-f]{8}",
    r"(?<![0-9a-z])[0-9a-f]{8}(?![0-9a-f])": "[0-9a-f]{8}",
    r"\d+(?:\.\d+)*": r"\d+(?:\.\d+)*",
    "…": ".*",
}
_TOKEN = re.compile("|".join(f"({part})" for part in _DIFFERENT))


def _like(line: str) -> str:
    """Return the pattern of all lines that are like this one."""
    pattern, at = "", 0
    text = _plain(line)
    for found in _TOKEN.finditer(text):
        pattern += re.escape(text[at : found.start()]) + [*_DIFFERENT.values()][(found.lastindex or 1) - 1]
        at = found.end()
    return pattern + re.escape(text[at:])


def calls_of_devenv(command: str) -> Iterator[list[str]]:
    """Yield the arguments of each call of devenv in a line of shell."""
    for inner in re.findall(r"\$\(([^)]*)\)", command):
        yield from calls_of_devenv(inner)
    words: list[str] = []
    for word in [*shlex.shlex(command, posix=True, punctuation_chars=True), ";"]:
        if word and set(word) <= set("();<>|&"):
            if words[:1] == ["devenv"]:
                yield words[1:]
            words = []
        elif words or not _ASSIGNED.match(word):
            words.append(word)


def from_pifpaf() -> list[tuple[str, str, list[str]]]:
    """Return a library, its command with devenv, and the variables that it reads, for each row of docs/pifpaf.md."""
    rows = re.findall(
        r"^\| ([\w.]+) \| `pifpaf [^|]+` \| `(devenv [^|]+)` \| ([^|]+) \|", text(Path("docs/pifpaf.md")), re.MULTILINE
    )
    return [(library, after, re.findall(r"`(\w+)`", reads)) for library, after, reads in rows]


@dataclass(frozen=True)
class Versions:
    """The version of a service that devenv builds, the image that a CI runs, and another version that is tested."""

    built: str
    official: str
    tested: str


def versions() -> dict[str, Versions]:
    """Return the row of each service in the table of versions of docs/servers.md."""
    rows = re.findall(
        r"^\| (\w+) \| ([\d.]+) \([^|]+\) \| `([^|]+)` \|(?: ([\d.]+) \([^|]+\))? \|$",
        text(Path("docs/servers.md")),
        re.MULTILINE,
    )
    return {service: Versions(*row) for service, *row in rows}


def understand(arguments: list[str]) -> None:
    """Parse a call as the command line does. Raises UsageError for a call that it would refuse."""
    context, command = main.make_context("devenv", [*arguments]), main
    while isinstance(command, click.Group):
        name, found, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert name and found
        context, command = found.make_context(name, rest, parent=context), found  # type: ignore[assignment]
