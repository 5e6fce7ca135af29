"""Check and provision each server: one file per server, its probe and provisioner side by side.

This is the door for authors of other services; docs/adding-a-service.md shows how they use it.

    def check(target: Target) -> None: ...        # an entry point in "devenv.probes"; raises NotReady

    class Postgres(Provisioner): ...              # an entry point in "devenv.provisioners"; raises Refused
        def _make(self, component: Component) -> None: ...
        def _remove(self, component: Component) -> None: ...
"""

from devenv.errors import NotReady, ServiceFailed
from devenv.services.base import Component, Provisioner, Refused, Taken, Target

__all__ = ["Component", "NotReady", "Provisioner", "Refused", "ServiceFailed", "Taken", "Target"]
