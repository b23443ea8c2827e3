"""Reading ahead: when it starts, how far it goes, and that nothing else changes."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from queue import SimpleQueue

import pytest
import trio
import trio.testing

from s3dlio.blocking.portal import BlockingPortal, CancelledError, portal
from s3dlio.blocking.prefetch import Prefetcher, Want
from s3dlio.blocking.readahead import ReadAhead
from s3dlio.blocking.store import BlockingStore
from s3dlio.config import Config
from s3dlio.errors import ConnectionFailedError, NotFoundError, PermissionDeniedError, StoreError
from s3dlio.fetcher import MAX_OBJECTS, Outage, Room
from s3dlio.model import ObjectMeta
from s3dlio.stores.memory import MemoryStore
from s3dlio.transfer import Admit, ParallelStore
from s3dlio.urls import Uri, parse_uri

from ..servers.faults import fault_server
from ..watched import WatchedStore, at_once, watched_store


class _Counting(MemoryStore):
    """A store that counts its reads, and holds each back until `gate` is open."""

    def __init__(self, reads: Counter[str], gate: threading.Event) -> None:
        super().__init__()
        self.reads = reads
        self.gate = gate
        self.active = self.most_active = 0

    async def get(self, key: str, *, known: ObjectMeta | None = None, if_match: str | None = None) -> bytes:
        self.reads[key] += 1
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        try:
            await trio.lowlevel.checkpoint()
            if not self.gate.is_set():
                await trio.to_thread.run_sync(self.gate.wait, abandon_on_cancel=True)
            return await super().get(key, known=known, if_match=if_match)
        finally:
            self.active -= 1


@dataclass(frozen=True)
class _Store(BlockingStore):
    """A blocking store over a counting one, the same in every portal."""

    reads: Counter[str] = field(default_factory=Counter, compare=False)
    gate: threading.Event = field(default_factory=threading.Event, compare=False)
    inner: list[_Counting] = field(default_factory=list, compare=False)

    def __post_init__(self) -> None:
        self.gate.set()
        self.inner.append(_Counting(self.reads, self.gate))

    def opened(self, portal: BlockingPortal) -> ParallelStore:
        return _Through(self.inner[0], part_size=1 << 20, parts_in_flight=4, memory_limit=self.config.memory_limit)


class _Through(ParallelStore):
    async def get(
        self,
        key: str,
        *,
        known: ObjectMeta | None = None,
        if_match: str | None = None,
        admit: Admit | None = None,
    ) -> bytes:
        return await self.inner.get(key, known=known, if_match=if_match)


async def _until(condition: Callable[[], bool]) -> None:
    """Let the loop run till the condition holds; the test's own time limit is the bound."""
    while not condition():
        await trio.lowlevel.checkpoint()


COUNT = 300


@pytest.fixture
def store() -> _Store:
    made = _Store(Uri("memory", "readahead", ""), Config())
    for number in range(COUNT):
        made.put(f"{number:04}", _content(number))
    return made


def _content(number: int) -> bytes:
    return str(number).encode() * 7


def _wants(store: _Store, count: int = COUNT) -> Iterator[Want]:
    return (Want(store, key := f"{number:04}", ObjectMeta(key, len(_content(number)))) for number in range(count))


def test_bodies_come_in_order_each_fetched_once(store: _Store) -> None:
    ahead = ReadAhead(_wants(store))
    bodies = [ahead.body(position) for position, _ in ahead]
    assert bodies == [_content(number) for number in range(COUNT)]
    assert set(store.reads.values()) == {1}


def test_looking_at_keys_fetches_nothing(store: _Store) -> None:
    ahead = ReadAhead(_wants(store))
    assert [want.key for _, want in ahead] == [f"{number:04}" for number in range(COUNT)]
    assert not store.reads


def test_a_single_read_starts_nothing(store: _Store) -> None:
    ahead = ReadAhead(_wants(store))
    position, _ = next(ahead)
    assert ahead.body(position) == _content(0)
    assert store.reads == Counter({"0000": 1})


def test_the_source_is_pulled_lazily(store: _Store) -> None:
    pulled: list[str] = []

    def source() -> Iterator[Want]:
        for want in _wants(store):
            pulled.append(want.key)
            yield want

    ahead = ReadAhead(source())
    next(ahead)
    next(ahead)
    assert len(pulled) == 2


def test_the_window_grows_to_its_bound_while_the_consumer_waits(store: _Store) -> None:
    ahead = ReadAhead(_wants(store))
    for position, _ in ahead:
        ahead.body(position)
    assert 4 < store.inner[0].most_active <= MAX_OBJECTS


def test_the_window_is_bounded_in_bytes(store: _Store) -> None:
    small = _Store(Uri("memory", "bounded", ""), Config(memory_limit=200))
    for number in range(50):
        small.put(f"{number:04}", _content(number))
    ahead = ReadAhead(_wants(small, 50))
    assert [ahead.body(position) for position, _ in ahead] == [_content(number) for number in range(50)]
    assert small.inner[0].most_active <= 100 // len(_content(9)) + 1


def test_an_absent_object_raises_where_it_is_read_and_the_rest_goes_on(store: _Store) -> None:
    store.delete("0005")
    ahead = ReadAhead(_wants(store, 10))
    outcomes: list[bytes | str] = []
    for position, want in ahead:
        try:
            outcomes.append(ahead.body(position))
        except NotFoundError as error:
            outcomes.append(f"{want.key} {error.key}")
    assert outcomes == [_content(number) if number != 5 else "0005 0005" for number in range(10)]


def test_an_error_of_the_source_comes_out_in_its_place(store: _Store) -> None:
    def source() -> Iterator[Want]:
        yield from _wants(store, 6)
        raise OSError("the listing broke")

    ahead = ReadAhead(source())
    assert [ahead.body(next(ahead)[0]) for _ in range(6)] == [_content(number) for number in range(6)]
    with pytest.raises(OSError, match="the listing broke"):
        next(ahead)


def test_reading_a_batch_after_it_was_yielded(store: _Store) -> None:
    ahead = ReadAhead(_wants(store))
    batches = [[next(ahead)[0] for _ in range(50)] for _ in range(6)]
    bodies = [ahead.body(position) for batch in batches for position in batch]
    assert bodies == [_content(number) for number in range(COUNT)]
    assert set(store.reads.values()) == {1}


def test_reading_backwards_and_every_third(store: _Store) -> None:
    ahead = ReadAhead(_wants(store))
    positions = [position for position, _ in ahead]
    for position in [*reversed(positions[::2]), *positions[1::6]]:
        assert ahead.body(position) == _content(position)


def test_skipped_bodies_do_not_fill_the_window_for_good(store: _Store) -> None:
    ahead = ReadAhead(_wants(store))
    read = [ahead.body(position) for position, _ in ahead if position < 8 or position > 290]
    assert read == [_content(number) for number in range(COUNT) if number < 8 or number > 290]
    assert len(store.reads) < COUNT


@pytest.mark.parametrize("moment", ["before it arrives", "stored", "looked for"])
def test_a_body_that_is_dropped_as_it_arrives_is_not_kept(store: _Store, moment: str) -> None:
    class Done(dict[int, bytes | Exception | Outage]):
        def __setitem__(self, position: int, outcome: bytes | Exception | Outage) -> None:
            super().__setitem__(position, outcome)
            if moment == "stored":
                prefetcher.drop(position)

    class Dropped(set[int]):
        def __contains__(self, position: object) -> bool:
            found = super().__contains__(position)
            if moment == "looked for":
                prefetcher.drop(0)
            return found

    prefetcher = Prefetcher(portal())
    prefetcher.done, prefetcher._dropped = Done(), Dropped()
    if moment == "before it arrives":
        prefetcher.drop(0)
    prefetcher.submit([(0, next(_wants(store)))])
    portal().call(_until, lambda: store.reads["0000"] == 1 and not prefetcher._unfinished)
    prefetcher.close()
    assert (list(prefetcher.done), list(prefetcher._dropped)) == ([], [])


def test_a_consumer_is_woken_though_the_last_body_under_way_was_dropped() -> None:
    class Wake(SimpleQueue[None]):
        def get(self, block: bool = True, timeout: float | None = None) -> None:
            asleep.set()
            super().get(block, timeout)

    async def hold(number: int) -> None:
        await held[store.watched.reads[number - 1][0]].wait()

    asleep, held, taken = (
        threading.Event(),
        {"slow": trio.Event(), "fast": trio.Event()},
        list[bytes | Exception | Outage](),
    )
    store = watched_store(Config(), slow=b"slow", fast=b"fast")
    store.watched.during = hold
    prefetcher = Prefetcher(portal())
    prefetcher.wake = Wake()
    prefetcher.submit([(0, Want(store, "slow")), (1, Want(store, "fast"))])
    prefetcher.drop(0)
    consumer = threading.Thread(target=lambda: taken.append(prefetcher.take(1)), daemon=True)
    consumer.start()
    asleep.wait()
    portal().soon(held["fast"].set)
    portal().call(_until, lambda: 1 in prefetcher.done)
    portal().soon(held["slow"].set)
    consumer.join(60)
    prefetcher.close()
    assert taken == [b"fast"]


def test_a_body_that_is_wanted_has_a_worker_though_all_others_wait_for_room() -> None:
    """As one of an earlier position, or one that a batch could not take: it comes to the queue when others are out."""
    taken = list[bytes | Exception | Outage]()
    store = watched_store(
        Config(memory_limit=2000, part_size=1000), kept=bytes(1000), large=bytes(1000), small=b"small"
    )
    prefetcher = Prefetcher(portal())
    prefetcher.submit([(1, Want(store, "kept")), (2, Want(store, "large"))])
    portal().call(_until, lambda: 1 in prefetcher.done and prefetcher.room.full)
    prefetcher.submit([(0, Want(store, "small"))])
    consumer = threading.Thread(target=lambda: taken.append(prefetcher.take(0)), daemon=True)
    consumer.start()
    consumer.join(60)
    prefetcher.close()
    assert taken == [b"small"]


def test_small_objects_that_a_lane_left_to_workers_come_though_these_wait_for_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Large objects take all connections; then their sizes are known, and there is no room for any of them."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    taken, held = list[bytes | Exception | Outage](), portal().enter(fault_server())
    held.value.objects |= {"/bucket/small": b"small", "/bucket/large": bytes(2_000_000)}
    config = Config("us-east-1", held.value.endpoint, connections=2, part_size=300_000, memory_limit=1_400_000)
    store = BlockingStore(parse_uri("s3://bucket"), config)
    small = Want(store, "small", store.head("small"))
    portal().call(held.value.hang_up_all)
    prefetcher = Prefetcher(portal())
    prefetcher.submit([(1, Want(store, "large")), (2, Want(store, "large")), (0, small)])
    portal().call(_until, lambda: len(prefetcher.room._waiting) == 2)
    consumer = threading.Thread(target=lambda: taken.append(prefetcher.take(0)), daemon=True)
    consumer.start()
    consumer.join(60)
    prefetcher.close()
    held.leave()
    assert taken == [b"small"]


def test_the_group_form_has_all_bodies_under_way_at_the_first_read(store: _Store) -> None:
    ahead = ReadAhead(_wants(store, 32), eager=True)
    positions = [position for position, _ in ahead]
    assert not store.reads
    store.gate.clear()
    thread = threading.Thread(target=ahead.body, args=(positions[0],))
    thread.start()
    portal().call(_until, lambda: store.inner[0].active == 32)
    store.gate.set()
    thread.join()
    assert [ahead.body(position) for position in positions[1:]] == [_content(number) for number in range(1, 32)]
    assert set(store.reads.values()) == {1}


def test_bodies_from_many_threads(store: _Store) -> None:
    ahead = ReadAhead(_wants(store))
    positions = [position for position, _ in ahead]
    bodies: dict[int, bytes] = {}

    def read(mine: list[int]) -> None:
        for position in mine:
            bodies[position] = ahead.body(position)

    threads = [threading.Thread(target=read, args=(positions[first::4],)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bodies == {number: _content(number) for number in range(COUNT)}


def test_a_forked_child_reads_for_itself(store: _Store) -> None:
    ahead = ReadAhead(_wants(store))
    for _ in range(10):
        position, _ = next(ahead)
        ahead.body(position)
    child = os.fork()
    if child == 0:
        try:
            rest = [ahead.body(position) for position, _ in ahead]
            os._exit(0 if rest == [_content(number) for number in range(10, COUNT)] else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert [ahead.body(position) for position, _ in ahead] == [_content(number) for number in range(10, COUNT)]


@pytest.mark.parametrize("ending", ["close", "collect"])
def test_the_end_cancels_what_is_under_way(store: _Store, ending: str) -> None:
    ahead = ReadAhead(_wants(store))
    for _ in range(10):
        position, _ = next(ahead)
        ahead.body(position)
    portal().call(trio.testing.wait_all_tasks_blocked)
    store.gate.clear()
    for _ in range(MAX_OBJECTS):
        position, _ = next(ahead)
        if position in ahead._prefetcher.done:  # type: ignore[union-attr]
            ahead.body(position)
    portal().call(_until, lambda: store.inner[0].active > 0)
    if ending == "close":
        ahead.close()
    del ahead
    gc.collect()

    portal().call(_until, lambda: store.inner[0].active == 0)
    store.gate.set()


@pytest.mark.parametrize("attempt", range(16))  # of two tasks that can run, Trio takes either first
def test_wants_that_come_while_the_last_worker_ends_are_left(attempt: int) -> None:
    async def hold(_: int) -> None:
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            portal().soon(prefetcher._accept, [(1, Want(store, "late"))])

    begun = threading.Event()
    store = watched_store(Config(), first=b"first", late=b"late")
    store.watched.during = hold
    prefetcher = Prefetcher(portal())
    prefetcher.submit([(0, Want(store, "first"))])
    begun.wait()
    prefetcher.close()
    assert isinstance(prefetcher.take(0), CancelledError)
    portal().call(trio.lowlevel.checkpoint)  # the loop lives
    assert prefetcher.done == {}


def test_an_exhausted_reading_ahead_is_freed_at_once(store: _Store) -> None:
    ahead = ReadAhead(_wants(store))
    for position, _ in ahead:
        ahead.body(position)
    gone = weakref.ref(ahead)
    gc.disable()
    try:
        del ahead
        assert gone() is None
    finally:
        gc.enable()


# Memory


def _many(count: int, size: int, config: Config) -> WatchedStore:
    return watched_store(config, **{f"{number:02}": bytes([number]) * size for number in range(count)})


@pytest.mark.parametrize("eager", [True, False])
@pytest.mark.parametrize("size", [5, 10, 11, 90, 100, 700])
def test_bodies_of_unknown_size_stay_within_the_limit(size: int, eager: bool) -> None:
    """Parts of 10 bytes, and 200 for what is ahead: never more is asked for, but for the body that is waited for."""
    store = _many(24, size, Config(part_size=10, memory_limit=400))
    ahead = ReadAhead((Want(store, f"{number:02}") for number in range(24)), eager=eager)
    positions = [position for position, _ in ahead]
    for taken, position in enumerate(positions, 1):
        assert ahead.body(position) == bytes([position]) * size
        portal().call(trio.testing.wait_all_tasks_blocked)
        parts = Counter(key for key, _ in store.watched.reads)
        asked = sum(min(count * 10, size) for count in parts.values())
        assert asked - taken * size <= max(200, size)
    assert [count for _, count in sorted(parts.items())] == [-(-size // 10)] * 24


def test_a_body_that_is_waited_for_has_its_turn_before_all_others() -> None:
    """The room is taken by bodies that nobody asks for."""
    store = _many(24, 100, Config(part_size=10, memory_limit=400))
    ahead = ReadAhead((Want(store, f"{number:02}") for number in range(24)), eager=True)
    for position in reversed([position for position, _ in ahead]):
        assert ahead.body(position) == bytes([position]) * 100


def test_the_room_goes_to_the_lowest_position_and_past_the_limit_to_the_one_that_is_waited_for() -> None:
    async def take(position: int, size: int) -> None:
        await room.take(position, size, limit=100)
        order.append(position)

    async def scenario() -> None:
        async with trio.open_nursery() as nursery:
            for position, size in ((0, 500), (3, 60), (2, 60), (1, 60), (4, 60)):
                nursery.start_soon(take, position, size)
                await trio.testing.wait_all_tasks_blocked()
            assert (order, full) == ([0], [True] * 4)  # what is larger than all comes alone
            room.give_back(0)
            await trio.testing.wait_all_tasks_blocked()
            assert order == [0, 1]
            room.wanted = 4
            room.poke()
            await trio.testing.wait_all_tasks_blocked()
            assert order == [0, 1, 4]
            for position in (4, 4, 1):
                room.give_back(position)
            await trio.testing.wait_all_tasks_blocked()
            assert order == [0, 1, 4, 2]
            room.correct(2, 40)
            await trio.testing.wait_all_tasks_blocked()
            assert order == [0, 1, 4, 2, 3]

    order, full = list[int](), list[bool]()
    room = Room(portal().soon, lambda: full.append(True))
    portal().call(scenario)
    assert not room.full


def test_who_no_longer_waits_for_room_gets_none() -> None:
    async def scenario() -> None:
        await room.take(0, 100, limit=100)
        with trio.move_on_after(0):
            await room.take(1, 100, limit=100)
        assert not room.full
        room.give_back(0)
        await room.take(2, 100, limit=100)

    room = Room(portal().soon, lambda: None)
    portal().call(scenario)


# Outages


def _failing(error: StoreError) -> tuple[WatchedStore, ReadAhead]:
    """The first of 32 bodies is there, the others failed ahead."""

    async def fail(number: int) -> None:
        if number > 1:
            raise error

    store = _many(32, 5, Config())
    store.watched.during = fail
    ahead = ReadAhead((Want(store, f"{number:02}") for number in range(32)), eager=True)
    assert [position for position, _ in ahead] == list(range(32))
    assert ahead.body(0) == bytes(5)
    portal().call(trio.testing.wait_all_tasks_blocked)
    assert len(store.watched.reads) == 32
    store.watched.during = at_once
    return store, ahead


def test_what_failed_ahead_because_the_server_was_out_is_tried_again_when_it_is_asked_for() -> None:
    store, ahead = _failing(ConnectionFailedError("out"))
    assert [ahead.body(position) for position in range(1, 32)] == [bytes([number]) * 5 for number in range(1, 32)]
    assert sorted(Counter(key for key, _ in store.watched.reads).values()) == [1] + [2] * 31


def test_once_one_was_tried_again_the_others_come_ahead_too() -> None:
    store, ahead = _failing(ConnectionFailedError("out"))
    ahead.body(5)
    portal().call(trio.testing.wait_all_tasks_blocked)
    assert len(store.watched.reads) == 63
    assert ahead.body(31) == bytes([31]) * 5
    assert len(store.watched.reads) == 63


def test_an_outage_that_goes_on_is_the_error_of_each_that_is_asked_for() -> None:
    store, ahead = _failing(ConnectionFailedError("out"))

    async def fail(number: int) -> None:
        raise ConnectionFailedError("still out")

    store.watched.during = fail
    for position in (1, 2):
        with pytest.raises(ConnectionFailedError, match="still out"):
            ahead.body(position)
    assert len(store.watched.reads) == 34
    store.watched.during = at_once
    assert ahead.body(3) == bytes([3]) * 5


def test_what_will_fail_again_is_not_tried_again() -> None:
    store, ahead = _failing(PermissionDeniedError("no"))
    for position in range(1, 32):
        with pytest.raises(PermissionDeniedError):
            ahead.body(position)
    assert len(store.watched.reads) == 32


def test_who_has_waited_for_most_of_the_attempts_has_been_patient_enough() -> None:
    outage = Outage(ConnectionFailedError("out"), 4.0)
    assert outage.bears_another_try(1.9)
    assert not outage.bears_another_try(2.0)
    store, ahead = _failing(ConnectionFailedError("out"))
    assert ahead._prefetcher is not None
    ahead._prefetcher.done[1] = Outage(ConnectionFailedError("waited for all the time"), 0.0)
    with pytest.raises(ConnectionFailedError, match="all the time"):
        ahead.body(1)
    assert len(store.watched.reads) == 32
