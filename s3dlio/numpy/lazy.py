"""An array that stays in its object: what is looked at is fetched."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..blocking.memory import allocator
from ..parts import plan_ranges
from ..slices import pin_of
from .arrays import StoredObject, find_header
from .rows import Run, parts_of, places, plan_runs, rows_asked


class LazyArray:
    """An array in an object, of which an index fetches the rows that it asks for: `rows = array[1000:1010]`.

    The first axis is that of rows (in Fortran's order the last one); what else an index says is done in memory. One
    that begins with an ellipsis, with `None` or with a field fetches all. Rows less than 64 KiB apart share a request.
    `numpy.asarray` of it is all of the array. Nothing is kept: who looks twice fetches twice. It is held to the version
    that was there when it was made, and can be pickled; one is made by :func:`s3dlio.numpy.load`, of what is `stored`.

    Errors of an index: `IndexError`, as numpy has it; `ObjectChangedError`; `StoreError`.
    """

    def __init__(self, stored: StoredObject) -> None:
        self._stored = stored.without_head()
        self._header = find_header(stored, allow_pickle=False)
        if self._header.dtype.hasobject:
            raise ValueError("an array of Python objects cannot be read by parts: they are one pickle")

    @property
    def shape(self) -> tuple[int, ...]:
        """Its length along each axis."""
        return self._header.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of its items."""
        return self._header.dtype

    @property
    def ndim(self) -> int:
        """How many axes it has."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """How many items it has."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The size of its items in bytes."""
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of unsized object")
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        one_item = np.empty((), self.dtype if self.dtype.names else np.uint8)
        np.broadcast_to(one_item, self.shape)[index]  # numpy's own errors, before anything is fetched
        axis = -1 if self._header.fortran else 0
        rows = rows_asked(index, axis, self.shape)
        if rows is None:
            return np.asarray(self)[index]
        runs = plan_runs(rows, self._row_size)
        parts = parts_of(index)
        parts[axis] = places(rows, runs)
        return self._fetched(runs)[tuple(parts)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("an array that is in an object can only be copied")
        array = self._header.array(self._stored.received(0, self._header.end))
        return array if dtype is None else array.astype(dtype, copy=False)

    @property
    def _stored_shape(self) -> tuple[int, ...]:
        """With the axis of rows first."""
        return self.shape[::-1] if self._header.fortran else self.shape

    @property
    def _row_size(self) -> int:
        return math.prod(self._stored_shape[1:]) * self.dtype.itemsize

    def _fetched(self, runs: Sequence[Run]) -> NDArray[Any]:
        """The rows of `runs`, one after the other."""
        count = sum(stop - first for first, stop in runs)
        memory = allocator().allocate(count * self._row_size)
        pieces = self._pieces(runs, memory.data)
        key, pin = self._stored.meta.key, pin_of(self._stored.meta)
        self._stored.store.call(lambda store: store.get_pieces(key, pieces, if_match=pin))
        array: NDArray[Any] = np.ndarray((count, *self._stored_shape[1:]), self.dtype, memory.data)
        return array.T if self._header.fortran else array

    def _pieces(self, runs: Sequence[Run], memory: memoryview) -> Iterator[tuple[int, memoryview]]:
        """A request each: where it begins, and the memory that it fills."""
        filled, size = 0, self._row_size
        for first, stop in runs:
            for start, end in plan_ranges(first * size, stop * size, self._stored.store.config.part_size):
                yield self._header.start + start, memory[filled : filled + end - start]
                filled += end - start

    def __repr__(self) -> str:
        return f"<LazyArray {self._stored.uri} shape={self.shape} dtype={self.dtype}>"
