"""One long listing as several spans of it, listed at once, in the order of a listing of all.

Theory of operation. A store lists one page after the other, as each page's token is in the one before. But a listing
can begin after any key, one that is made up, too (:attr:`.stores.store.ObjectStore.lists_from_keys`). So a chain of
pages is divided: from a key on, some pages further, another chain lists. :mod:`.keyspace` guesses at that key.

**Invariant: what is handed over is what one chain would have given.** A chain ends where it sees the first key past the
next span's beginning, and there only if the next span has begun with that very key. Otherwise the server has begun
somewhere else, has ignored where to begin, has refused it, or has changed meanwhile: then the next span is dropped, the
chain goes on through it, and nothing more is divided. So nothing is taken for true that was guessed, neither where keys
lie nor that they are in order.

**When.** A span costs one request more than its pages at most, the one that shows where it ends. While there are fewer
than ten pages for each such request nothing is divided, so short listings are one chain. Nor is anything divided while
the consumer is not waiting: who works on each page has the next one in time.

**Ownership.** A system task has the chains as its children; it ends with the generator. At most :data:`_AT_ONCE` list,
of at most :data:`_KEPT` spans that the consumer has not gone through, :data:`_AHEAD` pages wait of each. The span that
the consumer is at is never held up by others. What fails within a span is raised when all before that was handed over.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import replace

import trio

from .errors import StoreError
from .keyspace import KeySpace, Stretch, may_split, split_at
from .model import ListOptions, ListPage, ObjectColumns
from .observers import span_ended
from .siblings import sibling_tasks
from .stores.store import Ahead, ObjectStore

_AT_ONCE = 8
_KEPT = 16
_AHEAD = 12
_LOOKED_AT = 64
"""Of the keys of a page so many are looked at for their letters."""


async def list_in_spans(
    store: ObjectStore, prefix: str, options: ListOptions, page: ListPage
) -> AsyncGenerator[ListPage]:
    """`page`, which is the one that `options` ask for, without a delimiter, and all that follow. Errors: `StoreError`.

    Pages that follow a token have the next one. Others have none: what comes after them begins after their last key.
    """
    listing = _Listing(store, prefix, options, page)
    ahead = Ahead(listing.run)
    try:
        yield page
        begun = time.monotonic()
        while (coming := await listing.take()) is not None:
            span_ended("list", begun)
            yield coming
            begun = time.monotonic()
        await ahead.result()
    finally:
        await ahead.aclose()


class _Span:
    """What comes after the key `after`, up to where the `next` span begins. `options` ask for its first page."""

    def __init__(self, after: str, options: ListOptions, ahead: int) -> None:
        self.after = after
        self.options: ListOptions | None = options
        self.next: _Span | None = None
        self.scope = trio.CancelScope()
        self.send, self.pages = trio.open_memory_channel[ListPage](ahead)
        self.begun = trio.Event()
        """Set when `first`, its first key, is known, or that it has none."""
        self.first: str | None = None
        self.seen: Stretch | None = None
        self.keys = 0
        self.over = False
        self.failure: StoreError | None = None


def _passing(keys: Sequence[str], after: str) -> int | None:
    """Which of `keys` is the first past `after`."""
    return next((place for place, key in enumerate(keys) if key > after), None)


class _Listing:
    def __init__(self, store: ObjectStore, prefix: str, options: ListOptions, page: ListPage) -> None:
        following = options.after(page)
        assert following is not None
        self._store = store
        self._prefix = prefix
        self._options = options
        self._space = KeySpace(prefix)
        self._head = self._by_token = _Span(options.start_after, following, 0)
        self._full = max(1, len(page.objects))
        self._answers = 1
        self._keys = self._spans = 0
        self._divides = True
        self._look_at(self._head, _keys_of(page))

    async def run(self) -> None:
        """List. Errors are the spans' own."""
        async with sibling_tasks() as self._nursery:
            self._nursery.start_soon(self._list, self._head)

    async def take(self) -> ListPage | None:
        """The next page after the first; `None` after the last. Errors: `StoreError`."""
        while True:
            try:
                return await self._head.pages.receive()
            except trio.EndOfChannel:
                if self._head.failure is not None:
                    raise self._head.failure from None
                if self._head.next is None:
                    return None
                self._head = self._head.next

    async def _list(self, span: _Span) -> None:
        with span.send, span.scope:
            try:
                await self._chain(span)
            except StoreError as error:
                span.failure = error
            span.over = True
            span.begun.set()

    async def _chain(self, span: _Span) -> None:
        while span.options is not None:
            try:
                page = await self._store.list_page(self._prefix, span.options)
            finally:
                self._answers += 1
            span.options = span.options.after(page)
            if page.objects and await self._is_last(span, page):
                return
        while span.next is not None:
            self._drop_next(span)

    async def _is_last(self, span: _Span, page: ListPage) -> bool:
        """Hand `page` over, up to where the next span begins, if that is in it."""
        keys = _keys_of(page)
        if span.first is None and keys[0] <= span.after:
            self._divides = False
            return True
        self._look_at(span, keys)
        while (following := span.next) is not None and (end := _passing(keys, following.after)) is not None:
            await following.begun.wait()
            if following.first == keys[end]:
                self._spans -= 1
                self._count(span, end - len(keys))
                if end:
                    await span.send.send(ListPage(page.objects[:end]))
                return True
            self._divides = False
            self._drop_next(span)
        self._divide()
        await span.send.send(page if span is self._by_token else replace(page, token=None))
        return False

    def _look_at(self, span: _Span, keys: Sequence[str]) -> None:
        before = span.seen.last if span.seen else span.after
        self._divides = self._divides and all(map(str.__lt__, (before, *keys), keys))
        self._count(span, len(keys))
        self._space.learn((*keys[:: len(keys) // _LOOKED_AT + 1], keys[-1]))
        span.seen = Stretch(keys[0], keys[-1], len(keys))
        span.first = span.first or keys[0]
        span.begun.set()

    def _count(self, span: _Span, keys: int) -> None:
        span.keys += keys
        self._keys += keys

    def _drop_next(self, span: _Span) -> None:
        dropped = span.next
        assert dropped is not None
        dropped.scope.cancel()
        span.next, dropped.next = dropped.next, None
        self._spans -= 1
        self._keys -= dropped.keys

    def _kept(self) -> Iterator[_Span]:
        span: _Span | None = self._head
        while span is not None:
            yield span
            span = span.next

    def _divide(self) -> None:
        """Begin one more span, where that is worth it: in the first one that is long."""
        spans = [*self._kept()]
        listing = [span for span in spans if not span.over]
        is_wanted = self._divides and self._head.pages.statistics().tasks_waiting_receive
        if not is_wanted or len(spans) >= _KEPT or len(listing) >= _AT_ONCE:
            return
        if not may_split(self._answers, self._keys, self._spans, self._full):
            return
        for span in listing:
            end = span.next.after if span.next else None
            if span.seen and (after := split_at(self._space, span.seen, end, self._full)) is not None:
                self._begin(span, after)
                return

    def _begin(self, span: _Span, after: str) -> None:
        begun = _Span(after, replace(self._options, start_after=after), _AHEAD)
        begun.next, span.next = span.next, begun
        self._spans += 1
        self._nursery.start_soon(self._list, begun)


def _keys_of(page: ListPage) -> Sequence[str]:
    keys: Sequence[str] = ObjectColumns.of(page.objects).columns["key"]
    return keys
