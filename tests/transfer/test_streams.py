"""Objects read piece by piece: in order, a few parts ahead and no more, of one version, with errors in their places."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from s3dlio.alignment import Checksum
from s3dlio.errors import (
    ChecksumError,
    NotFoundError,
    ObjectChangedError,
    PermissionDeniedError,
    RangeError,
    StoreError,
)
from s3dlio.model import GetOptions, GetResult, ObjectMeta, PutOptions, Sink, StoredChecksum
from s3dlio.part_reader import PartReader
from s3dlio.stores.memory import MemoryStore
from s3dlio.stores.wrapper import WrapperStore
from s3dlio.transfer import ParallelStore

from .recorder import DATA, KEY, PART, OurOwnError, Recorder


async def _all_of(reader: PartReader, step: int | None = None) -> list[bytes]:
    pieces = []
    while piece := await reader.receive_some(step):
        pieces.append(piece)
    assert await reader.receive_some(step) == b""
    return pieces


@given(
    size=st.integers(0, 60),
    start=st.integers(0, 60),
    length=st.none() | st.integers(1, 70),
    step=st.none() | st.integers(1, 25),
    part=st.integers(1, 15),
    in_flight=st.integers(1, 5),
)
def test_a_stream_is_the_slice(
    size: int, start: int, length: int | None, step: int | None, part: int, in_flight: int
) -> None:
    end = None if length is None else start + length
    data = DATA[:size]

    async def read() -> list[bytes]:
        store = ParallelStore(MemoryStore(), part_size=part, parts_in_flight=in_flight)
        await store.put(KEY, data)
        async with store.open_reader(KEY, start=start, end=end) as reader:
            assert reader.meta == await store.head(KEY)
            assert reader.end == len(data[:end])
            pieces = await _all_of(reader, step)
        assert store._limiter.borrowed_tokens == 0
        return pieces

    if start and start >= size:
        with pytest.raises(RangeError):
            trio.run(read)
        return
    pieces = trio.run(read)
    assert b"".join(pieces) == data[start:end]
    assert all(0 < len(piece) <= min(part, step or part) for piece in pieces)


async def test_iteration_is_by_parts(recorder: Recorder, store: ParallelStore) -> None:
    await recorder.inner.put(KEY, DATA)
    async with store.open_reader(KEY) as reader:
        pieces = [piece async for piece in reader]
    assert pieces == [DATA[start : start + PART] for start in range(0, 95, PART)]
    assert recorder.calls == ["fetch"] * 10


async def test_no_more_is_ahead_than_allowed(recorder: Recorder, store: ParallelStore) -> None:
    await recorder.inner.put(KEY, DATA)
    async with store.open_reader(KEY) as reader:
        for handed in range(1, 10):
            await trio.testing.wait_all_tasks_blocked()
            assert len(recorder.calls) == min(max(handed - 1, 1) + 4, 10)
            assert len(await reader.receive_some()) == PART
    assert recorder.most_running <= 4


async def test_the_memory_limit_is_kept(recorder: Recorder) -> None:
    store = ParallelStore(recorder, part_size=PART, parts_in_flight=4, memory_limit=2 * PART)
    await recorder.inner.put(KEY, DATA)
    async with store.open_reader(KEY):
        await trio.testing.wait_all_tasks_blocked()
        assert len(recorder.calls) == 1 + 2


async def test_pieces_come_in_order_whatever_order_they_land_in(recorder: Recorder, store: ParallelStore) -> None:
    await recorder.inner.put(KEY, DATA)

    async def last_first(name: str, number: int) -> None:
        for _ in range(10 * (10 - number)):
            await trio.lowlevel.checkpoint()

    recorder.during = last_first
    async with store.open_reader(KEY) as reader:
        assert b"".join(await _all_of(reader)) == DATA


@pytest.mark.parametrize("pinned", [True, False])
@pytest.mark.parametrize("replaced_in", [1, 2, 3, 9])
async def test_a_stream_is_of_one_version(
    recorder: Recorder, store: ParallelStore, replaced_in: int, pinned: bool
) -> None:
    await recorder.inner.put(KEY, b"o" * 95)
    etag = (await recorder.inner.head(KEY)).etag if pinned else None

    async def swap(name: str, number: int) -> None:
        if number == replaced_in:
            await recorder.inner.put(KEY, b"n" * 95)

    recorder.during = swap
    received = b""
    try:
        async with store.open_reader(KEY, if_match=etag) as reader:
            async for piece in reader:
                received += piece
    except ObjectChangedError:
        assert pinned or replaced_in > 1
        assert received == b"o" * len(received)
    else:
        assert received == b"n" * 95


async def test_what_is_not_there_is_told_when_it_is_opened(store: ParallelStore) -> None:
    with pytest.raises(NotFoundError):
        async with store.open_reader("absent"):
            pytest.fail("there is nothing to read")


@pytest.mark.parametrize("end", [0, 3, 5])
async def test_a_range_without_bytes_is_refused(recorder: Recorder, store: ParallelStore, end: int) -> None:
    await recorder.inner.put(KEY, DATA)
    with pytest.raises(ValueError, match="not a range"):
        async with store.open_reader(KEY, start=5, end=end):
            pytest.fail("there is nothing to read")


async def test_a_failure_is_told_in_its_place_and_again(recorder: Recorder, store: ParallelStore) -> None:
    await recorder.inner.put(KEY, DATA)

    async def fail(name: str, number: int) -> None:
        if number == 6:  # the first one that begins by itself: the order of those before is open
            raise PermissionDeniedError("no longer", None)

    recorder.during = fail
    async with store.open_reader(KEY) as reader:
        for start in range(0, 5 * PART, PART):
            assert await reader.receive_some() == DATA[start : start + PART]
            await trio.testing.wait_all_tasks_blocked()
        for _ in range(2):
            with pytest.raises(PermissionDeniedError):
                await reader.receive_some()
    assert len(recorder.calls) == 6, "a part was asked for after one had failed"
    assert recorder.running == store._limiter.borrowed_tokens == 0


async def test_a_cancelled_call_takes_nothing_from_the_stream(recorder: Recorder, store: ParallelStore) -> None:
    await recorder.inner.put(KEY, DATA)
    go_on = trio.Event()

    async def hold(name: str, number: int) -> None:
        if number > 1:
            await go_on.wait()

    recorder.during = hold
    async with store.open_reader(KEY) as reader:
        received = await reader.receive_some()
        with trio.CancelScope() as scope:
            scope.cancel()
            await reader.receive_some()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader.receive_some)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await reader.receive_some()
            nursery.cancel_scope.cancel()
        go_on.set()
        received += b"".join(await _all_of(reader))
    assert received == DATA


@pytest.mark.parametrize("how", ["left", "raised", "cancelled"])
async def test_the_end_of_the_block_ends_what_is_under_way(recorder: Recorder, store: ParallelStore, how: str) -> None:
    await recorder.inner.put(KEY, DATA)

    async def hang(name: str, number: int) -> None:
        if number > 1:
            await trio.sleep_forever()

    recorder.during = hang
    raised = None
    with trio.CancelScope() as scope:
        try:
            async with store.open_reader(KEY) as reader:
                await trio.testing.wait_all_tasks_blocked()
                assert recorder.running == 4
                if how == "raised":
                    raise OurOwnError
                if how == "cancelled":
                    scope.cancel()
                    await reader.receive_some()
        except OurOwnError as error:
            raised = error
    assert (raised is not None, scope.cancelled_caught) == (how == "raised", how == "cancelled")
    assert recorder.running == store._limiter.borrowed_tokens == 0
    with pytest.raises(trio.ClosedResourceError):
        await reader.receive_some()


async def test_cancelled_at_any_step_nothing_is_left(recorder: Recorder, store: ParallelStore) -> None:
    await recorder.inner.put(KEY, DATA)
    for steps in range(60):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_after, scope, steps)
                async with store.open_reader(KEY) as reader:
                    assert b"".join(await _all_of(reader, 7)) == DATA
                nursery.cancel_scope.cancel()
        assert recorder.running == store._limiter.borrowed_tokens == 0


async def _cancel_after(scope: trio.CancelScope, steps: int) -> None:
    for _ in range(steps):
        await trio.lowlevel.checkpoint()
    scope.cancel()


async def test_a_closed_reader_hands_over_nothing(recorder: Recorder, store: ParallelStore) -> None:
    await recorder.inner.put(KEY, DATA)
    async with store.open_reader(KEY) as reader:
        await reader.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await reader.receive_some()
        with pytest.raises(ValueError, match="not 0"):
            await reader.receive_some(0)


# Checksums, and servers that know no ranges


class _Told(WrapperStore):
    """A store that tells the CRC-32 of `told` as that of each object, and ignores ranges where it is `without`."""

    def __init__(self, told: bytes, *, without: bool = False) -> None:
        super().__init__(MemoryStore())
        self._checksum = StoredChecksum("CRC32", Checksum("CRC32", told).value)
        self._without = without
        self.asked = 0

    async def fetch(self, key: str, sink: Sink, options: GetOptions = GetOptions()) -> GetResult:
        self.asked += 1
        if self._without:
            return await self._all(key, sink, options)
        result = await super().fetch(key, sink, options)
        return GetResult(self._with_checksum(result.meta), result.start, result.end)

    async def _all(self, key: str, sink: Sink, options: GetOptions) -> GetResult:
        def whole(coming: GetResult) -> memoryview:
            end = getattr(options.byte_range, "end", coming.end)
            return sink(GetResult(coming.meta, 0, end, coming.end - end))

        result = await super().fetch(key, whole, GetOptions(None, options.if_match))
        return GetResult(self._with_checksum(result.meta), result.start, result.end)

    def _with_checksum(self, meta: ObjectMeta) -> ObjectMeta:
        return ObjectMeta(meta.key, meta.size, meta.etag, meta.last_modified, checksum=self._checksum)


@pytest.mark.parametrize("size", [1, PART, PART + 1, 95])
async def test_the_last_piece_is_handed_over_where_the_checksum_agrees(size: int) -> None:
    data = DATA[:size]
    store = ParallelStore(_Told(data), part_size=PART, parts_in_flight=3)
    await store.inner.put(KEY, data)
    async with store.open_reader(KEY) as reader:
        assert b"".join(await _all_of(reader)) == data


@pytest.mark.parametrize("size", [1, PART, PART + 1, 95])
async def test_the_last_piece_is_not_handed_over_where_it_does_not(size: int) -> None:
    data = DATA[:size]
    store = ParallelStore(_Told(b"something else"), part_size=PART, parts_in_flight=3)
    await store.inner.put(KEY, data)
    received = bytearray()
    with pytest.raises(ChecksumError):
        await _receive(store, received)
    assert received == data[: (size - 1) // PART * PART]


async def _receive(store: ParallelStore, received: bytearray) -> None:
    async with store.open_reader(KEY) as reader:
        async for piece in reader:
            received += piece


async def test_a_part_of_an_object_is_not_compared_with_the_checksum_of_the_whole() -> None:
    store = ParallelStore(_Told(b"something else"), part_size=PART, parts_in_flight=3)
    await store.inner.put(KEY, DATA)
    async with store.open_reader(KEY, start=1) as reader:
        assert b"".join(await _all_of(reader)) == DATA[1:]


async def test_a_server_that_knows_no_ranges_is_asked_once() -> None:
    inner = _Told(DATA, without=True)
    store = ParallelStore(inner, part_size=PART, parts_in_flight=3)
    await inner.put(KEY, DATA, PutOptions())
    async with store.open_reader(KEY) as reader:
        assert b"".join(await _all_of(reader)) == DATA
    assert inner.asked == 1


async def test_an_error_of_the_caller_comes_out_bare(recorder: Recorder, store: ParallelStore) -> None:
    await recorder.inner.put(KEY, DATA)
    with pytest.raises(StoreError, match="ours"):
        async with store.open_reader(KEY):
            raise StoreError("ours", None)
