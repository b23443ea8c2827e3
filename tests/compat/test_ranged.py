"""The range-based reader: a file like any other, and no byte more than it was told to fetch."""

from __future__ import annotations

import io
import pickle
import random
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3dlio.compat.s3torchconnector import S3Checkpoint, S3Exception, S3ReaderConstructor
from s3dlio.compat.s3torchconnector._s3client import S3Client
from s3dlio.compat.s3torchconnector.s3reader import RangedS3Reader
from s3dlio.compat.s3torchconnector.s3reader.ranged import DEFAULT_BUFFER_SIZE
from s3dlio.config import MiB
from s3dlio.errors import ServerError

from ..servers.seaweedfs import SeaweedFS
from .files import CONTENTS, STEPS, check_step
from .standin import KEY, ranged_reader_of, refuse

DATA = random.Random(1).randbytes(1000)
_BUFFERS = st.one_of(st.none(), st.just(0), st.just(1), st.integers(2, 120), st.just(10_000))


@given(CONTENTS, st.lists(STEPS, max_size=12), _BUFFERS, st.integers(1, 40), st.booleans())
def test_a_reader_is_a_file(
    data: bytes, steps: list[tuple[Any, ...]], buffer_size: int | None, part_size: int, listed: bool
) -> None:
    model = io.BytesIO(data)
    _, reader = ranged_reader_of(data, buffer_size=buffer_size, part_size=part_size, listed=listed)
    for step in steps:
        check_step(reader, model, step)


@pytest.mark.parametrize("buffer_size", [None, 0, 1, 7, 10_000])
@pytest.mark.parametrize("listed", [True, False])
def test_lines(buffer_size: int | None, listed: bool) -> None:
    data = b"one\n\ntwo\r\nthree" * 30
    store, reader = ranged_reader_of(data, buffer_size=buffer_size, part_size=100, listed=listed)
    assert list(reader) == io.BytesIO(data).readlines()
    assert buffer_size or len(store.requests) <= 6, "lines have a buffer, also where reads have none"


# Requests

_READS = st.lists(
    st.tuples(st.sampled_from(["read", "readinto"]), st.integers(0, 1100), st.integers(0, 300) | st.just(2000)),
    max_size=8,
)
"""How, where, and how many bytes."""


def _take(reader: RangedS3Reader, how: str, position: int, count: int) -> bytes:
    reader.seek(position)
    if how == "read":
        return reader.read(count)
    target = bytearray(count)
    return bytes(target[: reader.readinto(target)])


@given(_READS, st.booleans())
def test_without_a_buffer_each_read_is_one_request_for_exactly_its_bytes(
    reads: list[tuple[str, int, int]], listed: bool
) -> None:
    store, reader = ranged_reader_of(DATA, buffer_size=0, part_size=100, listed=listed)
    expected: list[tuple[int, int]] = []
    for how, position, count in reads:
        assert _take(reader, how, position, count) == DATA[position : position + count]
        if position < len(DATA) and count:
            expected.append((position, min(position + count, len(DATA))))
    assert [(start, end) for method, start, end, _ in store.requests if method != "head"] == expected
    assert store.methods.count("head") == (1 if reads and not listed else 0)


@given(_READS, st.integers(1, 400), st.booleans())
def test_with_a_buffer_a_read_fetches_at_most_that_much_beyond_itself(
    reads: list[tuple[str, int, int]], buffer_size: int, listed: bool
) -> None:
    store, reader = ranged_reader_of(DATA, buffer_size=buffer_size, part_size=100, listed=listed)
    for how, position, count in reads:
        done = len(store.requests)
        assert _take(reader, how, position, count) == DATA[position : position + count]
        fetched = [(start, end) for _, start, end, _ in store.requests[done:] if start is not None and end is not None]
        assert len(fetched) <= 1
        for start, end in fetched:
            assert position <= start < min(position + count, len(DATA))
            assert end <= min(max(position + count, start + buffer_size), len(DATA))
    assert store.methods.count("head") == (1 if reads and not listed else 0)
    assert "get" not in store.methods


@pytest.mark.parametrize("listed", [True, False])
def test_small_reads_share_a_buffer_and_large_ones_bypass_it(listed: bool) -> None:
    store, reader = ranged_reader_of(DATA, buffer_size=100, part_size=1000, listed=listed)
    assert b"".join(reader.read(10) for _ in range(15)) == DATA[:150]
    reader.seek(120)
    assert reader.read(30) == DATA[120:150]
    reader.seek(500)
    assert reader.read(100) == DATA[500:600]
    reader.seek(390)
    assert reader.read(5) == DATA[390:395]
    etag = store.meta(KEY).etag
    first = None if listed else etag
    asked = [request for request in store.requests if request[0] != "head"]
    assert asked == [
        ("range", 0, 100, first),
        ("range", 100, 200, etag),
        ("into", 500, 600, etag),
        ("range", 390, 490, etag),
    ]
    assert store.methods[0] == ("range" if listed else "head")


def test_a_large_read_takes_what_is_in_the_buffer_and_fetches_the_rest() -> None:
    store, reader = ranged_reader_of(DATA, buffer_size=100)
    reader.read(10)
    assert reader.read(400) == DATA[10:410]
    reader.seek(90)
    assert [(start, end) for _, start, end, _ in store.requests] == [(0, 100), (100, 410)]


def test_a_read_in_the_buffer_is_no_request() -> None:
    store, reader = ranged_reader_of(DATA, buffer_size=100)
    for position in (0, 50, 99, 3):
        assert _take(reader, "read", position, 1) == DATA[position : position + 1]
    assert len(store.requests) == 1


def test_a_buffer_larger_than_a_part_is_filled_in_parallel() -> None:
    store, reader = ranged_reader_of(DATA, buffer_size=500, part_size=100)
    assert reader.read(3) == DATA[:3]
    assert store.requests == [("into", 0, 500, None)]


def test_an_object_that_fits_the_buffer_is_fetched_whole_when_it_is_read_whole() -> None:
    store, reader = ranged_reader_of(DATA, buffer_size=None, part_size=100)
    data = reader.read()
    assert data is store.objects[KEY]
    reader.seek(5)
    assert reader.read(5) == DATA[5:10]
    assert store.methods == ["get"]


def test_an_object_that_is_larger_than_the_buffer_is_not_kept() -> None:
    store, reader = ranged_reader_of(DATA, buffer_size=100, part_size=100)
    assert reader.read() == DATA
    reader.seek(5)
    assert reader.read(5) == DATA[5:10]
    assert [(method, start, end) for method, start, end, _ in store.requests] == [("into", 0, 1000), ("range", 5, 105)]


def test_a_line_without_a_buffer_fetches_64_kib() -> None:
    store, reader = ranged_reader_of(b"line\n" + bytes(1 * MiB), buffer_size=0, part_size=1 * MiB)
    assert reader.readline() == b"line\n"
    assert store.requests == [("range", 0, 64 << 10, None)]


def test_the_default_buffer_is_eight_mebibytes() -> None:
    data = bytes(DEFAULT_BUFFER_SIZE + 10)
    store, reader = ranged_reader_of(data, buffer_size=None, part_size=16 * MiB)
    reader.read(1)
    assert store.requests == [("range", 0, 8 * MiB, None)]


def test_a_negative_buffer_is_none() -> None:
    store, reader = ranged_reader_of(DATA, buffer_size=-5)
    reader.read(1)
    assert store.requests == [("into", 0, 1, None)]


@pytest.mark.parametrize("listed", [True, False])
def test_positions_and_reads_of_nothing_fetch_nothing(listed: bool) -> None:
    store, reader = ranged_reader_of(DATA, buffer_size=100, listed=listed)
    assert (reader.tell(), reader.read(0), reader.readinto(bytearray()), reader.readline(0)) == (0, b"", 0, b"")
    assert store.requests == []
    assert reader.seek(5000) == reader.seek(0, io.SEEK_END) == len(DATA)
    assert (reader.read(), reader.read(5), reader.readline()) == (b"", b"", b"")
    assert store.methods == ([] if listed else ["head"])


@pytest.mark.parametrize("buffer_size", [None, 0, 10])
@pytest.mark.parametrize("listed", [True, False])
def test_an_empty_object_is_fetched_once_at_most(buffer_size: int | None, listed: bool) -> None:
    store, reader = ranged_reader_of(b"", buffer_size=buffer_size, listed=listed)
    assert [reader.read(5), reader.read1(), reader.readline(), reader.read(1)] == [b""] * 4
    assert reader.readinto(bytearray(5)) == 0
    assert [method for method in store.methods if method != "get"] == ([] if listed else ["head"])
    assert store.methods.count("get") <= 1


# One version


@pytest.mark.parametrize("count", [1, 150, 700])
@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("buffer_size", [0, 100])
def test_a_replaced_object_is_an_error_and_never_a_mix(count: int, listed: bool, buffer_size: int) -> None:
    store, reader = ranged_reader_of(DATA, buffer_size=buffer_size, listed=listed)
    assert reader.read(10) == DATA[:10]
    store.objects[KEY] = DATA[::-1]
    reader.seek(200)
    with pytest.raises(S3Exception, match="replaced"):
        reader.read(count)
    with pytest.raises(S3Exception, match="replaced"):
        reader.readinto(bytearray(count))
    assert reader.tell() == 200


@pytest.mark.parametrize("buffer_size", [0, 100, None])
def test_an_object_replaced_after_its_size_was_asked_for_is_an_error(buffer_size: int | None) -> None:
    store, reader = ranged_reader_of(DATA, buffer_size=buffer_size, listed=False)
    reader.seek(0, io.SEEK_END)
    store.objects[KEY] = DATA[::-1]
    reader.seek(5)
    with pytest.raises(S3Exception, match="replaced"):
        reader.read(10)


@pytest.mark.parametrize("start", [0, 5])
@pytest.mark.parametrize("buffer_size", [0, 10, 100, None])
def test_an_object_that_grew_since_it_was_listed_is_read_to_its_end(buffer_size: int | None, start: int) -> None:
    for count in (None, 900, 10):
        store, reader = ranged_reader_of(DATA[:50], buffer_size=buffer_size, part_size=100)
        store.objects[KEY] = DATA
        reader.seek(start)
        assert reader.read(count) == DATA[start : len(DATA) if count is None else start + count]
        store, reader = ranged_reader_of(DATA[:50], buffer_size=buffer_size, part_size=100)
        store.objects[KEY] = DATA
        target = bytearray(count or 995)
        reader.seek(start)
        assert reader.readinto(target) == len(target)
        assert target == DATA[start : start + len(target)]


# Failures


@pytest.mark.parametrize("buffer_size", [0, 100])
def test_a_missing_object_has_the_known_text_whatever_is_asked(buffer_size: int) -> None:
    store, reader = ranged_reader_of(DATA, buffer_size=buffer_size, listed=False)
    del store.objects[KEY]
    for call in (
        reader.read,
        lambda: reader.read(1),
        lambda: reader.readinto(bytearray(1)),
        reader.readline,
        reader.read1,
        lambda: reader.seek(1),
        lambda: reader.seek(0, io.SEEK_END),
    ):
        with pytest.raises(S3Exception) as caught:
            call()
        assert str(caught.value) == "Service error: The object was not found"
        assert isinstance(caught.value, FileNotFoundError)


def test_a_failed_fetch_leaves_the_position_and_can_be_tried_again() -> None:
    store, reader = ranged_reader_of(DATA, buffer_size=100)
    reader.read(10)
    reader.seek(300)
    store.failure = ServerError("down")
    for count in (10, 500):
        with pytest.raises(S3Exception, match="down"):
            reader.read(count)
    store.failure = None
    assert (reader.tell(), reader.read(10)) == (300, DATA[300:310])


# As an object


def test_an_unread_reader_can_be_pickled_and_keeps_position_and_buffer() -> None:
    store, reader = ranged_reader_of(DATA, buffer_size=10, listed=False)
    reader.seek(-20, io.SEEK_END)
    arrived = pickle.loads(pickle.dumps(reader))
    assert (arrived.bucket, arrived.key, arrived.tell()) == ("bucket", KEY, 980)
    assert arrived.read(4) == DATA[980:984]
    assert arrived._fetcher._source.store.requests[-1][:3] == ("range", 980, 990)
    assert store.methods == ["head"]


@pytest.mark.parametrize("count", [1, 500])
def test_a_read_reader_cannot_be_pickled(count: int) -> None:
    _, reader = ranged_reader_of(DATA, buffer_size=10)
    reader.read(count)
    with pytest.raises(TypeError, match="it was read"):
        pickle.dumps(reader)


def test_a_closed_reader_still_reads() -> None:
    _, reader = ranged_reader_of(DATA, buffer_size=10)
    with reader as same:
        assert same is reader
    assert reader.closed
    assert reader.read(3) == DATA[:3]


def test_a_reader_names_its_object() -> None:
    _, reader = ranged_reader_of(b"", buffer_size=0)
    assert (reader.bucket, reader.key) == ("bucket", KEY)
    assert repr(reader) == "<RangedS3Reader s3://bucket/object>"
    assert (reader.readable(), reader.seekable(), reader.writable()) == (True, True, False)
    with pytest.raises(ValueError, match="Bucket should be specified"):
        RangedS3Reader("", "key", refuse, refuse)


def test_a_reader_of_anybody_s_functions_asks_for_the_size_once_and_for_exact_ranges() -> None:
    asked: list[tuple[int | None, int | None]] = []

    def stream(start: int | None = None, end: int | None = None) -> Iterator[bytes]:
        asked.append((start, end))
        cuts = [*range(start or 0, len(DATA) if end is None else end, 33), len(DATA) if end is None else end]
        return (DATA[left:right] for left, right in pairwise(cuts))

    class Info:
        size = len(DATA)

    def info() -> type[Info]:
        infos.append("asked")
        return Info

    infos: list[str] = []
    reader = RangedS3Reader("bucket", "key", info, stream, buffer_size=100)
    assert (reader.seek(-5, io.SEEK_END), reader.read()) == (995, DATA[995:])
    reader.seek(200)
    assert reader.read(10) + reader.read(300) == DATA[200:510]
    target = bytearray(150)
    assert reader.readinto(target) == 150
    assert target == DATA[510:660]
    assert asked == [(995, 1000), (200, 300), (300, 510), (510, 660)]
    assert infos == ["asked"]


# From a client


@pytest.mark.parametrize("buffer_size", [None, 0, 1000])
def test_a_client_makes_range_based_readers(s3_environment: SeaweedFS, bucket: str, buffer_size: int | None) -> None:
    client = S3Client("us-east-1")
    with client.put_object(bucket, "key") as writer:
        writer.write(DATA * 5)
    constructor = S3ReaderConstructor.range_based(buffer_size)
    assert constructor.keywords == {"buffer_size": buffer_size}  # type: ignore[attr-defined]
    reader = client.get_object(bucket, "key", reader_constructor=pickle.loads(pickle.dumps(constructor)))
    assert isinstance(reader, RangedS3Reader)
    assert (reader.seek(4990), reader.read(3), reader.read()) == (4990, DATA[990:993], DATA[993:])
    reader.seek(3)
    with S3Checkpoint("us-east-1").writer(f"s3://{bucket}/key") as again:
        again.write(DATA * 6)
    with pytest.raises(S3Exception, match="replaced"):
        reader.read(4900)
    with pytest.raises(S3Exception, match="The object was not found"):
        client.get_object(bucket, "absent", reader_constructor=constructor).read(1)
