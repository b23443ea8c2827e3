"""Arrays in zips are those that numpy writes and reads."""

from __future__ import annotations

import io
import pickle
import zipfile
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import s3dlio
import s3dlio.numpy
from s3dlio import ChecksumError, Config, FormatError, ObjectChangedError, UnsupportedError
from s3dlio.config import MiB
from s3dlio.numpy.arrays import find_object
from s3dlio.numpy.npz import NpzFile
from s3dlio.urls import Uri

from ..watched import WatchedStore
from .content import ARRAYS, damaged, facts, file_of

URI = "memory://npz/arrays.npz"
NAMES = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="/\0"), min_size=1, max_size=5)
SAVES: dict[bool, tuple[Any, Any]] = {
    True: (s3dlio.numpy.savez_compressed, np.savez_compressed),
    False: (s3dlio.numpy.savez, np.savez),
}


@settings(max_examples=30)
@given(st.lists(ARRAYS, max_size=2), st.dictionaries(NAMES.map("k".__add__), ARRAYS, max_size=3), st.booleans())
def test_what_numpy_writes_is_loaded_and_what_is_saved_numpy_reads(
    unnamed: list[NDArray[Any]], named: dict[str, NDArray[Any]], compressed: bool
) -> None:
    ours, theirs = SAVES[compressed]
    ours(URI, *unnamed, **named)
    with np.load(io.BytesIO(s3dlio.get(URI))) as saved:
        expected = {name: facts(saved[name]) for name in saved.files}
    assert len(expected) == len(unnamed) + len(named)
    for data in (s3dlio.get(URI), file_of(theirs, *unnamed, **named)):
        s3dlio.put(URI, data)
        with s3dlio.numpy.load(URI) as loaded:
            assert {name: facts(array) for name, array in loaded.items()} == expected
            assert loaded.files == list(loaded) == list(expected)


def test_large_ones_on_each_kind_of_store(folder: str) -> None:
    config = Config(part_size=MiB)
    large, small = np.arange(MiB // 2, dtype="<f8"), np.ones((2, 3), "<f4", order="F")
    for save in (s3dlio.numpy.savez, s3dlio.numpy.savez_compressed):
        save(f"{folder}large.npz", large=large, small=small, config=config)
        loaded = pickle.loads(pickle.dumps(s3dlio.numpy.load(f"{folder}large.npz", config=config)))
        assert (facts(loaded["large"]), facts(loaded["small.npy"])) == (facts(large), facts(small))
        assert (loaded["large"].flags.writeable, loaded["large"].ctypes.data % 64) == (True, 0)
        assert ("small" in loaded, "small.npy" in loaded, "absent" in loaded, len(loaded)) == (True, True, False, 2)
        assert repr(loaded) == f"<NpzFile {folder}large.npz with keys: large, small>"
        with pytest.raises(KeyError, match="absent"):
            loaded["absent"]


def test_an_array_is_one_request_and_others_stay_where_they_are() -> None:
    store = WatchedStore(Uri("memory", "watched", ""), Config())
    arrays = {f"a{number}": np.full(100_000, number, "<i4") for number in range(3)}
    store.put("arrays.npz", file_of(np.savez, **arrays))
    loaded = NpzFile(find_object(store, "arrays.npz"), allow_pickle=False)
    assert len(store.watched.reads) == 2
    assert facts(loaded["a1"]) == facts(arrays["a1"])
    (_, _, (start, end)) = store.watched.ranges
    assert end - start < 400_000 + 300


def test_members_that_are_no_arrays_are_bytes_and_objects_need_leave() -> None:
    objects = np.array([{"a": 1}], object)
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("text", "hello")
        archive.writestr("empty", b"")
        archive.writestr("objects.npy", file_of(np.save, objects))
    s3dlio.put(URI, data.getvalue())
    loaded = s3dlio.numpy.load(URI)
    assert (loaded["text"], loaded["empty"]) == (b"hello", b"")
    with pytest.raises(ValueError, match="allow_pickle=False"):
        loaded["objects"]
    assert s3dlio.numpy.load(URI, allow_pickle=True)["objects"].tolist() == objects.tolist()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_wrong_byte_is_seen(save: Any) -> None:
    data = bytearray(file_of(save, a=np.arange(100_000)))
    data[len(data) // 2] ^= 1
    s3dlio.put(URI, bytes(data))
    with pytest.raises((ChecksumError, FormatError), match=r"member 'a\.npy' does not"):
        s3dlio.numpy.load(URI)["a"]


def test_other_methods_are_refused() -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a.npy", file_of(np.save, np.arange(5)))
    s3dlio.put(URI, data.getvalue())
    with pytest.raises((UnsupportedError, FormatError), match=r"a\.npy"):
        s3dlio.numpy.load(URI)["a"]


def test_one_that_was_replaced_is_an_error_and_no_mixture(folder: str) -> None:
    s3dlio.numpy.savez(f"{folder}arrays.npz", a=np.zeros(100_000))
    loaded = s3dlio.numpy.load(f"{folder}arrays.npz")
    s3dlio.numpy.savez(f"{folder}arrays.npz", a=np.ones(100_000))
    with pytest.raises(ObjectChangedError):
        loaded["a"]


def arrays_of(file: Any) -> dict[str, tuple[Any, ...]]:
    return {name: facts(array) if isinstance(array := file[name], np.ndarray) else array for name in file.files}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@given(st.data(), st.booleans())
def test_a_damaged_one_is_an_error_or_what_numpy_reads(data: st.DataObject, compressed: bool) -> None:
    found = data.draw(damaged(file_of(SAVES[compressed][1], a=np.arange(6), bc=np.ones((2, 3), "<f4"))))
    s3dlio.put(URI, found)
    try:
        loaded = s3dlio.numpy.load(URI)
        if isinstance(loaded, NpzFile):
            contents = arrays_of(loaded)
            assert contents == arrays_of(np.load(io.BytesIO(found)))
    except (s3dlio.StoreError, ValueError):
        pass
