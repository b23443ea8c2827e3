from __future__ import annotations

import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st

from s3dlio.errors import StoreError
from s3dlio.parts import (
    MAX_OBJECT,
    MAX_PART,
    MAX_PARTS,
    MIN_PART,
    buffers_for,
    growing_part_size,
    part_size_for,
    plan_ranges,
)
from s3dlio.siblings import first_error


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(1, 300))
def test_ranges_cover_everything_once_in_pieces_of_a_part(start: int, size: int, part_size: int) -> None:
    pieces = list(plan_ranges(start, start + size, part_size))
    assert [byte for first, end in pieces for byte in range(first, end)] == list(range(start, start + size))
    assert all(end - first == part_size for first, end in pieces[:-1])


@given(st.integers(0, MAX_OBJECT), st.integers(1, 2 * MAX_PART))
@example(MAX_OBJECT, 1)
@example(MAX_OBJECT, 2 * MAX_PART)
@example(MAX_PARTS * MIN_PART, 1)
@example(MAX_PARTS * MIN_PART + 1, 1)
def test_a_part_size_stays_within_the_limits_of_s3(size: int, part_size: int) -> None:
    chosen = part_size_for(size, part_size)
    assert MIN_PART <= chosen <= MAX_PART
    assert chosen >= min(part_size, MAX_PART)
    assert -(-size // chosen) <= MAX_PARTS


@pytest.mark.parametrize("part_size", [1, MIN_PART, MIN_PART + 1, 8 << 20, 1 << 30, MAX_PART, 2 * MAX_PART])
def test_growing_parts_stay_within_the_limits_of_s3_and_hold_any_object(part_size: int) -> None:
    sizes = [growing_part_size(number, part_size) for number in range(1, MAX_PARTS + 1)]
    assert sizes == sorted(sizes)
    assert sizes[0] == min(max(part_size, MIN_PART), MAX_PART)
    assert sizes[-1] <= MAX_PART
    assert sum(sizes) >= MAX_OBJECT


@pytest.mark.parametrize("part_size", [MIN_PART, 8 << 20, 64 << 20])
@pytest.mark.parametrize("memory_limit", [64 << 20, 256 << 20, 1 << 30])
def test_what_a_writer_holds_stays_within_its_limit_as_long_as_a_part_does(part_size: int, memory_limit: int) -> None:
    written, number, size = 0, 1, part_size
    while number < MAX_PARTS and (size := growing_part_size(number, part_size)) <= memory_limit:
        assert size <= buffers_for(size, memory_limit) * size <= memory_limit
        written, number = written + size, number + 1
    assert written > 800 * memory_limit
    assert written > 230e9 or memory_limit < 256 << 20
    assert buffers_for(2 * memory_limit, memory_limit) == 1


def test_one_error_stands_for_all() -> None:
    async def cancelled() -> BaseException:
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as error:
                return error
        raise AssertionError

    cancellation, failure, interrupt = trio.run(cancelled), StoreError("failed"), KeyboardInterrupt()
    assert first_error([cancellation, failure, interrupt]) is interrupt
    assert first_error([cancellation, failure, StoreError("later")]) is failure
    assert first_error([cancellation]) is cancellation
