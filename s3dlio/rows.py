"""Which bytes of an array an index needs: a pure plan, so that no more of it is moved.

Rows are the slices along the axis by which an array is stored: the first one, or the last in Fortran's order.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .config import KiB

MAX_GAP = 64 * KiB
"""Bytes that are rather read than left out: a request takes as long as they do."""

Rows = int | range | NDArray[np.intp]
"""One row; or some in the order asked for: an array may have more than one dimension, and the same row twice."""

Run = tuple[int, int]
"""From the first to the second, which is not in it."""


class Plan(NamedTuple):
    """Bytes in `runs`, counted from the array's first, are one after the other an array of `shape`.

    That, in the order of the whole one, is to be indexed by `picks`.
    """

    runs: list[Run]
    shape: tuple[int, ...]
    picks: tuple[Any, ...]


def plan_rows(shape: Sequence[int], index: Any, item_size: int, *, fortran: bool = False) -> Plan:
    """What has to be read for `array[index]` of an array of this `shape`, of items of `item_size` bytes.

    Rows are picked by a number, a slice, several numbers or a mask of one dimension; of a single row its own are, and
    so on. The rest of the index is for memory. `fortran` says by which axis the array is stored. What is no more than
    `MAX_GAP` apart is in one run. Errors: `IndexError` for a number outside.
    """
    entries = [*index] if isinstance(index, tuple) else [index]
    start, left = 0, [*shape]
    runs = [(0, prod(shape) * item_size)]
    for axis in _axes(entries, len(shape), fortran=fortran):
        rows = _rows_of(entries[axis], axis, shape[axis])
        if rows is None:
            break
        size = prod(shape[:axis] if fortran else shape[axis + 1 :]) * item_size
        held = _runs_of(rows, size)
        runs = [(start + first * size, start + stop * size) for first, stop in held]
        left[axis] = sum(stop - first for first, stop in held)
        entries[axis] = _places(rows, held)
        if left[axis] != 1:
            break
        start = runs[0][0]
    return Plan(runs, tuple(left), tuple(entries))


def _axes(entries: Sequence[Any], ndim: int, *, fortran: bool) -> range:
    """Those whose rows `entries` may pick, each at its own place among them, the outermost first."""
    count = min(len(entries), ndim)
    if not fortran:
        return range(count)
    return range(-1, -1 - count, -1) if _reaches_last_axis(entries, ndim) else range(0)


def _reaches_last_axis(entries: Sequence[Any], ndim: int) -> bool:
    if any(entry is Ellipsis for entry in entries):
        return True
    return len(entries) == ndim and not any(map(_is_of_no_axis, entries))


def _is_of_no_axis(entry: Any) -> bool:
    """Whether it is `None`, or true or false."""
    return not isinstance(entry, slice) and np.ndim(entry) == 0 and np.asarray(entry).dtype.kind in "bO"


def _rows_of(entry: Any, axis: int, length: int) -> Rows | None:
    """The rows that `entry` picks; `None` where it cannot be told from that, or picks other than rows."""
    if isinstance(entry, slice):
        return range(length)[entry]
    asked = np.asarray(entry)
    if asked.dtype.kind == "b":
        return np.flatnonzero(asked) if asked.shape == (length,) else None
    if asked.dtype == np.uint8 and asked.ndim:  # numbers to NumPy, a mask to PyTorch
        return None
    if asked.dtype.kind not in "iu" and (asked.size or not asked.ndim):
        return None
    return _counted(asked.astype(np.intp), axis, length)


def _counted(rows: NDArray[np.intp], axis: int, length: int) -> int | NDArray[np.intp]:
    """`rows`, those from the end on counted from the beginning."""
    outside = rows[(rows < -length) | (rows >= length)]
    if outside.size:
        raise IndexError(f"index {outside[0]} is out of bounds for dimension {axis} with size {length}")
    rows = np.where(rows < 0, rows + length, rows)
    return int(rows) if rows.ndim == 0 else rows


def _runs_of(rows: Rows, row_size: int) -> list[Run]:
    """The runs of rows, each of `row_size` bytes, that hold `rows`."""
    if isinstance(rows, int):
        return [(rows, rows + 1)]
    if isinstance(rows, range):
        ordered = rows if rows.step > 0 else rows[::-1]
        if not ordered or (ordered.step - 1) * row_size <= MAX_GAP:
            return [(ordered[0], ordered[-1] + 1)] if ordered else []
        return [(row, row + 1) for row in ordered]
    unique = np.unique(rows)
    breaks = np.flatnonzero((np.diff(unique) - 1) * row_size > MAX_GAP) + 1
    ends = [0, *breaks.tolist(), len(unique)]
    return [(int(unique[first]), int(unique[stop - 1]) + 1) for first, stop in pairwise(ends) if first < stop]


def _places(rows: Rows, runs: Sequence[Run]) -> int | slice | NDArray[np.intp]:
    """Where `rows` are among those of their `runs`, which lie one after the other: what to index these by."""
    if isinstance(rows, int):
        return 0
    if isinstance(rows, range):
        step = rows.step if len(runs) == 1 else 1 if rows.step > 0 else -1
        return slice(None, None, step)
    firsts = np.array([first for first, _ in runs], np.intp)
    lengths = np.array([stop - first for first, stop in runs], np.intp)
    number = np.searchsorted(firsts, rows, side="right") - 1
    before: NDArray[np.intp] = np.cumsum(lengths) - lengths
    return rows - firsts[number] + before[number]
