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

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING

import trio

from .alignment.buffers import fresh_bytes
from .config import MiB
from .copies import COPY_PART, copy_in_parts
from .errors import ObjectChangedError, RangeError
from .folders import has_large_folders, list_folders
from .many_reader import ManyReader
from .model import (
    BoundedRange,
    GetOptions,
    GetResult,
    ListOptions,
    ListPage,
    ObjectMeta,
    PutOptions,
    PutResult,
    flat,
)
from .part_reader import PartReader
from .part_writer import PartWriter
from .parts import buffers_for, part_size_for, plan_ranges
from .reuse import OldObject
from .reusing_writer import ReusingWriter
from .siblings import sibling_tasks
from .spans import list_in_spans
from .stores.integrity import Digester, Landed
from .stores.store import ObjectStore, exactly
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
        self.part_size = part_size
        self.memory_limit = memory_limit
        self._limiter = trio.CapacityLimiter(parts_in_flight)
        self._digest = Digester()
        self._knows_ranges = False
        self.learnt: int | None = None
        """How large the objects were that were read ahead last, at most, in bytes; `None` before the first."""

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
        if known is not None and known.size <= self.part_size:
            return await self.inner.get(key, if_match=if_match)
        data, view, landed = await self._get_once(key, known, if_match, admit)
        if not landed.is_sound():
            await self._get_again(key, view, landed)
        return data

    @asynccontextmanager
    async def get_many(self, wanted: Iterable[str | ObjectMeta]) -> AsyncIterator[ManyReader]:
        """Whole objects, read ahead: `async for key, data in reader` hands them over in the order that is `wanted`.

        Give keys, which are drawn as they are needed, or what a listing told of the objects. Small ones of a store
        behind HTTP are asked for many at once, by one task, which costs a fraction of what as many calls of :meth:`get`
        do. At most 128 objects are under way or wait to be taken, and half of `memory_limit` in bytes, or one object.
        Errors: each is raised by the reader, in the place of its object.
        """
        reader = ManyReader(self, wanted)
        async with sibling_tasks() as nursery:
            nursery.start_soon(reader._run)
            try:
                yield reader
            finally:
                nursery.cancel_scope.cancel()
                reader.close()

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
                first = BoundedRange(0, self.part_size)
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
        if len(whole) <= self.part_size:
            return await self.inner.get_into(key, whole, start=start, if_match=if_match)
        landed = await self._get_into_once(key, whole, start, if_match)
        if not landed.is_sound():
            await self._get_again(key, whole, landed)
        return GetResult(landed.metas[0], start, start + len(whole))

    async def _get_into_once(self, key: str, view: memoryview, start: int, if_match: str | None) -> Landed:
        end, size, landed = start + len(view), self.part_size, self._landed(key)
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

    @asynccontextmanager
    async def open_reader(
        self, key: str, *, start: int = 0, end: int | None = None, if_match: str | None = None
    ) -> AsyncIterator[PartReader]:
        """A stream of the bytes of `key` from `start` to `end` (exclusive; all by default), read ahead in parts.

        As many parts are under way, or wait to be taken, as `parts_in_flight` and `memory_limit` allow. `if_match` is
        the etag of the version to read. Errors: `NotFoundError`; `RangeError` for a `start` that is past the object's
        end; `ValueError` where `end` is not past `start`. What fails later is raised by the reader.
        """
        ahead = min(int(self._limiter.total_tokens), buffers_for(self.part_size, self.memory_limit))
        reader = PartReader(
            self, key, part_size=self.part_size, ahead=ahead, limiter=self._limiter, landed=self._landed(key)
        )
        async with sibling_tasks() as nursery:
            await reader._begin(nursery, start, end, if_match)
            try:
                yield reader
            finally:
                nursery.cancel_scope.cancel()
                reader.close()

    async def _fill(self, key: str, view: memoryview, start: int, etag: str | None, landed: Landed) -> None:
        parts = plan_ranges(0, len(view), self.part_size)
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
            result = await self._get_part(key, view, start, etag)
        finally:
            self._limiter.release_on_behalf_of(token)
        await landed.add(result, view)

    async def _get_part(self, key: str, view: memoryview, start: int, etag: str | None) -> GetResult:
        return await self.inner.get_into(key, view, start=start, if_match=etag)

    async def put(self, key: str, data: ReadableBuffer, options: PutOptions = PutOptions()) -> PutResult:
        """Write the object `key`: in one request, or as parts sent from where `data` lies. It appears whole.

        `data` is any contiguous buffer of up to 5 TiB, and must not change meanwhile. `options` are the object's
        headers and what has to be there before. Errors: `PreconditionFailedError`, `AlreadyExistsError`; `RequestError`
        for too large an object; then nothing was written. `TypeError` for what is no buffer.
        """
        view = flat(data)
        part_size = part_size_for(len(view), self.part_size)
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
        return await copy_in_parts(self.inner, begun, max(self.part_size, COPY_PART), self._limiter)

    async def list(self, prefix: str = "", *, delimiter: str = "", start_after: str = "") -> AsyncGenerator[ListPage]:
        """All pages of what starts with `prefix`. While one is looked at, the next is on its way.

        With a `delimiter`, keys that have it after the prefix are shown once for all. Keys up to `start_after` are
        passed over. A long listing is divided, and its parts listed at once, where the store can do that.
        """
        options = ListOptions(delimiter, start_after)
        page = await self.list_page(prefix, options)
        if delimiter or page.token is None or not self.lists_from_keys:
            rest = self.pages_from(prefix, options, page)
        elif has_large_folders(page, prefix):
            yield page
            rest = list_folders(self, prefix, page.objects[-1].key)
        else:
            rest = list_in_spans(self, prefix, options, page)
        async with aclosing(rest):
            async for page in rest:
                yield page

    @asynccontextmanager
    async def open_writer(
        self, key: str, options: PutOptions = PutOptions(), *, part_size: int | None = None
    ) -> AsyncIterator[PartWriter]:
        """A writer of the object `key`, whose length need not be known. It appears when the block ends without error.

        `options` are as in :meth:`put`, `part_size` is in bytes, by default the store's. Errors: `StoreError`; then,
        and when the block raises or is cancelled, no object appears.
        """
        size = part_size or self.part_size
        writer = PartWriter(self.inner, key, options, size, self._limiter, self.memory_limit)
        async with _writing(writer):
            yield writer

    @asynccontextmanager
    async def open_reusing_writer(
        self, key: str, old: OldObject | None, options: PutOptions = PutOptions()
    ) -> AsyncIterator[ReusingWriter]:
        """A writer of the object `key`, as :meth:`open_writer`; what `old` has as well is copied by the server.

        Errors: also where the server would not copy; :attr:`ReusingWriter.refused` tells.
        """
        writer = ReusingWriter(self.inner, key, options, self.part_size, self._limiter, self.memory_limit, old)
        async with _writing(writer):
            yield writer


@asynccontextmanager
async def _writing(writer: PartWriter) -> AsyncIterator[None]:
    """Let parts be made in the block; the object appears when it ends without error."""
    try:
        async with sibling_tasks() as writer._nursery:
            yield
            await writer._finish_parts()
        await writer._publish()
    except BaseException as error:
        await writer._discard(error)
        raise
    finally:
        writer._let_go()
