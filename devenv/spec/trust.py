"""Ask whether the user trusts a project's devenv.yaml: the images and addresses that it names. Remember the answer.

    <state folder>/trust.lock     held by the one devenv that changes the record
    <state folder>/trust.json     0600; by a file's real path: the hashes of the contents that the user trusts

The file comes with a clone of the project. Its services, ports, components and their wiring stay on 127.0.0.1 and in
the project's folder. The images that it names are somebody else's programs, and devenv logs in to the attached services
that it names, so an address that is not this host's loopback may be anybody's. A cluster that it has devenv use is not
this host, and others may use it, too; so may others use an environment that it shares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from devenv.errors import ConfigError
from devenv.model import ProjectFile
from devenv.store.files import as_json, read_json, real_path, write_files
from devenv.store.locks import held
from devenv.store.places import state_folder


def needs(file: ProjectFile) -> list[str]:
    """Return what the user has to trust the file for, in words."""
    needed = [f"its services run on {file.engine}, not on this host"] if file.engine else []
    needed += [f"it joins environment {file.shared}, which other hosts may use"] if file.shared else []
    needed += [f"pods run devenv's images as {file.registry} has them"] if file.registry else []
    needed += [f"service {service} runs image {image}" for service, image in file.images.items()]
    return needed + [f"devenv logs in to {service} at {' and '.join(at)}" for service, at in file.addresses.items()]


def check(file: ProjectFile | None, ask: Callable[[ProjectFile], bool] | None, waiting: Callable[[str], None]) -> None:
    """Raise ConfigError for a file that needs trust, unless the user trusts it or `ask` says yes.

    devenv remembers that, as `allow` does, until the file changes.
    """
    if not file or trusted(file):
        return
    known = _load().get(str(file.path), [])
    if ask and ask(file):
        allow(file, waiting)
        return
    reason = "the file has changed since you trusted it" if known else "you have not trusted the file yet"
    hint = "look at it, then run 'devenv trust'"
    options = [f"--{key} {name}" for key, name in (("engine", file.engine), ("shared", file.shared)) if name]
    if options and not (file.images or file.addresses or file.registry):
        hint += f"; or choose it yourself: 'devenv {' '.join(options)} …'"
    raise ConfigError(f"cannot use {_named(file)} of {file.path}: {reason}", hint)


def trusted(file: ProjectFile) -> bool:
    """Return whether the user trusts the file as it is, or need not."""
    return not needs(file) or file.digest in _load().get(str(file.path), [])


def _named(file: ProjectFile) -> str:
    """Return what the file names, in words: "image mysql:8 and address db.example"."""
    addresses = (address for at in file.addresses.values() for address in at)
    kinds = {"image": file.images.values(), "registry": [file.registry], "address": addresses}
    kinds |= {"engine": [file.engine], "shared environment": [file.shared]}
    named = {kind: " and ".join(filter(None, dict.fromkeys(names))) for kind, names in kinds.items()}
    return " and ".join(f"{kind} {names}" for kind, names in named.items() if names)


def allow(file: ProjectFile, waiting: Callable[[str], None]) -> None:
    """Trust a file with its present content. `waiting` gets a text if another devenv is writing the record."""
    if needs(file):
        with _changing(waiting) as record:
            known = record.setdefault(str(file.path), [])
            known += [file.digest] if file.digest not in known else []


def revoke(path: Path, waiting: Callable[[str], None]) -> None:
    """Withdraw trust from a file, whatever it holds."""
    with _changing(waiting) as record:
        record.pop(str(real_path(path)), None)


# ---- the record --------------------------------------------------------------------------------------------------


@contextmanager
def _changing(waiting: Callable[[str], None]) -> Iterator[dict[str, list[str]]]:
    """Yield the record for the caller to change, and save it if it changed."""
    with held(state_folder() / "trust.lock", waiting):
        record = _load()
        yield record
        if record != _load():
            write_files({_path(): as_json(record)})


def _load() -> dict[str, list[str]]:
    """Return the record. A garbled one trusts nothing."""
    return {path: digests for path, digests in read_json(_path()).items() if isinstance(digests, list)}


def _path() -> Path:
    return state_folder() / "trust.json"
