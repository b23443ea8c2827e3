"""Uploads whose answer comes early, late or not at all, with and without `Expect: 100-continue`."""

from __future__ import annotations

from array import array

import pytest
import trio
from trio.testing import MockClock

from s3dlio.errors import ConnectionFailedError, PermissionDeniedError, ProtocolError
from s3dlio.model import PutOptions
from s3dlio.stores.s3.store import S3Store

from ..servers.faults import NOTHING, Fault, FaultServer, error_body, refusal
from .conftest import DATA, ROOT

MiB = 1 << 20
LARGE = bytes(range(256)) * (5 * MiB // 256)
MEDIUM = LARGE[: MiB - 1]
EARLY_HINTS = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

DENIED = error_body("AccessDenied")


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
