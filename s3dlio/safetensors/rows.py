"""Which bytes of a tensor an index needs: a pure plan, so that no more of it is moved."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from numbers import Integral
from typing import Any, NamedTuple


class Rows(NamedTuple):
    """Numbers `start` to `end` (exclusive) of a tensor, row-major, are those of `shape`, to be indexed by `picks`."""

    start: int
    end: int
    shape: tuple[int, ...]
    picks: tuple[Any, ...]


def plan_rows(shape: Sequence[int], index: Any) -> Rows:
    """What of a tensor of this `shape` has to be read for `tensor[index]`.

    Numbers and slices are followed from the first dimension on, for as long as what they leave lies side by side; the
    rest of the index is for memory. Errors: `IndexError` for a number outside.
    """
    entries = [*index] if isinstance(index, tuple) else [index]
    start, left = 0, [*shape]
    for axis, entry in enumerate(entries[: len(shape)]):
        picked = _picked(shape[axis], axis, entry)
        if picked is None:
            break
        first, last = sorted((picked[0], picked[-1])) if picked else (0, -1)
        start += first * prod(shape[axis + 1 :])
        left[axis] = last - first + 1
        entries[axis] = slice(None, None, entry.step) if isinstance(entry, slice) else 0
        if left[axis] != 1:
            break
    return Rows(start, start + prod(left), tuple(left), tuple(entries))


def _picked(length: int, axis: int, entry: Any) -> range | None:
    """The positions of a dimension that `entry` picks; `None` for what is neither a number nor a slice."""
    if isinstance(entry, slice):
        return range(length)[entry]
    if isinstance(entry, bool) or not isinstance(entry, Integral):
        return None
    number = int(entry)
    if not -length <= number < length:
        raise IndexError(f"index {number} is out of bounds for dimension {axis} with size {length}")
    return range(number % length, number % length + 1)
