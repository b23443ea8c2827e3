"""A user's program that annotates everything it is given: type checkers must find nothing in it, and it must run."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager

import trio

import s3dlio
from s3dlio import (
    BoundedRange,
    GetOptions,
    GetResult,
    ListOptions,
    ListPage,
    ManyReader,
    ObjectMeta,
    ObjectStore,
    ParallelStore,
    PartReader,
    PartWriter,
    PutOptions,
    PutResult,
)
from s3dlio.blocking import BlockingStore
from s3dlio.stores import MemoryStore


async def write(store: ParallelStore) -> PutResult:
    options = PutOptions(metadata={"made": "now"})
    opening: AbstractAsyncContextManager[PartWriter] = store.open_writer("a/large", options)
    async with opening as writer:
        await writer.write(b"some, ")
        await writer.write(bytearray(b"and more"))
    result: PutResult = writer.result
    return result


async def follow(store: ParallelStore) -> int:
    opening: AbstractAsyncContextManager[PartReader] = store.open_reader("a/large", start=5)
    async with opening as reader:
        piece: bytes = await reader.receive_some(10)
        return len(piece) + sum([len(each) async for each in reader])


async def gather(store: ParallelStore, metas: Sequence[ObjectMeta]) -> dict[str, bytes]:
    opening: AbstractAsyncContextManager[ManyReader] = store.get_many(metas)
    async with opening as reader:
        return {key: content async for key, content in reader}


async def read(store: ObjectStore) -> bytes:
    meta: ObjectMeta = await store.head("a/large")
    whole: bytes = await store.get("a/large", known=meta)
    buffer = bytearray(meta.size)
    filled: GetResult = await store.get_into("a/large", memoryview(buffer), if_match=meta.etag)
    piece: bytes = await store.get_range("a/large", BoundedRange(0, filled.end))
    assert whole == buffer == piece
    return whole


async def names(store: ObjectStore) -> list[str]:
    found: list[str] = []
    pages: AsyncIterator[ListPage] = store.list("a/", delimiter="/")
    async for page in pages:
        found += [meta.key for meta in page.objects]
    page = await store.list_page("a/", ListOptions(limit=1))
    token: str | None = page.token
    assert token is None
    return found


def into(view: memoryview) -> s3dlio.Sink:
    def sink(coming: GetResult) -> memoryview:
        return view[: coming.end - coming.start]

    return sink


async def program(uri: str) -> None:
    async with s3dlio.open_store(uri) as store:
        written: PutResult = await write(store)
        etag: str | None = written.etag
        assert etag
        print(await read(store), await names(store))
        await gather(store, [await store.head("a/large")])
        target = bytearray(4)
        result: GetResult = await store.fetch("a/large", into(memoryview(target)), GetOptions(BoundedRange(0, 4)))
        print(result.meta.size, bytes(target))
    async with MemoryStore() as memory:
        present: bool = await memory.exists("absent")
        print(present)


def script(uri: str) -> None:
    put: PutResult = s3dlio.put(f"{uri}/b", b"content")
    meta: ObjectMeta = s3dlio.stat(f"{uri}/b")
    listed: Sequence[ObjectMeta] = s3dlio.list(f"{uri}/b")
    assert [item.key for item in listed] == [meta.key]
    content: bytes = s3dlio.get(f"{uri}/b", config=s3dlio.Config())
    there: bool = s3dlio.exists(f"{uri}/b")
    print(content, there, put.version, BlockingStore.__name__)
    s3dlio.delete(f"{uri}/b")


if __name__ == "__main__":
    trio.run(program, sys.argv[1])
    script(sys.argv[1])
