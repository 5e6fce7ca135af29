"""What the engine is asked about images: which there are, to pull, build, import and remove them, to save and load."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from devenv.engine.connection import Connection, asking, failure
from devenv.engine.http import CHUNK, TIMEOUT, Query, Refused, decoded
from devenv.model import LABEL_ENVIRONMENT, SHARED
from devenv.names import familiar

# Seconds without a byte: older engines write all that they save, or are to load, to their disk before they go on.
_ARCHIVE_TIMEOUT = 1800.0
_NO_ROOM = "if the engine's disk is full: 'devenv gc --keep 0' and 'devenv snapshot rm NAME' make room"


class Images:
    """The images of one container engine. Thread-safe."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._client = connection.client

    # ---- which there are --------------------------------------------------------------------------------------

    def images(self) -> dict[str, str]:
        """The id of every image by each reference (tag or digest) that the engine can run without a pull."""
        return {
            familiar(name): image["Id"]
            for image in self._listed()
            for key in ("RepoTags", "RepoDigests")
            for name in image.get(key) or ()
        }

    def has_image(self, reference: str) -> bool:
        return reference in self.images()

    def inspect_image(self, reference: str) -> dict[str, Any]:
        """All that the engine knows of an image, by reference or id."""
        with asking(f"inspect image {reference}"):
            return dict(self._client.ask("GET", f"/images/{reference}/json"))

    def devenv_images(self) -> list[dict[str, Any]]:
        """All images that devenv built: their tags, size in bytes, labels and time of creation."""
        return self._listed({"label": f"{LABEL_ENVIRONMENT}={SHARED}"})

    def image_sizes(self) -> dict[str, int]:
        """The size in bytes of every image by tag."""
        return {familiar(tag): int(image["Size"]) for image in self._listed() for tag in image.get("RepoTags") or ()}

    def _listed(self, filters: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
        with asking("list images"):
            return list(self._client.ask("GET", "/images/json", {"filters": filters or {}}))

    # ---- making and removing them -----------------------------------------------------------------------------

    def pull(self, reference: str, progress: Callable[[str], None]) -> None:
        """Pull an image by its full reference: with a tag or a digest."""
        name, _, tag = (reference, "", "") if "@" in reference else reference.rpartition(":")
        hint = "check the name and the network, or build it under that name"
        with asking(f"pull image {reference}", hint):
            for line in self._connection.sdk.pull(name, tag or None):
                if "error" in line:
                    raise failure(f"cannot pull image {reference}: {line['error']}", hint)
                progress(str(line.get("status", "")))

    def build(
        self,
        tag: str,
        context: IO[bytes],
        arguments: Mapping[str, str],
        labels: Mapping[str, str],
        progress: Callable[[str], None],
    ) -> None:
        """Build an image from a tar stream. Raises ServiceFailed with the last lines of the failing step."""
        lines: list[str] = []
        with asking(f"build image {tag}"):
            step = "its first step"
            for message in self._connection.sdk.build(tag, context, arguments, labels):
                text = re.sub(r"\x1b\[[0-9;]*m", "", message.get("stream", "")).strip()
                if re.match(r"step \d", text, re.IGNORECASE):
                    step, lines = text, []
                progress(text.partition("\n")[0])
                lines.extend(text.splitlines())
                if "error" in message:
                    raise failure(
                        f"cannot build image {tag}: {step} failed: {message['error']}".splitlines()[0],
                        hint="the last lines of that step are above; 'devenv images build' tries again",
                        detail=lines[-20:],
                    )

    def import_image(self, tag: str, tarball: Path, labels: Mapping[str, str]) -> None:
        """Make an image of one layer out of a root file system."""
        self._import(f"import image {tag}", tag, _chunks(tarball), labels, _NO_ROOM)

    def import_data(self, tag: str, stream: Iterable[bytes], labels: Mapping[str, str]) -> None:
        """Make an image of one layer that holds what a tar stream does; it is there whole or not at all."""
        self._import(f"keep data as {tag}", tag, stream, labels, _NO_ROOM)

    def _import(self, what: str, tag: str, stream: Iterable[bytes], labels: Mapping[str, str], hint: str) -> None:
        changes = [f'LABEL {key}="{value}"' for key, value in labels.items()]
        # Not `tag`, which Podman 4 does not look at: what it imports would be named ":latest".
        query = {"fromSrc": "-", "repo": tag, "changes": changes}
        self._send(what, "/images/create", query, stream, hint)

    def _send(
        self,
        what: str,
        path: str,
        query: Query | None,
        stream: Iterable[bytes],
        hint: str,
        timeout: float = TIMEOUT,
    ) -> None:
        with asking(what, hint):
            said = b"".join(self._client.stream("POST", path, query, stream, timeout))
            for message in map(decoded, said.splitlines()):
                if "error" in message:
                    raise failure(f"cannot {what}: {message['error']}", hint)

    # ---- in one archive ---------------------------------------------------------------------------------------

    def save_images(self, references: Sequence[str]) -> Generator[bytes, None, None]:
        """A tar stream of these images; a layer that several have is in it once."""
        with asking("save images"):
            query = {"names": list(references)}
            yield from self._client.stream("GET", "/images/get", query, timeout=_ARCHIVE_TIMEOUT)

    def load_images(self, stream: Iterable[bytes]) -> None:
        """Have the images of such a stream, by their names. What the engine has of their layers stays as it is."""
        hint = "if the engine's disk is full: 'devenv gc --keep 0' and 'devenv images prune' make room"
        self._send("load images", "/images/load", None, stream, hint, _ARCHIVE_TIMEOUT)

    def remove_image(self, reference: str) -> bool:
        """Remove an image by tag or id; False if a container or another image still needs it."""
        with asking(f"remove image {reference}"):
            try:
                self._client.ask("DELETE", f"/images/{reference}")
            except Refused as error:
                if error.status not in (404, 409):
                    raise
                return False
        return True


def _chunks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            yield chunk
