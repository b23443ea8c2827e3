"""Stores around a store: everything passes through, and a subclass changes what it is about."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ..model import (
    GetRange,
    GetResult,
    ListPage,
    ObjectMeta,
    Part,
    PutOptions,
    PutResult,
    Sink,
    Upload,
)
from .store import DEFAULT_PUT, ObjectStore


class WrapperStore(ObjectStore):
    """Passes every primitive on to `inner`, which it owns, with the key that :meth:`_inward` makes of the caller's."""

    def __init__(self, inner: ObjectStore) -> None:
        self.inner = inner

    def _inward(self, key: str) -> str:
        return key

    @property
    def uri(self) -> str:
        return self.inner.uri

    async def fetch(
        self,
        key: str,
        sink: Sink,
        *,
        byte_range: GetRange | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> GetResult:
        return await self.inner.fetch(
            self._inward(key), sink, byte_range=byte_range, if_match=if_match, if_none_match=if_none_match
        )

    async def head(self, key: str) -> ObjectMeta:
        return await self.inner.head(self._inward(key))

    async def put(self, key: str, data: bytes | memoryview, options: PutOptions = DEFAULT_PUT) -> PutResult:
        return await self.inner.put(self._inward(key), data, options)

    async def list_page(
        self,
        prefix: str = "",
        *,
        delimiter: str = "",
        start_after: str = "",
        token: str | None = None,
        limit: int = 1000,
    ) -> ListPage:
        return await self.inner.list_page(
            prefix, delimiter=delimiter, start_after=start_after, token=token, limit=limit
        )

    async def delete(self, key: str) -> None:
        await self.inner.delete(self._inward(key))

    async def delete_many(self, keys: Iterable[str]) -> None:
        await self.inner.delete_many(self._inward(key) for key in keys)

    async def copy(self, source: str, target: str, *, source_bucket: str | None = None) -> PutResult:
        inside = source if source_bucket is not None else self._inward(source)
        return await self.inner.copy(inside, self._inward(target), source_bucket=source_bucket)

    async def create_upload(self, key: str, options: PutOptions = DEFAULT_PUT) -> Upload:
        return await self.inner.create_upload(self._inward(key), options)

    async def upload_part(self, upload: Upload, number: int, data: bytes | memoryview) -> Part:
        return await self.inner.upload_part(upload, number, data)

    async def complete_upload(self, upload: Upload, parts: Sequence[Part]) -> PutResult:
        return await self.inner.complete_upload(upload, parts)

    async def abort_upload(self, upload: Upload) -> None:
        await self.inner.abort_upload(upload)

    async def aclose(self) -> None:
        await self.inner.aclose()


class PrefixStore(WrapperStore):
    """The part of a store below a prefix, as a store: keys go in and come out without it.

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

    async def fetch(
        self,
        key: str,
        sink: Sink,
        *,
        byte_range: GetRange | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> GetResult:
        result = await super().fetch(key, sink, byte_range=byte_range, if_match=if_match, if_none_match=if_none_match)
        return replace(result, meta=self._outward(result.meta))

    async def head(self, key: str) -> ObjectMeta:
        return self._outward(await super().head(key))

    async def list_page(
        self,
        prefix: str = "",
        *,
        delimiter: str = "",
        start_after: str = "",
        token: str | None = None,
        limit: int = 1000,
    ) -> ListPage:
        page = await super().list_page(
            self.prefix + prefix,
            delimiter=delimiter,
            start_after=self.prefix + start_after if start_after else "",
            token=token,
            limit=limit,
        )
        objects = tuple(self._outward(meta) for meta in page.objects if meta.key != self.prefix)
        prefixes = tuple(name.removeprefix(self.prefix) for name in page.prefixes)
        return ListPage(objects, prefixes, page.token)
