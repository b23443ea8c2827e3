"""Uploads whose answer comes early, late or not at all, with and without `Expect: 100-continue`."""

from __future__ import annotations

import json
from array import array
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from s3dlio.compat.s3torchconnector import S3Checkpoint
from s3dlio.config import Config
from s3dlio.errors import ConnectionFailedError, PermissionDeniedError, ProtocolError, StoreError
from s3dlio.model import PutOptions, Upload
from s3dlio.stores.azure.store import AzureStore
from s3dlio.stores.gcs.store import GCSStore
from s3dlio.stores.http import HttpStore
from s3dlio.stores.s3.store import S3Store

from ..servers.faults import NOTHING, Fault, FaultServer, error_body, refusal
from .conftest import DATA, ROOT

MiB = 1 << 20
LARGE = bytes(range(256)) * (5 * MiB // 256)
MEDIUM = LARGE[: MiB - 1]
EARLY_HINTS = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
INTERIMS = {
    "103": EARLY_HINTS,
    "102": b"HTTP/1.1 102 Processing\r\n\r\n",
    "199": b"HTTP/1.1 199 Something\r\nx-a: b\r\ncontent-length: 3\r\n\r\n",
    "many": EARLY_HINTS * 10,
}

DENIED = error_body("AccessDenied")
MADE = json.dumps({"name": "new", "size": str(5 * MiB), "generation": "1"}).encode()
"""How Google describes the object that a write has made."""


async def test_large_bodies_wait_for_permission(server: FaultServer, store: S3Store) -> None:
    await store.put("small", DATA)
    await store.put("medium", MEDIUM)
    await store.put("large", LARGE)
    assert [asked.headers.get("expect") for asked in server.requests] == [None, None, "100-continue"]
    assert server.objects[f"{ROOT}medium"] == MEDIUM
    assert server.objects[f"{ROOT}large"] == LARGE
    assert server.connections == 1


async def test_a_server_that_ignores_expect(clock: MockClock, server: FaultServer, store: S3Store) -> None:
    """Costs a second once, and is remembered."""
    server.always = Fault(proceed=None)
    began = trio.current_time()
    await store.put("large", LARGE)
    assert trio.current_time() - began == pytest.approx(1, abs=0.1)
    await store.put("again", LARGE)
    assert trio.current_time() - began == pytest.approx(1, abs=0.1)
    assert [asked.headers.get("expect") for asked in server.requests] == ["100-continue", None]
    assert server.objects[f"{ROOT}large"] == server.objects[f"{ROOT}again"] == LARGE
    assert server.connections == 1


async def test_a_long_head_after_an_ignored_expect(clock: MockClock, server: FaultServer, store: S3Store) -> None:
    server.always = Fault(headers={"x-long": "x" * 50_000}, proceed=None)
    await store.put("large", LARGE)
    assert server.objects[f"{ROOT}large"] == LARGE


async def test_permission_after_the_wait(clock: MockClock, server: FaultServer, store: S3Store) -> None:
    """The 100 arrives when the body is being sent: the body goes on."""
    server.always = Fault(proceed=5.0, sip=(MiB, 0.1))
    await store.put("large", LARGE)
    assert server.objects[f"{ROOT}large"] == LARGE
    assert len(server.requests) == 1


@pytest.mark.parametrize("interim", [CONTINUE, EARLY_HINTS, CONTINUE + EARLY_HINTS])
@pytest.mark.parametrize("size", [0, 100, 300_000])
async def test_interim_answers_nobody_asked_for(server: FaultServer, store: S3Store, interim: bytes, size: int) -> None:
    server.always = Fault(interim=interim)
    await store.put("new", LARGE[:size])
    assert await store.get("new") == LARGE[:size]
    assert len(server.requests) == 2
    assert server.connections == 1


async def test_interim_answers_during_an_upload(server: FaultServer, store: S3Store) -> None:
    server.always = Fault(hints=EARLY_HINTS, sip=(50_000, 0.0))
    await store.put("new", MEDIUM)
    assert server.objects[f"{ROOT}new"] == MEDIUM
    assert len(server.requests) == 1


def open_cloud(cloud: str, endpoint: str) -> HttpStore:
    if cloud == "azure":
        return AzureStore("account/bucket", Config(azure_endpoint=endpoint, anonymous=True))
    if cloud == "gcs":
        return GCSStore("bucket", Config(gcs_endpoint=endpoint, anonymous=True))
    return S3Store("bucket", Config(endpoint=endpoint))


SUCCESS = {"s3": Fault(), "azure": Fault(201, {"etag": '"1"'}), "gcs": Fault(200, body=MADE)}


@pytest.mark.parametrize("interim", INTERIMS)
@pytest.mark.parametrize("cloud", SUCCESS)
async def test_interim_answers_before_permission(server: FaultServer, cloud: str, interim: str) -> None:
    server.always = replace(SUCCESS[cloud], before_continue=INTERIMS[interim])
    async with open_cloud(cloud, server.endpoint) as store:
        await store.put("new", LARGE)
    (asked,) = server.requests
    assert asked.headers["expect"] == "100-continue"
    assert LARGE in asked.body


@pytest.mark.parametrize("cloud", ["s3", "azure"])
async def test_interim_answers_before_a_part(server: FaultServer, cloud: str) -> None:
    server.always = replace(SUCCESS[cloud], before_continue=EARLY_HINTS)
    async with open_cloud(cloud, server.endpoint) as store:
        upload = Upload("key", "1", PutOptions()) if cloud == "s3" else await store.create_upload("key")
        await store.upload_part(upload, 1, LARGE)
    assert [asked.body == LARGE for asked in server.requests] == [True]


async def test_interim_answers_to_a_checkpoint(server: FaultServer) -> None:
    server.always = Fault(before_continue=EARLY_HINTS)

    def save() -> None:
        with S3Checkpoint("us-east-1", endpoint=server.endpoint).writer("s3://bucket/saved") as writer:
            writer.write(LARGE)

    await trio.to_thread.run_sync(save)
    assert server.objects[f"{ROOT}saved"] == LARGE


async def test_interim_answers_and_no_permission(clock: MockClock, server: FaultServer, store: S3Store) -> None:
    """What comes is no word about the body: it is waited for as if nothing had come."""
    server.always = Fault(proceed=None, before_continue=EARLY_HINTS)
    await store.put("new", LARGE)
    assert server.objects[f"{ROOT}new"] == LARGE


async def test_a_flood_of_interim_answers_before_permission(
    clock: MockClock, server: FaultServer, store: S3Store
) -> None:
    server.always = Fault(before_continue=EARLY_HINTS * 1000)
    with pytest.raises(ProtocolError, match="informational"):
        await store.put("new", LARGE)
    assert f"{ROOT}new" not in server.objects


@pytest.mark.parametrize("status", [200, 201, 204])
@pytest.mark.parametrize("cloud", SUCCESS)
@pytest.mark.parametrize("when", ["at once", "in the middle"])
async def test_success_without_the_body(
    clock: MockClock, server: FaultServer, cloud: str, status: int, when: str
) -> None:
    """A server that did not take the body has not stored it, whatever it says."""
    told = Fault(status, {"etag": '"1"', "x-ms-request-server-encrypted": "true"}, b"" if status == 204 else MADE)
    server.always = replace(told, **{"early": True} if when == "at once" else {"refuse_after": 1000})
    async with open_cloud(cloud, server.endpoint) as store:
        with pytest.raises(ProtocolError, match="before it had the request's body") as caught:
            await store.put("new", LARGE)
    assert caught.value.attempts == len(server.requests)


@pytest.mark.parametrize("cloud", SUCCESS)
@pytest.mark.parametrize("create", [False, True], ids=["put", "create"])
async def test_a_server_that_knows_no_expectations(server: FaultServer, cloud: str, *, create: bool) -> None:
    """RFC 9110, section 10.1.1: the request is repeated without, and the next one does not ask."""
    server.script += [Fault(raw=b"HTTP/1.1 417 Expectation Failed\r\ncontent-length: 0\r\n\r\n", early=True)]
    server.always = SUCCESS[cloud]
    async with open_cloud(cloud, server.endpoint) as store:
        await store.put("new", LARGE, PutOptions(if_none_match=create))
        await store.put("new", LARGE)
    assert [asked.headers.get("expect") for asked in server.requests] == ["100-continue", None, None]
    assert [LARGE in asked.body for asked in server.requests] == [False, True, True]


async def test_a_417_to_a_request_that_expected_nothing(server: FaultServer, store: S3Store) -> None:
    server.always = Fault(417)
    with pytest.raises(StoreError) as caught:
        await store.put("new", b"small")
    assert (caught.value.status, len(server.requests)) == (417, 1)


async def test_a_flood_of_interim_answers(clock: MockClock, server: FaultServer, store: S3Store) -> None:
    server.always = Fault(interim=EARLY_HINTS * 1000)
    with pytest.raises(ProtocolError, match="informational"):
        await store.get("key")
    assert len(server.requests) == 3


async def test_refused_instead_of_permission(server: FaultServer, store: S3Store) -> None:
    server.always = Fault(403, body=DENIED, early=True)
    with pytest.raises(PermissionDeniedError) as caught:
        await store.put("large", LARGE)
    assert (caught.value.code, caught.value.attempts) == ("AccessDenied", 1)
    server.always = Fault()
    await store.put("large", LARGE)
    assert server.objects[f"{ROOT}large"] == LARGE


@pytest.mark.parametrize("size", [20_000, 200_000, 600_000, MiB - 1])
@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
async def test_refused_in_mid_upload(server: FaultServer, store: S3Store, size: int, *, reset: bool) -> None:
    """The server's answer counts. Only a reset can destroy it before it is read; then there are more attempts."""
    server.always = Fault(403, body=DENIED, early=True, reset=reset)
    with pytest.raises((PermissionDeniedError, ConnectionFailedError)) as caught:
        await store.put("new", LARGE[:size])
    if not reset:
        assert (caught.type, caught.value.code) == (PermissionDeniedError, "AccessDenied")
    assert caught.value.attempts == len(server.requests)


@pytest.mark.parametrize("wait", [False, True], ids=["told to wait", "ignored"])
async def test_refused_while_many_megabytes_are_coming(
    clock: MockClock, server: FaultServer, store: S3Store, *, wait: bool
) -> None:
    """The server reads a little, refuses, and goes; its answer counts, not that the rest could not be sent."""
    body = LARGE * 4
    server.script += [Fault(proceed=None if wait else 0.0, refuse_after=100_000, status=403, body=DENIED)]
    with pytest.raises(PermissionDeniedError) as caught:
        await store.put("large", body)
    assert caught.value.code == "AccessDenied"
    assert len(server.requests) == 1
    await store.put("large", body)
    assert server.objects[f"{ROOT}large"] == body


async def test_a_broken_upload_is_sent_again(server: FaultServer, store: S3Store) -> None:
    server.script += [Fault(cut=NOTHING, reset=True), refusal(500, "InternalError")]
    await store.put("large", LARGE)
    assert [asked.body == LARGE for asked in server.requests] == [True] * 3
    assert server.objects[f"{ROOT}large"] == LARGE


async def test_a_broken_conditional_upload_is_not(server: FaultServer, store: S3Store) -> None:
    server.always = Fault(cut=NOTHING, reset=True)
    with pytest.raises(ConnectionFailedError):
        await store.put("large", LARGE, PutOptions(if_match='"1"'))
    assert len(server.requests) == 1


async def test_a_body_is_sent_from_any_kind_of_memory(server: FaultServer, store: S3Store) -> None:
    numbers = array("d", range(100_000))
    await store.put("array", memoryview(numbers))
    assert server.objects[f"{ROOT}array"] == numbers.tobytes()


CREATE = PutOptions(if_none_match=True)


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
@pytest.mark.parametrize("size", [100, 5 * MiB])
async def test_writes_that_may_not_be_repeated_take_no_dying_connection(
    server: FaultServer, store: S3Store, size: int, *, reset: bool
) -> None:
    """The server ends each connection after its answer, without a word: the end may come when the next one is sent."""
    server.always = Fault(hang_up=True, reset=reset)
    for number in range(60):
        await store.put(f"new-{number}", LARGE[:size], CREATE)
    assert len(server.requests) == 60


async def test_a_write_that_breaks_before_its_body_is_sent_again(server: FaultServer, store: S3Store) -> None:
    """Nothing can have happened: the server never had the body."""
    await store.get("key")
    server.script += [Fault(raw=b"", reset=True, early=True)]
    await store.put("new", LARGE, CREATE)
    assert [asked.method for asked in server.requests] == ["GET", "PUT", "PUT"]
    assert server.objects[f"{ROOT}new"] == LARGE


@pytest.mark.parametrize("proceed", [0.0, None], ids=["told to wait", "ignored"])
async def test_a_write_that_breaks_after_its_body_is_not(
    clock: MockClock, server: FaultServer, store: S3Store, proceed: float | None
) -> None:
    await store.get("key")
    server.script += [Fault(proceed=proceed, cut=NOTHING, reset=True)]
    with pytest.raises(ConnectionFailedError):
        await store.put("new", LARGE, CREATE)
    assert [asked.method for asked in server.requests] == ["GET", "PUT"]
