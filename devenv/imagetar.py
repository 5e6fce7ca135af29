"""Archives of images, as engines save them: which images are in one. Nothing of it is trusted."""

from __future__ import annotations

import json
import posixpath
import tarfile
from typing import IO, Any

from devenv.errors import ConfigError
from devenv.names import familiar

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
