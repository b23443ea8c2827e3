"""Listings of large folders: several of them at once, in the order of a listing of all.

Theory of operation. A store lists one page after the other, as each page's token is in the one before. But what lies in
folders can be asked for folder by folder, at once: their names come from a listing with the delimiter `/`, and they are
handed over in order, so the pages come as if all had been listed in one go. Each folder is listed so in turn.

That is worth it where folders are large; of small ones a page has many. So the first page decides
(:func:`has_large_folders`), and what is found: where folders turn out small, the rest is listed in one go, from the
last key on. For that, a store has to list from any key on without reading all before it
(:attr:`.stores.store.ObjectStore.lists_from_keys`).

Ownership: a system task lists, at most :data:`_AT_ONCE` folders ahead of the consumer, and two pages of each; it ends
with the generator. What fails in a folder is raised when all before that was handed over. Cancellation of the consumer
closes the generator.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

import trio

from .model import ListPage, ObjectColumns
from .observers import span_ended
from .siblings import sibling_tasks
from .stores.store import Ahead, ObjectStore

_AT_ONCE = 8
_FEW = 4
"""Folders in a page of which all lies in folders; with more in it, they are small."""
_SMALL = 128
"""Keys."""
_JUDGED = 32
"""Folders, before they are found small."""

_Pages = trio.MemoryReceiveChannel[ListPage | None]


def has_large_folders(page: ListPage, prefix: str) -> bool:
    """Whether the listing of `prefix` goes on after `page`, its first, whose keys are all in few folders."""
    if page.token is None:
        return False
    keys = ObjectColumns.of(page.objects).columns["key"]
    folders = {key[: key.find("/", len(prefix)) + 1] for key in keys}
    return "" not in folders and 0 < len(folders) <= _FEW


def entries(page: ListPage, after: str) -> Iterator[ListPage | str]:
    """What is on a page of a listing with the delimiter, in order: objects after the key `after`, and folders with any.

    All folders that may have such objects are among these.
    """
    objects = ObjectColumns.of(page.objects).where(lambda key: key > after)
    keys, start = objects.columns["key"], 0
    for folder in page.prefixes:
        end = bisect_left(keys, folder, start)
        if end > start:
            yield ListPage(objects[start:end])
        if folder > after or after.startswith(folder):
            yield folder
        start = end
    if start < len(keys):
        yield ListPage(objects[start:])


async def list_folders(store: ObjectStore, prefix: str, after: str) -> AsyncGenerator[ListPage]:
    """The pages of what starts with `prefix` and comes after the key `after`. Errors: `StoreError`."""
    listing = _Folders(store, prefix, after)
    ahead, begun = Ahead(listing.run), time.monotonic()
    try:
        async for folder in listing.found:
            whole = False
            async for page in folder:
                if page is None:
                    whole = True
                    break
                after = page.objects[-1].key
                span_ended("list", begun)
                yield page
                begun = time.monotonic()
            if not whole:
                break
        await ahead.result()
    finally:
        await ahead.aclose()
    if listing.are_small:
        async with aclosing(store.list(prefix, start_after=after)) as rest:
            async for page in rest:
                yield page


class _Folders:
    """What lists the folders below `prefix`: `found` are their pages, which end with a `None` where they are whole."""

    def __init__(self, store: ObjectStore, prefix: str, after: str) -> None:
        self._store = store
        self._prefix = prefix
        self._after = after
        self._send, self.found = trio.open_memory_channel[_Pages](_AT_ONCE)
        self._listed = self._keys = 0

    @property
    def are_small(self) -> bool:
        """Whether folder by folder is no way to list them."""
        return self._listed >= _JUDGED and self._keys < _SMALL * self._listed

    async def run(self) -> None:
        """List them. Errors: `StoreError`."""
        names = self._store.list(self._prefix, delimiter="/")
        async with self._send, aclosing(names) as pages, sibling_tasks() as nursery:
            async for page in pages:
                for entry in entries(page, self._after):
                    if self.are_small:
                        return
                    send, receive = trio.open_memory_channel[ListPage | None](1)
                    await self._send.send(receive)
                    nursery.start_soon(self._hand_over, entry, send)

    async def _hand_over(self, entry: ListPage | str, send: trio.MemorySendChannel[ListPage | None]) -> None:
        async with send:
            if isinstance(entry, ListPage):
                await send.send(entry)
            else:
                await self._list(entry, send)
            await send.send(None)

    async def _list(self, folder: str, send: trio.MemorySendChannel[ListPage | None]) -> None:
        after, keys = self._after if self._after.startswith(folder) else "", 0
        async with aclosing(self._store.list(folder, start_after=after)) as pages:
            async for page in pages:
                if page.objects:
                    await send.send(page)
                keys += len(page.objects)
        self._listed, self._keys = self._listed + 1, self._keys + keys
