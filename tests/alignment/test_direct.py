"""Direct I/O at any offset, of any length, from and to any memory."""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from s3dlio.alignment.buffers import AlignedBuffer
from s3dlio.alignment.direct import (
    BLOCK,
    UNKNOWN,
    Alignment,
    BounceBuffers,
    BufferedFile,
    DirectFile,
    DirectIOWarning,
    DirectStats,
    alignment_of,
    plan,
)

from .page_cache import cached_pages, evict

PAGE = mmap.PAGESIZE
DATA = bytes(range(251)) * (3 * BLOCK // 251)
SIZE = len(DATA)


@pytest.fixture
def path(folder: Path) -> Path:
    """A file of nearly three blocks, not in the page cache."""
    path = folder / "file"
    path.write_bytes(DATA)
    evict(path)
    return path


def memory(size: int, skew: int) -> memoryview:
    """Writable memory at `skew` bytes past a page's beginning."""
    return AlignedBuffer(size + skew).view[skew : skew + size]


# The plan


@given(offset=st.integers(0, 1 << 45), length=st.integers(0, 1 << 34), power=st.integers(0, 16))
def test_a_plan_covers_the_range_with_whole_blocks_in_the_middle(offset: int, length: int, power: int) -> None:
    alignment = 1 << power
    head, middle, tail = plan(offset, length, alignment)
    assert head + middle + tail == length
    assert min(head, middle, tail) >= 0
    if middle:
        assert (offset + head) % alignment == middle % alignment == 0
        assert max(head, tail) < alignment
    else:
        assert (head, tail) == (length, 0)
        first_block = -(-offset // alignment) * alignment
        assert first_block + alignment > offset + length


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [
        (0, 0, (0, 0, 0)),
        (0, 511, (511, 0, 0)),
        (0, 512, (0, 512, 0)),
        (0, 513, (0, 512, 1)),
        (1, 1024, (511, 512, 1)),
        (511, 2, (2, 0, 0)),
        (512, 1536, (0, 1536, 0)),
    ],
)
def test_plans_by_hand(offset: int, length: int, expected: tuple[int, int, int]) -> None:
    assert plan(offset, length, 512) == expected


# The cases of R48: unaligned offset, tail, memory; short and empty files; past the end; appending; special files


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (0, SIZE),
        (0, PAGE),
        (0, 1),
        (1, 1),
        (1, SIZE - 1),
        (511, 2),
        (PAGE - 1, 2),
        (PAGE, 2 * PAGE),
        (PAGE + 1, BLOCK),
        (BLOCK, BLOCK),
        (BLOCK - 1, BLOCK + 2),
        (SIZE - 1, 1),
        (SIZE - PAGE, PAGE),
    ],
)
@pytest.mark.parametrize("skew", [0, 1, 512])
def test_any_range_is_read_past_the_page_cache(path: Path, offset: int, length: int, skew: int) -> None:
    view = memory(length, skew)
    with DirectFile.open(path) as file:
        assert file.read_into(view, offset) == length
        assert file.is_direct
        assert file.stats == DirectStats(direct_bytes=length)
    assert view == DATA[offset : offset + length]
    assert cached_pages(path) == 0


@pytest.mark.parametrize("skew", [0, 1])
@pytest.mark.parametrize("offset", [0, 1, PAGE, SIZE - PAGE, SIZE - 1, SIZE, SIZE + 1, SIZE + PAGE, 1 << 40])
def test_a_read_ends_where_the_file_does(path: Path, offset: int, skew: int) -> None:
    view = memory(SIZE + BLOCK, skew)
    with DirectFile.open(path) as file:
        count = file.read_into(view, offset)
    assert count == max(0, SIZE - offset)
    assert view[:count] == DATA[offset:]
    assert cached_pages(path) == 0


@pytest.mark.parametrize("size", [0, 1, 511, 512, PAGE - 1, PAGE, PAGE + 1])
@pytest.mark.parametrize("skew", [0, 3])
def test_short_and_empty_files(folder: Path, size: int, skew: int) -> None:
    view = memory(size, skew)
    view[:] = DATA[:size]
    with DirectFile.open(folder / "short", os.O_RDWR | os.O_CREAT) as file:
        file.write(view)
        again = memory(2 * PAGE, skew)
        assert file.read_into(again) == size
        assert file.read_into(memory(0, 0)) == 0
    assert again[:size] == DATA[:size] == (folder / "short").read_bytes()


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 2 * BLOCK), (0, 1), (1, 1), (5, BLOCK), (PAGE - 1, 2), (PAGE, PAGE), (BLOCK - 7, BLOCK + 9), (SIZE - 1, PAGE)],
)
@pytest.mark.parametrize("skew", [0, 1])
def test_a_write_changes_its_range_alone(path: Path, offset: int, length: int, skew: int) -> None:
    view = memory(length, skew)
    view[:] = new = DATA[1000 : 1000 + length]
    head, middle, tail = plan(offset, length, PAGE)
    with DirectFile.open(path, os.O_RDWR) as file:
        file.write(view, offset)
        assert file.stats == DirectStats(direct_bytes=middle, buffered_bytes=head + tail)
        assert cached_pages(path) <= 2
        file.sync()
    assert cached_pages(path) == 0
    assert path.read_bytes() == DATA[:offset] + new + DATA[offset + length :]


def test_appending_to_a_file_that_ends_inside_a_block(path: Path) -> None:
    with DirectFile.open(path, os.O_WRONLY) as file:
        file.write(DATA, SIZE)
        file.write(b"the end", 2 * SIZE)
    assert path.read_bytes() == DATA + DATA + b"the end"


def test_append_mode_is_refused_as_it_ignores_offsets(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    with pytest.raises(ValueError, match="append mode"):
        DirectFile(fd)
    os.close(fd)


def test_what_is_no_file_is_read_and_written_plainly() -> None:
    with pytest.warns(DirectIOWarning):
        file = DirectFile.open("/dev/null", os.O_RDWR)
    with file:
        assert file.read_into(bytearray(10)) == 0
        file.write(DATA)
        assert not file.is_direct
        assert file.stats == DirectStats(buffered_bytes=SIZE, fallbacks=1)


def test_a_file_system_that_refuses_is_read_through_the_cache_and_that_is_reported() -> None:
    stats, view = DirectStats(), memoryview(bytearray(1000))
    with pytest.warns(DirectIOWarning, match="page cache is used"):
        first = DirectFile.open("/proc/version", stats=stats)
    with first, DirectFile.open("/proc/version", stats=stats) as second:  # which does not warn
        assert not first.is_direct
        assert not second.is_direct
        count = first.read_into(view)
        assert second.read_into(view) == count
    assert view[:count] == Path("/proc/version").read_bytes()
    assert stats == DirectStats(buffered_bytes=2 * count, fallbacks=2)


@pytest.mark.parametrize("call", ["preadv", "pwrite"])
@pytest.mark.parametrize("refusal", [errno.EINVAL, errno.EOPNOTSUPP])
def test_a_refusal_in_mid_file_is_no_failure(
    path: Path, monkeypatch: pytest.MonkeyPatch, call: str, refusal: int
) -> None:
    real: Callable[..., int] = getattr(os, call)
    calls: list[int] = []

    def refuse(fd: int, data: Any, offset: int) -> int:
        calls.append(fd)
        if len(calls) == 2:
            raise OSError(refusal, "no direct I/O")
        return real(fd, data, offset)

    monkeypatch.setattr(os, call, refuse)
    view = memory(SIZE, 0)
    view[:] = DATA[::-1]
    with DirectFile.open(path, os.O_RDWR) as file:
        with pytest.warns(DirectIOWarning, match="no direct I/O"):
            file.write(view) if call == "pwrite" else file.read_into(view)
        assert file.stats == DirectStats(direct_bytes=BLOCK, buffered_bytes=SIZE - BLOCK, fallbacks=1)
    assert path.read_bytes() == bytes(view) == (DATA[::-1] if call == "pwrite" else DATA)


def test_other_errors_are_raised(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> int:
        raise OSError(errno.EIO, "broken")

    with DirectFile.open(path, os.O_RDWR) as file:
        monkeypatch.setattr(os, "preadv", fail)
        monkeypatch.setattr(os, "pwrite", fail)
        with pytest.raises(OSError, match="broken"):
            file.read_into(bytearray(10))
        with pytest.raises(OSError, match="broken"):
            file.write(DATA)
        assert file.is_direct


@pytest.mark.parametrize("skew", [0, 1])
@pytest.mark.parametrize("kind", [DirectFile, BufferedFile])
def test_short_counts_are_gone_on_from(
    path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[BufferedFile], skew: int
) -> None:
    """A system call may move less than it was asked for, of whole blocks when it is direct."""
    preadv, pwrite = os.preadv, os.pwrite

    def some(data: memoryview) -> memoryview:
        return data[: max(PAGE, len(data) // 3 // PAGE * PAGE)]

    monkeypatch.setattr(os, "preadv", lambda fd, views, at: preadv(fd, [some(views[0])], at))
    monkeypatch.setattr(os, "pwrite", lambda fd, view, at: pwrite(fd, some(memoryview(view)), at))
    view = memory(SIZE, skew)
    with kind(os.open(path, os.O_RDWR)) as file:
        assert file.read_into(view) == SIZE
        assert view == DATA
        view[:] = DATA[::-1]
        file.write(view)
        assert file.read_into(view) == SIZE
        assert view == DATA[::-1]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    writes=st.lists(
        st.tuples(st.integers(0, 5 * PAGE), st.integers(0, 4 * PAGE), st.integers(0, 2)), min_size=1, max_size=8
    )
)
def test_a_file_is_what_a_bytearray_would_be(folder: Path, writes: list[tuple[int, int, int]]) -> None:
    model = bytearray()
    with DirectFile.open(folder / "file", os.O_RDWR | os.O_CREAT | os.O_TRUNC) as file:
        for number, (offset, length, skew) in enumerate(writes):
            view = memory(length, skew)
            view[:] = bytes([number + 1]) * length
            file.write(view, offset)
            if length:
                model.extend(bytes(max(0, offset - len(model))))
                model[offset : offset + length] = view
            found = memory(len(model) + 10, skew)
            assert file.read_into(found) == len(model)
            assert found[: len(model)] == model


def test_threads_may_share_a_file_and_write_side_by_side(folder: Path) -> None:
    """Pieces that meet inside a page are the hard case: no page may be written both ways."""
    edges = [0, 1000, 5000, PAGE * 3 + 1, PAGE * 9, PAGE * 9 + 5, BLOCK - 3, BLOCK + 77, SIZE]
    for _ in range(20):
        with DirectFile.open(folder / "shared", os.O_RDWR | os.O_CREAT | os.O_TRUNC) as file:
            start = threading.Barrier(len(edges) - 1)

            def write(begin: int, end: int, file: DirectFile = file, start: threading.Barrier = start) -> None:
                start.wait()
                file.write(DATA[begin:end], begin)

            with ThreadPoolExecutor(len(edges)) as threads:
                list(threads.map(write, edges[:-1], edges[1:]))
            view = memory(SIZE, 0)
            assert file.read_into(view) == SIZE
        assert view == DATA == (folder / "shared").read_bytes()


# Alignment and bounce buffers


def test_alignment_is_the_kernels(path: Path) -> None:
    with path.open("rb") as file:
        alignment = alignment_of(file.fileno())
    assert alignment is not None
    assert alignment.memory & (alignment.memory - 1) == alignment.offset & (alignment.offset - 1) == 0
    with Path("/proc/version").open("rb") as file:
        assert alignment_of(file.fileno()) == UNKNOWN


def test_no_alignment_means_no_direct_io(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3dlio.alignment.direct.alignment_of", lambda _fd: None)
    with pytest.warns(DirectIOWarning):
        file = DirectFile.open(path)
    with file:
        assert file.read_into(bytearray(10)) == 10
        assert file.stats == DirectStats(buffered_bytes=10, fallbacks=1)


@pytest.mark.parametrize("alignment", [Alignment(4096, 4096), Alignment(4, 512), Alignment(1 << 16, 1 << 16)])
def test_a_device_with_other_rules(path: Path, monkeypatch: pytest.MonkeyPatch, alignment: Alignment) -> None:
    asked: list[tuple[int, int]] = []
    preadv = os.preadv

    def spy(fd: int, views: list[memoryview], offset: int) -> int:
        asked.extend((len(view), offset) for view in views)
        return preadv(fd, views, offset)

    monkeypatch.setattr("s3dlio.alignment.direct.alignment_of", lambda _fd: alignment)
    monkeypatch.setattr(os, "preadv", spy)
    view = memory(SIZE - 10, 0)
    with DirectFile.open(path) as file:
        assert file.read_into(view, 5) == SIZE - 10
    assert view == DATA[5:-5]
    assert asked
    assert all(number % alignment.offset == 0 for pair in asked for number in pair)


def test_bounce_buffers_are_reused_and_never_those_of_a_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    bounce = BounceBuffers()
    with bounce.borrow() as first:
        first[:5] = b"first"
    with bounce.borrow() as again, bounce.borrow() as other:
        assert bytes(again[:5]) == b"first"
        assert other[:5] == bytes(5)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with bounce.borrow() as of_a_child:
        assert of_a_child[:5] == bytes(5)


def test_a_closed_file_is_closed(path: Path) -> None:
    file = DirectFile.open(path)
    file.close()
    file.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        file.read_into(bytearray(1))


def test_reserved_space_is_covered_and_taken(folder: Path) -> None:
    with DirectFile.open(folder / "file", os.O_RDWR | os.O_CREAT) as file:
        file.reserve(5, 2 * BLOCK)
        status = os.fstat(file.fd)
        assert status.st_size == 2 * BLOCK + 5
        assert status.st_blocks * 512 >= 2 * BLOCK
        with pytest.raises(OSError, match=r"File too large|No space left"):
            file.reserve(0, 1 << 62)


def test_a_file_system_that_reserves_nothing_is_left_alone() -> None:
    with pytest.warns(DirectIOWarning):
        file = DirectFile.open("/dev/null", os.O_RDWR)
    with file:
        file.reserve(0, BLOCK)
        assert file.read_into(bytearray(1)) == 0
