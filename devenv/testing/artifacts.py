"""What is left of an environment for whoever has to find out later why something failed: a folder of files.

    <service>.log     all that a service logged, with timestamps
    status.json       as `devenv status --format json`
    inspect.json      its containers as the engine has them
    engine.json       the engine's version, and the environment's networks and volumes
    events.json       what happened to its containers, as far back as the engine remembers
    timing.json       what the last `up` did and when, and which of it was critical; if there was one
    trace.json        the same for ui.perfetto.dev and chrome://tracing

It leaves the machine, so no secret of the environment is in it. What cannot be found out says so in its place.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devenv.errors import ConfigError, DevenvError
from devenv.images.references import BASE
from devenv.lifecycle.timing import as_data
from devenv.lifecycle.trace import as_trace
from devenv.services.readiness import ServiceStatus
from devenv.store.files import reason_of, way_out
from devenv.store.state import make_folders, write_files

if TYPE_CHECKING:
    from devenv.lifecycle.environment import Environment

HIDDEN = "***"
# Where a URL has one.
_PASSWORD = re.compile(r"(://[^/@]*?:)[^/@]*@")
# Labels with this prefix hold digests and names; others are the image's own, and may hold anything.
_OUR_LABELS = "io.devenv."


def write_artifacts(environment: Environment, folder: Path, passwords: Iterable[str] = ()) -> list[Path]:
    """Write all that can be found out about an environment to a folder, which is made if need be; returns the files.

    `passwords` are those that are not on record: of components for tests.
    It never matters whether services, or the engine, are there. Raises ConfigError where the files cannot be written.
    """
    make_folder(folder, environment.project)
    texts = {f"{service}.log": log for service, log in _logs(environment).items()}
    texts |= {name: _told(find) for name, find in _finders(environment).items()}
    hide = hider(environment, passwords)
    files = {folder / name: hide(text).encode() for name, text in texts.items() if text}
    write_files(files)
    return sorted(files)


def make_folder(folder: Path, project: Path) -> None:
    """Have a folder for artifacts. Raises ConfigError if there can be none, or a link leads out of the project."""
    hint = "name a folder that you may write to"
    if reason := way_out(folder, project):
        raise ConfigError(f"cannot write artifacts to {folder}: {reason}", hint)
    try:
        make_folders(folder)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot write artifacts to {folder}: {reason_of(error)}", hint) from error
    if not folder.is_dir():
        raise ConfigError(f"cannot write artifacts to {folder}: it is no folder", hint)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"cannot write artifacts to {folder}: no permission", hint)


def hider(environment: Environment, passwords: Iterable[str] = ()) -> Callable[[str], str]:
    """What replaces every secret of the environment in a text, and these passwords."""
    known = {*environment.state.secrets((), keep=False).values(), *passwords}
    secrets = sorted(filter(None, known), key=len, reverse=True)

    def hide(text: str) -> str:
        for secret in secrets:
            text = text.replace(secret, HIDDEN)
        return text

    return hide


def status_data(environment: Environment, found: Mapping[str, ServiceStatus]) -> dict[str, Any]:
    """What `devenv status --format json` prints: without passwords, which `devenv env` is for."""
    identity = {"id": environment.id, "name": environment.name, "project": str(environment.project)}
    services = {name: _status(one) for name, one in found.items()}
    return {"environment": identity, "services": services, "strangers": list(environment.strangers)}


def _status(found: ServiceStatus) -> dict[str, Any]:
    where = {key: {**one, "url": _PASSWORD.sub(rf"\1{HIDDEN}@", one["url"])} for key, one in found.endpoints.items()}
    return {**asdict(found), "endpoints": where}


# ---- the files -----------------------------------------------------------------------------------------------------


def _logs(environment: Environment) -> dict[str, str]:
    """What each service logged, or why that is not known."""
    found: dict[str, str] = {}
    try:
        for name in environment.image_references():
            if name != BASE:
                found[name] = "cannot read the log: there is no container\n"
    except DevenvError:
        pass  # status.json says so
    try:
        containers = environment.observe().containers
    except DevenvError as error:
        return dict.fromkeys(found, f"{error.message}\n")
    for name, container in containers.items():
        try:
            lines = environment.engine.logs(container.id, timestamps=True)
            found[name] = "".join(f"{line}\n" for line in lines) or "(nothing was logged)\n"
        except DevenvError as error:
            found[name] = f"{error.message}\n"
    return found


def _finders(environment: Environment) -> dict[str, Callable[[], Any]]:
    """What finds out the content of each JSON file; nothing, if there is to be no such file."""
    return {
        "status.json": lambda: status_data(environment, environment.status()),
        "inspect.json": lambda: _inspected(environment),
        "engine.json": lambda: {
            "version": environment.engine.version(),
            **environment.engine.belongings(environment.id),
        },
        "events.json": lambda: environment.engine.events(environment.id),
        "timing.json": lambda: as_data(run) if (run := environment.last_run()) else None,
        "trace.json": lambda: as_trace(run) if (run := environment.last_run()) else None,
    }


def _told(find: Callable[[], Any]) -> str:
    try:
        found = find()
    except DevenvError as error:
        found = {"error": error.message}
    except (LookupError, TypeError, ValueError) as error:
        # Engines differ, and one file less is no reason to have none.
        found = {"error": f"cannot understand what the engine tells: {error!r}"}
    return "" if found is None else json.dumps(found, indent=2) + "\n"


def _inspected(environment: Environment) -> list[dict[str, Any]]:
    observed = environment.observe()
    containers = [*observed.containers.values(), *observed.extra]
    return [_without_values(environment.engine.inspect(container.id)) for container in containers]


def _without_values(inspected: Mapping[str, Any]) -> dict[str, Any]:
    """The same without what variables and foreign labels hold: it may be anything."""
    config = inspected["Config"]
    labels = {key: text if key.startswith(_OUR_LABELS) else HIDDEN for key, text in (config["Labels"] or {}).items()}
    return {**inspected, "Config": {**config, "Env": _names_only(config["Env"] or ()), "Labels": labels}}


def _names_only(variables: Iterable[str]) -> list[str]:
    return [f"{variable.partition('=')[0]}={HIDDEN}" for variable in variables]
