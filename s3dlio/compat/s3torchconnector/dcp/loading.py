"""Loads the items of a plan: all ranges are fetched ahead into aligned buffers, and tensors are copied from there.

One gather (:mod:`s3dlio.gather`) serves all files of a plan. Items are delivered file by file in the order of their
offsets, each range once, however many items want it: a tensor that was saved whole and is loaded in shards is one.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch.distributed._shard._utils import narrow_tensor_by_index
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlanner, ReadItem

from ....gather import Gather, Range, Wanted
from ..errors import translated
from .saved_tensor import ViewFile, load_tensor

if TYPE_CHECKING:
    from torch.distributed.checkpoint.filesystem import _StorageInfo, _StorageReaderTransforms

    from ..source import StoredObject


class FileItems:
    """The items to load from one file, in the order of their bytes."""

    def __init__(self, source: StoredObject, items: Sequence[ReadItem], where: Mapping[Any, _StorageInfo]) -> None:
        self.source = source
        self.items = sorted(items, key=lambda item: where[item.storage_index].offset)
        self.ranges: list[Range] = sorted({_range(where[item.storage_index]) for item in self.items})

    @property
    def wanted(self) -> Wanted:
        """What to fetch. An empty range is not."""
        return Wanted(self.source.store, self.source.key, [each for each in self.ranges if each[0] < each[1]])


def load_items(
    files: Sequence[FileItems],
    where: Mapping[Any, _StorageInfo],
    planner: LoadPlanner,
    transforms: _StorageReaderTransforms,
    max_gap: float,
) -> None:
    """Deliver every item to `planner`. `where` tells an item's place by its storage index.

    Errors: `S3Exception`; `AssertionError` where a saved tensor has not the size of the one to be loaded.
    """
    with Gather([each.wanted for each in files], max_gap=max_gap) as gather:
        for number, each in enumerate(files):
            positions = {wanted: position for position, wanted in enumerate(each.wanted.ranges)}
            for item in each.items:
                stored = where[item.storage_index]
                position = positions.get(_range(stored))
                with translated():
                    view = gather.view(number, position) if position is not None else memoryview(b"")
                _deliver(item, view, stored.transform_descriptors or (), planner, transforms)


def _range(stored: _StorageInfo) -> Range:
    return stored.offset, stored.offset + stored.length


def _deliver(
    item: ReadItem,
    view: memoryview,
    descriptors: Sequence[str],
    planner: LoadPlanner,
    transforms: _StorageReaderTransforms,
) -> None:
    if descriptors:
        stream = transforms.transform_load_stream(item, descriptors, ViewFile(view))  # type: ignore[arg-type]
        view = memoryview(stream.read(-1))
    if item.type == LoadItemType.BYTE_IO:
        planner.load_bytes(item, io.BytesIO(view))
        return
    saved = narrow_tensor_by_index(load_tensor(view), item.storage_offsets, item.lengths)
    target = planner.resolve_tensor(item).detach()
    if target.size() != saved.size():
        raise AssertionError(f"req {item.storage_index} mismatch sizes {target.size()} vs {saved.size()}")
    target.copy_(saved)
    planner.commit_tensor(item, target)
