"""Run every command that README and docs show, in the order of its page, in one project for each page."""

from __future__ import annotations

from pathlib import Path

import pytest
from project import Project

from tests.pages import PAGES, commands, steps


@pytest.mark.long
@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=str)
def test_every_command_of_the_page_works(page: Path, project: Project) -> None:
    for file, command in steps(page):
        if file:
            (project.folder / file).parent.mkdir(parents=True, exist_ok=True)
            (project.folder / file).write_text(command)
            continue
        project.shell(command)
