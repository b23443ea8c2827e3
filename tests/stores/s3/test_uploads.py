"""Multipart uploads whose answers are lost, late, decorated or wrong."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
import trio
from trio.testing import MockClock

from s3dlio.alignment import Checksum
from s3dlio.config import Config, MiB
from s3dlio.errors import (
    IntegrityError,
    PermissionDeniedError,
    ProtocolError,
    ServerError,
    StoreError,
    UploadNotFoundError,
)
from s3dlio.model import Part
from s3dlio.stores.s3.route import route
from s3dlio.stores.s3.store import S3Store
from s3dlio.stores.s3.uploads import composite_etag, is_made_of
from s3dlio.transfer import ParallelStore

from ...servers.clouds import WritableS3, serving
from ...servers.faults import NOTHING, Asked, Fault, Truth, error_body, refusal
from ...servers.seaweedfs import SeaweedFS

PATH = "/bucket/key"
DATA = bytes(12 * MiB)
BEGUN = datetime(2026, 11, 26, 12, tzinfo=UTC)
KMS = {"x-amz-server-side-encryption": "aws:kms"}


@pytest.fixture
async def server() -> AsyncIterator[WritableS3]:
    async with serving(WritableS3) as running:
        yield running


@pytest.fixture
async def store(server: WritableS3) -> AsyncIterator[S3Store]:
    async with S3Store("bucket", Config(endpoint=server.endpoint, anonymous=True, max_attempts=3)) as made:
        yield made


@pytest.fixture
def parallel(store: S3Store) -> ParallelStore:
    return ParallelStore(store, part_size=5 * MiB, parts_in_flight=1)


def sent(server: WritableS3) -> list[str]:
    """The methods of all requests."""
    return [asked.method for asked in server.requests]


# An answer that is lost


@pytest.mark.parametrize("encryption", [{}, KMS])
async def test_a_completion_whose_answer_is_lost(
    clock: MockClock, server: WritableS3, store: S3Store, encryption: dict[str, str]
) -> None:
    """The object is there: what is asked again is answered by `NoSuchUpload`. Under KMS etags are no MD5s."""
    upload = await store.create_upload("key")
    server.script.append(Fault(headers={"etag": '"0123456789abcdef0123456789abcdef"'} if encryption else {}))
    part = await store.upload_part(upload, 1, b"content")
    head = Fault(headers={**encryption, "etag": '"fedcba9876543210fedcba9876543210-1"'} if encryption else {})
    server.script += [Fault(cut=NOTHING), Fault(), head]
    made = await store.complete_upload(upload, [part])
    assert server.objects[PATH] == b"content"
    assert made.etag is not None
    assert sent(server) == ["POST", "PUT", "POST", "POST", "HEAD"]


@pytest.mark.parametrize(
    "there",
    [
        Fault(404, body=b""),
        Fault(headers={"etag": '"0123456789abcdef0123456789abcdef-1"'}),
        Fault(headers={"content-length": "6"}),
        Fault(headers={**KMS, "etag": '"0123456789abcdef0123456789abcdef-2"'}),
        Fault(headers={**KMS, "etag": '"0123456789abcdef0123456789abcdef"'}),
        Fault(
            headers={
                **KMS,
                "etag": '"0123456789abcdef0123456789abcdef-1"',
                "last-modified": "Mon, 23 Nov 2020 01:02:03 GMT",
            }
        ),
    ],
)
async def test_another_object_is_not_taken_for_ours(
    clock: MockClock, server: WritableS3, store: S3Store, there: Fault
) -> None:
    upload = await store.create_upload("key")
    part = await store.upload_part(upload, 1, b"content")
    server.script += [Fault(cut=NOTHING), Fault(), there]
    with pytest.raises(UploadNotFoundError):
        await store.complete_upload(upload, [part])


async def test_an_upload_that_was_ended_is_not_looked_for(server: WritableS3, store: S3Store) -> None:
    upload = await store.create_upload("key")
    part = await store.upload_part(upload, 1, b"content")
    await store.complete_upload(upload, [part])
    with pytest.raises(UploadNotFoundError):
        await store.complete_upload(upload, [part])
    assert "HEAD" not in sent(server)


def test_what_an_object_tells_of_its_upload() -> None:
    digests = [hashlib.md5(bytes([number]), usedforsecurity=False).hexdigest() for number in range(2)]
    parts = [Part(number, f'"{digest}"', 5) for number, digest in enumerate(digests, 1)]
    composite = composite_etag(parts) or ""

    def verdict(etag: str = composite, size: int = 10, age: float = 0, more: Mapping[str, str] = {}) -> bool:
        dated = format_datetime(BEGUN - timedelta(seconds=age), usegmt=True)
        return is_made_of(parts, BEGUN, {"etag": etag, "content-length": str(size), "last-modified": dated, **more})

    assert verdict()
    assert verdict(age=1e6)  # the content is proved
    assert not verdict(size=11)
    assert not verdict(etag='"x-2"')
    assert verdict(etag='"x-2"', more=KMS)
    assert verdict(etag='"x-2"', more={"x-amz-server-side-encryption-customer-algorithm": "AES256"})
    assert not verdict(etag='"x-2"', more={"x-amz-server-side-encryption": "AES256"})
    assert not verdict(etag='"x-3"', more=KMS)
    assert not verdict(etag='"x-2"', age=10, more=KMS)
    assert composite_etag([Part(1, '"not hex"', 5)]) is None
    assert composite_etag([Part(1, '"abcd"', 5)]) is None


# Answers that are decorated


DECORATED = {
    "white space": b" \r\n" * 40 + b"<?xml version='1.0'?>",
    "the key": b"<?xml version='1.0'?>",
    "as it is": b"<?xml version='1.0'?>",
}


@pytest.mark.parametrize("before", [b"", b" \r\n" * 1000])
async def test_what_keeps_the_connection_alive_and_what_the_key_is(
    clock: MockClock, server: WritableS3, parallel: ParallelStore, before: bytes
) -> None:
    """MinIO sends white space before a result that takes long; keys of control characters are repeated in answers."""
    key = b"<Key>t&#x7; a&b</Key><Key>\x07</Key>"
    xml = before + b"<?xml version='1.0'?><%b>" + key + b"%b</%b>"
    failure = before + error_body("InternalError")
    root, done = b"InitiateMultipartUploadResult", b"CompleteMultipartUploadResult"
    server.uploads["upload-0"] = ("/bucket/t\x07", {})
    server.script += [
        Fault(200, body=xml % (root, b"<UploadId>upload-0</UploadId>", root)),
        *[Fault()] * 3,
        Fault(raw=b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(failure), failure)),
        Fault(200, body=xml % (done, b"<ETag>made</ETag>", done)),
    ]
    made = await parallel.put("t\x07", DATA)
    assert made.etag == '"made"'
    assert server.objects["/bucket/t\x07"] == DATA


@pytest.mark.parametrize("failure", [b"InternalError", b"SlowDown"])
async def test_a_copy_that_fails_after_white_space_is_tried_again(
    clock: MockClock, server: WritableS3, store: S3Store, failure: bytes
) -> None:
    server.objects["/bucket/source"] = b"content"
    body = b"\n \r\n" + error_body(failure.decode())
    server.script.append(Fault(raw=b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)))
    await store.copy("source", "key")
    assert server.objects[PATH] == b"content"
    assert sent(server) == ["PUT", "PUT"]


async def test_keys_of_control_characters_on_a_real_server(
    s3_server: SeaweedFS, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_SESSION_TOKEN")
    async with S3Store(bucket, Config()) as store:
        parallel = ParallelStore(store, part_size=5 * MiB, parts_in_flight=2)
        await parallel.put("t\x07", DATA)
        assert await parallel.get("t\x07") == DATA
        assert [meta.key for meta in (await store.list_page()).objects] == ["t\x07"]


# Answers that say something else


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME"])
async def test_a_part_that_arrived_otherwise(server: WritableS3, parallel: ParallelStore, algorithm: str) -> None:
    """By the checksum that the answer names, if it names one; then no upload stays."""
    header = f"x-amz-checksum-{algorithm.lower()}"
    right, wrong = Checksum(algorithm, DATA[: 5 * MiB]).base64, Checksum(algorithm, DATA[1 : 5 * MiB]).base64
    server.script += [Fault(), Fault(headers={header: right}), Fault(headers={header: wrong})]
    with pytest.raises(IntegrityError, match=header) as caught:
        await parallel.put("key", DATA)
    assert (caught.value.operation, caught.value.key) == ("UploadPart", "key")
    assert server.uploads == {}
    assert server.objects == {}


async def test_parts_do_not_wait_for_a_permission_that_the_upload_has(
    server: WritableS3, store: S3Store, parallel: ParallelStore
) -> None:
    await parallel.put("key", DATA)
    await store.put("key", DATA)
    asked = [asked.headers.get("expect") for asked in server.requests if asked.method == "PUT"]
    assert asked == [None, None, None, "100-continue"]


# Checksums that go with what is sent

VALUE, TYPE, CHOSEN = "x-amz-checksum-crc64nvme", "x-amz-checksum-type", "x-amz-checksum-algorithm"


def checksums_sent(server: WritableS3) -> list[dict[str, str]]:
    """What each request says of checksums."""
    return [{name: value for name, value in asked.headers.items() if "-checksum-" in name} for asked in server.requests]


def crc(data: bytes) -> str:
    return Checksum("CRC64NVME", data).base64


@pytest.fixture
def at_amazon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3dlio.stores.s3.store.route", lambda *given: replace(route(*given), aws=True))


@pytest.mark.usefixtures("at_amazon")
async def test_amazon_compares_the_parts_and_the_whole(server: WritableS3, parallel: ParallelStore) -> None:
    data = DATA[: 6 * MiB] + b"the end" * MiB
    await parallel.put("key", data)
    cuts = [data[first : first + 5 * MiB] for first in range(0, len(data), 5 * MiB)]
    begin, *parts, end = checksums_sent(server)
    assert begin == {CHOSEN: "CRC64NVME", TYPE: "FULL_OBJECT"}
    assert parts == [{VALUE: crc(part)} for part in cuts]
    assert end == {VALUE: crc(data), TYPE: "FULL_OBJECT"}


@pytest.mark.usefixtures("at_amazon")
@pytest.mark.parametrize("data", [b"", b"content", DATA])
async def test_amazon_compares_what_is_one_request(server: WritableS3, store: S3Store, data: bytes) -> None:
    await store.put("key", data)
    assert checksums_sent(server) == [{VALUE: crc(data)}]
    assert server.objects[PATH] == data


@pytest.mark.usefixtures("at_amazon")
async def test_the_whole_is_not_compared_where_a_part_was_not(server: WritableS3, store: S3Store) -> None:
    upload = await store.create_upload("key")
    part = await store.upload_part(upload, 1, b"content")
    assert part.checksum is not None
    await store.complete_upload(upload, [replace(part, checksum=None)])
    assert checksums_sent(server)[-1] == {}


async def test_other_servers_are_sent_no_checksums(server: WritableS3, store: S3Store, parallel: ParallelStore) -> None:
    """They may refuse what they do not know."""
    await store.put("key", b"content")
    await parallel.put("key", DATA)
    assert not any(checksums_sent(server))


@pytest.mark.usefixtures("at_amazon")
async def test_what_did_not_arrive_as_it_was_is_an_error(server: WritableS3, parallel: ParallelStore) -> None:
    server.script += [Fault(), refusal(400, "BadDigest")]
    with pytest.raises(IntegrityError):
        await parallel.put("key", DATA)
    assert (server.uploads, server.objects) == ({}, {})


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"<html><body>Welcome</body></html>", ProtocolError),
        (b"<CompleteMultipartUploadResult/>", ProtocolError),
        (b"", ProtocolError),
        (error_body("InternalError"), ServerError),
    ],
)
async def test_a_completion_that_shows_no_result(
    clock: MockClock, server: WritableS3, parallel: ParallelStore, body: bytes, expected: type[StoreError]
) -> None:
    answer = Fault(raw=b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
    server.script += [Fault()] * 4 + [answer] * 3
    with pytest.raises(expected) as caught:
        await parallel.put("key", DATA)
    assert (caught.value.operation, caught.value.attempts) == ("CompleteMultipartUpload", 3)
    assert (server.uploads, server.objects) == ({}, {})


@pytest.mark.parametrize("body", [error_body("AccessDenied"), b"<html/>", b"<DeleteResult>", b""])
async def test_a_deletion_that_shows_no_result(
    clock: MockClock, server: WritableS3, store: S3Store, body: bytes
) -> None:
    server.always = Fault(raw=b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
    with pytest.raises(PermissionDeniedError if b"Denied" in body else ProtocolError) as caught:
        await store.delete_many(["key"])
    assert caught.value.operation == "DeleteObjects"


# Cancellation


async def test_an_upload_cancelled_while_it_is_created_is_aborted(
    server: WritableS3, store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    scope, honest = trio.CancelScope(), server.answer

    def answer(asked: Asked, fault: Fault) -> Truth:
        scope.cancel()
        return honest(asked, fault)

    monkeypatch.setattr(server, "answer", answer)
    with scope:
        await store.create_upload("key")
    assert scope.cancelled_caught
    assert (server.begun, server.uploads) == (1, {})


async def test_an_upload_is_not_waited_for_without_end(clock: MockClock, server: WritableS3, store: S3Store) -> None:
    server.always = Fault(stall=NOTHING)
    began = trio.current_time()
    with trio.move_on_after(1):
        await store.create_upload("key")
    assert trio.current_time() - began < 10
    assert sent(server) == ["POST"]


async def test_an_upload_that_cannot_be_created_says_why(server: WritableS3, store: S3Store) -> None:
    server.script.append(refusal(403, "AccessDenied"))
    with pytest.raises(PermissionDeniedError) as caught:
        await store.create_upload("key")
    error = caught.value
    assert (error.operation, error.bucket, error.key, error.code) == (
        "CreateMultipartUpload",
        "bucket",
        "key",
        "AccessDenied",
    )
