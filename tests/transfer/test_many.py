"""Many whole objects, read ahead: in order, no more than may be, with errors in their places, and nothing left."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio
import trio.testing

from s3dlio.errors import NotFoundError, ServerError
from s3dlio.fetcher import MAX_OBJECTS
from s3dlio.many_reader import ManyReader
from s3dlio.model import ObjectMeta
from s3dlio.transfer import ParallelStore

from .recorder import PART, OurOwnError, Recorder

KEYS = [f"{number:03}" for number in range(300)]


async def fill(store: ParallelStore) -> None:
    for key in KEYS:
        await store.put(key, key.encode() * 2)


async def wait_in_vain(reader: ManyReader) -> None:
    """A call that has asked for objects, and is cancelled as it waits for the first."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader.__anext__)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("told", [False, True])
async def test_objects_come_in_the_order_that_is_wanted(store: ParallelStore, told: bool) -> None:
    await fill(store)
    wanted: list[str | ObjectMeta] = [*reversed(KEYS)]
    if told:
        wanted = [await store.head(key) for key in reversed(KEYS)]
    async with store.get_many(wanted) as reader:
        assert [pair async for pair in reader] == [(key, key.encode() * 2) for key in reversed(KEYS)]


async def test_keys_are_drawn_as_they_are_needed(store: ParallelStore, recorder: Recorder) -> None:
    drawn: list[str] = []

    def keys() -> Iterator[str]:
        for key in KEYS:
            drawn.append(key)
            yield key

    await fill(store)
    async with store.get_many(keys()) as reader:
        await anext(reader)
        await trio.testing.wait_all_tasks_blocked()
        assert len(drawn) == recorder.calls.count("fetch") == MAX_OBJECTS
        assert len([pair async for pair in reader]) == len(KEYS) - 1
    assert drawn == KEYS


async def test_an_error_is_told_in_its_place_and_the_rest_goes_on(store: ParallelStore) -> None:
    await store.put("a", b"1")
    await store.put("c", b"3")
    async with store.get_many(["a", "absent", "c", "absent as well"]) as reader:
        assert await anext(reader) == ("a", b"1")
        with pytest.raises(NotFoundError, match="absent"):
            await anext(reader)
        assert await anext(reader) == ("c", b"3")
        with pytest.raises(NotFoundError, match="absent as well"):
            await anext(reader)
        assert [pair async for pair in reader] == []


async def test_an_outage_is_the_error_of_each(store: ParallelStore, recorder: Recorder) -> None:
    async def fail(name: str, number: int) -> None:
        raise ServerError("out")

    recorder.during = fail
    async with store.get_many(["a", "b"]) as reader:
        for _ in range(2):
            with pytest.raises(ServerError, match="out"):
                await anext(reader)


async def test_what_is_ahead_is_bounded_in_bytes(recorder: Recorder) -> None:
    store = ParallelStore(recorder, part_size=PART, parts_in_flight=4, memory_limit=6 * PART)
    await fill(store)
    metas = [ObjectMeta(key, PART) for key in KEYS]
    async with store.get_many(metas) as reader:
        for count in range(1, 20):
            await anext(reader)
            await trio.testing.wait_all_tasks_blocked()
            assert recorder.calls.count("fetch") == count + 3
        assert len([pair async for pair in reader]) == len(KEYS) - 19


async def test_an_object_above_the_limit_comes_alone(recorder: Recorder) -> None:
    store = ParallelStore(recorder, part_size=1000, parts_in_flight=4, memory_limit=20)
    for key in "abc":
        await store.put(key, key.encode() * 100)
    async with store.get_many("abc") as reader:
        assert [pair async for pair in reader] == [(key, key.encode() * 100) for key in "abc"]
    assert recorder.most_running == 1


@pytest.mark.parametrize("how", ["left", "cancelled", "failed"])
async def test_the_end_of_the_block_ends_what_is_under_way(store: ParallelStore, recorder: Recorder, how: str) -> None:
    async def hold(name: str, number: int) -> None:
        await trio.sleep_forever()

    recorder.during = hold
    with trio.CancelScope() as scope:
        try:
            async with store.get_many(KEYS) as reader:
                await wait_in_vain(reader)
                assert recorder.running == MAX_OBJECTS
                if how == "cancelled":
                    scope.cancel()
                    await anext(reader)
                elif how == "failed":
                    raise OurOwnError
        except OurOwnError:
            assert how == "failed"
    assert (scope.cancelled_caught, recorder.running) == (how == "cancelled", 0)
    with pytest.raises(trio.ClosedResourceError):
        await anext(reader)


async def test_a_call_that_is_cancelled_takes_nothing(store: ParallelStore, recorder: Recorder) -> None:
    async def hold(name: str, number: int) -> None:
        await gate.wait()

    gate = trio.Event()
    await store.put("a", b"1")
    await store.put("b", b"2")
    recorder.during = hold
    async with store.get_many("ab") as reader:
        for _ in range(2):
            await wait_in_vain(reader)
        gate.set()
        assert [pair async for pair in reader] == [("a", b"1"), ("b", b"2")]


async def test_one_task_at_a_time(store: ParallelStore, recorder: Recorder) -> None:
    async def hold(name: str, number: int) -> None:
        await trio.sleep_forever()

    recorder.during = hold
    async with store.get_many("ab") as reader, trio.open_nursery() as nursery:
        nursery.start_soon(reader.__anext__)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await anext(reader)
        nursery.cancel_scope.cancel()


async def test_each_step_can_be_cancelled(store: ParallelStore) -> None:
    await fill(store)
    async with store.get_many(KEYS) as reader:
        for count in range(20):
            await anext(reader)
            with trio.CancelScope() as scope:
                scope.cancel()
                await anext(reader)
            assert scope.cancelled_caught, count


async def test_an_error_of_the_keys_is_raised_as_they_are_drawn(store: ParallelStore) -> None:
    def keys() -> Iterator[str]:
        yield "a"
        raise OurOwnError

    await store.put("a", b"1")
    async with store.get_many(keys()) as reader:
        with pytest.raises(OurOwnError):
            await anext(reader)
