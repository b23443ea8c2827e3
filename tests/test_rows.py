"""Which rows an index needs: the plan against NumPy's own indexing."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from s3dlio import rows
from s3dlio.rows import plan_rows

_ENDS = st.none() | st.integers(-6, 6)
_SLICES = st.builds(slice, _ENDS, _ENDS, st.sampled_from([None, 1, 2, -1, -3]))
_SEVERAL = st.lists(st.integers(-4, 3), max_size=3)
_MASKS = st.lists(st.booleans(), min_size=1, max_size=4)
_NUMBERS = st.builds(np.array, st.integers(-3, 2), st.sampled_from([np.int64, np.int8]))
_ENTRIES = st.one_of(
    *(st.integers(-3, 2), _SLICES, st.just(None), st.just(...), _SEVERAL, _MASKS, st.booleans(), _NUMBERS),
    *(st.just(np.array([[0, 1], [1, 0]])), st.just(np.array([1, 0], np.uint8)), st.just(np.ones((2, 2), bool))),
)
_SHAPES = st.lists(st.integers(0, 4), max_size=3)
Order = Literal["C", "F"]


def picked(array: np.ndarray[Any, Any], index: Any, order: Order) -> Any:
    plan = plan_rows(array.shape, index, array.itemsize, fortran=order == "F")
    items = array.ravel(order)
    read = [items[start // array.itemsize : end // array.itemsize] for start, end in plan.runs]
    return np.concatenate([items[:0], *read]).reshape(plan.shape, order=order)[plan.picks]


@example([3, 4], 2, "F", 0)
@example([3, 4, 2], np.s_[1:, [3, 0], 1], "F", 0)
@given(
    _SHAPES, _ENTRIES | st.lists(_ENTRIES, max_size=4).map(tuple), st.sampled_from("CF"), st.sampled_from([0, 8, 64])
)
def test_rows_are_those_that_the_index_picks(shape: list[int], index: Any, order: Order, gap: int) -> None:
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "MAX_GAP", gap)
        try:
            expected = array[index]
        except IndexError:
            with pytest.raises(IndexError):
                picked(array, index, order)
        else:
            found = picked(array, index, order)
            assert (found.shape, found.tolist()) == (expected.shape, expected.tolist())


@pytest.mark.parametrize(
    ("index", "runs"),
    [
        (np.s_[3], [(60, 80)]),
        (np.s_[-1], [(180, 200)]),
        (np.s_[2:4], [(40, 80)]),
        (np.s_[8:20], [(160, 200)]),
        (np.s_[1:8:3], [(20, 160)]),
        (np.s_[7:1:-3], [(80, 160)]),
        (np.s_[4:4], []),
        (np.s_[2:4, 1], [(40, 80)]),
        (np.s_[2, 1], [(45, 50)]),
        (np.s_[2:3, 1:3], [(45, 55)]),
        (np.s_[2, 1, 3], [(48, 49)]),
        (np.s_[2, [3, 1], 3], [(45, 60)]),
        (np.s_[[2, 2], 1], [(45, 50)]),
        (np.int64(2), [(40, 60)]),
        (np.s_[...], [(0, 200)]),
        ([1, 2], [(20, 60)]),
        ([9, 0, 9], [(0, 20), (180, 200)]),
        (np.arange(10) % 8 == 0, [(0, 20), (160, 180)]),
        (np.s_[::9], [(0, 20), (180, 200)]),
        (np.s_[::6], [(0, 140)]),
        ([6, 0], [(0, 140)]),
    ],
)
def test_no_more_is_read_than_the_rows_and_what_is_near_them(
    index: Any, runs: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "MAX_GAP", 100)
    assert plan_rows((10, 4, 5), index, 1).runs == runs
    turned = (..., *index[::-1]) if isinstance(index, tuple) else (..., index)
    if index is not ...:
        assert plan_rows((5, 4, 10), turned, 1, fortran=True).runs == runs


def test_a_plan_takes_no_longer_for_more_rows() -> None:
    plan = plan_rows((1 << 62, 0), np.s_[1:-1], 1)
    assert (plan.runs, plan.shape) == ([(0, 0)], ((1 << 62) - 2, 0))


@pytest.mark.parametrize("index", [10, -11, [3, 10], (2, -5)])
def test_a_number_outside_is_an_error_before_anything_is_read(index: Any) -> None:
    with pytest.raises(IndexError, match=r"index (10|-11|-5) is out of bounds for dimension [01] with size (10|4)"):
        plan_rows((10, 4), index, 1)
