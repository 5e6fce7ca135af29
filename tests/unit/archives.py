"""Archives of images, and an engine that saves and loads them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from typing import Any

from fake_engine import FakeEngine

HEX = "a" * 64


def archive(**files: Any) -> io.BytesIO:
    """Return a tar file of JSON files and of a file larger than a block."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in {**files, "layer": "x" * 20_000}.items():
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            entry = tarfile.TarInfo(name if name == "layer" else f"{name}.json")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    buffer.seek(0)
    return buffer


def entry(*tags: str, config: str = f"{HEX}.json") -> dict[str, Any]:
    return {"Config": config, "RepoTags": list(tags) or None, "Layers": ["layer"]}


class Carrier(FakeEngine):
    """An engine that saves names in place of images, and keeps what it loads."""

    loaded = b""

    def save_images(self, names: Sequence[str]) -> Iterator[bytes]:
        for name in names:
            self._call("save", name)
            yield f"{name}\n".encode()

    def load_images(self, stream: Iterator[bytes]) -> None:
        self.loaded = b"".join(stream)
