"""Large objects read in ranges."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio

from s3dlio.errors import (
    IntegrityError,
    NotFoundError,
    ObjectChangedError,
    PermissionDeniedError,
    RangeError,
)
from s3dlio.transfer import ParallelStore
from s3dlio.urls import open_store

from ..servers.seaweedfs import SeaweedFS
from .recorder import DATA, KEY, PART, Recorder, known_meta


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 20, 95])
async def test_a_get_asks_for_ranges_and_for_nothing_else(
    recorder: Recorder, store: ParallelStore, size: int, listed: bool
) -> None:
    await recorder.inner.put(KEY, DATA[:size])
    known = await known_meta(recorder) if listed else None
    assert await store.get(KEY, known=known) == DATA[:size]
    empty_is_asked_for_twice = not size and not listed
    assert recorder.calls == ["fetch"] * (2 if empty_is_asked_for_twice else max(1, -(-size // PART)))


@pytest.mark.parametrize("size", [0, 5, 10, 11, 30, 95, 96, 200])
@pytest.mark.parametrize("start", [0, 7, 60])
async def test_get_into_fills_the_view_or_says_that_the_object_is_too_short(
    recorder: Recorder, store: ParallelStore, size: int, start: int
) -> None:
    await recorder.inner.put(KEY, DATA)
    view = memoryview(bytearray(size))
    if start + size > len(DATA):
        with pytest.raises(IntegrityError):
            await store.get_into(KEY, view, start=start)
    else:
        result = await store.get_into(KEY, view, start=start)
        assert bytes(view) == DATA[start : start + size]
        assert (result.start, result.end) == (start, start + size)


async def test_an_object_too_short_is_no_matter_of_which_part_answers_first(
    recorder: Recorder, store: ParallelStore
) -> None:
    async def last_first(name: str, number: int) -> None:
        for _ in range(10 - number):
            await trio.lowlevel.checkpoint()

    await recorder.inner.put(KEY, DATA[:25])
    recorder.during = last_first
    with pytest.raises(IntegrityError, match="asked for 60 bytes"):
        await store.get_into(KEY, memoryview(bytearray(60)))


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("replaced_in", range(1, 11))
async def test_a_get_of_an_object_replaced_meanwhile_never_mixes_versions(
    recorder: Recorder, store: ParallelStore, replaced_in: int, listed: bool
) -> None:
    old, new = b"o" * 95, b"n" * 97
    await recorder.inner.put(KEY, old)
    known = await known_meta(recorder) if listed else None

    async def swap(name: str, number: int) -> None:
        if number == replaced_in:
            await recorder.inner.put(KEY, new)

    recorder.during = swap
    try:
        data = await store.get(KEY, known=known)
    except ObjectChangedError:
        assert not listed
    else:
        assert data in {old, new}


async def test_an_asked_for_version_is_not_replaced_by_another(recorder: Recorder, store: ParallelStore) -> None:
    await recorder.inner.put(KEY, DATA)
    known = await known_meta(recorder)
    await recorder.inner.put(KEY, DATA[::-1])
    with pytest.raises(ObjectChangedError):
        await store.get(KEY, known=known, if_match=known.etag)
    with pytest.raises(ObjectChangedError):
        await store.get(KEY, if_match=known.etag)
    with pytest.raises(ObjectChangedError):
        await store.get_into(KEY, memoryview(bytearray(95)), if_match=known.etag)


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("failing", [{3}, {2, 3, 4}])
async def test_the_first_failure_ends_its_siblings_and_comes_out_bare(
    recorder: Recorder, store: ParallelStore, failing: set[int], listed: bool
) -> None:
    await recorder.inner.put(KEY, DATA)
    known = await known_meta(recorder) if listed else None

    async def fail(name: str, number: int) -> None:
        if number in failing:
            raise PermissionDeniedError("no longer", None)
        if number > 1:
            await trio.sleep_forever()

    recorder.during = fail
    with pytest.raises(PermissionDeniedError):
        await store.get(KEY, known=known)
    assert recorder.running == 0
    recorder.calls.clear()
    with pytest.raises(PermissionDeniedError):
        await store.get_into(KEY, memoryview(bytearray(95)))
    assert recorder.running == 0


async def test_cancellation_ends_a_read_and_is_not_swallowed(recorder: Recorder, store: ParallelStore) -> None:
    await recorder.inner.put(KEY, DATA)

    async def stop_in_third(name: str, number: int) -> None:
        if number == 3:
            scope.cancel()
        if number > 1:
            await trio.sleep_forever()

    recorder.during = stop_in_third
    with trio.CancelScope() as scope:
        await store.get(KEY)
    assert scope.cancelled_caught
    assert recorder.running == 0
    recorder.during = recorder._nothing
    assert await store.get(KEY) == DATA


async def test_parts_of_all_objects_share_one_limit(recorder: Recorder, store: ParallelStore) -> None:
    await recorder.inner.put(KEY, DATA)
    known = await known_meta(recorder)

    async def linger(name: str, number: int) -> None:
        for _ in range(5):
            await trio.lowlevel.checkpoint()

    recorder.during = linger
    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(lambda: store.get(KEY, known=known))
            nursery.start_soon(store.put, f"written {number}", DATA)
    writers_at_create_or_complete = 3
    assert 4 <= recorder.most_running <= 4 + writers_at_create_or_complete
    recorder.most_running = 0
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(lambda: store.get(KEY, known=known))
    assert recorder.most_running == 4


# Pieces


def _pieces(view: memoryview, *starts: int, size: int = 7) -> Iterator[tuple[int, memoryview]]:
    """Pieces of `size` bytes from `starts`, each to its place in a view of the whole object."""
    return ((start, view[start : start + size]) for start in starts)


async def test_pieces_are_one_request_each_and_leave_the_rest_alone(recorder: Recorder, store: ParallelStore) -> None:
    await recorder.inner.put(KEY, DATA)
    view = memoryview(bytearray(95))
    meta = await store.get_pieces(KEY, _pieces(view, 0, 30, 88, 37))
    assert meta == await recorder.inner.head(KEY)
    assert recorder.calls == ["fetch"] * 4
    wanted = {byte for start in (0, 30, 37, 88) for byte in range(start, start + 7)}
    assert bytes(view) == bytes(byte if byte in wanted else 0 for byte in DATA)


async def test_no_pieces_are_no_request(recorder: Recorder, store: ParallelStore) -> None:
    assert await store.get_pieces("absent", ()) is None
    assert recorder.calls == []


async def test_pieces_are_asked_for_as_fast_as_the_limit_lets_them(recorder: Recorder, store: ParallelStore) -> None:
    await recorder.inner.put(KEY, DATA)
    drawn: list[int] = []

    def pieces() -> Iterator[tuple[int, memoryview]]:
        for start in range(0, 90, 5):
            drawn.append(start)
            assert len(drawn) - len(recorder.calls) <= 5
            yield start, memoryview(bytearray(5))

    async def linger(name: str, number: int) -> None:
        for _ in range(5):
            await trio.lowlevel.checkpoint()

    recorder.during = linger
    await store.get_pieces(KEY, pieces())
    assert len(drawn) == 18
    assert recorder.most_running == 4
    assert store._limiter.borrowed_tokens == 0


@pytest.mark.parametrize("pinned", [True, False])
@pytest.mark.parametrize("replaced_in", [1, 2, 3, 4])
async def test_pieces_are_of_one_version(
    recorder: Recorder, store: ParallelStore, replaced_in: int, pinned: bool
) -> None:
    await recorder.inner.put(KEY, b"o" * 95)
    etag = (await known_meta(recorder)).etag if pinned else None

    async def swap(name: str, number: int) -> None:
        if number == replaced_in:
            await recorder.inner.put(KEY, b"n" * 95)

    recorder.during = swap
    view = memoryview(bytearray(95))
    if not pinned and replaced_in == 1:
        await store.get_pieces(KEY, _pieces(view, 0, 20, 40, 60, size=1))
        assert set(view) == {0, ord("n")}
    else:
        with pytest.raises(ObjectChangedError):
            await store.get_pieces(KEY, _pieces(view, 0, 20, 40, 60, size=1), if_match=etag)


async def test_a_piece_that_fails_ends_the_others(recorder: Recorder, store: ParallelStore) -> None:
    await recorder.inner.put(KEY, DATA)

    async def fail(name: str, number: int) -> None:
        if number == 2:
            raise PermissionDeniedError("no longer", None)
        await trio.sleep_forever()

    recorder.during = fail
    with pytest.raises(PermissionDeniedError):
        await store.get_pieces(KEY, _pieces(memoryview(bytearray(95)), 0, 20, 40))
    assert recorder.running == store._limiter.borrowed_tokens == 0


@pytest.mark.parametrize(("start", "kind"), [(90, IntegrityError), (95, RangeError)])
async def test_a_piece_beyond_the_end_is_an_error(
    recorder: Recorder, store: ParallelStore, start: int, kind: type[Exception]
) -> None:
    await recorder.inner.put(KEY, DATA)
    with pytest.raises(kind):
        await store.get_pieces(KEY, [(0, memoryview(bytearray(7))), (start, memoryview(bytearray(7)))])


async def test_a_large_object_on_a_real_server(s3_environment: SeaweedFS, bucket: str) -> None:
    async with open_store(f"s3://{bucket}/folder") as store:
        first, grown, shrunk = (bytes([n]) * (size << 20) for n, size in ((1, 40), (2, 70), (3, 20)))
        await store.put(KEY, first)
        (known,) = (await store.list_page()).objects
        assert await store.get(KEY, known=known) == first
        for data in (grown, shrunk, b"tiny"):
            await store.put(KEY, data)
            assert await store.get(KEY, known=known) == data
            assert await store.get(KEY) == data
        await store.delete(KEY)
        with pytest.raises(NotFoundError):
            await store.get(KEY, known=known)
