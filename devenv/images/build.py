"""Build images on one base of Debian, which devenv pulls or makes from packages, with wheels that this host fetches."""

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
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import IO, Any

from devenv.engine.install import PATH, base_tool
from devenv.engine.protocol import Engine
from devenv.engine.tar import pack
from devenv.errors import ServiceFailed
from devenv.images import references
from devenv.model import LABEL_ENVIRONMENT, LABEL_SERVICE, SHARED, ServiceDefinition
from devenv.store.files import make_private
from devenv.store.locks import held
from devenv.store.places import cache_folder

# Newest first. A wheel names the oldest C library that it runs on, and trixie has glibc 2.41.
_MANYLINUX = ("2_34", "2_28", "2_17")

# How often, in seconds, devenv asks whether a running program should go on.
_LOOK_SECONDS = 0.2

Progress = Callable[[str], None]


# ---- the base ------------------------------------------------------------------------------------------------


def make_base(engine: Engine, reference: str, progress: Progress) -> None:
    """Pull the base, or make it from packages. Raise ServiceFailed, with the reasons, if neither works."""
    recipe, draft = references.recipe(), reference + references.DRAFT
    try:
        below = _pull(engine, references.full_reference(recipe["image"]), progress)
        labels = {references.LABEL_BASE: below}
    except ServiceFailed as error:
        progress(f"cannot pull it; making {recipe['suite']} from packages")
        _bootstrap_base(engine, draft, recipe, error.message, progress)
        below, labels = engine.inspect_image(draft)["Id"], {}
    _make(engine, reference, _from(below), {}, {**_labels(references.BASE), **labels}, progress)


def _pull(engine: Engine, wanted: str, progress: Progress) -> str:
    """Pull an image and return its digest: the tag may belong to another image by the next step."""
    progress(f"pulling {wanted}")
    engine.pull(wanted, progress)
    name = wanted.partition("@")[0] if "@" in wanted else wanted.rpartition(":")[0]
    digests = engine.inspect_image(wanted).get("RepoDigests") or ()
    if found := next((digest for digest in digests if digest.partition("@")[0] == name), ""):
        return found
    raise ServiceFailed(
        f"cannot identify image {wanted}: the engine knows no digest of it",
        hint=f"'docker image rm {wanted}', then run the same again: devenv pulls it",
    )


def _bootstrap_base(
    engine: Engine, reference: str, recipe: Mapping[str, Any], pull_error: str, progress: Progress
) -> None:
    tool = base_tool()
    if not tool:
        raise ServiceFailed(
            "cannot get a base image: no registry gave it, and neither mmdebstrap nor debootstrap is installed",
            hint="'devenv doctor --fix' installs mmdebstrap on Debian and Ubuntu",
            detail=[pull_error],
        )
    with tempfile.TemporaryDirectory(prefix="devenv-base-") as folder:
        tarball = Path(folder) / "base.tar"
        make = _mmdebstrap if Path(tool).name == "mmdebstrap" else _debootstrap
        try:
            make(tool, recipe, tarball, progress)
        except ServiceFailed as error:
            error.detail = (*error.detail, pull_error)
            raise
        engine.import_image(reference, tarball, _labels(references.BASE))


def _mmdebstrap(tool: str, recipe: Mapping[str, Any], tarball: Path, progress: Progress) -> None:
    options = [f"--dpkgopt=path-exclude={path}" for path in recipe.get("exclude", ())]
    options += [f"--dpkgopt=path-include={path}" for path in recipe.get("include", ())]
    # A mirror may be a frozen copy, whose Release file has expired.
    options.append('--aptopt=Acquire::Check-Valid-Until "false"')
    mirror = _debian_mirror()
    command = [tool, "--variant=minbase", *options, recipe["suite"], str(tarball)]
    _run([*command, mirror] if mirror else command, progress)


def _debootstrap(tool: str, recipe: Mapping[str, Any], tarball: Path, progress: Progress) -> None:
    root = tarball.parent / "root"
    mirror = _debian_mirror()
    command = [tool, "--variant=minbase", recipe["suite"], str(root)]
    _run([*command, mirror] if mirror else command, progress)
    with tarfile.open(tarball, "w") as archive:
        archive.add(root, arcname=".")


def _debian_mirror() -> str:
    """Return where this host gets Debian's packages from; nothing on other systems, where the tool has a default."""
    if not shutil.which("apt-get"):
        return ""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Label: Debian"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  a fixed command
    return next(iter(found.stdout.split()), "")


# ---- one image -------------------------------------------------------------------------------------------------


def build_image(engine: Engine, service: ServiceDefinition, reference: str, base: str, progress: Progress) -> None:
    """Build the image of a service on the base.

    Raise ServiceFailed with the end of the failing step, NotOurs if another image has the base's name.
    """
    wheels = fetch_wheels(engine, service, progress) if service.wheels else None
    # Name the base by its id: its name may belong to another image by then.
    arguments = {"BASE": references.check_image(engine, base)}
    files = {str(path.relative_to(service.folder)): path.read_bytes() for path in references.context_files(service)}
    files |= {f"wheels/{path.name}": path.read_bytes() for path in sorted(wheels.iterdir())} if wheels else {}
    _make(engine, reference, pack(files, mode=0o644), arguments, _labels(service.name), progress)


def _make(
    engine: Engine,
    reference: str,
    context: IO[bytes],
    arguments: Mapping[str, str],
    labels: Mapping[str, str],
    progress: Progress,
) -> None:
    """Build an image under a draft name, then again with the label that says what is in it and the real name."""
    draft = reference + references.DRAFT
    engine.build(draft, context, arguments, labels, progress)
    image = engine.inspect_image(draft)
    content = {references.LABEL_CONTENT: references.content_of(reference, image)}
    engine.build(reference, _from(image["Id"]), {}, content, progress)
    engine.remove_image(draft)


def _from(image: str) -> IO[bytes]:
    return pack({"Dockerfile": f"FROM {image}\n".encode()})


def fetch_wheels(engine: Engine, service: ServiceDefinition, progress: Progress) -> Path:
    """Fetch the wheels of the service's list with the host's own pip; return their folder.

    Inside the build, pip would know neither the user's mirror nor the certificates of an intercepting proxy.
    """
    requirements = service.folder / service.wheels
    machine = engine.about().architecture or platform.machine()
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
    digest = hashlib.sha256(requirements.read_bytes() + machine.encode()).hexdigest()[:12]
    folder = cache_folder() / "wheels" / f"{service.name}-{digest}"
    if folder.is_dir():
        return folder
    progress("fetching Python wheels")
    make_private(folder.parent)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        fresh = Path(temporary) / "wheels"
        make_private(fresh)
        platforms = [f"--platform=manylinux_{version}_{machine}" for version in _MANYLINUX]
        _run(
            [
                # -P: with -m alone, Python would run a pip.py in the project's folder.
                *(sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"),
                *(f"--python-version={references.PYTHON}", "--implementation=cp", *platforms, "--platform=any"),
                *("--requirement", str(requirements), "--dest", str(fresh)),
            ],
            progress,
        )
        try:
            fresh.rename(folder)
        except OSError:
            # Another devenv was faster: use its wheels.
            if not folder.is_dir():
                raise
    return folder


def _labels(name: str) -> dict[str, str]:
    return {LABEL_ENVIRONMENT: SHARED, LABEL_SERVICE: name}


def _run(command: list[str], progress: Progress) -> None:
    """Run a program to its end, or until `progress` raises. Raise ServiceFailed with its last lines if it fails."""
    name = "pip" if "pip" in command else Path(command[0]).name
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "PATH": PATH}
    with tempfile.TemporaryFile("w+") as log:
        with subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment) as process:  # noqa: S603  ours
            try:
                while process.poll() is None:
                    progress(f"running {name}")
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(_LOOK_SECONDS)
            except BaseException:
                process.terminate()
                raise
        log.seek(0)
        lines = log.read().strip().splitlines()
    if process.returncode:
        raise ServiceFailed(
            f"cannot finish {name}: exit code {process.returncode}",
            hint="its last lines are above; fix what they say and run the same again",
            detail=lines[-20:],
        )


@contextmanager
def build_lock(reference: str, progress: Progress, over: Event | None = None) -> Iterator[None]:
    """Let one devenv of this user build an image at a time. Raise Cancelled if `over` is set before its turn."""
    with held(cache_folder() / f"{reference.replace('/', '-').replace(':', '-')}.lock", progress, over):
        yield
