"""Slices of objects mean what they mean in Python."""

from __future__ import annotations

import trio
from hypothesis import given
from hypothesis import strategies as st

from s3dlio.errors import RangeError
from s3dlio.model import BoundedRange, resolve
from s3dlio.slices import get_slice, range_of
from s3dlio.stores import MemoryStore
from s3dlio.transfer import ParallelStore

_ENDS = st.integers(-15, 15)


@given(start=_ENDS, end=st.none() | _ENDS, size=st.integers(0, 12))
def test_a_range_that_needs_no_size_is_the_slice(start: int, end: int | None, size: int) -> None:
    byte_range = range_of(start, end)
    if byte_range is not None:
        first, stop = resolve(byte_range, size)
        data = bytes(range(size))
        assert data[first:stop] == data[start:end]


def test_what_depends_on_the_size_is_no_range() -> None:
    assert range_of(3, -1) is None
    assert range_of(-3, -1) is None
    assert range_of(5, 5) is None
    assert range_of(0, 5) == BoundedRange(0, 5)


@given(start=_ENDS, end=st.none() | _ENDS, size=st.integers(0, 12), part_size=st.integers(1, 14))
def test_what_is_read_is_the_slice(start: int, end: int | None, size: int, part_size: int) -> None:
    data = bytes(range(size))

    async def read() -> bytes | None:
        async with ParallelStore(MemoryStore(), part_size=part_size, parts_in_flight=2) as store:
            await store.put("key", data)
            try:
                return await get_slice(store, "key", start, end, part_size=part_size)
            except RangeError:
                return None

    found = trio.run(read)
    assert found == (None if 0 < size <= start else data[start:end])
