"""What users choose their readers by."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from os.path import join
from typing import TYPE_CHECKING

from ..source import GetObjectInfo, GetStream, StoredObject
from ..uri import AnyPath, split_path
from .dcp_optimized import DEFAULT_MAX_GAP_SIZE, FALLBACK_GUIDANCE, DCPOptimizedS3Reader, ItemRange, check_gap
from .protocol import DCPS3ReaderConstructorProtocol, S3ReaderConstructorProtocol
from .ranged import RangedS3Reader
from .s3reader import S3Reader
from .sequential import SequentialS3Reader

if TYPE_CHECKING:
    from torch.distributed.checkpoint.planner import ReadItem

    from .protocol import StorageData


class DCPOptimizedConstructor:
    """Makes the readers of a distributed checkpoint's files, once it was told what will be read of each.

    Ranges at most `max_gap_size` bytes apart share requests, see :meth:`S3ReaderConstructor.dcp_optimized`.
    Errors: `ValueError` where it is negative, `TypeError` where it is no number.
    """

    def __init__(self, max_gap_size: float = DEFAULT_MAX_GAP_SIZE) -> None:
        check_gap(max_gap_size)
        self._item_ranges_by_file: dict[str, list[ItemRange]] = {}
        self._max_gap_size = max_gap_size

    @property
    def max_gap_size(self) -> int | float:
        """Bytes between ranges that still share a request."""
        return self._max_gap_size

    def set_item_ranges_by_file(
        self, plan_items: list[ReadItem], storage_data: StorageData, base_path: AnyPath
    ) -> None:
        """Take the ranges of `plan_items` in place of any earlier ones.

        `storage_data` tells the file and the bytes of each; files are below the URI `base_path`.
        Errors: `ValueError` where there are items and `storage_data` is empty.
        """
        self._item_ranges_by_file = defaultdict(list)
        if plan_items and not storage_data:
            raise ValueError("storage_data must not be empty; required to map ReadItems to file ranges.")
        for item in plan_items:
            stored = storage_data[item.storage_index]
            uri = str(split_path(join(base_path, stored.relative_path)))  # spelled as in __call__
            self._item_ranges_by_file[uri].append(ItemRange(stored.offset, stored.offset + stored.length))

    def __call__(self, bucket: str, key: str, get_object_info: GetObjectInfo, get_stream: GetStream) -> S3Reader:
        """The reader of the file `key` of `bucket`: a sequential one for `.metadata`, else one of the ranges taken.

        `get_object_info` and `get_stream` give its size and its bytes, as for any reader.
        Errors: `ValueError` for a file of which no ranges were taken.
        """
        if key.endswith(".metadata"):
            return SequentialS3Reader(bucket, key, get_object_info, get_stream)
        uri = f"{_root(bucket, get_stream)}/{key}"
        if uri not in self._item_ranges_by_file:
            raise ValueError(
                f"No ranges found for {uri}. Make sure range injection is used in "
                f"'S3StorageReader.prepare_local_plan'.\n{FALLBACK_GUIDANCE}"
            )
        ranges = self._item_ranges_by_file[uri]
        return DCPOptimizedS3Reader(bucket, key, ranges, get_object_info, get_stream, self._max_gap_size)


class S3ReaderConstructor:
    """Makes reader constructors: what datasets, the client and `S3StorageReader` take as `reader_constructor`."""

    @staticmethod
    def sequential() -> S3ReaderConstructorProtocol:
        """For any order of reading, best for reading whole objects.

        A small object is fetched whole; of a large one what is read, in growing pieces, each fetched in parallel.
        """
        return partial(SequentialS3Reader)

    @staticmethod
    def range_based(buffer_size: int | None = None) -> S3ReaderConstructorProtocol:
        """For small parts of large objects. Reads below `buffer_size` bytes fetch that much, larger ones no more.

        `None` means 8 MiB; 0 means no buffer: then a read fetches exactly what it asks for. With a buffer, reads that
        lie near each other share a request.
        """
        return partial(RangedS3Reader, buffer_size=buffer_size)

    @staticmethod
    def dcp_optimized(max_gap_size: float = DEFAULT_MAX_GAP_SIZE) -> DCPS3ReaderConstructorProtocol:
        """For `S3StorageReader`, whose default it is: only what is loaded is fetched, all of it ahead.

        Ranges at most `max_gap_size` bytes apart (32 MiB) share requests; `float("inf")` is always, 0 only where they
        touch. A gap that is fetched costs its bytes, one that is not costs a request.
        Errors: `ValueError` where it is negative, `TypeError` where it is no number.
        """
        return DCPOptimizedConstructor(max_gap_size=max_gap_size)

    @staticmethod
    def default() -> S3ReaderConstructorProtocol:
        """The sequential one."""
        return S3ReaderConstructor.sequential()

    @staticmethod
    def get_reader_type_string(constructor: S3ReaderConstructorProtocol | None) -> str:
        """What `constructor` makes: `sequential` (also for `None`), `range_based`, `dcp_optimized`, or `unknown`."""
        if constructor is None:
            return "sequential"
        if isinstance(constructor, DCPOptimizedConstructor):
            return "dcp_optimized"
        made = constructor.func if isinstance(constructor, partial) else None
        return {SequentialS3Reader: "sequential", RangedS3Reader: "range_based"}.get(made, "unknown")  # type: ignore[call-overload, no-any-return]


def _root(bucket: str, get_stream: GetStream) -> str:
    owner = getattr(get_stream, "__self__", None)
    return owner.root if isinstance(owner, StoredObject) else f"s3://{bucket}"
