"""The conformance suite, against every store and every store around a store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import ClassVar

import pytest

from s3dlio.config import Config, MiB
from s3dlio.replicas import ReplicatedStore
from s3dlio.stores.memory import MemoryStore
from s3dlio.stores.s3.store import S3Store
from s3dlio.stores.store import ObjectStore
from s3dlio.stores.wrapper import PrefixStore
from s3dlio.transfer import ParallelStore

from ..servers.seaweedfs import DOMAIN, SeaweedFS
from .conformance import RANGE, Elsewhere, StoreConformance

_DOTTED_KEYS = ("dot/./segment", "dot/../segment", ".", "..")


class TestMemory(StoreConformance):
    storage_class = "ANY"

    @pytest.fixture
    def store(self) -> ObjectStore:
        return MemoryStore()


class TestMemoryBelowAPrefix(TestMemory):
    @pytest.fixture
    async def store(self) -> ObjectStore:
        whole = MemoryStore()
        for key in ("below", "below/", "below0", "a", "z"):
            await whole.put(key, b"outside")
        return PrefixStore(whole, "below/")


class TestMemoryInParallel(TestMemory):
    @pytest.fixture
    def store(self) -> ObjectStore:
        return ParallelStore(MemoryStore(), part_size=RANGE, parts_in_flight=3)


class TestMemoryWithReplicas(TestMemory):
    """One that has none of the objects, and another one."""

    @pytest.fixture
    def store(self) -> ObjectStore:
        replicas = [ParallelStore(MemoryStore(), part_size=RANGE, parts_in_flight=3) for _ in range(2)]
        sizes = {"part_size": RANGE, "parts_in_flight": 3, "memory_limit": 64 * MiB}
        return ReplicatedStore(MemoryStore(), replicas, **sizes, max_attempts=3)


async def contents(store: ObjectStore, folder: str) -> list[str]:
    """All in a folder, deepest first, and folders too: the server goes on listing empty ones for a while."""
    pages = [page async for page in store.list(folder, delimiter="/")]
    deeper = [key for page in pages for below in page.prefixes for key in (*await contents(store, below), below)]
    return [*deeper, *(meta.key for page in pages for meta in page.objects)]


class OnSeaweedFS(StoreConformance):
    """SeaweedFS keeps objects as files in folders: a key is a path, normalised, and sorted folder by folder."""

    refused_keys: ClassVar[Mapping[str, str]] = dict.fromkeys(_DOTTED_KEYS, "not a path in normal form")
    renamed_keys: ClassVar[Mapping[str, str]] = {
        "two//slashes": "two/slashes",
        "/leading": "leading",
        "back\\slash": "back/slash",
    }
    folders_hold_bytes = False
    folders_first = True
    storage_class = "STANDARD_IA"
    has_tags = True
    default_classes = ("STANDARD",)

    @pytest.fixture
    def config(self, s3_environment: SeaweedFS) -> Config:
        return Config()

    @pytest.fixture
    async def whole(self, config: Config, shared_bucket: str) -> AsyncIterator[ObjectStore]:
        async with S3Store(shared_bucket, config) as store:
            yield store
            await store.delete_many(await contents(store, ""))

    @pytest.fixture
    def store(self, whole: ObjectStore) -> ObjectStore:
        return whole

    @pytest.fixture
    async def elsewhere(self, config: Config, second_bucket: str) -> AsyncIterator[Elsewhere]:
        async with S3Store(second_bucket, config) as store:
            yield Elsewhere(second_bucket, store)
            await store.delete_many(await contents(store, ""))


class TestS3(OnSeaweedFS):
    pass


class TestS3VirtualHosts(OnSeaweedFS):
    @pytest.fixture
    def config(self, s3_environment: SeaweedFS) -> Config:
        return Config(endpoint=s3_environment.endpoint.replace("127.0.0.1", DOMAIN), addressing="virtual")


class TestS3BelowAPrefix(OnSeaweedFS):
    @pytest.fixture
    async def store(self, whole: ObjectStore) -> ObjectStore:
        for key in ("below0", "a", "z"):
            await whole.put(key, b"outside")
        return PrefixStore(whole, "below/")


class TestS3InParallel(OnSeaweedFS):
    @pytest.fixture
    def store(self, whole: ObjectStore) -> ObjectStore:
        return ParallelStore(whole, part_size=RANGE, parts_in_flight=8)
