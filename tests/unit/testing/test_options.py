"""The options of a component, as a test gets them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from oslo_config import cfg

from devenv.testing.options import load


@pytest.fixture
def group() -> Iterator[str]:
    """Register an option with `cfg.CONF` alone, as oslo.messaging does; return its group."""
    name, option = f"oslo_{uuid.uuid4().hex}", cfg.StrOpt("endpoint", default="nowhere")
    cfg.CONF.register_opts([option], group=name)
    yield name
    cfg.CONF.unregister_opts([option], group=name)


def test_options_that_oslo_registers_with_the_global_ones_alone_are_known(tmp_path: Path, group: str) -> None:
    file = tmp_path / "component.conf"
    file.write_text("")
    assert load(file)[group].endpoint == "nowhere"
    file.write_text(f"[{group}]\nendpoint = here\n")
    conf = load(file)
    assert getattr(conf, group).endpoint == "here"
    conf.set_override("endpoint", "elsewhere", group)
    assert (getattr(conf, group).endpoint, cfg.CONF[group].endpoint) == ("elsewhere", "nowhere")


def test_no_other_options_are_known(tmp_path: Path) -> None:
    file = tmp_path / "component.conf"
    file.write_text("")
    cfg.CONF.register_opts([cfg.StrOpt("endpoint")], group="of_the_component")
    for name in ("oslo_nothing", "of_the_component", "nothing"):
        with pytest.raises(cfg.NoSuchOptError):
            getattr(load(file), name)
