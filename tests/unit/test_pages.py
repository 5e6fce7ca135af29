"""README and docs show what exists; tests/integration/test_docs.py runs their examples."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from devenv.spec.catalogue import load_catalogue
from tests.pages import PAGES, REPOSITORY, calls_of_devenv, commands, from_pifpaf, text, understand, versions


def test_the_pages_show_commands() -> None:
    assert sum(len(commands(page)) for page in PAGES) >= 15


def test_calls_are_found_in_a_line_of_shell() -> None:
    line = (
        'eval "$(devenv env)"; A=b devenv images save - etcd | gzip | devenv images load - && echo devenv > a  # devenv'
    )
    assert [*calls_of_devenv(line)] == [["env"], ["images", "save", "-", "etcd"], ["images", "load", "-"]]


def test_a_call_that_the_command_line_refuses_is_noticed() -> None:
    for wrong in (["upp"], ["up", "--no-such"], ["snapshot", "save"], ["images", "nosuch"]):
        with pytest.raises(click.UsageError):
            understand(wrong)


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=str)
def test_every_call_of_devenv_on_the_page_is_understood(page: Path) -> None:
    for command in commands(page):
        for call in calls_of_devenv(command):
            understand(call)


def test_every_command_for_a_suite_of_pifpafs_is_understood_as_what_stands_in_for_it() -> None:
    rows = from_pifpaf()
    assert {library for library, _, _ in rows} == {
        *("oslo.db", "oslo.messaging", "oslo.cache", "tooz", "etcd3gw", "taskflow"),
    }
    for _, command, reads in rows:
        assert reads
        for call in calls_of_devenv(command.replace(" -- devenv", "; devenv")):
            understand(call)


def test_the_table_of_versions_names_what_jobs_of_a_ci_run_and_that_it_is_the_version_that_devenv_builds() -> None:
    rows = versions()
    official = {name: service.official for name, service in load_catalogue().items() if service.official}
    assert {name: row.official for name, row in rows.items()} == official
    for name, row in rows.items():
        assert re.fullmatch(rf"v?{re.escape(row.built)}(-management)?", official[name].rpartition(":")[2])


def test_the_readme_names_the_versions_of_all_servers() -> None:
    lines = text(Path("README.md")).splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("| MySQL |"))
    names, _, numbers = ([word.strip() for word in line.strip("|").split("|")] for line in lines[first : first + 3])
    said = dict(zip(map(str.lower, names), numbers, strict=True))
    keystone = re.search(r"^keystone==(\d+\.\d+)\.", text(Path("compose/keystone/requirements.txt")), re.MULTILINE)
    assert keystone
    assert said == {name: row.built for name, row in versions().items()} | {"keystone": keystone[1]}
    assert said.keys() == load_catalogue().keys()


def anchors(page: Path) -> set[str]:
    """Return the places in a page that a link can name, as GitHub makes them from headings."""
    headings = re.findall(r"^#+ (.*)$", _prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _prose(page: Path) -> str:
    """Return a page without its code blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", text(page), flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", [*PAGES, Path("CONTRIBUTING.md"), Path("CHANGELOG.md")], ids=str)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    for file, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)\s]*))?\)", _prose(page)):
        target = (REPOSITORY / page).parent / file if file else REPOSITORY / page
        assert target.exists(), file
        assert not anchor or anchor in anchors(target.resolve().relative_to(REPOSITORY)), f"{file}#{anchor}"


def test_the_index_lists_every_page() -> None:
    listed = re.findall(r"^- \[([\w-]+\.md)\]\(\1\): ", text(Path("docs/index.md")), re.MULTILINE)
    assert {"index.md", *listed} == {page.name for page in PAGES if page.parent.name == "docs"}


def test_no_page_is_too_long_to_read() -> None:
    assert len(text(Path("README.md")).splitlines()) <= 150
    # Programs generate these pages.
    generated = {"reference", "benchmarks-operations", "suites"}
    assert {page.stem for page in PAGES if len(text(page).splitlines()) > 200} <= generated


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_python_example_compiles(page: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", text(page), re.DOTALL):
        compile(block, str(page), "exec")
