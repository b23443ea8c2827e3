"""Objects written piece by piece: what is written is sent in parts while more is being written."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio

from .alignment.buffers import AlignedBuffer
from .errors import ErrorContext, RequestError, StoreError
from .model import Part, PutOptions, PutResult, Upload, flat
from .parts import MAX_OBJECT, buffers_for, growing_part_size
from .siblings import sibling_tasks
from .stores.store import ObjectStore, discard

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

MakePart = Callable[[Upload, int], Awaitable[Part]]
"""Makes the part of an upload that has this number."""


def _is_fixed(view: memoryview) -> bool:
    """Whether nobody can change these bytes."""
    return type(view.obj) is bytes


class PartWriter:
    """The upload of the object `key` to `store`, with `options`, as :meth:`ParallelStore.open_writer` begins it.

    Written bytes leave as soon as a part of `part_size` bytes is full, as many parts at once as `limiter` lets. `size`
    is how many bytes were written; `result` tells the version, once the block has ended.

    What :meth:`write` is given may be reused when it returns. It is copied, once, into buffers of the writer's own, so
    that the next bytes come while its parts are under way. Not copied are whole parts of `bytes`, as these cannot
    change, and of a write of twice as much as is in flight at once, which is waited for. The buffers are used again
    when their part is sent (fresh memory costs more than the copy). One more of them exists at most than parts are in
    flight, and no more than `memory_limit` bytes hold: as parts grow, fewer of them are under way. Small objects become
    a single PUT. A write that fails or is cancelled leaves a hole, so the object is not made then, whatever is written
    afterwards.
    """

    def __init__(
        self,
        store: ObjectStore,
        key: str,
        options: PutOptions,
        part_size: int,
        limiter: trio.CapacityLimiter,
        memory_limit: int,
    ) -> None:
        self.result = PutResult(None)
        self.size = 0
        self._store = store
        self._key = key
        self._options = options
        self._part_size = part_size
        self._limiter = limiter
        self._memory_limit = memory_limit
        self._pending: AlignedBuffer | None = None
        self._pending_size = 0
        self._idle: list[AlignedBuffer] = []
        self._busy = 0
        self._buffer_sent = trio.Event()
        self._upload: Upload | None = None
        self._over = False
        self._number = 0
        self._parts: list[Part] = []
        self._nursery: trio.Nursery | None = None
        self._failure: StoreError | None = None

    def absorb(self, data: memoryview) -> memoryview | None:
        """Append of `data`, of format 'B', what can be copied without waiting; what is left, for :meth:`make_way`.

        `None` where nothing is left to be done; nothing (a view of no bytes) where the part is full. The caller may be
        in another thread, as long as nothing else is asked of the writer meanwhile. Errors: `OSError` where there is
        no memory; then no object is made.
        """
        if not self._is_usable(len(data)) or (len(data) and not self._has_buffer()) or self._may_lend(data):
            return data
        missing = self._next_size() - self._pending_size
        try:
            if len(data):
                self._keep(data[:missing])
        except BaseException as error:  # an interrupt, or no memory
            self.spoil(error)
            raise
        return data[missing:] if len(data) >= missing else None

    async def write(self, data: ReadableBuffer) -> None:
        """Append `data`, any contiguous buffer.

        Errors: the `StoreError` of a part that failed, of this write or of an earlier one; `RequestError` beyond 5 TiB;
        `trio.ClosedResourceError` after the block; `TypeError` for what is no buffer.
        """
        rest = self.absorb(flat(data))
        while rest is not None:
            rest = self.absorb(await self.make_way(rest))

    async def make_way(self, data: memoryview) -> memoryview:
        """Begin to send a part that is full, and wait until there is a buffer for `data`; what of it is left to absorb.

        Errors: those of :meth:`write`.
        """
        nursery = await self._usable(len(data))
        try:
            if self._pending_size == self._next_size():
                await self._send_pending(nursery)
            if self._may_lend(data):
                data = await (self._send_parts(data, nursery) if _is_fixed(data) else self._lend(data))
            if len(data):
                await self._wait_for_buffer()
        except BaseException as error:
            self.spoil(error)
            raise
        return data

    def _may_lend(self, data: memoryview) -> bool:
        """Whether whole parts of it need no copy, or so many come at once that waiting for the last costs less."""
        parts = 1 if _is_fixed(data) else 2 * self._limiter.total_tokens
        return not self._pending_size and len(data) >= parts * self._next_size()

    async def _lend(self, view: memoryview) -> memoryview:
        """Send the whole parts from where they lie, and wait until they are sent; what is left is less than one."""
        await self._usable(len(view))
        async with sibling_tasks() as borrowing:
            return await self._send_parts(view, borrowing)

    async def _send_parts(self, view: memoryview, nursery: trio.Nursery) -> memoryview:
        while len(view) >= (part := self._next_size()):
            await self._send(view[:part], nursery)
            self.size += part
            view = view[part:]
        return view

    def _is_usable(self, coming: int) -> bool:
        return self._failure is None and self._nursery is not None and self.size + coming <= MAX_OBJECT

    async def _usable(self, coming: int = 0) -> trio.Nursery:
        """The nursery to send parts in, if the object can become whole with so many more bytes. No checkpoint then."""
        if self._failure is not None:
            await trio.lowlevel.checkpoint_if_cancelled()  # that may be why it cannot
            raise self._failure
        if self._nursery is None:
            raise trio.ClosedResourceError("the writer is closed")
        if self.size + coming > MAX_OBJECT:
            raise self.spoil(RequestError(f"an object can hold {MAX_OBJECT} bytes at most", self._context()))
        return self._nursery

    def spoil(self, error: BaseException) -> BaseException:
        """Note that, because of `error`, which is returned, the object cannot become whole any more."""
        cut_short = StoreError("an earlier write was cut short", self._context())
        self._failure = self._failure or (error if isinstance(error, StoreError) else cut_short)
        return error

    def _context(self) -> ErrorContext:
        return ErrorContext(operation="PutObject", key=self._key)

    def _next_size(self) -> int:
        return growing_part_size(self._number + 1, self._part_size)

    def _keep(self, data: memoryview) -> None:
        """Copy the beginning of a part, or what continues it."""
        pending = self._pending
        if pending is None:
            pending = self._pending = self._buffer(self._next_size())
        end = self._pending_size + len(data)
        pending.view[self._pending_size : end] = data
        self._pending_size = end
        self.size += len(data)

    def _has_buffer(self) -> bool:
        """Whether there is one to copy into, or may be."""
        return self._pending is not None or self._busy < buffers_for(self._next_size(), self._memory_limit)

    async def _wait_for_buffer(self) -> None:
        while not self._has_buffer():
            self._buffer_sent = trio.Event()
            await self._buffer_sent.wait()
            await self._usable()  # the part may have failed

    def _buffer(self, size: int) -> AlignedBuffer:
        """One whose part was sent, else a new one. Those of other sizes are too small for all parts to come."""
        idle = self._idle
        while idle:
            buffer = idle.pop()  # the loop's thread may add some meanwhile, but takes none
            if buffer.size == size:
                return buffer
        return AlignedBuffer(size, shared=False)  # nothing is received into it: a fork may copy it

    def _kept(self) -> memoryview:
        return self._pending.view[: self._pending_size] if self._pending is not None else memoryview(b"")

    async def _send_pending(self, nursery: trio.Nursery) -> None:
        data, buffer = self._kept(), self._pending
        self._pending, self._pending_size = None, 0
        self._busy += 1
        await self._send(data, nursery, buffer)

    async def _send(self, data: memoryview, nursery: trio.Nursery, buffer: AlignedBuffer | None = None) -> None:
        async def send(upload: Upload, number: int) -> Part:
            return await self._store.upload_part(upload, number, data)

        await self._begin_part(send, nursery, buffer)

    async def _begin_part(self, make: MakePart, nursery: trio.Nursery, buffer: AlignedBuffer | None = None) -> None:
        if self._upload is None:
            self._upload = await self._store.create_upload(self._key, self._options)
            if self._over:  # the block has ended meanwhile, in another task
                await self._discard(self.spoil(trio.ClosedResourceError()))
        self._number += 1
        await self._limiter.acquire_on_behalf_of(token := object())
        try:
            await self._usable()  # another part may have failed meanwhile
            nursery.start_soon(self._make_part, make, self._upload, self._number, buffer, token)
        except BaseException:
            self._limiter.release_on_behalf_of(token)
            raise

    async def _make_part(
        self, make: MakePart, upload: Upload, number: int, buffer: AlignedBuffer | None, token: object
    ) -> None:
        try:
            self._parts.append(await make(upload, number))
            if buffer is not None:
                self._idle.append(buffer)  # before the limiter lets the next part begin, or that makes one more
        except BaseException as error:
            self.spoil(error)
            raise
        finally:
            if buffer is not None:
                self._busy -= 1
                self._buffer_sent.set()
            self._limiter.release_on_behalf_of(token)

    async def _finish_parts(self) -> None:
        """Send what is left of a multipart upload."""
        nursery = await self._usable()
        if self._upload is not None and self._pending_size:
            await self._send_pending(nursery)
        self._nursery = None

    async def _publish(self) -> None:
        """Make the object."""
        if self._upload is None:
            self.result = await self._store.put(self._key, self._kept(), self._options)
        else:
            parts = sorted(self._parts, key=lambda part: part.number)
            self.result = await self._store.complete_upload(self._upload, parts)

    def _let_go(self) -> None:
        """Forget the buffers, as the writer itself may be kept for long."""
        self._pending, self._idle = None, []

    async def _discard(self, reason: BaseException) -> None:
        """Drop what was sent, because of `reason`, which takes a note where that fails."""
        self.spoil(reason)
        self._over = True
        if self._upload is not None:
            await discard(self._store, self._upload, reason)
