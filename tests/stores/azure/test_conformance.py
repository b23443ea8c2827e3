"""The conformance suite, on Azurite."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Collection, Mapping
from typing import ClassVar

import pytest

from s3dlio.config import Config
from s3dlio.errors import ServerError, StoreError, UploadNotFoundError
from s3dlio.stores.azure.store import AzureStore
from s3dlio.stores.store import ObjectStore
from s3dlio.stores.wrapper import PrefixStore
from s3dlio.transfer import ParallelStore

from ...servers.azurite import Azurite
from ..conformance import KEY, RANGE, Elsewhere, StoreConformance, listed


class TestAzure(StoreConformance):
    refused_keys: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("dot/./segment", "dot/../segment", ".", "..", "back\\slash"), "would lead to another blob"
    )
    unlistable_keys: ClassVar[Collection[str]] = ("\ufffe", "control\x01\x7f")
    metadata_name = "other_name1"
    storage_class = "Cool"
    has_tags = True
    default_classes = ("Hot",)

    def in_order(self, keys: list[str]) -> list[str]:
        """By their UTF-16, as in .NET."""
        return sorted(keys, key=lambda key: key.encode("utf-16-be"))

    @pytest.fixture
    async def whole(self, container: str) -> AsyncIterator[ObjectStore]:
        async with AzureStore(container, Config(max_attempts=3)) as store:
            yield store

    @pytest.fixture
    def store(self, whole: ObjectStore) -> ObjectStore:
        return whole

    @pytest.fixture
    async def elsewhere(self, azure_environment: Azurite) -> AsyncIterator[Elsewhere | None]:
        name = f"other-{uuid.uuid4()}"
        azure_environment.create_container(name)
        async with AzureStore(name, Config(max_attempts=3)) as store:
            yield Elsewhere(name, store)

    async def test_two_uploads_of_one_key_are_apart(self, store: ObjectStore) -> None:
        """They do not mix; but the first to be completed takes the other's blocks away."""
        one, two = await store.create_upload(KEY), await store.create_upload(KEY)
        first, second = await store.upload_part(one, 1, b"one"), await store.upload_part(two, 1, b"two")
        await store.complete_upload(two, [second])
        with pytest.raises(UploadNotFoundError) as caught:
            await store.complete_upload(one, [first])
        assert caught.value.code == "InvalidBlockList"
        assert await store.get(KEY) == b"two"
        first = await store.upload_part(one, 1, b"one")
        await store.complete_upload(one, [first])
        assert await store.get(KEY) == b"one"

    async def test_keys_that_are_no_xml_are_blobs_all_the_same(self, store: ObjectStore) -> None:
        """Azure would list them encoded; the emulator answers 500, of which only an error may become."""
        for key in self.unlistable_keys:
            await store.put(key, key.encode())
        for key in self.unlistable_keys:
            assert await store.get(key) == key.encode()
            with pytest.raises(ServerError):
                await listed(store)
            await store.delete(key)
        assert await listed(store) == []


class TestAzureBelowAPrefix(TestAzure):
    @pytest.fixture
    async def store(self, whole: ObjectStore) -> ObjectStore:
        for key in ("below0", "a", "z"):
            await whole.put(key, b"outside")
        return PrefixStore(whole, "below/")


class TestAzureInParallel(TestAzure):
    @pytest.fixture
    def store(self, whole: ObjectStore) -> ObjectStore:
        return ParallelStore(whole, part_size=RANGE, parts_in_flight=8)


class TestAzureWithASas(TestAzure):
    """All verbs, the copy's source too, authorised by a token in the query."""

    @pytest.fixture
    def container(self, container: str, azure_environment: Azurite, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_KEY")
        monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", azure_environment.sas(container))
        return container

    async def test_copy_reaches_into_another_bucket_or_says_that_it_cannot(
        self, store: ObjectStore, elsewhere: Elsewhere | None
    ) -> None:
        """A token of one container opens no other."""
        assert elsewhere is not None
        with pytest.raises(StoreError):
            await store.copy(KEY, KEY, source_bucket=elsewhere.bucket)
        assert not await store.exists(KEY)
