"""MariaDB: its probe and its provisioner are MySQL's, but for the login."""

from __future__ import annotations

from devenv.services.base import Component
from devenv.services.mysql import MySQL, check

__all__ = ["MariaDB", "check"]


class MariaDB(MySQL):
    """Create a `database`, and a `user` with a `password` that can do everything in it and nothing elsewhere."""

    def _log_in(self, component: Component) -> None:
        """Do nothing: MariaDB lets every client log in that has the password."""
