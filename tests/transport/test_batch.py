"""Small objects asked for in batches: the same bytes and errors as one by one, and nothing left when it is given up."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from s3dlio.errors import ChecksumError, InvalidKeyError, NotFoundError, ProtocolError
from s3dlio.model import ObjectMeta
from s3dlio.stores.s3.store import S3Store
from s3dlio.stores.wrapper import PrefixStore
from s3dlio.transfer import ParallelStore
from s3dlio.transport.batch import Batch, Reply
from s3dlio.transport.http1 import parse_head, plain_head, request_head, request_heads
from s3dlio.transport.pump import pump_of_run

from ..servers.faults import NOTHING, Fault, FaultServer, refusal
from .conftest import DATA, ROOT, MakeStore

KEYS = [f"a b/{number}" for number in range(12)]


def body_of(key: str) -> bytes:
    return key.encode() * 5000


@pytest.fixture(autouse=True)
def compiled(compiled_pump: bool) -> None:
    """Without the code there is no pump, and nothing is asked for in batches."""
    if not compiled_pump:
        pytest.skip("the pump cannot be compiled here, or is not to be")


@pytest.fixture
async def warm(server: FaultServer, make_store: MakeStore) -> S3Store:
    """A store that has an idle connection for each of :data:`KEYS`."""
    store = make_store()
    server.objects.update({f"{ROOT}{key}": body_of(key) for key in KEYS})
    gate = trio.Event()

    async def connect() -> None:
        connection = await store._service.rotation.first.pool.acquire()  # type: ignore[union-attr]
        await gate.wait()
        store._service.rotation.first.pool.release(connection, reusable=True)  # type: ignore[union-attr]

    await store.get("key")
    async with trio.open_nursery() as nursery:
        for _ in KEYS:
            nursery.start_soon(connect)
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
    return store


async def all_of(batch: Batch[str]) -> dict[str, Reply[str]]:
    replies: list[Reply[str]] = []
    with trio.fail_after(20):
        while len(batch):
            replies += await batch.answers()
    return {reply.name: reply for reply in replies}


def leased(store: S3Store) -> int:
    assert store._service is not None
    return store._service.rotation.first.pool.leased


@pytest.mark.parametrize("told", ["known", "unknown", "too small", "too large"])
async def test_whole_objects(warm: S3Store, server: FaultServer, told: str) -> None:
    batch: Batch[str] = Batch()
    sizes = {"known": 0, "unknown": -(1 << 20), "too small": -1, "too large": 1}
    wanted = [(key, key, max(len(body_of(key)) + sizes[told], 0)) for key in KEYS]
    for _ in range(3):
        assert await warm.ask(batch, wanted) == len(KEYS)
        replies = await all_of(batch)
        assert {key: reply.answer and reply.answer.body for key, reply in replies.items()} == {
            key: body_of(key) for key in KEYS
        }
    assert (leased(warm), server.connections) == (0, len(KEYS))


async def test_no_more_than_there_are_idle_connections(warm: S3Store) -> None:
    batch: Batch[str] = Batch()
    wanted = [(f"{number}", KEYS[number % len(KEYS)], 0) for number in range(50)]
    assert await warm.ask(batch, wanted) == len(KEYS)
    assert await warm.ask(batch, wanted[len(KEYS) :]) == 0
    assert sorted(await all_of(batch)) == sorted(name for name, _, _ in wanted[: len(KEYS)])


async def test_a_key_that_no_object_can_have_ends_the_list(warm: S3Store) -> None:
    batch: Batch[str] = Batch()
    assert await warm.ask(batch, [("first", KEYS[0], 0), ("bad", "", 0), ("last", KEYS[1], 0)]) == 1
    assert await warm.ask(batch, [("bad", "", 0)]) == 0
    assert list(await all_of(batch)) == ["first"]


UNUSUAL = {
    "error": refusal(503, "SlowDown"),
    "cut": Fault(cut=100),
    "cut in its middle": Fault(cut=20_000),
    "reset": Fault(cut=20_000, reset=True),
    "silent": Fault(cut=NOTHING),
    "chunked": Fault(pieces=(body_of(KEYS[3]),)),
    "large": Fault(body=bytes(1 << 20)),
    "partial": Fault(status=206),
    "closing": Fault(headers={"connection": "close"}),
    "informational": Fault(interim=b"HTTP/1.1 103 Early Hints\r\n\r\n"),
}


@pytest.mark.parametrize("name", UNUSUAL)
@pytest.mark.parametrize("size", [len(body_of(KEYS[3])), 0])
async def test_what_is_not_plain_is_what_it_is_one_by_one(
    warm: S3Store, server: FaultServer, name: str, size: int
) -> None:
    batch: Batch[str] = Batch()
    server.script.append(UNUSUAL[name])
    assert await warm.ask(batch, [("it", KEYS[3], size)]) == 1
    reply = (await all_of(batch))["it"]
    if name == "partial":  # of the range of an object there was no word
        reply.drop()
    elif reply.answer is not None:
        assert name == "closing"
        assert reply.answer.body == body_of(KEYS[3])
    else:
        found = await warm.go_on(KEYS[3], reply)
        assert found == (body_of(KEYS[3]) if name != "large" else bytes(1 << 20))
    assert leased(warm) == 0


async def test_the_error_of_an_absent_object(warm: S3Store, server: FaultServer) -> None:
    batch: Batch[str] = Batch()
    assert await warm.ask(batch, [("it", "absent", 10)]) == 1
    reply = (await all_of(batch))["it"]
    before = len(server.requests)
    with pytest.raises(NotFoundError, match="absent"):
        await warm.go_on("absent", reply)
    assert (leased(warm), len(server.requests)) == (0, before)  # it was asked for once


async def test_a_body_that_is_not_sound_is_asked_for_once_more(warm: S3Store, server: FaultServer) -> None:
    server.always = Fault(headers={"x-amz-checksum-crc32c": "AAAAAA==", "x-amz-checksum-type": "FULL_OBJECT"})
    batch: Batch[str] = Batch()
    before = len(server.requests)
    assert await warm.ask(batch, [("it", KEYS[0], 0)]) == 1
    reply = (await all_of(batch))["it"]
    assert reply.answer is not None
    assert not await warm.is_sound(reply.answer)
    with pytest.raises(ChecksumError, match="twice"):
        await warm.go_on(KEYS[0], reply)
    assert (leased(warm), len(server.requests)) == (0, before + 2)


async def test_idle_connections_that_the_server_has_ended(warm: S3Store, server: FaultServer) -> None:
    server.always = Fault(hang_up=True)
    batch: Batch[str] = Batch()
    await warm.ask(batch, [(key, key, 0) for key in KEYS])
    await all_of(batch)
    server.always = Fault()
    for _ in range(2):
        await warm.ask(batch, [(key, key, 0) for key in KEYS])
        for key, reply in (await all_of(batch)).items():
            body = reply.answer.body if reply.answer is not None else await warm.go_on(key, reply)
            assert body == body_of(key)
    assert leased(warm) == 0


async def test_what_is_given_up_leaves_nothing(warm: S3Store, server: FaultServer) -> None:
    server.always = Fault(stall=20_000)
    batch: Batch[str] = Batch()
    used = pump_of_run()
    assert used is not None
    with trio.move_on_after(20) as scope:
        await warm.ask(batch, [(key, key, len(body_of(key))) for key in KEYS])
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert len(used._rows) == len(KEYS)
        scope.cancel()
        try:
            await batch.answers()
        finally:
            await batch.close()
    assert (leased(warm), used._rows, len(batch)) == (0, {}, 0)
    server.always = Fault()
    assert await warm.get("key") == DATA


async def test_waiting_can_be_interrupted(warm: S3Store) -> None:
    batch: Batch[str] = Batch()
    batch.interrupt()
    assert await batch.answers() == []


async def test_no_connection_no_request(make_store: MakeStore, server: FaultServer) -> None:
    batch: Batch[str] = Batch()
    store = make_store()
    assert await store.ask(batch, [("it", "key", 0)]) == 0
    assert not store.batches
    await store.get("key")
    assert store.batches
    limited = make_store(request_timeout=60.0)
    await limited.get("key")
    assert await limited.ask(batch, [("it", "key", 0)]) == 0
    assert len(server.requests) == 2


async def test_heads_are_those_of_single_requests(warm: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert warm._service is not None
    upstream = warm._service.rotation.first
    monkeypatch.setattr(upstream.signer, "_clock", lambda: 1e9)
    monkeypatch.setattr(upstream.signer._server, "_clock", lambda: 1e9)  # type: ignore[attr-defined]
    requests = [warm._addressed(warm._get_request(key)) for key in KEYS]
    together = await upstream.heads(requests[0], [request.path for request in requests])
    assert list(map(bytes, together)) == [
        bytes(await upstream.signed_head(request, None, expect=False)) for request in requests
    ]


@pytest.mark.parametrize("bad", ["/a\r\nb", "/a\x00", "/é"])
def test_a_target_that_no_head_can_have(bad: str) -> None:
    with pytest.raises(ProtocolError):
        request_heads("GET", {"host": "h"}, [("/fine", "a"), (bad, "a")])
    with pytest.raises(ProtocolError):
        request_heads("GET", {"host": "h"}, [("/fine", f"a{bad}")])


def test_heads_that_differ_in_target_and_authorization() -> None:
    headers = {"host": "h", "x-amz-date": "now"}
    assert list(map(bytes, request_heads("GET", headers, [("/a", "one"), ("/b?c=d", "two")]))) == [
        request_head("GET", "/a", {**headers, "authorization": "one"}),
        request_head("GET", "/b?c=d", {**headers, "authorization": "two"}),
    ]


_NAMES = st.sampled_from(["etag", "ETag", "Content-Length", "x-amz-meta-a", "Connection", "connection", "keep-alive"])
_VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12) | st.sampled_from(["close", "Close"])
_SPACE = st.sampled_from(["", " ", "  ", "\t"])


@given(st.sampled_from([200, 206]), st.lists(st.tuples(_NAMES, _SPACE, _VALUES, _SPACE), max_size=6))
def test_a_plain_head_is_read_as_any_other(status: int, lines: Sequence[tuple[str, str, str, str]]) -> None:
    fields = [f"{name}:{before}{value}{after}" for name, before, value, after in lines if "ontent" not in name]
    data = "\r\n".join([f"HTTP/1.1 {status} OK", *fields, "content-length: 5", "", ""]).encode()
    expected, found = parse_head(data), plain_head(data)
    assert (found.status, dict(found.headers), found.keep_alive) == (
        expected.status,
        expected.headers,
        expected.keep_alive,
    )
    assert len(found.headers) == len(expected.headers)
    assert "absent" not in found.headers
    assert found.headers.get("absent") is None


async def read_many(store: ParallelStore, wanted: Sequence[str | ObjectMeta]) -> list[tuple[str, bytes]]:
    async with store.get_many(wanted) as reader:
        return [pair async for pair in reader]


@pytest.mark.parametrize("folder", ["", "a b/"])
async def test_many_objects_of_a_store_or_a_folder_are_asked_for_in_batches(
    warm: S3Store, server: FaultServer, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def get(*_: object, **__: object) -> bytes:
        raise AssertionError("asked for by itself")

    monkeypatch.setattr(ParallelStore, "get", get)
    store = ParallelStore(PrefixStore(warm, folder) if folder else warm, part_size=1 << 20, parts_in_flight=2)
    metas = [ObjectMeta(key.removeprefix(folder), len(body_of(key))) for key in KEYS]
    assert await read_many(store, metas) == [(key.removeprefix(folder), body_of(key)) for key in KEYS]
    assert leased(warm) == 0


async def test_many_objects_one_of_which_is_absent_in_a_folder(warm: S3Store) -> None:
    store = ParallelStore(PrefixStore(warm, "a b/"), part_size=1 << 20, parts_in_flight=2)
    async with store.get_many([ObjectMeta(key, 5) for key in ("0", "absent", "", "1")]) as reader:
        assert await anext(reader) == ("0", body_of(KEYS[0]))
        with pytest.raises(NotFoundError, match="a b/absent"):
            await anext(reader)
        with pytest.raises(InvalidKeyError):
            await anext(reader)
        assert await anext(reader) == ("1", body_of(KEYS[1]))
    assert leased(warm) == 0


async def test_a_block_of_many_objects_that_is_left_early_leaves_nothing(warm: S3Store, server: FaultServer) -> None:
    store = ParallelStore(warm, part_size=1 << 20, parts_in_flight=2)
    server.script.extend([Fault(stall=0)] * len(KEYS))
    async with (
        store.get_many([ObjectMeta(key, len(body_of(key))) for key in KEYS]) as reader,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(reader.__anext__)
        await trio.testing.wait_all_tasks_blocked()
        assert leased(warm) == len(KEYS)
        nursery.cancel_scope.cancel()
    assert leased(warm) == 0
    assert await read_many(store, KEYS) == [(key, body_of(key)) for key in KEYS]
