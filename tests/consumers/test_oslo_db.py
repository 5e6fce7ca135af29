"""oslo.db, configured by the overlay, migrates and stores."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from project import new_project, remove
from wired import Wired

STORED = {"made": ["by_host", "of_host"], "texts": ["grüße ✓ 🚀"], "left": []}


@pytest.fixture
def on_mariadb(images: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wired]:
    """Wire a MariaDB for nova."""
    scratch = new_project(tmp_path_factory.mktemp("mariadb"), "mariadb")
    scratch.configure("profile: database\ndatabase: mariadb\ncomponents: [nova]\n")
    scratch.devenv("up")
    yield Wired(scratch)
    remove(scratch)


def test_a_component_migrates_its_schema_and_keeps_text_of_any_script(wired: Wired) -> None:
    assert wired.run("migrate_and_store.py", "--config-file", wired.overlay()) == STORED


def test_it_does_so_in_mariadb(on_mariadb: Wired) -> None:
    assert on_mariadb.run("migrate_and_store.py", "--config-file", on_mariadb.overlay()) == STORED


def test_the_environment_alone_is_enough_for_it(wired: Wired, variables: dict[str, str]) -> None:
    assert wired.run("migrate_and_store.py", extra=variables)["texts"] == ["grüße ✓ 🚀"]
