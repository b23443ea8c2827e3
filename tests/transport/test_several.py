"""Several endpoints that have the same objects: what one of them does, or does not, is made up for by the others."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio
import trio.testing

from s3dlio.config import Config
from s3dlio.errors import (
    ConnectionFailedError,
    NotFoundError,
    ObjectChangedError,
    ServerError,
    StoreError,
    ThrottledError,
)
from s3dlio.model import PutOptions
from s3dlio.stores.s3.store import S3Store
from s3dlio.transfer import ParallelStore
from s3dlio.transport.balance import Health, Load
from s3dlio.transport.late import Lately

from ..servers.faults import NOTHING, Fault, FaultServer, fault_server, refusal
from .conftest import BUCKET, DATA, ROOT

MiB = 1 << 20
LARGE = bytes(range(256)) * (2 * MiB // 256)
SLOW_DOWN = refusal(503, "SlowDown")
INTERNAL = refusal(500, "InternalError")

Open = Callable[..., S3Store]


@pytest.fixture
async def servers() -> AsyncIterator[list[FaultServer]]:
    """Three with the same objects."""
    async with AsyncExitStack() as stack:
        found = [await stack.enter_async_context(fault_server()) for _ in range(3)]
        objects = {f"{ROOT}key": DATA, f"{ROOT}large": LARGE}
        for server in found:
            server.objects = objects
        yield found


@pytest.fixture
async def store_of() -> AsyncIterator[Callable[..., S3Store]]:
    async with AsyncExitStack() as stack:

        def make(servers: list[FaultServer], **settings: Any) -> S3Store:
            endpoint = [server.endpoint for server in servers]
            store = S3Store(BUCKET, Config(**{"endpoint": endpoint, "max_attempts": 3, **settings}))
            stack.push_async_callback(store.aclose)
            return store

        yield make


def load_of(store: S3Store, server: FaultServer) -> Load:
    assert store._service is not None
    return next(each.load for each in store._service.rotation if str(each.endpoint) == server.endpoint)


def asked(servers: list[FaultServer]) -> list[int]:
    return [len(server.requests) for server in servers]


async def kill(*servers: FaultServer) -> None:
    """As by SIGKILL, until `restart` is set: connections end, and new ones are refused."""
    for server in servers:
        server.restart = trio.Event()
        server.serving.cancel()
    await trio.testing.wait_all_tasks_blocked()


async def read(store: S3Store, times: int) -> None:
    for _ in range(times):
        assert await store.get("key") == DATA


async def read_at_once(store: S3Store, times: int) -> None:
    """So that all endpoints are asked: one after the other, it may always be the same ones' turn."""
    async with trio.open_nursery() as nursery:
        for _ in range(times):
            nursery.start_soon(read, store, 1)


async def test_requests_are_spread_and_signed_for_whom_they_go_to(servers: list[FaultServer], store_of: Open) -> None:
    store = store_of(servers)
    await read_at_once(store, 30)
    assert sum(asked(servers)) == 30
    assert min(asked(servers)) >= 5
    for server in servers:
        assert {request.headers["host"] for request in server.requests} == {server.endpoint.removeprefix("http://")}


async def test_parts_of_one_object_are_spread(servers: list[FaultServer], store_of: Open) -> None:
    store = store_of(servers)
    parallel = ParallelStore(store, part_size=128 << 10, parts_in_flight=8)
    assert await parallel.get("large") == LARGE
    assert min(asked(servers)) >= 2


@pytest.mark.parametrize(
    "fault",
    [
        SLOW_DOWN,
        INTERNAL,
        Fault(cut=NOTHING),
        Fault(cut=NOTHING, reset=True),
        Fault(cut=100),
        Fault(raw=b"what?\r\n\r\n"),
    ],
    ids=["throttled", "error", "hung up", "reset", "cut", "nonsense"],
)
async def test_the_others_are_asked_at_once(
    servers: list[FaultServer], store_of: Open, autojump_clock: trio.testing.MockClock, fault: Fault
) -> None:
    store = store_of(servers, max_attempts=1)
    servers[0].always = servers[1].always = fault
    begun = trio.current_time()
    await read(store, 20)
    assert trio.current_time() - begun < 1


async def test_a_download_goes_on_elsewhere_at_the_byte_that_was_reached(
    servers: list[FaultServer], store_of: Open, autojump_clock: trio.testing.MockClock
) -> None:
    store = store_of(servers[:2])
    for server in servers[:2]:
        server.script.append(Fault(cut=MiB))
    assert await store.get("large") == LARGE
    requests = [request for server in servers for request in server.requests]
    assert {request.range for request in requests} == {None, f"bytes={MiB}-{2 * MiB - 1}"}
    assert sum(server.body_bytes_sent for server in servers) <= len(LARGE)


async def test_what_another_has_of_it_is_another_version(servers: list[FaultServer], store_of: Open) -> None:
    store = store_of(servers[:2])
    servers[1].objects = {f"{ROOT}large": LARGE[::-1]}
    for server in servers[:2]:
        server.script.append(Fault(cut=MiB))
    with pytest.raises(ObjectChangedError):
        await store.get("large")


async def test_one_that_is_gone_is_asked_no_more_until_it_is_back(
    servers: list[FaultServer],
    store_of: Open,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = store_of(servers)
    await read(store, 12)
    gone = servers[0]
    await kill(gone)
    before = len(gone.requests)
    await read_at_once(store, 30)
    assert load_of(store, gone).health is Health.OUT
    await trio.sleep(60)
    await read(store, 30)
    assert len(gone.requests) == before
    assert sum("not asked for a while" in record.message for record in caplog.records) == 1
    gone.restart.set()
    await trio.sleep(31)
    assert load_of(store, gone).health is Health.TRIED
    with caplog.at_level(logging.WARNING):
        await read_at_once(store, 30)
    assert len(gone.requests) > before
    assert "is asked again" in caplog.text
    assert all(record.levelno <= logging.WARNING for record in caplog.records)


async def test_what_is_under_way_at_one_that_is_killed_goes_on_elsewhere(
    servers: list[FaultServer], store_of: Open, autojump_clock: trio.testing.MockClock
) -> None:
    store, gone = store_of(servers), servers[0]
    await read(store, 12)
    for server in servers:
        server.requests.clear()
        server.always = Fault(pace=(256 << 10, 0.1))
    async with trio.open_nursery() as nursery:
        for _ in range(18):
            nursery.start_soon(read_large, store)
        await trio.sleep(0.35)
        await kill(gone)
        before = len(gone.requests)
        assert before >= 3
    resumed = [asked for server in servers[1:] for asked in server.requests if asked.range is not None]
    assert len(resumed) >= before
    assert not any(str(asked.range).startswith("bytes=0-") for asked in resumed), "read again from its beginning"
    assert len(gone.requests) == before
    gone.restart.set()
    await trio.sleep(31)
    await read_at_once(store, 30)
    assert len(gone.requests) > before


async def read_large(store: S3Store) -> None:
    assert await store.get("large") == LARGE


async def test_probes_become_rare(
    servers: list[FaultServer], store_of: Open, autojump_clock: trio.testing.MockClock
) -> None:
    store = store_of(servers)
    servers[0].always = Fault(cut=NOTHING)
    await read_at_once(store, 30)
    assert load_of(store, servers[0]).health is Health.OUT
    requests, connections = len(servers[0].requests), servers[0].connections
    for _ in range(300):
        await trio.sleep(1)
        await read(store, 1)
    assert len(servers[0].requests) - requests <= 16
    assert servers[0].connections - connections <= 32


async def test_when_all_are_gone_the_error_has_tried_each(
    servers: list[FaultServer], store_of: Open, autojump_clock: trio.testing.MockClock
) -> None:
    store = store_of(servers, max_attempts=2)
    await kill(*servers)
    with pytest.raises(ConnectionFailedError) as caught:
        await store.get("key")
    assert caught.value.context.attempts == 6
    assert caught.value.endpoint in [server.endpoint for server in servers]


async def test_an_outage_of_all_is_waited_for(
    servers: list[FaultServer], store_of: Open, autojump_clock: trio.testing.MockClock
) -> None:
    store = store_of(servers, max_attempts=10)
    async with trio.open_nursery() as nursery:
        await kill(*servers)
        for _ in range(20):
            nursery.start_soon(read, store, 1)
        await trio.sleep(15)
        for server in servers:
            server.restart.set()


@pytest.mark.parametrize(("fault", "kind"), [(SLOW_DOWN, ThrottledError), (INTERNAL, ServerError)])
async def test_when_all_refuse_there_are_as_many_rounds_as_attempts(
    servers: list[FaultServer],
    store_of: Open,
    autojump_clock: trio.testing.MockClock,
    fault: Fault,
    kind: type[StoreError],
) -> None:
    store = store_of(servers, max_attempts=3)
    for server in servers:
        server.always = fault
    with pytest.raises(kind) as caught:
        await store.get("key")
    assert asked(servers) == [3, 3, 3]
    assert caught.value.context.attempts == 9


async def test_what_is_not_there_is_asked_for_once(servers: list[FaultServer], store_of: Open) -> None:
    with pytest.raises(NotFoundError):
        await store_of(servers).head("absent")
    assert sum(len([each for each in server.requests if "absent" in each.target]) for server in servers) == 1


async def test_a_write_whose_outcome_is_unknown_goes_nowhere_else(
    servers: list[FaultServer], store_of: Open, autojump_clock: trio.testing.MockClock
) -> None:
    store = store_of(servers)
    for server in servers:
        server.always = Fault(cut=NOTHING)
    with pytest.raises(StoreError):
        await store.put("new", DATA, PutOptions(if_none_match=True))
    assert sum(asked(servers)) == 1


async def test_one_that_refuses_at_once_gets_no_more_than_the_others(
    servers: list[FaultServer], store_of: Open, autojump_clock: trio.testing.MockClock
) -> None:
    store = store_of(servers)
    servers[0].always = SLOW_DOWN
    for server in servers[1:]:
        server.always = Fault(pace=(1 << 10, 0.01))

    async def work() -> None:
        await read(store, 20)

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(work)
    refused, *served = asked(servers)
    assert refused <= min(served)
    assert load_of(store, servers[0]).health is Health.IN


async def test_a_slow_one_holds_up_little(
    servers: list[FaultServer], store_of: Open, autojump_clock: trio.testing.MockClock
) -> None:
    store = store_of(servers)
    for server, pause in zip(servers, (0.1, 0.01, 0.01), strict=True):
        server.always = Fault(pace=(1 << 10, pause))

    async def work() -> None:
        await read(store, 40)

    begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(12):
            nursery.start_soon(work)
    slow, *quick = asked(servers)
    assert 2 * slow < min(quick)
    assert trio.current_time() - begun < 12 * 40 * 0.1 / 2


async def test_a_silent_one_is_given_up_and_its_work_moved(
    servers: list[FaultServer], store_of: Open, autojump_clock: trio.testing.MockClock
) -> None:
    store = store_of(servers, stall_timeout=5)
    servers[0].always = Fault(stall=NOTHING)
    await read_at_once(store, 30)
    assert load_of(store, servers[0]).health is Health.OUT
    assert trio.current_time() < 10


async def test_nothing_is_owed_at_the_end(servers: list[FaultServer], store_of: Open) -> None:
    store = store_of(servers)
    await read(store, 1)  # or, on a busy machine, all is cancelled before there is a service
    for server in servers:
        server.script.extend([Fault(cut=10), SLOW_DOWN, Fault(cut=NOTHING)])
    with trio.move_on_after(0.05):
        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(read, store, 3)
    assert [load_of(store, server).owed for server in servers] == [0, 0, 0]
    assert store._service is not None
    assert all(upstream.pool.leased == 0 for upstream in store._service.rotation)


@pytest.mark.parametrize(
    "endpoints", [["http://a:1", "https://a:2"], ["https://s3.us-east-1.amazonaws.com", "https://other"]]
)
async def test_endpoints_of_two_kinds_are_refused(store_of: Open, endpoints: list[str]) -> None:
    with pytest.raises(StoreError, match="of one kind"):
        await store_of([], endpoint=endpoints).get("key")


async def test_a_late_answer_is_not_waited_for(
    servers: list[FaultServer], store_of: Open, autojump_clock: trio.testing.MockClock
) -> None:
    store, chance = store_of(servers), random.Random(1)
    for server in servers:
        server.script.extend(Fault(delay=5.0 if chance.random() < 0.01 else 0.02) for _ in range(2000))
    waits: list[float] = []

    async def work() -> None:
        for _ in range(300):
            begun = trio.current_time()
            await read(store, 1)
            waits.append(trio.current_time() - begun)

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(work)
    waits.sort()
    assert sum(asked(servers)) <= 1.02 * len(waits)
    assert waits[-1] < 5
    assert sum(wait > 1 for wait in waits) <= 2, "of some 24 that would have waited for five seconds"


async def test_where_all_are_slow_nothing_is_asked_twice(
    servers: list[FaultServer], store_of: Open, autojump_clock: trio.testing.MockClock
) -> None:
    store = store_of(servers)
    for server in servers:
        server.script.extend([*[Fault(delay=0.02)] * 30, *[Fault(delay=3.0)] * 200])
    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(read, store, 30)
    assert sum(asked(servers)) <= 1.02 * 240


async def test_with_one_endpoint_a_late_answer_is_waited_for(
    servers: list[FaultServer], store_of: Open, autojump_clock: trio.testing.MockClock
) -> None:
    store = store_of(servers[:1])
    servers[0].script.extend([*[Fault(delay=0.02)] * 100, Fault(delay=5.0)])
    await read(store, 101)
    assert len(servers[0].requests) == 101


def waits_of(draw: Callable[[], float], share: float) -> tuple[list[float], int]:
    """How long 5000 reads wait, of which a `share` is late by five seconds, and how many are given up."""
    lately, chance, waits, changes = Lately(), random.Random(2), list[float](), 0

    def answer() -> float:
        return 5.0 if chance.random() < share else draw()

    for _ in range(5000):
        wait, waited = answer(), 0.0
        while wait > lately.late:
            changes, waited, wait = changes + 1, waited + lately.late, answer()
        lately.see(wait)
        waits.append(waited + wait)
    return sorted(waits[200:]), changes


def test_a_late_read_takes_hardly_more_than_twice_the_usual_time() -> None:
    chance = random.Random(1)
    waits, changes = waits_of(lambda: 0.02 + chance.random() / 1000, 0.01)
    assert waits[-len(waits) // 1000] < 2.15 * waits[len(waits) // 2]
    assert changes < 0.02 * len(waits)


@pytest.mark.parametrize("share", [0.0, 0.01])
def test_where_times_differ_much_few_are_called_late(share: float) -> None:
    chance = random.Random(1)
    waits, changes = waits_of(lambda: 0.01 + chance.expovariate(100), share)
    assert changes < 0.02 * len(waits)
    assert waits[-1] < 1


def test_what_is_late_follows_what_was_seen_lately() -> None:
    chance, lately = random.Random(0), Lately()
    assert lately.late == math.inf
    for least in (1.0, 0.1, 10.0):
        for _ in range(200):
            lately.see(chance.uniform(least, 2 * least))
        assert 2.3 * least < lately.late < 2.5 * least
    assert lately.seen == 200
