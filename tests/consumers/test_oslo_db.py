"""oslo.db, configured by the overlay, migrates and stores."""

from __future__ import annotations

from wired import Wired


def test_a_component_migrates_its_schema_and_keeps_text_of_any_script(wired: Wired) -> None:
    seen = wired.run("migrate_and_store.py", "--config-file", wired.overlay())
    assert seen == {"made": ["by_host", "of_host"], "texts": ["grüße ✓ 🚀"], "left": []}


def test_the_environment_alone_is_enough_for_it(wired: Wired, variables: dict[str, str]) -> None:
    assert wired.run("migrate_and_store.py", extra=variables)["texts"] == ["grüße ✓ 🚀"]
