"""What a reader constructor is: anything that can be called so, and gives a reader."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ..source import GetObjectInfo
from ..uri import AnyPath
from .dcp_optimized import ItemRange
from .s3reader import S3Reader

if TYPE_CHECKING:
    from torch.distributed.checkpoint.filesystem import _StorageInfo
    from torch.distributed.checkpoint.metadata import MetadataIndex
    from torch.distributed.checkpoint.planner import ReadItem

    StorageData = dict[MetadataIndex, _StorageInfo]


class GetStreamCallable(Protocol):
    """Gives the bytes of one object, in pieces. Two functions make a reader: this one, and one that tells the size."""

    def __call__(self, start: int | None = None, end: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` to `end` (exclusive), by default all, each piece fetched when it is asked for."""


@runtime_checkable
class S3ReaderConstructorProtocol(Protocol):
    """Makes the reader of one object. It is called with keywords."""

    def __call__(
        self, bucket: str, key: str, get_object_info: GetObjectInfo, get_stream: GetStreamCallable
    ) -> S3Reader:
        """The reader of the object `key` of `bucket`.

        `get_object_info()` gives an object with a `size` in bytes, `get_stream(start=None, end=None)` the bytes.
        """


@runtime_checkable
class DCPS3ReaderConstructorProtocol(Protocol):
    """One that is told, before a distributed checkpoint is loaded, which ranges of which files will be read."""

    _item_ranges_by_file: dict[str, list[ItemRange]]

    def __call__(
        self, bucket: str, key: str, get_object_info: GetObjectInfo, get_stream: GetStreamCallable
    ) -> S3Reader:
        """The reader of `key` in `bucket`; `get_object_info`, `get_stream` as for :class:`S3ReaderConstructor`."""

    def set_item_ranges_by_file(
        self, plan_items: list[ReadItem], storage_data: StorageData, base_path: AnyPath
    ) -> None:
        """Take the ranges of `plan_items`; `storage_data` tells file and bytes of each, below the URI `base_path`."""
