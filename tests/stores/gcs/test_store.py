"""What Google Cloud Storage has that other stores have not: generations, composing, checksums, stored gzip."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

import s3dlio
from s3dlio.config import Config
from s3dlio.errors import (
    AlreadyExistsError,
    BucketNotFoundError,
    IntegrityError,
    NotFoundError,
    NotModifiedError,
    ObjectChangedError,
    PermissionDeniedError,
    ProtocolError,
    ServerError,
    UploadNotFoundError,
)
from s3dlio.model import BoundedRange, GetOptions, ListOptions, OffsetRange, Part, PutOptions
from s3dlio.stores.gcs.store import RESUMABLE_FROM, GCSStore
from s3dlio.stores.store import BytesSink
from s3dlio.transfer import ParallelStore

from ...servers.faults import NOTHING, Fault
from ...servers.gcs import BUCKET, GCSServer, ScriptedGCS, scripted_gcs
from ..conformance import listed
from .conftest import fresh_bucket

DATA = bytes(range(256)) * 40


@pytest.fixture
async def server() -> AsyncIterator[ScriptedGCS]:
    """With one object, `key`, of :data:`DATA`."""
    async with scripted_gcs() as running:
        running.store("key", DATA)
        yield running


@pytest.fixture
async def store(server: ScriptedGCS) -> AsyncIterator[GCSStore]:
    async with GCSStore(BUCKET, Config(gcs_endpoint=server.endpoint, max_attempts=3)) as store:
        yield store


@pytest.fixture
async def real(gcs_server: GCSServer) -> AsyncIterator[GCSStore]:
    """A store on fake-gcs-server."""
    async with GCSStore(fresh_bucket(gcs_server), Config(gcs_endpoint=gcs_server.endpoint)) as store:
        yield store


# Reading


@pytest.mark.parametrize("cut", [0, 1, 5000, len(DATA) - 1])
async def test_a_cut_body_goes_on_with_the_same_generation(
    clock: MockClock, server: ScriptedGCS, store: GCSStore, cut: int
) -> None:
    server.script.append(Fault(cut=cut))
    generation = server.resources["key"]["generation"]
    assert await store.get("key") == DATA
    again = server.requests[1]
    assert again.target.endswith(f"?alt=media&generation={generation}")
    assert again.range == (f"bytes={cut}-{len(DATA) - 1}" if cut else None)
    assert server.body_bytes_sent == len(DATA)


async def test_a_generation_that_is_gone_is_a_changed_object(
    clock: MockClock, server: ScriptedGCS, store: GCSStore
) -> None:
    old = (await store.head("key")).etag

    async def replace_it(coming: object) -> None:
        server.store("key", DATA[::-1])

    server.script.append(Fault(cut=100))
    async with trio.open_nursery() as nursery:

        def sink(coming: object) -> memoryview:
            nursery.start_soon(replace_it, coming)
            return memoryview(bytearray(len(DATA)))

        with pytest.raises(ObjectChangedError):
            await store.fetch("key", sink)
    for byte_range in (None, BoundedRange(5, 10), OffsetRange(5)):
        with pytest.raises(ObjectChangedError) as caught:
            await store.fetch("key", BytesSink(), GetOptions(byte_range=byte_range, if_match=old))
        assert (caught.value.status, caught.value.key) == (404, "key")


async def test_a_known_generation_is_not_sent_again(server: ScriptedGCS, store: GCSStore) -> None:
    known = (await store.head("key")).etag
    before = server.body_bytes_sent
    with pytest.raises(NotModifiedError) as caught:
        await store.fetch("key", BytesSink(), GetOptions(if_none_match=known))
    assert caught.value.status == 304
    assert server.body_bytes_sent == before


async def test_stored_gzip_comes_as_it_is_stored(server: ScriptedGCS, store: GCSStore) -> None:
    packed = gzip.compress(DATA)
    server.store("packed", packed, contentEncoding="gzip")
    assert await store.get("packed") == packed
    assert await store.get_range("packed", BoundedRange(2, 9)) == packed[2:9]
    server.script.append(Fault(headers={"x-goog-stored-content-length": "7"}))
    assert await store.get("packed") == packed, "an answer of other bytes than the stored ones is none"


async def test_stored_gzip_of_a_real_server(gcs_server: GCSServer) -> None:
    bucket, packed = fresh_bucket(gcs_server), gzip.compress(DATA)
    target = f"/upload/storage/v1/b/{bucket}/o?uploadType=media&name=packed&contentEncoding=gzip"
    gcs_server.ask("POST", target, packed, "text/plain")
    async with GCSStore(bucket, Config(gcs_endpoint=gcs_server.endpoint)) as store:
        assert await store.get("packed") == packed
        assert await store.get_range("packed", BoundedRange(2, 9)) == packed[2:9]


async def test_a_flipped_byte_is_found(server: ScriptedGCS, store: GCSStore) -> None:
    for data in (b"small", DATA, DATA * 200):
        server.store("key", data)
        server.objects["key"] = data[:-1] + b"\0"
        with pytest.raises(IntegrityError, match="checksum") as caught:
            await store.get("key")
        assert (caught.value.operation, caught.value.bucket, caught.value.key) == ("objects.get", BUCKET, "key")
        with pytest.raises(IntegrityError):
            await store.get_range("key", BoundedRange(0, len(data)))
        assert await store.get_range("key", BoundedRange(1, len(data))) == data[1:-1] + b"\0", "no part has a checksum"
        server.objects["key"] = data
        server.script.append(Fault(body=data[:-1] + b"\0"))
        assert await store.get("key") == data
        assert not server.script


# Errors


async def test_a_missing_bucket_is_named(store: GCSStore, server: ScriptedGCS, gcs_server: GCSServer) -> None:
    async with GCSStore("absent-bucket", Config(gcs_endpoint=server.endpoint)) as absent:
        for work in (absent.get("k"), absent.head("k"), absent.list_page(), absent.delete("k"), absent.copy("k", "l")):
            with pytest.raises(BucketNotFoundError, match="absent-bucket"):
                await work
    async with GCSStore("absent-bucket", Config(gcs_endpoint=gcs_server.endpoint)) as absent:
        for work in (absent.put("k", b""), absent.put("k", DATA * 1000), absent.list_page()):
            with pytest.raises(BucketNotFoundError, match="absent-bucket"):
                await work


async def test_errors_say_what_the_server_said(clock: MockClock, server: ScriptedGCS, store: GCSStore) -> None:
    with pytest.raises(NotFoundError) as caught:
        await store.get("absent")
    error = caught.value
    assert type(error) is NotFoundError
    assert (error.operation, error.bucket, error.key, error.status) == ("objects.get", BUCKET, "absent", 404)
    assert (error.code, error.request_id, error.attempts) == ("notFound", "upload-notFound", 1)
    server.script.append(Fault(status=403, body=b"Anonymous caller does not have storage.objects.get access"))
    with pytest.raises(PermissionDeniedError, match="Anonymous caller"):
        await store.get("key")
    server.always = Fault(status=500)
    with pytest.raises(ServerError) as failed:
        await store.head("key")
    assert failed.value.attempts == 3


async def test_answers_that_are_none(store: GCSStore, server: ScriptedGCS) -> None:
    server.always = Fault(status=200, body=b"<html>a captive portal</html>")
    part = Part(1, "17-00000000", 0)
    upload = await store.create_upload("key")
    for work in (
        store.head("key"),
        store.list_page(),
        store.put("key", b""),
        store.put("key", DATA * 1000),
        store.copy("key", "other"),
        store.complete_upload(upload, [part]),
    ):
        with pytest.raises(ProtocolError) as caught:
            await work
        assert caught.value.operation
        assert caught.value.endpoint == server.endpoint


# Uploads


async def test_many_parts_are_joined_in_rounds(real: GCSStore) -> None:
    upload = await real.create_upload("key", PutOptions("application/x-test"))
    parts = [await real.upload_part(upload, number, b"%d," % number) for number in range(1, 1061)]
    made = await real.complete_upload(upload, parts)
    assert await real.get("key", if_match=made.etag) == b"".join(b"%d," % number for number in range(1, 1061))
    assert (await real.head("key")).content_type == "application/x-test"
    assert [meta.key for meta in await listed(real)] == ["key"]
    assert await listed(real, ".s3dlio-uploads/") == []


async def test_parts_are_hidden_but_can_be_found(real: GCSStore) -> None:
    upload = await real.create_upload("key")
    await real.upload_part(upload, 1, b"content")
    assert await listed(real) == []
    assert (await real.list_page("", ListOptions(delimiter="/"))).prefixes == ()
    (part,) = await listed(real, ".s3dlio-uploads/")
    assert part.key == f".s3dlio-uploads/{upload.id}/00001"
    await real.abort_upload(upload)
    assert await listed(real, ".s3dlio-uploads/") == []


async def test_a_writer_that_fails_or_is_cancelled_leaves_nothing(real: GCSStore) -> None:
    store = ParallelStore(real, part_size=1 << 20, parts_in_flight=4)

    async def fail() -> None:
        async with store.open_writer("key") as writer:
            await writer.write(bytes(12 << 20))
            with trio.fail_after(60):
                while len(await listed(real, ".s3dlio-uploads/")) < 2:
                    pass
            raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        await fail()
    with trio.CancelScope() as scope:
        async with store.open_writer("key") as writer:
            await writer.write(bytes(12 << 20))
            scope.cancel()
            await trio.sleep_forever()
    assert await listed(real) == await listed(real, ".s3dlio-uploads/") == []


async def test_a_conditional_upload_is_not_repeated_blindly(
    clock: MockClock, server: ScriptedGCS, store: GCSStore
) -> None:
    upload = await store.create_upload("key", PutOptions(if_none_match=True))
    part = await store.upload_part(upload, 1, b"new")
    with pytest.raises(AlreadyExistsError) as caught:
        await store.complete_upload(upload, [part])
    assert (caught.value.operation, caught.value.code) == ("objects.compose", "conditionNotMet")
    assert server.requests[-1].target.endswith("/compose?ifGenerationMatch=0")
    assert server.objects["key"] == DATA


async def test_a_part_that_vanished(server: ScriptedGCS, store: GCSStore) -> None:
    upload = await store.create_upload("key")
    first = await store.upload_part(upload, 1, b"first")
    with pytest.raises(UploadNotFoundError):
        await store.complete_upload(upload, [first, replace(first, number=2)])
    await store.upload_part(upload, 1, b"again")
    with pytest.raises(UploadNotFoundError):
        await store.complete_upload(upload, [first])
    assert server.objects["key"] == DATA


async def test_joined_parts_are_checked(server: ScriptedGCS, store: GCSStore) -> None:
    upload = await store.create_upload("key")
    part = await store.upload_part(upload, 1, b"first")
    server.objects[f".s3dlio-uploads/{upload.id}/00001"] = b"other"
    with pytest.raises(IntegrityError, match="CRC32C"):
        await store.complete_upload(upload, [part])


async def test_a_finished_object_is_no_failure_because_of_its_parts(
    clock: MockClock, server: ScriptedGCS, store: GCSStore, caplog: pytest.LogCaptureFixture
) -> None:
    upload = await store.create_upload("key")
    part = await store.upload_part(upload, 1, b"new")
    honest = Fault()
    server.script += [honest, *[Fault(status=500)] * 3]
    await store.complete_upload(upload, [part])
    assert server.objects["key"] == b"new"
    assert "could not be removed" in caplog.text


async def test_a_copy_goes_on_until_it_is_done(server: ScriptedGCS, store: GCSStore) -> None:
    made = await store.copy("key", "other/key")
    assert server.objects["other/key"] == DATA
    assert made.etag == server.resources["other/key"]["generation"]
    assert server.requests[-1].target.endswith("?rewriteToken=half%2Bdone%2F%3D")


async def test_a_copy_names_the_bucket_it_is_from(server: ScriptedGCS, store: GCSStore) -> None:
    with pytest.raises(BucketNotFoundError):
        await store.copy("a/key", "other/key", source_bucket="another.bucket")
    (asked,) = server.requests
    assert asked.method == "POST"
    assert asked.target == f"/storage/v1/b/another.bucket/o/a%2Fkey/rewriteTo/b/{BUCKET}/o/other%2Fkey"


async def test_a_storage_class_is_asked_for_in_every_kind_of_write(server: ScriptedGCS, store: GCSStore) -> None:
    """Of parts it is not: they are gone when the object is there."""
    options = PutOptions(storage_class="COLDLINE")
    await store.put("at once", b"content", options)
    await store.put("resumable", bytes(RESUMABLE_FROM + 1), options)
    upload = await store.create_upload("in parts", options)
    await store.complete_upload(upload, [await store.upload_part(upload, 1, b"content")])
    for key in ("at once", "resumable", "in parts"):
        assert (await store.head(key)).storage_class == "COLDLINE"
    (part,) = (known for key, known in server.resources.items() if key.startswith(".s3dlio-uploads/"))
    assert "storageClass" not in part


async def test_requests_introduce_themselves(server: ScriptedGCS) -> None:
    for agent in ("s3dlio", "my-program/1.0 (a comment)"):
        async with GCSStore(BUCKET, Config(gcs_endpoint=server.endpoint, user_agent=agent)) as store:
            server.requests.clear()
            await store.get("key")
            await store.put("large", bytes(RESUMABLE_FROM + 1))
            assert {asked.headers["user-agent"] for asked in server.requests} == {agent}
            assert len(server.requests) == 3


async def test_a_condition_is_kept_when_the_answer_is_lost(
    clock: MockClock, server: ScriptedGCS, store: GCSStore
) -> None:
    """Small writes that are conditional are sent once: a second time they would meet themselves."""
    server.script.append(Fault(cut=NOTHING))
    with pytest.raises(ConnectionError):
        await store.put("new", b"content", PutOptions(if_none_match=True))
    assert len(server.requests) == 1
    server.script.append(Fault(cut=NOTHING))
    await store.put("new", b"content")
    assert len(server.requests) == 3


async def test_an_account_that_may_only_create_can_write_large_objects(server: ScriptedGCS) -> None:
    """One resumable upload: parts would be objects of their own, to be read and deleted."""
    data = bytes(range(256)) * (20 << 12)
    async with s3dlio.open_store(f"gs://{BUCKET}", gcs_endpoint=server.endpoint) as store:
        await store.put("key", data)
    assert server.objects["key"] == data
    assert [key for key in server.objects if key != "key"] == []
    assert len(server.sessions) == 1
    asked = {(request.method, request.target.partition("?")[0]) for request in server.requests}
    assert asked == {("POST", f"/upload/storage/v1/b/{BUCKET}/o"), ("PUT", f"/upload/storage/v1/b/{BUCKET}/o")}


async def test_what_the_store_has_verified_is_not_verified_again(
    server: ScriptedGCS, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s3dlio.stores.integrity.Checksum", lambda *_: pytest.fail("computed twice"))
    async with s3dlio.open_store(f"gs://{BUCKET}", gcs_endpoint=server.endpoint) as store:
        assert await store.get("key") == DATA
