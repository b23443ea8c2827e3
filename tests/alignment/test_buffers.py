from __future__ import annotations

import gc
import mmap
import os
import weakref

import numpy as np
import pytest

from s3dlio.alignment import AlignedBuffer, fresh_bytes

MIB = 1 << 20


@pytest.mark.parametrize("size", [1, 2, 100, 4095, 128 << 10, 4 * MIB, 9 * MIB + 1])
def test_fresh_bytes_are_filled_through_their_view(size: int) -> None:
    data, view = fresh_bytes(size)
    assert (len(data), view.nbytes, view.format, view.readonly) == (size, size, "B", False)
    assert (view.shape, view.c_contiguous) == ((size,), True)
    pattern = np.random.default_rng(size).bytes(size)
    view[:] = pattern
    assert data == pattern
    assert hash(data) == hash(pattern)


def test_fresh_single_bytes_are_not_the_interpreters_own() -> None:
    data, view = fresh_bytes(1)
    for value in range(256):
        view[0] = value
        assert data == bytes([value])
    assert [bytes([value])[0] for value in range(256)] == list(range(256))
    assert b"abc"[1:2] == b"b"


def test_no_fresh_bytes() -> None:
    data, view = fresh_bytes(0)
    assert (data, view.nbytes, view.format, view.readonly) == (b"", 0, "B", False)
    with pytest.raises(ValueError, match="negative: -1"):
        fresh_bytes(-1)


def test_more_than_there_is_memory_for_is_named() -> None:
    with pytest.raises(MemoryError, match=str(1 << 60)):
        fresh_bytes(1 << 60)


def test_view_keeps_fresh_bytes_alive() -> None:
    views = []
    for number in range(50):
        _, view = fresh_bytes(100_000)
        view[:] = bytes([number]) * 100_000
        views.append(view[10:])
        del view
    for number, view in enumerate(views):
        assert view == bytes([number]) * 99_990


def test_numpy_writes_into_fresh_bytes() -> None:
    data, view = fresh_bytes(16)
    np.frombuffer(view, np.uint64)[:] = [1, 2]
    assert data == (1).to_bytes(8, "little") + (2).to_bytes(8, "little")


@pytest.mark.parametrize("size", [0, 1, mmap.PAGESIZE, mmap.PAGESIZE + 1, 3 * MIB])
def test_aligned_buffer(size: int) -> None:
    buffer = AlignedBuffer(size)
    assert buffer.size == buffer.view.nbytes == len(buffer.view) == size
    assert buffer.address % mmap.PAGESIZE == buffer.capacity % mmap.PAGESIZE == 0
    assert size <= buffer.capacity < max(1, size) + mmap.PAGESIZE
    assert bytes(buffer.view) == bytes(size)
    assert not buffer.view.readonly
    assert not buffer.viewed


def test_aligned_buffer_is_where_it_says() -> None:
    buffer = AlignedBuffer(5000)
    array = np.frombuffer(buffer.view, np.uint8)
    assert array.ctypes.data == buffer.address
    array[4999] = 7
    assert buffer.view[4999] == 7


def test_closing_with_views_alive_keeps_their_memory() -> None:
    buffer = AlignedBuffer(100)
    array = np.frombuffer(buffer.view, np.uint8)
    array[:] = 9
    memory = weakref.ref(buffer._memory)
    buffer.close()
    buffer.close()
    assert buffer.closed
    assert bytes(array) == b"\x09" * 100
    assert memory() is not None
    del array
    gc.collect()
    assert memory() is None
    with pytest.raises(ValueError, match="closed"):
        _ = buffer.view


def test_a_buffer_knows_whether_it_is_viewed() -> None:
    buffer = AlignedBuffer(100)
    view = buffer.view
    part = view[10:20]
    array = np.frombuffer(part, np.uint8)
    view.release()
    assert buffer.viewed
    del part
    assert buffer.viewed
    del array
    assert not buffer.viewed


def test_repr_tells_the_state() -> None:
    buffer = AlignedBuffer(5000)
    assert repr(buffer) == "<AlignedBuffer size=5000 capacity=8192 open>"
    view = buffer.view
    assert repr(buffer) == "<AlignedBuffer size=5000 capacity=8192 viewed>"
    del view
    buffer.close()
    assert repr(buffer) == "<AlignedBuffer size=5000 capacity=8192 closed>"


def test_negative_size() -> None:
    with pytest.raises(ValueError, match="negative: -5"):
        AlignedBuffer(-5)


def test_memory_is_shared_with_a_forked_child() -> None:
    buffer = AlignedBuffer(3 * mmap.PAGESIZE)
    child = os.fork()
    if child == 0:
        buffer.view[-5:] = b"child"
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert bytes(buffer.view[-5:]) == b"child"
