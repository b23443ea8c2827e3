"""Files that hold more or less than their status tells: read whole, or an error, but never taken for empty."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

import s3dlio
from s3dlio.alignment.direct import BLOCK, DirectFile
from s3dlio.errors import ObjectChangedError, StoreError, UnsupportedError
from s3dlio.model import BoundedRange, GetResult, OffsetRange, SuffixRange
from s3dlio.stores.local import files
from s3dlio.stores.local.direct import DirectStore
from s3dlio.stores.local.store import LocalStore
from s3dlio.stores.store import ObjectStore
from s3dlio.transfer import ParallelStore

from ...disk import leftovers, open_files

STORES = [LocalStore, DirectStore]
BODY = b"0123456789abcdef" * (3 << 16)

pytestmark = pytest.mark.filterwarnings("ignore::s3dlio.alignment.DirectIOWarning")


def _parallel(store: ObjectStore) -> ParallelStore:
    return ParallelStore(store, part_size=8 << 20, parts_in_flight=2)


READS: list[Callable[[ObjectStore, str], Awaitable[object]]] = [
    lambda store, key: store.get(key),
    lambda store, key: _parallel(store).get(key),
    lambda store, key: store.get_range(key, OffsetRange(0)),
    lambda store, key: store.get_range(key, BoundedRange(0, 1 << 20)),
    lambda store, key: store.get_range(key, SuffixRange(3)),
    lambda store, key: store.get_into(key, memoryview(bytearray(4096))),
    lambda store, key: _parallel(store).get_into(key, memoryview(bytearray(4096))),
]


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("key", ["proc/cpuinfo", "proc/meminfo", "sys/devices/system/cpu/online"])
async def test_a_file_without_a_size_is_an_error(
    kind: type[LocalStore], read: Callable[[ObjectStore, str], Awaitable[object]], key: str
) -> None:
    async with kind("/") as store:
        before = open_files()
        with pytest.raises(UnsupportedError, match=r"open\(\)\.read\(\)") as caught:
            await read(store, key)
        assert caught.value.key == key
        assert open_files() == before


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("read", READS[:2])
async def test_a_look_at_attributes_may_set_the_time(
    kind: type[LocalStore],
    read: Callable[[ObjectStore, str], Awaitable[object]],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As sysfs does, once for each file after the machine was started."""
    (folder / "file").write_bytes(BODY)

    def look(fd: int) -> list[str]:
        os.utime(fd, (1, 1))
        return []

    monkeypatch.setattr(os, "listxattr", look)
    async with kind(str(folder)) as store:
        assert await read(store, "file") == BODY


@pytest.mark.parametrize("kind", STORES)
async def test_nor_is_it_described_or_copied(kind: type[LocalStore], folder: Path) -> None:
    async with kind("/") as store:
        target = str(folder / "copy")[1:]
        for work in (
            store.head("proc/cpuinfo"),
            store.exists("proc/cpuinfo"),
            store.get_into("proc/cpuinfo", memoryview(b"")),
            store.copy("proc/cpuinfo", target),
            store.copy("sys/devices/system/cpu/online", target),
        ):
            with pytest.raises(UnsupportedError):
                await work
    assert os.listdir(folder) == []


@pytest.mark.parametrize("scheme", ["file", "direct"])
def test_nor_by_blocking_calls(scheme: str) -> None:
    with pytest.raises(NotImplementedError, match="more than the 0 bytes"):
        s3dlio.get(f"{scheme}:///proc/cpuinfo")


@pytest.mark.parametrize("scheme", ["file", "direct"])
def test_of_all_that_is_in_proc_nothing_is_taken_for_empty(scheme: str) -> None:
    for path in Path("/proc").iterdir():
        if not path.is_file() or path.name in {"kcore", "kmsg"}:  # all memory; what can be read but once
            continue
        try:
            data = s3dlio.get(f"{scheme}://{path}")
        except StoreError:
            continue
        assert bool(data) == bool(path.read_bytes())


@pytest.mark.parametrize("kind", STORES)
async def test_an_empty_file_is_one(folder: Path, kind: type[LocalStore]) -> None:
    (folder / "empty").touch()
    async with kind(str(folder)) as store:
        assert await store.get("empty") == b""
        assert (await store.head("empty")).size == 0
        await store.copy("empty", "copy")
        assert await store.get("copy") == b""


def test_a_direct_file_reads_to_the_end_whatever_the_size() -> None:
    memory = bytearray(1 << 20)
    with pytest.warns(s3dlio.alignment.DirectIOWarning), DirectFile.open("/proc/version") as file:
        count = file.read_into(memory)
    assert memory[:count] == Path("/proc/version").read_bytes()


# Changed while they are read


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("size", [9 << 20, 0])
async def test_a_file_that_grows_meanwhile_is_noticed(
    folder: Path, kind: type[LocalStore], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "key").write_bytes(bytes(size))
    os.utime(folder / "key", ns=(0, 0))
    describe = files.describe

    def grow_afterwards(key: str, status: os.stat_result) -> s3dlio.ObjectMeta:
        with (folder / "key").open("ab") as file:
            file.write(b"more")
        return describe(key, status)

    monkeypatch.setattr(files, "describe", grow_afterwards)
    async with kind(str(folder)) as store:
        before = open_files()
        with pytest.raises(ObjectChangedError):
            await store.get("key")
        with pytest.raises(ObjectChangedError):
            await store.copy("key", "copy")
        assert open_files() == before
    assert os.listdir(folder) == ["key"]


@pytest.mark.parametrize("kind", STORES)
async def test_a_file_cut_short_meanwhile_is_noticed(folder: Path, kind: type[LocalStore]) -> None:
    async with kind(str(folder)) as store:
        for size in (0, 1, BLOCK):
            await store.put("key", bytes(9 << 20))

            def sink(coming: GetResult, size: int = size) -> memoryview:
                os.truncate(folder / "key", size)
                return memoryview(bytearray(coming.end - coming.start))

            with pytest.raises(ObjectChangedError):
                await store.fetch("key", sink)


async def test_a_part_cut_short_by_somebody_is_not_completed(folder: Path) -> None:
    async with LocalStore(str(folder)) as store:
        upload = await store.create_upload("key")
        parts = [await store.upload_part(upload, number, BODY) for number in (2, 1)]
        for path in leftovers(folder):
            os.truncate(path, 5)
        with pytest.raises(StoreError, match="EIO"):
            await store.complete_upload(upload, parts[::-1])
    assert os.listdir(folder) == []


# Holes


def _write_sparsely(path: Path, size: int, *offsets: int) -> bytes:
    content = bytearray(size)
    with path.open("wb") as file:
        file.truncate(size)
        for offset in offsets:
            file.seek(offset)
            file.write(b"data")
            content[offset : offset + 4] = b"data"
    return bytes(content)


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("offsets", [(), (0,), (5 << 20,), (0, 9 << 20, (16 << 20) + 773)])
async def test_a_sparse_file_is_read_whole_and_its_copy_is_sparse(
    folder: Path, kind: type[LocalStore], offsets: tuple[int, ...]
) -> None:
    size = (16 << 20) + 777
    content = _write_sparsely(folder / "key", size, *offsets)
    async with kind(str(folder)) as store:
        assert await store.get("key") == content
        await store.copy("key", "copy")
        assert await store.get("copy") == content
    assert (folder / "copy").stat().st_blocks <= (folder / "key").stat().st_blocks


async def test_where_holes_are_not_told_all_is_copied(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = _write_sparsely(folder / "key", 1 << 20, 5)

    def refuse(*_: object) -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "lseek", refuse)
    async with LocalStore(str(folder)) as store:
        await store.copy("key", "copy")
        assert await store.get("copy") == content
