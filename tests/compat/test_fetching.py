"""What a reader fetches and keeps: the plan, and the requests that follow from it."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3dlio.compat.s3torchconnector import S3Exception
from s3dlio.compat.s3torchconnector.objects import HasSize
from s3dlio.compat.s3torchconnector.s3reader.fetching import GROWTH, Fetcher, Growing, Span, next_window
from s3dlio.compat.s3torchconnector.source import StreamedObject
from s3dlio.errors import ServerError

from .standin import KEY, reader_of, stored

PART = 100
DATA = random.Random(1).randbytes(10 * PART)


@given(st.integers(1, 5000), st.integers(1, 300), st.integers(0, 4999), st.integers(0, 4999), st.integers(0, 4999))
def test_a_window_holds_the_position_and_stays_in_the_object(
    size: int, part_size: int, position: int, last_start: int, last_end: int
) -> None:
    position %= size
    last = Span(min(last_start, last_end), max(last_start, last_end))
    window = next_window(position, size, last, part_size)
    assert position in window
    assert 0 <= window.start < window.end <= size
    assert window.length <= GROWTH * part_size
    assert window.length >= min(part_size, size - window.start)


def test_windows_that_continue_each_other_double_up_to_the_limit() -> None:
    size, last, lengths = 1000 * PART, Span(0, PART), []
    for _ in range(6):
        last = next_window(last.end, size, last, PART)
        lengths.append(last.length // PART)
    assert lengths == [2, 4, 8, 8, 8, 8]


def test_a_jump_begins_with_one_part_again() -> None:
    assert next_window(500, 1000, Span(0, 400), PART) == Span(500, 600)


def test_a_jump_near_the_end_gets_the_whole_last_part() -> None:
    assert next_window(978, 1000, Span(0, PART), PART) == Span(900, 1000)


def test_reading_all_of_an_object_is_one_request_and_no_copy() -> None:
    store, reader = reader_of(DATA, part_size=PART, listed=False)
    data = reader.read()
    assert data is store.objects[KEY]
    reader.seek(0)
    assert reader.read() is data
    assert store.methods == ["get"]


def test_a_small_object_is_fetched_whole_by_any_read() -> None:
    store, reader = reader_of(DATA[:PART], part_size=PART)
    assert reader.read(3) + reader.read(4) == DATA[:7]
    reader.seek(-1, 2)
    assert reader.read() == DATA[PART - 1 : PART]
    assert store.methods == ["get"]


def test_a_small_read_of_an_object_of_unknown_size_fetches_one_part() -> None:
    store, reader = reader_of(DATA, part_size=PART, listed=False)
    assert reader.read(3) == DATA[:3]
    reader.seek(PART)
    assert store.requests == [("range", 0, PART, None)]


def test_sequential_reads_become_few_large_fetches_of_one_version() -> None:
    store, reader = reader_of(DATA, part_size=PART)
    pieces = iter(lambda: reader.read(7), b"")
    assert b"".join(pieces) == DATA
    etag = store.meta(KEY).etag
    assert store.requests == [
        ("range", 0, 100, None),
        ("into", 100, 300, etag),
        ("into", 300, 700, etag),
        ("into", 700, 1000, etag),
    ]


def test_large_reads_go_straight_to_the_caller_and_are_not_kept() -> None:
    store, reader = reader_of(DATA, part_size=PART)
    target = bytearray(5 * PART)
    assert reader.readinto(target) == len(target)
    assert target == DATA[: 5 * PART]
    assert reader.read(4 * PART) == DATA[5 * PART : 9 * PART]
    assert store.methods == ["into", "into"]
    assert reader._fetcher._data == b""


def test_a_large_read_takes_what_is_kept_and_fetches_the_rest() -> None:
    store, reader = reader_of(DATA, part_size=PART)
    assert reader.read(10) == DATA[:10]
    assert reader.read() == DATA[10:]
    etag = store.meta(KEY).etag
    assert store.requests == [("range", 0, 100, None), ("into", 100, 1000, etag)]


def test_a_read_across_two_windows_is_whole() -> None:
    _, reader = reader_of(DATA, part_size=PART)
    reader.read(90)
    assert reader.read(50) == DATA[90:140]


def test_going_back_to_bytes_that_are_gone_fetches_them_again() -> None:
    store, reader = reader_of(DATA, part_size=PART)
    reader.read(10)
    reader.seek(500)
    reader.read(10)
    reader.seek(20)
    assert reader.read(10) == DATA[20:30]
    etag = store.meta(KEY).etag
    assert store.requests == [("range", 0, 100, None), ("range", 500, 600, etag), ("range", 20, 120, etag)]


@pytest.mark.parametrize("count", [1, 3 * PART])
def test_a_replaced_object_is_an_error_and_never_a_mix(count: int) -> None:
    store, reader = reader_of(DATA, part_size=PART)
    reader.read(10)
    store.objects[KEY] = DATA[::-1]
    reader.seek(5 * PART)
    with pytest.raises(S3Exception, match="replaced"):
        reader.read(count)
    with pytest.raises(S3Exception, match="replaced"):
        reader.readinto(bytearray(count))


def test_a_listing_that_is_stale_does_no_harm() -> None:
    store, reader = reader_of(DATA, part_size=PART)
    store.objects[KEY] = DATA[:150]
    assert reader.read(120) + reader.read() == DATA[:150]
    store, reader = reader_of(DATA[:150], part_size=PART)
    store.objects[KEY] = DATA
    assert reader.read(5) + reader.read() == DATA


@pytest.mark.parametrize("start", [0, 5, 50])
@pytest.mark.parametrize("part_size", [10, PART])
def test_an_object_that_grew_since_it_was_listed_is_read_to_its_end(part_size: int, start: int) -> None:
    for count in (None, 900, 10):
        store, reader = reader_of(DATA[:51], part_size=part_size)
        store.objects[KEY] = DATA
        reader.seek(start)
        assert reader.read(count) == DATA[start : len(DATA) if count is None else start + count]
        store, reader = reader_of(DATA[:51], part_size=part_size)
        store.objects[KEY] = DATA
        target = bytearray(count or len(DATA) - start)
        reader.seek(start)
        assert reader.readinto(target) == len(target)
        assert target == DATA[start : start + len(target)]


def test_an_object_emptied_since_the_listing_is_empty() -> None:
    store, reader = reader_of(DATA, part_size=PART)
    store.objects[KEY] = b""
    assert reader.read(5) == b""
    assert reader.readinto(bytearray(5)) == 0


@pytest.mark.parametrize("listed", [True, False])
def test_an_empty_object_is_fetched_once(listed: bool) -> None:
    store, reader = reader_of(b"", part_size=PART, listed=listed)
    assert [reader.read(5), reader.read(), reader.readline(), reader.read1()] == [b""] * 4
    assert reader.seek(5) == 0
    assert len(store.requests) == 1


def test_reads_of_nothing_and_positions_cost_no_request() -> None:
    store, reader = reader_of(DATA, listed=True)
    assert reader.read(0) == b""
    assert reader.readinto(bytearray()) == 0
    assert reader.seek(20) == 20
    assert reader.seek(0, 2) == reader.tell() == len(DATA)
    assert store.requests == []


def test_the_end_of_an_unlisted_object_costs_one_head() -> None:
    store, reader = reader_of(DATA, listed=False)
    assert reader.seek(0, 2) == len(DATA)
    assert reader.seek(-5, 2) == len(DATA) - 5
    assert store.methods == ["head"]


def test_a_failed_fetch_leaves_the_position_and_can_be_tried_again() -> None:
    store, reader = reader_of(DATA, part_size=PART)
    reader.read(10)
    reader.seek(300)
    store.failure = ServerError("down")
    with pytest.raises(S3Exception):
        reader.read(10)
    store.failure = None
    assert reader.tell() == 300
    assert reader.read(10) == DATA[300:310]


def test_a_failed_fetch_leaves_nothing_wrong_behind() -> None:
    store, reader = reader_of(DATA, part_size=PART)
    reader.read(10)
    reader.seek(300)
    store.failure = ServerError("down")
    with pytest.raises(S3Exception):
        reader.read(10)
    store.failure = None
    assert reader.seek(5) == 5
    assert reader.read(10) == DATA[5:15]


def test_a_stream_is_read_whole_and_asked_for_its_size_only_at_need() -> None:
    asked: list[str] = []

    _, source = stored(DATA, part_size=PART, listed=False)

    def info() -> HasSize:
        asked.append("info")
        return source.info()

    def stream(start: int | None = None, end: int | None = None) -> Iterator[bytes]:
        asked.append("stream")
        return source.stream(start, end)

    streamed = StreamedObject(KEY, info, stream)
    fetcher = Fetcher(streamed, Growing(streamed.part_size))
    assert fetcher.read(0, 5) == DATA[:5]
    assert fetcher.read(5, None) == DATA[5:]
    assert asked == ["stream"]


@given(st.integers(0, 1100), st.one_of(st.none(), st.integers(0, 1100)), st.booleans())
def test_a_stream_gives_the_range_in_pieces_of_one_version(start: int, end: int | None, listed: bool) -> None:
    store, source = stored(DATA, part_size=PART, listed=listed)
    if start >= len(DATA):
        return
    pieces = list(source.stream(start, end))
    assert b"".join(pieces) == DATA[start:end]
    assert all(len(piece) <= PART for piece in pieces)
    assert all(etag == store.meta(KEY).etag for *_, etag in store.requests[1:])
