"""Random work on a real server and on the memory store, its model: every answer and every listing must agree."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from s3dlio.config import Config
from s3dlio.errors import StoreError
from s3dlio.model import BoundedRange, GetRange, ListOptions, OffsetRange, PutOptions, SuffixRange
from s3dlio.stores.memory import MemoryStore
from s3dlio.stores.s3.store import S3Store
from s3dlio.stores.store import ObjectStore
from s3dlio.stores.wrapper import PrefixStore

from ..servers.seaweedfs import SeaweedFS

Work = Callable[[ObjectStore], Awaitable[object]]

_KEYS = st.sampled_from(["a.", "a b", "a/b", "a/c/d", "b+c%20?", "é/漢", "z&<>"])
"""None is a folder of another: SeaweedFS ends a listing of one key a page too early there."""

_DATA = st.binary(max_size=40)
_RANGES = st.one_of(
    st.builds(lambda start, size: BoundedRange(start, start + size), st.integers(0, 45), st.integers(1, 45)),
    st.builds(OffsetRange, st.integers(0, 45)),
    st.builds(SuffixRange, st.integers(1, 45)),
)
_PREFIXES = st.sampled_from(["", "a", "a/", "a/c", "é", "nothing"])
_folders = count()


def put(key: str, data: bytes) -> Work:
    async def work(store: ObjectStore) -> None:
        await store.put(key, data, PutOptions("application/x-test", {"size": str(len(data))}))

    return work


def create(key: str, data: bytes) -> Work:
    async def work(store: ObjectStore) -> None:
        await store.put(key, data, PutOptions(if_none_match=True))

    return work


def replace(key: str, data: bytes, *, stale: bool) -> Work:
    """A conditional put over what is there, or over what was there before another put."""

    async def work(store: ObjectStore) -> None:
        etag = (await store.head(key)).etag
        if stale:
            await store.put(key, b"another" + data)
        await store.put(key, data, PutOptions(if_match=etag))

    return work


def upload(key: str, data: bytes, *, finish: bool) -> Work:
    async def work(store: ObjectStore) -> None:
        started = await store.create_upload(key)
        part = await store.upload_part(started, 1, data)
        await (store.complete_upload(started, [part]) if finish else store.abort_upload(started))

    return work


def read(key: str, byte_range: GetRange) -> Work:
    async def work(store: ObjectStore) -> object:
        return await store.get_range(key, byte_range)

    return work


def head(key: str) -> Work:
    async def work(store: ObjectStore) -> object:
        meta = await store.head(key)
        return meta.key, meta.size, dict(meta.metadata)

    return work


def listing(prefix: str, limit: int) -> Work:
    async def work(store: ObjectStore) -> object:
        found, token = set[object](), None
        while True:
            page = await store.list_page(prefix, ListOptions(token=token, limit=limit))
            found |= {(meta.key, meta.size) for meta in page.objects}
            token = page.token
            if token is None:
                return found

    return work


def copy(source: str, target: str) -> Work:
    async def work(store: ObjectStore) -> None:
        if source != target:
            await store.copy(source, target)

    return work


WORK = st.one_of(
    st.builds(put, _KEYS, _DATA),
    st.builds(create, _KEYS, _DATA),
    st.builds(replace, _KEYS, _DATA, stale=st.booleans()),
    st.builds(upload, _KEYS, _DATA, finish=st.booleans()),
    st.builds(lambda key: lambda store: store.get(key), _KEYS),
    st.builds(lambda key: lambda store: store.exists(key), _KEYS),
    st.builds(read, _KEYS, _RANGES),
    st.builds(head, _KEYS),
    st.builds(listing, _PREFIXES, st.integers(1, 5)),
    st.builds(copy, _KEYS, _KEYS),
    st.builds(lambda key: lambda store: store.delete(key), _KEYS),
    st.builds(lambda keys: lambda store: store.delete_many(keys), st.lists(_KEYS, max_size=4)),
)


async def outcome(store: ObjectStore, work: Work) -> object:
    """What a caller can tell: the value, or the class of the error."""
    try:
        return await work(store)
    except StoreError as error:
        return type(error)


@pytest.mark.usefixtures("s3_environment")
@settings(
    max_examples=120, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(script=st.lists(WORK, min_size=1, max_size=25))
async def test_the_server_and_the_model_agree(shared_bucket: str, s3_server: SeaweedFS, script: list[Work]) -> None:
    async with S3Store(shared_bucket, Config(endpoint=s3_server.endpoint)) as whole:
        real, model = PrefixStore(whole, f"script-{next(_folders)}/"), MemoryStore()
        for work in script:
            assert await outcome(real, work) == await outcome(model, work)
        assert await contents(real) == await contents(model)
        await real.delete_many(await contents(model))


async def contents(store: ObjectStore) -> dict[str, bytes]:
    return {meta.key: await store.get(meta.key) async for page in store.list() for meta in page.objects}
