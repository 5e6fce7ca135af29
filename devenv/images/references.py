"""Say which image each service runs: built on one base of Debian, or taken from a registry.

The tag of a built image is a hash of all that goes into it: the base's recipe, the Dockerfile, the folder `image/`
beside it if there is one, and the list of Python wheels. devenv builds no image whose tag exists. A label holds a hash
of the result. By it, devenv recognises an image that has one of its names but other content, and does not use it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from voluptuous import Optional, Required, Schema

from devenv.engine.image_names import familiar
from devenv.engine.protocol import Engine
from devenv.errors import NotOurs
from devenv.model import (
    LABEL_ENVIRONMENT,
    LABEL_SERVICE,
    SHARED,
    Catalogue,
    Desired,
    Image,
    Plan,
    Profile,
    ServiceDefinition,
)
from devenv.spec.catalogue import data_folder
from devenv.spec.components import digest
from devenv.spec.strict_yaml import read

# Images of a service with a golden state beside it, from which its pod copies that.
POD_REPOSITORY = "devenv/golden-for-pods"
BASE = "base"
# The package in the base whose version is the release of Debian.
BASE_PACKAGE = "base-files"
_RECIPE = Schema(
    {Required("image"): str, Required("suite"): str, Optional("exclude"): [str], Optional("include"): [str]}
)
# Debian trixie's Python. The host that fetches the wheels may have another one.
PYTHON = "3.13"
# The end of an image's name while devenv builds it.
DRAFT = "-draft"
# Raise it when the same files make other images: devenv then builds all of them again.
_FORMAT = 2
# Labels of an image that devenv built: a hash of its name and content; the public image that it stands on.
LABEL_CONTENT, LABEL_BASE = "io.devenv.content", "io.devenv.base"
# The settings of an image that decide what its containers run.
_SETTINGS = ("Entrypoint", "Cmd", "Env", "User", "WorkingDir")


# ---- which image ------------------------------------------------------------------------------------------


def images_for(profile: Profile, catalogue: Catalogue) -> dict[str, Image]:
    """Return the image of each service of the catalogue, and the base under its own name. Attached ones have none."""
    base, secrets = _base_reference(), profile.image_pull_secrets
    images = {BASE: Image(base, "base")}
    for name, service in catalogue.items():
        if service.attachment:
            continue
        choice = profile.services.get(name)
        if choice and choice.image:
            images[name] = Image(full_reference(choice.image), "pull", name, pull_secrets=secrets)
        elif service.build:
            reference = f"{service.image}:{_content_hash(service, base)}"
            images[name] = Image(reference, "build", name, service.wheels, profile.image_registry, secrets)
        else:
            images[name] = Image(full_reference(service.image), "pull", name, pull_secrets=secrets)
    return images


def full_reference(image: str) -> str:
    """Return an image as the engine lists it: with the implied tag, but without a tag beside a digest."""
    name, _, digest = familiar(image).partition("@")
    path, slash, last = name.rpartition("/")
    if digest:
        return f"{path}{slash}{last.partition(':')[0]}@{digest}"
    return name if ":" in last else f"{name}:latest"


def recipe() -> dict[str, Any]:
    """Read how the base is built."""
    return read(data_folder("compose") / "base.yaml", _RECIPE)


def _base_reference() -> str:
    wanted = recipe()
    content = hashlib.sha256(repr([_FORMAT, *sorted(wanted.items())]).encode()).hexdigest()[:12]
    return f"devenv/base:{wanted['suite']}-{content}"


def _content_hash(service: ServiceDefinition, base: str) -> str:
    content = hashlib.sha256(f"{base}\0{PYTHON if service.wheels else ''}".encode())
    for path in [*context_files(service), *([service.folder / service.wheels] if service.wheels else [])]:
        content.update(f"\0{path.relative_to(service.folder)}\0".encode() + path.read_bytes())
    return content.hexdigest()[:12]


def context_files(service: ServiceDefinition) -> list[Path]:
    """Return the files of a service that its build sees."""
    extra = sorted(path for path in service.folder.glob("image/**/*") if path.is_file())
    return [service.folder / "Dockerfile", *extra]


# ---- whether devenv built it -----------------------------------------------------------------------------------


def content_of(reference: str, image: Mapping[str, Any]) -> str:
    """Return the content label that an image (as the engine inspects it) has if devenv built it under that name."""
    return digest([reference, image["RootFS"]["Layers"], *(image["Config"].get(key) or None for key in _SETTINGS)])


def is_genuine(reference: str, image: Mapping[str, Any]) -> bool:
    """Return whether devenv built the image under that name and nobody changed it since."""
    return _labels_of(image).get(LABEL_CONTENT) == content_of(reference, image)


def check_image(engine: Engine, reference: str) -> str:
    """Return the id of an image that devenv built. Raise NotOurs if another image has its name."""
    image = engine.inspect_image(reference)
    if not is_genuine(reference, image):
        raise _not_ours(reference, image)
    return str(image["Id"])


def check_used(engine: Engine, plan: Plan, desired: Desired, there: Collection[str]) -> None:
    """Raise NotOurs if the plan would use an image that has one of devenv's names and that devenv did not build.

    `there` are the references that the engine has. If the plan creates no container, this asks the engine nothing.
    """
    used = [desired.services[op.target].image for op in plan.operations if op.action == "create"]
    if any(op.action == "build image" and op.target != BASE for op in plan.operations):
        used += [image for image in desired.images if image.how == "base"]
    for image in used:
        if image.how != "pull" and image.reference in there:
            check_image(engine, image.reference)
    for op in plan.operations:
        if op.action == "fill":
            check_data(engine, op.subject, op.service, desired.environment)


def check_data(engine: Engine, reference: str, service: str, environment: str) -> None:
    """Raise NotOurs unless devenv imported the image as data of that service: it then has one layer."""
    image = engine.inspect_image(reference)
    labels = _labels_of(image)
    ours = labels.get(LABEL_SERVICE) == service and labels.get(LABEL_ENVIRONMENT) in (SHARED, environment)
    if not ours or len(image["RootFS"]["Layers"]) != 1:
        raise _not_ours(reference, image)


def _labels_of(image: Mapping[str, Any]) -> Mapping[str, str]:
    return image["Config"].get("Labels") or {}


def _not_ours(reference: str, image: Mapping[str, Any]) -> NotOurs:
    return NotOurs(
        f"cannot use image {reference}: devenv did not build it ({image['Id'][:19]})",
        hint=f"keep it by another name with 'docker tag'; 'docker image rm {reference}', then run the same again",
    )


# ---- housekeeping --------------------------------------------------------------------------------------------


def stale_images(engine: Engine, current: Iterable[Image]) -> list[str]:
    """Return the names of images that devenv built and that no present definition asks for.

    Golden states are not among them: another project may begin with them, and `devenv gc` knows their age. Nor are
    images with another name, or none: an image that somebody built on one of devenv's has all of its labels.
    """
    wanted = {image.reference for image in current if image.how != "pull"}
    # Those for pods are there to be pushed or loaded, and quickly made again.
    repositories = {POD_REPOSITORY, *(reference.rpartition(":")[0] for reference in wanted)}
    tags = [tag for image in engine.devenv_images() for tag in image.get("RepoTags") or ()]
    # Keep the draft of a wanted image: another devenv may be building it.
    return [tag for tag in tags if tag.rpartition(":")[0] in repositories and tag.removesuffix(DRAFT) not in wanted]
