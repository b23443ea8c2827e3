"""What requests to S3 say besides what they are for: storage classes, sources of copies, who asks."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from s3dlio.config import Config, MiB
from s3dlio.errors import InvalidKeyError, InvalidUriError
from s3dlio.model import PutOptions, RestoreStatus
from s3dlio.stores.s3.route import route
from s3dlio.stores.s3.store import S3Store
from s3dlio.stores.store import BytesSink
from s3dlio.stores.wrapper import PrefixStore
from s3dlio.transfer import ParallelStore

from ...servers.faults import Fault, FaultServer, refusal
from ...servers.seaweedfs import SeaweedFS
from ...transport.conftest import DATA, ROOT, MakeStore

INITIATED = Fault(200, body=b"<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>")
COPIED = Fault(200, body=b"<CopyObjectResult><ETag>&quot;made&quot;</ETag></CopyObjectResult>")
COMPLETED = Fault(200, body=b"<CompleteMultipartUploadResult><ETag>made</ETag></CompleteMultipartUploadResult>")


async def test_a_storage_class_is_told_where_an_object_begins(server: FaultServer, store: S3Store) -> None:
    options = PutOptions(storage_class="GLACIER_IR")
    await store.put("key", b"content", options)
    server.script += [INITIATED, Fault(), COMPLETED]
    upload = await store.create_upload("key", options)
    await store.complete_upload(upload, [await store.upload_part(upload, 1, b"content")])
    await store.put("key", b"content")
    told = [asked.headers.get("x-amz-storage-class") for asked in server.requests]
    assert told == ["GLACIER_IR", "GLACIER_IR", None, None, None]
    assert all("x-amz-storage-class" in asked.headers["authorization"] for asked in server.requests[:2])


async def test_tags_are_told_where_an_object_begins(server: FaultServer, store: S3Store) -> None:
    options = PutOptions(tags={"kind": "a test", "a/b": "=&+\n\N{SNOWMAN}"})
    await store.put("key", b"content", options)
    server.script += [INITIATED, Fault(), COMPLETED]
    upload = await store.create_upload("key", options)
    await store.complete_upload(upload, [await store.upload_part(upload, 1, b"content")])
    quoted = "a%2Fb=%3D%26%2B%0A%E2%98%83&kind=a%20test"
    assert [asked.headers.get("x-amz-tagging") for asked in server.requests] == [quoted, quoted, None, None]


def test_there_can_be_ten_tags() -> None:
    assert len(PutOptions(tags={str(number): "" for number in range(10)}).tags) == 10
    with pytest.raises(ValueError, match="10 tags, not 11"):
        PutOptions(tags={str(number): "" for number in range(11)})


async def test_a_real_server_keeps_tags(
    s3_environment: SeaweedFS, shared_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_SESSION_TOKEN")
    tags = {"kind": "a test", "a/b": "=+"}
    async with ParallelStore(S3Store(shared_bucket, Config()), part_size=5 * MiB, parts_in_flight=2) as store:
        for size in (5, 6 * MiB):
            await store.put("key", bytes(size), PutOptions(tags=tags))
            assert isinstance(store.inner, S3Store)
            assert dict(await store.inner._tags("key")) == tags
        await store.delete("key")


@pytest.mark.parametrize("wrong", ["GLA\ncier", "GLACIER\r\nx-amz-acl: public-read", "\N{SNOWMAN}"])
async def test_a_storage_class_that_no_header_can_hold_is_refused(
    server: FaultServer, store: S3Store, wrong: str
) -> None:
    options = PutOptions(storage_class=wrong)
    for work in (store.put("key", b"content", options), store.create_upload("key", options)):
        with pytest.raises(InvalidKeyError, match="x-amz-storage-class"):
            await work
    assert server.requests == []


async def test_what_the_server_says_of_an_archived_object(server: FaultServer, store: S3Store) -> None:
    said = 'ongoing-request="false", expiry-date="Fri, 21 Dec 2012 00:00:00 GMT"'
    server.always = Fault(headers={"x-amz-restore": said, "x-amz-storage-class": "DEEP_ARCHIVE"})
    expected = RestoreStatus(False, datetime(2012, 12, 21, tzinfo=UTC))
    for meta in (await store.head("key"), (await store.fetch("key", BytesSink())).meta):
        assert (meta.restore, meta.storage_class) == (expected, "DEEP_ARCHIVE")
    server.always = Fault(headers={"x-amz-restore": 'ongoing-request="true"'})
    assert (await store.head("key")).restore == RestoreStatus(True)
    server.always = Fault()
    assert (await store.head("key")).restore is None


async def test_a_listing_asks_for_archived_objects_and_tells_of_them(server: FaultServer, store: S3Store) -> None:
    entries = (
        b"<Contents><Key>a</Key><Size>1</Size><StorageClass>GLACIER</StorageClass><RestoreStatus>"
        b"<IsRestoreInProgress>true</IsRestoreInProgress></RestoreStatus></Contents>"
        b"<Contents><Key>b</Key><Size>1</Size></Contents>"
    )
    server.script.append(Fault(200, body=b"<ListBucketResult>" + entries + b"</ListBucketResult>"))
    page = await store.list_page()
    assert [(meta.storage_class, meta.restore) for meta in page.objects] == [
        ("GLACIER", RestoreStatus(True)),
        (None, None),
    ]
    assert all(not name.startswith("x-amz-optional") for name in server.requests[0].headers), "that is AWS's alone"


async def test_aws_alone_is_asked_for_what_is_known_of_archived_objects(
    server: FaultServer, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s3dlio.stores.s3.store.route", lambda *given: replace(route(*given), aws=True))
    await make_store().list_page()
    (asked,) = server.requests
    assert asked.headers["x-amz-optional-object-attributes"] == "RestoreStatus"
    assert "x-amz-optional-object-attributes" in asked.headers["authorization"]


async def test_a_copy_names_its_source_and_the_bucket_it_is_in(server: FaultServer, store: S3Store) -> None:
    server.always = COPIED
    around = ParallelStore(PrefixStore(store, "below/"), part_size=10, parts_in_flight=1)
    made = await store.copy("a key?+%", "target")
    await store.copy("a/b/é", "target", source_bucket="other.bucket")
    await around.copy("source", "target")
    await around.copy("source", "target", source_bucket="other.bucket")
    assert made.etag == '"made"'
    assert [
        (asked.target, asked.headers["x-amz-copy-source"]) for asked in server.requests if asked.method == "PUT"
    ] == [
        ("/bucket/target", "/bucket/a%20key%3F%2B%25"),
        ("/bucket/target", "/other.bucket/a/b/%C3%A9"),
        ("/bucket/below/target", "/bucket/below/source"),
        ("/bucket/below/target", "/other.bucket/source"),
    ]


@pytest.mark.parametrize("name", ["", "a/b", "a b", "..", "b?x=y"])
async def test_a_copy_from_what_is_no_bucket_is_refused(server: FaultServer, store: S3Store, name: str) -> None:
    """An empty name does not mean the bucket itself: then it would be another object that is copied."""
    with pytest.raises(InvalidUriError, match="not a bucket name"):
        await store.copy("key", "target", source_bucket=name)
    assert server.requests == []


async def test_requests_introduce_themselves(server: FaultServer, make_store: MakeStore) -> None:
    for store, agent in (
        (make_store(), "s3dlio"),
        (make_store(user_agent="my-program/1.0 (a; b)"), "my-program/1.0 (a; b)"),
    ):
        server.requests.clear()
        await store.get("key")
        await store.put("key", DATA)
        await store.list_page()
        assert [asked.headers["user-agent"] for asked in server.requests] == [agent] * 3


@pytest.mark.parametrize(
    "refusal", [refusal(501, "NotImplemented"), refusal(405, "MethodNotAllowed"), refusal(400, "NotImplemented")]
)
async def test_a_server_without_delete_objects(server: FaultServer, store: S3Store, refusal: Fault) -> None:
    server.objects.update({f"{ROOT}{number}": b"" for number in range(3)})
    server.script.append(refusal)
    await store.delete_many(["0", "1", "2", "absent"])
    assert set(server.objects) == {f"{ROOT}key"}
    assert [asked.method for asked in server.requests] == ["POST", *["DELETE"] * 4]


async def test_google_is_not_asked_to_delete_objects_together(
    server: FaultServer, store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is its answer that there was nothing a failure."""
    monkeypatch.setattr("s3dlio.stores.s3.store._GOOGLE", "127.0.0.1")
    server.script.append(refusal(404, "NoSuchKey"))
    await store.delete_many(["absent", "key"])
    assert [(asked.method, asked.target) for asked in server.requests if "absent" not in asked.target] == [
        ("DELETE", f"{ROOT}key")
    ]
    assert server.objects == {} or len(server.requests) == 2


async def test_a_tenants_bucket_is_quoted_in_a_copys_source(server: FaultServer, store: S3Store) -> None:
    server.always = COPIED
    await store.copy("key", "target", source_bucket="tenant:bucket")
    assert server.requests[0].headers["x-amz-copy-source"] == "/tenant%3Abucket/key"
