"""Find the folders of devenv's state and cache, and the id under which devenv keeps an environment."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

import platformdirs

from devenv.errors import ConfigError
from devenv.store.files import open_to_others, real_path

# In the folder of an environment: its record, what forwards its ports to this host, and the token under which this host
# has the lock that it shares with others.
RECORD, FORWARD, HOLDER = "record.json", "forward", "holder"


def state_folder() -> Path:
    """Return the folder of devenv's state: DEVENV_STATE_DIR, else the platform's place for a user's state."""
    folder = named_by("DEVENV_STATE_DIR") or _below_home(platformdirs.user_state_path)
    if folder is None:
        reason = f"HOME is not set, and the system knows no home of user {os.getuid()}"
        hint = "set HOME or DEVENV_STATE_DIR to a folder that you may write to"
        raise ConfigError(f"cannot choose a folder for devenv's state: {reason}", hint)
    return _private(folder, "DEVENV_STATE_DIR")


def cache_folder() -> Path:
    """Return the folder of files that devenv can create again: DEVENV_CACHE_DIR, else the platform's place.

    If no home is known, it is in the state folder.
    """
    folder = named_by("DEVENV_CACHE_DIR") or _below_home(platformdirs.user_cache_path) or state_folder() / "cache"
    return _private(folder, "DEVENV_CACHE_DIR")


def named_by(variable: str) -> Path | None:
    """Return the place that a variable names, or None if it is not set.

    Raise ConfigError for a relative path, which would be another place in each working directory.
    """
    if not (text := os.environ.get(variable)):
        return None
    if Path(text).is_absolute():
        return Path(text)
    # Only a shell expands ~. Path.expanduser raises if no home is known.
    meant = Path(os.path.expanduser(text)).absolute()  # noqa: PTH111
    raise ConfigError(f"cannot use {variable}={text}: the path is relative", f"write {variable}={meant}")


def _below_home(usual: Callable[[str], Path]) -> Path | None:
    """Return the platform's place, or None if no home is known."""
    try:
        folder = usual("devenv")
    except RuntimeError:
        return None
    # Older releases of platformdirs return a path that begins with ~, or with a relative HOME.
    return folder if folder.is_absolute() else None


def _private(folder: Path, variable: str) -> Path:
    """Return the folder. Raise ConfigError if this user may not see it, or others could change what is in it."""
    try:
        folder.stat()
    except PermissionError:  # HOME is another user's after `su` or `sudo -E`, for one.
        hint = f"set {variable}, or HOME, to a folder of your own"
        raise ConfigError(f"cannot use {folder}: no permission to look into it", hint) from None
    except OSError:
        pass  # devenv creates it, or says why not.
    if reason := open_to_others(real_path(folder)):
        hint = f"'chmod go-w {folder}' if it is yours, else set {variable} to a folder of your own"
        raise ConfigError(f"cannot use {folder}: {reason}", hint)
    return folder


def environment_folder(identity: str) -> Path:
    """Return the folder of what devenv remembers of one environment."""
    return state_folder() / "environments" / identity


def forward_folder(identity: str) -> Path:
    """Return the folder of what forwards an environment's ports from an engine elsewhere. It is there while that is."""
    return environment_folder(identity) / FORWARD


def wired_record() -> Path:
    """Return the file that records what all environments have merged into files of projects."""
    return state_folder() / "wired.json"


def shared_id(shared: str, name: str) -> str:
    """Return the id of an environment that several hosts share: it is the same on each, wherever the project is."""
    return _identity(shared, name, b"shared\0" + shared.encode())


def environment_id(project: Path, name: str) -> str:
    """Return a slug of the folder's name (and of the environment's, unless it is the default) and a hash of both.

    The hash is of the folder's real path, so two checkouts of one name are two environments.
    """
    # fsencode: the name of a folder need not be UTF-8.
    return _identity(project.name, name, os.fsencode(project.resolve()))


def _identity(called: str, name: str, of: bytes) -> str:
    words = called if name == "default" else f"{called}-{name}"
    slug = re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")[:24].strip("-") or "project"
    digest = hashlib.sha256(of + f"\0{name}".encode()).hexdigest()
    return f"{slug}-{digest[:8]}"
