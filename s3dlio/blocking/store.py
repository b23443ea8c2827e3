"""Stores behind the portal: the same verbs, blocking, for any thread of any process.

A :class:`BlockingStore` is only a name, the bucket's :class:`Uri`, and a :class:`Config`. The store itself, with its
connections, lives on the portal's thread, is made there on first use, and is shared by all handles that are equal. So
handles are cheap, hashable, picklable, and good in a forked child, which has its own portal and makes its own store.
Handles that are made under other credentials in the environment are not equal: a notebook may correct a wrong key and
go on. The store that was opened with the wrong one is closed then; older handles take the new one, too.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar, cast

from ..auth.environment import environment_mark
from ..config import Config
from ..endpoint_stats import Stats
from ..errors import ErrorContext, RangeError, StoreError
from ..model import BoundedRange, GetOptions, GetResult, ListOptions, ListPage, ObjectMeta, PutOptions, PutResult, flat
from ..part_writer import PartWriter
from ..reuse import OldObject, Sums
from ..reusing_writer import ReusingWriter
from ..stores.store import BytesSink
from ..transfer import ParallelStore
from ..urls import Uri, open_store, parse_object_uri, parse_uri
from .portal import BlockingPortal, HeldContext, Job, portal

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

T = TypeVar("T")
_Opening = Callable[[ParallelStore], AbstractAsyncContextManager[PartWriter]]

_of_parents: list[object] = []
"""What a parent process has on its loop: a forked child keeps it, as dropping it would tell that loop so."""


@dataclass(frozen=True)
class BlockingStore:
    """A bucket, for blocking calls; keys are the bucket's.

    `bucket` is a URI with an empty key, `config` how the bucket is reached, `mark` tells the credentials in the
    environment from others. Making one does no I/O. Errors: each method raises `StoreError`, as
    :class:`s3dlio.ObjectStore` says, an absent object being a `NotFoundError`; and `ConfigError`, `InvalidUriError`
    where the bucket cannot be opened.
    """

    bucket: Uri
    config: Config
    mark: int = field(default_factory=environment_mark, repr=False)

    @property
    def root(self) -> str:
        """The bucket's URI as text, such as `s3://bucket`."""
        return self.bucket.root

    def opened(self, portal: BlockingPortal) -> ParallelStore:
        """The store itself, which lives on the thread of `portal`; only for code that runs there."""
        place = self.bucket, None if self.bucket.scheme == "memory" else self.config  # it is nowhere else
        store = portal.stores.get(place)
        if store is None or (portal.marks[place] != self.mark == environment_mark()):
            if store is not None:
                portal.retire(store)
            store = portal.stores[place] = open_store(self.bucket, self.config)
            portal.marks[place] = self.mark
        return store

    async def _do(self, here: BlockingPortal, verb: Callable[[ParallelStore], Awaitable[T]]) -> T:
        return await verb(self.opened(here))

    def call(self, verb: Callable[[ParallelStore], Awaitable[T]]) -> T:
        """What `verb` gives, which is awaited on the portal's thread, with the store itself. Errors: its."""
        here = portal()
        return here.call(self._do, here, verb)

    def begin(self, verb: Callable[[ParallelStore], Awaitable[T]]) -> Job[T]:
        """Begin what :meth:`call` does with `verb`, and do not wait. Errors: from the job's result, those of `verb`."""
        here = portal()
        return here.start_task_soon(self._do, here, verb)

    def get(self, key: str, *, known: ObjectMeta | None = None, if_match: str | None = None) -> bytes:
        """The whole object `key`. `known`, from a listing, saves finding out how large it is.

        `if_match` is the etag of the version to read. Errors: `ObjectChangedError`.
        """
        return self.call(lambda store: store.get(key, known=known, if_match=if_match))

    def read_range(self, key: str, start: int, end: int, *, if_match: str | None = None) -> tuple[bytes, GetResult]:
        """Bytes `start` to `end` of `key`, fewer where the object ends, and what they are of; of an empty object none.

        `if_match` is the etag of the version to read. Errors: `RangeError` for a `start` at or past the end;
        `ObjectChangedError`.
        """

        async def read(store: ParallelStore) -> tuple[bytes, GetResult]:
            sink = BytesSink()
            try:
                result = await store.fetch(key, sink, GetOptions(BoundedRange(start, end), if_match))
            except RangeError:
                meta = await store.head(key)
                if meta.size:
                    raise
                return b"", GetResult(meta, 0, 0)
            return sink.data, result

        return self.call(read)

    def get_into(self, key: str, view: memoryview, *, start: int = 0, if_match: str | None = None) -> GetResult:
        """Fill `view` (writable, contiguous) with the bytes of `key` from `start`, in parallel where it is large.

        `if_match` is the etag of the version to read. Errors: `IntegrityError` where the object ends before the view is
        full; `ObjectChangedError`.
        """
        return self.call(lambda store: store.get_into(key, view, start=start, if_match=if_match))

    def begin_get_into(
        self, key: str, view: memoryview, *, start: int = 0, if_match: str | None = None
    ) -> Job[GetResult]:
        """Begin what :meth:`get_into` does, and do not wait: `key`, `view`, `start` and `if_match` are as there.

        The view is written to until the result of the job was taken, also of a cancelled one. Errors: from the job's
        result, what :meth:`get_into` raises.
        """
        return self.begin(lambda store: store.get_into(key, view, start=start, if_match=if_match))

    def head(self, key: str) -> ObjectMeta:
        """The metadata of the object `key`."""
        return self.call(lambda store: store.head(key))

    def exists(self, key: str) -> bool:
        """Whether the object `key` is there. Errors: those other than its absence."""
        return self.call(lambda store: store.exists(key))

    def put(self, key: str, data: ReadableBuffer, options: PutOptions = PutOptions()) -> PutResult:
        """Write the object `key`, in parallel parts where `data`, any contiguous buffer, is large. It appears whole.

        `options` are its headers and what has to be there before. Errors: `PreconditionFailedError`,
        `AlreadyExistsError`; `TypeError` for what is no buffer.
        """
        view = flat(data)
        return self.call(lambda store: store.put(key, view, options))

    def delete(self, key: str) -> None:
        """Remove the object `key`, if it is there."""
        self.call(lambda store: store.delete(key))

    def delete_many(self, keys: Iterable[str]) -> None:
        """Remove the objects `keys`. Errors: the first failure, when all were tried."""
        listed = list(keys)  # here, as it may be the caller's own generator
        self.call(lambda store: store.delete_many(listed))

    def copy(self, source: str, target: str, *, source_bucket: str | None = None) -> PutResult:
        """Copy the object `source` to `target`, on the server; `source_bucket` is another one of the same service.

        Errors: `UnsupportedError` where the store cannot copy from another bucket.
        """
        return self.call(lambda store: store.copy(source, target, source_bucket=source_bucket))

    def list_pages(self, prefix: str = "", *, delimiter: str = "") -> Iterator[ListPage]:
        """The pages of what starts with `prefix`. While one is looked at, the next is on its way.

        With a `delimiter`, keys that have it after the prefix are shown once for all, as what leads to it. A long
        listing is divided, and its parts listed at once, where the store can do that.
        """
        here, held, page, divided = portal(), None, None, False
        try:
            while page is None or page.token is not None or divided:
                if held is None or here is not portal():  # a forked child has to ask anew
                    _end(here, held)
                    here = portal()
                    held = here.enter(self._listing(here, page, prefix, delimiter))
                coming = here.call(anext, held.value, None)
                if coming is None:
                    return
                divided = divided or (page is None and coming.token is not None and not delimiter)
                yield (page := coming)
        finally:
            _end(here, held)

    @asynccontextmanager
    async def _listing(
        self, here: BlockingPortal, page: ListPage | None, prefix: str, delimiter: str
    ) -> AsyncIterator[AsyncGenerator[ListPage]]:
        """What follows `page`, or all of the listing."""
        store, options = self.opened(here), ListOptions(delimiter)
        if page is None:
            pages = store.list(prefix, delimiter=delimiter)
        elif page.token is None and page.objects and store.lists_from_keys and not delimiter:
            pages = store.list(prefix, start_after=page.objects[-1].key)
        else:
            pages = store.pages_from(prefix, options, page)
            await anext(pages)
        async with aclosing(pages):
            yield pages

    def list_page(self, prefix: str = "", options: ListOptions = ListOptions()) -> ListPage:
        """One page of what starts with `prefix`; `options` say which, and of how many entries."""
        return self.call(lambda store: store.list_page(prefix, options))

    def stats(self) -> Stats:
        """What was asked of the store's endpoints by this process so far."""

        async def tell(store: ParallelStore) -> Stats:
            return store.stats()

        return self.call(tell)

    def open_writer(self, key: str, options: PutOptions = PutOptions()) -> BlockingWriter:
        """A writer of the object `key`, of any length; `options` are as in :meth:`put`.

        Nothing is sent before the first full part, or :meth:`BlockingWriter.close`.
        """
        return BlockingWriter(self, key, lambda store: store.open_writer(key, options))

    def open_reusing_writer(self, key: str, old: OldObject | None) -> BlockingReusingWriter:
        """A writer of the object `key` that has the server copy what is the same in `old`: see :mod:`s3dlio.reuse`."""
        return BlockingReusingWriter(self, key, lambda store: store.open_reusing_writer(key, old))


def _end(here: BlockingPortal, listing: HeldContext[AsyncGenerator[ListPage]] | None) -> None:
    """End a listing that is on the loop of `here`. Does not wait."""
    if listing is not None and here.pid == os.getpid():
        listing.drop()
    elif listing is not None:
        _of_parents.append(listing)


class Places:
    """Where objects are, for one call that may be about many: what their URIs have in common is made once.

    `config` has the settings, by default the environment's.
    """

    def __init__(self, config: Config | None) -> None:
        self._config = config
        self._stores: dict[tuple[str, str], BlockingStore] = {}

    def locate(self, uri: str) -> tuple[BlockingStore, str]:
        """The bucket of the object at `uri`, and its key. Errors: `InvalidUriError`, `ConfigError`; `TypeError`."""
        config = self._config = self._config or Config()
        parsed = parse_object_uri(uri, config)
        place = parsed.scheme, parsed.bucket
        if place not in self._stores:
            self._stores[place] = BlockingStore(replace(parsed, key=""), config)
        return self._stores[place], parsed.key


def locate(uri: str, config: Config | None) -> tuple[BlockingStore, str]:
    """The bucket of the object at `uri`, and its key. Errors: as in :meth:`Places.locate`."""
    return Places(config).locate(uri)


def locate_prefix(uri: str, config: Config | None) -> tuple[BlockingStore, str]:
    """The bucket of the objects whose URIs begin with `uri`, and how their keys begin. Errors: as :func:`locate`."""
    config = config or Config()
    parsed = parse_uri(uri, config)
    return BlockingStore(replace(parsed, key=""), config), parsed.key


class BlockingWriter:
    """A streaming upload of the object `key` to `store`, by the writer that `opening` opens there.

    Only :meth:`close` publishes: a writer that is dropped without it is given up. One thread at a time; only in the
    process that made it. Errors of its making: `ConfigError`, `InvalidUriError`.
    """

    def __init__(self, store: BlockingStore, key: str, opening: _Opening) -> None:
        self._pid = os.getpid()
        self._key = key
        self._portal = portal()
        self._held = self._portal.enter(_opened_writer(self._portal, store, opening))
        weakref.finalize(self, self._held.drop)

    def write(self, data: ReadableBuffer) -> None:
        """Append `data`, any contiguous buffer, which may be reused when this returns.

        It is copied on this thread; the loop's has to be waited for where a part is full. Errors: `StoreError`, of this
        write or of an earlier one, and in a forked child; `TypeError` for what is no buffer.
        """
        self._check()
        view, writer = flat(data), self._held.value
        try:
            rest = writer.absorb(view)
            while rest is not None:
                rest = writer.absorb(self._portal.call(writer.make_way, rest))
        except BaseException as error:  # an interrupt: some of it may have been taken
            writer.spoil(error)
            raise

    def close(self) -> PutResult:
        """Publish the object, and tell its version. Errors: `StoreError`; then no object was made."""
        self._check()
        self._held.leave()
        return self._held.value.result

    def abort(self) -> None:
        """Drop everything. May be called at any time, also again; does nothing in a forked child."""
        if self._pid == os.getpid():
            self._held.cancel()

    def _check(self) -> None:
        if self._pid != os.getpid():
            context = ErrorContext(operation="PutObject", key=self._key)
            raise StoreError("this writer belongs to the process that opened it", context)


class BlockingReusingWriter(BlockingWriter):
    """The same, of an object that is mostly as an older one."""

    def end_item(self) -> None:
        """What is written from now on is another item: see :mod:`s3dlio.reuse`. Errors: as in :meth:`write`."""
        self._writer.end_item()

    @property
    def _writer(self) -> ReusingWriter:
        return cast("ReusingWriter", self._held.value)

    @property
    def sums(self) -> Sums:
        """What the object is made of, once it is closed."""
        return self._writer.sums

    @property
    def etag(self) -> str | None:
        """The object's, once it is closed."""
        return self._writer.result.etag

    @property
    def refused(self) -> StoreError | None:
        """Why the server would not copy, if that is why the object was not made."""
        return self._writer.refused


@asynccontextmanager
async def _opened_writer(portal: BlockingPortal, store: BlockingStore, opening: _Opening) -> AsyncIterator[PartWriter]:
    async with opening(store.opened(portal)) as writer:
        yield writer
