"""Stores behind the portal: the same verbs, blocking, for any thread of any process.

A :class:`BlockingStore` is only a name, a root URI and a :class:`Config`. The store itself, with its connections, lives
on the portal's thread, is made there on first use, and is shared by all handles that are equal. So handles are cheap,
hashable, picklable, and good in a forked child, which has its own portal and makes its own store. Handles that are made
under other credentials in the environment are not equal: a notebook may correct a wrong key and go on.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from .auth.credentials import environment_mark
from .config import Config
from .errors import ErrorContext, RangeError, StoreError
from .model import BoundedRange, GetResult, ListPage, ObjectMeta, PutOptions, PutResult
from .portal import BlockingPortal, Job, portal
from .stores.store import DEFAULT_PUT, BytesSink
from .transfer import ParallelStore, PartWriter
from .urls import open_store, parse_uri


def blocking_store(root: str, config: Config) -> BlockingStore:
    """The bucket that `root`, such as `s3://bucket`, names. No I/O. Errors: `InvalidUriError`."""
    return BlockingStore(parse_uri(f"{root}/", config).root, config)


@dataclass(frozen=True)
class BlockingStore:
    """A bucket, for blocking calls. Errors: each method raises `StoreError`, as :class:`ObjectStore` says."""

    root: str
    config: Config
    mark: int = field(default_factory=environment_mark, repr=False)

    def opened(self, door: BlockingPortal) -> ParallelStore:
        """The store itself; only for code that runs on the portal's thread."""
        store = door.kept.get(self)
        if store is None:
            store = door.kept[self] = open_store(f"{self.root}/", self.config)
        assert isinstance(store, ParallelStore)
        return store

    def get(self, key: str, *, known: ObjectMeta | None = None) -> bytes:
        """The whole object. `known`, from a listing, saves finding out how large it is."""
        door = portal()

        async def work() -> bytes:
            return await self.opened(door).get(key, known=known)

        return door.call(work)

    def read_range(self, key: str, start: int, end: int, *, if_match: str | None = None) -> tuple[bytes, GetResult]:
        """Bytes `start` to `end`, fewer where the object ends, and what they are of; nothing of an empty object."""
        door = portal()

        async def work() -> tuple[bytes, GetResult]:
            store, sink = self.opened(door), BytesSink()
            try:
                result = await store.fetch(key, sink, byte_range=BoundedRange(start, end), if_match=if_match)
            except RangeError:
                meta = await store.head(key)
                if meta.size:
                    raise
                return b"", GetResult(meta, 0, 0)
            return sink.data, result

        return door.call(work)

    def get_into(self, key: str, view: memoryview, *, start: int = 0, if_match: str | None = None) -> GetResult:
        """Fill `view` from `start`, in parallel where it is large."""
        return self.begin_get_into(key, view, start=start, if_match=if_match).result()

    def begin_get_into(
        self, key: str, view: memoryview, *, start: int = 0, if_match: str | None = None
    ) -> Job[GetResult]:
        """Begin to fill `view`. It is written to until the result of the job was taken, also of a cancelled one."""
        door = portal()
        return door.start_task_soon(lambda: self.opened(door).get_into(key, view, start=start, if_match=if_match))

    def head(self, key: str) -> ObjectMeta:
        """The object's metadata."""
        door = portal()
        return door.call(lambda: self.opened(door).head(key))

    def exists(self, key: str) -> bool:
        """Whether the object is there."""
        door = portal()
        return door.call(lambda: self.opened(door).exists(key))

    def put(self, key: str, data: bytes | memoryview, options: PutOptions = DEFAULT_PUT) -> PutResult:
        """Write an object, in parallel parts where it is large."""
        door = portal()
        return door.call(lambda: self.opened(door).put(key, data, options))

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        door = portal()
        door.call(lambda: self.opened(door).delete(key))

    def delete_many(self, keys: Iterable[str]) -> None:
        """Remove many objects; the first failure is raised when all were tried."""
        door, listed = portal(), list(keys)
        door.call(lambda: self.opened(door).delete_many(listed))

    def copy(self, source: str, target: str, *, source_bucket: str | None = None) -> PutResult:
        """Copy an object, on the server; `source_bucket` is another one of the same service."""
        door = portal()
        return door.call(lambda: self.opened(door).copy(source, target, source_bucket=source_bucket))

    def list_pages(self, prefix: str = "", *, delimiter: str = "") -> Iterator[ListPage]:
        """A listing's pages, each asked for when it is wanted."""
        token: str | None = None
        while True:
            page = self.list_page(prefix, delimiter=delimiter, token=token)
            yield page
            token = page.token
            if token is None:
                return

    def list_page(
        self, prefix: str = "", *, delimiter: str = "", token: str | None = None, limit: int = 1000
    ) -> ListPage:
        """One page of a listing; `token` continues one."""
        door = portal()
        return door.call(lambda: self.opened(door).list_page(prefix, delimiter=delimiter, token=token, limit=limit))

    def open_writer(self, key: str, options: PutOptions = DEFAULT_PUT) -> BlockingWriter:
        """A writer of an object of any length. Nothing is sent before the first full part, or :meth:`close`."""
        return BlockingWriter(self, key, options)


class BlockingWriter:
    """A streaming upload. One thread at a time; only in the process that made it."""

    def __init__(self, store: BlockingStore, key: str, options: PutOptions) -> None:
        self._pid = os.getpid()
        self._key = key
        self._door = portal()
        self._held = self._door.enter(_opened_writer(self._door, store, key, options))

    def write(self, data: bytes | memoryview) -> None:
        """Append; `data` may be reused when this returns. What fills no part is only copied, on this thread."""
        self._check()
        view = memoryview(data).cast("B")
        if not self._held.value.absorb(view):
            self._door.call(self._held.value.write, view)

    def close(self) -> PutResult:
        """Publish the object. Errors: `StoreError`; then no object was made."""
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


@asynccontextmanager
async def _opened_writer(
    door: BlockingPortal, store: BlockingStore, key: str, options: PutOptions
) -> AsyncIterator[PartWriter]:
    async with store.opened(door).open_writer(key, options) as writer:
        yield writer
