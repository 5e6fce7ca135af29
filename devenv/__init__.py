"""devenv: the base services of OpenStack on your own machine, ready for use and wired into your config.

from devenv import Environment

environment = Environment()
environment.up()
print(environment.env()["DEVENV_MYSQL_URL"])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from devenv.lifecycle.environment import Environment

__version__ = "0.1.0"
__all__ = ["Environment", "__version__"]


def __getattr__(name: str) -> Any:
    # Import it lazily: `devenv --help` must not load the engine's library.
    if name == "Environment":
        from devenv.lifecycle.environment import Environment

        return Environment
    raise AttributeError(f"module 'devenv' has no attribute {name!r}")
