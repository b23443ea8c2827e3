"""Cancelled at its k-th step, for every k, an operation leaves no slot, no socket and no half of an answer behind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from s3dlio.stores.s3.store import S3Store

from ..descriptors import open_sockets
from ..servers.faults import NOTHING, Fault, FaultServer
from .conftest import DATA, ROOT, MakeStore

MiB = 1 << 20
LARGE = bytes(range(256)) * (3 * MiB // 256)

Operation = Callable[[S3Store], Awaitable[object]]

OPERATIONS: dict[str, tuple[Operation, list[Fault]]] = {
    "get": (lambda store: store.get("large"), []),
    "get in chunks": (lambda store: store.get("large"), [Fault(pieces=[LARGE[: 2 * MiB], LARGE[2 * MiB :]])]),
    "get, resumed": (lambda store: store.get("large"), [Fault(cut=1000), Fault(cut=MiB)]),
    "get, refused first": (lambda store: store.get("large"), [Fault(500), Fault(cut=NOTHING)]),
    "put": (lambda store: store.put("new", DATA), []),
    "put, with permission": (lambda store: store.put("new", LARGE), []),
    "put, watched": (lambda store: store.put("new", LARGE[: MiB - 1]), []),
    "put, refused early": (lambda store: store.put("new", LARGE[: MiB - 1]), [Fault(500, refuse_after=1000)]),
}


class CancelAtStep(trio.abc.Instrument):
    """Cancels `scope` when `task` is about to run for the `step`-th time."""

    def __init__(self, scope: trio.CancelScope, step: int) -> None:
        self._scope = scope
        self._left = step
        self._task = trio.lowlevel.current_task()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """See `trio.abc.Instrument`."""
        if task is self._task:
            self._left -= 1
            if self._left == 0:
                self._scope.cancel()


async def cancelled_at(step: int, operation: Callable[[], Awaitable[Any]]) -> bool:
    """Whether the cancellation came before the operation's end."""
    with trio.CancelScope() as scope:
        instrument = CancelAtStep(scope, step)
        trio.lowlevel.add_instrument(instrument)
        try:
            await operation()
        finally:
            trio.lowlevel.remove_instrument(instrument)
    return scope.cancelled_caught


@pytest.mark.parametrize("name", OPERATIONS)
async def test_cancelled_at_every_step(server: FaultServer, make_store: MakeStore, name: str) -> None:
    operation, faults = OPERATIONS[name]
    server.objects[f"{ROOT}large"] = LARGE
    await make_store().get("key")
    await server.hang_up_all()
    idle = open_sockets()
    for step in range(1, 1000):
        store = make_store(connections=1)
        server.script.extend(faults)
        cancelled = await cancelled_at(step, lambda store=store: operation(store))  # type: ignore[misc]
        server.script.clear()
        if store._service is not None:
            assert store._service.rotation.first.pool.leased == 0
        assert await store.get("key") == DATA
        await store.aclose()
        await server.settled(lambda: 0)
        assert open_sockets() <= idle
        if not cancelled:
            break
    assert not cancelled
    assert step > 3


async def test_cancelled_while_it_waits_for_a_slot(server: FaultServer, make_store: MakeStore) -> None:
    store = make_store(connections=1)
    server.always = Fault(stall=NOTHING)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.get, "key")
        while not server.requests:
            await trio.testing.wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            nursery.start_soon(_cancel_when_blocked, scope)
            await store.get("key")
        assert scope.cancelled_caught
        assert store._service is not None
        assert store._service.rotation.first.pool.leased == 1
        nursery.cancel_scope.cancel()
    assert store._service.rotation.first.pool.leased == 0
    server.always = Fault()
    assert await store.get("key") == DATA


async def _cancel_when_blocked(scope: trio.CancelScope) -> None:
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()


async def _cancel_when_asked(scope: trio.CancelScope, server: FaultServer, times: int) -> None:
    while len(server.requests) < times:
        await trio.testing.wait_all_tasks_blocked()
    scope.cancel()


async def test_a_cancelled_connection_is_not_used_again(server: FaultServer, store: S3Store) -> None:
    """The rest of the answer is still coming on it."""
    await store.get("key")
    server.script += [Fault(stall=100)]
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when_asked, scope, server, 2)
            await store.get("key")
    assert await store.get("key") == DATA
    assert [asked.connection for asked in server.requests] == [1, 1, 2]
