"""What tests of arrays have in common: bytes of files, arrays to draw, and what it is to be the same array."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

_FIELDS = np.dtype([("a", "<f4"), ("b", ">i2", (2,)), ("c", "U3"), ("d", "u1")])
DTYPES: st.SearchStrategy[np.dtype[Any]] = hnp.scalar_dtypes() | st.just(_FIELDS)
ARRAYS: st.SearchStrategy[NDArray[Any]] = st.builds(
    lambda array, order: np.array(array, order=order),
    hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6)),
    st.sampled_from("CF"),
)


def file_of(write: Callable[..., Any], *arguments: Any, **named: Any) -> bytes:
    """What `write`, a function of numpy's, writes."""
    file = io.BytesIO()
    write(file, *arguments, **named)
    return file.getvalue()


def facts(array: NDArray[Any]) -> tuple[Any, ...]:
    """All that makes an array, by its bits: not-a-numbers are equal, too."""
    return array.dtype, array.shape, array.flags.c_contiguous, array.flags.f_contiguous, array.tobytes()


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """`data` with some bytes changed, taken out or put in, or cut."""
    place = draw(st.integers(0, len(data)))
    length = draw(st.integers(0, 9))
    return data[:place] + draw(st.binary(max_size=9)) + data[place + length :] if draw(st.booleans()) else data[:place]
