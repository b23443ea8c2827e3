"""The reader for distributed checkpoints: which ranges it takes, in what order they are read, what it fetches."""

from __future__ import annotations

import io
import math
import os
import pickle
import random
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import numpy as np
import pytest
import torch
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import MetadataIndex
from torch.distributed.checkpoint.planner import LoadItemType, ReadItem
from torch.distributed.checkpoint.utils import _ReaderView

from s3dlio.blocking.portal import portal
from s3dlio.blocking.store import BlockingStore
from s3dlio.compat.s3torchconnector import S3ClientConfig, S3Exception, S3ReaderConstructor
from s3dlio.compat.s3torchconnector._s3client import S3Client
from s3dlio.compat.s3torchconnector.s3reader import (
    DCPOptimizedConstructor,
    DCPOptimizedS3Reader,
    DCPS3ReaderConstructorProtocol,
    ItemRange,
    RangedS3Reader,
    RangeGroup,
    S3ReaderConstructorProtocol,
    SequentialS3Reader,
    dcp_optimized,
)
from s3dlio.compat.s3torchconnector.s3reader.dcp_optimized import (
    DEFAULT_MAX_GAP_SIZE,
    FALLBACK_GUIDANCE,
    FIND_ITEM_ERROR_PREFIX,
    group_ranges,
)
from s3dlio.compat.s3torchconnector.source import StoredObject
from s3dlio.config import Config, KiB, MiB
from s3dlio.errors import ServerError
from s3dlio.urls import parse_uri

from ..servers.seaweedfs import SeaweedFS
from ..watched import WatchedStore, watched_store
from .standin import refuse

KEY = "folder/__0_0.distcp"
DATA = random.Random(4).randbytes(4000)


def _items(*ranges: tuple[int, int]) -> list[ItemRange]:
    return [ItemRange(start, end) for start, end in ranges]


ITEMS = _items((100, 200), (200, 250), (300, 1000), (2500, 2600))


class _Streams:
    """Somebody's own functions: each stream is noted, and is given in pieces of some sizes."""

    def __init__(self, data: bytes = DATA, sizes: Sequence[int] = (7, 100, 1, 333)) -> None:
        self.data = data
        self.sizes = sizes
        self.asked: list[tuple[int | None, int | None]] = []

    def info(self) -> Any:
        raise AssertionError("the size is of no interest")

    def stream(self, start: int | None = None, end: int | None = None) -> Iterator[bytes]:
        self.asked.append((start, end))
        return self._pieces(start or 0, len(self.data) if end is None else end)

    def _pieces(self, position: int, end: int) -> Iterator[bytes]:
        number = 0
        while position < end:
            stop = min(position + self.sizes[number % len(self.sizes)], end)
            yield self.data[position:stop]
            position, number = stop, number + 1


def _streamed(items: list[ItemRange], max_gap_size: float = math.inf) -> DCPOptimizedS3Reader:
    streams = _Streams()
    return DCPOptimizedS3Reader("bucket", KEY, items, streams.info, streams.stream, max_gap_size)


def _stored(
    items: list[ItemRange], max_gap_size: float = math.inf, part_size: int = 1000, data: bytes = DATA
) -> tuple[WatchedStore, DCPOptimizedS3Reader]:
    store = watched_store(Config(part_size=part_size), **{KEY: data})
    source = StoredObject(store, "bucket", KEY)
    return store, DCPOptimizedS3Reader("bucket", KEY, items, source.info, source.stream, max_gap_size)


def _from_store(items: list[ItemRange], max_gap_size: float = math.inf) -> DCPOptimizedS3Reader:
    return _stored(items, max_gap_size)[1]


Make = Callable[..., DCPOptimizedS3Reader]
either = pytest.mark.parametrize("make", [_from_store, _streamed])
"""From one of our stores, and from somebody's own stream."""

# What can be read


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        ({"bucket": ""}, ValueError, "Bucket should be specified"),
        ({"key": ""}, ValueError, "Key should be specified"),
        ({"item_ranges": []}, ValueError, r"must be a non-empty List\[ItemRange\]"),
        ({"item_ranges": None}, ValueError, r"must be a non-empty List\[ItemRange\]"),
        ({"item_ranges": _items((5, 5), (9, 9))}, ValueError, "all ranges were length 0"),
        ({"item_ranges": _items((5, 4))}, ValueError, "Invalid range: 5-4"),
        ({"item_ranges": _items((-1, 4))}, ValueError, "Invalid range: -1-4"),
        ({"item_ranges": _items((0, 5), (9, 8))}, ValueError, "Invalid range: 9-8"),
        ({"item_ranges": _items((10, 20), (0, 5))}, ValueError, "Unsorted ranges: 10-20 and 0-5"),
        ({"item_ranges": _items((10, 20), (15, 30))}, ValueError, "Overlapping ranges: 10-20 and 15-30"),
        ({"item_ranges": _items((10, 20), (10, 20))}, ValueError, "Overlapping ranges: 10-20 and 10-20"),
        ({"max_gap_size": -1}, ValueError, "must be non-negative"),
        ({"max_gap_size": -math.inf}, ValueError, "must be non-negative"),
        ({"max_gap_size": math.nan}, ValueError, "must be non-negative"),
        ({"max_gap_size": "32"}, TypeError, "must be int or float, got str"),
        ({"max_gap_size": None}, TypeError, "must be int or float, got NoneType"),
    ],
)
def test_what_a_reader_cannot_be_made_of(change: dict[str, Any], kind: type[Exception], text: str) -> None:
    good: dict[str, Any] = {
        "bucket": "bucket",
        "key": KEY,
        "item_ranges": ITEMS,
        "get_object_info": refuse,
        "get_stream": refuse,
    }
    DCPOptimizedS3Reader(**good)
    with pytest.raises(kind, match=text):
        DCPOptimizedS3Reader(**good | change)


def test_the_known_constants() -> None:
    assert 32 * MiB == dcp_optimized.DEFAULT_MAX_GAP_SIZE
    assert FIND_ITEM_ERROR_PREFIX.startswith(
        "DCPOptimizedS3Reader only supports sequentially accessing provided ranges"
    )
    assert "S3ReaderConstructor.default()" in FALLBACK_GUIDANCE
    assert ItemRange(1, 2) == ItemRange(1, 2)
    assert RangeGroup(1, 2, [ItemRange(1, 2)]).item_ranges == [ItemRange(1, 2)]


_SOME_ITEMS = st.lists(st.tuples(st.integers(0, 120), st.integers(1, 200)), min_size=1, max_size=10).map(
    lambda steps: _laid_out(steps)
)


def _laid_out(steps: list[tuple[int, int]]) -> list[ItemRange]:
    """Items from gaps and lengths."""
    items, position = [], 0
    for gap, length in steps:
        items.append(ItemRange(position + gap, position + gap + length))
        position += gap + length
    return items


@given(_SOME_ITEMS, st.integers(0, 130) | st.just(math.inf))
def test_groups_are_items_with_small_gaps(items: list[ItemRange], max_gap_size: float) -> None:
    groups = group_ranges(items, max_gap_size)
    assert [item for group in groups for item in group.item_ranges] == items
    for group in groups:
        assert (group.start, group.end) == (group.item_ranges[0].start, group.item_ranges[-1].end)
    firsts = {group.start for group in groups}
    for before, after in pairwise(items):
        assert (after.start in firsts) == (after.start - before.end > max_gap_size)


# Reading


@either
def test_items_are_read_in_order_and_each_in_any_way(make: Make) -> None:
    reader = make(ITEMS)
    assert (reader.tell(), reader.seek(150), reader.read(10)) == (0, 150, DATA[150:160])
    assert (reader.tell(), reader.seek(-60, io.SEEK_CUR), reader.read(100)) == (160, 100, DATA[100:200])
    assert reader.read(50) == DATA[200:250]
    reader.seek(245)
    assert reader.read(5) == DATA[245:250]
    reader.seek(300)
    target = bytearray(700)
    assert (reader.readinto(target), bytes(target), reader.tell()) == (700, DATA[300:1000], 1000)
    reader.seek(999)
    assert (reader.readinto(target[:1]), reader.read(0)) == (1, b"")
    reader.seek(2510)
    assert reader.read(90) == DATA[2510:2600]


@settings(deadline=None)
@given(
    _SOME_ITEMS,
    st.integers(0, 130) | st.just(math.inf),
    st.integers(10, 400),
    st.lists(st.integers(1, 150), min_size=1, max_size=5),
    st.randoms(use_true_random=False),
)
def test_any_items_have_their_bytes(
    items: list[ItemRange], max_gap_size: float, part_size: int, sizes: list[int], chance: random.Random
) -> None:
    _, stored = _stored(items, max_gap_size, part_size)
    streams = _Streams(sizes=sizes)
    streamed = DCPOptimizedS3Reader("bucket", KEY, items, streams.info, streams.stream, max_gap_size)
    with stored, streamed:
        for item in items:
            for _ in range(chance.randrange(1, 4)):
                start = chance.randrange(item.start, item.end)
                end = chance.randrange(start, item.end) + 1
                for reader in (stored, streamed):
                    reader.seek(start)
                    target = bytearray(end - start)
                    assert reader.readinto(target) == len(target)
                    assert target == DATA[start:end]
                    reader.seek(start)
                    assert reader.read(end - start) == DATA[start:end]
                    assert reader.tell() == end
    groups = group_ranges(items, max_gap_size)
    assert streams.asked == [(group.start, group.end) for group in groups]


@either
def test_what_cannot_be_read_says_so_and_where(make: Make) -> None:
    reader = make(ITEMS)
    current = r"current item 100-200"
    for start, size in ((0, 1), (99, 2), (199, 2), (250, 10), (200, 50), (3000, 1)):
        reader.seek(start)
        with pytest.raises(
            ValueError, match=f"{FIND_ITEM_ERROR_PREFIX}Range {start}-{start + size} not contained in {current}"
        ):
            reader.read(size)
        assert reader.tell() == start
    reader.seek(100)
    reader.read(1)
    for start, size in ((199, 2), (240, 20), (300, 5), (220, 100)):
        reader.seek(start)
        with pytest.raises(ValueError, match="not contained in current item 100-200") as caught:
            reader.readinto(bytearray(size))
        assert FALLBACK_GUIDANCE in str(caught.value)
        assert ("nor the next item 200-250" in str(caught.value)) == (start >= 200)
    reader.seek(210)
    assert reader.read(1) == DATA[210:211]
    reader.seek(150)
    with pytest.raises(ValueError, match="current item 200-250"):
        reader.read(1)
    reader.seek(290)
    with pytest.raises(ValueError, match="nor the next item 300-1000"):
        reader.read(20)
    for start in (300, 2500):
        reader.seek(start)
        assert reader.read(1) == DATA[start : start + 1]
    reader.seek(2700)
    with pytest.raises(ValueError, match="2500-2600, which is the last"):
        reader.read(1)
    reader.seek(2599)
    with pytest.raises(ValueError, match="current item 2500-2600"):
        reader.read(2)
    assert reader.read(1) == DATA[2599:2600]


@either
def test_an_item_cannot_be_passed_over(make: Make) -> None:
    reader = make(ITEMS)
    reader.seek(100)
    reader.read(100)
    reader.seek(300)
    with pytest.raises(ValueError, match="nor the next item 200-250"):
        reader.read(1)
    reader.seek(200)
    assert reader.read(50) == DATA[200:250]


@either
def test_there_is_no_reading_to_the_end(make: Make) -> None:
    reader = make(ITEMS)
    calls: list[Callable[[], bytes]] = [reader.read, lambda: reader.read(None), lambda: reader.read(size=-2)]
    for call in calls:
        with pytest.raises(ValueError, match="full read not supported") as caught:
            call()
        assert FALLBACK_GUIDANCE in str(caught.value)
    for whence in (io.SEEK_END, 3, -1, "0"):
        with pytest.raises(ValueError, match="whence must be SEEK_CUR or SEEK_SET"):
            reader.seek(0, whence)  # type: ignore[arg-type]


@either
def test_positions_are_integers_from_zero(make: Make) -> None:
    reader = make(ITEMS)
    assert reader.seek(np.int64(120)) == reader.tell() == 120  # type: ignore[arg-type]
    assert reader.read(np.int64(3)) == DATA[120:123]  # type: ignore[arg-type]
    for place in ((-1,), (-124, io.SEEK_CUR)):
        with pytest.raises(ValueError, match="negative seek value -1"):
            reader.seek(*place)
    assert reader.tell() == 123
    for wrong in (1.0, "1", b"1"):
        for verb in (reader.seek, reader.read):
            with pytest.raises(TypeError):
                verb(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        reader.seek(None)  # type: ignore[arg-type]
    assert reader.seek(10**12) == 10**12


@pytest.mark.parametrize(
    ("target", "kind", "text"),
    [
        (b"abc", AssertionError, "writable buffer required"),
        (memoryview(b"abc"), AssertionError, "writable buffer required"),
        ("abc", TypeError, "a bytes-like object is required, not 'str'"),
        (3, TypeError, r"object of type 'int' has no len\(\)"),
    ],
)
def test_only_writable_memory_can_be_filled(target: Any, kind: type[Exception], text: str) -> None:
    """In the words of the original."""
    reader = _from_store(ITEMS)
    reader.seek(100)
    with pytest.raises(kind, match=text):
        reader.readinto(target)


@either
def test_any_item_type_can_be_filled(make: Make) -> None:
    reader = make(ITEMS)
    reader.seek(100)
    target = np.zeros((5, 5), dtype="<i4")
    assert reader.readinto(target.data) == 100
    assert target.tobytes() == DATA[100:200]


def test_a_reader_is_a_file_that_is_only_read() -> None:
    reader = _from_store(ITEMS)
    assert isinstance(reader, io.BufferedIOBase)
    assert (reader.readable(), reader.seekable(), reader.writable()) == (True, True, False)
    assert (reader.bucket, reader.key) == ("bucket", KEY)
    assert repr(reader) == f"<DCPOptimizedS3Reader memory://watched/{KEY}, 4 ranges>"
    assert repr(_streamed(ITEMS)) == f"<DCPOptimizedS3Reader bucket/{KEY}, 4 ranges>"
    for call in (reader.detach, reader.fileno, reader.truncate, reader.read1, lambda: reader.write(b"")):
        with pytest.raises(io.UnsupportedOperation):
            cast("Callable[[], object]", call)()


@either
def test_torch_reads_tensors_through_its_view_of_the_file(make: Callable[..., Any]) -> None:
    tensors = [torch.arange(50.0), torch.ones(3, dtype=torch.bfloat16), torch.arange(12).reshape(3, 4)]
    content, items = io.BytesIO(), []
    for tensor in tensors:
        start = content.tell()
        torch.save(tensor, content)
        items.append(ItemRange(start, content.tell()))
        content.write(bytes(30))
    data = content.getvalue()
    if make is _from_store:
        reader = _stored(items, 10, 1000, data)[1]
    else:
        streams = _Streams(data)
        reader = DCPOptimizedS3Reader("bucket", KEY, items, streams.info, streams.stream, 10)
    for item, tensor in zip(items, tensors, strict=True):
        view: Any = _ReaderView(cast("Any", reader), item.start, item.end - item.start)
        loaded = torch.load(view, weights_only=True)
        assert torch.equal(loaded, tensor)


# What is fetched


@pytest.mark.parametrize(
    ("max_gap_size", "part_size", "requests"),
    [
        (0, 1000, [(100, 250), (300, 1000), (2500, 2600)]),
        (49, 1000, [(100, 250), (300, 1000), (2500, 2600)]),
        (50, 1000, [(100, 1000), (2500, 2600)]),
        (math.inf, 1000, [(100, 1000), (2500, 2600)]),
        (math.inf, 4000, [(100, 2600)]),
        (math.inf, 50, [*((start, start + 50) for start in (100, 150, 200, *range(300, 1000, 50), 2500, 2550))]),
        (50, 500, [(100, 600), (600, 1000), (2500, 2600)]),
    ],
)
def test_requests_are_shared_over_small_gaps_and_wide_ones_are_not_fetched(
    max_gap_size: float, part_size: int, requests: list[tuple[int, int]]
) -> None:
    store, reader = _stored(ITEMS, max_gap_size, part_size)
    assert store.watched.reads == []
    for item in ITEMS:
        reader.seek(item.start)
        assert reader.read(item.end - item.start) == DATA[item.start : item.end]
    reader.close()
    assert sorted(store.watched.ranges) == requests


def test_all_is_on_its_way_from_the_first_read() -> None:
    store, reader = _stored(ITEMS, 0)
    reader.seek(100)
    reader.read(1)
    portal().call(trio.testing.wait_all_tasks_blocked)
    assert len(store.watched.reads) == 3
    reader.close()


def test_empty_items_are_passed_over() -> None:
    items = _items((50, 50), (100, 200), (200, 200), (200, 250), (990, 990))
    store, reader = _stored(items, 0)
    reader.seek(100)
    assert reader.read(100) + reader.read(50) == DATA[100:250]
    assert store.watched.ranges == [(100, 250)]
    assert items[0] == ItemRange(50, 50)
    reader.close()


@either
def test_nothing_is_fetched_by_seeks_reads_of_nothing_and_errors(make: Make) -> None:
    reader = make(ITEMS)
    reader.seek(500)
    assert reader.read(0) == b""
    with pytest.raises(ValueError, match="not contained"):
        reader.read(1)
    assert reader._items is None


# Failures


def test_a_missing_object_has_the_known_text() -> None:
    store, reader = _stored(ITEMS)
    store.delete(KEY)
    reader.seek(100)
    for _ in range(2):
        with pytest.raises(S3Exception) as caught:
            reader.read(1)
        assert str(caught.value) == "Service error: The key does not exist"
        assert isinstance(caught.value, FileNotFoundError)
    reader.close()


@pytest.mark.parametrize("replaced_in", [2, 3])
def test_a_replaced_object_is_an_error_and_never_a_mix(replaced_in: int) -> None:
    store, reader = _stored(ITEMS, 0, data=b"o" * 4000)

    async def replace(number: int) -> None:
        if number == replaced_in:
            await store.watched.put(KEY, b"n" * 4000)

    store.watched.during = replace
    read: set[int] = set()

    def read_all() -> None:
        for item in ITEMS:
            reader.seek(item.start)
            read.update(reader.read(item.end - item.start))

    with reader, pytest.raises(S3Exception, match="replaced"):
        read_all()
    assert len(read) <= 1


def test_an_object_that_is_too_short_is_an_error() -> None:
    _, reader = _stored(_items((0, 10), (3990, 4010)), 0)
    with reader:
        assert reader.read(10) == DATA[:10]
        reader.seek(3990)
        with pytest.raises(S3Exception, match="only 10 there"):
            reader.read(1)


def test_a_stream_that_is_too_short_is_an_error_of_the_item_it_ends_in() -> None:
    streams = _Streams(DATA[:1010])
    reader = DCPOptimizedS3Reader("bucket", KEY, _items((900, 1000), (1005, 1020)), streams.info, streams.stream)
    reader.seek(900)
    assert reader.read(100) == DATA[900:1000]
    reader.seek(1005)
    with pytest.raises(ValueError, match="ended at 1010, before the item's end at 1020"):
        reader.read(1)
    with pytest.raises(ValueError, match="no more of it"):
        reader.read(1)


def test_a_stream_that_fails_is_that_error_and_cannot_go_on() -> None:
    def stream(start: int | None = None, end: int | None = None) -> Iterator[bytes]:
        yield bytes(150)
        raise ServerError("down")

    reader = DCPOptimizedS3Reader("bucket", KEY, ITEMS, refuse, stream)
    reader.seek(100)
    assert reader.read(100) == bytes(100)
    reader.seek(200)
    assert reader.read(50) == bytes(50)
    reader.seek(300)
    with pytest.raises(ServerError, match="down"):
        reader.read(1)
    for _ in range(2):
        with pytest.raises(ValueError, match="no more of it"):
            reader.read(1)


def test_many_small_items_of_one_large_piece_are_not_copied_each_time() -> None:
    """Were the rest of the piece copied for each of them, this would be half a terabyte."""
    data = bytes(16 * MiB)
    items = [ItemRange(start, start + 256) for start in range(0, len(data), 256)]
    reader = DCPOptimizedS3Reader("bucket", KEY, items, refuse, lambda start, end: iter([data[start:end]]))
    for item in items:
        reader.seek(item.start)
        assert len(reader.read(256)) == 256


# The end


@either
def test_a_closed_reader_reads_nothing(make: Make) -> None:
    with make(ITEMS) as reader:
        assert not reader.closed
        reader.seek(100)
        reader.read(10)
    assert reader.closed
    for call in (lambda: reader.read(1), lambda: reader.readinto(bytearray(1))):
        with pytest.raises(ValueError, match="closed file"):
            call()
    reader.close()
    assert reader.tell() == 110


def test_a_closed_reader_gives_its_memory_back_and_lets_its_requests_go() -> None:
    store, reader = _stored(ITEMS, 0)

    async def wait_for_ever(number: int) -> None:
        if number > 1:
            await trio.sleep_forever()

    store.watched.during = wait_for_ever
    reader.seek(100)
    reader.read(1)
    portal().call(trio.testing.wait_all_tasks_blocked)
    assert store.watched.active == 2
    reader.close()
    portal().call(trio.testing.wait_all_tasks_blocked)
    assert store.watched.active == 0


def test_an_unread_reader_can_be_pickled_and_a_read_one_cannot() -> None:
    store = BlockingStore(parse_uri(f"memory://{uuid4()}/"), Config())
    store.put(KEY, DATA)
    source = StoredObject(store, "bucket", KEY)
    reader = DCPOptimizedS3Reader("bucket", KEY, ITEMS, source.info, source.stream)
    reader.seek(120)
    with pickle.loads(pickle.dumps(reader)) as arrived:
        assert (arrived.bucket, arrived.key, arrived.tell()) == ("bucket", KEY, 120)
        assert arrived.read(5) == DATA[120:125]
        with pytest.raises(TypeError, match="it was read"):
            pickle.dumps(arrived)
    assert reader.read(5) == DATA[120:125]
    reader.close()


# The constructor


def _planned(*places: tuple[str, int, int]) -> tuple[list[ReadItem], dict[MetadataIndex, _StorageInfo]]:
    """Items to load, and the files, offsets and lengths where they were saved."""
    where = {MetadataIndex(f"weight.{number}"): _StorageInfo(*place) for number, place in enumerate(places)}
    nowhere = torch.Size([0])
    items = [ReadItem(LoadItemType.TENSOR, index, nowhere, index, nowhere, torch.Size([1])) for index in where]
    return items, where


FILES = [("__0_0.distcp", 0, 100), ("__0_0.distcp", 100, 50), ("__1_0.distcp", 7, 3), ("__0_0.distcp", 400, 0)]
EXPECTED = {"__0_0.distcp": _items((0, 100), (100, 150), (400, 400)), "__1_0.distcp": _items((7, 10))}


@pytest.mark.parametrize(
    "base_path",
    [
        "s3://bucket/a/checkpoint",
        "s3://bucket/a/checkpoint/",
        "memory://bucket/a/checkpoint",
        "gs://bucket/x",
        "file:///tmp/some/checkpoint",
        "file:///tmp/some/checkpoint/",
    ],
)
def test_ranges_are_kept_by_the_uris_of_their_files(base_path: str) -> None:
    constructor = DCPOptimizedConstructor()
    constructor.set_item_ranges_by_file(*_planned(*FILES), base_path)
    root = base_path.removesuffix("/")
    assert constructor._item_ranges_by_file == {f"{root}/{name}": ranges for name, ranges in EXPECTED.items()}


def test_a_path_that_is_no_string_will_do() -> None:
    class Place(os.PathLike[str]):
        def __fspath__(self) -> str:
            return "s3://bucket/checkpoint"

    constructor = DCPOptimizedConstructor()
    constructor.set_item_ranges_by_file(*_planned(*FILES), Place())
    assert set(constructor._item_ranges_by_file) == {f"s3://bucket/checkpoint/{name}" for name in EXPECTED}


def test_new_ranges_take_the_place_of_the_old() -> None:
    constructor = DCPOptimizedConstructor()
    items, where = _planned(*FILES)
    constructor.set_item_ranges_by_file(items, where, "s3://bucket/one")
    constructor.set_item_ranges_by_file(items[2:3], where, "s3://bucket/two")
    assert constructor._item_ranges_by_file == {"s3://bucket/two/__1_0.distcp": _items((7, 10))}
    constructor.set_item_ranges_by_file([], where, "s3://bucket/three")
    assert constructor._item_ranges_by_file == {}
    constructor.set_item_ranges_by_file([], {}, "s3://bucket/three")
    assert constructor._item_ranges_by_file == {}
    with pytest.raises(ValueError, match="storage_data must not be empty"):
        constructor.set_item_ranges_by_file(items, {}, "s3://bucket/four")


def test_the_constructor_chooses_by_what_it_was_told() -> None:
    constructor = S3ReaderConstructor.dcp_optimized(max_gap_size=5)
    source = StoredObject(BlockingStore(parse_uri("s3://bucket/"), Config()), "bucket", "checkpoint/__0_0.distcp")
    call: dict[str, Any] = {"bucket": "bucket", "get_object_info": source.info, "get_stream": source.stream}
    for key in (".metadata", "checkpoint/.metadata", "checkpoint/__0.metadata"):
        assert type(constructor(key=key, **call)) is SequentialS3Reader
    with pytest.raises(ValueError, match=r"No ranges found for s3://bucket/checkpoint/__0_0\.distcp") as caught:
        constructor(key="checkpoint/__0_0.distcp", **call)
    assert FALLBACK_GUIDANCE in str(caught.value)
    constructor.set_item_ranges_by_file(*_planned(*FILES), "s3://bucket/checkpoint/")
    reader = constructor(key="checkpoint/__0_0.distcp", **call)
    assert isinstance(reader, DCPOptimizedS3Reader)
    assert reader._item_ranges == EXPECTED["__0_0.distcp"][:2]
    assert reader._max_gap_size == 5
    with pytest.raises(ValueError, match=r"No ranges found for s3://bucket/checkpoint/__2_0\.distcp"):
        constructor(key="checkpoint/__2_0.distcp", **call)
    assert isinstance(constructor(key="checkpoint/__1_0.distcp", **call | {"get_stream": refuse}), DCPOptimizedS3Reader)


def test_a_constructor_is_known_by_what_it_has() -> None:
    dcp = S3ReaderConstructor.dcp_optimized()
    others = [S3ReaderConstructor.sequential(), S3ReaderConstructor.range_based(5), S3ReaderConstructor.default()]
    assert isinstance(dcp, DCPOptimizedConstructor)
    assert isinstance(dcp, DCPS3ReaderConstructorProtocol)
    assert dcp.max_gap_size == DEFAULT_MAX_GAP_SIZE
    for other in others:
        assert isinstance(other, S3ReaderConstructorProtocol)
        assert not isinstance(other, DCPS3ReaderConstructorProtocol)
    told = [S3ReaderConstructor.get_reader_type_string(each) for each in (None, dcp, *others, RangedS3Reader)]
    assert told == ["sequential", "dcp_optimized", "sequential", "range_based", "sequential", "unknown"]
    assert S3ReaderConstructor.get_reader_type_string(lambda **_: None) == "unknown"  # type: ignore[arg-type]


@pytest.mark.parametrize("max_gap_size", [0, 1, 1.5, math.inf])
def test_a_gap_can_be_any_number_from_zero(max_gap_size: float) -> None:
    assert S3ReaderConstructor.dcp_optimized(max_gap_size).max_gap_size == max_gap_size  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("max_gap_size", "kind"), [(-1, ValueError), (-0.1, ValueError), ("5", TypeError), (None, TypeError)]
)
def test_a_gap_that_is_none_is_refused_at_once(max_gap_size: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="max_gap_size must be"):
        S3ReaderConstructor.dcp_optimized(max_gap_size)


def test_a_constructor_with_ranges_can_be_pickled() -> None:
    constructor = DCPOptimizedConstructor(7)
    constructor.set_item_ranges_by_file(*_planned(*FILES), "s3://bucket/checkpoint")
    arrived = pickle.loads(pickle.dumps(constructor))
    assert arrived.max_gap_size == 7
    assert arrived._item_ranges_by_file == constructor._item_ranges_by_file


# From a client


def _load_by_ranges(client: S3Client, scheme: str, bucket: str, folder: str, base_path: str) -> None:
    data = DATA * 5
    for name in EXPECTED:
        with client.put_object(bucket, f"{folder}{name}", scheme=scheme) as writer:
            writer.write(data)
    constructor = S3ReaderConstructor.dcp_optimized()
    constructor.set_item_ranges_by_file(*_planned(*FILES), base_path)
    for name, ranges in EXPECTED.items():
        reader = client.get_object(bucket, f"{folder}{name}", reader_constructor=constructor, scheme=scheme)
        assert isinstance(reader, DCPOptimizedS3Reader)
        with reader:
            for item in ranges:
                reader.seek(item.start)
                assert reader.read(item.end - item.start) == data[item.start : item.end]


def test_a_client_loads_ranges_of_a_bucket(s3_environment: SeaweedFS, bucket: str) -> None:
    _load_by_ranges(S3Client("us-east-1"), "s3", bucket, "a/b+c %20/", f"s3://{bucket}/a/b+c %20")


def test_a_client_loads_ranges_of_other_schemes(tmp_path: Path) -> None:
    client = S3Client(None, s3client_config=S3ClientConfig(part_size=5 * MiB))
    name = str(uuid4())
    _load_by_ranges(client, "memory", name, "a/", f"memory://{name}/a/")
    _load_by_ranges(client, "file", str(tmp_path), "", f"file://{tmp_path}")
    assert (tmp_path / "__0_0.distcp").stat().st_size == 20 * KiB - 480
