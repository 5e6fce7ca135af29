"""Load a component's options as oslo.config does. Needs oslo.config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from oslo_config import cfg


class Options(cfg.ConfigOpts):
    """Options that also know those of oslo's libraries that these register with `cfg.CONF` alone.

    oslo.messaging does so with its tracing and metrics, and reads them from whatever ConfigOpts it gets.
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except cfg.NoSuchOptError:
            if not name.startswith("oslo_") or name not in cfg.CONF._groups:
                raise
        self.register_opts([known["opt"] for known in cfg.CONF._groups[name]._opts.values()], group=name)
        return super().__getattr__(name)


def load(overlay: Path) -> cfg.ConfigOpts:
    """Return the options of this file. Arguments and OS_* variables do not change them."""
    files, folders = [str(overlay)], list[str]()
    conf = Options()
    conf([], project="devenv", default_config_files=files, default_config_dirs=folders, use_env=False)
    return conf
