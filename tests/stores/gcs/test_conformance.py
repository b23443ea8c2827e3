"""The conformance suite against fake-gcs-server, with stores around the store, and against the scripted server.

Three methods say what fake-gcs-server cannot, and what is tested instead; the scripted server can.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from s3dlio.config import Config
from s3dlio.errors import BucketNotFoundError, PreconditionFailedError
from s3dlio.model import PutOptions
from s3dlio.stores.gcs.store import GCSStore
from s3dlio.stores.store import BytesSink, ObjectStore
from s3dlio.stores.wrapper import PrefixStore
from s3dlio.transfer import ParallelStore

from ...servers.gcs import BUCKET, GCSServer, scripted_gcs
from ..conformance import KEY, NAMES, OTHER_ETAG, RANGE, Elsewhere, StoreConformance, listed
from .conftest import fresh_bucket


class OnFakeGCS(StoreConformance):
    storage_class = "NEARLINE"
    default_classes = ("STANDARD",)

    @pytest.fixture
    async def whole(self, gcs_server: GCSServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[GCSStore]:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs_server.endpoint)
        async with GCSStore(fresh_bucket(gcs_server), Config(max_attempts=3)) as store:
            yield store

    @pytest.fixture
    def store(self, whole: GCSStore) -> ObjectStore:
        return whole

    @pytest.fixture
    async def elsewhere(self, gcs_server: GCSServer, whole: GCSStore) -> AsyncIterator[Elsewhere]:
        name = fresh_bucket(gcs_server)
        async with GCSStore(name, Config(max_attempts=3)) as store:
            yield Elsewhere(name, store)

    async def test_an_object_is_of_the_storage_class_that_was_asked_for(self, store: ObjectStore) -> None:
        """This server's compose forgets the class."""
        await store.put(KEY, b"content", PutOptions(storage_class=self.storage_class))
        (shown,) = await listed(store)
        assert (await store.head(KEY)).storage_class == shown.storage_class == self.storage_class

    @pytest.mark.parametrize("limit", [1000])
    async def test_a_delimiter_folds_what_lies_deeper(self, store: ObjectStore, limit: int) -> None:
        """Folded listings of this server have all prefixes on every page."""
        await super().test_a_delimiter_folds_what_lies_deeper(store, limit)

    async def test_start_after_passes_over_keys(self, store: ObjectStore) -> None:
        """This server compares `startOffset` with a prefix instead of with the keys that have it."""
        for name in NAMES:
            await store.put(name, b"")
        for after in ("", "b/c/d", "b/c/dd", "c", "漢", "\U0001f601"):
            found = [meta.key async for page in store.list(start_after=after) for meta in page.objects]
            assert found == [name for name in self.in_order(NAMES) if name > after], after

    async def test_a_conditional_upload_spares_an_existing_object(self, store: ObjectStore) -> None:
        """This server's compose has no preconditions; that no etag but a generation is one needs no server."""
        upload = await store.create_upload(KEY, PutOptions(if_match=OTHER_ETAG))
        part = await store.upload_part(upload, 1, b"new")
        with pytest.raises(PreconditionFailedError):
            await store.complete_upload(upload, [part])
        assert not await store.exists(KEY)


class TestGCS(OnFakeGCS):
    pass


class TestGCSBelowAPrefix(OnFakeGCS):
    @pytest.fixture
    async def store(self, whole: GCSStore) -> ObjectStore:
        for key in ("below", "below0", "a", "z"):
            await whole.put(key, b"outside")
        return PrefixStore(whole, "below/")


class TestGCSInParallel(OnFakeGCS):
    @pytest.fixture
    def store(self, whole: GCSStore) -> ObjectStore:
        return ParallelStore(whole, part_size=RANGE, parts_in_flight=8)


class TestGCSByTheReference(StoreConformance):
    """On the scripted server. It pages as GCS does, keeps conditions, copies in steps, and sends no custom metadata."""

    storage_class = "COLDLINE"

    @pytest.fixture
    async def store(self) -> AsyncIterator[ObjectStore]:
        async with (
            scripted_gcs() as server,
            GCSStore(BUCKET, Config(gcs_endpoint=server.endpoint, max_attempts=3)) as store,
        ):
            yield store

    async def test_copy_reaches_into_another_bucket_or_says_that_it_cannot(
        self, store: ObjectStore, elsewhere: Elsewhere | None
    ) -> None:
        """This server has one bucket."""
        with pytest.raises(BucketNotFoundError):
            await store.copy(KEY, KEY, source_bucket="another")

    async def test_head_get_and_listing_agree(self, store: ObjectStore) -> None:
        """But for custom metadata, which GCS does not send along with content."""
        made = await store.put(KEY, b"content", PutOptions("application/x-test", {"Name": "a value: \N{SNOWMAN}"}))
        head, fetched = await store.head(KEY), (await store.fetch(KEY, BytesSink())).meta
        (shown,) = await listed(store)
        for meta in (head, fetched, shown):
            assert (meta.key, meta.size, meta.etag, meta.version) == (KEY, 7, made.etag, made.etag)
            assert meta.last_modified is not None
        assert head.content_type == fetched.content_type == "application/x-test"
        assert (dict(head.metadata), dict(fetched.metadata)) == ({"Name": "a value: \N{SNOWMAN}"}, {})
