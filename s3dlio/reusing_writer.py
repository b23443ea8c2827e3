"""Objects written piece by piece that are mostly as an older one: the server copies what is the same.

Theory of operation. What is written is cut into pieces, whose checksums are compared with those of the older object;
:mod:`.reuse` decides, and this has it done. All that is not decided yet lies in one buffer, its last bytes being those
of a piece that is not complete. A whole piece that goes on with what is copied never enters it. When a part is to be
sent, the buffer goes with it, and what lies behind the part moves to another one.

Invariant: the buffer holds the `kept` bytes of the plan, and then the incomplete piece. The caller's thread plans and
fills buffers; parts begin on the loop, which is waited for whenever one is due.

All that is copied is of the version that the checksums are of (`x-amz-copy-source-if-match`), or the copy fails, and so
does the object: what was the same is not here any more, so it has to be written again by whoever has it. `refused`
tells that case from others. Where the server tells the checksum of what it has copied, it is compared; in the end the
object's size is, as servers that take no notice of a range would copy too much.

Cancellation: as of any :class:`PartWriter`.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import trio

from .alignment.buffers import AlignedBuffer
from .alignment.checksum import crc64nvme
from .config import MiB
from .errors import ChecksumError, IntegrityError, StoreError
from .model import BoundedRange, Part, PartCopy, PutOptions, Upload
from .part_writer import MakePart, PartWriter
from .parts import MIN_PART
from .reuse import PIECE, Copied, OldObject, PartPlan, Sent, Sums, joined
from .stores.store import ObjectStore

SENT_PART = 16 * MiB
"""Bytes of a part that is sent, at least, where so much follows each other: up to 5 MiB of it are moved."""


class _Sending(NamedTuple):
    """A part to send: `data`, which lies in `buffer`."""

    data: memoryview
    buffer: AlignedBuffer


class _Copying(NamedTuple):
    """A range of the old object to copy, and what it has to be: sizes and checksums of its pieces."""

    range: BoundedRange
    pieces: tuple[tuple[int, int], ...]


class ReusingWriter(PartWriter):
    """The upload of the object `key`, as :meth:`ParallelStore.open_reusing_writer` begins it.

    What `old` has as well, if there is one, is copied from it. `sums` tells what the object is made of, for the next
    one. `refused` is why the server would not copy, if the object is not made because of that.
    """

    def __init__(
        self,
        store: ObjectStore,
        key: str,
        options: PutOptions,
        part_size: int,
        limiter: trio.CapacityLimiter,
        memory_limit: int,
        old: OldObject | None,
    ) -> None:
        super().__init__(store, key, options, part_size, limiter, memory_limit)
        self.sums = Sums()
        self.refused: StoreError | None = None
        self._old = old if old is not None and old.sums.size > MIN_PART else None  # of smaller ones no range is copied
        self._plan = PartPlan(max(part_size, SENT_PART), reuses=self._old is not None)
        self._partial = 0
        """Bytes of the incomplete piece."""
        self._pieces: deque[tuple[int, int]] = deque()
        """Size and checksum of those that are in no part yet."""
        self._due: deque[_Sending | _Copying] = deque()
        self._copies = False

    def absorb(self, data: memoryview) -> memoryview | None:
        """As :meth:`PartWriter.absorb`; also computes checksums, without the interpreter's lock."""
        if not self._is_usable(len(data)):
            return data
        try:
            while len(data) and not self._due and self._has_buffer():
                data = data[self._take(data) :]
        except BaseException as error:  # an interrupt, or no memory
            self.spoil(error)
            raise
        return data if len(data) or self._due else None

    async def make_way(self, data: memoryview) -> memoryview:
        """Begin the parts that are due, and wait until there is a buffer for `data`. Errors: those of :meth:`write`."""
        nursery = await self._usable(len(data))
        try:
            await self._begin_due(nursery)
            if len(data):
                await self._wait_for_buffer()
        except BaseException as error:
            self.spoil(error)
            raise
        return data

    def end_item(self) -> None:
        """What is written from now on is another item. May be called in another thread, as :meth:`absorb`."""
        if self._failure is not None:
            return
        try:
            if self._partial:
                self._end_piece()
            self.sums.end_item()
        except BaseException as error:
            self.spoil(error)
            raise

    def _next_size(self) -> int:
        return self._plan.room

    def _take(self, data: memoryview) -> int:
        """Take a piece, or what of `data` belongs to one; how many bytes that is."""
        piece = data[: PIECE - self._partial]
        if len(piece) == PIECE:
            self._add(piece, is_kept=False)
        else:
            self._keep(piece)
            self._partial += len(piece)
            if self._partial == PIECE:
                self._end_piece()
        return len(piece)

    def _end_piece(self) -> None:
        piece, self._partial = self._kept()[self._pending_size - self._partial :], 0
        self._add(piece, is_kept=True)

    def _add(self, piece: memoryview, *, is_kept: bool) -> None:
        size, crc = len(piece), crc64nvme(piece)
        at = self._old.sums.find(self.sums.place, size, crc) if self._old is not None else None
        if not is_kept and self._plan.continues(at):
            self.size += size
        elif not is_kept:
            self._keep(piece)
        self._pieces.append((size, crc))
        self.sums.add(size, crc)
        self._planned(self._plan.add(size, at))

    def _planned(self, parts: list[Sent | Copied]) -> None:
        for part in parts:
            pieces = tuple(self._pieces.popleft() for _ in range(part.pieces))
            if isinstance(part, Sent):
                self._give(part.size)
            else:
                self._due.append(_Copying(BoundedRange(part.start, part.start + part.size), pieces))
        self._pending_size = self._plan.kept  # nothing else is in the buffer, now that a piece has ended
        if not self._pending_size and self._pending is not None and self._pending.size != self._plan.room:
            self._pending = None  # parts have grown

    def _give(self, size: int) -> None:
        """Have the first `size` bytes of the buffer sent; what has to be kept of the others moves to another one."""
        sent, buffer = self._kept(), self._pending
        assert buffer is not None
        kept = self._plan.kept
        self._pending = self._buffer(self._plan.room) if kept else None
        if self._pending is not None:
            self._pending.view[:kept] = sent[len(sent) - kept :]
        self._due.append(_Sending(sent[:size], buffer))

    async def _begin_due(self, nursery: trio.Nursery) -> None:
        while self._due:
            match self._due.popleft():
                case _Sending(data, buffer):
                    self._busy += 1
                    await self._send(data, nursery, buffer)
                case _Copying() as wanted:
                    self._copies = True
                    await self._begin_part(self._copier(wanted), nursery)

    def _copier(self, wanted: _Copying) -> MakePart:
        async def copy(upload: Upload, number: int) -> Part:
            old = self._old
            assert old is not None
            source = PartCopy(upload, old.bucket, old.key, old.etag, old.sums.size)
            try:
                part = await self._store.copy_part(source, number, wanted.range)
                await self._compare(part, wanted)
            except StoreError as error:
                self.refused = error
                raise
            return part

        return copy

    async def _compare(self, part: Part, wanted: _Copying) -> None:
        told = part.checksum
        if told is not None and told.value != await trio.to_thread.run_sync(joined, wanted.pieces):
            where = f"bytes {wanted.range.start} to {wanted.range.end}"
            raise ChecksumError(f"{where} of the older object are others than they were", self._context())

    async def _finish_parts(self) -> None:
        nursery = await self._usable()
        self.end_item()
        if not self._plan.is_small:
            self._planned(self._plan.end())
        await self._begin_due(nursery)
        self._nursery = None

    async def _publish(self) -> None:
        await super()._publish()
        if self._copies:
            found = await self._store.head(self._key)
            if found.size != self.size:
                message = f"{found.size} bytes came of copying, not {self.size}"
                self.refused = IntegrityError(message, self._context())
                raise self.refused

    def _let_go(self) -> None:
        super()._let_go()
        self._due.clear()
