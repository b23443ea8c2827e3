"""Arrays in objects of their own are those that numpy writes and reads."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import s3dlio
import s3dlio.numpy
from s3dlio import Config, FormatError, NotFoundError, UnsupportedError, stored
from s3dlio.alignment.allocator import CachingAllocator
from s3dlio.alignment.buffers import size_class
from s3dlio.config import MiB
from s3dlio.numpy.arrays import find_object, read_array
from s3dlio.urls import Uri

from ..watched import WatchedStore
from .content import ARRAYS, damaged, facts, file_of

URI = "memory://npy/array.npy"
LARGE = np.arange(3 * MiB // 4, dtype="<u4").reshape(512, -1)


@given(ARRAYS)
def test_what_numpy_writes_is_loaded_and_what_is_saved_numpy_reads(array: NDArray[Any]) -> None:
    s3dlio.put(URI, file_of(np.save, array))
    loaded = s3dlio.numpy.load(URI)
    assert facts(loaded) == facts(np.load(io.BytesIO(s3dlio.get(URI))))
    assert (loaded.flags.writeable, loaded.flags.aligned) == (True, True)
    s3dlio.numpy.save(URI, array)
    assert s3dlio.get(URI) == file_of(np.save, array)


def test_a_large_one_on_each_kind_of_store(folder: str) -> None:
    config = Config(part_size=MiB)
    for array in (LARGE, np.asfortranarray(LARGE)):
        s3dlio.numpy.save(f"{folder}large.npy", array, config=config)
        assert facts(s3dlio.numpy.load(f"{folder}large.npy", config=config)) == facts(array)
    with pytest.raises(NotFoundError):
        s3dlio.numpy.load(f"{folder}absent.npy")


@pytest.mark.parametrize(("count", "requests"), [(100, 1), (300_000, 2)])
def test_a_small_one_is_one_request(count: int, requests: int) -> None:
    store = WatchedStore(Uri("memory", "watched", ""), Config())
    store.put("array.npy", file_of(np.save, np.arange(count)))
    assert read_array(find_object(store, "array.npy"), allow_pickle=False).size == count
    assert len(store.watched.reads) == requests


def test_its_memory_comes_back_when_it_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    made = CachingAllocator(64 * MiB)
    monkeypatch.setattr(stored, "allocator", lambda: made)
    s3dlio.numpy.save(URI, np.zeros(5 * MiB, "u1"))
    row = s3dlio.numpy.load(URI)[5:]
    assert (made.kept, row.ctypes.data % 4096) == (0, 128 + 5)
    del row
    assert made.kept == size_class(5 * MiB + 128)


def test_objects_are_loaded_where_that_is_allowed() -> None:
    objects = np.array([{"a": 1}, None], object)
    s3dlio.numpy.save(URI, objects)
    for mode in (None, "r"):
        with pytest.raises(ValueError, match=r"allow_pickle=False|one pickle"):
            s3dlio.numpy.load(URI, mmap_mode=mode)
    assert s3dlio.numpy.load(URI, allow_pickle=True).tolist() == objects.tolist()


def test_headers_of_all_versions() -> None:
    names = [(f"field {number}", "u1") for number in range(9000)]
    fields: tuple[Any, ...] = ([("a", "u1")], [("\u4e2d\\", "u1"), ("\U0001f600'", "f2")], names[:200], names)
    for dtype in fields:
        with warnings.catch_warnings(action="ignore"):  # it warns of versions that old ones of it cannot read
            data = file_of(np.save, np.ones(2, dtype))
        s3dlio.put(URI, data)
        trusted = len(data) > 10_000
        assert facts(s3dlio.numpy.load(URI, allow_pickle=trusted)) == facts(np.ones(2, dtype))
        if trusted:
            with pytest.raises(FormatError, match="allow_pickle"):
                s3dlio.numpy.load(URI)


def test_an_array_that_is_not_aligned_is_moved() -> None:
    head = file_of(np.save, np.arange(3.0))[:-24]
    odd = head[:8] + (len(head) - 9).to_bytes(2, "little") + head[10:-1] + b" \n"
    s3dlio.put(URI, odd + np.arange(3.0).tobytes())
    loaded = s3dlio.numpy.load(URI)
    assert (loaded.tolist(), loaded.flags.aligned) == ([0, 1, 2], True)


def header(text: str, length: int | None = None, version: int = 1) -> bytes:
    size = (len(text) if length is None else length).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + size + text.encode()


def described(shape: str, descr: str = "'<f8'") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        b"no array at all",
        header(described("(3,)"))[:-9] + b"\0" * 24,
        header(described("(1,)")) + b"\0" * 7,
        header(described("(-1,)")) + b"\0" * 8,
        header(described("(True, 2)")) + b"\0" * 8,
        header(described("(100000000000000,)")) + b"\0" * 8,
        header(described("(4294967296, 4294967296, 4294967296)")) + b"\0" * 8,
        header(described(f"({'9' * 30},)")) + b"\0" * 8,
        header(described(f"({'1, ' * 99})")) + b"\0" * 8,
        header(described("(1099511627776, 1099511627776, 0)")),
        header(described("(1,)", "('<f4', (2,))")) + b"\0" * 8,
        header(described("(1,)", "'<f9'")) + b"\0" * 8,
        header(described("(1,)", "[('a', '<f4'), ('a', '<f4')]")) + b"\0" * 8,
        header("(" * 9000),
        header("-" * 9000),
        header("{" + "\0" * 20),
        header(described("(1,)"), 0xFFFFFFFF, version=2) + b"\0" * 8,
        header(described("(1,)").replace("f8", "\xff"), version=3) + b"\0" * 8,
        header(described("(1,)"), version=4) + b"\0" * 8,
    ],
)
def test_what_is_no_array_is_a_format_error(data: bytes) -> None:
    s3dlio.put(URI, data)
    for load in (s3dlio.numpy.load, lambda uri: s3dlio.numpy.load(uri, mmap_mode="r")):
        with pytest.raises(FormatError) as caught:
            load(URI)
        assert (caught.value.bucket, caught.value.key) == ("npy", "array.npy")


def as_numpy_has_it(data: bytes) -> tuple[Any, ...] | None:
    try:
        return facts(np.load(io.BytesIO(data)))
    except Exception:  # whatever a stranger's bytes do to it
        return None


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@given(st.data())
def test_a_damaged_one_is_an_error_or_what_numpy_reads(data: st.DataObject) -> None:
    found = data.draw(damaged(file_of(np.save, np.arange(6, dtype="<i2").reshape(2, 3))))
    s3dlio.put(URI, found)
    try:
        loaded = facts(s3dlio.numpy.load(URI))
    except ValueError:
        return
    assert loaded == as_numpy_has_it(found)


def test_there_is_no_writing_in_place() -> None:
    s3dlio.numpy.save(URI, LARGE)
    with pytest.raises(UnsupportedError, match="not written in place"):
        s3dlio.numpy.load(URI, mmap_mode="r+")  # type: ignore[call-overload]
