"""Stores around a store: everything passes through, and a subclass changes what it is about.

What is written may be any contiguous buffer here; the store inside gets its plain bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..config import Checksums
from ..endpoint_stats import Stats
from ..errors import StoreError
from ..model import (
    BoundedRange,
    GetOptions,
    GetResult,
    ListOptions,
    ListPage,
    ObjectColumns,
    ObjectMeta,
    Part,
    PartCopy,
    PutOptions,
    PutResult,
    Sink,
    Upload,
    flat,
)
from .store import ObjectStore

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class WrapperStore(ObjectStore):
    """Passes every primitive on to `inner`, which it owns, with the key that :meth:`_inward` makes of the caller's."""

    def __init__(self, inner: ObjectStore) -> None:
        self.inner = inner

    def _inward(self, key: str) -> str:
        return key

    @property
    def put_limit(self) -> int:
        return self.inner.put_limit

    @property
    def checksums(self) -> Checksums:
        return self.inner.checksums

    @property
    def lists_from_keys(self) -> bool:
        return self.inner.lists_from_keys

    @property
    def uri(self) -> str:
        return self.inner.uri

    async def presign(self, key: str, *, method: str = "GET", seconds: int = 3600) -> str:
        return await self.inner.presign(self._inward(key), method=method, seconds=seconds)

    def stats(self) -> Stats:
        return self.inner.stats()

    async def fetch(self, key: str, sink: Sink, options: GetOptions = GetOptions()) -> GetResult:
        return await self.inner.fetch(self._inward(key), sink, options)

    async def head(self, key: str) -> ObjectMeta:
        return await self.inner.head(self._inward(key))

    async def look_up_checksum(self, key: str) -> ObjectMeta | None:
        return await self.inner.look_up_checksum(self._inward(key))

    async def exists(self, key: str) -> bool:
        return await self.inner.exists(self._inward(key))

    async def put(self, key: str, data: ReadableBuffer, options: PutOptions = PutOptions()) -> PutResult:
        return await self.inner.put(self._inward(key), flat(data), options)

    async def list_page(self, prefix: str = "", options: ListOptions = ListOptions()) -> ListPage:
        return await self.inner.list_page(prefix, options)

    async def delete(self, key: str) -> None:
        await self.inner.delete(self._inward(key))

    async def delete_each(self, keys: Iterable[str]) -> Sequence[StoreError]:
        return await self.inner.delete_each(self._inward(key) for key in keys)

    async def copy(self, source: str, target: str, *, source_bucket: str | None = None) -> PutResult:
        inside = source if source_bucket is not None else self._inward(source)
        return await self.inner.copy(inside, self._inward(target), source_bucket=source_bucket)

    async def begin_copy(self, source: str, target: str, *, source_bucket: str | None = None) -> PartCopy | None:
        inside = source if source_bucket is not None else self._inward(source)
        return await self.inner.begin_copy(inside, self._inward(target), source_bucket=source_bucket)

    async def copy_part(self, copy: PartCopy, number: int, byte_range: BoundedRange) -> Part:
        return await self.inner.copy_part(copy, number, byte_range)

    async def create_upload(self, key: str, options: PutOptions = PutOptions()) -> Upload:
        return await self.inner.create_upload(self._inward(key), options)

    async def upload_part(self, upload: Upload, number: int, data: ReadableBuffer) -> Part:
        return await self.inner.upload_part(upload, number, flat(data))

    async def complete_upload(self, upload: Upload, parts: Sequence[Part]) -> PutResult:
        return await self.inner.complete_upload(upload, parts)

    async def abort_upload(self, upload: Upload) -> None:
        await self.inner.abort_upload(upload)

    async def aclose(self) -> None:
        await self.inner.aclose()


class PrefixStore(WrapperStore):
    """The part of the store `inner` below `prefix`, as a store: keys go in and come out without it.

    An object whose key is the prefix itself, which some tools make to stand for a folder, is not in it.
    """

    def __init__(self, inner: ObjectStore, prefix: str) -> None:
        super().__init__(inner)
        self.prefix = prefix

    def _inward(self, key: str) -> str:
        return self.prefix + key if key else key  # an empty key stays one, and is refused

    def _outward(self, meta: ObjectMeta) -> ObjectMeta:
        return replace(meta, key=meta.key.removeprefix(self.prefix))

    @property
    def uri(self) -> str:
        return f"{self.inner.uri}/{self.prefix}"

    async def fetch(self, key: str, sink: Sink, options: GetOptions = GetOptions()) -> GetResult:
        result = await super().fetch(key, sink, options)
        return replace(result, meta=self._outward(result.meta))

    async def head(self, key: str) -> ObjectMeta:
        return self._outward(await super().head(key))

    async def list_page(self, prefix: str = "", options: ListOptions = ListOptions()) -> ListPage:
        after = options.start_after and self.prefix + options.start_after
        page = await super().list_page(self.prefix + prefix, replace(options, start_after=after))
        inside = ObjectColumns.of(page.objects).where(lambda key: key != self.prefix)
        keys = [key.removeprefix(self.prefix) for key in inside.columns["key"]]
        prefixes = tuple(name.removeprefix(self.prefix) for name in page.prefixes)
        return ListPage(ObjectColumns({**inside.columns, "key": keys}), prefixes, page.token)
