"""What a cached store gives beside a plain model, and what it asks the store inside for."""

from __future__ import annotations

import errno
import logging
import os
import random
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from s3dlio.alignment import crc32c
from s3dlio.cache.store import CachedStore
from s3dlio.errors import ChecksumError, IntegrityError, NotFoundError, NotModifiedError, ObjectChangedError, RangeError
from s3dlio.model import (
    BoundedRange,
    GetOptions,
    GetRange,
    GetResult,
    ObjectMeta,
    OffsetRange,
    Sink,
    StoredChecksum,
    SuffixRange,
    resolve,
)
from s3dlio.replicas import ReplicatedStore
from s3dlio.siblings import sibling_tasks
from s3dlio.stores.memory import MemoryStore
from s3dlio.stores.store import BytesSink
from s3dlio.transfer import ParallelStore

from ..transfer.recorder import Recorder
from .kit import chunk_files, opened

pytestmark = pytest.mark.usefixtures("small_chunks")

DATA = random.Random(1).randbytes(300)
RANGES = (None, BoundedRange(10, 290), BoundedRange(290, 999), OffsetRange(40), SuffixRange(9))


@pytest.fixture
def inside() -> Recorder:
    return Recorder()


@pytest.fixture
async def store(inside: Recorder, tmp_path: Path) -> AsyncIterator[CachedStore]:
    async with opened(inside, tmp_path / "cache") as made:
        await made.put("key", DATA)
        inside.calls.clear()
        yield made


async def listed(store: CachedStore, key: str = "key") -> ObjectMeta:
    (meta,) = (await store.list_page(key)).objects
    return meta


# Beside a model

OPERATIONS = st.one_of(
    st.tuples(st.just("put"), st.integers(0, 300), st.randoms(use_true_random=False)),
    st.tuples(st.just("get"), st.booleans()),
    st.tuples(st.just("range"), st.integers(0, 310), st.integers(1, 310)),
    st.tuples(st.just("pieces"), st.integers(1, 90)),
    st.tuples(st.just("stream"), st.integers(1, 90)),
    st.tuples(st.just("flip"), st.integers(0, 20), st.integers(0, 100), st.integers(1, 255)),
    st.tuples(st.just("cut"), st.integers(0, 20), st.integers(0, 100)),
    st.tuples(st.just("remove"), st.integers(0, 20)),
    st.tuples(st.just("mix"), st.integers(0, 20), st.integers(0, 20)),
)


class Run:
    """One object, what it has, and what becomes of the cache."""

    def __init__(self, store: CachedStore, folder: Path) -> None:
        self.store = store
        self.folder = folder
        self.data = b""

    async def put(self, size: int, source: random.Random) -> None:
        self.data = source.randbytes(size)
        await self.store.put("key", self.data)

    async def get(self, known: bool) -> None:
        assert await self.store.get("key", known=await listed(self.store) if known else None) == self.data

    async def range(self, start: int, length: int) -> None:
        wanted = BoundedRange(start, start + length)
        if start < len(self.data):
            assert await self.store.get_range("key", wanted) == self.data[start : start + length]
        else:
            with pytest.raises(RangeError):
                await self.store.get_range("key", wanted)

    async def pieces(self, size: int) -> None:
        view = memoryview(bytearray(len(self.data)))
        await self.store.get_pieces("key", ((at, view[at : at + size]) for at in range(0, len(view), size)))
        assert view == self.data

    async def stream(self, start: int) -> None:
        if start < len(self.data):
            async with self.store.open_reader("key", start=start) as reader:
                assert b"".join([piece async for piece in reader]) == self.data[start:]

    def _file(self, number: int) -> Path | None:
        files = list(chunk_files(self.folder))
        return files[number % len(files)] if files else None

    async def flip(self, number: int, place: int, mask: int) -> None:
        if file := self._file(number):
            found = bytearray(file.read_bytes())
            found[place % len(found)] ^= mask
            file.write_bytes(found)

    async def cut(self, number: int, size: int) -> None:
        if file := self._file(number):
            file.write_bytes(file.read_bytes()[:size])

    async def remove(self, number: int) -> None:
        if file := self._file(number):
            file.unlink()

    async def mix(self, number: int, other: int) -> None:
        if (file := self._file(number)) and (another := self._file(other)):
            file.write_bytes(another.read_bytes())


async def run(operations: list[tuple[str, *tuple[object, ...]]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        async with opened(MemoryStore(), Path(name)) as store:
            made = Run(store, Path(name))
            await made.put(200, random.Random(2))
            for operation, *arguments in operations:
                await getattr(made, operation)(*arguments)


@settings(max_examples=60)
@given(st.lists(OPERATIONS, max_size=12))
def test_what_is_read_is_what_is_there_whatever_happens_to_the_cache(
    operations: list[tuple[str, *tuple[object, ...]]],
) -> None:
    trio.run(partial(run, operations))


# What is asked


async def test_what_a_listing_tells_the_etag_of_costs_nothing_the_second_time(
    store: CachedStore, inside: Recorder
) -> None:
    known = await listed(store)
    assert [await store.get("key", known=known) for _ in range(3)] == [DATA] * 3
    assert inside.calls.count("fetch") == 3  # the parts of the first time
    assert "head" not in inside.calls


async def test_it_is_there_for_another_store_and_after_the_object_went(
    store: CachedStore, inside: Recorder, tmp_path: Path
) -> None:
    known = await listed(store)
    await store.get("key", known=known)
    async with opened(MemoryStore(), tmp_path / "cache") as other:
        assert await other.get("key", known=known) == DATA
        with pytest.raises(NotFoundError):
            await other.get("key")


async def test_where_nobody_knows_the_version_one_head_asks_for_it(store: CachedStore, inside: Recorder) -> None:
    await store.get("key")
    inside.calls.clear()
    assert await store.get("key") == DATA
    assert await store.get_range("key", OffsetRange(7)) == DATA[7:]
    assert inside.calls == ["head", "head"]


async def test_reads_that_are_held_to_a_version_ask_once(store: CachedStore, inside: Recorder) -> None:
    etag = (await store.head("key")).etag
    inside.calls.clear()
    for start in (0, 10, 130, 10):
        assert await store.get_range("key", BoundedRange(start, start + 20), if_match=etag) == DATA[start : start + 20]
    assert inside.calls == ["head", "fetch", "fetch"]
    await store.put("key", b"new")
    with pytest.raises(ObjectChangedError):
        await store.get_range("key", BoundedRange(200, 210), if_match=etag)


async def test_a_new_version_is_read_by_all_but_those_who_hold_to_the_old_one(store: CachedStore) -> None:
    known = await listed(store)
    await store.get("key", known=known)
    await store.put("key", b"new")
    assert await store.get("key") == b"new"
    assert await store.get("key", if_match=known.etag, known=known) == DATA
    assert await store.get("key", known=known) == DATA


async def test_a_stale_listing_does_no_harm(store: CachedStore) -> None:
    known = await listed(store)
    await store.put("key", b"new")
    assert await store.get("key", known=known) == b"new"
    with pytest.raises(ObjectChangedError):
        await store.get("key", known=known, if_match=known.etag)


async def test_an_object_that_is_replaced_between_two_requests_is_read_as_it_is_then(
    store: CachedStore, inside: Recorder
) -> None:
    async def replace(name: str, number: int) -> None:
        if (name, number) == ("fetch", 1):
            await inside.inner.put("key", b"new")

    inside.during = replace
    assert await store.get("key") == b"new"
    sink = BytesSink()
    await store.fetch("key", sink)
    assert sink.data == b"new"


async def test_with_replicas_the_version_is_that_of_the_store_that_answers(tmp_path: Path) -> None:
    other = MemoryStore()
    await other.put("key", DATA)
    settings = {"part_size": 100, "parts_in_flight": 3, "memory_limit": 1 << 20}
    both = ReplicatedStore(MemoryStore(), [ParallelStore(other, **settings)], **settings, max_attempts=1)
    async with opened(both, tmp_path) as store:
        for _ in range(2):
            assert await store.get("key", known=ObjectMeta("key", len(DATA), '"of the first"')) == DATA


async def test_a_chunk_is_fetched_once_for_all_who_wait_for_it(store: CachedStore, inside: Recorder) -> None:
    etag = (await store.head("key")).etag
    await store.get_range("key", BoundedRange(0, 1), if_match=etag)
    inside.calls.clear()
    async with sibling_tasks() as nursery:
        for start in range(64, 84):
            nursery.start_soon(partial(store.get_range, "key", BoundedRange(start, start + 5), if_match=etag))
    assert inside.calls == ["fetch"]


async def test_who_waits_for_a_chunk_that_fails_fetches_it(store: CachedStore, inside: Recorder) -> None:
    etag = (await store.head("key")).etag
    await store.get_range("key", BoundedRange(0, 1), if_match=etag)
    inside.calls.clear()
    asked, begun = trio.Event(), trio.Event()

    async def fail_first(name: str, number: int) -> None:
        if number == 1:
            asked.set()
            await begun.wait()
            raise NotFoundError("gone for a moment")

    async def first() -> None:
        with pytest.raises(NotFoundError):
            await store.get_range("key", BoundedRange(64, 70), if_match=etag)

    async def second() -> None:
        assert await store.get_range("key", BoundedRange(66, 70), if_match=etag) == DATA[66:70]

    inside.during = fail_first
    async with sibling_tasks() as nursery:
        nursery.start_soon(first)
        await asked.wait()
        nursery.start_soon(second)
        await trio.testing.wait_all_tasks_blocked(0.02)
        begun.set()


@pytest.mark.parametrize(
    "asked", [None, BoundedRange(10, 290), BoundedRange(290, 999), OffsetRange(40), SuffixRange(9)]
)
async def test_any_range_before_and_after(store: CachedStore, asked: GetRange | None) -> None:
    start, end = resolve(asked, len(DATA))
    for _ in range(2):
        sink = BytesSink()
        result = await store.fetch("key", sink, GetOptions(asked))
        assert (sink.data, result.start, result.end) == (DATA[start:end], start, end)


async def test_errors_are_those_of_the_store_inside(store: CachedStore) -> None:
    await store.put("empty", b"")
    etag = (await store.head("key")).etag
    assert await store.get("empty") == b""
    with pytest.raises(NotFoundError):
        await store.get("absent")
    with pytest.raises(RangeError):
        await store.get_range("empty", BoundedRange(0, 1))
    with pytest.raises(NotModifiedError):
        await store.fetch("key", BytesSink(), GetOptions(if_none_match=etag))
    with pytest.raises(IntegrityError):
        await store.get_into("key", memoryview(bytearray(10)), start=295)


async def test_what_passes_through(store: CachedStore, inside: Recorder) -> None:
    await store.copy("key", "copy")
    assert await store.get("copy") == DATA
    await store.delete("copy")
    assert not await store.exists("copy")
    assert (await store.get_into("key", memoryview(b""))).meta.size == len(DATA)


# What is proven


class Told(Recorder):
    """Tells a checksum of its objects, and sends some other bytes as long as it is `wrong`."""

    wrong = False

    async def fetch(self, key: str, sink: Sink, options: GetOptions = GetOptions()) -> GetResult:
        kept: list[memoryview] = []

        def keep(coming: GetResult) -> memoryview:
            kept.append(sink(coming))
            return kept[0]

        result = await super().fetch(key, keep, options)
        if self.wrong:
            kept[0][-1] ^= 1
        return result

    async def look_up_checksum(self, key: str) -> ObjectMeta | None:
        self.calls.append("look")
        return replace(await self.inner.head(key), checksum=StoredChecksum("CRC32C", crc32c(DATA)))


async def test_a_whole_object_is_not_made_of_chunks_whose_checksum_nobody_compared(tmp_path: Path) -> None:
    inside = Told()
    async with opened(inside, tmp_path) as store:
        await store.put("key", DATA)
        known = await listed(store)
        inside.wrong = True
        assert await store.get_range("key", BoundedRange(0, 299)) != DATA[:299]
        with pytest.raises(ChecksumError):
            await store.get("key", known=known)
        inside.wrong = False
        assert await store.get("key", known=known) == DATA
        assert await store.get_range("key", BoundedRange(0, 299)) == DATA[:299]
        inside.calls.clear()
        assert (await store.fetch("key", BytesSink())).verified
        assert inside.calls == ["head"]


async def test_a_stream_that_has_another_checksum_is_not_kept(tmp_path: Path) -> None:
    inside = Told()
    async with opened(inside, tmp_path) as store:
        await store.put("key", DATA)
        inside.wrong = True
        with pytest.raises(ChecksumError):
            await _stream(store)
        inside.wrong = False
        assert await _stream(store) == DATA


async def _stream(store: CachedStore) -> bytes:
    async with store.open_reader("key") as reader:
        return b"".join([piece async for piece in reader])


# The folder


async def test_a_folder_that_cannot_be_written_is_said_once_and_does_no_harm(
    inside: Recorder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    async with opened(inside, tmp_path / "file") as store:
        await store.put("key", DATA)
        with caplog.at_level(logging.WARNING, "s3dlio.cache"):
            assert [await store.get("key") for _ in range(2)] == [DATA] * 2
            assert await store.get_range("key", BoundedRange(70, 80)) == DATA[70:80]
    assert [record.message for record in caplog.records] == [
        f"nothing more is kept in {tmp_path / 'file'}: Not a directory"
    ]


async def test_a_full_disk_leaves_nothing_behind(
    inside: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def write(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("s3dlio.alignment.direct.os.pwrite", write)
    async with opened(inside, tmp_path) as store:
        await store.put("key", DATA)
        assert await store.get("key") == DATA
    assert "No space left on device" in caplog.text
    assert list(chunk_files(tmp_path)) == []


async def test_the_folder_keeps_to_its_limit(inside: Recorder, tmp_path: Path) -> None:
    async with opened(inside, tmp_path, limit=2000) as store:
        for number in range(20):
            await store.put(f"{number}", bytes([number]) * 300)
            assert await store.get(f"{number}") == bytes([number]) * 300
            assert sum(file.stat().st_size for file in chunk_files(tmp_path)) <= 2000
        inside.calls.clear()
        assert await store.get("19") == bytes([19]) * 300
        assert inside.calls == ["head"]


async def test_without_a_strong_etag_nothing_is_kept(tmp_path: Path) -> None:
    class Weak(MemoryStore):
        async def head(self, key: str) -> ObjectMeta:
            return ObjectMeta(key, len(DATA), 'W/"1"')

    async with opened(Weak(), tmp_path) as store:
        await store.put("key", DATA)
        assert await store.get("key") == DATA
        assert await store.get_range("key", BoundedRange(1, 2)) == DATA[1:2]
    assert list(chunk_files(tmp_path)) == []
