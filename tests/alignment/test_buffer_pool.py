from __future__ import annotations

import gc
import mmap
import os
import random
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from s3dlio.alignment import AlignedBuffer, BufferPool, Lease, PoolStats, buffers

PAGE = mmap.PAGESIZE


@settings(deadline=None)
@given(size=st.integers(0, 1 << 40))
def test_size_classes_hold_the_size_and_waste_less_than_a_quarter(size: int) -> None:
    capacity = buffers.size_class(size)
    pages = max(1, -(-size // PAGE))
    assert capacity % PAGE == 0
    assert pages * PAGE <= capacity
    assert capacity == pages * PAGE or (pages > 8 and capacity < pages * PAGE * 5 / 4)
    assert buffers.size_class(capacity) == capacity


def test_size_classes_are_few() -> None:
    classes = {buffers.size_class(pages * PAGE) // PAGE for pages in range(1, 4097)}
    assert classes >= {1 << power for power in range(13)}
    assert len(classes) == 8 + 4 * 9


async def test_lease_gives_exactly_what_was_asked_for() -> None:
    pool = BufferPool(1 << 20)
    async with pool.lease(5000) as lease:
        assert (lease.size, len(lease.view), lease.capacity) == (5000, 5000, 2 * PAGE)
        assert lease.address % PAGE == 0
        assert np.frombuffer(lease.view, np.uint8).ctypes.data == lease.address
        lease.view[:] = b"x" * 5000
        assert pool.stats == PoolStats(
            limit=1 << 20, leased=2 * PAGE, free=0, leases=1, waiting=0, hits=0, misses=1, peak=2 * PAGE
        )
        assert repr(lease) == f"<Lease size=5000 capacity={2 * PAGE} held>"
    assert repr(lease) == f"<Lease size=5000 capacity={2 * PAGE} released>"
    assert repr(pool) == f"<BufferPool open limit=1048576 leased=0 free={2 * PAGE} leases=0 waiting=0>"


async def test_an_empty_lease() -> None:
    async with BufferPool(PAGE).lease(0) as lease:
        assert bytes(lease.view) == b""


async def test_buffers_are_reused_within_their_class() -> None:
    pool = BufferPool(1 << 20)
    async with pool.lease(100_000) as first:
        address = first.address
    async with pool.lease(98_305) as second:  # another size, the same class
        assert second.address == address
    async with pool.lease(PAGE):
        pass
    assert (pool.stats.hits, pool.stats.misses, pool.stats.peak) == (1, 2, first.capacity)


async def test_released_view_is_dead() -> None:
    pool = BufferPool(1 << 20)
    lease = await pool.acquire(10)
    view = lease.view
    lease.release()
    with pytest.raises(ValueError, match="released"):
        view[0] = 1


@pytest.mark.parametrize(
    "watch", [lambda view: view[2:4], lambda view: np.frombuffer(view, np.uint8)], ids=["slice", "array"]
)
async def test_memory_still_viewed_is_not_reused(watch: Callable[[memoryview], memoryview]) -> None:
    pool = BufferPool(8 * PAGE)
    lease = await pool.acquire(8 * PAGE)
    lease.view[:] = b"\x01" * lease.size
    watched = watch(lease.view)
    lease.release()
    assert (pool.stats.leased, pool.stats.free) == (0, 0)
    async with pool.lease(8 * PAGE) as other:
        other.view[:] = b"\x02" * other.size
        assert set(bytes(watched)) == {1}


async def test_release_is_idempotent() -> None:
    pool = BufferPool(8 * PAGE)
    lease = await pool.acquire(PAGE)
    async with pool.lease(PAGE):
        lease.release()
        lease.release()
        assert lease.released
        assert (pool.stats.leased, pool.stats.free, pool.stats.leases) == (PAGE, PAGE, 1)


@pytest.mark.parametrize("size", [8 * PAGE + 1, 1 << 50, -1])
async def test_impossible_sizes(size: int) -> None:
    pool = BufferPool(8 * PAGE - 5)  # rounded up to pages
    with pytest.raises(ValueError, match=rf"cannot lease {size} bytes from a pool whose limit is {8 * PAGE} bytes"):
        await pool.acquire(size)
    (await pool.acquire(8 * PAGE)).release()


async def test_the_whole_limit_can_be_leased_though_it_is_no_class() -> None:
    pool = BufferPool(17 * PAGE)
    assert buffers.size_class(17 * PAGE) > pool.limit
    async with pool.lease(17 * PAGE) as lease:
        assert lease.capacity == pool.limit


@pytest.mark.parametrize("limit", [0, -1])
def test_a_pool_needs_a_limit(limit: int) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        BufferPool(limit)


async def test_oldest_free_buffers_make_room_for_another_class() -> None:
    pool = BufferPool(8 * PAGE)
    leases = [await pool.acquire(pages * PAGE) for pages in (1, 2, 3)]
    middle = leases[1].address
    for lease in leases:
        lease.release()
    async with pool.lease(4 * PAGE):  # 6 pages are free, 2 more are there: the one page and the two must go
        assert (pool.stats.leased, pool.stats.free) == (4 * PAGE, 3 * PAGE)
    assert middle not in {buffer.address for buffer in pool._free}


async def _queue(pool: BufferPool, nursery: trio.Nursery, order: list[int], pages: int) -> trio.CancelScope:
    """Start a task that acquires, and notes in `order` when it was its turn; return once it waits or is done."""
    scope = trio.CancelScope()

    async def take() -> None:
        with scope:
            async with pool.lease(pages * PAGE):
                order.append(pages)

    nursery.start_soon(take)
    await wait_all_tasks_blocked()
    return scope


async def test_when_full_requests_wait_and_none_passes_the_head() -> None:
    pool = BufferPool(4 * PAGE)
    held = await pool.acquire(3 * PAGE)
    order: list[int] = []
    async with trio.open_nursery() as nursery:
        await _queue(pool, nursery, order, 4)
        await _queue(pool, nursery, order, 1)  # there would be room, but it came later
        await _queue(pool, nursery, order, 2)
        assert (order, pool.stats.waiting) == ([], 3)
        assert repr(pool) == f"<BufferPool open limit={4 * PAGE} leased={3 * PAGE} free=0 leases=1 waiting=3>"
        held.release()
    assert order[0] == 4
    assert sorted(order) == [1, 2, 4]


async def test_when_the_head_gives_up_those_behind_it_are_served() -> None:
    pool = BufferPool(4 * PAGE)
    held = await pool.acquire(3 * PAGE)
    order: list[int] = []
    async with trio.open_nursery() as nursery:
        head = await _queue(pool, nursery, order, 4)
        await _queue(pool, nursery, order, 1)
        head.cancel()
        await wait_all_tasks_blocked()
        assert (order, pool.stats.waiting, pool.stats.leases) == ([1], 0, 1)
        held.release()


async def test_acquire_is_a_checkpoint() -> None:
    pool = BufferPool(PAGE)
    with trio.CancelScope() as scope:
        scope.cancel()
        await pool.acquire(PAGE)
    assert scope.cancelled_caught
    assert (pool.stats.leases, pool.stats.waiting) == (0, 0)


async def test_cancelled_in_the_same_moment_as_given_room_the_lease_is_kept() -> None:
    pool = BufferPool(PAGE)
    held = await pool.acquire(PAGE)
    taken: list[Lease] = []

    async def take() -> None:
        taken.append(await pool.acquire(PAGE))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        await wait_all_tasks_blocked()
        held.release()
        pool._settle()
        nursery.cancel_scope.cancel()
    assert pool.stats.leases == 1
    taken[0].release()
    assert pool.stats.leases == 0


@pytest.mark.parametrize("seed", range(5))
async def test_nothing_is_left_behind_by_random_cancels(seed: int, autojump_clock: MockClock) -> None:
    chance = random.Random(seed)
    pool = BufferPool(32 * PAGE)
    served = 0

    async def churn() -> None:
        nonlocal served
        for _ in range(20):
            with trio.move_on_after(chance.uniform(0, 2)):
                async with pool.lease(chance.randint(0, 32 * PAGE)) as lease:
                    await trio.sleep(chance.uniform(0, 0.3))
                    assert pool.stats.leased + pool.stats.free <= pool.limit
                    lease.view[:1] = b"x"[: lease.size]
                    served += 1

    async with trio.open_nursery() as nursery:
        for _ in range(30):
            nursery.start_soon(churn)
    assert 0 < served < 600
    with trio.fail_after(10):
        (await pool.acquire(pool.limit)).release()
    assert (pool.stats.leased, pool.stats.leases, pool.stats.waiting) == (0, 0, 0)
    assert pool.stats.free == pool.limit


Operation = tuple[str, int]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["acquire", "acquire", "release", "cancel"]), st.integers(0, 20)), max_size=25)
)
def test_behaves_as_a_plain_queue(operations: list[Operation]) -> None:
    trio.run(_compare_with_model, operations)


async def _compare_with_model(operations: list[Operation]) -> None:
    """The model: numbered requests, those that wait in order, those that hold; nothing else."""
    limit = 20
    pool = BufferPool(limit * PAGE)
    sizes: dict[int, int] = {}
    waiting: list[int] = []
    holding: list[int] = []
    leases: dict[int, Lease] = {}
    scopes: dict[int, trio.CancelScope] = {}

    async def take(number: int) -> None:
        with scopes[number]:
            leases[number] = await pool.acquire(sizes[number])

    async with trio.open_nursery() as nursery:
        for number, (verb, argument) in enumerate(operations):
            if verb == "acquire":
                sizes[number], scopes[number] = argument * PAGE, trio.CancelScope()
                waiting.append(number)
                nursery.start_soon(take, number)
            elif verb == "release" and holding:
                leases.pop(holding.pop(argument % len(holding))).release()
            elif verb == "cancel" and waiting:
                scopes[waiting.pop(argument % len(waiting))].cancel()
            await wait_all_tasks_blocked()
            capacities = {each: min(buffers.size_class(sizes[each]), pool.limit) for each in waiting + holding}
            while waiting and sum(capacities[each] for each in [*holding, waiting[0]]) <= pool.limit:
                holding.append(waiting.pop(0))
            assert set(leases) == set(holding)
            assert pool.stats.waiting == len(waiting)
            assert pool.stats.leases == len(holding)
            assert pool.stats.leased == sum(capacities[each] for each in holding)
            assert pool.stats.leased + pool.stats.free <= pool.limit
        nursery.cancel_scope.cancel()
    for lease in leases.values():
        lease.release()


async def test_release_from_threads_wakes_those_who_wait() -> None:
    pool = BufferPool(4 * PAGE)
    held = [await pool.acquire(PAGE) for _ in range(4)]
    order: list[int] = []
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await _queue(pool, nursery, order, 4)
            for lease in held:
                await trio.to_thread.run_sync(lease.release)
    assert order == [4]


async def test_threads_that_release_the_same_lease_return_it_once() -> None:
    pool = BufferPool(100 * PAGE)
    leases = [await pool.acquire(PAGE) for _ in range(100)]

    def release_all() -> None:
        start.wait()
        for lease in leases:
            lease.release()

    start = threading.Barrier(4)
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(trio.to_thread.run_sync, release_all)
    assert (pool.stats.leased, pool.stats.leases, pool.stats.free) == (0, 0, 100 * PAGE)


async def test_release_in_a_finaliser_wakes_those_who_wait() -> None:
    class Owner:
        pass

    pool = BufferPool(PAGE)
    owner = Owner()
    weakref.finalize(owner, (await pool.acquire(PAGE)).release)
    order: list[int] = []
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await _queue(pool, nursery, order, 1)
            del owner
            gc.collect()
    assert order == [1]


async def test_a_forgotten_lease_comes_back_with_a_warning() -> None:
    pool = BufferPool(PAGE)
    lease = await pool.acquire(10)
    watched = lease.view[:]
    with pytest.warns(ResourceWarning, match=f"never released: <Lease size=10 capacity={PAGE} held>"):
        del lease
    assert (pool.stats.leases, pool.stats.leased, pool.stats.free) == (0, 0, 0)
    assert bytes(watched) == bytes(10)


def test_release_after_the_run() -> None:
    pool = BufferPool(4 * PAGE)
    lease = trio.run(pool.acquire, PAGE)
    lease.release()
    assert pool.stats.free == PAGE


def test_a_pool_belongs_to_one_run() -> None:
    pool = BufferPool(PAGE)
    trio.run(pool.acquire, PAGE).release()
    with pytest.raises(RuntimeError, match="another Trio run"):
        trio.run(pool.acquire, PAGE)


async def test_closing() -> None:
    pool = BufferPool(4 * PAGE)
    held, other = await pool.acquire(3 * PAGE), await pool.acquire(PAGE)
    other.release()
    failures: list[str] = []

    async def take() -> None:
        with suppress(trio.ClosedResourceError):
            await pool.acquire(4 * PAGE)
        failures.append("closed")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        await wait_all_tasks_blocked()
        assert pool.stats.waiting == 1
        pool.close()
    assert failures == ["closed"]
    with pytest.raises(trio.ClosedResourceError, match="the buffer pool is closed"):
        await pool.acquire(1)
    held.view[:] = b"x" * held.size
    assert repr(pool) == f"<BufferPool closed limit={4 * PAGE} leased={3 * PAGE} free=0 leases=1 waiting=0>"
    held.release()
    pool.close()
    assert (pool.stats.leased, pool.stats.free, pool.stats.waiting) == (0, 0, 0)


async def test_when_the_system_has_no_memory_the_room_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(_: int) -> None:
        raise OSError(12, "Cannot allocate memory")

    pool = BufferPool(4 * PAGE)
    before = pool.stats
    with monkeypatch.context() as broken:
        broken.setattr(buffers, "AlignedBuffer", no_memory)
        with pytest.raises(OSError, match="Cannot allocate memory"):
            await pool.acquire(4 * PAGE)
    assert pool.stats == replace(before, misses=1, peak=4 * PAGE)
    (await pool.acquire(4 * PAGE)).release()


async def test_when_there_is_no_memory_for_the_head_those_behind_it_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    def memory_for_two_pages(size: int) -> AlignedBuffer:
        if size > 2 * PAGE:
            raise OSError(12, "Cannot allocate memory")
        return AlignedBuffer(size)

    async def fail() -> None:
        with pytest.raises(OSError, match="Cannot allocate memory"):
            await pool.acquire(3 * PAGE)

    pool = BufferPool(4 * PAGE)
    held = await pool.acquire(4 * PAGE)
    monkeypatch.setattr(buffers, "AlignedBuffer", memory_for_two_pages)
    order: list[int] = []
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            await wait_all_tasks_blocked()
            await _queue(pool, nursery, order, 2)
            held.release()
    assert order == [2]


def _exit_code(child: Callable[[], bool]) -> int:
    """Run `child` in a forked process; 0 where it returned True."""
    pid = os.fork()
    if pid == 0:
        code = 1
        with suppress(BaseException):
            code = 0 if child() else 1
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_in_a_forked_child_the_parents_pool_refuses_and_its_leases_are_left_alone() -> None:
    pool = BufferPool(4 * PAGE)
    lease = trio.run(pool.acquire, PAGE)
    lease.view[:5] = b"hello"

    def child() -> bool:
        with pytest.raises(RuntimeError, match=f"belongs to process {os.getppid()}; after a fork"):
            trio.run(pool.acquire, PAGE)
        lease.release()
        return pool.stats.free == 0

    assert _exit_code(child) == 0
    assert bytes(lease.view[:5]) == b"hello"
    lease.release()
    assert pool.stats.free == PAGE


def test_a_pool_that_was_not_used_before_the_fork_may_be_used_after_it() -> None:
    pool = BufferPool(4 * PAGE)

    def child() -> bool:
        trio.run(pool.acquire, PAGE).release()
        return pool.stats.free == PAGE

    assert _exit_code(child) == 0
    trio.run(pool.acquire, PAGE).release()
    assert pool.stats.free == PAGE
