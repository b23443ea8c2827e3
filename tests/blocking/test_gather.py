"""Ranges gathered ahead: the plans against plain models, and the gathering on real stores, to its last buffer."""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import count, pairwise
from math import inf
from types import FrameType, TracebackType
from typing import Any
from uuid import uuid4

import pytest
import trio
import trio.testing
from hypothesis import example, given, settings
from hypothesis import strategies as st

from s3dlio.alignment.buffers import BufferPool, size_class
from s3dlio.blocking import gather
from s3dlio.blocking.gather import Extent, Gather, ObjectRanges, Range, plan_extents, plan_pieces
from s3dlio.blocking.portal import portal
from s3dlio.blocking.store import BlockingStore
from s3dlio.config import Config, KiB, MiB
from s3dlio.errors import (
    ConnectionFailedError,
    IntegrityError,
    NotFoundError,
    ObjectChangedError,
    PermissionDeniedError,
    RangeError,
    StoreError,
)
from s3dlio.model import BoundedRange
from s3dlio.urls import Uri, parse_uri

from ..places import Place
from ..servers.seaweedfs import SeaweedFS
from ..watched import WatchedStore, at_once, watched_store

# Plans


def _ranges(last: int = 300, longest: int = 60, most: int = 12) -> st.SearchStrategy[list[Range]]:
    """Sorted by their start; they may overlap and be equal."""
    one = st.builds(lambda start, size: (start, start + size), st.integers(0, last), st.integers(1, longest))
    return st.lists(one, max_size=most).map(lambda ranges: sorted(ranges, key=lambda each: each[0]))


_GAPS = st.one_of(st.integers(0, 80), st.just(inf))


@given(_ranges(), _GAPS, st.integers(1, 200))
def test_extents_hold_all_ranges_in_order_and_keep_their_limits(ranges: list[Range], max_gap: float, most: int) -> None:
    extents = list(plan_extents(ranges, max_gap=max_gap, most=most))
    assert [position for extent in extents for position in range(extent.first, extent.stop)] == list(range(len(ranges)))
    for extent in extents:
        members = ranges[extent.first : extent.stop]
        assert (extent.start, extent.end) == (members[0][0], max(end for _, end in members))
        assert extent.size == extent.end - extent.start
        assert extent.size <= max(most, members[0][1] - members[0][0])
        for position in range(1, len(members)):
            assert members[position][0] - max(end for _, end in members[:position]) <= max_gap


@given(_ranges(), _GAPS, st.integers(1, 200))
def test_an_extent_ends_only_where_the_next_range_does_not_fit(ranges: list[Range], max_gap: float, most: int) -> None:
    for extent, after in pairwise(plan_extents(ranges, max_gap=max_gap, most=most)):
        start, end = ranges[after.first]
        assert end > extent.end, "a range that is there already"
        assert start - extent.end > max_gap or end - extent.start > most


@pytest.mark.parametrize(
    ("ranges", "max_gap", "extents"),
    [
        ([], 0, []),
        ([(0, 10), (10, 20)], 0, [Extent(0, 2, 0, 20)]),
        ([(0, 10), (11, 20)], 0, [Extent(0, 1, 0, 10), Extent(1, 2, 11, 20)]),
        ([(0, 10), (11, 20)], 1, [Extent(0, 2, 0, 20)]),
        ([(0, 10), (90, 100)], inf, [Extent(0, 2, 0, 100)]),
        ([(0, 10), (91, 101)], inf, [Extent(0, 1, 0, 10), Extent(1, 2, 91, 101)]),
        ([(5, 10), (5, 10), (5, 8)], 0, [Extent(0, 3, 5, 10)]),
        ([(0, 500), (0, 500), (450, 470), (490, 501)], 0, [Extent(0, 3, 0, 500), Extent(3, 4, 490, 501)]),
    ],
)
def test_extents_by_example(ranges: list[Range], max_gap: float, extents: list[Extent]) -> None:
    assert list(plan_extents(ranges, max_gap=max_gap, most=100)) == extents


def _pieces_by_byte(ranges: Sequence[Range], start: int, part_size: int) -> list[Range]:
    """In each part, from the first to the last byte that is wanted."""
    cells: dict[int, list[int]] = {}
    for wanted in sorted({byte for first, end in ranges for byte in range(first, end)}):
        cells.setdefault((wanted - start) // part_size, []).append(wanted)
    return [(cell[0], cell[-1] + 1) for cell in cells.values()]


@given(_ranges(), st.integers(0, 20), st.integers(1, 90))
@example([(0, 10), (3, 4), (3, 12)], 0, 5)
@example([(7, 9), (7, 9)], 7, 1)
def test_pieces_are_the_wanted_bytes_of_each_part(ranges: list[Range], before: int, part_size: int) -> None:
    start = max(0, ranges[0][0] - before) if ranges else 0
    assert plan_pieces(ranges, start, part_size) == _pieces_by_byte(ranges, start, part_size)


@given(_ranges(), st.integers(1, 90))
def test_pieces_fetch_each_wanted_byte_once_and_no_wide_gap(ranges: list[Range], part_size: int) -> None:
    wanted = {byte for first, end in ranges for byte in range(first, end)}
    start, end = min(wanted, default=0), max(wanted, default=-1) + 1
    pieces = plan_pieces(ranges, start, part_size)
    fetched = [byte for piece in pieces for byte in range(*piece)]
    assert fetched == sorted(set(fetched))
    assert wanted <= set(fetched)
    assert len(pieces) <= -(-(end - start) // part_size)
    for first, stop in pieces:
        assert 0 < stop - first <= part_size
        assert {first, stop - 1} <= wanted
    gaps = [(left + 1, right) for left, right in pairwise(sorted(wanted)) if right - left > part_size]
    assert not [byte for gap in gaps for byte in range(*gap) if byte in fetched]


# Gathering


async def _never(number: int) -> None:
    await trio.sleep_forever()


async def _a_little_later(number: int) -> None:
    for _ in range(number % 7):
        await trio.lowlevel.checkpoint()


SMALL = Config(part_size=KiB, memory_limit=MiB)
"""Extents of 4 KiB, and 16 KiB for all of them."""

DATA = random.Random(2).randbytes(40 * KiB)


def _store(config: Config = SMALL, **objects: bytes) -> WatchedStore:
    return watched_store(config, **(objects or {"object": DATA}))


class _Recorded(BufferPool):
    made: list[_Recorded]

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.made.append(self)


async def _at_rest() -> int:
    """Let the loop come to rest; how many jobs it has beside this one."""
    await trio.testing.wait_all_tasks_blocked()
    nursery = portal()._nursery
    assert nursery is not None
    return len(nursery.child_tasks) - 1


@pytest.fixture(autouse=True)
def pools(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[_Recorded]]:
    """The pools of the test's gathers. In the end no buffer may be out, and no job of theirs under way."""
    made: list[_Recorded] = []
    monkeypatch.setattr(_Recorded, "made", made, raising=False)
    monkeypatch.setattr(gather, "BufferPool", _Recorded)
    gc.collect()
    before = portal().call(_at_rest)  # of earlier tests: they may end meanwhile
    yield made
    gc.collect()
    assert portal().call(_at_rest) <= before
    assert [pool.stats.leases for pool in made] == [0] * len(made)
    assert all(pool.stats.peak <= pool.limit for pool in made)


def _views(gathered: Gather, wanted: Sequence[ObjectRanges]) -> Iterator[tuple[int, int, memoryview]]:
    for number, each in enumerate(wanted):
        for position in range(len(each.ranges)):
            yield number, position, gathered.view(number, position)


def _contents(wanted: Sequence[ObjectRanges], *, max_gap: float) -> list[list[bytes]]:
    """What a gather gives, object by object."""
    found: list[list[bytes]] = [[] for _ in wanted]
    with Gather(wanted, max_gap=max_gap) as gathered:
        for number, _, view in _views(gathered, wanted):
            found[number].append(bytes(view))
            del view
    return found


def _slices(data: bytes, ranges: Sequence[Range]) -> list[bytes]:
    return [data[start:end] for start, end in ranges]


_MANY = _ranges(last=39 * KiB, longest=KiB, most=8) | _ranges(last=2 * KiB, longest=30 * KiB, most=4)


@settings(deadline=None)
@given(st.lists(_MANY, max_size=4), st.integers(0, 5 * KiB) | st.just(inf), st.integers(100, 10 * KiB))
def test_every_range_has_its_bytes_and_requests_are_as_planned(
    objects: list[list[Range]], max_gap: float, part_size: int
) -> None:
    bodies = {f"object {number}": DATA[number:] + bytes(number) for number in range(len(objects))}
    store = _store(Config(part_size=part_size, memory_limit=256 * part_size), **bodies)
    wanted = [ObjectRanges(store, key, ranges) for key, ranges in zip(bodies, objects, strict=True)]
    expected = [_slices(body, ranges) for body, ranges in zip(bodies.values(), objects, strict=True)]
    assert _contents(wanted, max_gap=max_gap) == expected
    planned = [
        (each.key, BoundedRange(*piece))
        for each in wanted
        for extent in plan_extents(each.ranges, max_gap=max_gap, most=4 * part_size)
        for piece in plan_pieces(each.ranges[extent.first : extent.stop], extent.start, part_size)
    ]
    assert Counter(store.watched.reads) == Counter(planned)


@pytest.mark.parametrize("max_gap", [0, 20 * KiB, inf])
def test_random_ranges_of_objects_on_a_real_server(s3_environment: SeaweedFS, bucket: str, max_gap: float) -> None:
    chance = random.Random(3)
    store = BlockingStore(Uri("s3", bucket, ""), Config(part_size=64 * KiB, memory_limit=4 * MiB))
    bodies = {f"folder/{number}": chance.randbytes(MiB + number) for number in range(3)}
    wanted = []
    for key, body in bodies.items():
        store.put(key, body)
        starts = sorted(chance.randrange(len(body) - 1) for _ in range(40))
        ranges = [(start, min(len(body), start + chance.choice((1, 700, 150 * KiB)))) for start in starts]
        wanted.append(ObjectRanges(store, key, ranges))
    expected = [_slices(bodies[each.key], each.ranges) for each in wanted]
    assert _contents(wanted, max_gap=max_gap) == expected


def test_ranges_of_one_version_of_an_object_of_any_kind(place: Place, environment: None) -> None:
    """The room is for one extent, so the second is fetched when the first is done with."""
    store = BlockingStore(parse_uri(f"{place.root}/"), Config(part_size=16 * KiB, memory_limit=KiB))
    key = f"gather-{uuid4()}"
    store.put(key, DATA)
    wanted = [ObjectRanges(store, key, [(5, 10), (100, 24 * KiB), (25 * KiB, 40 * KiB)])]
    assert _contents(wanted, max_gap=0) == [_slices(DATA, wanted[0].ranges)]
    with Gather(wanted, max_gap=0) as gathered:
        assert bytes(gathered.view(0, 1)) == DATA[100 : 24 * KiB]
        store.put(key, DATA[::-1])
        with pytest.raises(ObjectChangedError):
            gathered.view(0, 2)
    store.delete(key)


def test_a_view_is_writable_and_begins_on_a_page_with_its_extent() -> None:
    store = _store()
    with Gather([ObjectRanges(store, "object", [(5, 10), (10, 20)])], max_gap=0) as gathered:
        first, second = gathered.view(0, 0), gathered.view(0, 1)
        assert (first.readonly, first.format, bytes(first), bytes(second)) == (False, "B", DATA[5:10], DATA[10:20])
        first[:] = b"other"
        assert bytes(gathered.view(0, 0)) == b"other"
        del first, second


def test_a_view_that_is_kept_stays_good(pools: list[_Recorded]) -> None:
    store = _store()
    ranges = [(start, start + KiB) for start in range(0, len(DATA), 2 * KiB)]
    with Gather([ObjectRanges(store, "object", ranges)], max_gap=0) as gathered:
        kept = [gathered.view(0, position) for position in range(len(ranges))]
    assert [bytes(view) for view in kept] == _slices(DATA, ranges)


def test_buffers_are_used_again(pools: list[_Recorded]) -> None:
    store = _store()
    ranges = [(start, start + 4 * KiB) for start in range(0, len(DATA), 4 * KiB)]
    assert _contents([ObjectRanges(store, "object", ranges * 1)], max_gap=0) == [_slices(DATA, ranges)]
    (pool,) = pools
    assert (pool.stats.hits + pool.stats.misses, pool.stats.misses <= 5) == (10, True)


def test_the_version_is_known_once_a_view_was_given() -> None:
    store = _store(one=DATA, two=DATA[::-1])
    wanted = [ObjectRanges(store, key, [(0, 5)]) for key in ("one", "two")]
    with Gather(wanted, max_gap=0) as gathered:
        for number, each in enumerate(wanted):
            gathered.view(number, 0)
            assert gathered.etag(number) == store.head(each.key).etag


def test_objects_of_several_stores() -> None:
    stores = [_store(Config(part_size=part_size), object=DATA) for part_size in (KiB, 3 * KiB)]
    wanted = [ObjectRanges(store, "object", [(0, 10 * KiB), (30 * KiB, 31 * KiB)]) for store in stores]
    assert _contents(wanted, max_gap=inf) == [[DATA[: 10 * KiB], DATA[30 * KiB : 31 * KiB]]] * 2


# Order


ORDERED = [(start, start + 3 * KiB) for start in range(0, 36 * KiB, 4 * KiB)]
"""Each is an extent of its own."""


def test_ranges_may_be_left_out_but_not_taken_backwards() -> None:
    store = _store(one=DATA, none=b"", two=DATA[::-1])
    wanted = [ObjectRanges(store, "one", ORDERED), ObjectRanges(store, "none", []), ObjectRanges(store, "two", ORDERED)]
    with Gather(wanted, max_gap=0) as gathered:
        assert bytes(gathered.view(0, 2)) == DATA[8 * KiB : 11 * KiB]
        assert bytes(gathered.view(0, 2)) == DATA[8 * KiB : 11 * KiB]
        assert bytes(gathered.view(0, 7)) == DATA[28 * KiB : 31 * KiB]
        with pytest.raises(ValueError, match="lies before the last"):
            gathered.view(0, 6)
        assert bytes(gathered.view(0, 7)) == DATA[28 * KiB : 31 * KiB]
        assert bytes(gathered.view(2, 1)) == DATA[::-1][4 * KiB : 7 * KiB]
        with pytest.raises(ValueError, match="lies before the last"):
            gathered.view(0, 8)
        with pytest.raises(ValueError, match="lies before the last"):
            gathered.view(2, 0)


def test_ranges_of_one_extent_may_be_taken_in_any_order() -> None:
    store = _store()
    with Gather([ObjectRanges(store, "object", [(0, 10), (20, 30), (40, 50)])], max_gap=inf) as gathered:
        assert [bytes(gathered.view(0, position)) for position in (2, 0, 1, 2)] == [
            DATA[40:50],
            DATA[:10],
            DATA[20:30],
            DATA[40:50],
        ]


@pytest.mark.parametrize("place", [(0, 9), (1, 0), (7, 7)])
def test_ranges_that_nobody_wanted_are_an_error(place: tuple[int, int]) -> None:
    store = _store()
    with Gather([ObjectRanges(store, "object", ORDERED)], max_gap=0) as gathered:
        with pytest.raises(ValueError, match="in order"):
            gathered.view(*place)
        with pytest.raises(ValueError, match="in order"):
            gathered.view(0, 0)


@pytest.mark.parametrize("wanted", [0, 3])
def test_nothing_may_be_wanted(wanted: int) -> None:
    store = _store()
    with (
        Gather([ObjectRanges(store, "object", [])] * wanted, max_gap=0) as gathered,
        pytest.raises(ValueError, match="in order"),
    ):
        gathered.view(0, 0)
    assert store.watched.reads == []


def test_a_closed_gather_gives_nothing() -> None:
    store = _store()
    gathered = Gather([ObjectRanges(store, "object", ORDERED)], max_gap=0)
    gathered.view(0, 0)
    gathered.close()
    gathered.close()
    with pytest.raises(ValueError, match="closed"):
        gathered.view(0, 0)
    with pytest.raises(ValueError, match="closed"):
        gathered.view(0, 1)


def test_a_gather_shows_how_far_it_is() -> None:
    store = _store()
    with Gather([ObjectRanges(store, "object", ORDERED)], max_gap=0) as gathered:
        gathered.view(0, 4)
        assert repr(gathered) == "<Gather of 1 objects, 5 extents left>"


# Failures


def test_a_missing_object_fails_where_it_is_wanted_and_the_others_do_not() -> None:
    store = _store(one=DATA, two=DATA)
    wanted = [ObjectRanges(store, key, [(0, 10), (9 * KiB, 10 * KiB)]) for key in ("one", "absent", "two")]
    with Gather(wanted, max_gap=0) as gathered:
        assert bytes(gathered.view(0, 1)) == DATA[9 * KiB : 10 * KiB]
        for position in (0, 0, 1):
            with pytest.raises(NotFoundError) as caught:
                gathered.view(1, position)
            assert caught.value.key == "absent"
        assert bytes(gathered.view(2, 0)) == DATA[:10]


@pytest.mark.parametrize(
    ("wanted", "kind"),
    [((39 * KiB + 5, 40 * KiB + 1), IntegrityError), ((40 * KiB, 41 * KiB), RangeError), ((0, 50 * KiB), RangeError)],
)
def test_an_object_that_is_too_short_is_an_error(wanted: Range, kind: type[Exception]) -> None:
    store = _store()
    with Gather([ObjectRanges(store, "object", [(0, 10), wanted])], max_gap=0) as gathered:
        assert bytes(gathered.view(0, 0)) == DATA[:10]
        with pytest.raises(kind):
            gathered.view(0, 1)


def test_too_short_missing_and_present_objects_on_a_real_server(s3_environment: SeaweedFS, bucket: str) -> None:
    store = BlockingStore(Uri("s3", bucket, ""), Config(part_size=64 * KiB))
    store.put("short", DATA)
    store.put("good", DATA)
    wanted = [ObjectRanges(store, key, [(30 * KiB, 50 * KiB)]) for key in ("short", "absent")]
    with Gather([*wanted, ObjectRanges(store, "good", [(30 * KiB, 40 * KiB)])], max_gap=0) as gathered:
        with pytest.raises(IntegrityError, match="only 10240 there"):
            gathered.view(0, 0)
        with pytest.raises(NotFoundError):
            gathered.view(1, 0)
        assert bytes(gathered.view(2, 0)) == DATA[30 * KiB :]


def test_the_first_failure_of_an_extent_is_its_error_and_ends_its_requests() -> None:
    store = _store()

    async def fail_third(number: int) -> None:
        if number == 3:
            raise PermissionDeniedError("failed")
        await trio.sleep_forever()

    store.watched.during = fail_third
    with (
        Gather([ObjectRanges(store, "object", [(0, 4 * KiB)])], max_gap=0) as gathered,
        pytest.raises(PermissionDeniedError, match="failed"),
    ):
        gathered.view(0, 0)
    assert store.watched.active == 0


def _out_ahead(error: StoreError) -> tuple[WatchedStore, Gather]:
    """The first of ten extents is there, the others failed ahead."""

    async def fail(number: int) -> None:
        if number > 1:
            raise error

    store = watched_store(Config(part_size=64 * KiB), key=bytes(range(200)))
    store.watched.during = fail
    made = Gather([ObjectRanges(store, "key", [(start, start + 5) for start in range(0, 200, 20)])], max_gap=0)
    assert bytes(made.view(0, 0)) == bytes(range(5))
    portal().call(trio.testing.wait_all_tasks_blocked)
    assert len(store.watched.reads) == 10
    store.watched.during = at_once
    return store, made


def test_what_failed_ahead_because_the_server_was_out_is_tried_again_when_it_is_asked_for() -> None:
    store, made = _out_ahead(ConnectionFailedError("out"))
    with made:
        for position in range(1, 10):
            start = position * 20
            assert bytes(made.view(0, position)) == bytes(range(start, start + 5))
            assert bytes(made.view(0, position)) == bytes(range(start, start + 5))
    assert len(store.watched.reads) == 19


def test_an_outage_that_goes_on_is_the_error_and_can_be_over_the_next_time() -> None:
    store, made = _out_ahead(ConnectionFailedError("out"))

    async def fail(number: int) -> None:
        raise ConnectionFailedError("still out")

    with made:
        store.watched.during = fail
        for _ in range(2):
            with pytest.raises(ConnectionFailedError, match="still out"):
                made.view(0, 1)
        store.watched.during = at_once
        assert bytes(made.view(0, 1)) == bytes(range(20, 25))


def test_what_will_fail_again_is_not_tried_again() -> None:
    store, made = _out_ahead(PermissionDeniedError("no"))
    with made:
        for position in range(1, 10):
            with pytest.raises(PermissionDeniedError):
                made.view(0, position)
    assert len(store.watched.reads) == 10


def test_a_range_that_no_memory_can_hold_is_told_so_and_the_others_are_read() -> None:
    store = _store(one=DATA, two=DATA)
    wanted = [ObjectRanges(store, "one", [(0, 10), (20, 1 << 50)]), ObjectRanges(store, "two", [(0, 10)])]
    with Gather(wanted, max_gap=0) as gathered:
        assert bytes(gathered.view(0, 0)) == DATA[:10]
        with pytest.raises(OSError, match="memory"):
            gathered.view(0, 1)
        assert bytes(gathered.view(1, 0)) == DATA[:10]


VERSIONS = [bytes([version]) * (40 * KiB) for version in (1, 2)]


@pytest.mark.parametrize("max_gap", [0, inf])
@pytest.mark.parametrize("replaced_in", range(1, 30))
def test_versions_are_never_mixed_whenever_the_object_is_replaced(replaced_in: int, max_gap: float) -> None:
    store = _store(object=VERSIONS[0])

    async def replace(number: int) -> None:
        if number == replaced_in:
            await store.watched.put("object", VERSIONS[1])

    store.watched.during = replace
    seen: set[int] = set()
    wanted = [ObjectRanges(store, "object", ORDERED)]
    changed = None
    with Gather(wanted, max_gap=max_gap) as gathered:
        try:
            for _, _, view in _views(gathered, wanted):
                seen |= set(view)
        except ObjectChangedError as error:
            changed = error.key
    assert len(seen) <= 1
    assert changed == ("object" if 1 < replaced_in <= len(store.watched.reads) else None)


def test_an_object_replaced_between_extents_on_a_real_server(s3_environment: SeaweedFS, bucket: str) -> None:
    """The room is for one extent, so the second is fetched when the first is done with."""
    store = BlockingStore(Uri("s3", bucket, ""), Config(part_size=4 * KiB, memory_limit=KiB))
    store.put("object", VERSIONS[0])
    wanted = [ObjectRanges(store, "object", [(0, 16 * KiB), (16 * KiB, 32 * KiB)])]
    with Gather(wanted, max_gap=0) as gathered:
        assert set(gathered.view(0, 0)) == {1}
        store.put("object", VERSIONS[1])
        with pytest.raises(ObjectChangedError):
            gathered.view(0, 1)


# Bounds


def test_a_range_larger_than_all_limits_has_the_memory_for_itself(pools: list[_Recorded]) -> None:
    store = _store(Config(part_size=KiB, memory_limit=8 * KiB))
    ranges = [(0, 10), (KiB, 39 * KiB), (39 * KiB + 5, 40 * KiB)]
    assert _contents([ObjectRanges(store, "object", ranges)], max_gap=0) == [_slices(DATA, ranges)]
    (pool,) = pools
    assert pool.limit == size_class(38 * KiB)


@pytest.mark.parametrize(("part_size", "memory_limit"), [(KiB, MiB), (16 * KiB, 256 * KiB), (10 * MiB, 512 * KiB)])
def test_memory_stays_within_the_limit_however_large_the_parts(
    pools: list[_Recorded], part_size: int, memory_limit: int
) -> None:
    data = DATA * 30
    store = _store(Config(part_size=part_size, memory_limit=memory_limit), object=data)
    ranges = [(start, start + 5000) for start in range(0, len(data) - 5000, 6000)]
    assert _contents([ObjectRanges(store, "object", ranges)], max_gap=inf) == [_slices(data, ranges)]
    (pool,) = pools
    assert pool.stats.peak <= pool.limit <= memory_limit // 2
    assert pool.stats.misses > 1, "the next extent is fetched while one is read"


def test_a_full_pool_waits_for_the_consumer_and_goes_on_with_them(pools: list[_Recorded]) -> None:
    store = _store()
    ranges = [(start, start + 4 * KiB) for start in range(0, len(DATA), 4 * KiB)]
    with Gather([ObjectRanges(store, "object", ranges)], max_gap=0) as gathered:
        portal().call(_at_rest)
        (pool,) = pools
        read_ahead = pool.limit // (4 * KiB)
        assert (pool.stats.leases, len(store.watched.reads)) == (read_ahead, 4 * read_ahead)
        gathered.view(0, 0)
        portal().call(_at_rest)
        assert len(store.watched.reads) == 4 * read_ahead
        gathered.view(0, 1)
        portal().call(_at_rest)
        assert len(store.watched.reads) == 4 * (read_ahead + 1)
        assert pool.stats.leased == pool.limit


def test_thousands_of_tiny_ranges_do_not_start_thousands_of_tasks(pools: list[_Recorded]) -> None:
    store = _store(Config(parts_in_flight=500))
    held = trio.Event()

    async def hold(number: int) -> None:
        await held.wait()

    store.watched.during = hold
    wanted = [ObjectRanges(store, "object", [(start, start + 3) for start in range(0, 20_000, 5)])]
    idle = portal().call(_living_tasks)
    with Gather(wanted, max_gap=0) as gathered:
        portal().call(_at_rest)
        assert store.watched.active == 64
        portal().soon(held.set)
        assert [bytes(view) for _, _, view in _views(gathered, wanted)] == _slices(DATA, wanted[0].ranges)
    assert (len(store.watched.reads), store.watched.most_active) == (4000, 64)
    assert store.watched.most_tasks - idle <= 2 * 64 + 2
    assert pools[0].stats.peak <= 128 * MiB


async def _living_tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


def test_parts_in_flight_bounds_the_requests_of_all_extents() -> None:
    store = _store(Config(part_size=KiB, parts_in_flight=3))
    store.watched.during = _a_little_later
    assert _contents([ObjectRanges(store, "object", [(0, 39 * KiB)])], max_gap=0) == [[DATA[: 39 * KiB]]]
    assert store.watched.most_active == 3


# Ends


@pytest.mark.parametrize("taken", [0, 1, 3])
@pytest.mark.parametrize("ending", ["close", "collect", "with"])
def test_the_end_in_the_middle_gives_all_buffers_back(pools: list[_Recorded], ending: str, taken: int) -> None:
    """What is under way is cancelled; the fixture checks that nothing is left."""
    store = _store()
    gathered = Gather([ObjectRanges(store, "object", ORDERED)], max_gap=0)
    for position in range(taken):
        gathered.view(0, position)
    portal().call(_at_rest)
    store.watched.during = _never
    gathered.view(0, taken + 1)
    portal().call(_at_rest)
    assert store.watched.active
    if ending == "close":
        gathered.close()
    elif ending == "with":
        with pytest.raises(KeyError, match="ours"), gathered:
            raise KeyError("ours")
    del gathered
    gc.collect()
    portal().call(_at_rest)
    assert store.watched.active == 0


def test_a_gather_that_ended_is_freed_without_the_collector() -> None:
    store = _store()
    gc.disable()
    try:
        gathered = Gather([ObjectRanges(store, "object", ORDERED)], max_gap=0)
        gathered.view(0, 1)
        portal().call(_at_rest)
        del gathered
        portal().call(_at_rest)
        assert [pool.stats.leases for pool in _Recorded.made] == [0]
    finally:
        gc.enable()


_LOCKS = ("Condition.", "Event.", "Semaphore.", "Future.", "Queue.")


class _InterruptBefore:
    """A block that `KeyboardInterrupt` ends before this thread's instruction number `left` of the module.

    Those of locks that are written in Python count too: of one that is interrupted, nobody may wait for the other end.
    """

    def __init__(self, left: int) -> None:
        self.left = left

    def __enter__(self) -> None:
        self._before = sys.gettrace()
        sys.settrace(self._trace)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        sys.settrace(self._before)
        return kind is KeyboardInterrupt

    def _trace(self, frame: FrameType, event: str, argument: object) -> Callable[..., Any] | None:
        if frame.f_code.co_filename != gather.__file__ and not frame.f_code.co_qualname.startswith(_LOCKS):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return self._trace


@pytest.mark.parametrize("goes_on", [True, False])
def test_interrupted_before_any_instruction_a_gather_leaves_nothing_and_can_go_on(goes_on: bool) -> None:
    """The fixture checks that nothing is left."""
    positions = (0, 2, 3)
    expected = _slices(DATA, [ORDERED[position] for position in positions])
    store = _store()
    for number in count(1):
        made, taken = list[Gather](), list[bytes]()
        interrupt = _InterruptBefore(number)
        with interrupt:
            made.append(Gather([ObjectRanges(store, "object", ORDERED)], max_gap=0))
            taken.extend(bytes(made[0].view(0, position)) for position in positions)
            made[0].close()
        for gathered in made:
            if goes_on and len(taken) < len(positions):
                assert [bytes(gathered.view(0, position)) for position in positions[len(taken) :]] == expected[
                    len(taken) :
                ]
            gathered.close()
        if interrupt.left > 0:
            break
    assert number > 200


def test_interrupted_by_a_signal_while_it_waits_a_gather_can_go_on() -> None:
    store, made = _store(), list[Gather]()
    held = trio.Event()

    async def interrupt(number: int) -> None:
        if number == 1:
            os.kill(os.getpid(), signal.SIGINT)
        await held.wait()

    def take_first() -> None:
        made.append(Gather([ObjectRanges(store, "object", ORDERED)], max_gap=0))
        made[0].view(0, 0)

    store.watched.during = interrupt
    with pytest.raises(KeyboardInterrupt):
        take_first()
    portal().soon(held.set)
    for gathered in made:
        assert bytes(gathered.view(0, 0)) == DATA[: 3 * KiB]
        gathered.close()


def test_a_gather_belongs_to_its_process() -> None:
    store = _store()
    with Gather([ObjectRanges(store, "object", ORDERED)], max_gap=0) as gathered:
        gathered.view(0, 1)
        portal().call(_at_rest)
        child = os.fork()
        if child == 0:
            try:
                with pytest.raises(RuntimeError, match="the process that asked"):
                    gathered.view(0, 2)
                gathered.close()
                del gathered
                gc.collect()
                os._exit(0 if _contents([ObjectRanges(_store(), "object", ORDERED)], max_gap=0)[0][0] else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert bytes(gathered.view(0, 1)) == DATA[4 * KiB : 7 * KiB]
        assert bytes(gathered.view(0, 2)) == DATA[8 * KiB : 11 * KiB]


def test_churn_leaves_no_lease_and_no_job() -> None:
    """The fixture counts them."""
    chance = random.Random(5)
    store = _store()
    store.watched.during = _a_little_later
    ranges = [(start, start + 700) for start in range(0, 39 * KiB, 2 * KiB)]
    for _ in range(200):
        gathered = Gather([ObjectRanges(store, "object", ranges)] * 2, max_gap=chance.choice([0, 3 * KiB, inf]))
        for position in range(chance.randrange(len(ranges))):
            if chance.random() < 0.7:
                assert bytes(gathered.view(0, position)) == DATA[slice(*ranges[position])]
        if chance.random() < 0.5:
            gathered.close()
        del gathered


def test_gathers_side_by_side_do_not_disturb_each_other() -> None:
    store = _store()
    store.watched.during = _a_little_later
    wanted = [ObjectRanges(store, "object", ORDERED)]
    with Gather(wanted, max_gap=0) as one, Gather(wanted, max_gap=inf) as two:
        for position, expected in enumerate(_slices(DATA, ORDERED)):
            assert bytes(one.view(0, position)) == bytes(two.view(0, position)) == expected
