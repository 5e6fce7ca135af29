"""Write what the services of an environment offer where programs look for it: files under .devenv/.

`env` and `endpoints.json` come from the services' data; every other file is put together from the templates
that services keep for it under `wire/` in their folder, e.g. compose/mysql/wire/oslo.conf.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from devenv.errors import ConfigError
from devenv.model import DesiredService, Endpoint, ServiceDefinition
from devenv.profile import WIRED_FOLDER as FOLDER
from devenv.state import write_files
from devenv.template import render_file

_HEADER = "# Written by devenv; 'devenv up' writes it anew.\n"


# ---- the flat map --------------------------------------------------------------------------------------------


def flat_map(services: Iterable[DesiredService]) -> dict[str, str]:
    """DEVENV_<SERVICE>_HOST, _PORT, _URL and what else a service tells, and the names that clients know (OS_*).

    The first endpoint of a service is the one that goes by the service's name alone.
    """
    values: dict[str, str] = {}
    for service in services:
        name = service.name.upper().replace("-", "_")
        for number, (key, endpoint) in enumerate(service.endpoints.items()):
            prefix = f"DEVENV_{name}" if number == 0 else f"DEVENV_{name}_{key.upper().replace('-', '_')}"
            values |= {f"{prefix}_HOST": endpoint.host, f"{prefix}_PORT": str(endpoint.port)}
            values[f"{prefix}_URL"] = endpoint.url
        values |= {f"DEVENV_{name}_{key}": value for key, value in service.outputs.items()}
        values |= service.environment
    return values


def as_json(values: Mapping[str, str]) -> str:
    return json.dumps(values, indent=2) + "\n"


def as_dotenv(values: Mapping[str, str]) -> str:
    """NAME=value lines. Single quotes keep every character, and values never hold one or a newline."""
    return "".join(f"{name}='{_one_line(name, value)}'\n" for name, value in values.items())


def as_shell(values: Mapping[str, str]) -> str:
    """Lines for `eval` in a POSIX shell."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in values.items())


FORMATS = {"json": as_json, "dotenv": as_dotenv, "shell": as_shell}


def _one_line(name: str, value: str) -> str:
    if any(character in value for character in "'\n\r"):
        raise ConfigError(f"cannot write {name}: its value holds a quote or a line end", "mend the service's outputs")
    return value


# ---- the files -----------------------------------------------------------------------------------------------


def wired_files(services: Mapping[str, DesiredService], catalogue: Mapping[str, ServiceDefinition]) -> dict[str, str]:
    """Every file of an environment by name, with its content."""
    endpoints = {name: endpoints_of(service.endpoints) for name, service in services.items()}
    files = {
        "env": _HEADER + as_dotenv(flat_map(services.values())),
        "endpoints.json": json.dumps(endpoints, indent=2) + "\n",
    }
    for name, service in services.items():
        for path in sorted((catalogue[name].folder / "wire").glob("*")):
            files[path.name] = files.get(path.name, _HEADER) + render_file(path, service.values)
    return files


def endpoints_of(endpoints: Mapping[str, Endpoint]) -> dict[str, dict[str, str | int]]:
    """Endpoints as devenv prints and writes them."""
    return {key: {"host": e.host, "port": e.port, "url": e.url} for key, e in endpoints.items()}


def folder_of(project: Path, name: str) -> Path:
    """Where the files of an environment go: right into .devenv/ for the default one, each other has its own."""
    top = project / FOLDER
    return top if name == "default" else top / "environments" / name


def write(project: Path, folder: Path, files: Mapping[str, str], known: Iterable[str]) -> list[Path]:
    """Make the folder hold these files and none of the other `known` ones; returns what was written.

    Raises ConfigError, with nothing written, if it is not a folder of the project's own.
    """
    _make(project, folder)
    changed = {folder / name: text.encode() for name, text in files.items() if _content(folder / name) != text}
    write_files(changed)
    _remove(folder / name for name in set(known) - set(files))
    return list(changed)


def remove(project: Path, folder: Path, known: Iterable[str]) -> None:
    """Take away what devenv wrote, and the folders if nothing else is in them."""
    if any(part.is_symlink() for part in _parts(project, folder)):
        return
    _remove(folder / name for name in known)
    for part in reversed(_parts(project, folder)):
        ignored = part / ".gitignore"
        with suppress(OSError):
            if part.name == FOLDER and list(part.iterdir()) == [ignored]:
                ignored.unlink()
            part.rmdir()


def known_files(catalogue: Mapping[str, ServiceDefinition]) -> set[str]:
    """The names of all files that devenv may ever write for an environment."""
    templates = {path.name for service in catalogue.values() for path in (service.folder / "wire").glob("*")}
    return templates | {"env", "endpoints.json"}


def check(project: Path, folder: Path) -> None:
    """Find out before the work whether the folder can be written, or made. Raises ConfigError if not."""
    _refuse_links(project, folder)
    nearest = next(part for part in (folder, *folder.parents) if part.exists())
    if not nearest.is_dir():
        raise ConfigError(f"cannot write to {nearest}: it is not a folder", hint="rename or remove it")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ConfigError(f"cannot write to {nearest}: permission denied, or read-only", hint="allow writing there")


def _parts(project: Path, folder: Path) -> list[Path]:
    """The folder and those above it that are devenv's, the outermost first."""
    return [*(part for part in reversed(folder.parents) if part.is_relative_to(project / FOLDER)), folder]


def _refuse_links(project: Path, folder: Path) -> None:
    for part in _parts(project, folder):
        if part.is_symlink():
            raise ConfigError(
                f"cannot write to {part}: it is a symbolic link (to {part.readlink()})",
                hint="devenv writes secrets there, and only inside the project: remove the link",
            )


def _make(project: Path, folder: Path) -> None:
    _refuse_links(project, folder)
    for part in _parts(project, folder):
        try:
            part.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            reason = "it is not a folder" if part.exists() else error.strerror
            raise ConfigError(f"cannot create {part}: {reason}", hint="make room or allow writing there") from error
    ignored = project / FOLDER / ".gitignore"
    if not ignored.exists() or not ignored.stat().st_size:
        write_files({ignored: b"*\n"})


def _remove(paths: Iterable[Path]) -> None:
    """Remove files of ours, and what a killed devenv left of them. A folder of such a name is none of ours."""
    for path in paths:
        for name in (path, path.with_name(f".{path.name}.new")):
            if name.is_symlink() or not name.is_dir():
                with suppress(OSError):
                    name.unlink()


def _content(path: Path) -> str | None:
    """What the file holds now; None makes it be written, as does a mode that lets others read."""
    try:
        if path.is_symlink() or path.stat().st_mode & 0o077:
            return None
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
