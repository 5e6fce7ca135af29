"""The images of a profile's services and the golden states that they begin with, in one file that a CI's cache keeps.

The keys are known before there is any image, so they are made of the definitions and files that images and golden
states are made of; the images' key is how the other one begins.
"""

from __future__ import annotations

import json
import platform
import posixpath
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from devenv.engine.http import CHUNK
from devenv.errors import ConfigError
from devenv.images import golden
from devenv.images.references import BASE
from devenv.lifecycle.world import Steps
from devenv.names import familiar
from devenv.spec import trust
from devenv.spec.components import digest
from devenv.spec.desired import resolve, secret_names, select
from devenv.store.files import written_whole

_OURS = "devenv/"
_MACHINES = {"AMD64": "x86_64", "amd64": "x86_64", "arm64": "aarch64"}


@dataclass(frozen=True)
class Archive:
    """What was saved or loaded: references of images, and of golden states, in an archive of so many bytes."""

    images: tuple[str, ...]
    golden: tuple[str, ...]
    size: int


class Caching(Steps):
    """An environment whose images can be carried from one machine to another."""

    def cache_keys(self, names: Sequence[str] = ()) -> dict[str, str]:
        """The keys of a cache that holds `images` of these services (all of the profile, if none is named), or `golden`
        states, too. They are the same wherever the content is the same. Asks nothing of an engine.
        """
        self._load()
        services = select(self.profile, self.catalogue, names)
        references = sorted({self.images[name].reference for name in (BASE, *services)})
        machine = platform.machine()
        images = f"devenv-{_MACHINES.get(machine, machine)}-{digest(references)}"
        # Neither ports nor secrets say which golden state it is, and a reference stands for the very image.
        ports = {f"{name}/{key}": e.port for name in services for key, e in self.catalogue[name].endpoints.items()}
        secrets = dict.fromkeys(secret_names(services, self.profile, self.catalogue), "secret")
        desired = resolve(self.id, services, self.profile, self.catalogue, self.images, ports, secrets)
        states = golden.references(desired, self.catalogue, {reference: reference for reference in references})
        return {"images": images, "golden": f"{images}-{digest(sorted(states.values()))}"}

    def save_images(self, target: Path | IO[bytes], names: Sequence[str] = ()) -> Archive:
        """Write the images of these services (all of the profile, if none is named) and their golden states.

        A file is there whole or not at all. Raises ConfigError if an image is missing or it cannot be written.
        """
        self._load()
        _desired, selected, observed = self._desired(names, keep=False, check_ports=False)
        # The base is there if any of them was built here; it is for the next one that is.
        wanted = [i.reference for i in selected.images if i.how != "base" or i.reference in observed.images]
        if missing := [reference for reference in wanted if reference not in observed.images]:
            raise ConfigError(
                f"cannot save images: {', '.join(missing)} not there", "'devenv images build' or 'devenv up' first"
            )
        for reference in wanted:
            if "@" in reference:
                self._report.note(f"{reference} has no name that an archive could keep: it is left out")
        images = tuple(sorted({reference for reference in wanted if "@" not in reference}))
        expected = golden.references(selected, self.catalogue, observed.images).values()
        states = tuple(reference for reference in expected if reference in observed.images)
        if len(states) < len(expected):
            self._report.note("not every golden state is there yet: 'devenv up' makes those that are missing")
        size = 0
        with written_whole(target) if isinstance(target, Path) else _open(target) as stream:
            for chunk in self.engine.save_images([*images, *states]):
                size += stream.write(chunk)
        return Archive(images, states, size)

    def load_images(self, archive: IO[bytes], name: str) -> Archive:
        """Have the images of an archive, which can be read twice and is called `name` in errors.

        Raises ConfigError, and loads nothing, if it is none or has images that are neither devenv's nor the profile's,
        or one that would take the name of another.
        """
        self._load()
        found = images_in(archive, name)
        there = self.engine.images()
        known = {image.reference for image in self.images.values()}
        for reference, ids in found.items():
            if reference.startswith(_OURS):
                continue
            if reference not in known:
                raise ConfigError(
                    f"cannot load {name}: {reference} in it is no image of devenv's", "'docker load' takes any image"
                )
            if there.get(reference) not in (None, *ids):
                raise ConfigError(
                    f"cannot load {name}: another image has the name {reference} here",
                    f"'docker image rm {reference}' removes it, if you do not need it",
                )
        if any(not reference.startswith(_OURS) for reference in found):
            trust.check(self.profile.file, self._ask, self._report.note)
        archive.seek(0)
        self.engine.load_images(iter(lambda: archive.read(CHUNK), b""))
        states = tuple(reference for reference in sorted(found) if reference.startswith(f"{golden.REPOSITORY}:"))
        golden.touch(states)
        return Archive(tuple(sorted(found.keys() - states)), states, archive.tell())


@contextmanager
def _open(stream: IO[bytes]) -> Iterator[IO[bytes]]:
    yield stream
    stream.flush()


# The lists that an archive has of its images: every engine's, and that of the OCI's layout, which new ones prefer.
_MANIFEST, _INDEX = "manifest.json", "index.json"
# What engines read to find out which images there are.
_READ = (_MANIFEST, _INDEX, "oci-layout", "repositories")
# What newer engines note the whole name of an image as.
_NAME = "io.containerd.image.name"
_MOST_BYTES = 4 << 20


def images_in(archive: IO[bytes], name: str) -> dict[str, set[str]]:
    """The images of an archive (a file, named as in `name`) by reference, each with the ids that it may get.

    Raises ConfigError if that is no archive of images, or none that is whole, or one of them has no name.
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
        hint = "'devenv images save' makes one; what compresses it has to be undone first: zstd -dc FILE | devenv …"
        raise ConfigError(f"cannot load {name}: it is no whole archive of images", hint) from error
    if not found or "" in found:
        raise ConfigError(f"cannot load {name}: it has an image without a name", "'devenv images save' makes one")
    return found


def _lists(archive: IO[bytes]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with tarfile.open(fileobj=archive, mode="r:") as tar:
        # To the end: a piece of an archive is none.
        for member in tar:
            if (name := posixpath.normpath(f"/{member.name}").lstrip("/")) not in _READ:
                continue
            # Of several, or through a link, an engine might read another one than is read here.
            if name in found or member.name != name or not _is_plain(member):
                raise ValueError(f"{member.name} is not the one {name}")
            content = tar.extractfile(member)
            found[name] = json.load(content) if content else None
        # They go for each member that comes later, here; not so in engines.
        if tar.pax_headers:
            raise ValueError("it has headers for all members")
    return found


def _is_plain(member: tarfile.TarInfo) -> bool:
    return member.isreg() and not member.issparse() and member.size <= _MOST_BYTES
