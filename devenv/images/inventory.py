"""Describe the images of an environment: which ones they are, whether devenv built them, what is in them."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

from devenv.engine.protocol import Capability, Engine
from devenv.engine.tar import Chunks
from devenv.errors import ConfigError, DevenvError
from devenv.images.references import BASE, BASE_PACKAGE, LABEL_BASE, check_image, images_for, is_genuine, stale_images
from devenv.images.sbom import Contents, Package, debian_packages, python_package, spdx
from devenv.model import Catalogue, Image, Profile
from devenv.store.files import make_private, written_whole
from devenv.store.places import cache_folder

# dpkg's record of what is installed, and the folder for packages that images unpack without dpkg, one file each.
_DPKG, _DPKG_MORE = "/var/lib/dpkg/status", "/var/lib/dpkg/status.d"
_PYTHON_PATH = "PYTHONPATH="
_METADATA = ".dist-info/METADATA"
# Raise it when devenv reads other things of an image. Lists of format 1 end early if they were read on Podman.
_FORMAT = 2


@dataclass(frozen=True)
class ImageStatus:
    """The image of a service: its size in bytes, or None if the engine does not have it.

    `id` is the image's own digest, `digest` the name and digest by which it was pulled, if it was; `base` is the public
    image that it was built on, by its digest. `version` is that of the main package in it. An image that is not
    `genuine` has one of devenv's names but other content: devenv does not use it.
    """

    service: str
    reference: str
    size: int | None = None
    id: str = ""
    digest: str = ""
    version: str = ""
    base: str = ""
    genuine: bool = True


def list_images(engine: Engine, wanted: Mapping[str, Image], catalogue: Catalogue) -> list[ImageStatus]:
    """Return the status of each image of `wanted`, which is by service, with the base among them."""
    there = engine.images()
    sizes = engine.image_sizes() if Capability.KEEP_DATA in engine.can else {}
    return [
        _status(engine, name, image, sizes.get(image.reference), catalogue)
        if image.reference in there
        else ImageStatus(name, image.reference)
        for name, image in wanted.items()
    ]


def _status(engine: Engine, service: str, image: Image, size: int | None, catalogue: Catalogue) -> ImageStatus:
    found = engine.inspect_image(image.reference)
    status = ImageStatus(
        service,
        image.reference,
        # Docker with containerd's store says the compressed size here, and the one on its disk in its list.
        int(found["Size"]) if size is None else size,
        str(found["Id"]),
        _pulled_as(image, found),
        base=(found["Config"].get("Labels") or {}).get(LABEL_BASE, ""),
        genuine=image.how == "pull" or is_genuine(image.reference, found),
    )
    if image.how == "pull" or not status.genuine:
        return status
    wanted = BASE_PACKAGE if service == BASE else catalogue[service].package
    versions = {package.name: package.version for package in _packages(engine, found)}
    return replace(status, version=versions.get(wanted, ""))


def sbom(engine: Engine, wanted: Sequence[Image]) -> dict[str, Any]:
    """Return the packages in these images, as a document of SPDX 2.3.

    Raise ConfigError if an image is missing, NotOurs if another image has the name of one that devenv built.
    """
    from devenv import __version__

    there, contents = engine.images(), []
    if missing := [image.reference for image in wanted if image.reference not in there]:
        raise ConfigError(
            f"cannot list packages: {', '.join(missing)} not there", "'devenv images build' or 'devenv up' first"
        )
    for image in wanted:
        if image.how != "pull":
            check_image(engine, image.reference)
        found = engine.inspect_image(image.reference)
        pulled = _pulled_as(image, found).partition("@")[2]
        contents.append(Contents(image.reference, str(found["Id"]), pulled, _packages(engine, found)))
    return spdx(contents, f"openstack-devenv-{__version__}")


def prune_images(engine: Engine, images: Mapping[str, Image], catalogue: Catalogue) -> list[str]:
    """Remove images that devenv built and that no definition asks for any more; return their references."""
    # This project may name an image of its own for a service. Others still want the one that devenv builds.
    wanted = {*images_for(Profile("", {}), catalogue).values(), *images.values()}
    return [reference for reference in stale_images(engine, wanted) if engine.remove_image(reference)]


def _packages(engine: Engine, image: Mapping[str, Any]) -> list[Package]:
    """Return the packages in an image. devenv reads an image once, since it never changes."""
    cached = cache_folder() / "packages" / f"{image['Id'].rpartition(':')[2]}-{_FORMAT}.json"
    if (known := _known(cached)) is not None:
        return known
    found = sorted(_read(engine, image))
    # If devenv cannot keep the list, it reads the image again next time.
    with suppress(DevenvError):
        make_private(cached.parent)
        with written_whole(cached) as stream:
            stream.write(json.dumps([astuple(package) for package in found]).encode())
    return found


def _pulled_as(image: Image, found: Mapping[str, Any]) -> str:
    """Return the name and digest by which an image was pulled, or nothing."""
    # Podman, and Docker with containerd's store, give a digest to what they built, too. No registry knows it.
    if image.how != "pull":
        return ""
    name = Contents(image.reference, "", "", ()).name
    return next((digest for digest in found.get("RepoDigests") or () if digest.partition("@")[0] == name), "")


def _known(cached: Path) -> list[Package] | None:
    """Return the packages that devenv kept before, or None if the file is missing or garbled."""
    try:
        return [Package(*map(str, package)) for package in json.loads(cached.read_text())]
    except (OSError, ValueError, TypeError):
        return None


def _read(engine: Engine, image: Mapping[str, Any]) -> Iterator[Package]:
    """Read the packages in an image out of a container that is never started."""
    paths = [v.removeprefix(_PYTHON_PATH) for v in image["Config"].get("Env") or () if v.startswith(_PYTHON_PATH)]
    with engine.unstarted(image["Id"]) as container:
        for folder in (_DPKG, _DPKG_MORE):
            for _name, text in _files(engine, container, folder, ""):
                yield from debian_packages(text)
        for folder in (folder for path in paths for folder in path.split(":") if folder):
            for name, text in _files(engine, container, folder, _METADATA):
                # Packages of this folder, not those that a package bundles.
                if name.count("/") == 2 and (package := python_package(text)):
                    yield package


def _files(engine: Engine, container: str, path: str, suffix: str) -> Iterator[tuple[str, str]]:
    """Yield name and text of the files at a container's path that end with `suffix`; none if the path is missing."""
    if not engine.has(container, path):
        return
    with (
        closing(engine.read_folder(container, path)) as chunks,
        tarfile.open(fileobj=Chunks(chunks), mode="r|") as tar,
    ):
        for member in tar:
            if member.isreg() and member.name.endswith(suffix) and (content := tar.extractfile(member)):
                yield member.name, content.read().decode(errors="replace")
