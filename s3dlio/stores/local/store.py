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
from contextlib import closing, suppress
from functools import partial
from typing import ClassVar, TypeVar

import trio

from ...alignment.direct import BufferedFile
from ...config import Config
from ...errors import ErrorContext, NotFoundError, StoreError, UploadNotFoundError
from ...model import GetOptions, GetResult, ListOptions, ListPage, ObjectMeta, Part, PutOptions, PutResult, Sink, Upload
from ..store import BytesSink, ObjectStore, part_of, refuse_bucket, refuse_tags
from .errors import store_error
from .files import READING, CachedFile, Draft, Opener, ReadableFile, describe
from .listing import Listing
from .paths import Root, closing_fd, encode_root, path_of, sync_directory
from .uploads import LocalUpload

_Result = TypeVar("_Result")
_Move = Callable[[memoryview, int], object]
_Begun = tuple[ReadableFile, GetResult, bytes | None]
"""A file, what is read of it, and the body if it has been read."""

_SMALL = 128 << 10
"""Up to here a body is read ahead of its sink, as copying it costs less than a second hop into a thread, and is read
from the page cache between two steps of other tasks."""


class LocalStore(ObjectStore):
    """`file:///directory`: keys are paths of files below the directory `root`, which the first write makes.

    Of `config` (by default, that of the environment), `durable`, `file_threads`, `follow_symlinks` and `stall_timeout`
    count. Errors of the system are typed, with the name of the errno as `code`.

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
        self._root = Root(encode_root(self._path), follow_symlinks=self._config.follow_symlinks)
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

    async def fetch(self, key: str, sink: Sink, options: GetOptions = GetOptions()) -> GetResult:
        context = self._context("GetObject", key)
        ready = sink if isinstance(sink, BytesSink) else None  # the one kind that may be called in any thread
        begin = partial(self._begin, path_of(key), context, options, ready)
        found = await self._at_once(context, begin) if self._reads_cache else None
        file, result, body = found if found is not None else await self._run(context, begin)
        with closing(file):
            if body is None:
                await self._spread(context, file.fill, _exactly(sink(result), result), result.start)
            elif not ready:
                sink(result)[:] = body
        return result

    def _begin(
        self, path: bytes, context: ErrorContext, options: GetOptions, ready: BytesSink | None, *, cached: bool = False
    ) -> _Begun:
        """Open the file, and read what is wanted of it if that is little; without waiting, if it is to be `cached`."""
        if cached:
            file = ReadableFile(self._root.open_cached(path, READING), CachedFile, context)
        else:
            file = self._open(path, context, self._open_file)
        try:
            result = part_of(file.meta, options, context)
            if result.end - result.start > (self._block if ready and not cached else _SMALL):
                return file, result, None
            sink = ready or BytesSink()
            file.fill(sink(result), result.start)
            file.close()  # here, in the thread
            return file, result, sink.data
        except BaseException:
            file.close()
            raise

    def _open(self, path: bytes, context: ErrorContext, opener: Opener = BufferedFile) -> ReadableFile:
        return ReadableFile(self._root.open(path, READING), opener, context)

    async def _at_once(self, context: ErrorContext, begin: partial[_Begun]) -> _Begun | None:
        """Read a small file here and now if that takes no waiting."""
        await trio.lowlevel.checkpoint()
        try:
            found = begin(cached=True)
        except BlockingIOError:
            return None
        except OSError as error:  # what `begin` itself raises is none
            raise self._typed(error, context) from error
        if found[2] is None:
            found[0].close()
            return None
        return found

    async def head(self, key: str) -> ObjectMeta:
        context = self._context("HeadObject", key)
        path = path_of(key)

        def look() -> ObjectMeta:
            with closing(self._open(path, context)) as file:
                return file.meta

        return await self._run(context, look)

    async def exists(self, key: str) -> bool:
        """Whether the object is there. It is not where the root is not, which the first write makes."""
        try:
            await self.head(key)
        except NotFoundError:
            return False
        return True

    async def put(self, key: str, data: bytes | memoryview, options: PutOptions = PutOptions()) -> PutResult:
        context = self._context("PutObject", key)
        refuse_tags(options, context)
        make, view = self._maker(key, context), memoryview(data).cast("B")
        if self._lanes == 1 or len(view) <= self._block:
            return await self._run(context, partial(self._put_at_once, make, view, options))
        draft = await self._run(context, make)
        try:
            await self._write(context, draft, view, 0)
            return await self._run(context, partial(draft.publish, options))
        finally:
            await self._clean_up(context, draft.close)

    def _put_at_once(self, make: partial[Draft], view: memoryview, options: PutOptions) -> PutResult:
        with closing(make()) as draft:
            _move_blocks(draft.file.write, view, 0, iter(range(0, len(view), self._block)), self._block)
            return draft.publish(options)

    def _maker(self, key: str, context: ErrorContext) -> partial[Draft]:
        return partial(Draft, self._root, path_of(key), self._open_file, self._config, context)

    async def list_page(self, prefix: str = "", options: ListOptions = ListOptions()) -> ListPage:
        read = partial(self._listing.page, prefix, options)
        page, passed_over = await self._run(self._context("ListObjects", None), read)
        if passed_over and not self._warned:
            self._warned = True
            warnings.warn(f"{self.uri}: what is no object is not listed, such as {passed_over}", stacklevel=2)
        return page

    async def delete(self, key: str) -> None:
        await self._run(self._context("DeleteObject", key), partial(self._delete, path_of(key)))

    def _delete(self, path: bytes) -> None:
        """Empty directories go too, as common prefixes do."""
        name = path.rpartition(b"/")[2]
        with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
            with closing_fd(self._root.open_parent(path)) as parent:
                describe("", os.stat(name, dir_fd=parent, follow_symlinks=self._root.follow_symlinks))
                os.unlink(name, dir_fd=parent)
                if self._config.durable == "full":
                    sync_directory(parent)
            self._root.prune(path)

    async def copy(self, source: str, target: str, *, source_bucket: str | None = None) -> PutResult:
        context, reading = self._context("CopyObject", target), self._context("GetObject", source)
        refuse_bucket(source_bucket, context)
        make = self._maker(target, context)
        with closing(await self._run(reading, partial(self._open, path_of(source), reading))) as old:

            def copy() -> PutResult:
                with closing(make(mode=old.mode)) as draft:
                    old.copy_to(draft.file)
                    return draft.publish(PutOptions(old.meta.content_type, old.meta.metadata))

            return await self._run(context, copy)

    async def create_upload(self, key: str, options: PutOptions = PutOptions()) -> Upload:
        context = self._context("CreateMultipartUpload", key)
        refuse_tags(options, context)
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
        del self._uploads[upload.id]  # before anything is awaited: from here on, nobody can abort it or add parts

        def publish() -> PutResult:
            with closing(pending.assemble(parts)) as draft:
                return draft.publish(upload.options)

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
        await self._spread(context, draft.file.write, view, start)

    async def _spread(self, context: ErrorContext, move: _Move, view: memoryview, start: int) -> None:
        """Have `move` move all of `view`, which lies at `start` in the file: block by block, lanes side by side."""
        first = start - start % self._block  # blocks of the file, so that no two lanes meet inside a page
        blocks = range(first, start + len(view), self._block)
        shared = iter(blocks)  # range iterators may be drawn from by several threads
        lane = partial(_move_blocks, move, view, start, shared, self._block)
        failures: list[Exception] = []

        async def run_lane() -> None:
            try:
                await self._run(context, lane)
            except Exception as error:  # raised below, as a nursery would wrap it in a group
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
            raise self._typed(error, context) from error

    def _typed(self, error: OSError, context: ErrorContext) -> StoreError:
        return store_error(error, context, follow_symlinks=self._config.follow_symlinks)

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
