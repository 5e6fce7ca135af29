"""Which images an archive has, as engines of several ages write it, and what is no archive."""

from __future__ import annotations

import io
import json
import tarfile
from typing import Any

import pytest

from devenv.errors import ConfigError
from devenv.imagetar import images_in

HEX = "a" * 64


def archive(**files: Any) -> io.BytesIO:
    """A tar file of JSON files, and of one larger than a block."""
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


def test_each_image_is_found_by_its_familiar_name_with_its_id() -> None:
    found = images_in(archive(manifest=[entry("devenv/etcd:1", "docker.io/library/mysql:8")]), "file")
    assert found == {"devenv/etcd:1": {f"sha256:{HEX}"}, "mysql:8": {f"sha256:{HEX}"}}


def test_an_archive_of_a_new_engine_has_two_ids_for_each() -> None:
    index = {"manifests": [{"digest": "sha256:b", "annotations": {"io.containerd.image.name": "docker.io/devenv/e:1"}}]}
    found = images_in(archive(manifest=[entry("devenv/e:1", config=f"blobs/sha256/{HEX}")], index=index), "file")
    assert found == {"devenv/e:1": {f"sha256:{HEX}", "sha256:b"}}


def test_a_name_that_only_one_of_the_lists_has_is_found() -> None:
    index = {"manifests": [{"digest": "sha256:b", "annotations": {"io.containerd.image.name": "docker.io/evil:1"}}]}
    assert "evil:1" in images_in(archive(manifest=[entry("devenv/e:1")], index=index), "file")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no tar file at all",
        archive().getvalue(),
        archive(manifest=b"{").getvalue(),
        archive(manifest={"no": "list"}).getvalue(),
        archive(manifest=[{"RepoTags": ["devenv/e:1"]}]).getvalue(),
        archive(manifest=[entry("devenv/e:1")], index={"manifests": [1]}).getvalue(),
        archive(manifest=[entry("devenv/e:1")]).getvalue()[:10_000],
    ],
)
def test_what_is_no_whole_archive_is_refused(content: bytes) -> None:
    with pytest.raises(ConfigError, match=r"cannot load cache\.tar: it is no whole archive of images"):
        images_in(io.BytesIO(content), "cache.tar")


@pytest.mark.parametrize("manifest", [[entry()], []])
def test_an_image_without_a_name_is_refused(manifest: list[Any]) -> None:
    with pytest.raises(ConfigError, match="an image without a name"):
        images_in(archive(manifest=manifest), "cache.tar")
