"""Read suites.yaml."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

DATA = Path(__file__).with_name("suites.yaml")


@dataclass(frozen=True)
class Run:
    """A command that runs tests of one suite, and what is known of them: patterns with their causes."""

    servers: str
    command: str
    without: str = ""
    skips: Mapping[str, str] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Suite:
    """A release of a project whose source archive has the tests."""

    name: str
    package: str
    version: str
    runs: Sequence[Run]
    extras: Sequence[str] = ()
    headers: Sequence[str] = ()


@dataclass(frozen=True)
class Inventory:
    """All suites, and the patterns of what they say if they find no server."""

    suites: Sequence[Suite]
    no_server: Sequence[str]


def load(path: Path = DATA) -> Inventory:
    """Return what the file says. Raises TypeError for a key that nothing reads."""
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    suites = [_suite(name, **about) for name, about in data["suites"].items()]
    return Inventory(suites, data["no_server"])


def _suite(
    name: str, *, runs: Sequence[Mapping[str, Any]], skips: Mapping[str, str] | None = None, **rest: Any
) -> Suite:
    """Return a suite; each of its runs knows the skips of all."""
    known = [Run(**{**run, "skips": {**(skips or {}), **run.get("skips", {})}}) for run in runs]
    return Suite(name=name, runs=known, **rest)
