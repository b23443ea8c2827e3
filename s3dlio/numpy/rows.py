"""Which rows of an array an index asks for, and where they lie. Pure.

Rows are the slices along the axis by which an array is stored: the first one, or the last in Fortran's order.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import KiB

MAX_GAP = 64 * KiB
"""Bytes that are rather read than left out: a request takes as long as they do."""

Rows = int | range | NDArray[np.intp]
"""One row; or some in the order asked for: an array may have more than one dimension, and the same row twice."""

Run = tuple[int, int]
"""Rows from the first to the second, which is not one of them."""


def rows_asked(index: Any, axis: int, shape: Sequence[int]) -> Rows | None:
    """The rows that `index`, one that numpy takes, asks for; `None` where it cannot be told from what it has for them.

    `axis`, 0 or -1, is that of the rows in an array of `shape`.
    """
    parts = parts_of(index)
    if not shape or not parts:
        return None
    if axis == -1 and not _reaches_last_axis(parts, len(shape)):
        return None
    return _rows_of(parts[axis], shape[axis])


def parts_of(index: Any) -> list[Any]:
    """What `index` has for each axis."""
    return list(index) if isinstance(index, tuple) else [index]


def _reaches_last_axis(parts: Sequence[Any], ndim: int) -> bool:
    if any(part is Ellipsis for part in parts):
        return True
    return len(parts) == ndim and not any(map(_is_of_no_axis, parts))


def _is_of_no_axis(part: Any) -> bool:
    """Whether it is `None`, or true or false."""
    return not isinstance(part, slice) and np.ndim(part) == 0 and np.asarray(part).dtype.kind in "bO"


def _rows_of(part: Any, length: int) -> Rows | None:
    if isinstance(part, slice):
        return range(length)[part]
    asked = np.asarray(part)
    if asked.dtype.kind == "b":
        return np.flatnonzero(asked) if asked.ndim == 1 else None
    if asked.dtype.kind not in "iu" and (asked.size or not asked.ndim):
        return None
    rows = asked.astype(np.intp)
    rows = np.where(rows < 0, rows + length, rows)
    return int(rows) if rows.ndim == 0 else rows


def plan_runs(rows: Rows, row_size: int) -> list[Run]:
    """The runs that hold `rows`, each of `row_size` bytes: those that are no more than `MAX_GAP` apart are in one."""
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


def places(rows: Rows, runs: Sequence[Run]) -> int | slice | NDArray[np.intp]:
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
