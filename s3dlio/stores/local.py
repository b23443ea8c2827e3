"""Directories as stores: `file:///directory/`, and what `direct://` shares with it.

File systems block, so work on files is done in threads, under one limiter. A small file costs one hop into a thread: it
is opened, looked at and read there. It costs none if all of it is in the caches of the kernel, as then nothing blocks.
The bodies of large files are moved in blocks, by as many lanes, each a thread, as the store has. Cancellation is
noticed between two blocks; a system call is always waited for, as it works on the caller's memory.

Content type and metadata are kept in extended attributes (`user.mime_type`, and `user.s3dlio.metadata` as JSON), and
writing them where the file system has none is an `UnsupportedError`.
"""

from __future__ import annotations

import os
import secrets
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, TypeVar

import trio

from ..alignment.direct import BufferedFile
from ..config import Config
from ..errors import (
    ErrorContext,
    NotModifiedError,
    ObjectChangedError,
    RangeError,
    StoreError,
    UploadNotFoundError,
)
from ..model import GetRange, GetResult, ListPage, ObjectMeta, Part, PutOptions, PutResult, Sink, Upload, resolve
from .local_errors import store_error
from .local_files import READING, CachedFile, Draft, Source, describe
from .local_listing import Listing, Query
from .local_paths import Root, path_of, sync_directory
from .local_uploads import LocalUpload
from .store import DEFAULT_PUT, BytesSink, ObjectStore, refuse_bucket

_Result = TypeVar("_Result")
_Move = Callable[[memoryview, int], object]
_Begun = tuple[Source, GetResult, bytes | None]
"""A file, what is read of it, and the body if it has been read."""


_SMALL = 128 << 10
"""Up to here a body is read ahead of its sink, as copying it costs less than a second hop into a thread, and is read
from the page cache between two steps of other tasks."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a read is to be of."""

    path: bytes
    context: ErrorContext
    byte_range: GetRange | None
    if_match: str | None
    if_none_match: str | None

    def part_of(self, meta: ObjectMeta) -> GetResult:
        """Errors: `ObjectChangedError`, `NotModifiedError`, `RangeError`."""
        if self.if_match is not None and meta.etag != self.if_match:
            raise ObjectChangedError("the file was replaced", self.context)
        if self.if_none_match is not None and meta.etag == self.if_none_match:
            raise NotModifiedError("the file is the same", self.context)
        start, end = resolve(self.byte_range, meta.size)
        if self.byte_range is not None and start >= meta.size:
            raise RangeError(f"the range begins at or past the end, {meta.size}", self.context)
        return GetResult(meta, start, end)


class LocalStore(ObjectStore):
    """`file:///directory`: keys are paths of files below the directory `root`, which the first write makes.

    What S3 can and files cannot: a key with an empty segment, `.` or `..`, or with one longer than 255 bytes, is an
    `InvalidKeyError`, and so is writing `a/b` where `a` is an object, or `a` where `a/b` is. Symbolic links are refused
    unless `config.follow_symlinks`. Etags change with every write. `if_match` holds against other conditional writes,
    by advisory locks, but not against unconditional ones at the same moment.
    """

    scheme: ClassVar[str] = "file"
    _block: ClassVar[int] = 8 << 20
    """Most bytes moved between two looks at whether the task was cancelled."""

    def __init__(self, root: str, config: Config | None = None) -> None:
        self._config = config or Config()
        self._path = os.path.abspath(root)
        self._root = Root(os.fsencode(self._path), follow_symlinks=self._config.follow_symlinks)
        self._listing = Listing(self._root)
        self._limiter = trio.CapacityLimiter(self._config.file_threads)
        self._lanes = 1
        self._reads_cache = True
        self._uploads: dict[str, LocalUpload] = {}
        self._warned = False

    @property
    def uri(self) -> str:
        return f"{self.scheme}://{self._path.rstrip('/')}"

    def _open_file(self, fd: int) -> BufferedFile:
        """How this store reads and writes an open file."""
        return BufferedFile(fd)

    async def fetch(
        self,
        key: str,
        sink: Sink,
        *,
        byte_range: GetRange | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> GetResult:
        context = self._context("GetObject", key)
        wanted = _Wanted(path_of(key), context, byte_range, if_match, if_none_match)
        ready = sink if isinstance(sink, BytesSink) else None  # the one kind that may be called in any thread
        begin = partial(self._begin, wanted, ready)
        found = await self._at_once(context, begin) if self._reads_cache else None
        source, result, body = found if found is not None else await self._run(context, begin)
        try:
            if body is None:
                await self._spread(context, source.fill, _exactly(sink(result), result), result.start)
            elif not ready:
                sink(result)[:] = body
        finally:
            source.close()
        return result

    def _begin(self, wanted: _Wanted, ready: BytesSink | None, *, cached: bool = False) -> _Begun:
        """Open the file, and read what is wanted of it if that is little; without waiting, if it is to be `cached`."""
        source = self._open(wanted, cached)
        try:
            result = wanted.part_of(source.meta)
            if result.end - result.start > (self._block if ready and not cached else _SMALL):
                return source, result, None
            sink = ready or BytesSink()
            source.fill(sink(result), result.start)
            source.close()
            return source, result, sink.data
        except BaseException:
            source.close()
            raise

    def _open(self, wanted: _Wanted, cached: bool) -> Source:
        if cached:
            return Source(self._root.open_cached(wanted.path, READING), CachedFile, wanted.context)
        return Source(self._root.open(wanted.path, READING), self._open_file, wanted.context)

    async def _at_once(self, context: ErrorContext, begin: partial[_Begun]) -> _Begun | None:
        """Read a small file here and now if that takes no waiting."""
        await trio.lowlevel.checkpoint()
        try:
            found = begin(cached=True)
        except BlockingIOError:
            return None
        except OSError as error:
            raise error if isinstance(error, StoreError) else store_error(error, context) from error
        if found[2] is None:
            found[0].close()
            return None
        return found

    async def head(self, key: str) -> ObjectMeta:
        context = self._context("HeadObject", key)
        path = path_of(key)

        def look() -> ObjectMeta:
            with Source(self._root.open(path, READING), BufferedFile, context) as source:
                return source.meta

        return await self._run(context, look)

    async def put(self, key: str, data: bytes | memoryview, options: PutOptions = DEFAULT_PUT) -> PutResult:
        context = self._context("PutObject", key)
        make, view = self._maker(key, context), memoryview(data).cast("B")
        if self._lanes == 1 or len(view) <= self._block:
            return await self._run(context, partial(self._put_at_once, make, view, options))
        draft = await self._run(context, make)
        try:
            await self._write(context, draft, view, 0)
            return await self._run(context, partial(draft.publish, options, self._config.stall_timeout))
        finally:
            await self._clean_up(context, draft.close)

    def _put_at_once(self, make: partial[Draft], view: memoryview, options: PutOptions) -> PutResult:
        with make() as draft:
            _move_blocks(draft.write, view, 0, iter(range(0, len(view), self._block)), self._block)
            return draft.publish(options, self._config.stall_timeout)

    def _maker(self, key: str, context: ErrorContext) -> partial[Draft]:
        return partial(Draft, self._root, path_of(key), self._open_file, self._config.durable, context)

    async def list_page(
        self,
        prefix: str = "",
        *,
        delimiter: str = "",
        start_after: str = "",
        token: str | None = None,
        limit: int = 1000,
    ) -> ListPage:
        query = Query.of(prefix, delimiter, start_after, token)
        context = self._context("ListObjects", None)
        page, passed_over = await self._run(context, partial(self._listing.page, query, limit))
        if passed_over and not self._warned:
            self._warned = True
            warnings.warn(f"{self.uri}: what is no object is not listed, such as {passed_over}", stacklevel=2)
        return page

    async def delete(self, key: str) -> None:
        context = self._context("DeleteObject", key)
        path = path_of(key)
        await self._run(context, partial(self._delete, path))

    def _delete(self, path: bytes) -> None:
        """Empty directories go too, as common prefixes do."""
        try:
            parent = self._root.open_parent(path)
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            name = path.rpartition(b"/")[2]
            describe("", os.stat(name, dir_fd=parent, follow_symlinks=self._root.follow_symlinks))
            os.unlink(name, dir_fd=parent)
            if self._config.durable == "full":
                sync_directory(parent)
        except (FileNotFoundError, IsADirectoryError):
            return
        finally:
            os.close(parent)
        self._root.prune(path)

    async def copy(self, source: str, target: str, *, source_bucket: str | None = None) -> PutResult:
        refuse_bucket(source_bucket, self._context("CopyObject", target))
        make = self._maker(target, self._context("CopyObject", target))
        context = self._context("GetObject", source)
        path = path_of(source)
        old = await self._run(context, lambda: Source(self._root.open(path, READING), BufferedFile, context))

        def copy() -> PutResult:
            with make() as draft:
                old.copy_to(draft.file)
                options = PutOptions(old.meta.content_type, old.meta.metadata)
                return draft.publish(options, self._config.stall_timeout)

        try:
            return await self._run(self._context("CopyObject", target), copy)
        finally:
            old.close()

    async def create_upload(self, key: str, options: PutOptions = DEFAULT_PUT) -> Upload:
        context = self._context("CreateMultipartUpload", key)
        make = self._maker(key, context)
        draft = await self._run(context, make)
        upload = Upload(key, secrets.token_hex(8), options)
        self._uploads[upload.id] = LocalUpload(upload, make, draft)
        return upload

    async def upload_part(self, upload: Upload, number: int, data: bytes | memoryview) -> Part:
        context = self._context("UploadPart", upload.key)
        view, pending = memoryview(data).cast("B"), self._pending(upload, context)
        pending.writing += 1
        try:
            start = await pending.start_of(number, len(view))
            spill = partial(pending.spill, len(view))
            draft, offset = (pending.main, start) if start is not None else await self._run(context, spill)
            await self._write(context, draft, view, offset)
            return pending.written(number, len(view), draft, offset)
        finally:
            pending.writing -= 1
            if pending.dropped and not pending.writing:
                await self._clean_up(context, pending.close)

    async def complete_upload(self, upload: Upload, parts: Sequence[Part]) -> PutResult:
        context = self._context("CompleteMultipartUpload", upload.key)
        pending = self._pending(upload, context)
        pending.check(parts, context)
        del self._uploads[upload.id]

        def publish() -> PutResult:
            with pending.assemble(parts) as draft:
                return draft.publish(upload.options, self._config.stall_timeout)

        try:
            return await self._run(context, publish)
        finally:
            await self._clean_up(context, pending.close)

    async def abort_upload(self, upload: Upload) -> None:
        await trio.lowlevel.checkpoint()
        if pending := self._uploads.pop(upload.id, None):
            await self._drop(pending)

    async def _drop(self, pending: LocalUpload) -> None:
        pending.dropped = True
        if not pending.writing:
            await self._clean_up(self._context("AbortMultipartUpload", pending.upload.key), pending.close)

    def _pending(self, upload: Upload, context: ErrorContext) -> LocalUpload:
        pending = self._uploads.get(upload.id)
        if pending is None:
            raise UploadNotFoundError("no such upload", context)
        return pending

    async def aclose(self) -> None:
        """Drop uploads that were neither completed nor aborted."""
        await trio.lowlevel.checkpoint()
        while self._uploads:
            await self._drop(self._uploads.popitem()[1])

    async def _write(self, context: ErrorContext, draft: Draft, view: memoryview, start: int) -> None:
        if self._lanes > 1 and len(view) > self._block:
            await self._run(context, partial(draft.file.reserve, start, len(view)))
        await self._spread(context, draft.write, view, start)

    async def _spread(self, context: ErrorContext, move: _Move, view: memoryview, start: int) -> None:
        """Have `move` move all of `view`, which lies at `start` in the file: block by block, lanes side by side."""
        first = start - start % self._block
        blocks = range(first, start + len(view), self._block)
        shared = iter(blocks)  # range iterators may be drawn from by several threads
        lane = partial(_move_blocks, move, view, start, shared, self._block)
        failures: list[Exception] = []

        async def run_lane() -> None:
            try:
                await self._run(context, lane)
            except Exception as error:
                failures.append(error)
                nursery.cancel_scope.cancel()

        if (lanes := min(self._lanes, len(blocks))) <= 1:
            await self._run(context, lane)
            return
        async with trio.open_nursery() as nursery:
            for _ in range(lanes):
                nursery.start_soon(run_lane)
        if failures:
            raise failures[0]

    async def _run(self, context: ErrorContext, work: Callable[[], _Result]) -> _Result:
        """Do blocking work in a thread; what the system reports is raised as a `StoreError`."""
        try:
            return await trio.to_thread.run_sync(work, limiter=self._limiter)
        except StoreError:
            raise
        except OSError as error:
            raise store_error(error, context) from error

    async def _clean_up(self, context: ErrorContext, work: Callable[[], None]) -> None:
        with trio.CancelScope(shield=True):
            await self._run(context, work)

    def _context(self, operation: str, key: str | None) -> ErrorContext:
        return ErrorContext(operation=operation, bucket=self._path, key=key, attempts=1)


def _move_blocks(move: _Move, view: memoryview, start: int, blocks: Iterator[int], size: int) -> None:
    """One lane: take the next block and move it, until there are none. In a thread of Trio's."""
    for first in blocks:
        trio.from_thread.check_cancelled()
        begin, end = max(first, start), min(first + size, start + len(view))
        move(view[begin - start : end - start], begin)


def _exactly(view: memoryview, result: GetResult) -> memoryview:
    if len(view) != result.end - result.start:
        raise ValueError(f"the sink gave {len(view)} bytes for a body of {result.end - result.start}")
    return view
