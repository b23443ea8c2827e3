"""Loads the items of a plan, file by file in the order of their offsets.

One gather (:mod:`s3dlio.blocking.gather`) serves all files: ranges are fetched ahead into aligned buffers, each once,
however many items want it (a tensor that was saved whole and is loaded in shards is one), and tensors are copied from
there.

Of a tensor of `DIRECT_FROM` bytes or more only the edges are gathered, which say where its bytes are. Those are
received straight into the tensor that is loaded, where it can take them as they are; a few such tensors are under way
at once. Others come by way of a buffer of their own.
Invariant: nothing is received into a tensor when :func:`load_items` has returned or raised.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
from torch.distributed._shard._utils import narrow_tensor_by_index
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlanner, ReadItem

from ....alignment.buffers import AlignedBuffer
from ....blocking.gather import Gather, ObjectRanges, Range
from ....blocking.portal import Job
from ....config import KiB, MiB
from ..errors import translated
from .saved_tensor import EdgesFile, SavedTensor, ViewFile, find_tensor, load_tensor

if TYPE_CHECKING:
    from torch.distributed.checkpoint.filesystem import _StorageInfo, _StorageReaderTransforms

    from ..source import StoredObject

DIRECT_FROM = 32 * MiB
_EDGE = 16 * KiB
_DIRECT_AT_ONCE = 4


class SavedItem(NamedTuple):
    """An item to load, and where it was saved."""

    item: ReadItem
    stored: _StorageInfo

    @property
    def range(self) -> Range:
        """Its bytes in the file."""
        return self.stored.offset, self.stored.offset + self.stored.length

    @property
    def descriptors(self) -> Sequence[str]:
        """The transforms that its bytes went through; PyTorch before 2.7 knows none."""
        return getattr(self.stored, "transform_descriptors", None) or ()

    @property
    def is_large(self) -> bool:
        """Whether it may be received into the tensor itself."""
        is_tensor = self.item.type == LoadItemType.TENSOR and not self.descriptors
        return is_tensor and self.stored.length >= DIRECT_FROM

    @property
    def gathered(self) -> tuple[Range, ...]:
        """The ranges that are fetched ahead."""
        start, end = self.range
        return ((start, start + _EDGE), (end - _EDGE, end)) if self.is_large else ((start, end),)


class FileItems:
    """The items to load from one file, in the order of their bytes."""

    def __init__(self, source: StoredObject, items: Sequence[ReadItem], where: Mapping[Any, _StorageInfo]) -> None:
        self.source = source
        self.items = sorted((SavedItem(item, where[item.storage_index]) for item in items), key=lambda each: each.range)
        ranges = sorted({each for item in self.items for each in item.gathered if each[0] < each[1]})
        self.wanted = ObjectRanges(source.store, source.key, ranges)


def load_items(
    files: Sequence[FileItems], planner: LoadPlanner, transforms: _StorageReaderTransforms | None, max_gap: float
) -> None:
    """Deliver every item to `planner`. Ranges at most `max_gap` bytes apart share requests.

    Errors: `S3Exception`; `AssertionError` where a saved tensor has not the size of the one to be loaded.
    """
    with Gather([each.wanted for each in files], max_gap=max_gap) as gather, _Arrivals(planner) as arrivals:
        for number, file in enumerate(files):
            positions = {wanted: position for position, wanted in enumerate(file.wanted.ranges)}
            loading = _FileLoading(file.source, number, positions, gather, arrivals, planner, transforms)
            for saved in file.items:
                loading.deliver(saved)


@dataclass
class _FileLoading:
    """The items of one file, on their way to the planner. `positions` are those of its ranges, for the gather."""

    source: StoredObject
    number: int
    positions: Mapping[Range, int]
    gather: Gather
    arrivals: _Arrivals
    planner: LoadPlanner
    transforms: _StorageReaderTransforms | None
    looked_at: tuple[Range, SavedTensor | None] | None = None

    def deliver(self, saved: SavedItem) -> None:
        """Load one item."""
        if saved.is_large:
            self._receive(saved)
            return
        view = self._view(saved.range)
        if saved.descriptors:
            view = self._transformed(saved, view)
        if saved.item.type == LoadItemType.BYTE_IO:
            self.planner.load_bytes(saved.item, io.BytesIO(view))
        else:
            self._copy(saved.item, load_tensor(view), self.planner.resolve_tensor(saved.item).detach())

    def _view(self, wanted: Range) -> memoryview:
        if wanted[0] == wanted[1]:
            return memoryview(b"")
        with translated():
            return self.gather.view(self.number, self.positions[wanted])

    def _transformed(self, saved: SavedItem, view: memoryview) -> memoryview:
        if self.transforms is None:
            raise ValueError(f"{saved.item.storage_index} was saved with {saved.descriptors}, new to this PyTorch")
        stream: Any = ViewFile(view)
        return memoryview(self.transforms.transform_load_stream(saved.item, saved.descriptors, stream).read(-1))

    def _copy(self, item: ReadItem, loaded: torch.Tensor, target: torch.Tensor) -> None:
        part = narrow_tensor_by_index(loaded, item.storage_offsets, item.lengths)
        _check_size(item, part.size(), target)
        target.copy_(part)
        self.planner.commit_tensor(item, target)

    def _receive(self, saved: SavedItem) -> None:
        """Load a large tensor: straight into the one to be loaded, or else by way of a buffer of its own."""
        item, start = saved.item, saved.stored.offset
        found = self._look_at(saved)
        target = self.planner.resolve_tensor(item).detach()
        etag = self.gather.etag(self.number)
        if (rows := _rows_for(target, item, found)) is not None:
            _check_size(item, item.lengths, target)
            self.arrivals.expect(item, target, self.source.begin_fill(_bytes_of(target), start + rows[0], etag))
        else:
            buffer = AlignedBuffer(saved.stored.length)
            self.source.fill(buffer.view, start, etag)
            self._copy(item, load_tensor(buffer.view), target)

    def _look_at(self, saved: SavedItem) -> SavedTensor | None:
        """Where the bytes of the tensor are, by the edges of its archive."""
        if self.looked_at is None or self.looked_at[0] != saved.range:
            head, tail = saved.gathered
            begin = memoryview(bytes(self._view(head)))  # the next view may be the end of this one
            edges = EdgesFile(begin, self._view(tail), saved.stored.length)
            self.looked_at = saved.range, find_tensor(edges)
        return self.looked_at[1]


class _Arrivals:
    """Tensors that are being received into. A few at once; each is committed when it is complete."""

    def __init__(self, planner: LoadPlanner) -> None:
        self._planner = planner
        self._expected: deque[tuple[ReadItem, torch.Tensor, Job[Any]]] = deque()

    def expect(self, item: ReadItem, target: torch.Tensor, job: Job[Any]) -> None:
        """`job` fills `target`."""
        self._expected.append((item, target, job))
        if len(self._expected) > _DIRECT_AT_ONCE:
            self._commit_first()

    def _commit_first(self) -> None:
        item, target, job = self._expected[0]
        with translated():
            job.result()
        self._expected.popleft()  # not before: what an interrupt leaves here is cancelled and waited for at the end
        self._planner.commit_tensor(item, target)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            while kind is None and self._expected:
                self._commit_first()
        finally:
            for _, _, job in self._expected:
                job.cancel()
            for _, _, job in self._expected:
                with suppress(Exception):
                    job.result()


def _rows_for(target: torch.Tensor, item: ReadItem, saved: SavedTensor | None) -> Range | None:
    """Where in the archive the bytes of `target` are; `None` where it cannot take them as they are."""
    plain = target.layout == torch.strided and target.device.type == "cpu" and not (target.is_conj() or target.is_neg())
    if saved is None or not plain or target.dtype != saved.dtype or not target.is_contiguous():
        return None
    return saved.rows(item.storage_offsets, item.lengths)


def _bytes_of(target: torch.Tensor) -> memoryview:
    array: Any = target.reshape(-1).view(torch.uint8).numpy()
    return memoryview(array)


def _check_size(item: ReadItem, size: Sequence[int], target: torch.Tensor) -> None:
    if tuple(size) != tuple(target.size()):
        raise AssertionError(f"req {item.storage_index} mismatch sizes {target.size()} vs {torch.Size(size)}")
