"""What a reader constructor is: anything that can be called so, and gives a reader."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ..objects import HasSize
from .dcp_optimized import ItemRange
from .s3reader import S3Reader

if TYPE_CHECKING:
    from torch.distributed.checkpoint.filesystem import _StorageInfo
    from torch.distributed.checkpoint.metadata import MetadataIndex
    from torch.distributed.checkpoint.planner import ReadItem


class GetStreamCallable(Protocol):
    """Gives the bytes from `start` to `end` (exclusive), by default all of them, in pieces."""

    def __call__(self, start: int | None = None, end: int | None = None) -> Iterator[bytes]:
        """The pieces, each fetched when it is asked for."""


@runtime_checkable
class S3ReaderConstructorProtocol(Protocol):
    """Makes the reader of one object. It is called with keywords."""

    def __call__(
        self, bucket: str, key: str, get_object_info: Callable[[], HasSize], get_stream: GetStreamCallable
    ) -> S3Reader:
        """The reader of the object `key` of `bucket`."""


@runtime_checkable
class DCPS3ReaderConstructorProtocol(Protocol):
    """One that is told, before a distributed checkpoint is loaded, which ranges of which files will be read."""

    _item_ranges_by_file: dict[str, list[ItemRange]]

    def __call__(
        self, bucket: str, key: str, get_object_info: Callable[[], HasSize], get_stream: GetStreamCallable
    ) -> S3Reader:
        """The reader of the object `key` of `bucket`."""

    def set_item_ranges_by_file(
        self,
        plan_items: list[ReadItem],
        storage_data: dict[MetadataIndex, _StorageInfo],
        base_path: str | os.PathLike[str],
    ) -> None:
        """Take the ranges of the items that will be loaded from below `base_path`."""
