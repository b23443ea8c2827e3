"""What comes in pieces is of one version, whatever a server's etags are worth, and has the object's own checksum."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from s3dlio.alignment import Checksum
from s3dlio.config import Config
from s3dlio.errors import ChecksumError, ObjectChangedError
from s3dlio.model import GetOptions, GetResult, ObjectMeta, Sink, StoredChecksum, resolve
from s3dlio.stores.integrity import Digester, Landed
from s3dlio.stores.memory import MemoryStore
from s3dlio.stores.wrapper import PrefixStore, WrapperStore
from s3dlio.transfer import ParallelStore
from s3dlio.urls import open_store

from ..servers.faults import Fault, FaultServer, fault_server
from .recorder import DATA, KEY, PART


class _Checked(WrapperStore):
    """A memory store that tells a checksum of the whole object, and flips a bit in reads number `flipped`."""

    def __init__(self, algorithm: str, flipped: set[int]) -> None:
        super().__init__(MemoryStore())
        self.algorithm = algorithm
        self.flipped = flipped
        self.reads = 0

    async def fetch(self, key: str, sink: Sink, options: GetOptions = GetOptions()) -> GetResult:
        self.reads += 1
        number, views = self.reads, list[memoryview]()
        stored = self._stored(await self.inner.get(key), options)

        def told(coming: GetResult) -> memoryview:
            views.append(sink(replace(coming, meta=replace(coming.meta, checksum=stored))))
            return views[0]

        result = await super().fetch(key, told, options)
        if number in self.flipped:
            views[0][3] ^= 1
        return replace(result, meta=replace(result.meta, checksum=stored))

    def _stored(self, data: bytes, options: GetOptions) -> StoredChecksum | None:
        return StoredChecksum(self.algorithm, Checksum(self.algorithm, data).value)


class _OfParts(_Checked):
    """One that tells of every range a checksum of its own, as if that were the object's."""

    def _stored(self, data: bytes, options: GetOptions) -> StoredChecksum | None:
        start, end = resolve(options.byte_range, len(data))
        return super()._stored(data[start:end], options)


class _LookedUp(_Checked):
    """One that tells it to those alone who look it up; `lookups` counts them."""

    lookups = 0
    newer = False

    def _stored(self, data: bytes, options: GetOptions) -> StoredChecksum | None:
        return None

    async def look_up_checksum(self, key: str) -> ObjectMeta | None:
        self.lookups += 1
        meta, stored = await self.head(key), super()._stored(await self.inner.get(key), GetOptions())
        return replace(meta, checksum=stored, etag='"newer"' if self.newer else meta.etag)


@asynccontextmanager
async def _checked(algorithm: str = "CRC32C", *flipped: int) -> AsyncIterator[tuple[_Checked, ParallelStore]]:
    inner = _Checked(algorithm, set(flipped))
    await inner.put(KEY, DATA)
    async with ParallelStore(inner, part_size=PART, parts_in_flight=4) as store:
        yield inner, store


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME"])
async def test_a_whole_object_is_compared_with_its_checksum(algorithm: str, known: bool) -> None:
    async with _checked(algorithm, 4) as (inner, store):
        meta = await inner.head(KEY) if known else None
        assert await store.get(KEY, known=meta) == DATA  # read again, as a bit was flipped on the way
        assert inner.reads == 11
        view = memoryview(bytearray(95))
        inner.flipped = {inner.reads + 9}
        await store.get_into(KEY, view)
        assert bytes(view) == DATA
        assert inner.reads == 22


async def test_what_does_not_have_its_checksum_twice_is_an_error() -> None:
    async with _checked("CRC32C", 1, 11, 15, 22) as (inner, store):
        with pytest.raises(ChecksumError, match="twice"):
            await store.get(KEY)
        assert inner.reads == 11
        with pytest.raises(ChecksumError, match=f"key='{KEY}'"):
            await store.get_into(KEY, memoryview(bytearray(95)))
        assert inner.reads == 22


async def test_a_part_of_an_object_is_not_compared_with_the_checksum_of_the_whole() -> None:
    async with _checked() as (inner, store):
        for start, size in ((0, 60), (20, 75)):
            view = memoryview(bytearray(size))
            await store.get_into(KEY, view, start=start)
            assert bytes(view) == DATA[start : start + size]
        view = memoryview(bytearray(20))
        await store.get_pieces(KEY, [(0, view[:10]), (50, view[10:])])
        assert bytes(view) == DATA[:10] + DATA[50:60]
        assert inner.reads == 6 + 8 + 2


async def test_what_answers_do_not_agree_on_is_not_the_objects_checksum() -> None:
    inner = _OfParts("CRC32", set())
    await inner.put(KEY, DATA)
    async with ParallelStore(inner, part_size=PART, parts_in_flight=4) as store:
        assert await store.get(KEY) == DATA
        await store.get_into(KEY, view := memoryview(bytearray(95)))
        assert bytes(view) == DATA
    assert inner.reads == 20


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME"])
@given(st.sets(st.integers(1, len(DATA) - 1), max_size=8), st.randoms(), st.none() | st.integers(0, len(DATA) - 1))
def test_an_object_that_was_cut_anywhere(algorithm: str, cuts: set[int], order: Random, flipped: int | None) -> None:
    """And whose pieces came in any order, one of them perhaps with a flipped bit."""
    meta = ObjectMeta(KEY, len(DATA), "etag", checksum=StoredChecksum(algorithm, Checksum(algorithm, DATA).value))
    data = bytearray(DATA)
    if flipped is not None:
        data[flipped] ^= 1
    pieces = [*pairwise([0, *sorted(cuts), len(DATA)])]
    order.shuffle(pieces)

    async def is_sound() -> bool:
        landed = Landed(KEY, Digester())
        for start, end in pieces:
            await landed.add(GetResult(meta, start, end), memoryview(data)[start:end])
        return landed.is_sound()

    assert trio.run(is_sound) == (flipped is None)


@pytest.mark.parametrize("how", ["get", "known", "get_into"])
async def test_a_checksum_that_ranges_do_not_tell_is_looked_up_once(how: str) -> None:
    inner = _LookedUp("CRC64NVME", {4})
    await inner.put(KEY, DATA)
    async with ParallelStore(PrefixStore(inner, ""), part_size=PART, parts_in_flight=4) as store:
        assert await _read(store, how) == DATA
        assert (inner.reads, inner.lookups) == (11, 1)
        inner.flipped = {inner.reads + 1, inner.reads + 11}
        with pytest.raises(ChecksumError, match="twice"):
            await _read(store, how)
        inner.newer, inner.flipped = True, {inner.reads + 4}
        assert await _read(store, how) != DATA  # the checksum of another version says nothing


async def test_of_one_part_no_checksum_is_looked_up() -> None:
    inner = _LookedUp("CRC64NVME", set())
    await inner.put(KEY, DATA)
    async with ParallelStore(inner, part_size=100, parts_in_flight=4) as store:
        assert await store.get(KEY) == await store.get(KEY, known=await store.head(KEY)) == DATA
    async with ParallelStore(inner, part_size=PART, parts_in_flight=4) as store:
        await store.get_into(KEY, memoryview(bytearray(90)))
        await store.get_pieces(KEY, [(0, memoryview(bytearray(10)))])
    assert inner.lookups == 0


# On the wire


@asynccontextmanager
async def _serving(always: Fault) -> AsyncIterator[tuple[FaultServer, ParallelStore]]:
    async with fault_server() as server:
        server.objects["/bucket/object"] = DATA
        server.always = always
        async with open_store("s3://bucket", Config(endpoint=server.endpoint, anonymous=True, part_size=PART)) as store:
            yield server, store


async def _read(store: ParallelStore, how: str) -> bytes:
    if how == "get_into":
        view = memoryview(bytearray(95))
        await store.get_into(KEY, view)
        return bytes(view)
    return await store.get(KEY, known=await store.head(KEY) if how == "known" else None)


WEAK = Fault(headers={"etag": 'W/"weak"'})


@pytest.mark.parametrize("how", ["get", "known", "get_into"])
async def test_a_weak_etag_does_not_keep_an_object_from_being_read_in_ranges(how: str) -> None:
    async with _serving(WEAK) as (server, store):
        for _ in range(2):
            assert await _read(store, how) == DATA
        assert not any("if-match" in asked.headers for asked in server.requests)


@pytest.mark.parametrize("how", ["get", "known", "get_into"])
@pytest.mark.parametrize(
    "other", [{"etag": 'W/"other"'}, {"last-modified": "Fri, 01 Mar 2024 00:00:00 GMT"}, {"etag": '"strong"'}]
)
@pytest.mark.parametrize("replaced_in", [2, 5, 10])
async def test_an_object_of_a_weak_etag_that_is_replaced_meanwhile_is_noticed(
    replaced_in: int, other: dict[str, str], how: str
) -> None:
    async with _serving(WEAK) as (server, store):
        known = [WEAK] if how == "known" else []
        server.script.extend([*known, *[WEAK] * (replaced_in - 1), Fault(headers={**WEAK.headers, **other})])
        with pytest.raises(ObjectChangedError):
            await _read(store, how)


@pytest.mark.parametrize("how", ["get", "known", "get_into"])
async def test_a_server_that_knows_no_ranges_is_asked_once(how: str) -> None:
    async with _serving(Fault(deaf_to=frozenset({"range"}))) as (server, store):
        for _ in range(2):
            server.requests.clear()
            assert await _read(store, how) == DATA
            assert [asked.method for asked in server.requests if asked.method == "GET"] == ["GET"]


@pytest.mark.parametrize(("start", "size"), [(0, 60), (20, 75), (20, 40)])
async def test_a_server_that_knows_no_ranges_is_asked_once_for_a_range(start: int, size: int) -> None:
    async with _serving(Fault(deaf_to=frozenset({"range"}))) as (server, store):
        view = memoryview(bytearray(size))
        result = await store.get_into(KEY, view, start=start)
        assert bytes(view) == DATA[start : start + size]
        assert (result.start, result.end) == (start, start + size)
        assert len(server.requests) == 1


@pytest.mark.parametrize("how", ["get", "get_into"])
@pytest.mark.parametrize("wrong", [1, 3])
async def test_a_large_object_of_google_is_compared_with_its_crc32c(how: str, wrong: int) -> None:
    """The first part arrives with a flipped bit; then the whole object, twice, or not."""
    async with fault_server() as server:
        server.objects["/storage/v1/b/bucket/o/object"] = DATA
        headers = {"x-goog-hash": f"crc32c={Checksum('CRC32C', DATA).base64}", "x-goog-generation": "7"}
        server.always = Fault(headers={**headers, "etag": None})
        flipped = replace(server.always, body=b"\x80" + DATA[1:PART])
        server.script.extend([flipped, *[server.always] * 9])
        server.script.extend([replace(server.always, body=b"\x80" + DATA[1:])] * (wrong - 1))
        config = Config(gcs_endpoint=server.endpoint, anonymous=True, part_size=PART)
        async with open_store("gs://bucket", config) as store:
            if wrong == 1:
                assert await _read(store, how) == DATA
            else:
                with pytest.raises(ChecksumError, match="twice"):
                    await _read(store, how)
        assert len(server.requests) == 10 + (1 if wrong == 1 else 2)
