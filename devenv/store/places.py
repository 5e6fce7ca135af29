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


def state_folder() -> Path:
    """Return the folder of devenv's state: DEVENV_STATE_DIR, else the platform's place for a user's state."""
    return _own("DEVENV_STATE_DIR", platformdirs.user_state_path)


def cache_folder() -> Path:
    """Return the folder of files that devenv can create again: DEVENV_CACHE_DIR, else the platform's place."""
    return _own("DEVENV_CACHE_DIR", platformdirs.user_cache_path)


def _own(variable: str, default: Callable[[str], Path]) -> Path:
    """Return a folder of this user. Raise ConfigError if others could change what is in it."""
    folder = Path(os.environ.get(variable) or default("devenv"))
    if reason := open_to_others(real_path(folder)):
        hint = f"'chmod go-w {folder}' if it is yours, else set {variable} to a folder of your own"
        raise ConfigError(f"cannot use {folder}: {reason}", hint)
    return folder


def wired_record() -> Path:
    """Return the file that records what all environments have merged into files of projects."""
    return state_folder() / "wired.json"


def environment_id(project: Path, name: str) -> str:
    """Return a slug of the folder's name (and of the environment's, unless it is the default) and a hash of both.

    The hash is of the folder's real path, so two checkouts of one name are two environments.
    """
    words = project.name if name == "default" else f"{project.name}-{name}"
    slug = re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")[:24].strip("-") or "project"
    # fsencode: the name of a folder need not be UTF-8.
    digest = hashlib.sha256(os.fsencode(project.resolve()) + f"\0{name}".encode()).hexdigest()
    return f"{slug}-{digest[:8]}"
