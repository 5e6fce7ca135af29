"""Run every command that README and docs show, in the order of its page, in one project for each page."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from project import REPOSITORY, Project, require

from tests.pages import CLUSTER, PAGES, commands, from_pifpaf, sessions, steps, unlike

ENGINES = Path("docs/engines.md")
# These commands need an engine of their own, and other tests run them: test_remote.py, and those of tests/clusters.
ELSEWHERE = (Path("docs/remote.md"), CLUSTER, ENGINES)
# A page with output that is the same whenever its commands run; README's is of a first `up` with golden states.
SHOWN = (Path("docs/attach.md"),)
# The project of a page whose readers have one.
PROJECTS = dict.fromkeys((Path("README.md"), Path("docs/testing.md")), REPOSITORY / "tests" / "examples" / "suite")


@pytest.mark.long
@pytest.mark.parametrize("page", [page for page in PAGES if commands(page) and page not in ELSEWHERE], ids=str)
def test_every_command_of_the_page_works(page: Path, project: Project) -> None:
    if page in PROJECTS:
        shutil.copytree(PROJECTS[page], project.folder, dirs_exist_ok=True)
    shown = dict(sessions(page)) if page in SHOWN else {}
    for file, command in steps(page):
        if file:
            (project.folder / file).parent.mkdir(parents=True, exist_ok=True)
            (project.folder / file).write_text(command)
            continue
        told = project.shell(command)
        assert not unlike(shown.get(command, []), told), told


@pytest.mark.long
def test_a_reader_of_the_page_about_engines_starts_one_and_uses_it(project: Project) -> None:
    from tests.engines.__main__ import missing

    require(missing())
    # As in a clone of devenv.
    (project.folder / "tests").symlink_to(REPOSITORY / "tests")
    *steps, (end, _) = sessions(ENGINES)
    try:
        for command, shown in steps:
            told = project.shell(command)
            assert not unlike(shown, told), told
    finally:
        project.shell(end)


# etcd's URL, or one with the administrator's login. Only in a list it names the driver of a database.
PLAIN = r"(etcd|http)://127[.\d]+:\d+|(mysql|postgresql|rabbit)://devenv:\w+@127[.\d]+:\d+/devenv"
LISTED = r"(mysql\+pymysql|postgresql\+psycopg2|rabbit)://devenv:\w+@127[.\d]+:\d+/devenv[?=\w]*"
FOUND = re.compile(rf"\d+|{PLAIN}|{LISTED}(;{LISTED})*")


@pytest.mark.long
@pytest.mark.parametrize(
    ("command", "reads"),
    [pytest.param(command, reads, id=f"{library} {reads[0]}") for library, command, reads in from_pifpaf()],
)
def test_a_suite_that_came_from_pifpaf_finds_the_variables_that_it_reads(
    command: str, reads: list[str], project: Project
) -> None:
    with_services, _, suite = command.rpartition(" -- ")
    assert suite
    printed = project.shell(f"{with_services} -- sh -uc 'echo {' '.join(f'found=${name}' for name in reads)}'")
    found = re.findall(r"found=(\S+)", printed)
    assert len(found) == len(reads) and all(map(FOUND.fullmatch, found)), printed
