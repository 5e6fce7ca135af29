"""The images in an archive, as old and new engines write it, and files that are no archive."""

from __future__ import annotations

import io
import json
import tarfile
from typing import Any

import pytest
from archives import HEX, archive, entry

from devenv.errors import ConfigError
from devenv.images.bundle import images_in

EVIL = json.dumps([{"Config": f"{HEX}.json", "RepoTags": ["alpine:3"], "Layers": ["layer"]}]).encode()


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
    with pytest.raises(ConfigError, match=r"cannot load cache\.tar: it is not a complete archive of images"):
        images_in(io.BytesIO(content), "cache.tar")


def with_member(name: str, content: bytes = EVIL, **about: Any) -> bytes:
    """Return an archive of one image of devenv's, with another member behind its list."""
    buffer = archive(manifest=[entry("devenv/e:1")])
    with tarfile.open(fileobj=buffer, mode="a") as tar:
        member = tarfile.TarInfo(name)
        for key, value in about.items():
            setattr(member, key, value)
        member.size = len(content) if member.isreg() else 0
        tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["manifest.json", "index.json", "oci-layout", "repositories"])
@pytest.mark.parametrize("spelled", ["./{}", "/{}", "//{}", "layer/../{}", "../{}", ".//{}"])
def test_a_list_that_only_an_engine_would_take_for_one_is_refused(name: str, spelled: str) -> None:
    with pytest.raises(ConfigError, match="it is not a complete archive of images"):
        images_in(io.BytesIO(with_member(spelled.format(name), b"{}")), "cache.tar")


@pytest.mark.parametrize(
    "about",
    [
        {},
        {"type": tarfile.SYMTYPE, "linkname": "layer"},
        {"type": tarfile.LNKTYPE, "linkname": "layer"},
        {"type": tarfile.DIRTYPE},
    ],
    ids=["a second one", "a symbolic link", "a hard link", "a folder"],
)
def test_another_list_than_the_one_that_is_read_is_refused(about: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="it is not a complete archive of images"):
        images_in(io.BytesIO(with_member("manifest.json", **about)), "cache.tar")


def test_headers_that_go_for_all_members_are_refused() -> None:
    """tarfile would take the second list for a layer. Go's reader, which engines use, would take it for a list."""
    buffer = archive(manifest=[entry("devenv/e:1")])
    with tarfile.open(fileobj=buffer, mode="a") as tar:
        header = tarfile.TarInfo.create_pax_global_header({"path": "layer"})
        buffer.write(header)
        tar.offset += len(header)
        member = tarfile.TarInfo("manifest.json")
        member.size = len(EVIL)
        tar.addfile(member, io.BytesIO(EVIL))
    with pytest.raises(ConfigError, match="it is not a complete archive of images"):
        images_in(io.BytesIO(buffer.getvalue()), "cache.tar")


def test_other_members_may_be_called_anything() -> None:
    content = with_member("blobs/sha256/manifest.json")
    assert images_in(io.BytesIO(content), "cache.tar").keys() == {"devenv/e:1"}


@pytest.mark.parametrize("manifest", [[entry()], []])
def test_an_image_without_a_name_is_refused(manifest: list[Any]) -> None:
    with pytest.raises(ConfigError, match="an image without a name"):
        images_in(archive(manifest=manifest), "cache.tar")
