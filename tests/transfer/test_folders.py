"""Large folders are listed several at once: in order, whole, and with nothing left behind."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from s3dlio.errors import PermissionDeniedError
from s3dlio.folders import entries, has_large_folders
from s3dlio.model import ListOptions, ListPage, ObjectMeta
from s3dlio.stores.memory import MemoryStore
from s3dlio.transfer import ParallelStore

PAGE = 5
KEYS = st.lists(st.text("aé\U0001f600", min_size=1, max_size=2), min_size=1, max_size=4).map("/".join)


class Pages(MemoryStore):
    """Lists by small pages, and tells how; below `broken` it fails."""

    broken = "-"
    lists_from_keys = True

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, ListOptions]] = []
        self.under_way = self.most = 0

    async def list_page(self, prefix: str = "", options: ListOptions = ListOptions()) -> ListPage:
        self.asked.append((prefix, options))
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await trio.sleep(0.1)
            if prefix.startswith(self.broken):
                raise PermissionDeniedError("not this one")
            return await super().list_page(prefix, replace(options, limit=PAGE))
        finally:
            self.under_way -= 1


async def stored(keys: list[str]) -> tuple[Pages, ParallelStore]:
    pages = Pages()
    for key in keys:
        await pages.put(key, b"")
    return pages, ParallelStore(pages, part_size=1 << 20, parts_in_flight=1)


def in_folders(folders: int, each: int) -> list[str]:
    return [f"top/{folder:03}/{number:03}" for folder in range(folders) for number in range(each)]


async def all_of(store: ParallelStore, prefix: str = "", start_after: str = "") -> list[str]:
    async with aclosing(store.list(prefix, start_after=start_after)) as pages:
        return [meta.key async for page in pages for meta in page.objects]


@settings(max_examples=40)
@given(st.sets(KEYS, min_size=20, max_size=60), st.sampled_from(["", "a", "a/", "é/a/"]), st.just("") | KEYS)
def test_it_is_the_listing_of_all(keys: set[str], prefix: str, start_after: str) -> None:
    async def main() -> None:
        _, store = await stored([*keys])
        expected = sorted(key for key in keys if key.startswith(prefix) and key > start_after)
        assert await all_of(store, prefix, start_after) == expected

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_several_folders_are_asked_for_at_once(autojump_clock: object) -> None:
    pages, store = await stored(in_folders(20, 3 * PAGE))
    assert await all_of(store, "top/") == in_folders(20, 3 * PAGE)
    assert pages.most >= 8
    plain = [options for prefix, options in pages.asked if prefix == "top/" and not options.delimiter]
    assert len(plain) == 1


async def test_no_more_is_listed_than_is_looked_at(autojump_clock: object) -> None:
    pages, store = await stored(in_folders(100, 3 * PAGE))
    async with aclosing(store.list("top/")) as listing:
        await anext(listing)
        await anext(listing)
        await trio.sleep(100)
        assert len({prefix for prefix, _ in pages.asked}) < 15
    before = len(pages.asked)
    await trio.sleep(100)
    assert (pages.under_way, len(pages.asked)) == (0, before)


async def test_small_folders_are_listed_in_one_go(autojump_clock: object) -> None:
    keys = [
        *(f"top/0/{number:03}" for number in range(3 * PAGE)),
        *(f"top/{folder:04}/0" for folder in range(1000, 1500)),
    ]
    pages, store = await stored(keys)
    assert await all_of(store, "top/") == sorted(keys)
    assert len(pages.asked) < 60 + 500 // PAGE


async def test_what_fails_in_a_folder_comes_after_what_lies_before_it(autojump_clock: object) -> None:
    pages, store = await stored(in_folders(20, 3 * PAGE))
    pages.broken = "top/003/"
    found: list[str] = []

    async def look() -> None:
        async with aclosing(store.list("top/")) as listing:
            async for page in listing:
                found.extend(keys_of(page))

    with pytest.raises(PermissionDeniedError):
        await look()
    assert found == in_folders(20, 3 * PAGE)[: len(found)]
    assert not [key for key in found if key >= pages.broken]
    assert pages.under_way == 0


async def test_a_store_that_goes_through_all_is_asked_page_by_page(autojump_clock: object) -> None:
    pages, store = await stored(in_folders(20, 3 * PAGE))
    pages.lists_from_keys = False
    assert await all_of(store, "top/") == in_folders(20, 3 * PAGE)
    assert pages.most == 1
    assert len(pages.asked) == 20 * 3


def page_of(*keys: str, prefixes: tuple[str, ...] = (), token: str | None = None) -> ListPage:
    return ListPage([ObjectMeta(key, 0) for key in keys], prefixes, token)


def test_what_decides() -> None:
    assert has_large_folders(page_of("p/a/1", "p/a/2", token="t"), "p/")
    assert has_large_folders(page_of("p/a/1", "p/b/2", "p/c/", "p/d/1", token="t"), "p/")
    assert not has_large_folders(page_of("p/a/1", "p/b/2", "p/c/1", "p/d/1", "p/e/1", token="t"), "p/")
    assert not has_large_folders(page_of("p/a/1", "p/b", token="t"), "p/")
    assert not has_large_folders(page_of("p/a/1"), "p/")
    assert not has_large_folders(page_of(token="t"), "p/")


def test_entries_come_in_order() -> None:
    page = page_of("b", "c", "f", prefixes=("a/", "d/", "e/"))
    shown = ["".join(entry) if isinstance(entry, str) else keys_of(entry) for entry in entries(page, "")]
    assert shown == ["a/", ["b", "c"], "d/", "e/", ["f"]]
    assert [entry for entry in entries(page, "d/x") if isinstance(entry, str)] == ["d/", "e/"]
    assert [keys_of(entry) for entry in entries(page, "b") if not isinstance(entry, str)] == [["c"], ["f"]]


def keys_of(page: ListPage) -> list[str]:
    return [meta.key for meta in page.objects]
