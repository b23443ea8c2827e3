"""An array that stays in its object: what is looked at is fetched."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..rows import plan_rows
from ..stored import StoredObject
from .arrays import find_header


class LazyArray:
    """An array in an object, of which an index fetches the rows that it asks for: `rows = array[1000:1010]`.

    The first axis is that of rows (in Fortran's order the last one); of a single row the next axis is, and so on. What
    else an index says is done in memory. One that begins with an ellipsis, with `None` or with a field fetches all.
    Rows less than 64 KiB apart share a request.
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
        fortran = self._header.fortran
        plan = plan_rows(self.shape, index, self.dtype.itemsize, fortran=fortran)
        if plan.runs == [(0, self.nbytes)]:
            return np.asarray(self)[index]
        data = self._stored.gathered(plan.runs, self._header.start)
        return np.ndarray(plan.shape, self.dtype, data.data, order="F" if fortran else "C")[plan.picks]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("an array that is in an object can only be copied")
        array = self._header.array(self._stored.received(0, self._header.end).data)
        return array if dtype is None else array.astype(dtype, copy=False)

    def __repr__(self) -> str:
        return f"<LazyArray {self._stored.uri} shape={self.shape} dtype={self.dtype}>"
