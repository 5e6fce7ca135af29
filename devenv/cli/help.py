"""Define `devenv help`, which shows pages of docs/ and the help of commands."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from devenv.cli.common import Group
from devenv.errors import DevenvError

_INDEX = "index"
# A heading of the index, or the page that a line of it is about.
_INDEXED = re.compile(r"^(?:## (.+)|- \[([\w-]+)\.md\])", re.MULTILINE)


class UnknownTopic(DevenvError):
    """Report a word that is neither a page nor a command."""

    exit_code = 2


@click.command(name="help")
@click.argument("topic", nargs=-1, metavar="[TOPIC]...")
@click.pass_context
def help_(context: click.Context, topic: tuple[str, ...]) -> None:
    """Show a page of the manual or the help of a command.

    Without TOPIC, lists the pages. Terminals get a page on a pager.
    """
    pages = _pages()
    if not topic:
        click.echo(_listed(pages))
        return
    page = pages.get(" ".join(topic))
    # A word may be both, as "ci" is: then the page comes after the help.
    found = [_help_of(context.find_root(), topic), page.read_text("utf-8").rstrip() if page else ""]
    text = "\n\n".join(filter(None, found))
    if not text:
        raise _unknown(context.find_root(), topic, pages)
    if sys.stdout.isatty():
        click.echo_via_pager(text)
    else:
        click.echo(text)


def _pages() -> dict[str, Path]:
    """Return the pages by topic."""
    # Lazily: it loads the reader of Compose files.
    from devenv.spec.catalogue import data_folder

    return {path.stem: path for path in sorted(data_folder("docs").glob("*.md"))}


def _listed(pages: dict[str, Path]) -> str:
    """Return a line for each page that the index lists, in its order and below its headings: the topic, the title."""
    width = max(map(len, pages), default=0)
    lines = ["'devenv help TOPIC' shows one of these pages, or the help of a command."]
    for heading, topic in _INDEXED.findall(pages[_INDEX].read_text("utf-8")):
        if heading:
            lines += ["", heading]
        elif topic in pages:
            lines.append(f"  {topic:<{width}}  {_title(pages[topic])}")
    return "\n".join(lines)


def _title(path: Path) -> str:
    with path.open(encoding="utf-8") as stream:
        return stream.readline().lstrip("# ").rstrip()


def _help_of(context: click.Context, words: Sequence[str]) -> str:
    """Return the help of the command that the words name, or an empty string."""
    for word in words:
        command = context.command.get_command(context, word) if isinstance(context.command, click.Group) else None
        if command is None:
            return ""
        context = click.Context(command, info_name=word, parent=context)
    return context.get_help()


def _unknown(root: click.Context, words: Sequence[str], pages: Iterable[str]) -> UnknownTopic:
    from devenv.names import did_you_mean

    *path, last = words
    group = root.command
    for word in path:
        group = group.commands.get(word, group) if isinstance(group, click.Group) else group
    known = [*(group.known() if isinstance(group, Group) else ()), *(() if path else pages)]
    meant = did_you_mean(last, known)
    message = f"cannot show {' '.join(words)!r}: no page or command has this name{'; ' if meant else ''}{meant}"
    return UnknownTopic(message, "'devenv help' lists the pages, 'devenv --help' the commands")
