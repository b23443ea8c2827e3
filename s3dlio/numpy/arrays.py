"""Arrays in objects of their own: read whole, or the rows that are asked for, into memory that is used again."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..blocking.store import BlockingStore
from ..errors import FormatError, shown
from ..stored import StoredObject
from .header import FIRST, Header, header_end, parse_header

_PICKLED = "Object arrays cannot be loaded when allow_pickle=False"


def find_object(store: BlockingStore, key: str) -> StoredObject:
    """The object `key`, and its first bytes. Errors: `NotFoundError`, `StoreError`."""
    head, result = store.read_range(key, 0, FIRST)
    return StoredObject(store, result.meta, head)


def find_header(stored: StoredObject, *, allow_pickle: bool) -> Header:
    """The header of the array in `stored`. With `allow_pickle` it is trusted. Errors: `FormatError`."""
    head = bytes(stored.head[:FIRST])
    if allow_pickle:
        head = stored.read(0, max(len(head), header_end(head, stored.context)))
    header = parse_header(head, stored.context, trusted=allow_pickle)
    if header.end > stored.meta.size and not header.dtype.hasobject:
        array = f"the array of shape {header.shape} and type {shown(str(header.dtype), 100)}"
        raise FormatError(f"{array} would end at byte {header.end} of {stored.meta.size}", stored.context)
    return header


def read_array(stored: StoredObject, *, allow_pickle: bool) -> NDArray[Any]:
    """The array in `stored`, received from its first byte on: an object without more has its checksum compared."""
    header = find_header(stored, allow_pickle=allow_pickle)
    if header.dtype.hasobject:
        return unpickled(stored.received(0, stored.meta.size).data, allow_pickle=allow_pickle)
    return header.array(stored.received(0, header.end).data)


def unpickled(content: memoryview, *, allow_pickle: bool) -> NDArray[Any]:
    """The array of objects in `content`, an `.npy`. Errors: `ValueError` without `allow_pickle`; any of a pickle."""
    if not allow_pickle:
        raise ValueError(_PICKLED)
    array: NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=True)
    return array
