"""Talk to the container engine: the verbs of any engine, and how Docker and Podman do them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from devenv.engine.protocol import Engine


def connect() -> Engine:
    """Connect to the engine that the docker command line would use, else to a rootless one or Podman.

    Another kind of engine is chosen here. Raises NoEngine, naming the endpoint, when nothing answers there.
    """
    # Imported here: whoever imports one room of this package needs no engine.
    from devenv.engine.connection import open_connection
    from devenv.engine.docker import Docker

    return Docker(open_connection())
