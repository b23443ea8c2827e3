"""Which rows an index needs: the plan against NumPy's own indexing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3dlio.safetensors.rows import plan_rows

_ENDS = st.none() | st.integers(-6, 6)
_SLICES = st.builds(slice, _ENDS, _ENDS, st.sampled_from([None, 1, 2, -1, -3]))
_ENTRIES = st.one_of(st.integers(-3, 2), _SLICES, st.just(None), st.just(...), st.just([0, 0]), st.booleans())
_SHAPES = st.lists(st.integers(0, 4), max_size=3)


def picked(array: np.ndarray[Any, Any], index: Any) -> Any:
    rows = plan_rows(array.shape, index)
    return array.reshape(-1)[rows.start : rows.end].reshape(rows.shape)[rows.picks]


@given(_SHAPES, _ENTRIES | st.lists(_ENTRIES, max_size=4).map(tuple))
def test_rows_are_those_that_the_index_picks(shape: list[int], index: Any) -> None:
    array = np.arange(np.prod(shape)).reshape(shape)
    try:
        expected = array[index]
    except IndexError:
        with pytest.raises(IndexError):
            picked(array, index)
    else:
        found = picked(array, index)
        assert (found.shape, found.tolist()) == (expected.shape, expected.tolist())


@pytest.mark.parametrize(
    ("index", "start", "end"),
    [
        (np.s_[3], 60, 80),
        (np.s_[-1], 180, 200),
        (np.s_[2:4], 40, 80),
        (np.s_[8:20], 160, 200),
        (np.s_[1:8:3], 20, 160),
        (np.s_[7:1:-3], 80, 160),
        (np.s_[4:4], 0, 0),
        (np.s_[2:4, 1], 40, 80),
        (np.s_[2, 1], 45, 50),
        (np.s_[2:3, 1:3], 45, 55),
        (np.s_[2, 1, 3], 48, 49),
        (np.int64(2), 40, 60),
        (np.s_[...], 0, 200),
        ([1, 2], 0, 200),
    ],
)
def test_no_more_is_read_than_lies_between_the_first_and_the_last(index: Any, start: int, end: int) -> None:
    rows = plan_rows((10, 4, 5), index)
    assert (rows.start, rows.end) == (start, end)


def test_a_plan_takes_no_longer_for_more_rows() -> None:
    rows = plan_rows((1 << 62, 0), np.s_[1:-1])
    assert (rows.start, rows.end, rows.shape) == (0, 0, ((1 << 62) - 2, 0))


def test_a_number_outside_is_an_error_before_anything_is_read() -> None:
    with pytest.raises(IndexError, match="index 10 is out of bounds for dimension 0 with size 10"):
        plan_rows((10, 4), 10)
