"""Every command that README and docs show is run, in the order of its page, in one project."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from project import REPOSITORY, Project

PAGES = [Path("README.md"), *sorted(path.relative_to(REPOSITORY) for path in REPOSITORY.glob("docs/*.md"))]
# Run by other means: what installs or brings up everything in a clone of its own (test_install), what is this very
# run, and what takes half an hour.
ELSEWHERE = {"make up", "make down", "make test", "make unit", "make check", "make bench", "git clone"}


def commands(page: Path) -> list[str]:
    """The lines after `$ ` in the console blocks of a page."""
    blocks = re.findall(r"```console\n(.*?)```", (REPOSITORY / page).read_text(), re.DOTALL)
    return [line for block in blocks for line in _commands(block)]


def _commands(block: str) -> list[str]:
    lines = [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")]
    return [line for line in lines if not line.startswith(tuple(ELSEWHERE))]


def test_the_pages_show_commands() -> None:
    assert sum(len(commands(page)) for page in PAGES) >= 15


def steps(page: Path) -> Iterator[tuple[str, str]]:
    """What a reader does with a page from top to bottom: ("", command), or (file, content).

    A block that begins with a comment that names a file is that file.
    """
    for kind, block in re.findall(r"```(\w+)\n(.*?)```", (REPOSITORY / page).read_text(), re.DOTALL):
        named = re.match(r"# ([\w./-]+\.\w+)\n", block)
        if kind == "console":
            yield from (("", command) for command in _commands(block))
        elif named:
            yield named[1], block


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=str)
def test_every_command_of_the_page_works(page: Path, project: Project) -> None:
    for file, command in steps(page):
        if file:
            (project.folder / file).parent.mkdir(parents=True, exist_ok=True)
            (project.folder / file).write_text(command)
            continue
        project.shell(command)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (REPOSITORY / page).read_text()):
        assert ((REPOSITORY / page).parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_python_example_compiles(page: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", (REPOSITORY / page).read_text(), re.DOTALL):
        compile(block, str(page), "exec")
