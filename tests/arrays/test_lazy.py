"""Lazy arrays are indexed as numpy's are, and move no more than the rows that are asked for."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import s3dlio
import s3dlio.numpy
from s3dlio import Config, ObjectChangedError, rows
from s3dlio.numpy import LazyArray
from s3dlio.numpy.arrays import find_object
from s3dlio.urls import Uri

from ..watched import WatchedStore
from .content import facts, file_of

URI = "memory://lazy/array.npy"
ROWS = np.arange(1000 * 32, dtype="<i4").reshape(1000, 32)


def lazy_one(array: Any) -> tuple[LazyArray, WatchedStore]:
    store = WatchedStore(Uri("memory", "watched", ""), Config())
    store.put("array.npy", file_of(np.save, array))
    lazy = LazyArray(find_object(store, "array.npy"))
    store.watched.reads.clear()
    return lazy, store


def received() -> int:
    return sum(endpoint.received for endpoint in s3dlio.stats().endpoints)


def moved(store: WatchedStore) -> int:
    return sum(end - start for start, end in store.watched.ranges)


@st.composite
def indices(draw: st.DrawFn, shape: tuple[int, ...]) -> Any:
    """Of every kind that numpy takes, and of some that it does not."""
    basic = hnp.basic_indices(shape, allow_newaxis=True)
    fancy = hnp.integer_array_indices(shape) if 0 not in shape and shape else st.nothing()
    mask = hnp.arrays(bool, shape[:1] if draw(st.booleans()) else shape)
    part = (
        st.integers(-6, 6)
        | st.slices(6)
        | st.lists(st.integers(-2, 1), max_size=3)
        | st.sampled_from([None, ..., True, np.array(True)])
    )
    return draw(basic | fancy | mask | st.lists(part, max_size=4).map(tuple))


@given(st.data(), st.sampled_from("CF"), st.sampled_from([0, 4, 10_000]))
def test_an_index_means_what_it_means_to_numpy(data: st.DataObject, order: Any, gap: int) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6))
    array = np.array(np.arange(np.prod(shape, dtype=int), dtype="<i2").reshape(shape), order=order)
    index = data.draw(indices(shape))
    s3dlio.put(URI, file_of(np.save, array))
    lazy = s3dlio.numpy.load(URI, mmap_mode="r")
    try:
        expected = array[index]
    except (IndexError, ValueError) as error:
        with pytest.raises(type(error)):
            lazy[index]
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "MAX_GAP", gap)
        found = lazy[index]
    assert np.shape(found) == np.shape(expected)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("index", "count", "requests"),
    [
        (7, 1, 1),
        (-1, 1, 1),
        (slice(10, 20), 10, 1),
        ((slice(10, 20), slice(3), None), 10, 1),
        (slice(20, 10, -1), 10, 1),
        (slice(None, None, 500), 2, 2),
        ([999, 3, 4, 3], 3, 2),
        (np.arange(1000) % 500 == 0, 2, 2),
        (slice(5, 5), 0, 0),
        (([1, 2], [3, 4]), 2, 1),
    ],
)
@pytest.mark.parametrize("order", "CF")
def test_rows_that_are_not_asked_for_stay_where_they_are(
    index: Any, count: int, requests: int, order: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "MAX_GAP", 4096)
    array = np.asfortranarray(ROWS.T) if order == "F" else ROWS
    if order == "F":
        index = index[1::-1] if isinstance(index, tuple) else (slice(None), index)
    lazy, store = lazy_one(array)
    assert np.array_equal(lazy[index], array[index])
    assert (moved(store), len(store.watched.reads)) == (count * 128, requests)


@pytest.mark.parametrize(
    "index",
    [(None, 1, 2), (True, 1, 2), (np.array(True), 1, 2), (..., 2), (1, 2), (None, ..., 2), (1, ..., None, [0, 2])],
)
def test_the_last_axis_is_that_of_rows_where_the_index_reaches_it(index: Any) -> None:
    array = np.arange(60).reshape(3, 4, 5, order="F")
    lazy, _ = lazy_one(array)
    assert np.array_equal(lazy[index], array[index])


def test_rows_that_are_near_share_a_request() -> None:
    lazy, store = lazy_one(ROWS)
    assert np.array_equal(lazy[::100], ROWS[::100])
    assert np.array_equal(lazy[[500, 0]], ROWS[[500, 0]])
    assert store.watched.ranges == [(128, 128 + 901 * 128), (128, 128 + 501 * 128)]


def test_large_rows_are_fetched_in_parts() -> None:
    store = WatchedStore(Uri("memory", "watched", ""), Config(part_size=10_000))
    store.put("array.npy", file_of(np.save, ROWS))
    lazy = LazyArray(find_object(store, "array.npy"))
    store.watched.reads.clear()
    assert np.array_equal(lazy[100:300], ROWS[100:300])
    assert [end - start for start, end in store.watched.ranges] == [10_000, 10_000, 5600]


def test_a_row_of_a_large_array_on_each_kind_of_store(folder: str) -> None:
    array = np.arange(1 << 18, dtype="<f8").reshape(64, -1)
    s3dlio.numpy.save(f"{folder}large.npy", array)
    lazy = s3dlio.numpy.load(f"{folder}large.npy", mmap_mode="r")
    before = received()
    assert np.array_equal(lazy[5], array[5])
    assert received() - before == (array.nbytes // 64 if folder.startswith("s3:") else 0)  # others have no endpoint
    assert facts(np.asarray(lazy)) == facts(array)


def test_it_looks_like_an_array() -> None:
    array = np.asfortranarray(np.ones((3, 4), "<f4"))
    s3dlio.put(URI, file_of(np.save, array))
    lazy = pickle.loads(pickle.dumps(s3dlio.numpy.load(URI, mmap_mode="r")))
    same = ("shape", "dtype", "ndim", "size", "nbytes")
    assert [getattr(lazy, name) for name in same] == [getattr(array, name) for name in same]
    assert (len(lazy), [row.tolist() for row in lazy]) == (3, array.tolist())
    assert repr(lazy) == f"<LazyArray {URI} shape=(3, 4) dtype=float32>"
    assert np.asarray(lazy, "f8").dtype == "f8"
    with pytest.raises(ValueError, match="only be copied"):
        np.array(lazy, copy=False)
    s3dlio.put(URI, file_of(np.save, np.array(3)))
    scalar = s3dlio.numpy.load(URI, mmap_mode="r")
    assert scalar[()] == 3
    with pytest.raises(TypeError, match="unsized"):
        len(scalar)


def test_fields_are_fetched_with_all_else() -> None:
    array = np.array([(1, 2.0), (3, 4.0)], [("a", "<i4"), ("b", "<f8")])
    s3dlio.put(URI, file_of(np.save, array))
    lazy = s3dlio.numpy.load(URI, mmap_mode="r")
    assert lazy["b"].tolist() == [2, 4]
    assert lazy[["b", "a"]].tolist() == [(2, 1), (4, 3)]
    assert lazy[1].tolist() == (3, 4)


def test_one_that_was_replaced_is_an_error_and_no_mixture(folder: str) -> None:
    s3dlio.numpy.save(f"{folder}array.npy", np.zeros(100_000))
    lazy = s3dlio.numpy.load(f"{folder}array.npy", mmap_mode="r")
    s3dlio.numpy.save(f"{folder}array.npy", np.ones(100_000))
    with pytest.raises(ObjectChangedError):
        lazy[90_000:]
