"""Error answers and retries: what is sent again, how often, after how long, and what the caller is told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from s3dlio.errors import (
    AlreadyExistsError,
    ConnectionFailedError,
    IntegrityError,
    NotFoundError,
    NotModifiedError,
    PermissionDeniedError,
    PreconditionFailedError,
    ProtocolError,
    RangeError,
    RequestError,
    ServerError,
    StoreError,
    ThrottledError,
)
from s3dlio.model import BoundedRange, GetOptions, GetResult, OffsetRange, Part, PutOptions, SuffixRange, Upload
from s3dlio.stores.s3.store import S3Store
from s3dlio.stores.store import BytesSink

from ..servers.faults import NOTHING, Fault, FaultServer, error_body, etag_of, refusal
from .conftest import BUCKET, DATA, ROOT, MakeStore

UPLOAD = Upload("key", "upload-1", PutOptions())
PARTS = [Part(1, '"0123"', 5)]

Operation = Callable[[S3Store], Awaitable[object]]

OPERATIONS: dict[str, Operation] = {
    "GetObject": lambda store: store.get("key"),
    "HeadObject": lambda store: store.head("key"),
    "ListObjectsV2": lambda store: store.list_page(),
    "PutObject": lambda store: store.put("key", DATA),
    "DeleteObject": lambda store: store.delete("key"),
    "UploadPart": lambda store: store.upload_part(UPLOAD, 1, DATA),
}

each_operation = pytest.mark.parametrize("operation", OPERATIONS)


async def test_the_server_serves_what_it_holds(server: FaultServer, store: S3Store) -> None:
    assert (await store.put("new", b"written")).etag == etag_of(b"written")
    assert await store.get("new") == b"written"
    assert await store.get_range("key", BoundedRange(3, 300)) == DATA[3:300]
    assert await store.get_range("key", OffsetRange(10_000)) == DATA[10_000:]
    assert await store.get_range("key", SuffixRange(7)) == DATA[-7:]
    assert [item.key for item in (await store.list_page("n")).objects] == ["new"]
    assert (await store.head("key")).size == len(DATA)
    await store.delete("key")
    assert not await store.exists("key")
    assert server.connections == 1


@each_operation
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault(500), id="500"),
        pytest.param(Fault(502), id="502"),
        pytest.param(Fault(503), id="503"),
        pytest.param(Fault(504), id="504"),
        pytest.param(Fault(408), id="408"),
        pytest.param(Fault(429), id="429"),
        pytest.param(refusal(503, "SlowDown"), id="SlowDown"),
        pytest.param(refusal(400, "RequestTimeout"), id="RequestTimeout"),
        pytest.param(Fault(cut=NOTHING, reset=True), id="reset"),
        pytest.param(Fault(cut=NOTHING), id="closed"),
    ],
)
async def test_passing_failures_are_retried(
    clock: MockClock, server: FaultServer, store: S3Store, operation: str, fault: Fault
) -> None:
    if operation == "HeadObject" and fault.status == 400:
        fault = Fault(503)  # the answer to a HEAD has no body to say more
    server.script += [fault, fault]
    await OPERATIONS[operation](store)
    assert len(server.requests) == 3


@each_operation
async def test_throttled_for_ever(clock: MockClock, server: FaultServer, make_store: MakeStore, operation: str) -> None:
    server.always = Fault(503)
    with pytest.raises(ThrottledError) as caught:
        await OPERATIONS[operation](make_store(max_attempts=4))
    assert caught.value.attempts == len(server.requests) == 4
    assert caught.value.operation == operation
    assert caught.value.status == 503


async def test_a_throttled_store_is_not_an_empty_one(clock: MockClock, server: FaultServer, store: S3Store) -> None:
    server.always = refusal(503, "SlowDown")
    with pytest.raises(ThrottledError):
        _ = [page async for page in store.list()]
    with pytest.raises(ThrottledError):
        await store.exists("key")


@each_operation
@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, RequestError),
        (401, PermissionDeniedError),
        (403, PermissionDeniedError),
        (404, NotFoundError),
        (405, RequestError),
        (412, PreconditionFailedError),
    ],
)
async def test_refusals_are_final(
    server: FaultServer, store: S3Store, operation: str, status: int, expected: type[StoreError]
) -> None:
    server.always = Fault(status)
    with pytest.raises(expected) as caught:
        await OPERATIONS[operation](store)
    assert len(server.requests) == 1
    assert caught.value.attempts == 1


async def test_an_error_says_everything(server: FaultServer, store: S3Store) -> None:
    server.always = refusal(403, "AccessDenied", Message="Not for you", RequestId="in-the-body")
    with pytest.raises(PermissionDeniedError) as caught:
        await store.get("key")
    context = {name: getattr(caught.value, name) for name in caught.value.context.__slots__}
    assert context == {
        "operation": "GetObject",
        "bucket": BUCKET,
        "key": "key",
        "endpoint": server.endpoint,
        "status": 403,
        "code": "AccessDenied",
        "request_id": "request-AccessDenied",
        "attempts": 1,
    }
    assert str(caught.value) == (
        f"Not for you (operation='GetObject', bucket='bucket', key='key', endpoint='{server.endpoint}', "
        "status=403, code='AccessDenied', request_id='request-AccessDenied', attempts=1)"
    )


async def test_a_broken_connection_is_the_errors_cause(server: FaultServer, store: S3Store) -> None:
    server.always = Fault(cut=NOTHING, reset=True)
    with pytest.raises(ConnectionFailedError) as caught:
        await store.get("key")
    assert isinstance(caught.value.__cause__, ConnectionResetError)
    assert (caught.value.operation, caught.value.key, caught.value.attempts) == ("GetObject", "key", 3)
    assert caught.value.endpoint == server.endpoint


async def test_an_ambiguous_conditional_write_is_not_repeated(server: FaultServer, store: S3Store) -> None:
    server.script.append(Fault(cut=NOTHING, reset=True))
    with pytest.raises(ConnectionFailedError) as caught:
        await store.put("new", DATA, PutOptions(if_none_match=True))
    assert len(server.requests) == caught.value.attempts == 1


async def test_a_throttled_conditional_write_is_repeated(clock: MockClock, server: FaultServer, store: S3Store) -> None:
    server.script += [Fault(503)]
    server.objects.pop(f"{ROOT}key")
    server.always = Fault(deaf_to=frozenset({"if-none-match"}))
    await store.put("key", DATA, PutOptions(if_none_match=True))
    assert [asked.headers["if-none-match"] for asked in server.requests] == ["*", "*"]


async def test_an_existing_object_is_not_overwritten(server: FaultServer, store: S3Store) -> None:
    with pytest.raises(AlreadyExistsError):
        await store.put("key", b"other", PutOptions(if_none_match=True))
    assert len(server.requests) == 1
    assert server.objects[f"{ROOT}key"] == DATA


@pytest.mark.parametrize(
    ("complete", "operation"),
    [
        (lambda store: store.complete_upload(UPLOAD, PARTS), "CompleteMultipartUpload"),
        (lambda store: store.copy("key", "copy"), "CopyObject"),
    ],
    ids=["complete", "copy"],
)
class TestErrorsInsideSuccess:
    """A 200 whose body is an `Error`."""

    async def test_denied(self, server: FaultServer, store: S3Store, complete: Operation, operation: str) -> None:
        server.always = Fault(200, body=error_body("AccessDenied"))
        with pytest.raises(PermissionDeniedError) as caught:
            await complete(store)
        assert len(server.requests) == 1
        assert caught.value.operation == operation

    @pytest.mark.parametrize("code", ["InternalError", "SlowDown"])
    async def test_passing(
        self, clock: MockClock, server: FaultServer, store: S3Store, complete: Operation, operation: str, code: str
    ) -> None:
        server.script += [Fault(200, body=error_body(code))]
        server.always = Fault(200, body=f'<{operation}Result xmlns="x"><ETag>"abc"</ETag></{operation}Result>'.encode())
        assert await complete(store) is not None
        assert len(server.requests) == 2

    async def test_for_ever(
        self, clock: MockClock, server: FaultServer, store: S3Store, complete: Operation, operation: str
    ) -> None:
        server.always = Fault(200, body=error_body("InternalError"))
        with pytest.raises(ServerError) as caught:
            await complete(store)
        assert (caught.value.code, caught.value.attempts, caught.value.status) == ("InternalError", 3, 200)

    async def test_no_xml(self, server: FaultServer, store: S3Store, complete: Operation, operation: str) -> None:
        server.always = Fault(200, body=b"all is well")
        with pytest.raises(ProtocolError):
            await complete(store)


async def test_the_delays_between_attempts(
    clock: MockClock, server: FaultServer, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(max_attempts=5)
    await store.head("key")
    assert store._service is not None
    monkeypatch.setattr(store._service.circuit, "_jitter", lambda: 0.5)
    delays: list[float] = []
    monkeypatch.setattr(trio, "sleep", _recording(delays, trio.sleep))
    server.script += [Fault(503), Fault(500), Fault(504), Fault(429)]
    await store.head("key")
    assert delays == pytest.approx([0.375, 0.3, 0.6, 3.0])


def _recording(delays: list[float], sleep: Callable[[float], Awaitable[None]]) -> Callable[[float], Awaitable[None]]:
    mine = trio.lowlevel.current_task()

    async def recorded(seconds: float) -> None:
        if seconds and trio.lowlevel.current_task() is mine:
            delays.append(seconds)
        await sleep(seconds)

    return recorded


@pytest.mark.parametrize(
    ("header", "value", "most"),
    [
        ("retry-after", "3", 3.0),
        ("x-amz-retry-after", "2500", 2.5),
        ("retry-after", "3600", 5.25),
        ("retry-after", "\N{SUPERSCRIPT TWO}", 0.25),
        ("retry-after", "9" * 5000, 0.25),
        ("retry-after", "-1", 0.25),
    ],
)
async def test_the_server_may_ask_for_more_patience(
    clock: MockClock,
    server: FaultServer,
    store: S3Store,
    monkeypatch: pytest.MonkeyPatch,
    header: str,
    value: str,
    most: float,
) -> None:
    await store.head("key")
    assert store._service is not None
    monkeypatch.setattr(store._service.circuit, "_jitter", lambda: 0.0)
    delays: list[float] = []
    monkeypatch.setattr(trio, "sleep", _recording(delays, trio.sleep))
    server.script += [Fault(503, {header: value})]
    await store.head("key")
    assert sum(delays) == pytest.approx(most)


@pytest.mark.parametrize("reset", [False, True])
async def test_a_connection_closed_while_idle_is_no_error(server: FaultServer, store: S3Store, *, reset: bool) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(store.get, "key")
    opened = server.connections
    await server.hang_up_all()
    assert await store.get("key") == DATA
    assert (server.connections, len(server.requests)) == (opened + 1, 9)
    server.always = Fault(hang_up=True, reset=reset)
    for _ in range(5):
        assert await store.get("key") == DATA


async def test_a_connection_closed_at_the_wrong_moment_is_not_charged(
    server: FaultServer, make_store: MakeStore
) -> None:
    store = make_store(max_attempts=1)
    await store.head("key")
    server.script += [Fault(cut=NOTHING, reset=True)]
    assert await store.get("key") == DATA
    assert [asked.method for asked in server.requests] == ["HEAD", "GET", "GET"]


async def test_conditions_of_a_read(server: FaultServer, store: S3Store) -> None:
    etag = etag_of(DATA)
    with pytest.raises(NotModifiedError):
        await store.fetch("key", BytesSink(), GetOptions(if_none_match=etag))
    assert await store.get("key", if_match=etag.strip('"')) == DATA
    assert len(server.requests) == 2


@pytest.mark.parametrize("byte_range", [OffsetRange(len(DATA)), BoundedRange(20_000, 20_001)])
async def test_a_range_past_the_end(server: FaultServer, store: S3Store, byte_range: BoundedRange) -> None:
    with pytest.raises(RangeError):
        await store.get_range("key", byte_range)
    assert len(server.requests) == 1


async def test_an_empty_object(server: FaultServer, store: S3Store) -> None:
    server.objects[f"{ROOT}empty"] = b""
    assert await store.get("empty") == b""
    with pytest.raises(RangeError):
        await store.get_range("empty", OffsetRange(0))


async def test_a_view_larger_than_the_object(server: FaultServer, store: S3Store) -> None:
    view = bytearray(len(DATA) + 1)
    with pytest.raises(IntegrityError):
        await store.get_into("key", memoryview(view))
    assert len(server.requests) == 1
    assert not any(view)


async def test_a_sink_that_fails(server: FaultServer, store: S3Store) -> None:
    """What the destination raises is no fault of the connection: not repeated, and never an empty success."""
    calls: list[GetResult] = []

    def full(coming: GetResult) -> memoryview:
        calls.append(coming)
        raise OSError(28, "No space left on device")

    with pytest.raises(StoreError, match="No space left") as caught:
        await store.fetch("key", full)
    assert not isinstance(caught.value, ConnectionFailedError)
    assert len(server.requests) == len(calls) == 1


async def test_a_sink_of_the_wrong_size(server: FaultServer, store: S3Store) -> None:
    with pytest.raises(ValueError, match="10240"):
        await store.fetch("key", lambda _: memoryview(bytearray(10)))
    assert await store.get("key") == DATA


async def test_a_listing_that_makes_no_sense_says_where(server: FaultServer, store: S3Store) -> None:
    server.always = Fault(200, body=b"<html>log in</html>")
    with pytest.raises(ProtocolError, match="ListBucketResult") as caught:
        await store.list_page()
    error = caught.value
    assert (error.operation, error.bucket) == ("ListObjectsV2", "bucket")
    assert error.endpoint is not None
