"""Carry the images of a profile's services and their golden states in one file, for the cache of a CI.

devenv can compute the keys of a cache before any image exists: from the definitions and files that images and golden
states are made from. The key for golden states begins with the key for images.
"""

from __future__ import annotations

import json
import platform
import posixpath
import tarfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from devenv.engine.image_names import IMAGES, familiar
from devenv.engine.protocol import Engine
from devenv.errors import ConfigError
from devenv.images import golden
from devenv.images.references import BASE
from devenv.model import Catalogue, Desired, Image, Profile
from devenv.spec.components import digest
from devenv.spec.desired import Inputs, resolve, secret_names
from devenv.spec.ports import usual_ports
from devenv.store.files import written_whole

_MACHINES = {"AMD64": "x86_64", "amd64": "x86_64", "arm64": "aarch64"}
# How many bytes of an archive devenv reads at a time.
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Archive:
    """A file of images: the references of images and of golden states in it, and its size in bytes."""

    images: tuple[str, ...]
    golden: tuple[str, ...]
    size: int


def cache_keys(
    environment: str, names: Sequence[str], profile: Profile, catalogue: Catalogue, images: Mapping[str, Image]
) -> dict[str, str]:
    """Return the keys of a cache that holds the `images` of these services, or `golden` states, too.

    They are the same wherever the content is the same. This asks no engine.
    """
    references = sorted({images[name].reference for name in (BASE, *names)})
    machine = platform.machine()
    key = f"devenv-{_MACHINES.get(machine, machine)}-{digest(references)}"
    desired = on_paper(environment, names, profile, catalogue, images)
    # A reference stands for its image's id.
    states = golden.references(desired, catalogue, {reference: reference for reference in references})
    return {"images": key, "golden": f"{key}-{digest(sorted(states.values()))}"}


def on_paper(
    environment: str, names: Sequence[str], profile: Profile, catalogue: Catalogue, images: Mapping[str, Image]
) -> Desired:
    """Return the desired state with any ports and secrets, which make no difference to images and golden states."""
    ports = usual_ports(names, catalogue)
    secrets = dict.fromkeys(secret_names(names, profile, catalogue), "secret")
    return resolve(names, Inputs(environment, profile, catalogue, images, ports, secrets))


def save_images(
    engine: Engine,
    desired: Desired,
    there: Mapping[str, str],
    catalogue: Catalogue,
    target: Path | IO[bytes],
    note: Callable[[str], None],
) -> Archive:
    """Write the images of the desired services and their golden states; `there` maps what the engine has to ids.

    devenv writes a file completely or not at all. Raise ConfigError if an image is missing, or devenv cannot write.
    """
    # The base is there if an image was built here; the next build needs it.
    wanted = [image.reference for image in desired.images if image.how != "base" or image.reference in there]
    if missing := [reference for reference in wanted if reference not in there]:
        raise ConfigError(
            f"cannot save images: {', '.join(missing)} not there", "'devenv images build' or 'devenv up' first"
        )
    for reference in wanted:
        if "@" in reference:
            note(f"{reference} has no name that an archive could keep: it is left out")
    images = tuple(sorted({reference for reference in wanted if "@" not in reference}))
    expected = golden.references(desired, catalogue, there).values()
    states = tuple(reference for reference in expected if reference in there)
    if len(states) < len(expected):
        note("not every golden state is there yet: 'devenv up' makes those that are missing")
    size = 0
    with written_whole(target) if isinstance(target, Path) else _open(target) as stream:
        for chunk in engine.save_images([*images, *states]):
            size += stream.write(chunk)
    return Archive(images, states, size)


def load_images(
    engine: Engine, named: Collection[str], archive: IO[bytes], name: str, check_trust: Callable[[], None]
) -> Archive:
    """Load the images of a seekable archive, which errors call `name`.

    `named` are references that the profile names, which `check_trust` allows or refuses. Raise ConfigError, and load
    nothing, if it is no archive, or has an image that is neither devenv's nor named, or whose name another image has
    here.
    """
    found = images_in(archive, name)
    there = engine.images()
    foreign = [reference for reference in found if not reference.startswith(IMAGES)]
    for reference in foreign:
        if reference not in named:
            raise ConfigError(
                f"cannot load {name}: {reference} in it is no image of devenv's", "'docker load' takes any image"
            )
        if there.get(reference) not in (None, *found[reference]):
            raise ConfigError(
                f"cannot load {name}: another image has the name {reference} here",
                f"'docker image rm {reference}' removes it, if you do not need it",
            )
    if foreign:
        check_trust()
    archive.seek(0)
    engine.load_images(iter(lambda: archive.read(_CHUNK), b""))
    states = tuple(reference for reference in sorted(found) if reference.startswith(f"{golden.REPOSITORY}:"))
    golden.touch(states)
    return Archive(tuple(sorted(found.keys() - states)), states, archive.tell())


@contextmanager
def _open(stream: IO[bytes]) -> Iterator[IO[bytes]]:
    yield stream
    stream.flush()


# Two lists of an archive's images: one that every engine reads, and that of the OCI layout, which new engines prefer.
_MANIFEST, _INDEX = "manifest.json", "index.json"
# The files that engines read to find the images.
_READ = (_MANIFEST, _INDEX, "oci-layout", "repositories")
# The annotation in which newer engines note the full name of an image.
_NAME = "io.containerd.image.name"
_MOST_BYTES = 4 << 20


def images_in(archive: IO[bytes], name: str) -> dict[str, set[str]]:
    """Return the images of an archive (called `name` in errors) by reference, each with the ids that it may get.

    Raise ConfigError if it is no archive of images, if it is incomplete, or if an image in it has no name.
    """
    try:
        lists = _lists(archive)
        found: dict[str, set[str]] = {}
        for image in lists[_MANIFEST]:
            # "<hex>.json", or "blobs/sha256/<hex>".
            digest = image["Config"].rpartition("/")[2].removesuffix(".json")
            for tag in image["RepoTags"] or [""]:
                found.setdefault(familiar(tag), set()).add(f"sha256:{digest}")
        for entry in lists.get(_INDEX, {}).get("manifests", ()):
            tag = (entry.get("annotations") or {}).get(_NAME, "")
            found.setdefault(familiar(tag), set()).add(entry["digest"])
    except (tarfile.TarError, OSError, LookupError, TypeError, AttributeError, ValueError) as error:
        hint = "'devenv images save' writes one; decompress it first: zstd -dc FILE | devenv …"
        raise ConfigError(f"cannot load {name}: it is not a complete archive of images", hint) from error
    if not found or "" in found:
        raise ConfigError(f"cannot load {name}: it has an image without a name", "'devenv images save' makes one")
    return found


def _lists(archive: IO[bytes]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with tarfile.open(fileobj=archive, mode="r:") as tar:
        # Read to the end: a piece of an archive is no archive.
        for member in tar:
            if (name := posixpath.normpath(f"/{member.name}").lstrip("/")) not in _READ:
                continue
            # If there are several such files, or a link, an engine might read another one.
            if name in found or member.name != name or not _is_plain(member):
                raise ValueError(f"{member.name} is not the one {name}")
            content = tar.extractfile(member)
            found[name] = json.load(content) if content else None
        # Python applies these headers to each later member; engines do not.
        if tar.pax_headers:
            raise ValueError("it has headers for all members")
    return found


def _is_plain(member: tarfile.TarInfo) -> bool:
    return member.isreg() and not member.issparse() and member.size <= _MOST_BYTES
