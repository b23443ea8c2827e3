"""Large objects in parallel parts.

Theory of operation. :class:`ParallelStore` stands before a store whose verbs are one request each. Reads above a part
become ranges that all land in one buffer, writes above a part become a multipart upload, and one limiter bounds the
parts under way over all objects. Invariant: all ranges of one read are of one version, the one that answered first;
every other is pinned to its etag, and all answers are compared. A whole object has the checksum that the store tells of
it, or is read once more, in one request, which one endpoint answers (:mod:`.stores.integrity`). Cancellation and
failure: the first failure cancels the sibling parts and is raised by itself, not in a group; an upload that does not
complete is aborted, shielded, for at most a few seconds, so nothing becomes visible and no parts are left to pay for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from .alignment.buffers import AlignedBuffer, fresh_bytes
from .config import MiB
from .copies import COPY_PART, copy_in_parts
from .errors import ErrorContext, ObjectChangedError, RangeError, RequestError, StoreError
from .model import BoundedRange, GetOptions, GetResult, ObjectMeta, Part, PutOptions, PutResult, Upload, flat
from .parts import MAX_OBJECT, buffers_for, growing_part_size, part_size_for, plan_ranges
from .siblings import sibling_tasks
from .stores.integrity import Digester, Landed
from .stores.store import ObjectStore, discard, exactly
from .stores.wrapper import WrapperStore
from .transport.http1 import is_weak

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

Admit = Callable[[int], Awaitable[None]]
"""Waits until an object of so many bytes may be received."""


class ParallelStore(WrapperStore):
    """What :func:`s3dlio.open_store` returns: the store `inner`, with large objects moved in parallel parts.

    Objects above `part_size` bytes are read in ranges and written in parts of that size (5 MiB at least, larger where
    10,000 parts would not hold the object). `parts_in_flight` bounds the parts under way, over all objects. The first
    part of a read, which may be all there is, does not count. `memory_limit` bounds the bytes that one writer holds, as
    long as one part is within it. Errors: each method raises `StoreError`, as :class:`ObjectStore` says.
    """

    replicas: tuple[ParallelStore, ...] = ()
    """Those that are read from where this one fails: see :mod:`s3dlio.replicas`."""

    def __init__(
        self, inner: ObjectStore, *, part_size: int, parts_in_flight: int, memory_limit: int = 256 * MiB
    ) -> None:
        super().__init__(inner)
        self._part_size = part_size
        self._memory_limit = memory_limit
        self._limiter = trio.CapacityLimiter(parts_in_flight)
        self._digest = Digester()
        self._knows_ranges = False

    async def get(
        self,
        key: str,
        *,
        known: ObjectMeta | None = None,
        if_match: str | None = None,
        admit: Admit | None = None,
    ) -> bytes:
        """The whole object `key`.

        `known`, from a listing, has all ranges asked for at once; a stale one does no harm. `if_match` is the etag of
        the version to read. `admit` is awaited, with the size in bytes, when that is known and before more than a part
        of the object is received. Errors: `NotFoundError`; `ObjectChangedError` where the object was replaced;
        `ChecksumError` where it has another checksum than the store tells, twice.
        """
        if known is not None and known.size <= self._part_size:
            return await self.inner.get(key, if_match=if_match)
        data, view, landed = await self._get_once(key, known, if_match, admit)
        if not landed.is_sound():
            await self._get_again(key, view, landed)
        return data

    async def _get_again(self, key: str, view: memoryview, landed: Landed) -> GetResult:
        """What came in parts and is not sound, in one request: from one endpoint, where there are several.

        Errors: `ChecksumError` where that is not sound either.
        """
        result = await self.inner.fetch(key, exactly(view), GetOptions(if_match=landed.metas[0].etag))
        if not result.verified and not await self._digest.matches(landed.checksum(), view):
            raise landed.error()
        return result

    async def _get_once(
        self, key: str, known: ObjectMeta | None, if_match: str | None, admit: Admit | None
    ) -> tuple[bytes, memoryview, Landed]:
        if known is None or known.etag is None or is_weak(known.etag):
            return await self._get_unknown(key, if_match, admit)
        try:
            if self._knows_ranges:
                return await self._get_known(key, known.size, if_match or known.etag)
            return await self._get_unknown(key, if_match or known.etag, admit)
        except ObjectChangedError:
            if if_match is not None:
                raise
        return await self._get_unknown(key, None, admit)

    async def _get_known(self, key: str, size: int, etag: str) -> tuple[bytes, memoryview, Landed]:
        data, view = fresh_bytes(size)
        landed = self._landed(key)
        await self._fill(key, view, 0, etag, landed)
        return data, view, landed

    async def _get_unknown(
        self, key: str, if_match: str | None, admit: Admit | None
    ) -> tuple[bytes, memoryview, Landed]:
        """The first part tells the size and the version; the others start as soon as its head is in."""
        data, view, landed = b"", memoryview(b""), self._landed(key)
        async with sibling_tasks() as nursery:

            async def rest(meta: ObjectMeta, end: int) -> None:
                if admit is not None:
                    await admit(meta.size)
                await self._fill(key, view[end:], end, meta.etag or if_match, landed)

            def sink(coming: GetResult) -> memoryview:
                nonlocal data, view
                data, view = fresh_bytes(coming.meta.size)
                if coming.end + coming.excess >= len(view):
                    return view
                self._knows_ranges = True
                nursery.start_soon(rest, coming.meta, coming.end)
                return view[: coming.end]

            try:
                first = BoundedRange(0, self._part_size)
                result = await self.inner.fetch(key, sink, GetOptions(first, if_match))
            except RangeError:
                return await self.inner.get(key, if_match=if_match), view, landed
            await landed.add(result, view[: result.end])
        return data, view, landed

    async def get_into(self, key: str, view: memoryview, *, start: int = 0, if_match: str | None = None) -> GetResult:
        """Fill `view` (writable, contiguous) with the bytes of `key` from `start`.

        `if_match` is the etag of the version to read. The result tells the version and the bytes. Errors:
        `NotFoundError`; `IntegrityError` where the object ends before the view is full; `ChecksumError` where all of it
        has another checksum than the store tells, twice; `ObjectChangedError`.
        """
        whole = flat(view)
        if len(whole) <= self._part_size:
            return await self.inner.get_into(key, whole, start=start, if_match=if_match)
        landed = await self._get_into_once(key, whole, start, if_match)
        if not landed.is_sound():
            await self._get_again(key, whole, landed)
        return GetResult(landed.metas[0], start, start + len(whole))

    async def _get_into_once(self, key: str, view: memoryview, start: int, if_match: str | None) -> Landed:
        end, size, landed = start + len(view), self._part_size, self._landed(key)
        async with sibling_tasks() as nursery:

            def sink(coming: GetResult) -> memoryview:
                meta = coming.meta
                exactly(view)(GetResult(meta, start, min(end, meta.size)))
                landed.whole = (start, end) == (0, meta.size)
                if coming.end + coming.excess >= end:
                    return view
                self._knows_ranges = True
                nursery.start_soon(self._fill, key, view[size:], start + size, meta.etag or if_match, landed)
                return view[:size]

            result = await self.inner.fetch(key, sink, GetOptions(BoundedRange(start, start + size), if_match))
            await landed.add(result, view[: result.end - start])
        return landed

    def _landed(self, key: str) -> Landed:
        wanted = self.inner.checksums
        digest = self._digest if wanted != "off" else None
        return Landed(key, digest, self.inner.look_up_checksum, required=wanted == "require")

    async def _fill(self, key: str, view: memoryview, start: int, etag: str | None, landed: Landed) -> None:
        parts = plan_ranges(0, len(view), self._part_size)
        await self._get_pieces(key, ((start + first, view[first:end]) for first, end in parts), etag, landed)

    async def get_pieces(
        self, key: str, pieces: Iterable[tuple[int, memoryview]], *, if_match: str | None = None
    ) -> ObjectMeta | None:
        """Fill views with bytes of `key`, one request each, all of one version.

        `pieces` are pairs of a first byte and a view of at most a part; they are drawn as their requests begin.
        `if_match` is the etag of the version to read. Returns the metadata of that version, `None` where there are no
        pieces. Errors: `ObjectChangedError` where the answers are of two versions; what :meth:`get_into` raises.
        """
        landed = Landed(key)
        await self._get_pieces(key, pieces, if_match, landed)
        return landed.metas[0] if landed.metas else None

    async def _get_pieces(
        self, key: str, pieces: Iterable[tuple[int, memoryview]], etag: str | None, landed: Landed
    ) -> None:
        async with sibling_tasks() as nursery:
            nursery.start_soon(landed.look)
            for start, view in pieces:
                await self._limiter.acquire_on_behalf_of(token := object())
                nursery.start_soon(self._piece, key, view, start, etag, token, landed)
        landed.check_version()

    async def _piece(
        self, key: str, view: memoryview, start: int, etag: str | None, token: object, landed: Landed
    ) -> None:
        try:
            result = await self.inner.get_into(key, view, start=start, if_match=etag)
        finally:
            self._limiter.release_on_behalf_of(token)
        await landed.add(result, view)

    async def put(self, key: str, data: ReadableBuffer, options: PutOptions = PutOptions()) -> PutResult:
        """Write the object `key`: in one request, or as parts sent from where `data` lies. It appears whole.

        `data` is any contiguous buffer of up to 5 TiB, and must not change meanwhile. `options` are the object's
        headers and what has to be there before. Errors: `PreconditionFailedError`, `AlreadyExistsError`; `RequestError`
        for too large an object; then nothing was written. `TypeError` for what is no buffer.
        """
        view = flat(data)
        part_size = part_size_for(len(view), self._part_size)
        if len(view) <= max(part_size, self.inner.put_limit):
            return await self.inner.put(key, view, options)
        async with self.open_writer(key, options, part_size=part_size) as writer:
            await writer.write(await writer._lend(view))
        return writer.result

    async def copy(self, source: str, target: str, *, source_bucket: str | None = None) -> PutResult:
        """Copy the object `source` to `target`, on the server; what one request cannot copy in parts, several at once.

        `source_bucket` names another bucket of the same service and account. The copy appears whole. Errors:
        `NotFoundError`; `ObjectChangedError` where a large source was replaced meanwhile; `UnsupportedError` where the
        store cannot copy from another bucket. Then there is no copy.
        """
        begun = await self.inner.begin_copy(source, target, source_bucket=source_bucket)
        if begun is None:
            return await self.inner.copy(source, target, source_bucket=source_bucket)
        return await copy_in_parts(self.inner, begun, max(self._part_size, COPY_PART), self._limiter)

    @asynccontextmanager
    async def open_writer(
        self, key: str, options: PutOptions = PutOptions(), *, part_size: int | None = None
    ) -> AsyncIterator[PartWriter]:
        """A writer of the object `key`, whose length need not be known. It appears when the block ends without error.

        `options` are as in :meth:`put`, `part_size` is in bytes, by default the store's. Errors: `StoreError`; then,
        and when the block raises or is cancelled, no object appears.
        """
        size = part_size or self._part_size
        writer = PartWriter(self.inner, key, options, size, self._limiter, self._memory_limit)
        try:
            async with sibling_tasks() as writer._nursery:
                yield writer
                await writer._finish_parts()
            await writer._publish()
        except BaseException as error:
            await writer._discard(error)
            raise
        finally:
            writer._let_go()


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
        usable = self._failure is None and self._nursery is not None and self.size + len(data) <= MAX_OBJECT
        if not usable or (len(data) and not self._has_buffer()) or self._may_lend(data):
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
        if self._upload is None:
            self._upload = await self._store.create_upload(self._key, self._options)
            if self._over:  # the block has ended meanwhile, in another task
                await self._discard(self.spoil(trio.ClosedResourceError()))
        self._number += 1
        await self._limiter.acquire_on_behalf_of(token := object())
        try:
            await self._usable()  # another part may have failed meanwhile
            nursery.start_soon(self._send_part, self._upload, self._number, data, buffer, token)
        except BaseException:
            self._limiter.release_on_behalf_of(token)
            raise

    async def _send_part(
        self, upload: Upload, number: int, data: memoryview, buffer: AlignedBuffer | None, token: object
    ) -> None:
        try:
            self._parts.append(await self._store.upload_part(upload, number, data))
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
