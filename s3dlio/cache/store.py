"""A store whose objects are kept in a folder of this machine, and read from there the next time.

Theory of operation. What is kept is of one version: a chunk's file is named by endpoint, bucket, key, etag and number.
So nothing that is written to the store, by whomever, makes it wrong, as a new version has other names. Which version a
read is of is told by the listing that its caller has seen, or by the etag that it is held to, or else asked by a HEAD:
of what is kept, a read costs one small request, or none. Objects without a strong etag are not kept.

A read of a whole object is served by its chunks, or received as a whole, by the store inside, which compares the
object's checksum as it always does. Chunks that came so are *proven*. A read of some bytes fetches the chunks that they
lie in, each once for all who wait for it. No service tells a checksum of these, so a whole object is not made of them.

Invariant: what is handed over is what was received, by the CRC-32C that is kept beside it, and of the version that is
read. What is not is fetched again. A folder that cannot be written to is no error: it is logged once, and then nothing
more is kept.

Ownership: the store owns the store inside. Files are worked on in threads, under a limiter. Cancellation is noticed
between two chunks; those that are kept by then stay.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple, TypeVar, TypeVarTuple

import trio

from ..alignment.buffers import fresh_bytes
from ..config import Config
from ..errors import ErrorContext, NotFoundError, ObjectChangedError, PermissionDeniedError
from ..model import GetOptions, GetResult, ObjectMeta, PutResult, Sink, flat
from ..siblings import sibling_tasks
from ..stores.integrity import Landed
from ..stores.store import ObjectStore, exactly, part_of
from ..transfer import Admit, ParallelStore
from ..transport.http1 import is_weak
from .chunks import Piece, chunk_name, plan_pieces
from .folder import Folder

_log = logging.getLogger("s3dlio.cache")

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_VERSIONS = 1024
"""Of so many objects it is remembered what a HEAD has told, for reads that are held to its etag."""

_SWEEP_EVERY = 64
"""How many times the folder is looked at while its limit is written once."""


class _Wanted(NamedTuple):
    """A chunk's file, what is wanted of the chunk, and the view to fill with that, or all of it and its bytes."""

    name: str
    piece: Piece
    view: memoryview


def cached(store: ParallelStore, config: Config) -> ParallelStore:
    """`store`, with what is read of it kept in `config.cache`."""
    folder = Folder(os.path.abspath(os.path.expanduser(config.cache or "")), config.cache_size)
    return CachedStore(
        store,
        folder,
        _place_of(store, config),
        part_size=config.part_size,
        parts_in_flight=config.parts_in_flight,
        memory_limit=config.memory_limit,
        threads=config.file_threads,
    )


def _place_of(store: ParallelStore, config: Config) -> str:
    """What tells the objects of a store from others of the same keys, and what was compared of them."""
    named = (config.endpoint, config.azure_endpoint, config.gcs_endpoint, config.azure_account, config.profile)
    return "\0".join([*(each or "" for each in named), config.checksums, store.uri.rstrip("/")])


class CachedStore(ParallelStore):
    """The store `inner`, read by way of `folder`: see the module's text.

    `place` tells its objects from those of other stores. `threads` is how many chunks are read or written at once; the
    other settings are as in :class:`ParallelStore`, and so are the errors: the folder adds none.
    """

    def __init__(
        self,
        inner: ParallelStore,
        folder: Folder,
        place: str,
        *,
        part_size: int,
        parts_in_flight: int,
        memory_limit: int,
        threads: int,
    ) -> None:
        super().__init__(inner, part_size=part_size, parts_in_flight=parts_in_flight, memory_limit=memory_limit)
        self._source = inner
        self._folder = folder
        self._place = place
        self._threads = trio.CapacityLimiter(threads)
        self._fetching = trio.CapacityLimiter(parts_in_flight)
        self._coming: dict[str, trio.Event] = {}
        self._told: dict[tuple[str, str | None], ObjectMeta] = {}
        self._writable = True
        self._unswept = folder.limit

    async def get(
        self,
        key: str,
        *,
        known: ObjectMeta | None = None,
        if_match: str | None = None,
        admit: Admit | None = None,
    ) -> bytes:
        async def read(meta: ObjectMeta) -> bytes:
            if admit is not None:
                await admit(meta.size)
            data, view = fresh_bytes(meta.size)
            await self._serve(key, meta, view, 0)
            return data

        plain = partial(self._source.get, key, known=known, if_match=if_match, admit=admit)
        return await self._of_a_version(key, if_match, read, plain, known)

    async def fetch(self, key: str, sink: Sink, options: GetOptions = GetOptions()) -> GetResult:
        """As in every store; but the `sink` is called again where the object was replaced at that moment."""

        async def read(meta: ObjectMeta) -> GetResult:
            result = part_of(meta, options, ErrorContext("GetObject", key=key))
            proven = await self._serve(key, meta, flat(sink(result)), result.start)
            return replace(result, verified=proven)

        plain = partial(self._source.fetch, key, sink, options)
        return await (plain() if options.if_none_match else self._of_a_version(key, options.if_match, read, plain))

    async def get_into(self, key: str, view: memoryview, *, start: int = 0, if_match: str | None = None) -> GetResult:
        return await ObjectStore.get_into(self, key, flat(view), start=start, if_match=if_match)

    async def get_pieces(
        self, key: str, pieces: Iterable[tuple[int, memoryview]], *, if_match: str | None = None
    ) -> ObjectMeta | None:
        kept = list(pieces)

        async def read(meta: ObjectMeta) -> ObjectMeta | None:
            return await ParallelStore.get_pieces(self, key, kept, if_match=meta.etag)

        plain = partial(self._source.get_pieces, key, kept, if_match=if_match)
        return await self._of_a_version(key, if_match, read, plain)

    async def _get_part(self, key: str, view: memoryview, start: int, etag: str | None) -> GetResult:
        return await self.get_into(key, view, start=start, if_match=etag)

    async def copy(self, source: str, target: str, *, source_bucket: str | None = None) -> PutResult:
        return await self._source.copy(source, target, source_bucket=source_bucket)

    async def _of_a_version(
        self,
        key: str,
        if_match: str | None,
        read: Callable[[ObjectMeta], Awaitable[T]],
        plain: Callable[[], Awaitable[T]],
        known: ObjectMeta | None = None,
    ) -> T:
        """What `read` gives for the version that is wanted; `plain`, which keeps nothing, for one without a name.

        So, too, for one that was replaced before all of it was read, unless `if_match` demands it.
        """
        meta = await self._version(key, if_match, known)
        if meta is None:
            return await plain()
        try:
            return await read(meta)
        except ObjectChangedError:
            if if_match is not None:
                raise
        return await plain()

    async def _version(self, key: str, if_match: str | None, known: ObjectMeta | None) -> ObjectMeta | None:
        """The version to read; `None` where it has no strong etag, is another than is demanded, or cannot be looked at.

        A replica may have another one than the listing tells, so where there are any, they are asked.
        """
        meta = known if not self._source.replicas else None
        if meta is None and if_match is not None:
            meta = self._told.get((key, if_match))
        if meta is None:
            try:
                meta = await self._source.head(key)
            except (NotFoundError, PermissionDeniedError):  # an answer to a HEAD has no text: a read says more
                return None
            self._remember(key, meta)
        demanded = if_match is None or meta.etag == if_match
        return meta if demanded and meta.etag is not None and not is_weak(meta.etag) else None

    def _remember(self, key: str, meta: ObjectMeta) -> None:
        if len(self._told) >= _VERSIONS:
            del self._told[next(iter(self._told))]
        self._told[key, meta.etag] = meta

    async def _serve(self, key: str, meta: ObjectMeta, view: memoryview, start: int) -> bool:
        """Fill `view` with the bytes from `start`; whether all are proven."""
        version = self._version_name(key, meta)
        wanted = [
            _Wanted(chunk_name(version, piece.number), piece, view[piece.start - start : piece.end - start])
            for piece in plan_pieces(start, start + len(view), meta.size)
        ]
        if len(view) < meta.size:
            return await _each(partial(self._get_chunk, key, meta), wanted)
        if not await self._read_proven(wanted):
            await self._receive(key, meta, view, 0)
            await _each(self._keep, wanted)
        return True

    async def _read_proven(self, wanted: Sequence[_Wanted]) -> bool:
        """Fill the views of all chunks of an object; whether all were there, and proven."""
        if len(wanted) > 1 and not await self._in_thread(self._folder.has, [each.name for each in wanted]):
            return False
        return await _each(self._read, wanted)

    async def _get_chunk(self, key: str, meta: ObjectMeta, wanted: _Wanted) -> bool:
        """Fill the view of one chunk that is there, or fetch it; whether it is proven."""
        while (found := await self._read(wanted)) is None:
            if not self._writable:
                return await self._receive(key, meta, wanted.view, wanted.piece.start)
            if (coming := self._coming.get(wanted.name)) is None:
                return await self._fetch_chunk(key, meta, wanted)
            await coming.wait()
        return found

    async def _fetch_chunk(self, key: str, meta: ObjectMeta, wanted: _Wanted) -> bool:
        name, piece, view = wanted
        self._coming[name] = over = trio.Event()
        try:
            if (found := await self._read(wanted)) is not None:  # it was kept since it was looked for
                return found
            async with self._fetching:
                chunk = view if piece.whole else fresh_bytes(piece.length)[1]
                proven = await self._receive(key, meta, chunk, piece.first)
                await self._keep(_Wanted(name, piece, chunk), proven=proven)
        finally:
            del self._coming[name]
            over.set()
        if chunk is not view:
            view[:] = chunk[piece.start - piece.first : piece.end - piece.first]
        return proven

    async def _receive(self, key: str, meta: ObjectMeta, view: memoryview, start: int) -> bool:
        """Fill `view` with the bytes from `start` as the store inside sends them; whether they are proven."""
        whole = len(view) == meta.size
        if whole and len(view) <= self.part_size:  # without a range: then services tell a checksum
            await self._source.fetch(key, exactly(view), GetOptions(if_match=meta.etag))
            return True
        result = await self._source.get_into(key, view, start=start, if_match=meta.etag)
        return whole or result.verified

    async def _read(self, wanted: _Wanted) -> bool | None:
        name, piece, view = wanted
        return await self._in_thread(self._folder.read, name, piece.length, piece.start - piece.first, view)

    async def _keep(self, wanted: _Wanted, *, proven: bool = True) -> bool:
        """Write a chunk, and look after the folder when so much was written; whether it was."""
        if not self._writable:
            return False
        try:
            await self._in_thread(partial(self._folder.write, proven=proven), wanted.name, wanted.view)
        except OSError as error:
            if self._writable:
                self._writable = False
                _log.warning("nothing more is kept in %s: %s", self._folder.path, error.strerror or error)
            return False
        self._unswept += len(wanted.view)
        if self._unswept > self._folder.limit // _SWEEP_EVERY:
            self._unswept = 0
            await self._in_thread(self._folder.sweep)
        return True

    async def _in_thread(self, work: Callable[[*Ts], T], *arguments: *Ts) -> T:
        return await trio.to_thread.run_sync(work, *arguments, limiter=self._threads)

    def _landed(self, key: str) -> Landed:
        landed = super()._landed(key)
        landed.on_error = partial(self._forget, key)
        return landed

    def _forget(self, key: str, meta: ObjectMeta) -> None:
        """What was received of an object is not the object: fetch it anew the next time."""
        for piece in plan_pieces(0, meta.size, meta.size):
            self._folder.remove(chunk_name(self._version_name(key, meta), piece.number))

    def _version_name(self, key: str, meta: ObjectMeta) -> str:
        return f"{self._place}/{key}\0{meta.etag}"


async def _each(work: Callable[[_Wanted], Awaitable[bool | None]], wanted: Sequence[_Wanted]) -> bool:
    """Whether `work`, which is done with all side by side, says yes to each."""
    if len(wanted) == 1:
        return bool(await work(wanted[0]))
    answers: list[bool | None] = []

    async def ask(each: _Wanted) -> None:
        answers.append(await work(each))

    async with sibling_tasks() as nursery:
        for each in wanted:
            nursery.start_soon(ask, each)
    return all(answers)
