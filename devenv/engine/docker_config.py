"""Read what the docker command line keeps for its user: settings, contexts, proxies for builds."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from devenv.errors import NoEngine

_CONTEXT_HINT = "'docker context ls' lists the contexts"


class Settings(NamedTuple):
    """What config.json holds, and why nobody can read it: "" if devenv could, or if there is no such file."""

    values: Mapping[str, Any]
    fault: str = ""

    def mapping(self, key: str) -> Mapping[str, Any]:
        """Return the mapping under a key; an empty one if something else is there."""
        found = self.values.get(key)
        return found if isinstance(found, dict) else {}

    def text(self, key: str) -> str:
        """Return the text under a key; "" if something else is there."""
        found = self.values.get(key)
        return found if isinstance(found, str) else ""


def settings() -> Settings:
    """Read config.json. A file that cannot be read holds nothing: the docker command line also goes on then."""
    try:
        file = _folder() / "config.json"
        found = json.loads(file.read_text())
    except (FileNotFoundError, NotADirectoryError, RuntimeError):
        # Without HOME, a user who is in no list of users has no home: Path raises RuntimeError.
        return Settings({})
    except OSError as error:
        return Settings({}, f"{file} cannot be read ({error.strerror})")
    except ValueError:
        return Settings({}, f"{file} is not JSON")
    return Settings(found) if isinstance(found, dict) else Settings({}, f"{file} is no mapping")


def proxies(url: str) -> Mapping[str, str]:
    """Return the proxies for builds on the engine at `url`, by the lower case name of their variable."""
    known = settings().mapping("proxies")
    chosen = known.get(url) or known.get("default")
    if not isinstance(chosen, dict):
        return {}
    names = {f"{kind}_proxy": chosen.get(f"{kind}Proxy") for kind in ("http", "https", "ftp", "all", "no")}
    return {name: proxy for name, proxy in names.items() if isinstance(proxy, str)}


def _folder() -> Path:
    """Return the folder with the settings and contexts."""
    return Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")


def current_context() -> str:
    """Return the name of the context in use; "default" is none."""
    return os.environ.get("DOCKER_CONTEXT") or settings().text("currentContext") or "default"


def endpoint_of(context: str) -> str:
    """Return the URL of the engine that a context names, "" if it names none.

    Raises NoEngine if no context has that name, or nobody can read it.
    """
    try:
        # The docker command line keeps a context there.
        file = _folder() / "contexts" / "meta" / hashlib.sha256(context.encode()).hexdigest() / "meta.json"
        return str(json.loads(file.read_text())["Endpoints"]["docker"].get("Host") or "")
    except (FileNotFoundError, RuntimeError):
        # The docker command line refuses, too: another engine than the one you meant would be a surprise.
        raise NoEngine(f"cannot find docker context {context!r}", _CONTEXT_HINT) from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise NoEngine(f"cannot read docker context {context!r}: {file} is damaged", _CONTEXT_HINT) from error
