"""Objects read piece by piece: while one is looked at, the next ones are on their way.

Theory of operation. Each piece is one request for a part, by a task of its own. The first one, which is waited for when
the reader is opened, tells the size and the version; all others are pinned to that. So many pieces as may be ahead are
begun at once, and one more whenever one is handed over: a consumer that is slow holds the requests back, and a reader
that nobody reads from costs a bounded amount of memory. Pieces are handed over in order, each as soon as it is whole.
Where all of an object is read, its checksum is compared before the last piece is handed over.

Failure: a piece that failed is told when it would be handed over, and every time from then on; none is begun after it.
Cancellation of a call takes nothing from the stream. The end of the block cancels what is under way.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import trio

from .alignment.buffers import fresh_bytes
from .errors import RangeError, StoreError
from .model import BoundedRange, GetOptions, GetResult, ObjectMeta
from .stores.integrity import Landed
from .stores.store import ObjectStore


@dataclass(slots=True, eq=False)
class _Piece:
    start: int
    end: int
    data: bytes = b""
    error: StoreError | None = None
    over: trio.Event = field(default_factory=trio.Event)


class PartReader(trio.abc.ReceiveStream):
    """What :meth:`ParallelStore.open_reader` yields: the bytes of the object `key` of `store`, from front to back.

    `async for piece in reader` goes through them, in pieces of up to `part_size` bytes, of which `ahead` are under way
    or wait to be taken; `limiter` bounds those of all objects, and `landed` compares their checksums. `meta` describes
    the version that is read, `end` is where the stream ends, in bytes from the object's start.
    """

    meta: ObjectMeta
    end: int

    def __init__(
        self,
        store: ObjectStore,
        key: str,
        *,
        part_size: int,
        ahead: int,
        limiter: trio.CapacityLimiter,
        landed: Landed,
    ) -> None:
        self._store = store
        self._key = key
        self._part_size = part_size
        self._ahead = ahead
        self._limiter = limiter
        self._landed = landed
        self._pin: str | None = None
        self._next = 0
        self._coming: deque[_Piece] = deque()
        self._rest = memoryview(b"")
        self._nursery: trio.Nursery | None = None
        self._receiving = False

    async def _begin(self, nursery: trio.Nursery, start: int, end: int | None, if_match: str | None) -> None:
        """Read the first piece, and ask for the next ones."""
        data, result = await self._first(start, end, if_match)
        self.meta, self._pin, self._nursery = result.meta, result.meta.etag or if_match, nursery
        self.end = min(result.meta.size if end is None else end, result.meta.size)
        self._next, self._rest = result.end, memoryview(data)[: self.end - start]
        self._landed.whole &= (start, self.end) == (0, result.meta.size)
        self._ask()
        await self._landed.add(result, memoryview(data))
        self._check()

    async def _first(self, start: int, end: int | None, if_match: str | None) -> tuple[bytes, GetResult]:
        data, last = b"", start + self._part_size

        def sink(coming: GetResult) -> memoryview:  # a server that knows no ranges sends all, and is not asked again
            nonlocal data
            data, view = fresh_bytes(coming.end + coming.excess - coming.start)
            return view

        try:
            asked = BoundedRange(start, last if end is None else min(end, last))
            result = await self._store.fetch(self._key, sink, GetOptions(asked, if_match))
        except RangeError:
            if start:
                raise
            result = await self._store.fetch(self._key, sink, GetOptions(None, if_match))  # an empty object has none
        return data, result

    def _ask(self) -> None:
        """Begin as many pieces as may be ahead."""
        assert self._nursery is not None
        failed = any(piece.error for piece in self._coming)
        while not failed and self._next < self.end and len(self._coming) < self._ahead:
            piece = _Piece(self._next, min(self._next + self._part_size, self.end))
            self._next = piece.end
            self._coming.append(piece)
            self._nursery.start_soon(self._fetch, piece)

    async def _fetch(self, piece: _Piece) -> None:
        await self._limiter.acquire_on_behalf_of(piece)
        try:
            piece.data, view = fresh_bytes(piece.end - piece.start)
            result = await self._store.get_into(self._key, view, start=piece.start, if_match=self._pin)
            await self._landed.add(result, view)
            self._landed.check_version()
        except StoreError as error:
            piece.error = error
        finally:
            self._limiter.release_on_behalf_of(piece)
        piece.over.set()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """The next bytes, at most `max_bytes`, else all that are there; none at the end.

        Errors: the `StoreError` of a piece that failed; `ObjectChangedError` where the object was replaced meanwhile;
        `ChecksumError` instead of the last piece, where all of the object was read and does not have the checksum that
        the store tells of it; `trio.ClosedResourceError` after the block; `trio.BusyResourceError` where another task
        is receiving; `ValueError` for a `max_bytes` below 1.
        """
        if max_bytes is not None and max_bytes < 1:
            raise ValueError(f"at least one byte has to be asked for, not {max_bytes}")
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving from this reader")
        self._receiving = True
        try:
            await trio.lowlevel.checkpoint()
            return await self._take(max_bytes)
        finally:
            self._receiving = False

    async def _take(self, max_bytes: int | None) -> bytes:
        if self._nursery is None:
            raise trio.ClosedResourceError("the reader is closed")
        if not self._rest and self._coming:
            self._rest = memoryview(await self._next_piece())
        taken = self._rest[:max_bytes]
        self._rest = self._rest[len(taken) :]
        whole = taken.obj
        return whole if isinstance(whole, bytes) and len(whole) == len(taken) else bytes(taken)

    async def _next_piece(self) -> bytes:
        piece = self._coming[0]
        await piece.over.wait()
        if piece.error is not None:
            raise piece.error
        self._check(1)
        self._coming.popleft()
        self._ask()
        return piece.data

    def _check(self, left: int = 0) -> None:
        """Compare the checksum, where no more than `left` pieces are to come."""
        if len(self._coming) <= left and self._next >= self.end and not self._landed.is_sound():
            raise self._landed.error("received")

    def close(self) -> None:
        """Hand over nothing more; what is under way ends with the block."""
        self._nursery, self._rest = None, memoryview(b"")
        self._coming.clear()

    async def aclose(self) -> None:
        """The same, as Trio's streams have it."""
        self.close()
        await trio.lowlevel.checkpoint()
