"""The loop's side of reading ahead: wants come in, outcomes go out, both several at a time.

Theory of operation. Small objects of one HTTP store are read by one task, its lane, in batches
(:mod:`.transport.batch`). It asks for as many as are worth having under way at once, and hands over what has come
whenever it wakes. Every other object has a worker, a task that reads one at a time: a large object, one for which there
was no room, or no connection yet, and one whose answer is not plain. So workers open the connections that lanes use.

How many small objects are worth having under way depends on how far away the server is: as many as it could answer
while one request goes there and back.

Memory. What is taken in bytes is bounded by :class:`Room`: a body has its room before it is asked for. One of unknown
size counts as much as the largest that was seen, or as a part; where the head of its answer tells that it is larger
than a part, the rest of it may have to wait for room.

Ownership: the reading-ahead owns its prefetcher, which ends with it. Cancellation: :meth:`Prefetcher.close` cancels all
that is under way.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import NamedTuple

import trio

from ..config import Config
from ..errors import OUTAGES, StoreError
from ..model import ObjectMeta
from ..observers import caused_by
from ..stores.http import HttpStore
from ..transport.batch import Batch, Reply
from .portal import LOOK_UP, BlockingPortal, CancelledError, hold_if_ending
from .store import BlockingStore

MAX_OBJECTS = 128
_SMALL = 256 << 10
"""Bytes of the largest object that is asked for in a batch: its answer has to fit into a connection's buffer."""

_FEW = 32
_ANSWERED_A_SECOND = 6000
_WAKE_OBJECTS = 8
_WAKE_BYTES = 1 << 20


def read_ahead_limit(config: Config) -> int:
    """Most bytes that one sequence of reads has under way or fetched, ahead of its consumer.

    That is half of `memory_limit`, so that two of them can be open: the next pass begins before the last has gone.
    """
    return config.memory_limit // 2


def worthwhile(quickest: float) -> int:
    """How many small objects to have under way, where the quickest answer took so many seconds."""
    return math.ceil(min(max(quickest * _ANSWERED_A_SECOND, _FEW), MAX_OBJECTS))


@dataclass(frozen=True, slots=True)
class Want:
    """One object to come: `key` of `store`. `meta`, from a listing, tells its size."""

    store: BlockingStore
    key: str
    meta: ObjectMeta | None = None

    @property
    def cost(self) -> int:
        """Bytes to reckon with; those of a part where the size is unknown."""
        return self.meta.size if self.meta is not None else self.store.config.part_size

    def read(self) -> bytes:
        """The body, fetched now. Errors: `StoreError`."""
        return self.store.get(self.key, known=self.meta)


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
    `on_full` is called when somebody has to wait.
    """

    def __init__(self, portal: BlockingPortal, on_full: Callable[[], None]) -> None:
        self.wanted: int | None = None
        self._portal = portal
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
            self._portal.soon(self._settle)

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
    want: Want
    since: float


class _Lane:
    """The small objects of `store` that are wanted, and those that are under way."""

    def __init__(self, store: HttpStore) -> None:
        self.store = store
        self.queue: deque[tuple[int, Want]] = deque()
        self.batch: Batch[_Known] = Batch()
        self.quickest = math.inf
        self.working = False

    @property
    def width(self) -> int:
        """How many to have under way."""
        return min(worthwhile(self.quickest), self.store.config.connections)

    async def ask(self, coming: list[tuple[int, Want]]) -> int:
        """Ask for the first of `coming`; for how many."""
        now = trio.current_time()
        wanted = [
            (_Known(position, want, now), want.key, want.meta.size if want.meta else 0) for position, want in coming
        ]
        return await self.store.ask(self.batch, wanted)

    async def replies(self) -> list[Reply[_Known]]:
        """What has come, when something has, or more is wanted."""
        replies = await self.batch.answers()
        if replies:
            self.quickest = min(self.quickest, trio.current_time() - replies[0].name.since)
        return replies


class Prefetcher:
    """The loop's side. `done` holds outcomes by position; `wake` gets an item when the one waited for is there.

    To wake a thread, and to be woken, costs as much as a small object. So the consumer is woken for eight small bodies,
    or for a mebibyte, or when nothing more is under way or can be before they take it. `learnt` is the size in bytes of
    an object like those to come, if one was seen.
    """

    def __init__(self, portal: BlockingPortal, learnt: int | None = None) -> None:
        self.done: dict[int, Outcome] = {}
        self.wake: SimpleQueue[None] = SimpleQueue()
        self.room = Room(portal, self._on_full)
        self._portal = portal
        self._learnt = learnt
        self._queue: deque[tuple[int, Want, Reply[_Known] | None]] = deque()
        self._lanes: dict[BlockingStore, _Lane] = {}
        self._workers = self._newcomers = 0
        self._unfinished = 0
        self._ready = 0
        self._dropped: set[int] = set()
        self._closed = False
        self._nursery: trio.Nursery | None = None
        self._job = portal.start_task_soon(self._serve)

    async def _serve(self) -> None:
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
            self._closed = True  # before waking: who is woken looks at it
            self.wake.put(None)

    def submit(self, wants: list[tuple[int, Want]]) -> None:
        """From the consumer's thread: fetch these, in this order."""
        self._portal.soon(self._accept, wants)

    def _accept(self, wants: list[tuple[int, Want]]) -> None:
        store, lane = None, None
        for position, want in wants:
            if want.store is not store:
                store, lane = want.store, self._lane_of(want.store)
            if lane is not None and self._cost(want) <= min(_SMALL, want.store.config.part_size):
                lane.queue.append((position, want))
            else:
                self._queue.append((position, want, None))
        self._unfinished += len(wants)
        self._hire()

    def _lane_of(self, store: BlockingStore) -> _Lane | None:
        """The lane of a store that batches; opened as it is now, since credentials may have changed."""
        try:
            inner = store.opened(self._portal).inner
        except StoreError:  # who asks for one object meets it again
            return None
        if not isinstance(inner, HttpStore) or not inner.batches:
            return None
        lane = self._lanes.get(store)
        if lane is None or lane.store is not inner:
            lane = self._lanes[store] = _Lane(inner)
        return lane

    def _cost(self, want: Want) -> int:
        """Bytes to reckon with."""
        return want.cost if want.meta is not None or self._learnt is None else self._learnt

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
        rest = coming[asked:]
        hands = max(lane.width - len(lane.batch) - self._workers, 0)
        self._queue.extend((position, want, None) for position, want in rest[:hands])
        lane.queue.extendleft(reversed(rest[hands:]))
        self._hire_workers()

    def _with_room(self, lane: _Lane, most: int) -> list[tuple[int, Want]]:
        """The first `most` in the queue; a worker waits for room for those that there is none for."""
        coming: list[tuple[int, Want]] = []
        while lane.queue and len(coming) < most:
            position, want = lane.queue.popleft()
            if self.room.take_nowait(position, self._cost(want), limit=read_ahead_limit(want.store.config)):
                coming.append((position, want))
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
            if await lane.store.is_sound(reply.answer):
                self._learn(position, want, len(reply.answer.body))
                self._finish(position, reply.answer.body)
            else:
                self._queue.appendleft((position, want, reply))

    def _learn(self, position: int, want: Want, size: int) -> None:
        if want.meta is None:
            self._learnt = max(size, self._learnt or 0)
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

    async def _fetch(self, position: int, want: Want, reply: Reply[_Known] | None) -> Outcome:
        begun = trio.current_time()
        caused_by(want.key)
        try:
            if reply is not None:
                return await self._go_on(position, want, reply)
            await self.room.take(position, self._cost(want), limit=read_ahead_limit(want.store.config))
            begun = trio.current_time()
            return await self._read(position, want)
        except OUTAGES as error:
            return Outage(error, trio.current_time() - begun)
        except Exception as error:
            return error

    async def _go_on(self, position: int, want: Want, reply: Reply[_Known]) -> bytes:
        """What a lane has asked for, and cannot take."""
        store = want.store.opened(self._portal)
        inner = store.inner if not store.replicas else None
        if (want.meta is not None or reply.answer is not None) and isinstance(inner, HttpStore):
            return await inner.go_on(want.key, reply)
        reply.drop()  # it may be large, and must not come all at once then
        return await self._read(position, want)

    async def _read(self, position: int, want: Want) -> bytes:
        store = want.store.opened(self._portal)
        if want.meta is not None:
            return await store.get(want.key, known=want.meta)
        take = partial(self.room.take, position, limit=read_ahead_limit(want.store.config))
        body = await store.get(want.key, admit=take)
        self._learn(position, want, len(body))
        return body

    def drop(self, position: int) -> None:
        """From the consumer's thread: nobody will come for this one."""
        self._dropped.add(position)  # before looking whether it is there: see `_finish`
        if self.done.pop(position, None) is not None:
            self._dropped.discard(position)
            self.room.give_back(position)

    def _finish(self, position: int, outcome: Outcome) -> None:
        self._unfinished -= 1
        # Stored, then looked whether it was dropped; `drop` notes, then looks whether it is there. So whichever of the
        # two threads is later sees what the other did, and no body stays that nobody comes for.
        self.done[position] = outcome
        if position in self._dropped:
            self._dropped.discard(position)
            self.done.pop(position, None)
        if position not in self.done or not isinstance(outcome, bytes):
            self.room.give_back(position)
        self._ready += max(len(outcome), _WAKE_BYTES // _WAKE_OBJECTS) if isinstance(outcome, bytes) else _WAKE_BYTES
        self._wake_if_due()

    def _on_full(self) -> None:
        """A worker waits for room, maybe the last one that did anything: a lane that counted on it has to go on."""
        self._hire()
        self._wake_if_due()

    def _wake_if_due(self) -> None:
        due = not self._unfinished or self._ready >= _WAKE_BYTES or self.room.full
        if due and self.room.wanted in self.done:
            self._ready, self.room.wanted = 0, None  # before waking: who is woken says anew what is waited for
            self.wake.put(None)

    def take(self, position: int) -> Outcome:
        """From the consumer's thread: the outcome of a submitted position, when it is there."""
        while True:
            self.room.wanted = position  # before looking: what is stored just after the look must find it, to wake us
            outcome = self.done.pop(position, None)
            if outcome is not None:
                self.room.wanted = None
                self.room.give_back(position)
                return outcome
            if self._closed:
                hold_if_ending()
                return CancelledError("reading ahead was closed while a body was waited for")
            self.room.poke()
            with suppress(Empty):
                self.wake.get(timeout=LOOK_UP)

    def close(self) -> None:
        """Cancel what is under way."""
        self._job.cancel()
