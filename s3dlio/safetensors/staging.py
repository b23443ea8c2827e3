"""Tensors in memory of their own, on a device or of another type, by way of a ring of buffers.

Theory of operation. The bytes of all tensors, in their order, are cut into blocks; each is received into a buffer of
the ring while those before are copied out of theirs. What is under way is bounded by the ring, however large the
tensors are. For a CUDA device the buffers are pinned, and the copies run on a stream of their own, beside what the
caller's computes. Ownership: a buffer belongs to its block until the copies out of it have ended; then to the next. Who
fails cancels what is under way, whose memory is kept by those who fill it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ..config import MiB
from ..stored import Arrival, StoredObject, give_up
from .frameworks import shaped
from .header import BITS
from .shards import Located
from .sharing import ALONE, Ranks

if TYPE_CHECKING:
    import torch

_BLOCK = 32 * MiB
_BUFFERS = 8


class Device(Protocol):
    """What a kind of device has to do."""

    def buffer(self, size: int) -> torch.Tensor:
        """Memory of this machine, `size` bytes, that can be copied from."""

    def empty(self, size: int) -> torch.Tensor:
        """Memory of the device, `size` bytes."""

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> Callable[[], object]:
        """Begin to copy `source`, of a buffer, to `target`; what is returned waits until it is done."""

    def ready(self) -> None:
        """Have what the caller does with tensors, from now on, come after the copies that were begun."""


class Synchronous:
    """`device` is the CPU, or one whose copies are waited for."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def buffer(self, size: int) -> torch.Tensor:
        """See :class:`Device`, as for all of these."""
        import torch

        return torch.empty(size, dtype=torch.uint8)

    def empty(self, size: int) -> torch.Tensor:
        """See there."""
        import torch

        return torch.empty(size, dtype=torch.uint8, device=self._device)

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> Callable[[], object]:
        """See there."""
        target.copy_(source)
        return lambda: None

    def ready(self) -> None:
        """See there."""


class Cuda:
    """The GPU `device`, by PyTorch's pinned memory, which it uses again itself."""

    def __init__(self, device: torch.device) -> None:
        import torch

        self._device = device
        self._stream = torch.cuda.Stream(device)

    def buffer(self, size: int) -> torch.Tensor:
        """See :class:`Device`, as for all of these."""
        import torch

        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def empty(self, size: int) -> torch.Tensor:
        """See there."""
        import torch

        made = torch.empty(size, dtype=torch.uint8, device=self._device)
        made.record_stream(self._stream)  # or it would be given away under a copy, where loading fails
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        return made

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> Callable[[], object]:
        """See there."""
        import torch

        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)
        copied: torch.cuda.Event = self._stream.record_event()
        return copied.synchronize

    def ready(self) -> None:
        """See there."""
        import torch

        torch.cuda.current_stream(self._device).wait_stream(self._stream)


def device_for(device: torch.device) -> Device:
    """How tensors get to `device`."""
    return Cuda(device) if device.type == "cuda" else Synchronous(device)


class Piece(NamedTuple):
    """Bytes `start` to `end` of an object, all of the tensor `name`, and in its block number `block`."""

    name: str
    stored: StoredObject
    start: int
    end: int
    block: int


def plan_blocks(tensors: Mapping[str, Located], size: int) -> Iterator[list[Piece]]:
    """The bytes of `tensors`, of each object without a gap, in blocks of at most `size` bytes of one object."""
    for _, group in groupby(tensors.items(), key=lambda item: id(item[1].stored)):
        pieces = _cut([*group], size)
        yield from ([*block] for _, block in groupby(pieces, key=lambda piece: piece.block))


def _cut(tensors: list[tuple[str, Located]], size: int) -> Iterator[Piece]:
    origin = tensors[0][1].info.start
    for name, (stored, info) in tensors:
        position = info.start
        while position < info.end:
            block = (position - origin) // size
            end = min(info.end, origin + (block + 1) * size)
            yield Piece(name, stored, position, end, block)
            position = end


class _Filled(NamedTuple):
    """Block number `number`, the buffer that it comes into, if this rank reads it, and its arrival."""

    number: int
    block: list[Piece]
    buffer: torch.Tensor | None
    arrival: Arrival


class Staging:
    """Loads `tensors` to `device`, with other `ranks`; each is `finish(name, bytes)` when its bytes are all there."""

    def __init__(
        self,
        tensors: Mapping[str, Located],
        device: Device,
        finish: Callable[[str, torch.Tensor], torch.Tensor],
        ranks: Ranks,
        *,
        block: int = _BLOCK,
        buffers: int = _BUFFERS,
    ) -> None:
        self._tensors = tensors
        self._device = device
        self._finish = finish
        self._ranks = ranks
        self._blocks = [*plan_blocks(tensors, block)]
        self._size = max((each[-1].end - each[0].start for each in self._blocks), default=0)
        self._new = min(buffers, len(self._blocks))
        self._free = list["torch.Tensor"]()
        self._under_way = deque[_Filled]()
        self._targets = dict[str, "torch.Tensor"]()
        self._done = dict[str, "torch.Tensor"]()

    def run(self) -> dict[str, torch.Tensor]:
        """All tensors, in their order. Errors: as of :meth:`Arrival.wait`, and what `finish` raises."""
        try:
            for number, block in enumerate(self._blocks):
                self._begin(number, block)
            while self._under_way:
                self._land()
        finally:
            give_up(each.arrival for each in self._under_way)
        self._device.ready()
        empty = (name for name, (_, info) in self._tensors.items() if info.start == info.end)
        self._done.update((name, self._finish(name, self._device.empty(0))) for name in empty)
        return {name: self._done[name] for name in self._tensors}

    def _begin(self, number: int, block: list[Piece]) -> None:
        if not self._ranks.reads(number):
            self._under_way.append(_Filled(number, block, None, Arrival(block[0].stored)))
            return
        buffer = self._buffer()
        view = buffer.numpy().data[: block[-1].end - block[0].start]
        self._under_way.append(_Filled(number, block, buffer, block[0].stored.begin(block[0].start, view)))

    def _buffer(self) -> torch.Tensor:
        if self._new:
            self._new -= 1
            return self._device.buffer(self._size)
        while not self._free:
            self._land()
        return self._free.pop()

    def _land(self) -> None:
        """Copy the first block under way out of its buffer, which is free then, or have it from another rank."""
        number, block, buffer, arrival = self._under_way[0]
        self._ranks.agree(number, arrival.wait)
        targets, first = [self._target(piece) for piece in block], block[0].start
        sources = [] if buffer is None else [buffer[piece.start - first : piece.end - first] for piece in block]
        copies = [self._device.copy(target, source) for target, source in zip(targets, sources, strict=False)]
        self._device.ready()
        self._ranks.share(number, targets)
        for piece in block:
            if piece.end == self._tensors[piece.name].info.end:
                self._done[piece.name] = self._finish(piece.name, self._targets.pop(piece.name))
        for wait in copies:
            wait()
        self._under_way.popleft()
        if buffer is not None:
            self._free.append(buffer)

    def _target(self, piece: Piece) -> torch.Tensor:
        """The bytes of a tensor that a piece is of."""
        info = self._tensors[piece.name].info
        if piece.start == info.start:
            self._targets[piece.name] = self._device.empty(info.end - info.start)
        return self._targets[piece.name][piece.start - info.start : piece.end - info.start]


def stage(
    tensors: Mapping[str, Located], device: torch.device, dtype: torch.dtype | None = None, ranks: Ranks = ALONE
) -> dict[str, torch.Tensor]:
    """`tensors` on `device`, loaded with other `ranks`; those of floating-point numbers of the type `dtype`, if any.

    Errors: as of :class:`Framework` and :meth:`Arrival.wait`.
    """

    def finish(name: str, data: torch.Tensor) -> torch.Tensor:
        info = tensors[name].info
        found = shaped(data, info.dtype, info.shape)
        is_cast = dtype is not None and found.is_floating_point() and BITS[info.dtype] >= 8  # of less PyTorch has none
        return found.to(dtype) if is_cast else found

    return Staging(tensors, device_for(device), finish, ranks).run()
