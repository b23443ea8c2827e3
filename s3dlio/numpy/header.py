"""The header of an `.npy` object: which array follows it, and where. Pure.

Source: NEP 1, "A Simple File Format for NumPy Arrays", with versions 2.0 and 3.0 as :mod:`numpy.lib.format` has them;
it reads what is between the braces.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ..config import KiB
from ..errors import ErrorContext, FormatError, shown

MAGIC = npy.MAGIC_PREFIX
FIRST = 64 * KiB
"""Bytes to begin with: nearly every header is in them, and many a whole array."""

_TRUSTED = 1 << 30
_UNTRUSTED = 10_000  # numpy's own limit: what is longer may be more than Python's parser can bear
_LENGTHS = {1: 2, 2: 4, 3: 4}


@dataclass(frozen=True, slots=True)
class Header:
    """An array of `shape` and `dtype`, from byte `start` on, in Fortran's order where `fortran` says so."""

    start: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool

    @property
    def end(self) -> int:
        """Where the array ends, in bytes."""
        return self.start + math.prod(self.shape) * self.dtype.itemsize

    def array(self, content: memoryview) -> NDArray[Any]:
        """The array in `content`, which is the object from its beginning: a view where that is aligned."""
        order: Literal["C", "F"] = "F" if self.fortran else "C"
        array: NDArray[Any] = np.ndarray(self.shape, self.dtype, content, self.start, order=order)
        return array if array.flags.aligned else array.copy(order="K")


def header_end(head: bytes, context: ErrorContext) -> int:
    """The length of the header in bytes, as `head`, the first of them, tells it. Errors: `FormatError`."""
    width = _LENGTHS.get(head[6], 0) if len(head) > 8 and head.startswith(MAGIC) else 0
    if not width:
        raise FormatError("this is no .npy of version 1, 2 or 3", context)
    return 8 + width + int.from_bytes(head[8 : 8 + width], "little")


def parse_header(head: bytes, context: ErrorContext, *, trusted: bool = False) -> Header:
    """The header that `head` begins with, whole. One of a `trusted` object may be longer than 10,000 bytes.

    Errors: `FormatError`.
    """
    end = header_end(head, context)
    try:
        if end > len(head):
            raise ValueError(f"it would end at byte {end}, and {len(head)} are there or allowed without allow_pickle")
        shape, fortran, dtype = _read(head[:end], _TRUSTED if trusted else _UNTRUSTED)
        np.broadcast_to(np.uint8(0), shape)  # numpy refuses shapes that no array can have, and takes no memory
        if dtype.subdtype is not None:
            raise ValueError(f"its items are arrays: {dtype}")
    except Exception as error:  # of a stranger's text numpy, and Python's parser in it, may raise anything
        raise FormatError(f"the header of this .npy cannot be read: {shown(str(error))}", context) from error
    return Header(end, shape, dtype, fortran)


def _read(head: bytes, most: int) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version, _ = npy.read_magic(io.BytesIO(head))
    if version == 1:
        return npy.read_array_header_1_0(io.BytesIO(head[8:]), max_header_size=most)
    text = head[12:]
    if version == 3:  # UTF-8: numpy's public functions read Latin-1, in which a literal may spell all else
        text = text.decode().encode("latin-1", "backslashreplace")
    return npy.read_array_header_2_0(io.BytesIO(len(text).to_bytes(4, "little") + text), max_header_size=most)
