"""Long listings are divided: what comes is what one chain of pages gives, whatever the keys and the server are like."""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from itertools import islice
from random import Random

import pytest
import trio
import trio.testing
from hypothesis import example, given, settings
from hypothesis import strategies as st

from s3dlio.errors import PermissionDeniedError, RequestError
from s3dlio.keyspace import SPAN, KeySpace, Stretch, may_split, split_at
from s3dlio.model import ListOptions, ListPage, ObjectColumns
from s3dlio.spans import list_in_spans
from s3dlio.stores.memory import MemoryStore
from s3dlio.stores.store import ObjectStore
from s3dlio.transfer import ParallelStore

PAGE = 5


class Listed(MemoryStore):
    """Lists `keys` as they are given, by small pages; `begin` says where a listing after a key begins in them."""

    lists_from_keys = True

    def __init__(self, keys: Sequence[str]) -> None:
        super().__init__()
        self.keys = keys
        self.begin: Callable[[str], int] = lambda key: bisect_right(keys, key)
        self.asked: list[ListOptions] = []
        self.under_way = self.most = 0

    async def list_page(self, prefix: str = "", options: ListOptions = ListOptions()) -> ListPage:
        self.asked.append(options)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await trio.sleep(0.1)
            return self._page(prefix, options)
        finally:
            self.under_way -= 1

    def _page(self, prefix: str, options: ListOptions) -> ListPage:
        begin = int(options.token) if options.token else self.begin(options.start_after) if options.start_after else 0
        places = (place for place in range(begin, len(self.keys)) if self.keys[place].startswith(prefix))
        below = [*islice(places, PAGE + 1)]
        keys = [self.keys[place] for place in below[:PAGE]]
        token = str(below[PAGE]) if len(below) > PAGE else None
        return ListPage(ObjectColumns({"key": keys, "size": [1] * len(keys)}), (), token)


def store_of(listed: Listed) -> ParallelStore:
    return ParallelStore(listed, part_size=1 << 20, parts_in_flight=1)


async def all_of(listed: Listed, prefix: str = "", start_after: str = "") -> list[str]:
    async with aclosing(store_of(listed).list(prefix, start_after=start_after)) as pages:
        return [meta.key async for page in pages for meta in page.objects]


async def divided(store: ObjectStore, limit: int = PAGE) -> list[str]:
    """Whether in folders or not."""
    options = ListOptions(limit=limit)
    async with aclosing(list_in_spans(store, "", options, await store.list_page("", options))) as pages:
        return [meta.key async for page in pages for meta in page.objects]


def listing_of(listed: Listed, *args: str, by: Callable[..., Awaitable[list[str]]] = all_of) -> list[str]:
    return trio.run(by, listed, *args, clock=trio.testing.MockClock(autojump_threshold=0))


def numbered(count: int) -> list[str]:
    return [f"train_{number:08}.jpg" for number in range(count)]


def hashed(count: int) -> list[str]:
    return sorted(hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest() for number in range(count))


@st.composite
def keys_alike(draw: st.DrawFn) -> set[str]:
    """Some hundreds of keys that begin alike and are made of the same letters."""
    head = draw(st.sampled_from(["", "a", "b" * 900, "é/", "\U0001f600"]))
    letters = draw(st.sampled_from(["01", "0123456789", "0123456789abcdef", "-/.~a", "aé漢\U0001f600"]))
    random, count = Random(draw(st.integers(0, 99))), draw(st.integers(0, 300))
    if draw(st.booleans()):
        return {f"{head}{number:0{draw(st.sampled_from([1, 4, 12]))}}" for number in range(count)}
    return {head + "".join(random.choices(letters, k=random.randint(1, 12))) for _ in range(count)}


@settings(max_examples=15)
@given(st.lists(keys_alike(), min_size=1, max_size=3), st.sampled_from(["", "b", "é/"]), st.sampled_from(["", "a5"]))
@example([{*numbered(600)}, {*hashed(600)}], "", "")
def test_it_is_the_listing_of_all_and_takes_few_requests_more(
    groups: list[set[str]], prefix: str, start_after: str
) -> None:
    keys = sorted(set().union(*groups))
    expected = [key for key in keys if key.startswith(prefix) and key > start_after]
    listed = Listed(keys)
    assert listing_of(listed, prefix, start_after) == expected
    if "/" not in "".join(expected):
        assert len(listed.asked) <= max(1, -(-len(expected) // PAGE)) * 1.1 + 1


@pytest.mark.parametrize("keys", [numbered(2000), hashed(2000)], ids=["numbered", "hashed"])
def test_several_chains_list_at_once(keys: list[str]) -> None:
    listed = Listed(keys)
    assert listing_of(listed) == keys
    assert listed.most >= 6
    assert len(listed.asked) <= 440


def test_a_short_listing_is_one_chain() -> None:
    listed = Listed(numbered(9 * PAGE))
    assert listing_of(listed) == listed.keys
    assert (listed.most, len(listed.asked)) == (1, 9)


async def test_who_works_on_each_page_has_one_ahead(autojump_clock: object) -> None:
    listed = Listed(numbered(500))
    async with aclosing(store_of(listed).list()) as pages:
        seen = 0
        async for page in pages:
            await trio.sleep(1)
            seen += len(page.objects)
            assert len(listed.asked) <= seen // PAGE + 1
    assert (seen, listed.most) == (500, 1)


async def test_no_more_is_listed_than_is_kept_and_nothing_is_left(autojump_clock: object) -> None:
    listed = Listed(numbered(2500))
    async with aclosing(store_of(listed).list()) as pages:
        for _ in range(200):
            await anext(pages)
        await trio.sleep(100)
        before = len(listed.asked)
        assert 230 < before < 200 + 20 + 16 * 13
        await trio.sleep(100)
        assert (listed.under_way, len(listed.asked)) == (0, before)
        await anext(pages)
    assert listed.under_way == 0


def in_order_of_folders(keys: Sequence[str]) -> list[str]:
    """As a file system lists: `a/b` before `a-b`."""
    return sorted(keys, key=lambda key: key.split("/"))


def refusing(key: str) -> int:
    raise RequestError("no listing begins here")


@pytest.mark.parametrize("kind", ["ignores it", "refuses it", "begins late", "begins early", "ends at once"])
def test_a_server_that_begins_elsewhere_is_listed_in_one_chain(kind: str) -> None:
    listed = Listed(keys := numbered(400))
    places: dict[str, Callable[[str], int]] = {
        "ignores it": lambda key: 0,
        "refuses it": refusing,
        "begins late": lambda key: bisect_right(keys, key) + 1,
        "begins early": lambda key: bisect_left(keys, key) - 1,
        "ends at once": lambda key: len(keys),
    }
    listed.begin = places[kind]
    assert listing_of(listed) == keys
    assert len(listed.asked) <= 80 + 8 * 13


def test_a_server_with_an_order_of_its_own_is_listed_as_it_lists() -> None:
    late = [f"{head}{number:03}" for head in ("u-", "u/", "u0") for number in range(100)]
    keys = in_order_of_folders([*numbered(400), *late])
    assert keys != sorted(keys)
    listed = Listed(keys)
    listed.begin = lambda after: next(
        (place for place, key in enumerate(keys) if key.split("/") > after.split("/")), len(keys)
    )
    assert listing_of(listed, by=divided) == keys
    assert listed.most > 1
    backwards = Listed(numbered(300)[::-1])
    assert listing_of(backwards) == backwards.keys
    assert backwards.most == 1


async def test_objects_that_come_and_go_meanwhile_are_listed_once_or_not_at_all(autojump_clock: object) -> None:
    listed = Listed(keys := numbered(1000))
    seen: list[str] = []
    async with aclosing(store_of(listed).list()) as pages:
        async for page in pages:
            seen += [meta.key for meta in page.objects]
            gone = [key for key in keys[len(seen) + 80 :: 40] if key not in seen][:1]
            listed.keys = [key for key in listed.keys if key not in gone]
            now = listed.keys
            listed.begin = lambda key, now=now: bisect_right(now, key)  # type: ignore[misc]
    assert seen == sorted(set(seen))
    assert {*listed.keys} - {*seen} <= {*keys}


async def test_what_fails_comes_after_what_lies_before_it(autojump_clock: object) -> None:
    listed = Listed(keys := numbered(1000))
    real, found = listed._page, list[str]()

    def broken(prefix: str, options: ListOptions) -> ListPage:
        page = real(prefix, options)
        if keys[700] in page.objects.columns["key"]:  # type: ignore[attr-defined]
            raise PermissionDeniedError("not this one")
        return page

    listed._page = broken  # type: ignore[method-assign]

    async def look() -> None:
        async with aclosing(store_of(listed).list()) as pages:
            async for page in pages:
                found.extend(meta.key for meta in page.objects)

    with pytest.raises(PermissionDeniedError):
        await look()
    assert found == keys[: len(found)]
    assert 690 < len(found) <= 700
    assert listed.under_way == 0


KEYS = st.text("0123456789abé\U0001f600", min_size=1, max_size=6).map("p/".__add__)


@settings(max_examples=40)
@given(st.lists(KEYS, min_size=1), st.lists(KEYS, min_size=1), st.integers(1, 1 << 40))
def test_numbers_are_in_the_order_of_keys(learnt: list[str], keys: list[str], fine: int) -> None:
    space = KeySpace("p/")
    space.learn(learnt)
    numbers = [space.number(key) for key in sorted(keys)]
    assert numbers == sorted(numbers)
    assert max(numbers) <= space.size
    for number in {*map(space.number, learnt)} - {space.size}:
        key = space.key_at(number, fine)
        assert key.startswith("p/")
        assert number - fine < space.number(key) <= number


@settings(max_examples=40)
@given(st.sets(KEYS, min_size=2), st.none() | KEYS)
def test_a_span_begins_between_its_neighbours(keys: set[str], end: str | None) -> None:
    first, *_, last = sorted(keys)
    space = KeySpace("p/")
    space.learn(keys)
    at = split_at(space, Stretch(first, last, len(keys)), end, len(keys))
    assert at is None or (last < at and (end is None or at < end))


def test_where_a_span_begins() -> None:
    space = KeySpace("")
    space.learn(f"n{number:06}" for number in range(100))
    page = Stretch("n000000", "n000099", 100)
    assert split_at(space, page, None, 100) == "n001099"
    assert split_at(space, page, "n001700", 100) == "n000899"  # the middle of what is left
    assert split_at(space, page, "n001500", 100) is None
    assert split_at(space, Stretch("n000099", "n000099", 1), None, 100) is None
    assert len(space.key_at(0, 1)) == 7


def test_the_budget() -> None:
    assert not may_split(9, 900, 0, 100)
    assert may_split(10, 1000, 0, 100)
    assert not may_split(10, 1000, 1, 100)
    assert not may_split(19, 1800, 0, 100)
    assert may_split(2 * SPAN, 2000, 1, 100)
