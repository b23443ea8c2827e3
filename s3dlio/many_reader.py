"""Many whole objects in the order that they are asked for: while one is looked at, the next ones are on their way.

Theory of operation. The consumer's task draws keys, as they may be made by a generator of theirs, and gives them to a
:class:`.fetcher.Fetcher`, which works in the nursery of :meth:`.transfer.ParallelStore.get_many`; as many as may be
under way are asked for at once, and more when half of them were taken, or when one has to be waited for. What was
fetched lies in a dictionary until its turn.

Failure: an object that failed is told when it would be handed over; whoever goes on then gets the next one.
Cancellation of a call takes nothing from the reader. The end of the block cancels what is under way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import Self

import trio

from .fetcher import MAX_OBJECTS, Fetcher, Outage, Outcome, Wanted, WholeStore
from .model import ObjectMeta

_TURNS = 8


class ManyReader:
    """What :meth:`ParallelStore.get_many` yields: keys of `store`, and what the objects hold, in the order `wanted`.

    For one task at a time.
    """

    def __init__(self, store: WholeStore, wanted: Iterable[str | ObjectMeta]) -> None:
        self._store = store
        self._wanted = iter(wanted)
        self._fetcher = Fetcher(self._finish, lambda settle: settle(), lambda: None)
        self._run = self._fetcher.run
        self._keys: deque[str] = deque()
        self._done: dict[int, Outcome] = {}
        self._position = 0
        self._arrived = trio.Event()
        self._closed = self._receiving = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[str, bytes]:
        """The next key, and all that is in its object.

        Errors: what :meth:`ParallelStore.get` raises for it; then the next call goes on behind it. What the keys'
        generator raises; `trio.ClosedResourceError` after the block; `trio.BusyResourceError` where another task waits.
        """
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving from this reader")
        self._receiving = True
        try:
            await self._give_way()
            return await self._next()
        finally:
            self._receiving = False

    async def _give_way(self) -> None:
        """A checkpoint, whose price, a look at all that has come, is not to be paid for each small object."""
        if self._position % _TURNS:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()

    async def _next(self) -> tuple[str, bytes]:
        if self._closed:
            raise trio.ClosedResourceError("the reader is closed")
        if self._position not in self._done or len(self._keys) <= MAX_OBJECTS // 2:
            self._ask()
        if not self._keys:
            raise StopAsyncIteration
        await self._wait()
        return self._take()

    def _ask(self) -> None:
        """Have as many under way as may be."""
        new = list(islice(self._wanted, MAX_OBJECTS - len(self._keys)))
        if new:
            first = self._position + len(self._keys)
            wants = [_want(self._store, each) for each in new]
            self._keys.extend(want.key for want in wants)
            self._fetcher.accept(list(enumerate(wants, first)))

    async def _wait(self) -> None:
        room = self._fetcher.room
        room.wanted = self._position
        room.poke()
        while self._position not in self._done:
            self._arrived = trio.Event()
            await self._arrived.wait()

    def _take(self) -> tuple[str, bytes]:
        position, key, outcome = self._position, self._keys.popleft(), self._done.pop(self._position)
        self._position += 1
        self._fetcher.room.give_back(position)
        if isinstance(outcome, bytes):
            return key, outcome
        raise outcome.error if isinstance(outcome, Outage) else outcome

    def _finish(self, position: int, outcome: Outcome) -> None:
        self._done[position] = outcome
        if position == self._position:
            self._arrived.set()
        if not isinstance(outcome, bytes):
            self._fetcher.room.give_back(position)

    def close(self) -> None:
        """Hand over nothing more; what is under way ends with the block."""
        self._closed = True
        self._done.clear()


def _want(store: WholeStore, wanted: str | ObjectMeta) -> Wanted:
    return Wanted(store, wanted) if isinstance(wanted, str) else Wanted(store, wanted.key, wanted)
