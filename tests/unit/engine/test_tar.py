"""Tar archives as the engine takes them."""

from __future__ import annotations

import io
import tarfile
import threading
from collections.abc import Generator, Iterator

import pytest

from devenv.engine.tar import Chunks, Torn, in_folder, pack, read_ahead


def test_files_come_out_as_they_went_in() -> None:
    files = {"my.cnf": b"[mysqld]\n", "deep/er/x": b"", "\u00fc/" + "long" * 60: bytes(range(256)) * 9}
    with tarfile.open(fileobj=pack(files)) as archive:
        assert archive.getnames() == list(files)
        assert {name: archive.extractfile(name).read() for name in files} == files  # type: ignore[union-attr]


@pytest.mark.parametrize("mode", [0o444, 0o644])
def test_files_are_roots_and_of_one_mode(mode: int) -> None:
    with tarfile.open(fileobj=pack({"a": b"1", "b": b"2"}, mode)) as archive:
        assert {(entry.uid, entry.gid, entry.mode) for entry in archive} == {(0, 0, mode)}


def test_files_are_for_all_to_read_and_for_nobody_to_write_unless_told_otherwise() -> None:
    with tarfile.open(fileobj=pack({"a": b"1"})) as archive:
        assert archive.getmember("a").mode == 0o444


def test_folders_are_for_all_to_write_to_and_come_last() -> None:
    with tarfile.open(fileobj=pack({"a": b"1"}, folders=["data", "more"])) as archive:
        assert archive.getnames() == ["a", "data", "more"]
        data = archive.getmember("data")
        assert (data.isdir(), data.uid, data.mode) == (True, 0, 0o1777)


def test_the_same_files_make_the_same_bytes() -> None:
    # The engine's build cache compares content.
    assert pack({"a": b"1"}, folders=["d"]).getvalue() == pack({"a": b"1"}, folders=["d"]).getvalue()


def test_an_archive_of_nothing_is_one() -> None:
    with tarfile.open(fileobj=pack({})) as archive:
        assert archive.getnames() == []


def read(stream: Iterator[bytes]) -> dict[str, tuple[bytes, str, int, int]]:
    """Return each entry of an archive: its type, link target, owner, and size in bytes."""
    with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as archive:
        content = {e.name: f.read() for e in archive if (e.isreg() or e.islnk()) and (f := archive.extractfile(e))}
        return {e.name: (e.type, e.linkname, e.uid, len(content.get(e.name, b""))) for e in archive}


def of_a_volume(outside: str) -> Generator[bytes, None, None]:
    """Yield what a server may have in its folder, as the engine sends it."""
    deep = f"{outside}data/" + "long/" * 60 + "file"
    kinds: list[tuple[str, bytes, str, int]] = [
        (outside, tarfile.DIRTYPE, "", 0),
        (f"{outside}data", tarfile.DIRTYPE, "", 0),
        (deep, tarfile.REGTYPE, "", 3_000_001),
        (f"{outside}data/hard", tarfile.LNKTYPE, deep, 0),
        (f"{outside}data/soft", tarfile.SYMTYPE, "/elsewhere", 0),
    ]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, kind, link, size in kinds:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.size, entry.uid = kind, link, size, 65534
            archive.addfile(entry, io.BytesIO(bytes(size)))
    yield from (buffer.getvalue()[start : start + 1000] for start in range(0, len(buffer.getvalue()), 1000))


@pytest.mark.parametrize("outside", ["etcd/", "/", "./"])
def test_what_is_in_a_folder_comes_out_in_it(outside: str) -> None:
    deep = "etcd/data/" + "long/" * 60 + "file"
    assert read(in_folder("etcd", of_a_volume(outside))) == {
        "etcd": (tarfile.DIRTYPE, "", 65534, 0),
        "etcd/data": (tarfile.DIRTYPE, "", 65534, 0),
        deep: (tarfile.REGTYPE, "", 65534, 3_000_001),
        "etcd/data/hard": (tarfile.LNKTYPE, deep, 65534, 3_000_001),
        "etcd/data/soft": (tarfile.SYMTYPE, "/elsewhere", 65534, 0),
    }


def test_a_file_that_fills_its_blocks_is_not_the_end_of_what_is_in_a_folder() -> None:
    given = pack({"one": bytes(tarfile.BLOCKSIZE), "two": b"2"}).read()
    with tarfile.open(fileobj=Chunks(in_folder("etcd", (part for part in [given]))), mode="r|") as archive:
        assert [entry.name for entry in archive] == ["etcd/one", "etcd/two"]


@pytest.mark.parametrize("end", [0, 512, 1000, 1024, 1_000_000], ids=["all", "entry", "head", "entries", "file"])
def test_an_archive_that_ends_early_is_none(end: int) -> None:
    whole = b"".join(of_a_volume("/"))
    with pytest.raises(Torn, match="the archive breaks off"):
        list(in_folder("etcd", (chunk for chunk in [whole[:end]])))


def test_an_archive_with_a_damaged_entry_is_none() -> None:
    whole = bytearray(b"".join(of_a_volume("/")))
    whole[600] ^= 1
    with pytest.raises(Torn, match="the archive breaks off"):
        list(in_folder("etcd", (chunk for chunk in [bytes(whole)])))


def test_what_is_read_ahead_comes_out_in_order() -> None:
    chunks = [bytes([number]) for number in range(200)]
    assert list(read_ahead((chunk for chunk in chunks), most=2)) == chunks


def test_what_ends_the_reading_ends_the_use() -> None:
    def broken() -> Iterator[bytes]:
        yield b"1"
        raise OSError("it stopped")

    ahead = read_ahead(broken())
    assert next(ahead) == b"1"
    with pytest.raises(OSError, match="it stopped"):
        next(ahead)


def test_reading_ends_when_nobody_wants_more() -> None:
    ended = threading.Event()

    def endless() -> Iterator[bytes]:
        try:
            while True:
                yield b"1"
        finally:
            ended.set()

    ahead = read_ahead(endless(), most=2)
    assert next(ahead) == b"1"
    ahead.close()  # type: ignore[attr-defined]
    del ahead
    assert ended.wait(30)
