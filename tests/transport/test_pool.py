"""The pool's invariant under contention, closing and failure: slots come back, and connections are bounded."""

from __future__ import annotations

import random
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from s3dlio.config import Config
from s3dlio.errors import ConnectionFailedError, StoreError
from s3dlio.stores.s3.store import S3Store
from s3dlio.transport.dial import open_pool, secure
from s3dlio.transport.endpoint import parse_endpoint
from s3dlio.transport.pool import IDLE_LIMIT, ConnectionPool

from ..descriptors import open_sockets
from ..servers.faults import NOTHING, Fault, FaultServer, fault_server
from .conftest import DATA, ROOT, MakeStore

LIMIT = 4


def pool_of(store: S3Store) -> ConnectionPool:
    assert store._service is not None
    return store._service.rotation.first.pool


async def test_no_more_connections_than_the_limit(server: FaultServer, make_store: MakeStore) -> None:
    store = make_store(connections=LIMIT)
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(store.get, "key")
    assert len(server.requests) == 50
    assert server.connections == server.most_open == LIMIT
    assert pool_of(store).leased == 0


async def test_not_even_when_old_connections_die_under_requests(server: FaultServer, make_store: MakeStore) -> None:
    """Each request then needs a fresh connection, while idle ones that may be dead as well are still there."""
    store = make_store(connections=LIMIT)
    for _ in range(5):
        async with trio.open_nursery() as nursery:
            for _ in range(LIMIT):
                nursery.start_soon(store.get, "key")
        server.script += [Fault(cut=NOTHING, reset=True)]
        assert await store.get("key") == DATA
        await trio.testing.wait_all_tasks_blocked(0.005)
        assert len(server.open) <= LIMIT
    assert pool_of(store).leased == 0


async def test_idle_connections_make_room_for_a_fresh_one(server: FaultServer, make_store: MakeStore) -> None:
    store = make_store(connections=LIMIT)
    async with trio.open_nursery() as nursery:
        for _ in range(LIMIT):
            nursery.start_soon(store.get, "key")
    pool = pool_of(store)
    connection = await pool.acquire(fresh=True)
    await server.settled(lambda: LIMIT)
    assert server.connections == LIMIT + 1
    pool.release(connection, reusable=True)
    assert pool.leased == 0


async def test_one_connection_is_enough(server: FaultServer, make_store: MakeStore) -> None:
    store = make_store(connections=1)
    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(store.put, f"key-{number}", DATA)
    assert server.connections == 1
    assert len(server.objects) == 11


async def test_calls_in_turn_use_one_connection(server: FaultServer, store: S3Store) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(store.get, "key")
    opened = server.connections
    for _ in range(5):
        await store.get("key")
    assert len({asked.connection for asked in server.requests[3:]}) == 1
    assert server.connections == opened


async def test_a_connection_that_spoke_up_while_idle_is_not_used(server: FaultServer, store: S3Store) -> None:
    await store.get("key")
    await trio.testing.wait_all_tasks_blocked()
    (stream,) = server.open.values()
    await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil")
    await trio.testing.wait_all_tasks_blocked(0.005)
    assert await store.get("key") == DATA
    assert [asked.connection for asked in server.requests] == [1, 2]
    assert pool_of(store).stale == 1


async def test_a_closed_store_gives_out_nothing(server: FaultServer, store: S3Store) -> None:
    await store.get("key")
    await store.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await store.get("key")
    await server.settled(lambda: 0)


async def test_closing_lets_a_request_finish(server: FaultServer, store: S3Store) -> None:
    server.always = Fault(pace=(5000, 0.001))
    got: list[bytes] = []

    async def get() -> None:
        got.append(await store.get("key"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(get)
        while not server.requests:
            await trio.testing.wait_all_tasks_blocked()
        await store.aclose()
    assert got == [DATA]
    await server.settled(lambda: 0)
    assert pool_of(store).leased == 0


async def test_failed_connections_give_their_slot_back() -> None:
    pool = open_pool(parse_endpoint("http://127.0.0.1:1"), config := Config(connections=1), secure(config))
    for _ in range(3):
        with pytest.raises(ConnectionFailedError):
            await pool.acquire()
    assert pool.leased == 0


async def idle_connections(store: S3Store, count: int) -> ConnectionPool:
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(store.get, "key")
    assert 1 <= len(pool_of(store)._idle) <= count
    return pool_of(store)


async def test_what_the_server_closed_is_closed_though_nobody_asks(
    clock: MockClock, server: FaultServer, make_store: MakeStore
) -> None:
    store = make_store(connections=LIMIT)
    before = open_sockets()
    pool = await idle_connections(store, LIMIT)
    await server.hang_up_all()
    await trio.sleep(10)
    assert len(pool._idle) == 0
    assert open_sockets() == before
    await idle_connections(store, LIMIT)


async def test_no_connection_is_idle_for_long(clock: MockClock, server: FaultServer, store: S3Store) -> None:
    """What lies between may have forgotten it without a word."""
    await idle_connections(store, 8)
    await trio.sleep(IDLE_LIMIT - 1)
    await store.get("key")
    await trio.sleep(IDLE_LIMIT / 2)
    await server.settled(lambda: 1)
    assert server.requests[-1].connection <= 8
    await trio.sleep(IDLE_LIMIT)
    await server.settled(lambda: 0)
    assert await store.get("key") == DATA


async def test_an_old_connection_is_not_used_before_it_is_swept(
    clock: MockClock, server: FaultServer, store: S3Store
) -> None:
    await store.get("key")
    clock.jump(IDLE_LIMIT)
    await store.get("key")
    assert [asked.connection for asked in server.requests] == [1, 2]


async def test_after_silence_others_of_that_age_are_not_tried(
    clock: MockClock, server: FaultServer, make_store: MakeStore
) -> None:
    store = make_store(connections=LIMIT, max_attempts=2, stall_timeout=IDLE_LIMIT / 3)
    await idle_connections(store, LIMIT)
    opened = server.connections
    server.script += [Fault(stall=NOTHING)]
    assert await store.get("key") == DATA
    assert server.requests[-1].connection == opened + 1


async def test_the_kernel_probes_connections(server: FaultServer, store: S3Store) -> None:
    pool = await idle_connections(store, 1)
    sock = pool._idle[0][0]._stream._sock
    assert isinstance(sock, socket.socket)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10


class TwoAddresses(trio.abc.HostnameResolver):
    """A name for the loopback addresses 1 and 2, in this order."""

    async def getaddrinfo(self, host: object, port: object, *args: object) -> Any:
        where = [("127.0.0.1", port), ("127.0.0.2", port)]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in where]

    async def getnameinfo(self, sockaddr: object, flags: int) -> tuple[str, str]:
        raise NotImplementedError


async def test_an_address_that_stays_silent_is_left_for_the_next(clock: MockClock, make_store: MakeStore) -> None:
    async with fault_server("127.0.0.2") as server, trio.open_nursery() as nursery:
        server.objects[f"{ROOT}key"] = DATA
        port = int(server.endpoint.rpartition(":")[2])
        taken: list[trio.SocketStream] = []

        async def be_silent(stream: trio.SocketStream) -> None:
            taken.append(stream)
            await trio.sleep_forever()

        await nursery.start(partial(trio.serve_tcp, be_silent, port, host="127.0.0.1"))
        trio.socket.set_custom_hostname_resolver(TwoAddresses())
        store = make_store(endpoint=f"http://two.test:{port}", addressing="path", max_attempts=2)
        for _ in range(3):
            assert await store.get("key") == DATA
            await trio.sleep(2 * IDLE_LIMIT)
        assert (len(taken), server.connections) == (1, 3)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("seed", range(6))
async def test_cancelled_at_random_under_contention(server: FaultServer, make_store: MakeStore, seed: int) -> None:
    """Readers and writers that come and go, over a network that breaks: then everything is back, and still works."""
    chance, store = random.Random(seed), make_store(connections=LIMIT)
    server.objects[f"{ROOT}large"] = bytes(200_000)
    await store.get("key")  # or, on a busy machine, all may be cancelled before there is a connection
    faults = [
        Fault(),
        Fault(cut=100),
        Fault(cut=NOTHING, reset=True),
        Fault(hang_up=True),
        Fault(500),
        Fault(stall=NOTHING),
    ]
    server.script += [chance.choice(faults) for _ in range(150)]

    async def client() -> None:
        with trio.CancelScope() as scope:
            victims.append(scope)
            operations: list[Callable[[str], Awaitable[object]]] = [
                store.get,
                store.head,
                partial(store.put, data=bytes(50_000)),
            ]
            try:
                await chance.choice(operations)(chance.choice(["key", "large"]))
            except StoreError:
                return

    victims: list[trio.CancelScope] = []
    async with trio.open_nursery() as nursery:
        for _ in range(120):
            nursery.start_soon(client)
            if chance.random() < 0.5:
                await trio.testing.wait_all_tasks_blocked()
            for scope in chance.sample(victims, k=len(victims) // 8):
                scope.cancel()
        nursery.cancel_scope.cancel()
    server.script.clear()
    server.objects[f"{ROOT}key"] = DATA
    assert pool_of(store).leased == 0
    assert await store.get("key") == DATA
    await server.settled(lambda: sum(not connection.stale for connection, _ in pool_of(store)._idle))
    assert len(server.open) <= LIMIT


async def test_ipv6() -> None:
    async with fault_server("::1") as server:
        server.objects[f"{ROOT}key"] = DATA
        async with S3Store("bucket", Config(endpoint=server.endpoint, addressing="virtual")) as store:
            assert await store.get("key") == DATA
        assert server.endpoint.startswith("http://[::1]:")
        assert server.requests[0].headers["host"] == server.endpoint.removeprefix("http://")


async def test_names_under_localhost(server: FaultServer, make_store: MakeStore) -> None:
    """Virtual hosts of a local server need no name service."""
    server.objects["/key"] = DATA
    port = server.endpoint.rpartition(":")[2]
    store = make_store(endpoint=f"http://s3.localhost:{port}", addressing="virtual")
    assert await store.get("key") == DATA
    assert server.requests[0].headers["host"] == f"bucket.s3.localhost:{port}"
    assert server.requests[0].target == "/key"
