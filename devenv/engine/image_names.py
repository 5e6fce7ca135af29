"""How engines spell the names of images, and how devenv does."""

from __future__ import annotations

# How the names of all images begin that devenv makes.
IMAGES = "devenv/"
_OURS = f"localhost/{IMAGES}"


def familiar(reference: str) -> str:
    """Return an image's reference as people write it: without the registry and the namespaces that engines add."""
    for implied in ("docker.io/library/", "index.docker.io/library/", "docker.io/", "index.docker.io/"):
        if reference.startswith(implied):
            return reference.removeprefix(implied)
    # Podman puts images built on the host in this namespace. In any other reference, it is part of the name.
    return reference.removeprefix("localhost/") if reference.startswith(_OURS) else reference
