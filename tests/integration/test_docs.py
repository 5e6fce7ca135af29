"""Run every command that README and docs show, in the order of its page, in one project for each page."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from project import REPOSITORY, Project

from tests.pages import PAGES, commands, steps

# The project of a page whose readers have one.
PROJECTS = {Path("docs/testing.md"): REPOSITORY / "tests" / "examples" / "suite"}


@pytest.mark.long
@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=str)
def test_every_command_of_the_page_works(page: Path, project: Project) -> None:
    if page in PROJECTS:
        shutil.copytree(PROJECTS[page], project.folder, dirs_exist_ok=True)
    for file, command in steps(page):
        if file:
            (project.folder / file).parent.mkdir(parents=True, exist_ok=True)
            (project.folder / file).write_text(command)
            continue
        project.shell(command)
