"""The images of services: content-addressed, built on one base of Debian, or taken from a registry.

The tag of a built image is a hash of all that goes into it: the base's recipe, the Dockerfile, the folder
`image/` beside it if there is one, and the list of Python wheels. Nothing is built while a tag exists.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from voluptuous import Optional, Required, Schema

from devenv import document
from devenv.catalogue import data_folder
from devenv.engine import Engine
from devenv.errors import ServiceFailed
from devenv.model import LABEL_ENVIRONMENT, LABEL_SERVICE, SHARED, Image, Profile, ServiceDefinition
from devenv.state import cache_folder

BASE = "base"
_RECIPE = Schema(
    {Required("image"): str, Required("suite"): str, Optional("exclude"): [str], Optional("include"): [str]}
)
# Debian trixie's Python, for which the wheels are fetched on a host that may have another one.
_PYTHON = "3.13"
# Newest first; PyPI's wheels name the oldest C library that they run on, and trixie has glibc 2.41.
_MANYLINUX = ("2_34", "2_28", "2_17")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY")

Progress = Callable[[str], None]


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
    name, _, digest = image.partition("@")
    path, slash, last = name.rpartition("/")
    if digest:
        return f"{path}{slash}{last.partition(':')[0]}@{digest}"
    return name if ":" in last else f"{name}:latest"


def _recipe() -> dict[str, Any]:
    return document.read(data_folder("compose") / "base.yaml", _RECIPE)


def _base_reference() -> str:
    recipe = _recipe()
    digest = hashlib.sha256(repr(sorted(recipe.items())).encode()).hexdigest()[:12]
    return f"devenv/base:{recipe['suite']}-{digest}"


def _content_hash(service: ServiceDefinition, base: str) -> str:
    digest = hashlib.sha256(base.encode())
    for path in [*_context_files(service), *([service.folder / service.wheels] if service.wheels else [])]:
        digest.update(f"\0{path.relative_to(service.folder)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _context_files(service: ServiceDefinition) -> list[Path]:
    extra = sorted(path for path in service.folder.glob("image/**/*") if path.is_file())
    return [service.folder / "Dockerfile", *extra]


# ---- the base ------------------------------------------------------------------------------------------------


def make_base(engine: Engine, reference: str, progress: Progress) -> None:
    """Have the base on the engine: pulled, or made here. Raises ServiceFailed saying why neither worked."""
    recipe = _recipe()
    try:
        progress(f"pulling {recipe['image']}")
        engine.pull(recipe["image"], progress)
        engine.tag(recipe["image"], reference)
    except ServiceFailed as error:
        progress(f"no registry, making {recipe['suite']} from packages")
        _bootstrap_base(engine, reference, recipe, error.message)


def _bootstrap_base(engine: Engine, reference: str, recipe: Mapping[str, Any], pull_error: str) -> None:
    tool = bootstrap_tool()
    if not tool:
        raise ServiceFailed(
            "cannot get a base image: the registry does not answer, and neither mmdebstrap nor debootstrap is here",
            hint="'devenv doctor --fix' installs mmdebstrap on Debian and Ubuntu",
            detail=[pull_error],
        )
    with tempfile.TemporaryDirectory(prefix="devenv-base-") as folder:
        tarball = Path(folder) / "base.tar"
        make = _mmdebstrap if tool == "mmdebstrap" else _debootstrap
        make(recipe, Path(folder), tarball)
        engine.import_image(reference, tarball, _labels(BASE))


def bootstrap_tool() -> str:
    """The program on this host that can make a base out of packages, or an empty string."""
    return next((tool for tool in ("mmdebstrap", "debootstrap") if shutil.which(tool)), "")


def _mmdebstrap(recipe: Mapping[str, Any], _: Path, tarball: Path) -> None:
    options = [f"--dpkgopt=path-exclude={path}" for path in recipe.get("exclude", ())]
    options += [f"--dpkgopt=path-include={path}" for path in recipe.get("include", ())]
    # A mirror may be a frozen copy, whose Release file has expired.
    options.append('--aptopt=Acquire::Check-Valid-Until "false"')
    mirror = _debian_mirror()
    _run(["mmdebstrap", "--variant=minbase", *options, recipe["suite"], str(tarball), *([mirror] if mirror else [])])


def _debootstrap(recipe: Mapping[str, Any], folder: Path, tarball: Path) -> None:
    root = folder / "root"
    mirror = _debian_mirror()
    _run(["debootstrap", "--variant=minbase", recipe["suite"], str(root), *([mirror] if mirror else [])])
    with tarfile.open(tarball, "w") as archive:
        archive.add(root, arcname=".")


def _debian_mirror() -> str:
    """Where this host gets Debian's packages from; empty elsewhere, for the tool's own default."""
    if not shutil.which("apt-get"):
        return ""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Label: Debian"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  a fixed command
    return next(iter(found.stdout.split()), "")


# ---- one image -------------------------------------------------------------------------------------------------


def build_image(engine: Engine, service: ServiceDefinition, reference: str, base: str, progress: Progress) -> None:
    """Build the image of a service on the base. Raises ServiceFailed with the end of the failing step."""
    wheels = fetch_wheels(engine, service, progress) if service.wheels else None
    arguments = {"BASE": base, **_proxies()}
    with _context(service, wheels) as context:
        engine.build(reference, context, arguments, _labels(service.name), progress)


def fetch_wheels(engine: Engine, service: ServiceDefinition, progress: Progress) -> Path:
    """The folder of wheels that the service's list names, fetched with the host's own pip and its settings.

    Inside the build, pip would know neither the user's mirror nor the certificates of an intercepting proxy.
    """
    requirements = service.folder / service.wheels
    machine = str(engine.info().get("Architecture", platform.machine()))
    digest = hashlib.sha256(requirements.read_bytes() + machine.encode()).hexdigest()[:12]
    folder = cache_folder() / "wheels" / f"{service.name}-{digest}"
    if folder.is_dir():
        return folder
    progress("fetching Python wheels")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        fresh = Path(temporary) / "wheels"
        platforms = [f"--platform=manylinux_{version}_{machine}" for version in _MANYLINUX]
        _run(
            [
                *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"),
                *(f"--python-version={_PYTHON}", "--implementation=cp", *platforms, "--platform=any"),
                *("--requirement", str(requirements), "--dest", str(fresh)),
            ]
        )
        # Somebody else may have been faster: theirs is as good.
        if not folder.is_dir():
            fresh.rename(folder)
    return folder


def _proxies() -> dict[str, str]:
    """The user's proxy settings: the engine hands them to the build's steps and keeps them out of the image."""
    names = [*_PROXIES, *(name.lower() for name in _PROXIES)]
    return {name: os.environ[name] for name in names if os.environ.get(name)}


@contextmanager
def _context(service: ServiceDefinition, wheels: Path | None) -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile() as stream:
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for path in _context_files(service):
                archive.add(path, arcname=str(path.relative_to(service.folder)))
            if wheels:
                archive.add(wheels, arcname="wheels")
        stream.seek(0)
        yield stream


def _labels(name: str) -> dict[str, str]:
    return {LABEL_ENVIRONMENT: SHARED, LABEL_SERVICE: name}


def _run(command: list[str]) -> None:
    """Run a program to its end. Raises ServiceFailed with its last lines."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)  # noqa: S603  ours
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        name = "pip" if "pip" in command else command[0]
        raise ServiceFailed(
            f"cannot finish {name}: exit code {done.returncode}",
            hint="its last lines are above; mend what they say and run the same again",
            detail=lines[-20:],
        )


# ---- housekeeping --------------------------------------------------------------------------------------------


def stale_images(engine: Engine, current: Mapping[str, Image]) -> list[str]:
    """Images that devenv once built and that no present definition asks for, by tag or id."""
    wanted = {image.reference for image in current.values()}
    found = []
    for image in engine.devenv_images():
        tags = [tag for tag in image.get("RepoTags") or () if tag != "<none>:<none>"]
        found += [tag for tag in tags if tag not in wanted] if tags else [image["Id"]]
    return found
