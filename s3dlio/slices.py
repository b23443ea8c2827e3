"""Slices of objects: which bytes `[start:end]` means, as in Python; and how they are read."""

from __future__ import annotations

from .alignment.buffers import fresh_bytes
from .errors import ErrorContext, RangeError
from .model import BoundedRange, GetRange, ObjectMeta, OffsetRange, SuffixRange
from .transfer import ParallelStore
from .versions import pin_of


def range_of(start: int, end: int | None) -> GetRange | None:
    """The range that `[start:end]` is of an object of any size; `None` where that depends on the size."""
    if end is None:
        return SuffixRange(-start) if start < 0 else OffsetRange(start)
    return BoundedRange(start, end) if 0 <= start < end else None


def most_of(byte_range: GetRange | None, size: int) -> bool:
    """Whether `byte_range` is known to be of at most `size` bytes."""
    match byte_range:
        case BoundedRange(start, end):
            return end - start <= size
        case SuffixRange(length):
            return length <= size
        case _:
            return False


async def get_slice(store: ParallelStore, key: str, start: int, end: int | None, *, part_size: int) -> bytes:
    """Bytes `start` to `end` of `key`, negative ones counted from its end; what is above a part in parallel ranges.

    Errors: `RangeError` for a `start` at or past the end, unless the object is empty; `ObjectChangedError`.
    """
    asked = range_of(start, end)
    if asked == OffsetRange(0):
        return await store.get(key)
    if asked is not None and most_of(asked, part_size):
        try:
            return await store.get_range(key, asked)
        except RangeError:
            if (await store.head(key)).size:
                raise
            return b""
    return await _get_known(store, key, start, end, await store.head(key))


async def _get_known(store: ParallelStore, key: str, start: int, end: int | None, meta: ObjectMeta) -> bytes:
    first, stop, _ = slice(start, end).indices(meta.size)
    if 0 < meta.size <= start:
        raise RangeError(f"the range begins at {start}, at or past the end, {meta.size}", ErrorContext("GET", key=key))
    data, view = fresh_bytes(max(0, stop - first))
    if len(view):
        await store.get_into(key, view, start=first, if_match=pin_of(meta))
    return data
