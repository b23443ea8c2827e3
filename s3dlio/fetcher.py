"""Whole objects, many at once: wants come in, outcomes go out, each by its position. Data sets, `get_many` and
:meth:`.transfer.ParallelStore.get_many` are fetched so.

Theory of operation. Small objects of one HTTP store are read by one task, its lane, in batches
(:mod:`.transport.batch`). It asks for as many as are worth having under way at once, and hands over what has come
whenever it wakes. Every other object has a worker, a task that reads one at a time: a large object, one for which there
was no room, or no connection yet, and one whose answer is not plain. So workers open the connections that lanes use.

How many small objects are worth having under way depends on how far away the server is: as many as it could answer
while one request goes there and back.

Memory. What is taken in bytes is bounded by :class:`Room`: a body has its room before it is asked for. One of unknown
size counts as much as the largest that was seen, by this fetcher or by the last one of its store, or as a part; where
the head of its answer tells that it is larger than a part, the rest of it may have to wait for room.

Ownership: a fetcher is its consumer's, and works as long as :meth:`Fetcher.run` does. Cancellation: that ends all that
is under way.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol
from weakref import WeakKeyDictionary

import trio

from .errors import OUTAGES
from .model import ObjectMeta
from .observers import caused_by
from .stores.http import HttpStore
from .stores.store import ObjectStore
from .stores.wrapper import PrefixStore
from .transport.batch import Batch, Reply
from .transport.connection import Answer
from .versions import check_size, pin_of

MAX_OBJECTS = 128
_SMALL = 256 << 10
"""Bytes of the largest object that is asked for in a batch: its answer has to fit into a connection's buffer."""

_FEW = 32
_ANSWERED_A_SECOND = 6000


def read_ahead_limit(memory_limit: int) -> int:
    """Most bytes that one sequence of reads has under way or fetched, ahead of its consumer.

    That is half of `memory_limit`, so that two of them can be open: the next pass begins before the last has gone.
    """
    return memory_limit // 2


def worthwhile(quickest: float) -> int:
    """How many small objects to have under way, where the quickest answer took so many seconds."""
    return math.ceil(min(max(quickest * _ANSWERED_A_SECOND, _FEW), MAX_OBJECTS))


class WholeStore(Protocol):
    """A store that whole objects are read of: :class:`.transfer.ParallelStore`."""

    part_size: int
    memory_limit: int
    learnt: int | None
    """How large its objects were, at most, that were fetched last, in bytes."""

    @property
    def uri(self) -> str:
        """The root of the keys."""

    @property
    def inner(self) -> ObjectStore:
        """What its requests are made by."""

    @property
    def replicas(self) -> Sequence[object]:
        """Those that may be asked instead."""

    async def get(
        self,
        key: str,
        *,
        known: ObjectMeta | None = None,
        if_match: str | None = None,
        admit: Callable[[int], Awaitable[None]] | None = None,
    ) -> bytes:
        """The whole object `key`."""


class Wanted(NamedTuple):
    """One object to come: `key` of `store`. `meta`, from a listing, tells its size.

    With `held`, only the object that `meta` tells of is meant: another one is an `ObjectChangedError`.
    """

    store: WholeStore
    key: str
    meta: ObjectMeta | None = None
    held: bool = False

    @property
    def pin(self) -> str | None:
        """The etag that is asked for, if only one will do."""
        return pin_of(self.meta) if self.held and self.meta is not None else None

    def checked(self, body: bytes) -> bytes:
        """`body`, which was asked for by its etag where it has one. Errors: `ObjectChangedError`."""
        if self.held and self.meta is not None:
            check_size(self.meta, len(body), self.store.uri.partition("://")[2])
        return body

    def fits(self, store: HttpStore, answer: Answer) -> bool:
        """Whether `answer`, of the `store`, is the object that is meant, which was asked for without its etag."""
        if not self.held or self.meta is None:
            return True
        return len(answer.body) == self.meta.size and (self.pin is None or store.is_of(answer, self.pin))


class Outage(NamedTuple):
    """What could not be read ahead, as the server was out: the error, and for how many seconds it was tried."""

    error: Exception
    tried: float

    def bears_another_try(self, waited: float) -> bool:
        """Whether who has waited for it for `waited` seconds should try again: they had little of that patience."""
        return waited < self.tried / 2


Outcome = bytes | Exception | Outage


class Room:
    """Bytes for bodies, by position: taken on the loop, given back by the consumer when it takes the body.

    The lowest position comes first. Past the limit goes the one that the consumer waits for, `wanted`, and one alone.
    `on_full` is called when somebody has to wait. `soon` has a function run on the loop, from the consumer's thread.
    """

    def __init__(self, soon: Callable[[Callable[[], None]], None], on_full: Callable[[], None]) -> None:
        self.wanted: int | None = None
        self._soon = soon
        self._on_full = on_full
        self._held: dict[int, int] = {}
        self._total = 0
        self._waiting: dict[int, tuple[int, int, trio.Event]] = {}
        self._returned: deque[int] = deque()

    async def take(self, position: int, size: int, *, limit: int) -> None:
        """Have `size` bytes at `position`, what it has already included, when all together are within `limit`."""
        self._waiting[position] = size, limit, (ready := trio.Event())  # before looking what was given back: see `poke`
        self._settle()
        try:
            if not ready.is_set():
                self._on_full()
                await ready.wait()
        finally:
            self._waiting.pop(position, None)

    def take_nowait(self, position: int, size: int, *, limit: int) -> bool:
        """The same, where it can be had at once and nobody waits for any; whether it was."""
        self._settle()
        if self._waiting or (self._total and self._total + size > limit):
            return False
        self._hold(position, size)
        return True

    def correct(self, position: int, size: int) -> None:
        """On the loop: the body turned out to have `size` bytes."""
        self._hold(position, size)
        self._settle()

    @property
    def full(self) -> bool:
        """Whether somebody waits for room."""
        return bool(self._waiting)

    def give_back(self, position: int) -> None:
        """From any thread; also again, and for a position that has nothing."""
        self._returned.append(position)
        self.poke()

    def poke(self) -> None:
        """From any thread: something has changed. The loop is not woken where nobody waits."""
        if self._waiting:
            self._soon(self._settle)

    def _settle(self) -> None:
        while self._returned:
            self._hold(self._returned.popleft(), 0)
        while self._waiting:
            wanted = self.wanted
            position = wanted if wanted is not None and wanted in self._waiting else min(self._waiting)
            size, limit, ready = self._waiting[position]
            others = self._total - self._held.get(position, 0)
            if position != wanted and others and others + size > limit:
                return
            del self._waiting[position]
            self._hold(position, size)
            ready.set()

    def _hold(self, position: int, size: int) -> None:
        self._total += size - self._held.pop(position, 0)
        if size:
            self._held[position] = size


class _Known(NamedTuple):
    """What a lane calls a request: its place, its object, and when it was asked, by Trio's clock."""

    position: int
    want: Wanted
    since: float


class _Lane:
    """The small objects of `store` that are wanted, and those that are under way; `prefix` goes before their keys."""

    def __init__(self, store: HttpStore, prefix: str) -> None:
        self.store = store
        self._prefix = prefix
        self.queue: deque[tuple[int, Wanted]] = deque()
        self.batch: Batch[_Known] = Batch()
        self.quickest = math.inf
        self.working = False

    @property
    def width(self) -> int:
        """How many to have under way."""
        return min(worthwhile(self.quickest), self.store.config.connections)

    async def ask(self, coming: list[tuple[int, Wanted, int]]) -> int:
        """Ask for the first of `coming`, each with its size in bytes, which may be a guess; for how many."""
        now, prefix = trio.current_time(), self._prefix
        wanted = [
            (_Known(position, want, now), prefix + want.key if want.key else "", size)
            for position, want, size in coming
        ]
        return await self.store.ask(self.batch, wanted)

    async def replies(self) -> list[Reply[_Known]]:
        """What has come, when something has, or more is wanted."""
        replies = await self.batch.answers()
        if replies:
            self.quickest = min(self.quickest, trio.current_time() - replies[0].name.since)
        return replies


def _behind(store: WholeStore) -> tuple[HttpStore, str] | None:
    """What can be asked in batches for objects of `store`, and the prefix of their keys there; if there is such."""
    inner, prefix = store.inner, ""
    if isinstance(inner, PrefixStore):
        prefix, inner = inner.prefix, inner.inner
    return (inner, prefix) if isinstance(inner, HttpStore) else None


class Fetcher:
    """Fetches what it is given. `finish` is called with each outcome, for which room is held if it is a body.

    `full` is called when somebody has to wait for room; `soon` is as in :class:`Room`. `learnt` is the size in bytes of
    an object like those to come, if one was seen.
    """

    def __init__(
        self,
        finish: Callable[[int, Outcome], None],
        soon: Callable[[Callable[[], None]], None],
        full: Callable[[], None],
        learnt: int | None = None,
    ) -> None:
        self.room = Room(soon, self._on_full)
        self._finish = finish
        self._full = full
        self._learnt = learnt
        self._queue: deque[tuple[int, Wanted, Reply[_Known] | None]] = deque()
        self._lanes: WeakKeyDictionary[WholeStore, _Lane] = WeakKeyDictionary()
        self._workers = self._newcomers = 0
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Work, until it is cancelled."""
        try:
            async with trio.open_nursery() as self._nursery:
                try:
                    self._hire()
                    await trio.sleep_forever()
                finally:
                    self._nursery = None  # it closes with its last worker, which may be before it is left
        finally:
            for _, _, reply in self._queue:
                if reply is not None:
                    reply.drop()

    def accept(self, wants: Sequence[tuple[int, Wanted]]) -> None:
        """Fetch these, in this order."""
        store, lane = None, None
        for position, want in wants:
            if want.store is not store:
                store, lane = want.store, self._lane_of(want.store)
            if lane is not None and self._cost(want) <= min(_SMALL, want.store.part_size):
                lane.queue.append((position, want))
            else:
                self._queue.append((position, want, None))
        self._hire()

    def _lane_of(self, store: WholeStore) -> _Lane | None:
        """The lane of a store that batches."""
        behind = _behind(store)
        if behind is None or not behind[0].batches:
            return None
        lane = self._lanes.get(store)
        if lane is None:
            lane = self._lanes[store] = _Lane(*behind)
        return lane

    def _cost(self, want: Wanted) -> int:
        """Bytes to reckon with; those of a part where the size is unknown, and none like it was seen."""
        if want.meta is not None:
            return want.meta.size
        learnt = want.store.learnt if self._learnt is None else self._learnt
        return want.store.part_size if learnt is None else learnt

    def _hire(self) -> None:
        """Have somebody look at what is wanted."""
        self._hire_workers()
        for lane in self._lanes.values():
            if lane.working:
                lane.batch.interrupt()
            elif lane.queue and self._nursery is not None:
                lane.working = True
                self._nursery.start_soon(self._work_off, lane)

    def _hire_workers(self) -> None:
        """One for each want in the queue: all others may wait for room that only its consumer can give back."""
        while self._nursery is not None and self._newcomers < len(self._queue):
            self._workers += 1
            self._newcomers += 1
            self._nursery.start_soon(self._work)

    async def _work_off(self, lane: _Lane) -> None:
        try:
            await self._ask(lane)
            while len(lane.batch):
                await self._take_replies(lane, await lane.replies())
                await self._ask(lane)
        finally:
            lane.working = False
            await lane.batch.close()

    async def _ask(self, lane: _Lane) -> None:
        """Ask for what can be asked for, and have workers do it, and open connections, where there could be more."""
        coming = self._with_room(lane, lane.width - len(lane.batch))
        asked = await lane.ask(coming) if coming else 0
        rest = [(position, want) for position, want, _ in coming[asked:]]
        hands = max(lane.width - len(lane.batch) - self._workers, 0)
        self._queue.extend((position, want, None) for position, want in rest[:hands])
        lane.queue.extendleft(reversed(rest[hands:]))
        self._hire_workers()

    def _with_room(self, lane: _Lane, most: int) -> list[tuple[int, Wanted, int]]:
        """The first `most` in the queue, and their sizes; a worker waits for room for those that there is none for."""
        coming: list[tuple[int, Wanted, int]] = []
        while lane.queue and len(coming) < most:
            position, want = lane.queue.popleft()
            size = self._cost(want)
            if self.room.take_nowait(position, size, limit=read_ahead_limit(want.store.memory_limit)):
                coming.append((position, want, size))
            else:
                self._queue.append((position, want, None))
        return coming

    async def _take_replies(self, lane: _Lane, replies: list[Reply[_Known]]) -> None:
        """Those with a connection go where it is closed at the end, before a checksum may have to be waited for."""
        self._queue.extendleft((*reply.name[:2], reply) for reply in replies if reply.answer is None)
        for reply in replies:
            position, want, _ = reply.name
            if reply.answer is None:
                continue
            if want.fits(lane.store, reply.answer) and await lane.store.is_sound(reply.answer):
                self._learn(position, want, len(reply.answer.body))
                self._finish(position, reply.answer.body)
            else:
                self._queue.appendleft((position, want, reply))

    def _learn(self, position: int, want: Wanted, size: int) -> None:
        if want.meta is None:
            self._learnt = want.store.learnt = max(size, self._learnt or 0)
            self.room.correct(position, size)

    async def _work(self) -> None:
        self._newcomers -= 1
        try:
            while self._queue:
                position, want, reply = self._queue.popleft()
                self._finish(position, await self._fetch(position, want, reply))
        finally:
            self._workers -= 1
            self._hire()  # there is a connection now that a lane may use

    async def _fetch(self, position: int, want: Wanted, reply: Reply[_Known] | None) -> Outcome:
        begun = trio.current_time()
        caused_by(want.key)
        try:
            if reply is not None:
                return want.checked(await self._go_on(position, want, reply))
            await self.room.take(position, self._cost(want), limit=read_ahead_limit(want.store.memory_limit))
            begun = trio.current_time()
            return want.checked(await self._read(position, want))
        except OUTAGES as error:
            return Outage(error, trio.current_time() - begun)
        except Exception as error:
            return error

    async def _go_on(self, position: int, want: Wanted, reply: Reply[_Known]) -> bytes:
        """What a lane has asked for, and cannot take."""
        behind = _behind(want.store) if not want.store.replicas else None
        if (want.meta is not None or reply.answer is not None) and behind is not None:
            store, prefix = behind
            return await store.go_on(prefix + want.key, reply, if_match=want.pin)
        reply.drop()  # it may be large, and must not come all at once then
        return await self._read(position, want)

    async def _read(self, position: int, want: Wanted) -> bytes:
        if want.meta is not None:
            return await want.store.get(want.key, known=want.meta, if_match=want.pin)
        take = partial(self.room.take, position, limit=read_ahead_limit(want.store.memory_limit))
        body = await want.store.get(want.key, admit=take)
        self._learn(position, want, len(body))
        return body

    def _on_full(self) -> None:
        """A worker waits for room, maybe the last one that did anything: a lane that counted on it has to go on."""
        self._hire()
        self._full()
