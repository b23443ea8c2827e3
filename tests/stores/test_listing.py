"""A listing's next page is on its way while one is looked at: one, and nothing of it is left."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any, cast

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from s3dlio.errors import ServerError
from s3dlio.model import ListOptions, ListPage
from s3dlio.stores.memory import MemoryStore

KEYS = [f"{number:04}" for number in range(3500)]


class Recording(MemoryStore):
    """Notes which pages are asked for, and holds the later ones back until `gate` is open."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str | None] = []
        self.under_way = 0
        self.gate = trio.Event()
        self.failure: Exception | None = None

    async def list_page(self, prefix: str = "", options: ListOptions = ListOptions()) -> ListPage:
        self.asked.append(options.token)
        self.under_way += 1
        try:
            if options.token is not None:
                await self.gate.wait()
                if self.failure is not None:
                    raise self.failure
            return await super().list_page(prefix, options)
        finally:
            self.under_way -= 1


@pytest.fixture
async def store() -> Recording:
    store = Recording()
    for key in KEYS:
        await store.put(key, b"")
    return store


def pages_of(store: Recording) -> Any:
    return aclosing(cast("Any", store.list()))


async def test_one_page_is_asked_for_ahead_and_no_more(store: Recording) -> None:
    store.gate.set()
    async with pages_of(store) as pages:
        for number in range(1, 4):
            page = await anext(pages)
            await wait_all_tasks_blocked()
            assert store.asked == [None, "0999", "1999", "2999"][: number + 1]
            assert [meta.key for meta in page.objects] == KEYS[1000 * (number - 1) : 1000 * number]
        assert [meta.key for meta in (await anext(pages)).objects] == KEYS[3000:]
        with pytest.raises(StopAsyncIteration):
            await anext(pages)


async def test_who_stops_early_leaves_nothing(store: Recording) -> None:
    async with pages_of(store) as pages:
        await anext(pages)
        await wait_all_tasks_blocked()
        assert store.under_way == 1
    assert store.under_way == 0


async def test_who_is_cancelled_leaves_nothing(store: Recording) -> None:
    async with pages_of(store) as pages:
        await anext(pages)
        with trio.CancelScope() as scope:
            await wait_all_tasks_blocked()
            scope.cancel()
            await anext(pages)
        assert (scope.cancelled_caught, store.under_way) == (True, 0)


async def test_a_page_that_fails_does_so_where_it_is_wanted(store: Recording) -> None:
    store.failure = ServerError("not today")
    store.gate.set()
    async with pages_of(store) as pages:
        await anext(pages)
        await wait_all_tasks_blocked()
        with pytest.raises(ServerError, match="not today"):
            await anext(pages)
