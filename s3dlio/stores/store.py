"""The one interface of every store: eleven primitives a backend writes, and the verbs that follow from them.

A primitive is one request (or one short exchange) and moves bytes straight between the wire and the caller's memory.
Splitting large objects into parallel parts is :mod:`s3dlio.transfer`'s work, on top of these same primitives.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from types import TracebackType
from typing import Generic, Self, TypeVar, cast

import trio

from ..alignment.buffers import fresh_bytes
from ..config import Checksums
from ..endpoint_stats import Stats
from ..errors import (
    BucketNotFoundError,
    ErrorContext,
    IntegrityError,
    InvalidKeyError,
    NotFoundError,
    NotModifiedError,
    ObjectChangedError,
    RangeError,
    RequestError,
    StoreError,
    UnsupportedError,
)
from ..model import (
    BoundedRange,
    GetOptions,
    GetRange,
    GetResult,
    ListOptions,
    ListPage,
    ObjectMeta,
    Part,
    PartCopy,
    PutOptions,
    PutResult,
    Sink,
    Upload,
    resolve,
)
from ..observers import Observer, span_ended

T = TypeVar("T")

MAX_KEY = 1024
"""Longest key, in bytes of UTF-8. Source: "Naming Amazon S3 objects"."""

_ABORT_TIME = 5.0


class ObjectStore(ABC):
    """A bucket (or container, or directory) of objects. All methods are for use inside a Trio run.

    A `key`, `source` or `target` is an object's name below the root, at most 1,024 bytes of UTF-8; a `prefix` is how
    keys begin, plain text: end it in `/` for a folder. `data` and `view` are contiguous memory, which is sent from and
    received into where it lies, and must not change meanwhile; sizes and offsets, such as `start`, are bytes.
    `if_match` is the etag that the object must have. The `options` are :class:`s3dlio.GetOptions`, `ListOptions` and
    `PutOptions`. An `upload` and its `parts` are what :meth:`create_upload` and :meth:`upload_part` gave.

    Errors: every method raises a :class:`s3dlio.errors.StoreError`; an absent object is a `NotFoundError`
    (a `FileNotFoundError`), a refused one a `PermissionDeniedError` (a `PermissionError`).
    """

    observer: Observer | None = None
    """Who is told what happens to its requests, where it sends any."""

    @property
    def put_limit(self) -> int:
        """Bytes that one :meth:`put` had better take, where parts need more rights than it; 0 where they do not."""
        return 0

    @property
    def checksums(self) -> Checksums:
        """Whether what is read is compared with checksums, as `Config.checksums` has it; not asked where none travels.

        A file and the memory of this process have no checksums, and nothing on the way that could change a byte.
        """
        return "when_there"

    @property
    def lists_from_keys(self) -> bool:
        """Whether a listing may begin after any key, without what comes before it being gone through."""
        return False

    @property
    @abstractmethod
    def uri(self) -> str:
        """The root all keys are relative to, such as `s3://bucket`."""

    @abstractmethod
    async def fetch(self, key: str, sink: Sink, options: GetOptions = GetOptions()) -> GetResult:
        """Read an object, or a range of it, into the view that `sink` gives for it.

        Errors: `RangeError` for a range that begins at or past the end; `ObjectChangedError`, `NotModifiedError`.
        """

    @abstractmethod
    async def head(self, key: str) -> ObjectMeta:
        """The object's metadata."""

    @abstractmethod
    async def put(self, key: str, data: bytes | memoryview, options: PutOptions = PutOptions()) -> PutResult:
        """Write an object in one request, replacing any old one; what `options` asks for comes with it."""

    @abstractmethod
    async def list_page(self, prefix: str = "", options: ListOptions = ListOptions()) -> ListPage:
        """One page of the keys that start with `prefix`."""

    @abstractmethod
    async def delete(self, key: str) -> None:
        """Remove an object. Removing an absent one succeeds."""

    @abstractmethod
    async def copy(self, source: str, target: str, *, source_bucket: str | None = None) -> PutResult:
        """Copy an object, on the server. `source_bucket` names another bucket of the same service and account.

        Errors: `UnsupportedError` for another bucket where the store is a directory or in memory, or for one of another
        account; `InvalidUriError` for what is no bucket's name.
        """

    async def begin_copy(self, source: str, target: str, *, source_bucket: str | None = None) -> PartCopy | None:
        """Begin a copy in parts, of an object that is too large for one :meth:`copy`; `None` where none is needed.

        `source`, `target` and `source_bucket` are as there. Its upload is completed or aborted as any other.
        """
        return None

    async def copy_part(self, copy: PartCopy, number: int, byte_range: BoundedRange) -> Part:
        """Make `byte_range` of the source part `number` (from 1) of a copy that :meth:`begin_copy` began.

        Errors: `ObjectChangedError` where the source was replaced since.
        """
        raise UnsupportedError("this store copies in one request", ErrorContext(key=copy.upload.key))

    async def presign(self, key: str, *, method: str = "GET", seconds: int = 3600) -> str:
        """A URL by which whoever has it may do `method` (GET or PUT) with the object, for so many seconds: a secret.

        No request is sent. Errors: `UnsupportedError` where the store has no such URLs; `NoCredentialsError`;
        `ValueError` for more than a week.
        """
        raise UnsupportedError(f"there are no signed URLs of {self.uri}", ErrorContext("presign", key=key))

    def stats(self) -> Stats:
        """What was asked of the store's endpoints since it was opened; without numbers where it has none."""
        return Stats()

    @abstractmethod
    async def create_upload(self, key: str, options: PutOptions = PutOptions()) -> Upload:
        """Begin a multipart upload."""

    @abstractmethod
    async def upload_part(self, upload: Upload, number: int, data: bytes | memoryview) -> Part:
        """Send part `number` (from 1), again to replace it."""

    @abstractmethod
    async def complete_upload(self, upload: Upload, parts: Sequence[Part]) -> PutResult:
        """Make the object out of `parts`, in the order given."""

    @abstractmethod
    async def abort_upload(self, upload: Upload) -> None:
        """Drop an upload and its parts. Dropping an absent one succeeds."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close the connections. The store cannot be used afterwards."""

    async def get(self, key: str, *, known: ObjectMeta | None = None, if_match: str | None = None) -> bytes:
        """The whole object. `known`, from a listing, lets a store plan ahead; a stale one does no harm."""
        sink = BytesSink()
        await self.fetch(key, sink, GetOptions(if_match=if_match))
        return sink.data

    async def get_range(self, key: str, byte_range: GetRange, *, if_match: str | None = None) -> bytes:
        """The bytes of `byte_range`; fewer than asked where the object ends."""
        sink = BytesSink()
        await self.fetch(key, sink, GetOptions(byte_range, if_match))
        return sink.data

    async def get_into(self, key: str, view: memoryview, *, start: int = 0, if_match: str | None = None) -> GetResult:
        """Fill `view` (writable, contiguous) with the `len(view)` bytes from `start`.

        Errors: `IntegrityError` where the object ends before the view is full.
        """
        flat = view.cast("B")
        if not len(flat):
            return GetResult(await self._head_of(key, if_match), start, start)
        wanted = GetOptions(BoundedRange(start, start + len(flat)), if_match)
        return await self.fetch(key, exactly(flat), wanted)

    async def _head_of(self, key: str, etag: str | None) -> ObjectMeta:
        meta = await self.head(key)
        if etag is not None and meta.etag != etag:
            context = ErrorContext(operation="HEAD", key=key)
            raise ObjectChangedError("the object was replaced since its etag was learned", context)
        return meta

    async def look_up_checksum(self, key: str) -> ObjectMeta | None:
        """The object's metadata with its checksum, for a store whose answers to ranges do not tell that.

        `None` where this would tell no more than they do. Never raises `StoreError`.
        """
        return None

    async def exists(self, key: str) -> bool:
        """Whether the object is there. Errors other than its absence raise, `BucketNotFoundError` among them."""
        try:
            await self.head(key)
        except BucketNotFoundError:
            raise
        except NotFoundError:
            await self._check_bucket()
            return False
        return True

    async def _check_bucket(self) -> None:
        """For a store whose :meth:`head` cannot tell. Errors: `BucketNotFoundError`."""
        return

    async def list(self, prefix: str = "", *, delimiter: str = "", start_after: str = "") -> AsyncGenerator[ListPage]:
        """All pages of a listing. While one is looked at, the next is on its way; no more than that.

        With a `delimiter`, keys that have it after the prefix are shown once for all. Keys up to `start_after` are
        passed over.
        """
        options = ListOptions(delimiter, start_after)
        async with aclosing(self.pages_from(prefix, options, await self.list_page(prefix, options))) as pages:
            async for page in pages:
                yield page

    async def pages_from(self, prefix: str, options: ListOptions, page: ListPage) -> AsyncGenerator[ListPage]:
        """`page`, which is the one that `options` ask for, and all that follow, one after the other."""
        while (following := options.after(page)) is not None:
            options, coming = following, Ahead(partial(self.list_page, prefix, following))
            try:
                yield page
                begun = time.monotonic()
                page = await coming.result()
                span_ended("list", begun)
            finally:
                await coming.aclose()
        yield page

    async def delete_many(self, keys: Iterable[str]) -> None:
        """Remove the objects of `keys`. All are tried; the first failure is raised at the end."""
        if failures := await self.delete_each(keys):
            failures[0].add_note(f"{len(failures)} objects in all could not be removed")
            raise failures[0]

    async def delete_each(self, keys: Iterable[str]) -> Sequence[StoreError]:
        """Remove the objects of `keys`. All are tried; what failed, an error with its `key` for each."""
        failures: list[StoreError] = []
        for key in keys:
            try:
                await self.delete(key)
            except StoreError as error:
                failures.append(error)
        return failures

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.uri}>"


class Ahead(Generic[T]):
    """What is done beside the consumer of a generator, by a system task: a generator cannot hold a nursery open."""

    def __init__(self, work: Callable[[], Awaitable[T]]) -> None:
        self._scope = trio.CancelScope()
        self._over = trio.Event()
        self._value: T | None = None
        self._error: Exception | None = None
        trio.lowlevel.spawn_system_task(self._run, work)

    async def _run(self, work: Callable[[], Awaitable[T]]) -> None:
        try:
            with self._scope:
                self._value = await work()
        except Exception as error:
            self._error = error
        finally:
            self._over.set()

    async def result(self) -> T:
        """Wait, and give what `work` returned. Errors: what it raised."""
        await self._over.wait()
        if self._error is not None:
            raise self._error
        return cast("T", self._value)

    async def aclose(self) -> None:
        """Cancel the work if it is not over, and wait until it has let go."""
        self._scope.cancel()
        with trio.CancelScope(shield=True):
            await self._over.wait()


def check_key(key: str) -> str:
    """A key any store can hold. Errors: `InvalidKeyError`."""
    if not key:
        raise InvalidKeyError("the key is empty")
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise InvalidKeyError("the key cannot be encoded as UTF-8", ErrorContext(key=key)) from None
    if size > MAX_KEY:
        raise InvalidKeyError(f"the key is longer than {MAX_KEY} bytes", ErrorContext(key=key))
    return key


def refuse_bucket(bucket: str | None, context: ErrorContext) -> None:
    """For stores that know no bucket but themselves. Errors: `UnsupportedError`."""
    if bucket is not None:
        raise UnsupportedError("this store copies inside itself only", context)


def refuse_tags(options: PutOptions, context: ErrorContext) -> None:
    """For stores whose objects have no tags. Errors: `UnsupportedError`."""
    if options.tags:
        raise UnsupportedError("objects of this store have no tags", context)


def part_of(meta: ObjectMeta, options: GetOptions, context: ErrorContext) -> GetResult:
    """What a read is of, where no server decides it. Errors: `ObjectChangedError`, `NotModifiedError`, `RangeError`."""
    if options.if_match is not None and meta.etag != options.if_match:
        raise ObjectChangedError("the object was replaced", context)
    if options.if_none_match is not None and meta.etag == options.if_none_match:
        raise NotModifiedError("the object is the same", context)
    start, end = resolve(options.byte_range, meta.size)
    if options.byte_range is not None and start >= meta.size:
        raise RangeError(f"the range begins at or past the end, {meta.size}", context)
    return GetResult(meta, start, end)


def check_parts(parts: Sequence[Part], uploaded: Mapping[int, Part], context: ErrorContext) -> None:
    """Errors: `RequestError` where no object can be made of `parts`."""
    numbers = [part.number for part in parts]
    if not parts or numbers != sorted(set(numbers)) or any(uploaded.get(part.number) != part for part in parts):
        raise RequestError("the parts are not those that were uploaded, in order", context)


async def discard(store: ObjectStore, upload: Upload, reason: BaseException) -> None:
    """Abort `upload`, because of `reason`, which takes a note where that fails. Waits for a few seconds at most."""
    try:
        with trio.move_on_after(_ABORT_TIME, shield=True):
            await store.abort_upload(upload)
    except StoreError as error:
        reason.add_note(f"the upload could not be aborted: {error}")


class BytesSink:
    """A sink that receives into one fresh `bytes`, without a second copy."""

    __slots__ = ("data",)

    def __init__(self) -> None:
        self.data = b""

    def __call__(self, coming: GetResult) -> memoryview:
        self.data, view = fresh_bytes(coming.end - coming.start)
        return view


def exactly(view: memoryview) -> Sink:
    """A sink for a view that must be filled to its last byte."""

    def sink(coming: GetResult) -> memoryview:
        if coming.end - coming.start != len(view):
            context = ErrorContext(operation="GET", key=coming.meta.key)
            raise IntegrityError(
                f"asked for {len(view)} bytes from {coming.start}, "
                f"but the object of {coming.meta.size} bytes has only {coming.end - coming.start} there",
                context,
            )
        return view

    return sink
