"""The addresses of one name are endpoints: each is asked by the name, and one that is gone is made up for."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from s3dlio.config import Config
from s3dlio.errors import ConnectionFailedError, ThrottledError
from s3dlio.stores.s3.store import S3Store
from s3dlio.transport.names import LOOKED_UP_AFTER, of_one_family

from ..servers.faults import NOTHING, Fault, FaultServer, fault_server, refusal
from .conftest import BUCKET, DATA, ROOT

Open = Callable[..., S3Store]
ADDRESSES = ["127.0.0.2", "127.0.0.3", "127.0.0.4"]


class Names(trio.abc.HostnameResolver):
    """Every name has the addresses `told`, which may be none."""

    def __init__(self) -> None:
        self.told = list(ADDRESSES)
        self.asked = 0

    async def getaddrinfo(self, host: object, port: object, *args: object) -> Any:
        self.asked += 1
        if not self.told:
            raise socket.gaierror(socket.EAI_AGAIN, "no name service")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in self.told]

    async def getnameinfo(self, sockaddr: object, flags: int) -> tuple[str, str]:
        raise NotImplementedError


@pytest.fixture
async def names() -> Names:
    names = Names()
    trio.socket.set_custom_hostname_resolver(names)  # for this Trio run
    return names


@pytest.fixture
async def servers() -> AsyncIterator[list[FaultServer]]:
    """One at each address, all at the same port."""
    async with AsyncExitStack() as stack:
        found: list[FaultServer] = []
        for address in ADDRESSES:
            port = int(found[0].endpoint.rpartition(":")[2]) if found else 0
            found.append(await stack.enter_async_context(fault_server(address, port=port)))
            found[-1].objects = {f"{ROOT}key": DATA}
        yield found


@pytest.fixture
async def named(names: Names, servers: list[FaultServer]) -> AsyncIterator[Open]:
    """Opens stores of the servers, by a name that they have in common."""
    async with AsyncExitStack() as stack:

        def make(**settings: Any) -> S3Store:
            endpoint = f"http://three.test:{servers[0].endpoint.rpartition(':')[2]}"
            store = S3Store(BUCKET, Config(**{"endpoint": endpoint, "addressing": "path", **settings}))
            stack.push_async_callback(store.aclose)
            return store

        yield make


async def read(store: S3Store, times: int = 1) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(times):
            nursery.start_soon(_read, store)


async def _read(store: S3Store) -> None:
    assert await store.get("key") == DATA


def asked(servers: list[FaultServer]) -> list[int]:
    return [len(server.requests) for server in servers]


async def opened(named: Open, **settings: Any) -> S3Store:
    """A store whose addresses are known."""
    store = named(**settings)
    await read(store)
    await trio.testing.wait_all_tasks_blocked()
    return store


async def test_each_address_is_asked_by_the_name(
    named: Open, servers: list[FaultServer], clock: trio.testing.MockClock
) -> None:
    store = await opened(named)
    await read(store, 60)
    assert sum(asked(servers)) == 61
    assert min(asked(servers)) >= 12
    hosts = {request.headers["host"] for server in servers for request in server.requests}
    assert [host.partition(":")[0] for host in hosts] == ["three.test"]
    assert {each.endpoint.partition(" at ")[2] for each in store.stats().endpoints} == {"", *ADDRESSES}
    assert sum(each.requests for each in store.stats().endpoints) == 61


async def test_an_address_that_is_gone_is_made_up_for(
    named: Open, servers: list[FaultServer], clock: trio.testing.MockClock
) -> None:
    store = await opened(named, max_attempts=1)
    servers[0].restart = trio.Event()
    servers[0].serving.cancel()
    await trio.testing.wait_all_tasks_blocked()
    before = asked(servers)[0]
    for _ in range(10):
        await read(store, 10)
    assert asked(servers)[0] == before
    servers[0].restart.set()
    await trio.sleep(40)
    for _ in range(10):
        await read(store, 10)
    assert asked(servers)[0] > before


async def test_what_one_address_refuses_is_not_asked_of_the_others_at_once(
    named: Open, servers: list[FaultServer], clock: trio.testing.MockClock
) -> None:
    store = await opened(named, max_attempts=3)
    for server in servers:
        server.always = refusal(503, "SlowDown")
    with pytest.raises(ThrottledError) as caught:
        await store.get("key")
    assert sum(asked(servers)) == 1 + 3
    assert " at 127.0.0." in (caught.value.endpoint or "")


async def test_an_address_that_is_silent_is_left_alone(
    named: Open, servers: list[FaultServer], clock: trio.testing.MockClock
) -> None:
    store = await opened(named, max_attempts=2)
    servers[0].always = Fault(stall=NOTHING)
    began = trio.current_time()
    for _ in range(20):
        await read(store)
        await trio.sleep(20)
    assert trio.current_time() - began < 20 * 20 + 70, "one was waited for"


async def test_when_no_address_takes_a_connection_each_was_tried(
    named: Open, servers: list[FaultServer], clock: trio.testing.MockClock
) -> None:
    store = await opened(named, max_attempts=1)
    for server in servers:
        server.restart = trio.Event()
        server.serving.cancel()
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(ConnectionFailedError) as caught:
        await store.head("key")
    assert caught.value.context.attempts == 3


async def test_a_name_is_looked_up_again(
    named: Open, names: Names, servers: list[FaultServer], clock: trio.testing.MockClock
) -> None:
    names.told = ADDRESSES[:2]
    store = await opened(named)
    names.told = ADDRESSES[1:]
    await trio.sleep(LOOKED_UP_AFTER)
    for _ in range(2):  # the first has it looked up, and does not wait for that
        await read(store, 30)
        await trio.testing.wait_all_tasks_blocked()
    assert min(asked(servers)) >= 5
    before, looks = asked(servers)[0], names.asked
    await trio.sleep(400)
    for _ in range(2):
        await read(store)
        await trio.testing.wait_all_tasks_blocked()
        now = asked(servers)[0]
    await read(store, 30)
    assert asked(servers)[0] == now <= before + 2, "an address that was not told for so long is not asked"
    assert names.asked > looks
    assert sum(each.requests for each in store.stats().endpoints) == sum(asked(servers))


async def test_an_address_that_is_out_and_not_told_any_more_is_forgotten(
    named: Open, names: Names, servers: list[FaultServer], clock: trio.testing.MockClock
) -> None:
    store = await opened(named)
    servers[0].restart = trio.Event()
    servers[0].serving.cancel()
    await trio.testing.wait_all_tasks_blocked()
    for _ in range(5):
        await read(store, 10)
    names.told = ADDRESSES[1:]
    await trio.sleep(LOOKED_UP_AFTER)
    await read(store, 10)
    await trio.testing.wait_all_tasks_blocked()
    assert ADDRESSES[0] not in str(store.stats())


async def test_where_names_cannot_be_looked_up_those_known_are_asked(
    named: Open, names: Names, servers: list[FaultServer], clock: trio.testing.MockClock
) -> None:
    store = await opened(named)
    names.told = []
    await trio.sleep(2 * LOOKED_UP_AFTER)
    for _ in range(3):
        await read(store, 10)
        await trio.testing.wait_all_tasks_blocked()
    assert sum(asked(servers)) == 31


async def test_a_name_with_one_address_is_asked_as_such(named: Open, names: Names, servers: list[FaultServer]) -> None:
    names.told = ADDRESSES[:1]
    store = await opened(named)
    await read(store, 10)
    assert asked(servers) == [11, 0, 0]
    assert [each.endpoint.partition(" at ")[2] for each in store.stats().endpoints] == [""]


async def test_an_address_has_no_name_to_look_up(servers: list[FaultServer], names: Names) -> None:
    async with S3Store(BUCKET, Config(endpoint=servers[0].endpoint)) as store:
        await read(store, 3)
    assert names.asked == 0


async def test_a_store_that_is_closed_while_a_name_is_looked_up_stays_closed(
    named: Open, names: Names, servers: list[FaultServer]
) -> None:
    asked_for, go_on = trio.Event(), trio.Event()
    answer = names.getaddrinfo

    async def dawdle(*args: Any) -> Any:
        asked_for.set()
        await go_on.wait()
        return await answer(*args)

    names.getaddrinfo = dawdle  # type: ignore[assignment, method-assign]
    store = named()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(read, store))
        await asked_for.wait()
        await store.aclose()
        go_on.set()
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(trio.ClosedResourceError):
        await store.get("key")
    for server in servers:
        await server.settled(lambda: 0)


def test_of_both_families_the_older_counts() -> None:
    assert of_one_family(["::1", "10.0.0.1", "fe80::1", "10.0.0.1", "10.0.0.2"]) == ["10.0.0.1", "10.0.0.2"]
    assert of_one_family(["fe80::1", "fe80::2"]) == ["fe80::1", "fe80::2"]
