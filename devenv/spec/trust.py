"""What of a project's devenv.yaml is not just data, and whether its user has allowed it.

    <state folder>/trust.lock     held by the one devenv that changes the record
    <state folder>/trust.json     0600; by a file's real path: the hashes of the contents that are trusted

The file comes with a clone of the project. What it says of services, ports, components and their wiring stays on
127.0.0.1 and in the project's folder; the images that it names are programs of somebody's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from devenv.errors import ConfigError
from devenv.model import ProjectFile
from devenv.store.files import real_path, write_files
from devenv.store.locks import held
from devenv.store.places import state_folder


def needs(file: ProjectFile) -> list[str]:
    """What the file has to be trusted for, in words."""
    return [f"service {service} runs image {image}" for service, image in file.images.items()]


def check(file: ProjectFile | None, ask: Callable[[ProjectFile], bool] | None, waiting: Callable[[str], None]) -> None:
    """Raise ConfigError for a file that needs trust and has it not, nor gets it from who is asked.

    That is remembered, as by `allow`, until the file changes.
    """
    if not file or not file.images:
        return
    known = _load().get(str(file.path), [])
    if file.digest in known:
        return
    if ask and ask(file):
        allow(file, waiting)
        return
    images = " and ".join(dict.fromkeys(file.images.values()))
    reason = "the file has changed since you trusted it" if known else "you have not trusted the file yet"
    raise ConfigError(f"cannot use image {images} of {file.path}: {reason}", hint="look at it, then run 'devenv trust'")


def allow(file: ProjectFile, waiting: Callable[[str], None]) -> None:
    """Trust a file with what it holds now; `waiting` is told of another devenv that is at the record."""
    if file.images:
        with _changing(waiting) as record:
            known = record.setdefault(str(file.path), [])
            known += [file.digest] if file.digest not in known else []


def revoke(path: Path, waiting: Callable[[str], None]) -> None:
    """Trust a file with nothing any more, whatever it holds."""
    with _changing(waiting) as record:
        record.pop(str(real_path(path)), None)


# ---- the record --------------------------------------------------------------------------------------------------


@contextmanager
def _changing(waiting: Callable[[str], None]) -> Iterator[dict[str, list[str]]]:
    """The record, for the caller to change; it is written if that did anything."""
    with held(state_folder() / "trust.lock", waiting):
        record = _load()
        yield record
        if record != _load():
            write_files({_path(): (json.dumps(record, indent=2, sort_keys=True) + "\n").encode()})


def _load() -> dict[str, list[str]]:
    """The record. One that cannot be understood trusts nothing."""
    try:
        record = json.loads(_path().read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    entries = record.items() if isinstance(record, dict) else ()
    return {path: digests for path, digests in entries if isinstance(digests, list)}


def _path() -> Path:
    return state_folder() / "trust.json"
