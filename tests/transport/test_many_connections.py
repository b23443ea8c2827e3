"""A thousand connections at once, and descriptors that the pump has no rows for."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
import trio

from s3dlio.model import ObjectMeta
from s3dlio.stores.s3.store import S3Store
from s3dlio.transport import pump_table
from s3dlio.transport.batch import Batch

from ..servers.faults import FaultServer
from .conftest import DATA, ROOT, MakeStore

COUNT = 1100
"""More than the pump is told of in one call."""

LARGE = DATA * 50


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    """As many as the system lets this process have: a thousand, which is the usual limit, are not enough."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def body(number: int) -> bytes:
    return f"{number:04d}".encode() * (number + 1)


async def read_all_at_once(store: S3Store) -> None:
    async def read(number: int) -> None:
        assert await store.get(f"small/{number}") == body(number)

    async with trio.open_nursery() as nursery:
        for number in range(COUNT):
            nursery.start_soon(read, number)


async def batched(store: S3Store, keys: dict[str, bytes]) -> int:
    """Ask for `keys` in a batch; how many could be asked for, and are right."""
    batch: Batch[str] = Batch()
    asked = await store.ask(batch, [(key, key, len(data)) for key, data in keys.items()])
    while len(batch):
        for reply in await batch.answers():
            assert reply.answer is not None
            assert reply.answer.body == keys[reply.name]
    return asked


async def test_a_thousand_reads_at_once(server: FaultServer, make_store: MakeStore, compiled_pump: bool) -> None:
    """Each has a connection of its own, the first time and again, and all are asked for in one batch."""
    objects = {f"small/{number}": body(number) for number in range(COUNT)}
    server.objects |= {f"{ROOT}{key}": data for key, data in objects.items()}
    store = make_store(connections=COUNT)
    for _ in range(2):
        await read_all_at_once(store)
    assert await batched(store, objects) == COUNT * compiled_pump
    assert server.most_open == server.connections == COUNT


@contextmanager
def none_below(descriptor: int) -> Iterator[None]:
    """New descriptors have higher numbers."""
    with ExitStack() as stack:
        last = os.open(os.devnull, os.O_RDONLY)
        stack.callback(os.close, last)
        while last < descriptor:
            last = os.dup(last)
            stack.callback(os.close, last)
        yield


def is_pumped(store: S3Store) -> set[bool]:
    """Whether its idle connections are; they may differ."""
    assert store._service is not None
    return {connection.stream.pumped for connection, _ in store._service.rotation.first.pool._idle}


@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_NOFILE)[1] < pump_table.ROWS + 200,
    reason="the system lets this process have no descriptor that is so high",
)
async def test_descriptors_beyond_the_table(server: FaultServer, make_store: MakeStore, compiled_pump: bool) -> None:
    """They do without the pump, also one that was made when there were only such; later ones have it."""
    server.objects[f"{ROOT}large"] = LARGE
    with none_below(pump_table.ROWS):
        store = make_store(connections=20)
        await use(store)
        assert is_pumped(store) == {False}
        assert await batched(store, {"key": DATA}) == 0
    later = make_store(connections=20)
    await use(later)
    assert is_pumped(later) == {compiled_pump}
    await use(store)
    assert await batched(later, {"key": DATA}) == compiled_pump


async def use(store: S3Store) -> None:
    """By twenty tasks at once, one of which is cancelled meanwhile."""
    found: list[ObjectMeta] = []

    async def read_and_write(number: int) -> None:
        assert await store.get("key") == DATA
        await store.put(f"new/{number}", LARGE)
        await store.get_into("large", view := memoryview(bytearray(len(LARGE))))
        assert view == LARGE
        found.append(await store.head(f"new/{number}"))

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(read_and_write, number)
        with trio.CancelScope() as scope:
            scope.cancel()
            await store.get("large")
    assert [meta.size for meta in found] == [len(LARGE)] * 20
