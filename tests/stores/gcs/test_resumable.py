"""Large writes that are cut: no byte is sent twice, none is lost, and what is made is what was sent."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import accumulate

import pytest
import trio
from trio.testing import MockClock

from s3dlio.config import Config
from s3dlio.errors import (
    AlreadyExistsError,
    ConnectionFailedError,
    IntegrityError,
    PreconditionFailedError,
    ProtocolError,
    RequestError,
    StoreError,
    ThrottledError,
    UploadNotFoundError,
)
from s3dlio.model import PutOptions
from s3dlio.stores.gcs.store import RESUMABLE_FROM, GCSStore

from ...servers.faults import HONEST, NOTHING, Fault
from ...servers.gcs import BUCKET, GCSServer, ScriptedGCS, scripted_gcs
from ...servers.process import HOST
from .conftest import fresh_bucket

KiB, MiB = 1 << 10, 1 << 20
DATA = bytes(range(251)) * (RESUMABLE_FROM // 251 + 100)

MakeStore = Callable[..., GCSStore]


@pytest.fixture
async def server() -> AsyncIterator[ScriptedGCS]:
    async with scripted_gcs() as running:
        yield running


@pytest.fixture
async def make_store() -> AsyncIterator[MakeStore]:
    async with AsyncExitStack() as stack:

        def make(endpoint: str, bucket: str = BUCKET, attempts: int = 3) -> GCSStore:
            store = GCSStore(bucket, Config(gcs_endpoint=endpoint, max_attempts=attempts))
            stack.push_async_callback(store.aclose)
            return store

        yield make


@pytest.fixture
def store(server: ScriptedGCS, make_store: MakeStore) -> GCSStore:
    return make_store(server.endpoint)


def sent(server: ScriptedGCS) -> int:
    """Bytes of data that arrived in all."""
    return sum(len(asked.body) for asked in server.requests if asked.method == "PUT")


def verbs(server: ScriptedGCS) -> list[str]:
    """What was asked, in short."""
    return [f"{asked.method} {asked.headers.get('content-range', '')}".strip() for asked in server.requests]


STATUS = f"PUT bytes */{len(DATA)}"


def rest_from(first: int) -> str:
    return f"PUT bytes {first}-{len(DATA) - 1}/{len(DATA)}"


async def test_a_session_takes_it_all_at_once(clock: MockClock, server: ScriptedGCS, store: GCSStore) -> None:
    made = await store.put("key", DATA, PutOptions("application/x-test", {"name": "value"}))
    assert verbs(server) == ["POST", rest_from(0)]
    assert server.objects == {"key": DATA}
    known = server.resources["key"]
    assert (known["contentType"], known["metadata"]) == ("application/x-test", {"name": "value"})
    assert made.etag == known["generation"]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=503, refuse_after=256 * KiB),
        Fault(status=408, refuse_after=256 * KiB),
        Fault(refuse_after=256 * KiB, cut=NOTHING, reset=True),
        Fault(refuse_after=256 * KiB, cut=NOTHING),
        Fault(refuse_after=256 * KiB),
    ],
    ids=["503", "408", "reset", "closed", "308"],
)
async def test_a_cut_upload_goes_on_where_it_was(
    clock: MockClock, server: ScriptedGCS, store: GCSStore, fault: Fault
) -> None:
    server.script += [HONEST, fault]
    await store.put("key", DATA)
    assert server.objects == {"key": DATA}
    asked = [STATUS] if fault.cut or fault.status else []
    assert verbs(server) == ["POST", rest_from(0), *asked, rest_from(256 * KiB)]
    assert sent(server) == len(DATA)


@pytest.mark.parametrize("cuts", [[0], [1], [0, 1], [len(DATA) - 1], [300 * KiB] * 9], ids=str)
async def test_cuts_anywhere(clock: MockClock, server: ScriptedGCS, store: GCSStore, cuts: list[int]) -> None:
    """Each attempt that brings bytes has as many attempts after it as the first."""
    server.script.append(HONEST)
    for cut in cuts:
        server.script += [Fault(status=503, refuse_after=cut), HONEST]
    await store.put("key", DATA)
    assert server.objects == {"key": DATA}
    assert sent(server) == len(DATA)


async def test_a_lost_final_answer_is_asked_for(clock: MockClock, server: ScriptedGCS, store: GCSStore) -> None:
    """Also where a condition forbids to try again blindly."""
    server.script += [HONEST, Fault(cut=NOTHING, reset=True)]
    made = await store.put("key", DATA, PutOptions(if_none_match=True))
    assert verbs(server) == ["POST", rest_from(0), STATUS]
    assert made.etag == server.resources["key"]["generation"]


async def test_a_status_query_is_repeated(clock: MockClock, server: ScriptedGCS, store: GCSStore) -> None:
    server.script += [HONEST, Fault(status=503, refuse_after=512 * KiB), Fault(status=503), Fault(cut=NOTHING)]
    await store.put("key", DATA)
    assert verbs(server) == ["POST", rest_from(0), STATUS, STATUS, STATUS, rest_from(512 * KiB)]
    assert server.objects == {"key": DATA}


async def test_a_lost_session_is_begun_again(clock: MockClock, server: ScriptedGCS, store: GCSStore) -> None:
    server.script += [HONEST, Fault(status=503, refuse_after=256 * KiB), Fault(status=410), HONEST, Fault(status=404)]
    await store.put("key", DATA)
    assert verbs(server) == ["POST", rest_from(0), STATUS, "POST", rest_from(0), "POST", rest_from(0)]
    assert server.objects == {"key": DATA}
    server.script += [HONEST, Fault(status=404)] * 3
    with pytest.raises(UploadNotFoundError):
        await store.put("key", DATA)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(status=503, refuse_after=0), ThrottledError),
        (Fault(refuse_after=0, cut=NOTHING, reset=True), ConnectionFailedError),
        (Fault(status=308, refuse_after=0), ProtocolError),
    ],
    ids=["503", "reset", "308"],
)
async def test_without_progress_there_is_an_end(
    clock: MockClock, server: ScriptedGCS, store: GCSStore, fault: Fault, kind: type[StoreError]
) -> None:
    server.script.append(HONEST)
    for _ in range(3):
        server.script += [fault] if fault.status == 308 else [fault, HONEST]
    with pytest.raises(kind) as caught:
        await store.put("key", DATA)
    assert verbs(server).count(rest_from(0)) == 3
    assert caught.value.key == "key"
    assert server.objects == {}
    assert server.sessions == {}, "the session is cancelled"
    assert "session-" not in str(caught.value), "who knows a session may write to it"


async def test_an_upload_that_is_cancelled_is_cancelled_on_the_server(
    clock: MockClock, server: ScriptedGCS, store: GCSStore
) -> None:
    server.script += [HONEST, Fault(refuse_after=256 * KiB, stall=NOTHING)]
    with trio.move_on_after(1) as scope:
        await store.put("key", DATA)
    assert scope.cancelled_caught
    assert verbs(server)[-1] == "DELETE"
    assert (server.objects, server.sessions) == ({}, {})


async def test_conditions_hold_at_the_end(clock: MockClock, server: ScriptedGCS, store: GCSStore) -> None:
    server.store("key", b"old")
    with pytest.raises(AlreadyExistsError):
        await store.put("key", DATA, PutOptions(if_none_match=True))
    with pytest.raises(PreconditionFailedError):
        await store.put("key", DATA, PutOptions(if_match="12"))
    assert server.objects == {"key": b"old"}
    await store.put("key", DATA, PutOptions(if_match=server.resources["key"]["generation"]))
    assert server.objects == {"key": DATA}


# The real servers


async def test_the_emulator_takes_large_objects(second_server: GCSServer, make_store: MakeStore) -> None:
    store = make_store(second_server.endpoint, fresh_bucket(second_server))
    await store.put("key", DATA, PutOptions("application/x-test"))
    assert await store.get("key") == DATA
    assert (await store.head("key")).content_type == "application/x-test"


async def test_fake_gcs_takes_large_objects(gcs_server: GCSServer, make_store: MakeStore) -> None:
    store = make_store(gcs_server.endpoint, fresh_bucket(gcs_server))
    await store.put("key", DATA, PutOptions("application/x-test"))
    assert await store.get("key") == DATA


@pytest.mark.parametrize("cuts", [[3 * MiB], [3 * MiB, 1 * MiB], [len(DATA)]], ids=str)
async def test_the_emulator_says_how_much_it_has(
    second_server: GCSServer, make_store: MakeStore, cuts: list[int]
) -> None:
    """Where the cut spares all the data, the final answer is lost; this server has forgotten the session then."""
    bucket = fresh_bucket(second_server)
    async with cutting_proxy(second_server, cuts) as (endpoint, seen):
        store = make_store(endpoint, bucket)
        await store.put("key", DATA)
        assert await store.get("key") == DATA
    ranges = [head.partition(b"content-range: bytes ")[2].partition(b"-")[0] for head in seen]
    firsts = [int(first) for first in ranges if first.isdigit()]
    assert firsts == [0, *accumulate(cuts)] if cuts[0] < len(DATA) else [0, 0]
    assert any(head.count(b"content-range: bytes */") for head in seen)


@pytest.mark.parametrize("size", [1000, len(DATA)])
async def test_a_wrong_checksum_is_refused_by_the_emulator(
    second_server: GCSServer, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    store = make_store(second_server.endpoint, fresh_bucket(second_server))
    monkeypatch.setattr("s3dlio.stores.gcs.store.crc32c", lambda data: 12345)
    with pytest.raises(RequestError, match="CRC32C"):
        await store.put("key", DATA[:size])
    assert not await store.exists("key")


@pytest.mark.parametrize("size", [1000, len(DATA)])
async def test_a_wrong_checksum_is_seen_in_the_answer_of_who_does_not_check(
    gcs_server: GCSServer, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    store = make_store(gcs_server.endpoint, fresh_bucket(gcs_server))
    monkeypatch.setattr("s3dlio.stores.gcs.store.crc32c", lambda data: 12345)
    with pytest.raises(IntegrityError, match="CRC32C") as caught:
        await store.put("key", DATA[:size])
    assert (caught.value.operation, caught.value.key) == ("objects.insert", "key")


@asynccontextmanager
async def cutting_proxy(server: GCSServer, cuts: Iterable[int]) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A proxy's endpoint, and the heads it saw, for a server that takes one request per connection.

    Of the n-th request with data, so many bytes as the n-th cut says come through, and no answer comes back.
    """
    left, seen = iter(cuts), list[bytes]()

    async def forward(client: trio.SocketStream) -> None:
        host, port = server.authority.split(":")
        async with client, await trio.open_tcp_stream(host, int(port)) as backend:
            head, data = await receive_head(client)
            seen.append(head)
            cut = next(left, None) if re.search(rb"content-range: bytes \d", head) else None
            await backend.send_all(head)
            async with trio.open_nursery() as ways:
                ways.start_soon(send, data, client, backend, cut)
                async for answer in backend:
                    if cut is not None:
                        break
                    await client.send_all(answer)
                ways.cancel_scope.cancel()

    async def receive_head(client: trio.SocketStream) -> tuple[bytes, bytes]:
        received = b""
        while b"\r\n\r\n" not in received:
            received += await client.receive_some()
        head, end, data = received.partition(b"\r\n\r\n")
        return head + end, data

    async def send(data: bytes, client: trio.SocketStream, backend: trio.SocketStream, cut: int | None) -> None:
        moved = 0
        with suppress(trio.BrokenResourceError):
            while data := data or await client.receive_some():
                piece = data if cut is None else data[: cut - moved]
                await backend.send_all(piece)
                moved, data = moved + len(piece), b""
                if moved == cut:
                    await backend.send_eof()
                    return

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host=HOST)
        nursery.start_soon(trio.serve_listeners, forward, [listener])
        yield f"http://{HOST}:{listener.socket.getsockname()[1]}", seen
        nursery.cancel_scope.cancel()
