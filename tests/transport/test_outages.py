"""An outage of the endpoint is one failure, however many requests stand behind it, and its end is noticed by all."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from s3dlio.errors import ConnectionFailedError, RequestTimeoutError, ServerError, StoreError, ThrottledError
from s3dlio.model import PutOptions
from s3dlio.stores.s3.store import S3Store
from s3dlio.transport.circuit import CircuitBreaker
from s3dlio.transport.retry import Failure, RetryPolicy

from ..servers.faults import NOTHING, Fault, FaultServer, refusal
from .conftest import DATA, MakeStore

AHEAD = 64
SECONDS = [0.1, 0.3, 1.0, 3.0, 15.0]


@pytest.fixture
def patient(make_store: MakeStore) -> S3Store:
    """With as many attempts as by default."""
    return make_store(max_attempts=10)


async def at_once(count: int, work: Callable[[], Awaitable[object]]) -> list[StoreError]:
    """The errors of `count` calls."""
    errors: list[StoreError] = []

    async def call() -> None:
        try:
            await work()
        except StoreError as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(call)
    return errors


async def read(store: S3Store, objects: int) -> None:
    for _ in range(objects):
        assert await store.get("key") == DATA


async def reading_begins(server: FaultServer) -> None:
    while len(server.requests) < 2 * AHEAD:
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("seconds", SECONDS)
async def test_an_epoch_goes_on_when_the_server_is_back(
    clock: MockClock, server: FaultServer, patient: S3Store, seconds: float
) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(AHEAD):
            nursery.start_soon(read, patient, 9)
        await reading_begins(server)
        await server.be_down(seconds)


@pytest.mark.parametrize("seconds", [1.0, 3.0, 8.0])
async def test_an_epoch_goes_on_when_the_server_has_calmed_down(
    clock: MockClock, server: FaultServer, patient: S3Store, seconds: float
) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(AHEAD):
            nursery.start_soon(read, patient, 9)
        await reading_begins(server)
        server.always = refusal(503, "SlowDown")
        await trio.sleep(seconds)
        server.always = Fault()


@pytest.mark.parametrize("seconds", SECONDS)
@pytest.mark.parametrize("operation", ["get", "head", "put", "create", "list"])
async def test_a_call_alone_outlasts_it(
    clock: MockClock, server: FaultServer, patient: S3Store, operation: str, seconds: float
) -> None:
    verbs: dict[str, Callable[[], Awaitable[object]]] = {
        "get": partial(patient.get, "key"),
        "head": partial(patient.head, "key"),
        "put": partial(patient.put, "new", DATA),
        "create": partial(patient.put, "new", DATA, PutOptions(if_none_match=True)),
        "list": patient.list_page,
    }
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.be_down, seconds)
        await trio.testing.wait_all_tasks_blocked()
        await verbs[operation]()


async def test_attempts_that_bring_bytes_cost_nothing(
    clock: MockClock, server: FaultServer, make_store: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor are they signs of an outage."""
    caplog.set_level(logging.WARNING, "s3dlio")
    server.always = Fault(cut=len(DATA) // 8 + 1, reset=True)
    assert await at_once(8, partial(read, make_store(max_attempts=2), 1)) == []
    assert caplog.records == []


@pytest.mark.parametrize(
    ("fault", "attempts"),
    [(Fault(500), 25), (refusal(503, "SlowDown"), 10), (Fault(cut=NOTHING, reset=True), 2), (Fault(500), 1)],
)
async def test_one_request_is_sent_as_often_as_was_set(
    clock: MockClock, server: FaultServer, make_store: MakeStore, fault: Fault, attempts: int
) -> None:
    server.always = fault
    with pytest.raises((ServerError, ThrottledError, ConnectionFailedError)) as caught:
        await make_store(max_attempts=attempts).get("key")
    assert caught.value.attempts == len(server.requests) == attempts


@pytest.mark.parametrize("fault", [Fault(500), refusal(503, "SlowDown"), Fault(cut=NOTHING, reset=True)])
async def test_an_outage_does_not_multiply_the_load(
    clock: MockClock, server: FaultServer, patient: S3Store, fault: Fault
) -> None:
    """Nobody fails without having asked at the beginning and at the end; in between one asks for all."""
    server.always = fault
    errors = await at_once(300, partial(patient.get, "key"))
    assert len(errors) == 300
    assert all(2 <= (error.attempts or 0) <= 10 for error in errors)
    assert len(server.requests) <= 2 * 300 + AHEAD + 10


async def test_one_line_tells_of_an_outage(
    clock: MockClock, server: FaultServer, patient: S3Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "s3dlio")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.be_down, 15.0)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(AHEAD):
            nursery.start_soon(patient.get, "key")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert all(part in caplog.text for part in ("attempt 1 of 10", "refused", server.endpoint, "GetObject"))
    server.script += [refusal(503, "SlowDown"), Fault(500)]
    await patient.get("key")
    assert len(caplog.records) == 1, "what passes at once is not worth a line"


async def test_one_line_tells_of_silence(
    clock: MockClock, server: FaultServer, patient: S3Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "s3dlio")
    server.script += [Fault(stall=NOTHING)] * 2
    assert await patient.get("key") == DATA
    (line,) = (line for line in caplog.messages if not line.startswith("no byte has moved for 10 seconds"))
    assert "no byte moved for 60 seconds" in line


@pytest.mark.parametrize("fault", [Fault(stall=NOTHING), Fault(500), Fault(pace=(1, 1.0))])
async def test_a_limit_on_all_attempts_together(
    clock: MockClock, server: FaultServer, make_store: MakeStore, fault: Fault
) -> None:
    store = make_store(max_attempts=1000, request_timeout=100)
    await store.head("key")
    server.always, began = fault, trio.current_time()
    with pytest.raises(RequestTimeoutError, match="100 seconds") as caught:
        await store.get("key")
    assert trio.current_time() - began == pytest.approx(100, abs=0.5)
    assert caught.value.attempts == len(server.requests) - 1
    server.always = Fault()
    assert await store.get("key") == DATA


class TestCircuitBreaker:
    """Waiting alone, without requests."""

    @pytest.fixture
    def clock(self) -> MockClock:
        return MockClock(autojump_threshold=0)

    @pytest.fixture
    def breaker(self) -> CircuitBreaker:
        return CircuitBreaker(RetryPolicy(), lambda: 0.0)

    error = ConnectionFailedError("refused")

    async def down(self, breaker: CircuitBreaker, attempt: int = 1) -> int:
        return await breaker.wait(Failure.NOT_SENT, attempt, self.error)

    async def test_a_thousand_attempts(self, clock: MockClock) -> None:
        breaker, attempt, count = CircuitBreaker(RetryPolicy(1000), lambda: 0.0), 1, 1
        while attempt < 1000:
            attempt, count = await self.down(breaker, attempt), count + 1
        assert count == 1000

    async def test_all_together_are_as_patient_as_one(self, clock: MockClock, breaker: CircuitBreaker) -> None:
        sent: list[float] = []

        async def request() -> None:
            attempt = 1
            while attempt < 10:
                attempt = await self.down(breaker, attempt)
                sent.append(trio.current_time() - began)

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(AHEAD):
                nursery.start_soon(request)
        schedule = [0.1, 0.3, 0.7, 1.5, 3.1, 6.3, 12.7, 22.7]
        assert sent[:8] == pytest.approx(schedule)
        assert sent[8:] == pytest.approx([32.7] * AHEAD)

    async def test_who_comes_late_is_as_patient(self, clock: MockClock, breaker: CircuitBreaker) -> None:
        async def first() -> None:
            attempt = 1
            while attempt < 10:
                attempt = await self.down(breaker, attempt)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(first)
            await trio.sleep(32)
            began, attempt = trio.current_time(), 1
            while attempt < 10:
                attempt = await self.down(breaker, attempt)
            assert trio.current_time() - began > 32.7

    async def test_its_end_is_noticed_once_for_all(self, clock: MockClock, breaker: CircuitBreaker) -> None:
        ended: list[tuple[int, float]] = []

        async def request() -> None:
            ended.append((await self.down(breaker), trio.current_time() - began))

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(AHEAD):
                nursery.start_soon(request)
            await trio.sleep(0.2)
            breaker.answered()
        assert [attempt for attempt, _ in ended] == [2] * AHEAD
        assert [when for _, when in ended] == pytest.approx([0.1] + [0.2] * (AHEAD - 1))

    async def test_a_probe_that_hangs_or_is_cancelled_keeps_nobody(
        self, clock: MockClock, breaker: CircuitBreaker
    ) -> None:
        async def hang() -> None:
            await self.down(breaker)
            await trio.sleep_forever()

        async with trio.open_nursery() as nursery:
            began = trio.current_time()
            nursery.start_soon(hang)
            await trio.sleep(0.2)  # it has taken its turn
            assert await self.down(breaker) == 2
            assert trio.current_time() - began == pytest.approx(0.3)
            nursery.cancel_scope.cancel()
        assert await self.down(breaker) == 2
        assert trio.current_time() - began == pytest.approx(0.7)

    async def test_a_few_who_are_throttled_beside_others_wait_for_themselves(
        self, clock: MockClock, breaker: CircuitBreaker
    ) -> None:
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(breaker.wait, Failure.THROTTLED, 3, self.error)
                breaker.answered()
        assert trio.current_time() - began == pytest.approx(1.0)

    async def test_many_who_fail_in_a_row_are_an_outage(self, clock: MockClock, breaker: CircuitBreaker) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(7):
                nursery.start_soon(breaker.wait, Failure.TRANSIENT, 1, self.error)
        assert "closed" in repr(breaker)
        assert await breaker.wait(Failure.TRANSIENT, 1, self.error) == 2
        assert "open" in repr(breaker)
        breaker.answered()
        assert "closed" in repr(breaker)
