"""Write a software bill of materials of images in SPDX: the packages that dpkg and Python know of."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.parser import HeaderParser
from typing import Any
from urllib.parse import quote

# The maintainer of empty packages, which replace packages that nothing in an image uses.
_STAND_IN = "devenv <root@localhost>"
_UNKNOWN = "NOASSERTION"
_DOCUMENT = "SPDXRef-DOCUMENT"
# Characters that SPDX does not allow in the part of an identifier that devenv chooses.
_NO_IDENTIFIER = re.compile(r"[^A-Za-z0-9.-]+")


@dataclass(frozen=True, order=True)
class Package:
    """A package in an image. `kind` is the type of its package URL: "deb" or "pypi"."""

    kind: str
    name: str
    version: str
    architecture: str = ""

    @property
    def url(self) -> str:
        """Return its package URL (purl), by which other tools know it."""
        if self.kind == "deb":
            return f"pkg:deb/debian/{_quoted(self.name)}@{_quoted(self.version)}?arch={_quoted(self.architecture)}"
        return f"pkg:{self.kind}/{_quoted(re.sub('[-_.]+', '-', self.name).lower())}@{_quoted(self.version)}"


@dataclass(frozen=True)
class Contents:
    """An image and its packages. `digest` is the one that it was pulled by, or an empty string."""

    reference: str
    id: str
    digest: str
    packages: Sequence[Package]

    @property
    def url(self) -> str:
        """Return its package URL, with the digest or id of this very image."""
        name, host = self.name, ""
        first, slash, rest = name.partition("/")
        if slash and ("." in first or ":" in first):
            name, host = rest, f"?repository_url={_quoted(first)}"
        return f"pkg:docker/{quote(name)}@{_quoted(self.digest or self.id)}{host}"

    @property
    def name(self) -> str:
        """Return its reference without tag or digest."""
        path, slash, last = self.reference.partition("@")[0].rpartition("/")
        return f"{path}{slash}{last.partition(':')[0]}"


def upstream(version: str) -> str:
    """Return the authors' version in one of Debian's: "4.0.5" in "4.0.5-6+deb13u2"."""
    return re.sub(r"^\d+:|-[^-]*$|\+(deb|dfsg|ds).*$", "", version)


# ---- read from an image ---------------------------------------------------------------------------------------


def debian_packages(status: str) -> Iterator[Package]:
    """Yield the packages that dpkg's record lists as installed, without empty stand-ins."""
    for paragraph in status.split("\n\n"):
        found = dict(line.split(": ", 1) for line in paragraph.splitlines() if re.match(r"[A-Z][\w-]*: ", line))
        # The record of a single package (in status.d) has no status.
        installed = found.get("Status", "install ok installed").endswith(" installed")
        if {"Package", "Version"} <= found.keys() and installed and found.get("Maintainer") != _STAND_IN:
            yield Package("deb", found["Package"], found["Version"], found.get("Architecture", ""))


def python_package(metadata: str) -> Package | None:
    """Return the package that the METADATA of a Python distribution describes; None if it names none."""
    found = HeaderParser().parsestr(metadata)
    name, version = found.get("Name", ""), found.get("Version", "")
    return Package("pypi", str(name).strip(), str(version).strip()) if name and version else None


# ---- written as SPDX --------------------------------------------------------------------------------------------


def spdx(images: Sequence[Contents], creator: str) -> dict[str, Any]:
    """Return a document of SPDX 2.3, ready for JSON. It lists a package of several images once."""
    packages = sorted({package for image in images for package in image.packages})
    relationships = []
    for image in images:
        relationships.append(_related(_DOCUMENT, "DESCRIBES", _identifier(image.name, image.url)))
        for package in sorted(image.packages):
            relationships.append(
                _related(_identifier(image.name, image.url), "CONTAINS", _identifier(package.name, package.url))
            )
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": _DOCUMENT,
        "name": " ".join(image.reference for image in images),
        # Each document needs its own namespace, which is no address.
        "documentNamespace": f"https://spdx.org/spdxdocs/devenv-images-{secrets.token_hex(16)}",
        "creationInfo": {
            "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "creators": [f"Tool: {creator}"],
        },
        "packages": [*map(_image, images), *map(_package, packages)],
        "relationships": relationships,
    }


def _image(image: Contents) -> Mapping[str, Any]:
    version = image.reference.removeprefix(image.name).lstrip(":@")
    return {
        **_described(image.name, version, image.url),
        "primaryPackagePurpose": "CONTAINER",
        "comment": f"image id {image.id}",
    }


def _package(package: Package) -> Mapping[str, Any]:
    described = _described(package.name, package.version, package.url)
    return {**described, "supplier": "Organization: Debian"} if package.kind == "deb" else described


def _described(name: str, version: str, url: str) -> dict[str, Any]:
    return {
        "SPDXID": _identifier(name, url),
        "name": name,
        "versionInfo": version,
        "supplier": _UNKNOWN,
        "downloadLocation": _UNKNOWN,
        "filesAnalyzed": False,
        "licenseConcluded": _UNKNOWN,
        "licenseDeclared": _UNKNOWN,
        "copyrightText": _UNKNOWN,
        "externalRefs": [
            {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": url},
        ],
    }


def _identifier(name: str, url: str) -> str:
    """Return a readable identifier that differs for every package URL."""
    return f"SPDXRef-{_NO_IDENTIFIER.sub('-', name)}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"


def _related(one: str, how: str, other: str) -> Mapping[str, str]:
    return {"spdxElementId": one, "relationshipType": how, "relatedSpdxElement": other}


def _quoted(text: str) -> str:
    return quote(text, safe="")
