"""Check what an environment must not lose by a fault."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from project import Project

from devenv.wiring.formats import from_dotenv

Tell = Callable[..., str]
ALL = ("mysql", "rabbitmq", "etcd", "keystone")
_SQL = "DROP TABLE IF EXISTS devenv.unharmed; CREATE TABLE devenv.unharmed SELECT 'kept' AS word"
# Commands that put data into a service, and commands that show it.
_PUT = {
    "etcd": ("exec", "etcd", "--", "etcdctl", "put", "unharmed", "kept"),
    "mysql": ("exec", "mysql", "mysql", "-e", _SQL),
}
_GET = {
    "etcd": ("exec", "etcd", "--", "etcdctl", "get", "--print-value-only", "unharmed"),
    "mysql": ("exec", "mysql", "mysql", "-Ne", "SELECT word FROM devenv.unharmed"),
}


@dataclass(frozen=True)
class _Look:
    """The services that are ready, the ports and credentials on record, and the files in .devenv/."""

    ready: frozenset[str]
    remembered: Mapping[str, Any]
    files: Mapping[str, str]


@contextmanager
def unharmed(project: Project, *services: str, tell: Tell | None = None) -> Iterator[None]:
    """Check after the block that services are ready, their data, ports and credentials as before, .devenv/ correct.

    The services are those that are ready at the beginning, which get the data, and those that are named. Ports,
    credentials and files from before must stay, also those of a first start that did not end. `tell` runs the command
    line and returns what it prints.
    """
    tell = tell or (lambda *arguments: project.devenv(*arguments).stdout)
    before = _look(project, tell)
    holders = before.ready & _PUT.keys()
    for service in holders:
        tell(*_PUT[service])
    yield
    after = _look(project, tell)
    assert after.ready >= before.ready | {*services}
    assert {service: tell(*_GET[service]).strip() for service in holders} == dict.fromkeys(holders, "kept")
    assert after.remembered == {**after.remembered, **before.remembered}
    assert after.files == {**after.files, **before.files}
    assert not [*(project.folder / ".devenv").rglob("*.new")]
    assert from_dotenv(after.files["env"]) == json.loads(tell("env", "--format", "json"))


def _look(project: Project, tell: Tell) -> _Look:
    status = json.loads(tell("status", "--format", "json"))
    ready = frozenset(name for name, one in status["services"].items() if one["state"] == "ready")
    state = project.state / "environments" / status["environment"]["id"]
    remembered = {**_read(state / "record.json").get("ports", {}), **_read(state / "secrets.json")}
    wired = project.folder / ".devenv"
    # A `.new` file has not replaced another one yet.
    whole = [path for path in wired.rglob("*") if path.is_file() and path.suffix != ".new"]
    files = {str(path.relative_to(wired)): path.read_text() for path in whole}
    return _Look(ready, remembered, files)


def _read(path: Path) -> dict[str, Any]:
    """Read a file of the state folder; it is missing before a first `up`."""
    return json.loads(path.read_text()) if path.exists() else {}
