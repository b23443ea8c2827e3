"""A service that is slow, busy or broken, on a clock that tests set."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from s3dlio.alignment import Checksum
from s3dlio.config import Config
from s3dlio.errors import (
    AlreadyExistsError,
    BucketNotFoundError,
    IntegrityError,
    InvalidKeyError,
    NotFoundError,
    ObjectChangedError,
    PermissionDeniedError,
    RequestError,
    ServerError,
    StallError,
    StoreError,
    ThrottledError,
    UnsupportedError,
)
from s3dlio.model import BoundedRange, GetOptions, GetRange, OffsetRange, PutOptions, SuffixRange
from s3dlio.stores.azure.store import API_VERSION, AzureStore, read_fault
from s3dlio.stores.store import BytesSink

from ...servers.clouds import WritableAzure, serving
from ...servers.faults import Fault, FaultServer, etag_of

SAS = "sv=2023-11-03&sp=racwdl&sig=cAnArY"
ROOT = "/acct/con"


@pytest.fixture
async def server() -> AsyncIterator[FaultServer]:
    async with serving(WritableAzure) as running:
        running.objects[f"{ROOT}/key"] = b"content"
        yield running


@pytest.fixture
async def store(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AzureStore]:
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", SAS)
    async with AzureStore("acct/con", Config(azure_endpoint=server.endpoint, max_attempts=3)) as store:
        yield store


def refusal(status: int, code: str, message: str = "Told why.") -> Fault:
    text = f"\ufeff<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}\nRequestId:1\nTime:now</Message>"
    detail = "<AuthenticationErrorDetail>sig=cAnArY</AuthenticationErrorDetail></Error>"
    headers = {"x-ms-error-code": code, "x-ms-request-id": f"request-{code}"}
    return Fault(status, headers, (text + detail).encode())


def copying(status: str, copy_id: str = "1", progress: str = "0/7") -> Fault:
    headers = {"x-ms-copy-status": status, "x-ms-copy-id": copy_id, "x-ms-copy-progress": progress}
    return Fault(headers=headers | {"etag": f'"{status}"'})


# Checksums


def crc64(data: bytes) -> Fault:
    """An answer with a checksum as the service spells it: the least significant byte first."""
    value = base64.b64encode(Checksum("CRC64NVME", data).digest()[::-1]).decode()
    return Fault(headers={"x-ms-content-crc64": value})


async def test_a_range_that_arrived_otherwise(server: FaultServer, store: AzureStore) -> None:
    wanted, right = GetOptions(BoundedRange(1, 4)), crc64(b"ont")
    server.script += [replace(right, body=b"oNt"), right]
    result = await store.fetch("key", sink := BytesSink(), wanted)
    assert (sink.data, result.verified, len(server.requests)) == (b"ont", True, 2)
    server.always = replace(right, body=b"oNt")
    with pytest.raises(IntegrityError, match="twice") as caught:
        await store.fetch("key", BytesSink(), wanted)
    assert (caught.value.operation, caught.value.bucket, caught.value.key) == ("GetBlob", "con", "key")


async def test_the_check_value_of_the_services_checksum(server: FaultServer, store: AzureStore) -> None:
    """Its polynomial is 0x9A6C9329AC4BC9B5, reflected, its register is inverted before and after."""
    server.objects[f"{ROOT}/key"] = b"-123456789-"
    server.always = Fault(headers={"x-ms-content-crc64": base64.b64encode(bytes.fromhex("8898790a86148bae")).decode()})
    assert (await store.fetch("key", BytesSink(), GetOptions(BoundedRange(1, 10)))).verified


@pytest.mark.parametrize("azure", [True, False])
@pytest.mark.parametrize(
    ("byte_range", "may"),
    [
        (BoundedRange(0, 4 << 20), True),
        (BoundedRange(1, 5), True),
        (BoundedRange(0, (4 << 20) + 1), False),
        (OffsetRange(1), False),
        (None, False),
    ],
)
async def test_azure_is_asked_for_checksums_of_ranges_that_it_computes(
    server: FaultServer,
    store: AzureStore,
    monkeypatch: pytest.MonkeyPatch,
    byte_range: GetRange | None,
    *,
    may: bool,
    azure: bool,
) -> None:
    monkeypatch.setattr("s3dlio.stores.azure.store.is_azure", lambda endpoint: azure)
    await store.fetch("key", BytesSink(), GetOptions(byte_range))
    (asked,) = server.requests
    assert asked.headers.get("x-ms-range-get-content-crc64") == ("true" if may and azure else None)


# Refusals


@pytest.mark.parametrize(
    ("status", "code", "kind", "sent"),
    [
        (503, "ServerBusy", ThrottledError, 3),
        (500, "OperationTimedOut", ServerError, 3),
        (404, "BlobNotFound", NotFoundError, 1),
        (404, "ContainerNotFound", BucketNotFoundError, 1),
        (403, "AuthenticationFailed", PermissionDeniedError, 1),
        (409, "PublicAccessNotPermitted", PermissionDeniedError, 1),
        (409, "BlobArchived", RequestError, 1),
    ],
)
async def test_refusals(
    server: FaultServer, store: AzureStore, clock: MockClock, status: int, code: str, kind: type[StoreError], sent: int
) -> None:
    server.always = refusal(status, code)
    with pytest.raises(kind, match=r"Told why\. \(") as caught:
        await store.get("key")
    error = caught.value
    assert (type(error), error.code, error.request_id, error.status) == (kind, code, f"request-{code}", status)
    assert (error.operation, error.bucket, error.key, error.attempts) == ("GetBlob", "con", "key", sent)
    assert "cAnArY" not in f"{error!r} {error}"
    assert len(server.requests) == sent


async def test_a_head_is_told_by_its_headers(server: FaultServer, store: AzureStore) -> None:
    server.always = Fault(404, {"x-ms-error-code": "ContainerNotFound"}, b"")
    with pytest.raises(BucketNotFoundError):
        await store.head("key")


async def test_a_write_that_is_not_the_first(server: FaultServer, store: AzureStore) -> None:
    for fault in (refusal(409, "BlobAlreadyExists"), refusal(412, "ConditionNotMet")):
        server.script.append(fault)
        with pytest.raises(AlreadyExistsError):
            await store.put("key", b"x", PutOptions(if_none_match=True))


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff\xfe", b"<Error/>", b"<Error><Message/></Error>"])
def test_any_error_answer_can_be_read(body: bytes) -> None:
    fault = read_fault(500, {"x-ms-request-id": "1"}, body)
    assert fault is not None
    assert (fault.code, fault.message, fault.request_id) == (None, None, "1")
    assert read_fault(200, {}, body) is None


async def test_each_attempt_carries_the_version_and_the_token_once(
    server: FaultServer, store: AzureStore, clock: MockClock
) -> None:
    server.script += [refusal(503, "ServerBusy"), refusal(500, "InternalError")]
    assert await store.get("key") == b"content"
    assert [asked.target for asked in server.requests] == [f"{ROOT}/key?{SAS}"] * 3
    assert {asked.headers["x-ms-version"] for asked in server.requests} == {API_VERSION}
    assert not any("authorization" in asked.headers for asked in server.requests)


async def test_a_suffix_is_asked_for_by_its_place_in_the_version_that_was_looked_at(
    server: FaultServer, store: AzureStore
) -> None:
    assert await store.get_range("key", SuffixRange(3)) == b"ent"
    head, get = server.requests
    assert (head.method, get.method, get.range) == ("HEAD", "GET", "bytes=4-6")
    assert get.headers["if-match"] == etag_of(b"content")


# Copies


async def test_a_copy_that_takes_its_time_is_waited_for(
    server: FaultServer, store: AzureStore, clock: MockClock
) -> None:
    server.objects[f"{ROOT}/target"] = b""
    server.script += [copying("pending"), copying("pending", progress="3/7"), copying("success")]
    assert (await store.copy("key", "target")).etag == '"success"'
    assert [asked.method for asked in server.requests] == ["PUT", "HEAD", "HEAD"]
    source = server.requests[0].headers["x-ms-copy-source"]
    assert source == f"{server.endpoint}{ROOT}/key?{SAS}"


@pytest.mark.parametrize("spelling", ["other", "acct/other", "other@acct.dfs.core.windows.net"])
async def test_a_copy_from_another_container_of_the_account(
    server: FaultServer, store: AzureStore, spelling: str
) -> None:
    server.objects["/acct/other/a key"] = b""
    server.script.append(copying("success"))
    await store.copy("a key", "target", source_bucket=spelling)
    (asked,) = server.requests
    assert asked.target == f"{ROOT}/target?{SAS}"
    assert asked.headers["x-ms-copy-source"] == f"{server.endpoint}/acct/other/a%20key?{SAS}"


@pytest.mark.parametrize("spelling", ["another/other", "other@another.dfs.core.windows.net"])
async def test_a_copy_from_another_account_is_refused(server: FaultServer, store: AzureStore, spelling: str) -> None:
    """Were the account left out, it would be from a container of this one that has the same name."""
    with pytest.raises(UnsupportedError, match="inside account 'acct' only"):
        await store.copy("key", "target", source_bucket=spelling)
    assert server.requests == []


async def test_a_copy_that_fails(server: FaultServer, store: AzureStore, clock: MockClock) -> None:
    server.script += [copying("pending"), copying("failed")]
    with pytest.raises(RequestError, match="ended as 'failed'") as caught:
        await store.copy("key", "target")
    assert (caught.value.operation, caught.value.key) == ("CopyBlob", "target")


async def test_a_copy_that_another_one_replaces(server: FaultServer, store: AzureStore, clock: MockClock) -> None:
    server.script += [copying("pending"), copying("pending", copy_id="2")]
    with pytest.raises(ObjectChangedError, match="another write"):
        await store.copy("key", "target")


async def test_a_copy_that_does_not_move_is_given_up(server: FaultServer, store: AzureStore, clock: MockClock) -> None:
    server.objects[f"{ROOT}/target"] = b""
    server.always = copying("pending")
    begun = trio.current_time()
    with pytest.raises(StallError, match="not moved for 60 seconds"):
        await store.copy("key", "target")
    assert 60 < trio.current_time() - begun < 65


# What requests say


async def test_tags_come_with_every_kind_of_write(server: FaultServer, store: AzureStore) -> None:
    options = PutOptions(tags={"kind": "a test", "a/b": "=&+"})
    await store.put("key", b"x", options)
    upload = await store.create_upload("key", options)
    await store.complete_upload(upload, [await store.upload_part(upload, 1, b"x")])
    quoted = "a%2Fb=%3D%26%2B&kind=a%20test"
    assert [asked.headers.get("x-ms-tags") for asked in server.requests] == [quoted, None, quoted]


async def test_a_storage_class_is_the_access_tier_of_every_kind_of_write(
    server: FaultServer, store: AzureStore
) -> None:
    options = PutOptions(storage_class="Cold")
    await store.put("key", b"x", options)
    upload = await store.create_upload("key", options)
    await store.complete_upload(upload, [await store.upload_part(upload, 1, b"x")])
    assert [asked.headers.get("x-ms-access-tier") for asked in server.requests] == ["Cold", None, "Cold"]
    for wrong in ("Co\nld", "☃"):
        with pytest.raises(InvalidKeyError, match="x-ms-access-tier"):
            await store.put("key", b"x", PutOptions(storage_class=wrong))
        with pytest.raises(InvalidKeyError, match="x-ms-access-tier"):
            await store.create_upload("key", PutOptions(storage_class=wrong))
    assert len(server.requests) == 3


async def test_requests_introduce_themselves(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", SAS)
    for agent in ("s3dlio", "my-program/1.0 (a comment)"):
        async with AzureStore("acct/con", Config(azure_endpoint=server.endpoint, user_agent=agent)) as store:
            server.requests.clear()
            await store.get("key")
            await store.put("key", b"content")
            assert [asked.headers["user-agent"] for asked in server.requests] == [agent, agent]


# Many


async def test_all_deletes_are_tried_and_the_first_failure_is_told(server: FaultServer, store: AzureStore) -> None:
    server.objects |= {f"{ROOT}/{number}": b"" for number in range(40)}
    bad = {3, 35}

    def keys() -> list[str]:
        return [f"{number}" if number not in bad else f"back\\{number}" for number in range(40)]

    with pytest.raises(StoreError, match="backslash") as caught:
        await store.delete_many(keys())
    assert caught.value.key == "back\\3"
    assert caught.value.__notes__ == ["2 objects in all could not be removed"]
    assert set(server.objects) == {f"{ROOT}/key", *(f"{ROOT}/{number}" for number in bad)}
