"""The images of services: content-addressed, built on one base of Debian, or taken from a registry.

The tag of a built image is a hash of all that goes into it: the base's recipe, the Dockerfile, the folder
`image/` beside it if there is one, and the list of Python wheels. Nothing is built while a tag exists.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from voluptuous import Optional, Required, Schema

from devenv import document, golden
from devenv.catalogue import data_folder
from devenv.engine import Engine
from devenv.model import Image, Profile, ServiceDefinition
from devenv.names import familiar

BASE = "base"
_RECIPE = Schema(
    {Required("image"): str, Required("suite"): str, Optional("exclude"): [str], Optional("include"): [str]}
)
# Debian trixie's Python, for which the wheels are fetched on a host that may have another one.
PYTHON = "3.13"


# ---- which image ------------------------------------------------------------------------------------------


def images_for(profile: Profile, catalogue: Mapping[str, ServiceDefinition]) -> dict[str, Image]:
    """The image of each service of the catalogue, and the base under its own name."""
    base = _base_reference()
    images = {BASE: Image(base, "base")}
    for name, service in catalogue.items():
        choice = profile.services.get(name)
        if choice and choice.image:
            images[name] = Image(full_reference(choice.image), "pull", name)
        elif service.build:
            images[name] = Image(f"{service.image}:{_content_hash(service, base)}", "build", name, service.wheels)
        else:
            images[name] = Image(full_reference(service.image), "pull", name)
    return images


def full_reference(image: str) -> str:
    """The image as the engine lists it: with the tag that is implied, and without one beside a digest."""
    name, _, digest = familiar(image).partition("@")
    path, slash, last = name.rpartition("/")
    if digest:
        return f"{path}{slash}{last.partition(':')[0]}@{digest}"
    return name if ":" in last else f"{name}:latest"


def recipe() -> dict[str, Any]:
    """How the base is made."""
    return document.read(data_folder("compose") / "base.yaml", _RECIPE)


def _base_reference() -> str:
    wanted = recipe()
    digest = hashlib.sha256(repr(sorted(wanted.items())).encode()).hexdigest()[:12]
    return f"devenv/base:{wanted['suite']}-{digest}"


def _content_hash(service: ServiceDefinition, base: str) -> str:
    digest = hashlib.sha256(f"{base}\0{PYTHON if service.wheels else ''}".encode())
    for path in [*context_files(service), *([service.folder / service.wheels] if service.wheels else [])]:
        digest.update(f"\0{path.relative_to(service.folder)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def context_files(service: ServiceDefinition) -> list[Path]:
    """The files of a service that its build sees."""
    extra = sorted(path for path in service.folder.glob("image/**/*") if path.is_file())
    return [service.folder / "Dockerfile", *extra]


# ---- housekeeping --------------------------------------------------------------------------------------------


def stale_images(engine: Engine, current: Iterable[Image]) -> list[str]:
    """Images that devenv once built and that no present definition asks for, by tag or id.

    Not golden states: another project may begin with them, and `devenv gc` knows how old they are.
    """
    wanted = {image.reference for image in current}
    found = []
    for image in engine.devenv_images():
        tags = [tag for tag in image.get("RepoTags") or () if tag != "<none>:<none>"]
        if any(tag.startswith(f"{golden.REPOSITORY}:") for tag in tags):
            continue
        found += [tag for tag in tags if tag not in wanted] if tags else [image["Id"]]
    return found
