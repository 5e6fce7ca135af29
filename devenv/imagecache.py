"""The images of a profile's services and the golden states that they begin with, in one file that a CI's cache keeps.

The keys are known before there is any image, so they are made of the definitions and files that images and golden
states are made of; the images' key is how the other one begins.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from devenv import golden, trust
from devenv.components import digest
from devenv.enginehttp import CHUNK
from devenv.errors import ConfigError
from devenv.images import BASE
from devenv.imagetar import images_in
from devenv.resolve import resolve, secret_names, select
from devenv.steps import Steps
from devenv.userfile import written_whole

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
