"""Write a folder of files that show later why something in an environment failed.

    <service>.log     the complete log of a service, with timestamps
    status.json       as `devenv status --format json`
    inspect.json      the containers, as the engine describes them
    engine.json       the engine's version, and the environment's networks and volumes
    events.json       events of the containers, as far back as the engine remembers
    timing.json       step times and the critical path of the last `up`, if there was one
    trace.json        the same for ui.perfetto.dev and chrome://tracing

The folder leaves the machine, so it holds no secret of the environment. A file that devenv cannot fill says why.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devenv.errors import ConfigError, DevenvError
from devenv.hiding import HIDDEN, hide
from devenv.images.references import BASE
from devenv.lifecycle.timing import as_data
from devenv.lifecycle.trace import as_trace
from devenv.services.readiness import ServiceStatus
from devenv.store.files import folder_obstacle, make_folders, reason_of, write_files

if TYPE_CHECKING:
    from devenv.lifecycle.environment import Environment, Statuses

# The part of a URL that holds a password.
_PASSWORD = re.compile(r"(://[^/@]*?:)[^/@]*@")
# Labels with this prefix hold digests and names. Other labels belong to the image and may hold anything.
_OUR_LABELS = "io.devenv."


def write_artifacts(environment: Environment, folder: Path, passwords: Iterable[str] = ()) -> list[Path]:
    """Write to a folder everything that devenv can find out about an environment; return the files.

    Creates the folder if needed, and works without services and without an engine. `passwords` are those that are not
    on record, such as passwords of components for tests. Raises ConfigError if devenv cannot write the files.
    """
    make_folder(folder, environment.project)
    texts = {f"{service}.log": log for service, log in _logs(environment).items()}
    texts |= {name: _text_of(find) for name, find in _finders(environment).items()}
    clean = hider(environment, passwords)
    files = {folder / name: clean(text).encode() for name, text in texts.items() if text}
    write_files(files)
    return sorted(files)


def make_folder(folder: Path, project: Path) -> None:
    """Create a folder for artifacts. Raise ConfigError if that fails, or if a link leads out of the project."""
    hint = "name a folder that you may write to"
    if reason := folder_obstacle(folder, project):
        raise ConfigError(f"cannot write artifacts to {folder}: {reason}", hint)
    try:
        make_folders(folder)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot write artifacts to {folder}: {reason_of(error)}", hint) from error


def hider(environment: Environment, passwords: Iterable[str] = ()) -> Callable[[str], str]:
    """Return a function that hides the secrets of the environment, and these passwords, in a text."""
    known = {*environment.state.passwords(), *passwords}
    return lambda text: hide(text, known)


def status_data(environment: Environment, found: Statuses) -> dict[str, Any]:
    """Return what `devenv status --format json` prints. Passwords are hidden; `devenv env` prints them."""
    identity = {"id": environment.id, "name": environment.name, "project": str(environment.project)}
    services = {name: {**_status(one), "wanted": name in found.wanted} for name, one in found.items()}
    return {"environment": identity, "services": services, "strangers": list(environment.strangers)}


def _status(found: ServiceStatus) -> dict[str, Any]:
    where = {key: {**one, "url": _PASSWORD.sub(rf"\1{HIDDEN}@", one["url"])} for key, one in found.endpoints.items()}
    return {**asdict(found), "endpoints": where}


# ---- the files -----------------------------------------------------------------------------------------------------


def _logs(environment: Environment) -> dict[str, str]:
    """Return the log of each service, or why devenv cannot read it."""
    found: dict[str, str] = {}
    try:
        for name in environment.image_references():
            if name != BASE:
                found[name] = "cannot read the log: the service has no container\n"
    except DevenvError:
        pass  # status.json says so
    try:
        containers = environment.observe().containers
    except DevenvError as error:
        return dict.fromkeys(found, f"{error.message}\n")
    for name, container in containers.items():
        try:
            lines = environment.engine.logs(container.id, timestamps=True)
            found[name] = "".join(f"{line}\n" for line in lines) or "(the service logged nothing)\n"
        except DevenvError as error:
            found[name] = f"{error.message}\n"
    return found


def _finders(environment: Environment) -> dict[str, Callable[[], Any]]:
    """Return, for each JSON file, a function that returns its content, or None for no such file."""
    return {
        "status.json": lambda: status_data(environment, environment.status()),
        "inspect.json": lambda: _inspected(environment),
        "engine.json": lambda: environment.engine.belongings(environment.id),
        "events.json": lambda: environment.engine.events(environment.id),
        "timing.json": lambda: as_data(run) if (run := environment.last_run()) else None,
        "trace.json": lambda: as_trace(run) if (run := environment.last_run()) else None,
    }


def _text_of(find: Callable[[], Any]) -> str:
    try:
        found = find()
    except DevenvError as error:
        found = {"error": error.message}
    except (LookupError, TypeError, ValueError) as error:
        # Engines differ. One file that fails must not cost the others.
        found = {"error": f"cannot understand the engine's answer: {error!r}"}
    return "" if found is None else json.dumps(found, indent=2) + "\n"


def _inspected(environment: Environment) -> list[dict[str, Any]]:
    observed = environment.observe()
    containers = [*observed.containers.values(), *observed.extra]
    return [_without_values(environment.engine.inspect(container.id)) for container in containers]


def _without_values(inspected: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inspection without the values of variables and of foreign labels, which may hold secrets."""
    config = inspected["Config"]
    labels = {key: text if key.startswith(_OUR_LABELS) else HIDDEN for key, text in (config["Labels"] or {}).items()}
    return {**inspected, "Config": {**config, "Env": _names_only(config["Env"] or ()), "Labels": labels}}


def _names_only(variables: Iterable[str]) -> list[str]:
    return [f"{variable.partition('=')[0]}={HIDDEN}" for variable in variables]
