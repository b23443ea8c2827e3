"""The reader for distributed checkpoints: it is told the ranges that will be read, and fetches them ahead.

The reader walks through its items in order. An object of one of our stores is gathered
(:mod:`s3dlio.blocking.gather`): all ranges are on their way from the first read, into aligned buffers. One that
somebody's own `get_stream` gives is read as one stream for each group of ranges.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ....blocking.gather import Gather, ObjectRanges
from ....config import MiB
from ..errors import translated
from ..source import GetObjectInfo, GetStream, StoredObject, source_of
from .s3reader import NamedReader, read_size, seek_argument

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

DEFAULT_MAX_GAP_SIZE = 32 * MiB

FIND_ITEM_ERROR_PREFIX = "DCPOptimizedS3Reader only supports sequentially accessing provided ranges: "

FALLBACK_GUIDANCE = (
    "Readers made by S3ReaderConstructor.dcp_optimized() are for torch.distributed.checkpoint.load() alone. For other "
    "ways of reading take the generic one: S3StorageReader(region, path, "
    "reader_constructor=S3ReaderConstructor.default())"
)


@dataclass
class ItemRange:
    """The bytes of one item of a checkpoint: `start` (inclusive) to `end` (exclusive)."""

    start: int
    end: int


@dataclass
class RangeGroup:
    """Items near each other, `item_ranges`, from the first byte of the first, `start`, to `end` (exclusive)."""

    start: int
    end: int
    item_ranges: list[ItemRange]


def group_ranges(item_ranges: Sequence[ItemRange], max_gap_size: float) -> list[RangeGroup]:
    """Items in groups; two neighbours share one where at most `max_gap_size` bytes lie between them.

    Errors: `ValueError` for a range that is empty or negative, and for ranges that overlap or are not sorted.
    """
    groups: list[RangeGroup] = []
    for item in item_ranges:
        if not 0 <= item.start < item.end:
            raise ValueError(f"Invalid range: {item.start}-{item.end}")
        last = groups[-1].item_ranges[-1] if groups else None
        if last is not None and item.start < last.end:
            wrong = "Unsorted" if item.start < last.start else "Overlapping"
            raise ValueError(f"{wrong} ranges: {last.start}-{last.end} and {item.start}-{item.end}")
        if last is not None and item.start - last.end <= max_gap_size:
            groups[-1].item_ranges.append(item)
            groups[-1].end = item.end
        else:
            groups.append(RangeGroup(item.start, item.end, [item]))
    return groups


class _StoredItems:
    """The items' bytes, in order; :meth:`view` gives up the item before. :class:`_StreamedItems` are used alike."""

    def __init__(self, source: StoredObject, items: Sequence[ItemRange], max_gap_size: float) -> None:
        ranges = [(item.start, item.end) for item in items]
        self._gather = Gather([ObjectRanges(source.store, source.key, ranges)], max_gap=max_gap_size)

    def view(self, position: int) -> memoryview:
        with translated():
            return self._gather.view(0, position)

    def close(self) -> None:
        self._gather.close()


class _StreamedItems:
    def __init__(self, get_stream: GetStream, groups: Sequence[RangeGroup]) -> None:
        self._items = (item for group in groups for item in _cut(get_stream(group.start, group.end), group))

    def view(self, position: int) -> memoryview:
        item = next(self._items, None)
        if item is None:
            raise ValueError("the stream has failed before, and there is no more of it")
        return item

    def close(self) -> None:
        self._items.close()


def _cut(stream: Iterator[bytes], group: RangeGroup) -> Iterator[memoryview]:
    """The items of one group, out of a stream of all its bytes. Errors: `ValueError` where the stream is too short."""
    pieces, held, position = iter(stream), bytearray(), group.start
    for item in group.item_ranges:
        while position + len(held) < item.end:
            piece = next(pieces, None)
            if piece is None:
                raise ValueError(f"the stream ended at {position + len(held)}, before the item's end at {item.end}")
            held += piece
            unwanted = min(max(0, item.start - position), len(held))
            del held[:unwanted]  # from the front, which moves nothing
            position += unwanted
        del held[: item.start - position]
        yield memoryview(bytes(memoryview(held)[: item.end - item.start]))
        del held[: item.end - item.start]
        position = item.end


class DCPOptimizedS3Reader(NamedReader):
    """A reader of the given ranges of the object `key` of `bucket`, which are read in their order.

    Inside one item any seek is possible; reading the next item gives up the one before. `item_ranges` are sorted and do
    not overlap, empty ones are passed over. `get_object_info()` gives an object with a `size` in bytes;
    `get_stream(start, end)` gives the bytes from `start` to `end` (exclusive) in pieces. Ranges at most `max_gap_size`
    bytes apart share requests (`inf`: always, 0: only where they touch).

    Errors of the constructor: `ValueError` where bucket, key or ranges are missing or wrong, `TypeError` for another
    type of `max_gap_size`. Errors of reading: `ValueError` for bytes outside of the current and the next item and for
    a read without a size, `S3Exception`.
    """

    def __init__(
        self,
        bucket: str,
        key: str,
        item_ranges: list[ItemRange],
        get_object_info: GetObjectInfo,
        get_stream: GetStream,
        max_gap_size: float = DEFAULT_MAX_GAP_SIZE,
    ) -> None:
        super().__init__(bucket, key)
        if not key:
            raise ValueError("Key should be specified")
        if not item_ranges:
            raise ValueError("item_ranges must be a non-empty List[ItemRange] object")
        check_gap(max_gap_size)
        self._max_gap_size = max_gap_size
        self._source = source_of(key, get_object_info, get_stream)
        self._get_stream = get_stream
        self._item_ranges = [item for item in item_ranges if item.start != item.end]
        if not self._item_ranges:
            raise ValueError("No non-empty ranges to read (all ranges were length 0)")
        self._range_groups = group_ranges(self._item_ranges, max_gap_size)
        self._items: _StoredItems | _StreamedItems | None = None
        self._current = 0
        self._view: memoryview | None = None
        self._position = 0
        self._closed = False

    def __repr__(self) -> str:
        root = self._source.root or self._bucket
        return f"<{type(self).__name__} {root}/{self._key}, {len(self._item_ranges)} ranges>"

    def __getstate__(self) -> dict[str, Any]:
        if self._items is not None:
            raise TypeError(f"cannot pickle {self!r}: it was read")
        return self.__dict__

    @property
    def closed(self) -> bool:
        return self._closed

    def read(self, size: int | None = None) -> bytes:
        """At most `size` bytes, which must lie in the current item or the next; `b""` for 0.

        Errors: `ValueError` for bytes outside of them and for a `size` that is `None` or negative; `S3Exception`.
        """
        if size is None:
            raise ValueError(f"Size cannot be None; full read not supported.\n{FALLBACK_GUIDANCE}")
        count = read_size(size)
        if count is None:
            raise ValueError(f"Size cannot be negative; full read not supported.\n{FALLBACK_GUIDANCE}")
        if not count:
            return b""
        data = bytes(self._take(count))
        self._position += len(data)
        return data

    def readinto(self, buf: WriteableBuffer) -> int:
        """Fill `buf`, a writable buffer, from the current item or the next, and return the count of bytes.

        Errors: `ValueError` for bytes outside of them; `TypeError` for what is no buffer; `AssertionError` for one that
        cannot be written to; `S3Exception`.
        """
        len(buf)  # type: ignore[arg-type]
        view = memoryview(buf)
        data = self._take(view.nbytes)
        if view.readonly:
            raise AssertionError("writable buffer required")
        if view.nbytes:
            view.cast("B")[: len(data)] = data
        self._position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to `offset`, or with `SEEK_CUR` as `whence` by `offset`, and return the position, in bytes.

        Whether it lies in an item is found out when it is read. Errors: `ValueError` for a negative position, and for a
        `whence` other than `SEEK_SET` and `SEEK_CUR`.
        """
        distance = seek_argument(offset)
        if whence not in (io.SEEK_SET, io.SEEK_CUR):
            raise ValueError("whence must be SEEK_CUR or SEEK_SET integers")
        target = distance + (self._position if whence == io.SEEK_CUR else 0)
        if target < 0:
            raise ValueError(f"negative seek value {target}")
        self._position = target
        return target

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        """Give up what was fetched."""
        self._closed = True
        self._view = None
        items, self._items = self._items, None
        if items is not None:
            items.close()

    def _take(self, count: int) -> memoryview:
        """The next `count` bytes."""
        self._go_to(self._position, self._position + count)
        if self._view is None:
            self._view = self._working_items().view(self._current)
        begin = self._position - self._item_ranges[self._current].start
        return self._view[begin : begin + count]

    def _go_to(self, start: int, end: int) -> None:
        """Make the item that holds these bytes the current one."""
        if self._closed:
            raise ValueError("I/O operation on closed file.")
        item = self._item_ranges[self._current]
        if item.start <= start and end <= item.end:
            return
        beside = f"{FIND_ITEM_ERROR_PREFIX}Range {start}-{end} not contained in current item {item.start}-{item.end}"
        if start < item.end or self._view is None:
            raise ValueError(f"{beside}.\n{FALLBACK_GUIDANCE}")
        if self._current + 1 == len(self._item_ranges):
            raise ValueError(f"{beside}, which is the last.\n{FALLBACK_GUIDANCE}")
        following = self._item_ranges[self._current + 1]
        if start < following.start or end > following.end:
            raise ValueError(f"{beside} nor the next item {following.start}-{following.end}.\n{FALLBACK_GUIDANCE}")
        self._current, self._view = self._current + 1, None

    def _working_items(self) -> _StoredItems | _StreamedItems:
        if self._items is None:
            if isinstance(self._source, StoredObject):
                self._items = _StoredItems(self._source, self._item_ranges, self._max_gap_size)
            else:
                self._items = _StreamedItems(self._get_stream, self._range_groups)
        return self._items


def check_gap(max_gap_size: float) -> None:
    """Errors: `TypeError` where that is no number, `ValueError` where it is negative."""
    if not isinstance(max_gap_size, int | float):
        raise TypeError(f"max_gap_size must be int or float, got {type(max_gap_size).__name__}")
    if not max_gap_size >= 0:
        raise ValueError("max_gap_size must be non-negative")
