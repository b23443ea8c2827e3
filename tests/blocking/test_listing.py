"""Listing in blocking calls: a page ahead, none left behind, also across a fork."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import trio
import trio.testing

import s3dlio
from s3dlio.blocking.portal import portal
from s3dlio.blocking.store import BlockingStore
from s3dlio.config import Config
from s3dlio.model import ListOptions, ListPage
from s3dlio.spans import list_in_spans
from s3dlio.stores import LocalStore
from s3dlio.urls import parse_uri

from ..places import Place

KEYS = [f"{number:04}" for number in range(2500)]


@pytest.fixture
def pages(tmp_path: Path) -> Generator[ListPage]:
    for key in KEYS:
        (tmp_path / key).touch()
    store = BlockingStore(parse_uri(f"file://{tmp_path}"), Config())
    return cast("Generator[ListPage]", store.list_pages())


def keys_in(pages: Generator[ListPage]) -> list[str]:
    return [meta.key for page in pages for meta in page.objects]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """The pages that were asked for, by the names after which they begin. All but the first wait for ever."""
    tokens: list[str | None] = []
    real = LocalStore.list_page

    async def noted(store: LocalStore, prefix: str = "", options: ListOptions = ListOptions()) -> ListPage:
        tokens.append(options.token and options.token.rpartition("/")[2])
        if options.token is not None:
            try:
                await trio.sleep_forever()
            finally:
                tokens.append("cancelled")
        return await real(store, prefix, options)

    monkeypatch.setattr(LocalStore, "list_page", noted)
    return tokens


def test_all_pages_come_in_order(pages: Generator[ListPage]) -> None:
    assert keys_in(pages) == KEYS


def test_the_next_page_is_asked_for_ahead_and_cancelled_with_its_consumer(
    asked: list[str | None], pages: Generator[ListPage]
) -> None:
    assert len(next(pages).objects) == 1000
    portal().call(trio.testing.wait_all_tasks_blocked)
    assert asked == [None, "0999"]
    pages.close()
    portal().call(trio.testing.wait_all_tasks_blocked)
    assert asked == [None, "0999", "cancelled"]


def goes_on_in_both(pages: Generator[ListPage], expected: list[str], seen: int = 0) -> None:
    seen += len(next(pages).objects)
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if keys_in(pages) == expected[seen:] else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert keys_in(pages) == expected[seen:]


def test_a_forked_child_goes_on_by_itself(pages: Generator[ListPage]) -> None:
    goes_on_in_both(pages, KEYS)


def test_a_forked_child_goes_on_with_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalStore, "lists_from_keys", True)
    keys = [f"{folder}/{number:04}" for folder in "abc" for number in range(1100)]
    for key in keys:
        (tmp_path / key).parent.mkdir(exist_ok=True)
        (tmp_path / key).touch()
    store = BlockingStore(parse_uri(f"file://{tmp_path}"), Config())
    goes_on_in_both(cast("Generator[ListPage]", store.list_pages()), keys)


def test_a_forked_child_goes_on_with_a_divided_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = LocalStore.list_page
    monkeypatch.setattr(LocalStore, "lists_from_keys", True)
    monkeypatch.setattr(LocalStore, "list_page", lambda store, prefix, options: real(store, prefix, _short(options)))
    for key in KEYS[:700]:
        (tmp_path / key).touch()
    store = BlockingStore(parse_uri(f"file://{tmp_path}"), Config())
    pages, seen, divided = cast("Generator[ListPage]", store.list_pages()), 0, False
    while seen < 400 or not divided:
        page = next(pages)
        seen, divided = seen + len(page.objects), page.token is None
    goes_on_in_both(pages, KEYS[:700], seen)


def _short(options: ListOptions) -> ListOptions:
    return replace(options, limit=10)


@pytest.mark.parametrize("place", ["s3", "gs"], indirect=True)
def test_long_listings_of_servers(place: Place, environment: None) -> None:
    """Divided, they are what they are in one chain: these services begin at keys that are not there."""
    keys = [f"long/{number:04}.jpg" for number in range(300)]
    s3dlio.put_many({f"{place.root}/{key}": b"" for key in keys}, progress=False)

    async def main() -> list[str]:
        async with s3dlio.open_store(place.root) as store:
            first, options = await store.list_page("long/", ListOptions(limit=5)), ListOptions(limit=5)
            async with aclosing(list_in_spans(store, "long/", options, first)) as pages:
                found = [page async for page in pages]
        assert sum(page.token is None for page in found) > 10
        return [meta.key for page in found for meta in page.objects]

    assert trio.run(main) == keys


@pytest.mark.parametrize("place", ["s3", "gs"], indirect=True)
def test_large_folders_of_servers(place: Place, environment: None) -> None:
    """And a listing with the delimiter begins after a key, as these services say."""
    keys = [f"tree/{folder}/{number:04}" for folder in "abc" for number in range(400)]
    s3dlio.put_many({f"{place.root}/{key}": b"" for key in [*keys, "tree/z"]}, progress=False)
    assert [meta.key for meta in s3dlio.list(f"{place.root}/tree/")] == [*keys, "tree/z"]


def test_a_listing_is_gone_through_anew_and_kept_when_it_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").touch()
    asked = 0
    real = LocalStore.list_page

    async def counted(store: LocalStore, prefix: str = "", options: ListOptions = ListOptions()) -> ListPage:
        nonlocal asked
        asked += 1
        return await real(store, prefix, options)

    monkeypatch.setattr(LocalStore, "list_page", counted)
    listing = s3dlio.list(f"file://{tmp_path}/")
    assert asked == 0
    assert [meta.key for meta in listing] == [meta.key for meta in listing] == ["a"]
    assert asked == 2
    (tmp_path / "b").touch()
    assert (len(listing), listing[1].key) == (2, "b")
    assert "2 objects" in repr(listing)
    (tmp_path / "c").touch()
    assert [meta.key for meta in listing] == ["a", "b"]
    assert asked == 3
