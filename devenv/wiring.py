"""Write what the services of an environment offer where programs look for it: files under .devenv/.

`env` and `endpoints.json` come from the services' data; every other file is put together from the templates
that services keep for it under `wire/` in their folder, e.g. compose/mysql/wire/oslo.conf.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

from devenv.errors import ConfigError
from devenv.model import DesiredService, Endpoint, ServiceDefinition
from devenv.state import write_atomically
from devenv.template import render

FOLDER = ".devenv"
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
    """Every file of .devenv/ by name, with its content."""
    endpoints = {name: endpoints_of(service.endpoints) for name, service in services.items()}
    files = {
        ".gitignore": "*\n",
        "env": _HEADER + as_dotenv(flat_map(services.values())),
        "endpoints.json": json.dumps(endpoints, indent=2) + "\n",
    }
    for name, service in services.items():
        for path in sorted((catalogue[name].folder / "wire").glob("*")):
            text = render(path.read_text(encoding="utf-8"), service.values, str(path))
            files[path.name] = f"{files.get(path.name, _HEADER)}{text}"
    return files


def endpoints_of(endpoints: Mapping[str, Endpoint]) -> dict[str, dict[str, str | int]]:
    """Endpoints as devenv prints and writes them."""
    return {key: {"host": e.host, "port": e.port, "url": e.url} for key, e in endpoints.items()}


def write_files(project: Path, files: Mapping[str, str], known: Iterable[str]) -> list[Path]:
    """Make .devenv/ hold these files and none of the other `known` ones; returns what was written.

    Raises ConfigError, with nothing written, if .devenv/ is not a folder of the project's own.
    """
    folder = _folder(project)
    written = []
    for name, content in files.items():
        path = folder / name
        if _content(path) != content:
            write_atomically(path, content.encode())
            written.append(path)
    for name in set(known) - set(files):
        _remove(folder / name)
    return written


def remove_files(project: Path, known: Iterable[str]) -> None:
    """Take away what devenv wrote, and the folder if nothing else is in it."""
    folder = project / FOLDER
    if folder.is_symlink() or not folder.is_dir():
        return
    for name in known:
        _remove(folder / name)
    if not any(folder.iterdir()):
        folder.rmdir()


def known_files(catalogue: Mapping[str, ServiceDefinition]) -> set[str]:
    """The names of all files that devenv may ever write to .devenv/."""
    templates = {path.name for service in catalogue.values() for path in (service.folder / "wire").glob("*")}
    return templates | {".gitignore", "env", "endpoints.json"}


def check_folder(project: Path) -> None:
    """Find out before the work whether .devenv/ can be written. Raises ConfigError if not."""
    folder = _folder(project)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"cannot write to {folder}: permission denied", hint="allow writing there")


def _folder(project: Path) -> Path:
    folder = project / FOLDER
    if folder.is_symlink():
        raise ConfigError(
            f"cannot write to {folder}: it is a symbolic link (to {folder.readlink()})",
            hint="devenv writes secrets there, and only inside the project: remove the link",
        )
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        reason = "it is not a folder" if folder.exists() else error.strerror
        raise ConfigError(f"cannot create {folder}: {reason}", hint="make room or allow writing there") from error
    return folder


def _remove(path: Path) -> None:
    """Remove a file of ours. A folder of that name is none of ours."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)


def _content(path: Path) -> str | None:
    """What the file holds now; None makes it be written, as does a mode that lets others read."""
    try:
        if path.is_symlink() or path.stat().st_mode & 0o077:
            return None
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
