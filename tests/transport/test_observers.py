"""What is told of attempts: each once, with what became of it and what it waited for, and never a secret."""

from __future__ import annotations

import logging
import re
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

import s3dlio
from s3dlio import observers
from s3dlio.errors import NotFoundError, StoreError
from s3dlio.model import GetOptions, OffsetRange
from s3dlio.observers import Attempt, Read, Span, observer_of
from s3dlio.stores.s3.store import S3Store
from s3dlio.stores.store import BytesSink
from s3dlio.transport.batch import Batch, Reply

from ..servers.faults import NOTHING, Fault, FaultServer, fault_server, refusal
from .conftest import BUCKET, DATA, ROOT, SECRET, TOKEN, MakeStore

BIG = bytes(range(256)) * 1200
TIMES = re.compile(r"[\d.]+ s for")

Told = tuple[str, dict[str, Any]]


@pytest.fixture
def told(store: S3Store) -> list[Told]:
    """What a hook of the store's is told."""
    found: list[Told] = []
    store.observer = observer_of(lambda event, info: found.append((event, info)))
    return found


def ends(told: list[Told]) -> list[dict[str, Any]]:
    return [info for event, info in told if event != "attempt.started"]


def seconds(info: dict[str, Any]) -> list[float]:
    return [round(info[f"{each}_seconds"], 1) for each in ("connection", "first_byte", "body")]


# The log


async def test_a_line_for_each_attempt(server: FaultServer, store: S3Store, caplog: pytest.LogCaptureFixture) -> None:
    """Also of a small object's on a connection that was used before."""
    caplog.set_level(logging.DEBUG, "s3dlio")
    server.script += [refusal(503, "SlowDown"), Fault(headers={"x-amz-request-id": "ok"})]
    await store.get("key")
    await store.get("key")
    await store.put("a b", b"data")
    lines = [TIMES.sub("s for", message) for message in caplog.messages]
    waited = "s for a connection, s for the first byte, s for the body"
    get, put = f"GetObject (GET) bucket/key at {server.endpoint}", f"PutObject (PUT) bucket/a b at {server.endpoint}"
    assert [line.replace(", request request-id", "") for line in lines] == [
        f"{get}, attempt 1: 503 throttled, request request-SlowDown, 0 bytes sent, 0 received; {waited}",
        f"{get}, attempt 2: 200, request ok, 0 bytes sent, {len(DATA)} received; {waited}",
        f"{get}, attempt 1: 200, 0 bytes sent, {len(DATA)} received; {waited}",
        f"{put}, attempt 1: 200, 4 bytes sent, 0 received; {waited}",
    ]
    assert {record.name for record in caplog.records} == {"s3dlio"}


async def test_info_is_silent(server: FaultServer, store: S3Store, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "s3dlio")
    await store.get("key")
    await store.put("key", b"data")
    assert caplog.messages == []


async def test_where_nobody_wants_to_know_nothing_is_made(
    store: S3Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "s3dlio")
    monkeypatch.setattr(Attempt, "__init__", None)
    for _ in range(2):
        assert await store.get("key") == DATA
    store.observer = observer_of(lambda _event, _info: None)
    with pytest.raises(TypeError):
        await store.head("key")


async def test_nothing_secret_is_told(
    clock: MockClock, server: FaultServer, store: S3Store, told: list[Told], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "s3dlio")
    for fault in (Fault(), refusal(403, "SignatureDoesNotMatch", StringToSign=TOKEN), Fault(cut=NOTHING)):
        server.always = fault
        for operation in (store.get("key"), store.put("key", DATA), store.list_page(), store.head("key")):
            with suppress(StoreError):
                await operation
    assert len(ends(told)) == len(caplog.messages) == 8 + 4 * 3
    for text in (caplog.text, repr(told)):
        assert not any(secret in text for secret in (SECRET, TOKEN, "Signature=", "list-type"))
    assert all(asked.headers["x-amz-security-token"] == TOKEN for asked in server.requests)


async def test_a_strangers_text_stays_in_its_line(
    server: FaultServer, store: S3Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "s3dlio")
    server.objects[f"{ROOT}a\nb\x1b"] = DATA
    server.always = Fault(headers={"x-amz-request-id": "1" * 1000})
    await store.get("a\nb\x1b")
    (line,) = caplog.messages
    assert line.isprintable()
    assert len(line) < 600


# A hook


async def test_a_request_that_was_signed_anew(
    clock: MockClock, server: FaultServer, store: S3Store, told: list[Told]
) -> None:
    skewed = refusal(403, "RequestTimeTooSkewed")
    server.script.append(Fault(403, {"date": "Mon, 23 Nov 2026 01:02:03 GMT"}, skewed.body))
    await store.get("key")
    await store.get("key")
    assert [(info["status"], info["mended"]) for info in ends(told)] == [(200, True), (200, False)]


async def test_what_an_attempt_waited_for(
    clock: MockClock, server: FaultServer, store: S3Store, told: list[Told]
) -> None:
    server.objects[f"{ROOT}big"] = BIG
    server.script += [Fault(delay=3.0), Fault(delay=2.0, pace=(len(BIG) // 2, 1.5))]
    await store.get("key")
    await store.get_range("big", OffsetRange(0))
    first, second = ends(told)
    assert seconds(first) == [0, 3, 0]
    assert seconds(second)[:2] == [0, 2]
    assert seconds(second)[2] in (1.5, 3)
    assert (second["key"], second["received"], second["status"]) == ("big", len(BIG), 206)


async def test_what_waits_for_a_connection(
    clock: MockClock, server: FaultServer, make_store: MakeStore, told: list[Told]
) -> None:
    store = make_store(connections=1)
    found: list[Told] = []
    store.observer = observer_of(lambda event, info: found.append((event, info)))
    server.always = Fault(delay=2.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.head, "key")
        nursery.start_soon(store.head, "key")
    assert [seconds(info) for info in ends(found)] == [[0, 2, 0], [2, 2, 0]]


async def test_a_resumed_read_is_two_attempts(server: FaultServer, store: S3Store, told: list[Told]) -> None:
    server.objects[f"{ROOT}big"] = BIG
    server.script += [Fault(cut=200_000)]
    assert await store.get("big") == BIG
    first, second = ends(told)
    assert (first["failure"], first["status"]) == ("broken", None)
    assert (second["failure"], second["attempt"], second["status"]) == (None, 2, 206)
    assert first["received"] + second["received"] == len(BIG)
    assert [event for event, _ in told] == ["attempt.started", "attempt.failed", "attempt.started", "attempt.complete"]
    assert told[0][1]["id"] == first["id"]


async def test_who_gives_up_is_told_of(server: FaultServer, store: S3Store, told: list[Told]) -> None:
    server.always = Fault(stall=NOTHING)
    for _ in range(2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.get, "key")
            while len(server.requests) <= len(ends(told)):
                await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.cancel_scope.cancel()
    assert [info["failure"] for info in ends(told)] == ["cancelled"] * 2


async def test_a_sink_that_fails_is_told_of(store: S3Store, told: list[Told]) -> None:
    with pytest.raises(ValueError, match="view of 1 bytes"):
        await store.fetch("key", lambda _coming: memoryview(bytearray(1)), GetOptions())
    assert [info["failure"] for info in ends(told)] == ["ValueError"]


async def test_an_observer_that_fails_harms_nothing(store: S3Store, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_event: str, _info: dict[str, Any]) -> None:
        raise LookupError("mine")

    caplog.set_level(logging.INFO, "s3dlio")
    store.observer = observer_of(fail)
    assert await store.get("key") == DATA
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert "LookupError: mine" in caplog.text


async def test_a_store_is_opened_with_a_hook(server: FaultServer) -> None:
    found: list[Told] = []
    server.objects[f"{ROOT}folder/key"] = DATA
    uri = f"s3://{BUCKET}/folder"
    async with s3dlio.open_store(uri, endpoint=server.endpoint, trace=lambda *told: found.append(told)) as store:
        await store.get("key")
        await store.put("other", b"data")
    assert [info["operation"] for info in ends(found)] == ["GetObject", "PutObject"]
    assert [info["key"] for info in ends(found)] == ["folder/key", "folder/other"]


async def test_a_source_in_another_bucket_is_told_of_too(server: FaultServer, store: S3Store, told: list[Told]) -> None:
    server.objects["/other/key"] = DATA
    await store.begin_copy("key", "copy", source_bucket="other")
    assert [(info["operation"], info["bucket"]) for info in ends(told)] == [("HeadObject", "other")]


@pytest.mark.parametrize("way", ["alone", "streamed"])
async def test_a_late_read_is_told_of_with_its_endpoint(clock: MockClock, make_store: MakeStore, way: str) -> None:
    async with fault_server() as one, fault_server() as other:
        one.objects = other.objects = {f"{ROOT}key": DATA}
        store = make_store(endpoint=[one.endpoint, other.endpoint])
        for _ in range(8):
            await WAYS[way](store)
        assert store._service is not None
        watch = store._service.rotation.late
        assert watch is not None
        watch._earned = 1.0
        for _ in range(100):
            watch.first_byte.see(0.1)
        found: list[Told] = []
        store.observer = observer_of(lambda event, info: found.append((event, info)))
        one.script, other.script = deque([Fault(delay=5.0)]), deque([Fault(delay=5.0)])
        await WAYS[way](store)
        late, then = ends(found)
    assert (late["failure"], then["status"]) == ("late", 200)
    assert {late["endpoint"], then["endpoint"]} == {one.endpoint, other.endpoint}
    assert [event for event, _ in found].count("attempt.started") == 2


# All ways


FAULTS = {
    "none": Fault(),
    "error": refusal(503, "SlowDown"),
    "absent": refusal(404, "NoSuchKey"),
    "cut": Fault(cut=100),
    "cut in its middle": Fault(cut=20_000),
    "nothing": Fault(cut=NOTHING),
    "chunked": Fault(pieces=(DATA,)),
    "large": Fault(body=bytes(1 << 20)),
    "closing": Fault(headers={"connection": "close"}),
    "informational": Fault(interim=b"HTTP/1.1 103 Early Hints\r\n\r\n"),
}


async def by_batch(store: S3Store) -> object:
    batch: Batch[str] = Batch()
    replies: list[Reply[str]] = []
    await store.ask(batch, [("it", "key", len(DATA))])
    while len(batch):
        replies += await batch.answers()
    assert replies
    return replies[0].answer or await store.go_on("key", replies[0])


WAYS: dict[str, Callable[[S3Store], Awaitable[object]]] = {
    "alone": lambda store: store.get("key"),
    "streamed": lambda store: store.fetch("key", BytesSink()),
    "in a batch": by_batch,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("fault", FAULTS)
async def test_each_request_is_one_attempt_that_begins_and_ends(
    compiled_pump: bool, server: FaultServer, store: S3Store, told: list[Told], fault: str, way: str
) -> None:
    if way == "in a batch" and not compiled_pump:
        pytest.skip("the pump cannot be compiled here, or is not to be")
    await store.get("key")
    told.clear()
    server.requests.clear()
    server.script.append(FAULTS[fault])
    try:
        await WAYS[way](store)
    except StoreError:
        assert fault == "absent"
    assert [(info["key"], info["operation"]) for info in ends(told)] == [("key", "GetObject")] * len(ends(told))
    events = Counter(event for event, _ in told)
    assert events["attempt.started"] == events["attempt.complete"] + events["attempt.failed"] == len(ends(told))
    repeated = fault == "nothing"  # on a connection used before, that costs nobody an attempt
    assert len(ends(told)) == len(server.requests) - repeated
    assert all(info["first_byte_seconds"] > 0 for info in ends(told))


@pytest.mark.parametrize("fault", [Fault(), Fault(stall=100)])
async def test_a_batch_that_is_given_up_is_told_of(
    compiled_pump: bool, server: FaultServer, store: S3Store, told: list[Told], fault: Fault
) -> None:
    if not compiled_pump:
        pytest.skip("the pump cannot be compiled here, or is not to be")
    await store.get("key")
    told.clear()
    server.script.append(fault)
    batch: Batch[str] = Batch()
    await store.ask(batch, [("it", "key", len(DATA))])
    await trio.testing.wait_all_tasks_blocked(0.05)
    await batch.close()
    assert [info["failure"] for info in ends(told)] in (["cancelled"], [None])
    assert fault.stall is None or ends(told)[0]["failure"] == "cancelled"


# Recorders


@pytest.fixture
def recorded(caplog: pytest.LogCaptureFixture) -> Iterator[list[Attempt | Span | Read]]:
    """What a recorder is told, while nobody else is."""
    caplog.set_level(logging.INFO, "s3dlio")
    found: list[Attempt | Span | Read] = []
    recorder = found.append
    observers.record(recorder)
    yield found
    observers.leave(recorder)
    assert observers._recorders == ()


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_recorder_is_told_of_each_attempt_of_a_batch(
    compiled_pump: bool, server: FaultServer, store: S3Store, recorded: list[Attempt | Span | Read], fault: str
) -> None:
    """What is plain, in a row; anything else as an attempt, which began when it was asked for."""
    if not compiled_pump:
        pytest.skip("the pump cannot be compiled here, or is not to be")
    await store.get("key")
    recorded.clear()
    server.requests.clear()
    server.script.append(FAULTS[fault])
    before = trio.current_time()
    with suppress(NotFoundError):
        await by_batch(store)
    attempts = [each for each in recorded if isinstance(each, Attempt)]
    rows = [row for each in recorded if isinstance(each, Read) for row in each.rows]
    assert len(attempts) + len(rows) == len(server.requests) - (fault == "nothing")
    assert bool(rows) == (fault in ("none", "closing", "cut in its middle")), "it has no more than that"
    assert {each.key for each in attempts} | {row[0] for row in rows} == {"key"}
    assert all(each.waited[1] > 0 and each.begun >= before for each in attempts)
    assert all(asked >= before and received == len(DATA) for *_, asked, received in rows)


async def test_a_recorder_is_told_of_a_batch_that_is_given_up(
    compiled_pump: bool, server: FaultServer, store: S3Store, recorded: list[Attempt | Span | Read]
) -> None:
    if not compiled_pump:
        pytest.skip("the pump cannot be compiled here, or is not to be")
    await store.get("key")
    recorded.clear()
    server.script.append(Fault(stall=100))
    batch: Batch[str] = Batch()
    await store.ask(batch, [("it", "key", len(DATA))])
    await trio.testing.wait_all_tasks_blocked(0.05)
    await batch.close()
    assert [each.failure for each in recorded if isinstance(each, Attempt)] == ["cancelled"]
    assert len(recorded) == 1


async def test_a_recorder_needs_no_attempt_of_what_a_batch_reads(
    compiled_pump: bool, store: S3Store, recorded: list[Attempt | Span | Read], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not compiled_pump:
        pytest.skip("the pump cannot be compiled here, or is not to be")
    await store.get("key")
    monkeypatch.setattr(Attempt, "__init__", None)
    await by_batch(store)
    assert [type(each) for each in recorded] == [Attempt, Read]


# The whole process


async def test_everybody_is_told_until_they_leave(store: S3Store) -> None:
    found: list[tuple[str, Attempt | Span]] = []
    observer = partial(lambda event, what: found.append((event, what)))
    observers.observe(observer)
    await store.get("key")
    observers.leave(observer)
    await store.get("key")
    assert [event for event, _ in found] == ["attempt.started", "attempt.complete"]
