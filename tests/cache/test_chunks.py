"""What is decided about chunks, beside plain models."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3dlio.cache.chunks import (
    ABANDONED,
    CacheFile,
    Trailer,
    blocks_of,
    chunk_name,
    is_ours,
    parse_trailer,
    plan_pieces,
    sums_of,
    to_remove,
    trailer_size,
)

from .conftest import BLOCK, CHUNK

pytestmark = pytest.mark.usefixtures("small_chunks")


RANGES = st.lists(st.integers(0, 500), min_size=3, max_size=3).map(sorted).filter(lambda each: each[0] < each[1])


@given(RANGES)
def test_the_pieces_are_the_range_in_order_and_each_lies_in_its_chunk(numbers: list[int]) -> None:
    start, end, size = numbers
    pieces = plan_pieces(start, end, size)
    assert [byte for piece in pieces for byte in range(piece.start, piece.end)] == [*range(start, end)]
    for piece in pieces:
        assert (piece.first, piece.stop) == (piece.number * CHUNK, min(piece.first + CHUNK, size))
        assert piece.first <= piece.start < piece.end <= piece.stop
        assert piece.whole == (piece.end - piece.start == piece.length)


@given(RANGES)
def test_blocks_are_whole_and_no_more_than_the_range_touches(numbers: list[int]) -> None:
    start, end, length = numbers
    first, last = blocks_of(start, end, length)
    touched = {byte // BLOCK for byte in range(start, end)}
    assert {byte // BLOCK for byte in range(first, last)} == touched
    assert first % BLOCK == 0
    assert last % BLOCK == 0 or last == length


def test_names_differ_by_version_and_number_and_are_known_again() -> None:
    names = {chunk_name(version, number) for version in ("a", "b", "a\x001", "\udc80") for number in range(3)}
    assert len(names) == 12
    assert all(is_ours(name.partition("/")[2]) for name in names)
    assert not any(map(is_ours, ("notes.txt", "0" * 37, "0" * 38 + ".tmp", "a" * 40)))


@given(st.binary(max_size=100), st.booleans(), st.data())
def test_a_trailer_is_read_as_written_and_nothing_else_is(data: bytes, proven: bool, drawn: st.DataObject) -> None:
    trailer = Trailer(sums_of(memoryview(data)), proven)
    written = trailer.encode("name")
    assert len(written) == trailer_size(len(data))
    assert parse_trailer(written, "name") == trailer
    assert parse_trailer(written, "other") is None
    place, flip = drawn.draw(st.integers(0, len(written) - 1)), drawn.draw(st.integers(1, 255))
    changed = bytearray(written)
    changed[place] ^= flip
    assert parse_trailer(bytes(changed), "name") is None
    assert parse_trailer(written[: drawn.draw(st.integers(0, len(written) - 1))], "name") is None


@given(st.binary(min_size=1, max_size=100), st.data())
def test_a_block_fits_where_no_byte_of_it_was_changed(data: bytes, drawn: st.DataObject) -> None:
    trailer = Trailer(sums_of(memoryview(data)), proven=True)
    start = drawn.draw(st.integers(0, len(data) - 1))
    first, last = blocks_of(start, drawn.draw(st.integers(start + 1, len(data))), len(data))
    assert trailer.fits(memoryview(data)[first:last], first)
    changed, place = bytearray(data), drawn.draw(st.integers(0, len(data) - 1))
    changed[place] ^= 1
    assert trailer.fits(memoryview(changed)[first:last], first) == (not first <= place < last)


FILES = st.lists(
    st.builds(
        lambda number, size, used, temporary: CacheFile(f"{number}{'.tmp' if temporary else ''}", size, used),
        st.integers(0, 1000),
        st.integers(0, 100),
        st.floats(0, 3 * ABANDONED),
        st.booleans(),
    ),
    unique_by=lambda file: file.path,
)


@given(FILES, st.integers(1, 500))
def test_the_oldest_go_until_there_is_room_and_no_more_of_them(files: list[CacheFile], limit: int) -> None:
    now = 2 * ABANDONED
    removed = to_remove(files, limit, now)
    kept = [file for file in files if file not in removed]
    assert [file for file in kept if file.temporary] == [
        file for file in files if file.temporary and file.used >= now - ABANDONED
    ]
    evicted = [file for file in removed if not file.temporary]
    stayed = [file for file in kept if not file.temporary]
    assert all(gone.used <= left.used for gone in evicted for left in stayed)
    total = sum(file.size for file in kept)
    room = limit - limit // 8
    if not evicted:
        assert total <= limit or not stayed
    else:
        assert total <= room or not stayed
        assert total + evicted[-1].size > room
