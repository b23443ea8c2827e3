from __future__ import annotations

import gc
import mmap
import os
import random
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from s3dlio.alignment.allocator import CachingAllocator
from s3dlio.alignment.buffers import HUGE_FROM, AlignedBuffer, size_class

from ..interpreter import run_python

MiB = 1 << 20
SIZE = 5 * MiB
POISON = 0xDB
Array = NDArray[np.uint8]


class Poisoning(CachingAllocator):
    """Overwrites what comes back, as the next user would."""

    def _give_back(self, buffer: AlignedBuffer) -> None:
        buffer.view[::4096] = bytes([POISON]) * (buffer.size // 4096)
        super()._give_back(buffer)


def filled(allocator: CachingAllocator, size: int, mark: int) -> Array:
    array = allocator.allocate(size)
    array[::4096] = mark
    return array


@pytest.mark.parametrize("size", [0, 1, HUGE_FROM - 1, HUGE_FROM, HUGE_FROM + 1, SIZE])
def test_an_array_has_the_size_and_is_writable(size: int) -> None:
    array = CachingAllocator(SIZE).allocate(size)
    assert (array.shape, array.dtype.name, array.flags.writeable) == ((size,), "uint8", True)
    array[:] = 7
    assert size < HUGE_FROM or array.ctypes.data % mmap.PAGESIZE == 0


def test_a_negative_size() -> None:
    with pytest.raises(ValueError, match="negative"):
        CachingAllocator(SIZE).allocate(-1)


def test_what_is_dropped_is_used_again() -> None:
    allocator = CachingAllocator(8 * MiB)
    array = allocator.allocate(SIZE)
    place = array.ctypes.data
    assert allocator.kept == 0
    del array
    assert allocator.kept == size_class(SIZE)
    array = allocator.allocate(SIZE - 1)
    assert array.ctypes.data == place
    assert allocator.kept == 0
    assert repr(allocator) == f"<CachingAllocator kept=0 limit={8 * MiB}>"


def test_two_at_once_are_apart() -> None:
    allocator = CachingAllocator(8 * MiB)
    one, two = filled(allocator, SIZE, 1), filled(allocator, SIZE, 2)
    assert (one[::4096] == 1).all()
    assert (two[::4096] == 2).all()


def test_what_is_larger_than_the_limit_is_not_kept_and_drives_nothing_out() -> None:
    allocator = CachingAllocator(8 * MiB)
    small, large = allocator.allocate(SIZE), allocator.allocate(9 * MiB)
    del small, large
    assert allocator.kept == size_class(SIZE)


def test_the_oldest_make_room() -> None:
    allocator = CachingAllocator(13 * MiB)
    arrays = [allocator.allocate(size * MiB) for size in (5, 6, 7)]
    while arrays:
        del arrays[0]
    assert allocator.kept == 13 * MiB
    allocator.allocate(5 * MiB)
    assert allocator.kept == 12 * MiB  # 7 and 5: the new one drove out 6
    allocator.clear()
    assert allocator.kept == 0


@pytest.mark.parametrize(
    "derive",
    [
        lambda array: array[1000:],
        lambda array: array.view(np.float32).reshape(-1, 2).T,
        lambda array: memoryview(array)[:10],
        lambda array: np.frombuffer(array, np.int64),
        lambda array: array.base,
        lambda array: array.base.base,
    ],
    ids=["slice", "dtype", "memoryview", "frombuffer", "base", "mapping"],
)
def test_whatever_was_made_of_it_keeps_it(derive: Callable[[Array], Any]) -> None:
    allocator = CachingAllocator(16 * MiB)
    array = filled(allocator, SIZE, 1)
    place, derived = array.ctypes.data, derive(array)
    del array
    gc.collect()
    assert allocator.allocate(SIZE).ctypes.data != place
    del derived
    both = allocator.allocate(SIZE), allocator.allocate(SIZE)
    assert place in {array.ctypes.data for array in both}


class Keeper:
    """Gives its array away when it is finalised, as part of a cycle that the collector has found."""

    def __init__(self, array: Array, kept: list[Array]) -> None:
        self.array, self.kept, self.itself = array, kept, self

    def __del__(self) -> None:
        self.kept.append(self.array)


def test_an_array_that_a_finaliser_brings_back_to_life_keeps_its_memory() -> None:
    allocator, alive = Poisoning(8 * MiB), list[Array]()
    Keeper(filled(allocator, SIZE, 1), alive)
    gc.collect()
    other = filled(allocator, SIZE, 2)
    assert (alive[0][::4096] == 1).all()
    assert (other[::4096] == 2).all()


SIZES = st.sampled_from([1000, SIZE, SIZE + 1, 6 * MiB, 9 * MiB])


@settings(deadline=None, max_examples=30)
@given(st.lists(st.one_of(SIZES, st.integers(-8, -1)), max_size=30), st.sampled_from([SIZE, 12 * MiB, 40 * MiB]))
def test_no_array_ever_sees_memory_that_came_back(operations: list[int], limit: int) -> None:
    """A size allocates; a negative number drops an array, and keeps a slice of it where it is even."""
    allocator, alive = Poisoning(limit), list[tuple[Array, int]]()
    for mark, operation in enumerate(operations):
        if operation > 0:
            alive.append((filled(allocator, operation, mark), mark))
        elif alive:
            array, old = alive.pop(operation % len(alive))
            if operation % 2 == 0 and array.size > 8192:
                alive.append((array[4096:], old))
            del array
        assert allocator.kept <= limit
        assert all((array[::4096] == mark).all() for array, mark in alive)


@pytest.fixture
def switching_often() -> Iterator[None]:
    """Threads that take turns all the time, so that they meet everywhere."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("switching_often")
def test_threads_never_share_an_array() -> None:
    allocator, sound = CachingAllocator(30 * MiB), list[int]()

    def churn(mark: int) -> None:
        chance, alive = random.Random(mark), list[Array]()
        for _ in range(700):
            array = allocator.allocate(chance.choice([SIZE, 6 * MiB]))
            array[:8] = mark
            alive.append(array)
            del array
            if len(alive) > 2:
                del alive[chance.randrange(3)]
            if not all((array[:8] == mark).all() for array in alive):
                return
        sound.append(mark)

    threads = [threading.Thread(target=churn, args=(mark,)) for mark in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(sound) == [1, 2, 3, 4, 5, 6]
    assert 0 < allocator.kept <= 30 * MiB


def test_memory_that_another_thread_takes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    allocator, theirs = CachingAllocator(8 * MiB), list[Array]()
    viewed = AlignedBuffer.viewed

    def takes_it(buffer: AlignedBuffer) -> bool:
        monkeypatch.undo()
        theirs.append(allocator.allocate(SIZE))
        return bool(viewed.__get__(buffer))

    allocator.allocate(SIZE)
    monkeypatch.setattr(AlignedBuffer, "viewed", property(takes_it))
    mine = allocator.allocate(SIZE)
    assert len(theirs) == 1
    assert mine.ctypes.data != theirs[0].ctypes.data


def in_child(check: Callable[[], bool]) -> bool:
    """What `check` says in a forked child."""
    child = os.fork()
    if not child:
        os._exit(0 if check() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_forked_child_has_arrays_and_memory_of_its_own() -> None:
    allocator = Poisoning(8 * MiB)
    arrays = [filled(allocator, SIZE, 1)]
    asked, answer = os.pipe()

    def drop_and_use_again() -> bool:
        arrays.clear()
        mine = filled(allocator, SIZE, 2)
        os.write(answer, b"1")
        return bool((mine[::4096] == 2).all())

    assert in_child(drop_and_use_again)
    assert os.read(asked, 1) == b"1"
    assert allocator.kept == 0
    assert (arrays[0][::4096] == 1).all()


def test_what_a_parent_does_is_not_seen_by_its_child() -> None:
    allocator = Poisoning(8 * MiB)
    arrays = [filled(allocator, SIZE, 1)]
    gone, tell = os.pipe()
    child = os.fork()
    if not child:
        os.read(gone, 1)
        os._exit(0 if (arrays[0][::4096] == 1).all() else 1)
    arrays.clear()
    filled(allocator, SIZE, 2)
    os.write(tell, b"1")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


_LAST = """
import atexit
atexit.register(lambda: allocate_more())  # before anybody has finalisers, and so called after they have ended

import os, sys
from s3dlio.alignment.allocator import CachingAllocator

class Last:
    def __del__(self, write=os.write):
        write(1, b"%d" % self.array[-1])

def allocate_more():
    allocator.allocate(5 << 20)[:] = 2

allocator = CachingAllocator(1 << 30)
sys.last = Last()
sys.last.array = allocator.allocate(5 << 20)
sys.last.array[:] = 1
"""


def test_arrays_that_outlive_the_interpreter_stay_good() -> None:
    done = run_python(_LAST)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1", "")
