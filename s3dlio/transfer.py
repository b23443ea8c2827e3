"""Large objects in parallel: plans (pure), and a store that carries them out.

Theory of operation. :class:`ParallelStore` stands before a store whose verbs are one request each. Reads above a part
become ranges that all land in one buffer, writes above a part become a multipart upload, and one limiter bounds the
parts under way over all objects. Invariant: all ranges of one read are of one version, the one that answered first;
every other is pinned to its etag. Cancellation and failure: the first failure cancels the sibling parts and is raised by
itself, not in a group; an upload that does not complete is aborted, shielded, for at most a few seconds, so nothing
becomes visible and no parts are left to pay for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import trio

from .alignment.buffers import fresh_bytes
from .errors import ErrorContext, ObjectChangedError, RangeError, RequestError, StoreError
from .model import BoundedRange, GetResult, ObjectMeta, Part, PutOptions, PutResult, Upload
from .stores.store import DEFAULT_PUT, ObjectStore, exactly
from .stores.wrapper import WrapperStore

MiB = 1 << 20
MIN_PART = 5 * MiB
MAX_PART = 5 << 30
MAX_PARTS = 10_000
MAX_OBJECT = 5 << 40
"""Limits of S3, which the other services' exceed. Source: "Amazon S3 multipart upload limits"."""

_ABORT_TIME = 5.0
_GROW_EVERY = 1000


def plan_ranges(start: int, end: int, part_size: int) -> Iterator[tuple[int, int]]:
    """`start` to `end` cut into pieces of `part_size`, the last one shorter."""
    return ((first, min(first + part_size, end)) for first in range(start, end, part_size))


def part_size_for(size: int, part_size: int) -> int:
    """A part size, at least `part_size`, that cuts `size` bytes into no more than 10,000 parts."""
    needed = -(-size // MAX_PARTS)
    return max(part_size, MIN_PART, -(-needed // MiB) * MiB)


def growing_part_size(number: int, part_size: int) -> int:
    """The size of part `number` (from 1) when the length is unknown: doubled after every 1,000 parts.

    With the smallest part size, 10,000 parts hold 5 TiB, the largest object.
    """
    return min(max(part_size, MIN_PART) << (number - 1) // _GROW_EVERY, MAX_PART)


@asynccontextmanager
async def sibling_tasks() -> AsyncIterator[trio.Nursery]:
    """A nursery for parts of one operation: the first failure comes out by itself."""
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except BaseExceptionGroup as group:
        error = first_error(group)
        raise error from error.__cause__


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """One exception to stand for a group: one that is no error of the operation (Ctrl-C) goes first."""
    leaves = list(_leaves(group))
    urgent = (leaf for leaf in leaves if not isinstance(leaf, Exception | trio.Cancelled))
    return next(urgent, None) or next((leaf for leaf in leaves if isinstance(leaf, Exception)), leaves[0])


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


class ParallelStore(WrapperStore):
    """`inner`, with large objects moved in parallel parts.

    `part_size` is in bytes; `parts_in_flight` bounds the parts under way, over all objects.
    """

    def __init__(self, inner: ObjectStore, *, part_size: int, parts_in_flight: int) -> None:
        super().__init__(inner)
        self.part_size = part_size
        self._limiter = trio.CapacityLimiter(parts_in_flight)
        self._parts_in_flight = parts_in_flight

    async def get(self, key: str, *, known: ObjectMeta | None = None, if_match: str | None = None) -> bytes:
        if known is not None and known.size <= self.part_size:
            return await self.inner.get(key, if_match=if_match)
        if known is None or known.etag is None:
            return await self._get_unknown(key, if_match)
        try:
            data, view = fresh_bytes(known.size)
            await self._fill(key, view, 0, if_match or known.etag)
            return data
        except ObjectChangedError:
            if if_match is not None:
                raise
        return await self._get_unknown(key, None)

    async def _get_unknown(self, key: str, if_match: str | None) -> bytes:
        """The first part tells the size and the version; the others start as soon as its head is in."""
        data = b""
        async with sibling_tasks() as nursery:

            def sink(coming: GetResult) -> memoryview:
                nonlocal data
                data, view = fresh_bytes(coming.meta.size)
                if coming.end < coming.meta.size:
                    pin = coming.meta.etag or if_match
                    nursery.start_soon(self._fill, key, view[coming.end :], coming.end, pin)
                return view[: coming.end]

            try:
                first = BoundedRange(0, self.part_size)
                await self.inner.fetch(key, sink, byte_range=first, if_match=if_match)
            except RangeError:
                return await self.inner.get(key, if_match=if_match)
        return data

    async def get_into(self, key: str, view: memoryview, *, start: int = 0, if_match: str | None = None) -> GetResult:
        flat = view.cast("B")
        if len(flat) <= self.part_size:
            return await self.inner.get_into(key, flat, start=start, if_match=if_match)
        async with sibling_tasks() as nursery:
            rest = flat[self.part_size :]

            def sink(coming: GetResult) -> memoryview:
                pin = coming.meta.etag or if_match
                nursery.start_soon(self._fill, key, rest, start + self.part_size, pin)
                return exactly(flat[: self.part_size])(coming)

            first = BoundedRange(start, start + self.part_size)
            result = await self.inner.fetch(key, sink, byte_range=first, if_match=if_match)
        return GetResult(result.meta, start, start + len(flat))

    async def _fill(self, key: str, view: memoryview, start: int, etag: str | None) -> None:
        async with sibling_tasks() as nursery:
            for first, end in plan_ranges(0, len(view), self.part_size):
                await self._limiter.acquire_on_behalf_of(token := object())
                nursery.start_soon(self._part, key, view[first:end], start + first, etag, token)

    async def _part(self, key: str, view: memoryview, start: int, etag: str | None, token: object) -> None:
        try:
            await self.inner.get_into(key, view, start=start, if_match=etag)
        finally:
            self._limiter.release_on_behalf_of(token)

    async def put(self, key: str, data: bytes | memoryview, options: PutOptions = DEFAULT_PUT) -> PutResult:
        view = memoryview(data).cast("B")
        if len(view) > MAX_OBJECT:
            raise RequestError(f"an object of {len(view)} bytes is too large", ErrorContext("PutObject", key=key))
        if len(view) <= max(self.part_size, MIN_PART):
            return await self.inner.put(key, view, options)
        async with self.open_writer(key, options, part_size=part_size_for(len(view), self.part_size)) as writer:
            await writer.write(view)
        return writer.result

    @asynccontextmanager
    async def open_writer(
        self, key: str, options: PutOptions = DEFAULT_PUT, *, part_size: int | None = None
    ) -> AsyncIterator[PartWriter]:
        """A writer of an object whose length need not be known. The object appears when the block ends without error.

        Errors: `StoreError`; then, and when the block raises or is cancelled, no object appears.
        """
        writer = PartWriter(self.inner, key, options, part_size or self.part_size, self._parts_in_flight)
        try:
            async with sibling_tasks() as nursery:
                writer.begin(nursery)
                yield writer
                await writer.finish_parts()
            await writer.publish()
        except BaseException:
            with trio.move_on_after(_ABORT_TIME, shield=True):
                await writer.discard()
            raise


class PartWriter:
    """The upload of one object in parts: written bytes leave as soon as a part is full.

    What :meth:`write` is given may be reused when it returns: whole parts of it are sent from where they lie, and
    waited for; the rest is copied. At most `in_flight` parts are under way. Small objects become a single PUT.
    """

    def __init__(self, store: ObjectStore, key: str, options: PutOptions, part_size: int, in_flight: int) -> None:
        self.result = PutResult(None)
        self.size = 0
        self._store = store
        self._key = key
        self._options = options
        self._part_size = part_size
        self._limiter = trio.CapacityLimiter(in_flight)
        self._pending: list[bytes] = []
        self._pending_size = 0
        self._upload: Upload | None = None
        self._number = 0
        self._parts: list[Part] = []
        self._nursery: trio.Nursery | None = None
        self._failure: StoreError | None = None

    def begin(self, nursery: trio.Nursery) -> None:
        """Take the nursery that parts are sent in."""
        self._nursery = nursery

    async def write(self, data: bytes | memoryview) -> None:
        """Append `data`. Errors: the `StoreError` of a part that failed, of this write or of an earlier one."""
        view = memoryview(data).cast("B")
        self._check()
        self.size += len(view)
        if self._pending_size + len(view) >= self._next_size():
            view = await self._write_parts(view)
        if len(view):
            self._pending.append(bytes(view))
            self._pending_size += len(view)

    async def _write_parts(self, view: memoryview) -> memoryview:
        """Send the whole parts; what is left is less than one."""
        if self._pending:
            missing = self._next_size() - self._pending_size
            await self._send(self._join(view[:missing]), self._open_nursery())
            view = view[missing:]
        async with sibling_tasks() as borrowing:
            while len(view) >= (part := self._next_size()):
                await self._send(view[:part], borrowing)
                view = view[part:]
        return view

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _next_size(self) -> int:
        return growing_part_size(self._number + 1, self._part_size)

    def _join(self, tail: memoryview) -> memoryview:
        joined = b"".join((*self._pending, tail))
        self._pending, self._pending_size = [], 0
        return memoryview(joined)

    def _open_nursery(self) -> trio.Nursery:
        if self._nursery is None:
            raise trio.ClosedResourceError("the writer is closed")
        return self._nursery

    async def _send(self, data: memoryview, nursery: trio.Nursery) -> None:
        if self._upload is None:
            self._upload = await self._store.create_upload(self._key, self._options)
        self._number += 1
        await self._limiter.acquire_on_behalf_of(token := object())
        self._check()
        nursery.start_soon(self._send_part, self._upload, self._number, data, token)

    async def _send_part(self, upload: Upload, number: int, data: memoryview, token: object) -> None:
        try:
            self._parts.append(await self._store.upload_part(upload, number, data))
        except StoreError as error:
            self._failure = error
            raise
        finally:
            self._limiter.release_on_behalf_of(token)

    async def finish_parts(self) -> None:
        """Send what is left of a multipart upload."""
        if self._upload is not None and self._pending:
            await self._send(self._join(memoryview(b"")), self._open_nursery())
        self._nursery = None

    async def publish(self) -> None:
        """Make the object."""
        if self._upload is None:
            self.result = await self._store.put(self._key, self._join(memoryview(b"")), self._options)
        else:
            parts = sorted(self._parts, key=lambda part: part.number)
            self.result = await self._store.complete_upload(self._upload, parts)

    async def discard(self) -> None:
        """Drop what was sent."""
        if self._upload is not None:
            await self._store.abort_upload(self._upload)
