"""A store that takes notes and misbehaves, and what the tests do with it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from s3dlio.model import (
    GetOptions,
    GetResult,
    ObjectMeta,
    Part,
    PutOptions,
    PutResult,
    Sink,
    Upload,
)
from s3dlio.stores.memory import MemoryStore
from s3dlio.stores.wrapper import WrapperStore
from s3dlio.transfer import ParallelStore

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

KEY = "object"
PART = 10
DATA = bytes(range(95))


class OurOwnError(Exception):
    """An error of the caller's, not of the store."""


class Recorder(WrapperStore):
    """A memory store that notes every call. `during` is awaited in each, with its name and its number from 1."""

    def __init__(self) -> None:
        super().__init__(MemoryStore())
        self.calls: list[str] = []
        self.during: Callable[[str, int], Awaitable[None]] = self._nothing
        self.running = self.most_running = 0

    async def _nothing(self, name: str, number: int) -> None:
        pass

    @asynccontextmanager
    async def _noted(self, name: str) -> AsyncIterator[None]:
        self.calls.append(name)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await self.during(name, self.calls.count(name))
            yield
        finally:
            self.running -= 1

    async def fetch(self, key: str, sink: Sink, options: GetOptions = GetOptions()) -> GetResult:
        async with self._noted("fetch"):
            return await super().fetch(key, sink, options)

    async def head(self, key: str) -> ObjectMeta:
        async with self._noted("head"):
            return await super().head(key)

    async def put(self, key: str, data: ReadableBuffer, options: PutOptions = PutOptions()) -> PutResult:
        async with self._noted("put"):
            return await super().put(key, data, options)

    async def create_upload(self, key: str, options: PutOptions = PutOptions()) -> Upload:
        async with self._noted("create"):
            return await super().create_upload(key, options)

    async def upload_part(self, upload: Upload, number: int, data: ReadableBuffer) -> Part:
        async with self._noted("part"):
            return await super().upload_part(upload, number, data)

    async def complete_upload(self, upload: Upload, parts: Sequence[Part]) -> PutResult:
        async with self._noted("complete"):
            return await super().complete_upload(upload, parts)

    async def abort_upload(self, upload: Upload) -> None:
        async with self._noted("abort"):
            await super().abort_upload(upload)

    @property
    def pending(self) -> int:
        """Uploads neither completed nor aborted."""
        assert isinstance(self.inner, MemoryStore)
        return len(self.inner._uploads)

    async def content(self) -> bytes | None:
        """What the object holds, `None` where there is none."""
        return await self.inner.get(KEY) if await self.inner.exists(KEY) else None


async def write(store: ParallelStore, *pieces: bytes, then: BaseException | None = None) -> None:
    """Write the object in these pieces, and end the block with an error if one is given."""
    async with store.open_writer(KEY) as writer:
        for piece in pieces:
            await writer.write(piece)
        if then is not None:
            raise then


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


async def known_meta(recorder: Recorder) -> ObjectMeta:
    return (await recorder.list_page()).objects[0]
